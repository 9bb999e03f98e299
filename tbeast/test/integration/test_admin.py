"""/admin of whole daemons: what an operator does there holds, here and on the other nodes."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

from tbeast.domain.keys import Account, key_id_of
from tbeast.test.integration.accounts import AccountsCase
from tbeast.test.integration.daemons import Daemon, sleep
from tbeast.testing.logs import listen

KEY = "the-admin-key-of-the-tests"
WHERE: dict[str, Any] = {"SERVER_TYPE": "APP_REPORT_SERVER", "ADMIN_KEY": KEY}


def account_on(node: Daemon, key: str) -> Account | None:
    """What a node knows of a key."""
    found: Account | None = node.parts.accounting.keyring.find(key.encode())
    return found


class AdminCase(AccountsCase):
    async def operated(self, **said: Any) -> Daemon:
        """A daemon with /admin."""
        return await self.daemon(**{**WHERE, **said})

    async def admin(
        self, daemon: Daemon, path: str, method: str = "GET", body: object = None, key: str | None = KEY
    ) -> tuple[int, Any]:
        import treq

        data = None if body is None else json.dumps(body).encode()
        headers = {} if key is None else {"X-Admin-Key": key}
        url = f"http://127.0.0.1:{daemon.settings.tcp_port_lrs}{path}"
        response = await treq.request(method, url, headers=headers, data=data, persistent=False, timeout=30)
        return response.code, json.loads(await response.content())

    async def good(self, daemon: Daemon, path: str, method: str = "GET", body: object = None) -> Any:
        """Ask for what is done."""
        status, members = await self.admin(daemon, path, method, body)
        self.assertLess(status, 300, members)
        return members


class DoorTests(AdminCase):
    async def test_off_unless_there_is_a_key(self) -> None:
        daemon = await self.daemon(SERVER_TYPE="APP_REPORT_SERVER")
        for key in (None, KEY):
            status, members = await self.admin(daemon, "/admin/keys", key=key)
            self.assertEqual((404, "not_found"), (status, members["code"]))

    async def test_the_key_opens_this_port_alone(self) -> None:
        lines = listen(self)
        daemon = await self.operated()
        self.assertEqual(200, (await self.admin(daemon, "/admin"))[0])
        self.assertEqual(401, (await self.admin(daemon, "/admin", key=None))[0])
        self.assertEqual(401, (await self.admin(daemon, "/admin", key="x" * 26))[0])
        self.assertEqual(404, (await daemon.get("/admin"))[0])
        self.assertEqual(1, daemon.count("admin_requests", "places", "200"))
        self.assertEqual(2, daemon.count("admin_requests", "door", "401"))
        self.assertEqual(3, len(lines.having("admin: 127.0.0.1 GET /admin: ")))
        self.assertEqual([], lines.having(KEY))


class KeysTests(AdminCase):
    async def test_a_key_from_its_making_to_its_end(self) -> None:
        lines = listen(self)
        daemon = await self.operated()
        limits = {"queries_per_month": 3, "queries_per_second": 100, "burst": 100}
        made = await self.good(daemon, "/admin/keys", "POST", {"name": "desk", "limits": limits})
        text, path = made["key"], f"/admin/keys/{made['id']}"
        self.assertEqual(key_id_of(text), made["id"])
        await self.accepted(daemon, text)
        statuses = []
        for _ in range(8):
            statuses.append((await daemon.get("/price?asset=btc", text))[0])
            await sleep(0.05)
        self.assertEqual([200] * 3 + [429] * 5, sorted(statuses))
        await self.good(daemon, path, "PATCH", {"tier": "unlimited"})
        await self.until(partial(self.has_quota, daemon, text, None), 5, "the change is in force")
        self.assertEqual(200, (await daemon.get("/price?asset=btc", text))[0])
        rotated = await self.good(daemon, f"{path}/rotate", "POST")
        await self.accepted(daemon, rotated["key"])
        await self.until(partial(self.is_out, daemon, text), 5, "the old key is out")
        listed = await self.good(daemon, "/admin/keys?revoked=all&name=desk")
        self.assertEqual([made["id"], rotated["id"]], [key["id"] for key in listed["keys"]])
        self.assertEqual([True, False], [key["revoked"] for key in listed["keys"]])
        await self.good(daemon, f"/admin/keys/{rotated['id']}/revoke", "POST")
        self.assertEqual(401, (await daemon.get("/price?asset=btc", rotated["key"]))[0])
        for secret in (text, rotated["key"]):
            self.assertEqual([], lines.having(secret))

    async def test_on_every_node(self) -> None:
        """With a shared cache and without: within five seconds."""
        cache = self.valkey()
        first = await self.operated(CACHE_URL=cache.url, CLUSTER_NODE="a")
        second = await self.operated(CACHE_URL=cache.url, CLUSTER_NODE="b")
        third = await self.operated(CLUSTER_NODE="c")
        made = await self.good(first, "/admin/keys", "POST", {"name": "desk", "tier": "unlimited"})
        for node in (first, second, third):
            await self.accepted(node, made["key"], 5)
        await self.good(second, f"/admin/keys/{made['id']}/revoke", "POST")
        for node in (first, second, third):
            await self.until(partial(self.is_out, node, made["key"]), 5, "it is out everywhere")

    async def test_invalidate(self) -> None:
        """What somebody changed behind the daemons' back is read by all of them."""
        first, second = await self.operated(CLUSTER_NODE="a"), await self.operated(CLUSTER_NODE="b")
        key = self.key("free")
        for node in (first, second):
            await self.accepted(node, key)
        self.sql("ALTER TABLE api_keys DISABLE TRIGGER ALL")
        self.sql("UPDATE api_keys SET query_limit = 7 WHERE key_id = %s", key_id_of(key))
        self.sql("ALTER TABLE api_keys ENABLE TRIGGER ALL")
        self.sql("UPDATE api_keys SET changed_at = changed_at - interval '1 hour' WHERE key_id = %s", key_id_of(key))
        members = await self.good(first, "/admin/invalidate-key", "POST", {"key_id": key_id_of(key)})
        self.assertEqual((True, 7), (members["in_database"], members["limits"]["queries_per_month"]))
        for node in (first, second):
            await self.until(partial(self.has_quota, node, key, 7), 5, "it is read anew")

    def has_quota(self, node: Daemon, key: str, quota: int | None) -> bool:
        account = account_on(node, key)
        return account is not None and account.plan.monthly_quota == quota

    def is_out(self, node: Daemon, key: str) -> bool:
        return account_on(node, key) is None

    async def test_the_database_is_away(self) -> None:
        daemon = await self.operated()
        self.database.stop()
        status, members = await self.admin(daemon, "/admin/keys", "POST", {"name": "desk"})
        self.assertEqual((503, "store_unavailable"), (status, members["code"]))
        self.database.start()


