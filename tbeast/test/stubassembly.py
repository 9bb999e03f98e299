"""A daemon of one port, for the tests of the front door; and a way to run a front end with it in a real process.

Run as a module: C{python -m tbeast.test.stubassembly BEHAVIOUR twistd|twist ARGUMENTS}.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from twisted.application import strports
from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from tbeast.errors import TBeastError
from tbeast.settings import Settings


class Told(Service):
    """Says on standard output when it starts and when it has stopped, which takes it a moment."""

    def __init__(self, reactor: Any, says: str = "started") -> None:
        self._reactor = reactor
        self._says = says

    def startService(self) -> None:
        super().startService()
        self._reactor.callWhenRunning(print, f"stub {self._says}")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return deferLater(self._reactor, 0.05, print, "stub stopped")


class FailsLater(Service):
    def __init__(self, reactor: Any, error: Exception) -> None:
        self._reactor = reactor
        self._error = error

    def startService(self) -> Deferred[None]:
        def fail() -> None:
            raise self._error

        super().startService()
        return deferLater(self._reactor, 0.05, fail)


class Root(MultiService):
    """Unlike its parent, returns what its last child's start returns."""

    def startService(self) -> Any:
        Service.startService(self)
        return [child.startService() for child in self][-1]


def build_with(behaviour: str) -> Any:
    """C{build} as the assembly has it."""

    def build(settings: Settings, *, reactor: Any, now: Any, random: Any, new_id: Any) -> IService:
        assert 0.0 <= random() < 1.0 and len(new_id()) == 32 and now() <= now()
        root = Root()
        Told(reactor).setServiceParent(root)
        if behaviour == "listen":
            strports.service(
                f"tcp:{settings.tcp_port_lpo}:interface=127.0.0.1", Factory.forProtocol(Protocol), reactor
            ).setServiceParent(root)
        elif behaviour == "late":
            port = settings.tcp_port_lpo
            FailsLater(reactor, CannotListenError("", port, OSError(98, "Address in use"))).setServiceParent(root)
        elif behaviour == "known":
            FailsLater(reactor, TBeastError("the asset table is at fault")).setServiceParent(root)
        elif behaviour == "bug":
            FailsLater(reactor, ZeroDivisionError("division by zero")).setServiceParent(root)
        return root

    return build


def main(argv: list[str]) -> None:
    """Put the stub in the assembly's place, and run the front end."""
    behaviour, front, *arguments = argv
    stub = ModuleType("tbeast.assembly")
    stub.build = build_with(behaviour)  # type: ignore[attr-defined]
    sys.modules["tbeast.assembly"] = stub
    sys.argv = [front, *arguments]
    if front == "twistd":
        from twisted.scripts.twistd import run

        run()
    else:
        from twisted.application.twist._twist import Twist

        Twist.main(sys.argv)


if __name__ == "__main__":
    main(sys.argv[1:])
