"""Three daemons in processes of their own share their connections over one Valkey."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import parameterrows
from tbeast.adapters.store.migrations import migrate
from tbeast.adapters.store.postgres import connect, target
from tbeast.test.integration.crashes import Process, lab, start
from tbeast.test.integration.crowds import Crowd
from tbeast.test.integration.daemons import WORKERS
from tbeast.test.integration.test_workers import worker_pids
from tbeast.testing.postgres import own_server
from tbeast.testing.valkey import Server as ValkeyServer

TOTAL = 120
NODES = ("a", "b", "c")
KEY = "governed-connections"
MOST = 90
"""What one gets when nobody else wants any: the total but for the floors of the others and the free seat."""
PATIENCE_SECONDS = 30.0


class GovernorCase(SynchronousTestCase):
    """Has daemons, and clients of theirs."""

    timeout = 200

    def begin(self, nodes: Sequence[str], **settings: str) -> None:
        """Start daemons by these names, and wait until they are ready."""
        database = own_server(self)
        connection = connect(target(database.url()))
        migrate(connection)
        parameterrows.set_values(connection, {"max_connections": TOTAL, "http_idle_timeout_seconds": 600})
        connection.commit()
        connection.close()
        opened = ExitStack()
        self.addCleanup(opened.close)
        addresses = opened.enter_context(lab())
        self.daemons: dict[str, Process] = {}
        self.addCleanup(self.end)
        for name in nodes:
            folder = Path(self.mktemp())
            folder.mkdir()
            self.daemons[name] = start(
                folder,
                {
                    **addresses, "AURORA_URL": database.url(), "CLUSTER_NODE": name,
                    "TBEAST_CLUSTER_NODES": str(len(nodes)), "TBEAST_KEYS": KEY,
                    "TBEAST_NATIVE": os.environ.get("TEST_NATIVE", "auto"), **settings,
                },
            )  # fmt: skip
        for daemon in self.daemons.values():
            daemon.wait_until_ready()
        self.crowd = Crowd({name: daemon.ports["TCP_PORT_LPO"] for name, daemon in self.daemons.items()}, KEY)
        self.addCleanup(self.crowd.close)

    def end(self) -> None:
        for daemon in self.daemons.values():
            if daemon.process.poll() is None:
                daemon.kill()
            daemon.output.close()

    def want(self, **wanted: int) -> None:
        self.crowd.wanted.update(wanted)

    def until(self, holds: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Have the clients go on until something holds."""
        end = time.monotonic() + seconds
        while True:
            self.crowd.turn()
            if holds():
                return
            held = {name: self.crowd.held(name) for name in self.daemons}
            self.assertLess(time.monotonic(), end, f"not within {seconds:g} s: {what}; held: {held}")
            time.sleep(0.1)

    def log(self, name: str) -> str:
        path = Path(f"/proc/self/fd/{self.daemons[name].output.fileno()}")
        return path.read_text(errors="replace")

    def assert_promise(self) -> None:
        self.assertLessEqual(self.crowd.most, TOTAL)


class GovernorTests(GovernorCase):
    def setUp(self) -> None:
        self.valkey = ValkeyServer().start()
        self.addCleanup(self.valkey.stop)
        self.begin(NODES, CACHE_URL=self.valkey.url)

    def test_sharing(self) -> None:
        """Whoever is asked gets the share, and at no time are there more than the total."""
        crowd, held = self.crowd, self.crowd.held
        self.want(a=110, b=2, c=2)
        self.until(lambda: held("a") >= MOST, "all want a")
        self.assertEqual((2, 2), (held("b"), held("c")))

        self.want(a=2, b=110)
        self.until(lambda: held("b") >= MOST, "now all want b", 10.0)
        self.assert_promise()

        self.want(a=2, b=60, c=110)
        self.until(lambda: held("c") >= 40, "c gets what b lets go", 10.0)
        self.assert_promise()
        self.assertGreater(crowd.refused["b"], 0)
        head, _, body = crowd.refusal.partition(b"\r\n\r\n")
        self.assertIn(b"\r\nRetry-After: ", head)
        self.assertEqual("too_many_connections", json.loads(body)["code"])

    def test_one_dies(self) -> None:
        """What it had comes to the others."""
        held = self.crowd.held
        self.want(a=2, b=50, c=50)
        self.until(lambda: held("b") == 50 and held("c") == 50, "b and c share")
        self.daemons["c"].kill()
        self.crowd.lose("c")
        self.want(b=110)
        self.until(lambda: held("b") >= MOST, "b has what c had")
        self.assert_promise()

    def test_without_valkey(self) -> None:
        """Each keeps within its part, and they share again when it is back."""
        held = self.crowd.held
        self.want(a=2, b=110, c=2)
        self.until(lambda: held("b") >= MOST, "all want b")
        self.valkey.stop()
        self.until(
            lambda: all(self.log(name).count("cannot be heard") >= int(WORKERS) for name in NODES),
            "all know that they are alone, every worker for itself",
        )
        self.want(a=0, b=0, c=0)
        self.crowd.turn()
        self.crowd.forget()
        self.want(a=110, b=110, c=110)
        refused = dict(self.crowd.refused)
        self.until(lambda: held("b") == TOTAL // len(NODES), "b has its third")
        self.until(lambda: all(self.crowd.refused[name] > refused[name] for name in NODES), "they refuse")
        for name in NODES:
            self.assertLessEqual(held(name), TOTAL // len(NODES))
        self.assert_promise()
        self.valkey.start()
        self.want(a=2, b=110, c=2)
        self.until(lambda: held("b") >= MOST, "b has its share again")
        self.assert_promise()


class WorkersTests(GovernorCase):
    """Without Valkey the workers of a daemon share through their hub."""

    def test_workers(self) -> None:
        self.begin(("a",), TBEAST_WORKERS="2")
        crowd = self.crowd
        self.want(a=2 * TOTAL)
        self.until(lambda: crowd.held("a") >= MOST and crowd.refused["a"], "both have their share")
        first, _ = worker_pids(self.daemons["a"].process.pid)
        os.kill(first, signal.SIGKILL)
        self.until(lambda: crowd.ended, "its connections are gone")
        self.until(lambda: crowd.held("a") >= MOST, "the other, or another one, takes them")
        self.assert_promise()