class ParametersTests(AdminCase):
    async def test_set_and_unset(self) -> None:
        daemon = await self.operated()
        members = await self.good(daemon, "/admin/parameters/max_price_age_seconds", "PUT", {"value": 45})
        self.assertEqual((45.0, 60.0), (members["value"], members["default"]))
        self.assertEqual(45.0, daemon.parts.board.limits.max_age_seconds)
        self.assertEqual([("45",)], self.sql("SELECT value FROM application_parameters"))
        status, members = await self.admin(daemon, "/admin/parameters/max_price_age_seconds", "PUT", {"value": 0})
        self.assertEqual((400, "malformed_parameter"), (status, members["code"]))
        await self.good(daemon, "/admin/parameters/max_price_age_seconds", "DELETE")
        self.assertEqual(60.0, daemon.parts.board.limits.max_age_seconds)
        members = await self.good(daemon, "/admin/governor", "POST", {"max_connections": 500})
        self.assertEqual(500, daemon.parts.accounting.parameters.value("max_connections"))
        self.sql("UPDATE application_parameters SET value = '600' WHERE key = 'max_connections'")
        members = await self.good(daemon, "/admin/parameters/reload", "POST")
        self.assertEqual([{"name": "max_connections", "before": "500", "after": "600"}], members["changes"])


