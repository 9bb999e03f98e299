"""A flood of datagrams: others are served meanwhile, and nothing is lost that nobody knows of."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from twisted.internet.threads import deferToThread

from tbeast.domain.keys import key_id_of
from tbeast.test.integration import flood
from tbeast.test.integration.accounts import AccountsCase
from tbeast.test.integration.daemons import Daemon

ROUNDS = 15
A_ROUND = 500
"""How many datagrams are taken at least between two questions of others."""
MOST_SECONDS = 60
MOST_DATAGRAMS = 5_000_000


class FloodTests(AccountsCase):
    def flood(self, daemon: Daemon, key: str) -> Popen[bytes]:
        """Begin to flood the daemon's port; it has begun when a line was said."""
        program = [sys.executable, str(Path(flood.__file__)), str(daemon.settings.udp_port_lpo)]
        process = Popen([*program, str(MOST_SECONDS), str(MOST_DATAGRAMS)], stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        process.stdin.write(key.encode() + b"\n")
        process.stdin.flush()

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        return process

    async def end(self, process: Popen[bytes]) -> Any:
        """End it; what it has sent and heard."""
        out, _ = await deferToThread(process.communicate)
        return json.loads(out)

    def outcomes(self, daemon: Daemon) -> dict[str, int]:
        """How many datagrams there were by what became of them."""
        counters = daemon.parts.counters
        requests = sum(number for labels, number in counters.family("requests") if labels[1] == "udp")
        return {"requests": requests, **{name: counters.total(name) for name in ("udp_dropped", "udp_kernel_drops")}}

    async def a_round(self, daemon: Daemon) -> None:
        """Wait until so many more datagrams were read."""

        def taken() -> int:
            outcomes = self.outcomes(daemon)
            return outcomes["requests"] + outcomes["udp_dropped"]

        before = taken()
        await daemon.until(lambda: taken() > before + A_ROUND, 20, "the flood goes on")

    async def test_others_are_served_and_all_adds_up(self) -> None:
        daemon = await self.daemon()
        key = self.key("partner")
        await self.accepted(daemon, key)
        await daemon.until(lambda: {"BTC", "ETH", "SOL"} <= daemon.quotes().keys(), 30, "prices")
        process = self.flood(daemon, key)
        assert process.stdout is not None
        await deferToThread(process.stdout.readline)
        for _ in range(ROUNDS):
            self.assertEqual(200, (await daemon.get("/live", "", daemon.settings.health_port_lpo))[0])
            status, price = await daemon.get("/price?asset=BTC", key)
            self.assertEqual((200, "BTC"), (status, price["asset"]))
            await self.a_round(daemon)
        self.assertIsNone(process.poll(), "the flood ended by itself")
        told = await self.end(process)

        await daemon.until(
            lambda: sum(self.outcomes(daemon).values()) >= told["sent"], 20, f"{told} is {self.outcomes(daemon)}"
        )
        self.assertEqual(told["sent"], sum(self.outcomes(daemon).values()), self.outcomes(daemon))
        count = daemon.parts.counters.value
        answered = count("requests", "lpo", "udp", "200")
        self.assertGreater(told["answered"], 0)
        self.assertGreaterEqual(answered, told["answered"])  # its own socket may have overflowed
        self.assertEqual(0, count("udp_dropped", "lpo", "unsendable"))
        for reason in ("empty", "oversized", "unreadable", "bad_key"):
            self.assertGreater(count("udp_dropped", "lpo", reason), 0, reason)

        await daemon.end()  # type: ignore[attr-defined]
        rows = self.sql(
            "SELECT protocol, sum(request_count)::int FROM usage_logs WHERE key_id = %s AND status = 200"
            " AND admitted GROUP BY 1", key_id_of(key),
        )  # fmt: skip
        self.assertEqual({"http": ROUNDS, "udp": answered}, dict(rows))
        used = self.sql("SELECT current_usage FROM api_keys WHERE key_id = %s", key_id_of(key))
        everything = self.sql(
            "SELECT sum(request_count)::int FROM usage_logs WHERE key_id = %s AND admitted", key_id_of(key)
        )
        self.assertEqual(everything, used)
