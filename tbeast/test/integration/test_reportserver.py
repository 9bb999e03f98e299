"""A node that serves reports and nothing else: no feeds, no prices, and no use without its database."""

from __future__ import annotations

import socket
import time

from tbeast.test.integration.accounts import AccountsCase
from tbeast.test.integration.daemons import Daemon, sleep

PATIENCE_SECONDS = 30


class ReportServerTests(AccountsCase):
    async def until_ready(self, daemon: Daemon, is_ready: bool) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while ((await daemon.get("/ready", "", daemon.settings.health_port_lrs))[0] == 200) != is_ready:
            self.assertLess(time.monotonic(), end, "it should be ready" if is_ready else "it should not be ready")
            await sleep(0.1)

    async def test_reports_alone(self) -> None:
        daemon = await self.daemon(SERVER_TYPE="REPORT_SERVER")
        settings = daemon.settings
        key = self.key("pro")
        await self.accepted(daemon, key)
        status, report = await daemon.get("/reports/summary", key, settings.tcp_port_lrs)
        self.assertEqual((200, 0), (status, report["row_count"]))
        status, ready = await daemon.get("/ready", "", settings.health_port_lrs)
        self.assertEqual((200, True, []), (status, ready["ready"], ready["reasons"]))
        self.assertEqual({"lrs health": True, "lrs": True, "lrs udp": True}, ready["listeners"])
        self.assertEqual(([], 0), (ready["feeds"], ready["assets"]["total"]))
        self.assertEqual(0, daemon.count("feed_dials"))
        for port in (settings.tcp_port_lpo, settings.health_port_lpo):
            with socket.socket() as client:
                self.assertNotEqual(0, client.connect_ex(("127.0.0.1", port)))

        self.database.stop()

        await self.until_ready(daemon, False)
        status, health = await daemon.get("/health", "", settings.health_port_lrs)
        self.assertEqual(503, status)
        self.assertIn("database", health["reasons"][0])
        status, refused = await daemon.get("/reports/summary", key, settings.tcp_port_lrs)
        self.assertEqual((503, "store_unavailable"), (status, refused["code"]))
        self.database.start()
        await self.until_ready(daemon, True)
        end = time.monotonic() + PATIENCE_SECONDS
        # reports have connections of their own, which find out by themselves that the database is back
        while (await daemon.get("/reports/summary", key, settings.tcp_port_lrs))[0] != 200:
            self.assertLess(time.monotonic(), end, "there are reports again")
            await sleep(0.5)