class FeedsTests(AdminCase):
    async def test_pause_and_resume(self) -> None:
        daemon = await self.operated()
        await daemon.until(lambda: daemon.all_live() and daemon.all_good(), 60, "all prices are good")
        members = await self.good(daemon, "/admin/feeds/kraken/pause", "POST")
        self.assertEqual(("paused", True), (members["state"], members["this_node_only"]))
        self.assertEqual(0, daemon.verdicts("kraken", "used", "suspect"))
        await daemon.until(lambda: daemon.feed("kraken").connections == 0, 10, "it has no connections")
        asked = daemon.count("rest_requests", "kraken")
        ready, members = await daemon.ready()
        self.assertEqual(200, ready)
        self.assertEqual(["kraken"], [feed["exchange"] for feed in members["feeds"] if feed["state"] == "paused"])
        metrics = await daemon.fetcher.fetch(f"http://127.0.0.1:{daemon.settings.health_port_lpo}/metrics", {})
        self.assertIn(b'tbeast_feed_state{exchange="kraken",state="paused"} 1.0', metrics[2])
        exchanges = (await daemon.get("/exchanges", ""))[1]["exchanges"]
        self.assertIn("paused", [one["state"] for one in exchanges if one["exchange"] == "kraken"])
        await self.good(daemon, "/admin/feeds/kraken/resume", "POST")
        self.assertEqual(asked, daemon.count("rest_requests", "kraken"))
        await daemon.until(lambda: daemon.feed("kraken").state == "live", 60, "it is live again")
        await daemon.until(lambda: daemon.verdicts("kraken", "used"), 10, "it counts again")

    async def test_reconnect_without_a_gap(self) -> None:
        daemon = await self.operated()
        await daemon.until(daemon.all_live, 60, "all feeds live")
        before = daemon.count("feed_connections", "okx")
        members = await self.good(daemon, "/admin/feeds/okx/reconnect", "POST")
        count: int = members["to_be_replaced"]
        self.assertGreater(count, 0)
        lost: list[str] = []

        def replaced() -> bool:
            state: str = daemon.feed("okx").state
            if state not in ("live", "late"):
                lost.append(state)
            return daemon.count("feed_connections", "okx") >= before + count

        await daemon.until(replaced, 90, "every connection was replaced")
        self.assertEqual([], lost)


class OthersTests(AdminCase):
    async def test_sync(self) -> None:
        cache = self.valkey()
        daemon = await self.operated(CACHE_URL=cache.url)
        status, members = await self.admin(daemon, "/admin/sync", "POST", {"full": True})
        self.assertEqual((202, "running"), (status, members["state"]))
        end = time.monotonic() + 60
        while (members := await self.good(daemon, "/admin/sync"))["state"] == "running" and time.monotonic() < end:
            await sleep(0.2)
        self.assertEqual("done", members["state"], members)
        self.assertEqual(
            [("test",)], self.sql("SELECT node FROM sync_runs WHERE finished_at IS NOT NULL AND held_until IS NULL")
        )
        self.assertEqual(b"whole", cache.command("HGET", "sync:marks", "state"))

    async def test_sync_while_another_node_does_it(self) -> None:
        daemon = await self.operated()
        self.sql(
            "INSERT INTO sync_runs (job, node, token, held_until)"
            " VALUES ('sync', 'elsewhere', 't', clock_timestamp() + interval '1 hour')"
        )
        status, members = await self.admin(daemon, "/admin/sync", "POST")
        self.assertEqual((409, "conflict", "elsewhere"), (status, members["code"], members["node"]))

    async def test_cluster_and_governor(self) -> None:
        daemon = await self.operated()
        members = await self.good(daemon, "/admin/cluster-stats")
        self.assertEqual(["test"], list(members["nodes"]))
        self.assertEqual(24, len(members["total"]))
        self.assertTrue(await self.good(daemon, "/admin/governor"))
