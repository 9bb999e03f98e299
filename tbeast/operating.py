"""What operators see of a daemon and may do to it, tied together: /admin and the operator's page.

The page looks at everything once a second, whether or not there is an admin key; without one nobody is shown it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from twisted.web.resource import Resource

from tbeast.accounting import Accounting
from tbeast.domain.adminaccess import AdminAccess
from tbeast.domain.counters import Counters
from tbeast.interfaces import Now
from tbeast.servers.admin import admin_page
from tbeast.servers.admindoor import AdminDoor, Entrance
from tbeast.servers.adminpage import Explainer, Watchers, operator_pages
from tbeast.services.clusterstats import ClusterStats
from tbeast.services.feeds import Feeds
from tbeast.services.governor import ConnectionGovernor
from tbeast.services.lifecycle import Called
from tbeast.services.overview import LOOK_SECONDS, About, Overview, Sources
from tbeast.services.periodic import Periodic
from tbeast.settings import Settings

NO_PAGES: Final[Mapping[bytes, Resource]] = MappingProxyType({})


class Operating:
    """The operator's side of one daemon.

    @ivar overview: what the page is told.
    @ivar watchers: those who watch.
    @ivar operator: knows the operator on the pages of reports; C{None}: there is no admin key.
    @ivar pages: what stands on the port of the report surface, by name.
    """

    def __init__(
        self, settings: Settings, reactor: Any, now: Now, counters: Counters, about: About, sources: Sources, *,
        accounting: Accounting, feeds: Feeds, cluster: ClusterStats, governing: ConnectionGovernor,
        explainer: Explainer,
    ) -> None:  # fmt: skip
        """Tie it together; the overview looks at C{sources}, what operators do is done to the others."""
        self.overview = Overview(about, sources, counters, now)
        self.watchers = Watchers(self.overview, reactor)
        self.operator: Entrance | None = None
        self.pages = NO_PAGES
        self._looks = Periodic("overview", self.overview.look, LOOK_SECONDS, reactor, counters, at_once=True)
        if settings.admin_key is None:
            return
        door = AdminDoor(AdminAccess(settings.admin_key, now()), settings.trusted_proxies, now, counters)
        self.operator = door.entrance("reports")
        admin = admin_page(
            door=door, keys=accounting.key_desk, parameters=accounting.parameter_desk, feeds=feeds,
            sync=accounting.sync_desk, cluster=cluster, governor=governing, node=settings.cluster_node, now=now,
        )  # fmt: skip
        own = operator_pages(entrance=door.entrance, watchers=self.watchers, explainer=explainer, now=now)
        for name, page in own.items():
            admin.putChild(name, page)
        self.pages = {b"admin": admin}

    def services(self) -> Iterable[Any]:
        """What starts before the port of the report surface opens."""
        yield self._looks

    def late_services(self) -> Iterable[Any]:
        """What starts after it, so that it stops before: the port cannot close while somebody watches."""
        yield Called("watchers", stop=self.watchers.stop)
