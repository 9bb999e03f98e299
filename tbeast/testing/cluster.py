"""Several daemons, one Valkey and one PostgreSQL, as processes on the loopback address, each kept running.

What dies is started again on the same ports and with the same state: PostgreSQL recovers, a daemon sends what lies in
its journal, and Valkey comes back empty, for nothing of it is kept on disk.

The start: PostgreSQL, then Valkey, then the daemons all at once, each of which serves when its C{/ready} says so. The
stop is the reverse. Every daemon has an exchange lab of its own with the same seed; one lab for all would have to
be set as the exchanges' addresses, and the daemons would take its prices for real ones and not mark them as invented.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.threads import deferToThreadPool

from tbeast.adapters.feeds.rest import HttpFetcher
from tbeast.adapters.store.postgres import connect, target
from tbeast.errors import TBeastError
from tbeast.interfaces import Now
from tbeast.settings import SETTINGS
from tbeast.testing.daemonports import free_ports
from tbeast.testing.postgres import environment
from tbeast.testing.upkeep import Kept
from tbeast.testing.valkey import Server as ValkeyServer
from tbeast.testing.valkey import server_program

DATABASE: Final = "postgresql"
CACHE: Final = "valkey"
MOST_NODES: Final = 9
PORTS_OF_A_NODE: Final = 10
SAME_PORTS: Final[Sequence[Sequence[str]]] = (
    ("TCP_PORT_LPO", "UDP_PORT_LPO"),
    ("HEALTH_PORT_LPO",),
    ("TCP_PORT_LRS", "UDP_PORT_LRS"),
    ("HEALTH_PORT_LRS",),
    ("HEALTH_PORT_WEBHOOK",),
)
"""The ports of a node, one after the other; what stands together has the same number."""


class ClusterError(TBeastError):
    """The cluster cannot be set up."""


@frozen
class Places:
    """Who listens where.

    @ivar valkey: Valkey's port.
    @ivar nodes: for each node the first of its ports, in the order of L{SAME_PORTS}.
    """

    valkey: int
    nodes: Sequence[Sequence[int]]

    @classmethod
    def from_base(cls, base: int, nodes: int) -> Places:
        """Valkey at C{base}, the first node from C{base + 10} on, the next from C{base + 20} on.

        @raise ClusterError: when these are no ports, or too many nodes.
        """
        if not 1 <= nodes <= MOST_NODES:
            raise ClusterError(f"a cluster has 1 to {MOST_NODES} nodes, not {nodes}")
        if not 1024 <= base <= 65_535 - PORTS_OF_A_NODE * (nodes + 1):
            raise ClusterError(f"there is no room for {nodes} nodes above port {base}")
        firsts = [base + PORTS_OF_A_NODE * number for number in range(1, nodes + 1)]
        return cls(base, [[first + place for place in range(len(SAME_PORTS))] for first in firsts])

    @classmethod
    def anywhere(cls, nodes: int) -> Places:
        """Ports that are free just now."""
        valkey, *others = free_ports(1 + nodes * len(SAME_PORTS))
        count = len(SAME_PORTS)
        return cls(valkey, [others[count * number : count * (number + 1)] for number in range(nodes)])


@define(eq=False)
class Node:
    """One daemon of the cluster.

    @ivar ports: by the setting's name.
    """

    kept: Kept
    ports: Mapping[str, int]

    @property
    def name(self) -> str:
        """What it is called: CLUSTER_NODE."""
        return self.kept.name


@frozen
class Options:
    """How a cluster is to be.

    @ivar folder: where its state is; made if it is not there.
    @ivar api_key: good on all nodes, tier partner.
    @ivar admin_key: opens /admin on all nodes; empty: nothing does.
    @ivar postgres: settings of PostgreSQL, as C{name=value}.
    @ivar settings: more settings of the daemons.
    """

    folder: Path
    places: Places
    api_key: str
    admin_key: str = ""
    postgres: Sequence[str] = ()
    settings: Mapping[str, str] = Factory(dict)


class Cluster:
    """The processes.

    @ivar nodes: the daemons, in order.
    @ivar parts: all of them by name, PostgreSQL and Valkey first.
    @ivar url: the database, once it runs.
    """

    def __init__(
        self,
        options: Options,
        reactor: Any,
        now: Now,
        tell: Callable[[str], object] = lambda sentence: None,
        heard: Callable[[str, str], object] = lambda name, line: None,
    ) -> None:
        """Set it up; nothing runs yet.

        @param tell: told what becomes of the processes, in sentences that begin with a name.
        @param heard: told what they write, the name and the line.
        """
        self.options = options
        self.url = ""
        self._reactor = reactor
        self._now = now
        self._tell = tell
        self._heard = heard
        self._fetcher = HttpFetcher(reactor, "tbeast-cluster")
        self._postmaster: int | None = None
        self._valkey = ValkeyServer()
        self._valkey.port = options.places.valkey
        self._environ = {
            name: text
            for name, text in environment().items()
            if name not in SETTINGS and not name.startswith(("TBEAST_", "PG"))
        }
        folder = options.folder.absolute()
        keeper = [sys.executable, "-m", "tbeast.adapters.store.keeper", str(folder / "postgres"), *options.postgres]
        self._database = self._kept(DATABASE, keeper, self._database_serves)
        self._database.heard = self._heard_of_database
        cache = [
            server_program(), "--bind", "127.0.0.1", "--port", str(options.places.valkey), "--save", "",
            "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning", "--dir", str(folder),
        ]  # fmt: skip
        self._cache = self._kept(CACHE, cache, self._cache_serves)
        self.nodes = [self._node(number, ports) for number, ports in enumerate(options.places.nodes, 1)]
        everything = (self._database, self._cache, *(node.kept for node in self.nodes))
        self.parts: dict[str, Kept] = {kept.name: kept for kept in everything}

    @property
    def cache_url(self) -> str:
        """Where Valkey is."""
        return self._valkey.url

    @property
    def serving(self) -> bool:
        """Whether all of them serve."""
        return all(kept.serving for kept in self.parts.values())

    def node(self, name: str) -> Node | None:
        """The node of that name; C{None}: it is none."""
        return next((node for node in self.nodes if node.name == name), None)

    async def start(self) -> None:
        """Start all of them, and wait until they serve.

        @raise tbeast.testing.upkeep.UpkeepError: when one does not come to it.
        """
        self.options.folder.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            node.kept.folder.mkdir(mode=0o700, exist_ok=True)
        await self._database.start()
        starting = [self._cache.start()]
        for node in self.nodes:
            # the database has said where it is by now
            node.kept.environ = {**node.kept.environ, "AURORA_URL": self.url}
            starting.append(node.kept.start())
        await _all(starting)

    async def until_serving(self) -> None:
        """Wait until all of them serve again.

        @raise tbeast.testing.upkeep.UpkeepError: when one was given up.
        """
        await _all([kept.until_serving() for kept in self.parts.values()])

    def kill(self, name: str) -> None:
        """End one of them by SIGKILL: of PostgreSQL its first process, so that the others lose it."""
        self.parts[name].kill(self._postmaster if name == DATABASE else None)

    async def stop_nodes(self) -> None:
        """Stop the daemons in good order: then all that they have answered is in the database, if it is there."""
        await _all([node.kept.stop() for node in self.nodes])

    async def stop(self) -> None:
        """Stop all of them in good order; never fails."""
        await self.stop_nodes()
        await self._cache.stop()
        await self._database.stop()
        await self._fetcher.close()

    def in_thread(self, what: Callable[..., Any], *arguments: object) -> Deferred[Any]:
        """Do something that waits, in a thread."""
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), what, *arguments)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database, and commit; waits.

        @raise tbeast.errors.StoreUnavailableError: when it is away.
        """
        with closing(connect(target(self.url))) as connection:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                rows = cursor.fetchall() if cursor.description else []
            connection.commit()
            return rows

    def ask_cache(self, *words: str) -> object:
        """Ask Valkey; waits.

        @raise OSError: when it is away.
        """
        return self._valkey.command(*words)

    async def get(self, url: str, key: str = "") -> tuple[int, bytes]:
        """Ask something over HTTP: the status and the body.

        @raise tbeast.errors.FetchError: when there is no answer.
        """
        status, _, body = await self._fetcher.fetch(url, {"authorization": f"Bearer {key}"} if key else {})
        return status, body

    def _node(self, number: int, numbers: Sequence[int]) -> Node:
        options, name = self.options, f"node{number}"
        ports = {name: port for names, port in zip(SAME_PORTS, numbers, strict=True) for name in names}
        url = f"http://127.0.0.1:{ports['HEALTH_PORT_LPO']}/ready"

        async def serves() -> bool:
            return (await self.get(url))[0] == 200

        kept = self._kept(name, [sys.executable, "-m", "twisted", "--log-format=text", "tbeast"], serves)
        kept.folder = options.folder.absolute() / name
        kept.environ = {
            **self._environ, **{setting: str(port) for setting, port in ports.items()},
            "SERVER_TYPE": "ALL_SERVER", "CLUSTER_NODE": name, "TBEAST_CLUSTER_NODES": str(len(options.places.nodes)),
            "CACHE_URL": self.cache_url, "TBEAST_FEEDS": "lab", "TBEAST_LISTEN": "127.0.0.1",
            "TBEAST_STATE": str(kept.folder), "TBEAST_KEYS": f"demo:partner:{options.api_key}",
            "ADMIN_KEY": options.admin_key, **options.settings,
        }  # fmt: skip
        return Node(kept, ports)

    def _kept(self, name: str, command: Sequence[str], serves: Callable[[], Any]) -> Kept:
        return Kept(
            name, command, self._reactor, self._now, serves, self._environ, self.options.folder.absolute(),
            self._tell, lambda line: self._heard(name, line),
        )  # fmt: skip

    def _heard_of_database(self, line: str) -> None:
        """The keeper says in a line of JSON where the server is and what its first process is."""
        with suppress(ValueError, KeyError, TypeError):
            announced = json.loads(line)
            self.url, self._postmaster = str(announced["url"]), int(announced["pid"])
            return
        self._heard(DATABASE, line)

    async def _database_serves(self) -> bool:
        # what the last life has announced says nothing of this one
        pid = self._postmaster
        if pid is None or not _runs(pid):
            return False
        return bool(await self.in_thread(self.sql, "SELECT 1"))

    async def _cache_serves(self) -> bool:
        return bool(await self.in_thread(self.ask_cache, "PING") == b"PONG")


async def _all(waiting: Sequence[Deferred[None]]) -> None:
    """Wait for all of them; the first that fails ends the waiting, with what it failed of."""
    try:
        await gatherResults(waiting, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
