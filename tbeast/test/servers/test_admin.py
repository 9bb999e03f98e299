"""Tests of L{tbeast.servers.admin}, L{tbeast.servers.adminkeys} and L{tbeast.servers.adminparameters}."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.domain.keyorders import KeyEdit, KeyFilter, NewKey
from tbeast.domain.parameters import PARAMETERS
from tbeast.errors import StoreUnavailableError
from tbeast.servers.admin import PLACES
from tbeast.test.servers.adminrig import KEY, AdminRig, text_of
from tbeast.test.servers.rooms import Response, problem_of
from tbeast.testing.logs import listen


class AdminCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = AdminRig()
        self.lines = listen(self)

    def ask(self, target: str, method: str = "GET", body: object = None, status: int = 200) -> Any:
        """Ask, and see that the status is as expected; give the JSON."""
        answer: Response = self.rig.ask(target, method, body)
        self.assertEqual(status, answer.status, answer.body)
        return answer.json() if status < 400 else problem_of(answer)

    def refused(self, code: str, target: str, method: str = "GET", body: object = None) -> str:
        """Ask for what is refused; give the sentence."""
        members = problem_of(self.rig.ask(target, method, body))
        self.assertEqual(code, members["code"], members)
        return str(members["detail"])


class RootTests(AdminCase):
    def test_says_what_there_is(self) -> None:
        members = self.ask("/admin")
        self.assertEqual(("n1", len(PLACES)), (members["node"], len(members["places"])))

    def test_all_of_it_is_there(self) -> None:
        """Each place that is named answers to its method, with something else than that there is nothing."""
        key_id = self.rig.keys.add().details.record.account.key_id
        elsewhere = ("/admin/ui", "/admin/events", "/admin/explain/{asset}")  # see test_adminpage
        for method, path in [(method, path) for method, path, _ in PLACES if path not in elsewhere]:
            target = path.replace("{id}", key_id).replace("{name}", "sync_hour_utc").replace("{exchange}", "kraken")
            body = {"key_id": key_id} if "invalidate" in path else {"value": 5} if method == "PUT" else None
            answer = self.rig.ask(target, method, body)
            self.assertNotIn(answer.status, (404, 405, 500), (method, path, answer.body))


class KeysTests(AdminCase):
    def setUp(self) -> None:
        super().setUp()
        self.key_id = self.rig.keys.add("first").details.record.account.key_id

    def test_list(self) -> None:
        self.rig.keys.add("second", "pro")
        members = self.ask("/admin/keys?page_size=1&tier=pro&revoked=all")
        self.assertEqual((1, self.key_id), (len(members["keys"]), members["cursor"]))
        self.assertEqual(("listed", KeyFilter("pro", None, None, None, 1)), self.rig.keys.asked[-1])
        key = members["keys"][0]
        self.assertEqual(("first", "free", False), (key["name"], key["tier"], key["revoked"]))
        self.assertEqual(
            {
                "queries_per_month": 1000, "queries_per_second": 1.0, "burst": 5, "min_wait_seconds": 1.0,
                "reports_per_month": 10,
            },
            key["limits"],
        )  # fmt: skip
        self.assertIsNone(self.ask("/admin/keys")["cursor"])

    def test_list_refusals(self) -> None:
        self.refused("unknown_parameter", "/admin/keys?limit=5")
        self.refused("malformed_parameter", "/admin/keys?page_size=x")

    def test_nothing_secret_is_shown(self) -> None:
        account = self.rig.keys.details_of[self.key_id].record.account
        for path in ("/admin/keys", f"/admin/keys/{self.key_id}"):
            body = self.rig.ask(path).body
            for secret in (text_of(0).encode(), account.digest.hex().encode(), account.datagram_secret.hex().encode()):
                self.assertNotIn(secret, body)

    def test_create(self) -> None:
        answer = self.rig.ask("/admin/keys", "POST", {"name": "desk", "tier": "pro", "limits": {"burst": 9}})
        self.assertEqual(201, answer.status)
        members = answer.json()
        self.assertEqual((text_of(1), "desk"), (members["key"], members["name"]))
        self.assertEqual(f"/admin/keys/{members['id']}", answer.headers["Location"])
        self.assertEqual(("create", NewKey("desk", "pro", limits={"burst": 9})), self.rig.keys.asked[-1])
        self.refused("malformed_parameter", "/admin/keys", "POST", {"name": "desk", "tier": "none"})
        self.assertIn("nam", self.refused("malformed_body", "/admin/keys", "POST", {"nam": "desk"}))

    def test_show(self) -> None:
        members = self.ask(f"/admin/keys/{self.key_id}")
        self.assertEqual((self.key_id, None, None), (members["id"], members["email"], members["replaced_by"]))
        for path in ("/admin/keys/nobody", "/admin/keys/%00", "/admin/keys/" + "x" * 65, "/admin/keys/"):
            self.refused("unknown_key", path)
        self.assertEqual([("details", self.key_id), ("details", "nobody")], self.rig.keys.asked)

    def test_change(self) -> None:
        members = self.ask(f"/admin/keys/{self.key_id}", "PATCH", {"limits": {"reports_per_month": 99}})
        self.assertEqual(
            (99, 5), (members["limits"]["reports_per_month"], members["in_force_everywhere_within_seconds"])
        )
        self.assertEqual(
            ("change", self.key_id, KeyEdit(limits={"monthly_reports": 99})), self.rig.keys.asked[-1]
        )  # fmt: skip
        self.assertTrue(self.lines.having(f"keys.change {self.key_id}: monthly_reports -> 200"))
        self.refused("malformed_body", f"/admin/keys/{self.key_id}", "PATCH", {})
        self.refused("unknown_key", "/admin/keys/nobody", "PATCH", {"tier": "pro"})

    def test_revoke(self) -> None:
        members = self.ask(f"/admin/keys/{self.key_id}/revoke", "POST")
        self.assertEqual((True, True), (members["revoked"], members["was_good"]))
        self.assertIs(False, self.ask(f"/admin/keys/{self.key_id}/revoke", "POST", {})["was_good"])
        self.refused("malformed_body", f"/admin/keys/{self.key_id}/revoke", "POST", {"now": True})
        self.refused("unknown_key", "/admin/keys/nobody/revoke", "POST")

    def test_rotate(self) -> None:
        members = self.ask(f"/admin/keys/{self.key_id}/rotate", "POST", {"grace_seconds": 60}, status=201)
        self.assertEqual((text_of(1), self.key_id), (members["key"], members["replaced"]["id"]))
        self.assertEqual(("rotate", self.key_id, 60.0), self.rig.keys.asked[-1])
        self.ask(f"/admin/keys/{self.key_id}/revoke", "POST")
        self.refused("conflict", f"/admin/keys/{self.key_id}/rotate", "POST")

    def test_invalidate(self) -> None:
        members = self.ask("/admin/invalidate-key", "POST", {"key_id": self.key_id})
        self.assertEqual((self.key_id, True), (members["id"], members["in_database"]))
        self.assertIs(False, self.ask("/admin/invalidate-key", "POST", {"key_id": "vanished"})["in_database"])
        self.refused("unknown_key", "/admin/invalidate-key", "POST", {"key_id": "nobody"})
        self.refused("unknown_key", "/admin/invalidate-key", "POST", {"key_id": "a b"})
        self.refused("malformed_body", "/admin/invalidate-key", "POST", {"id": self.key_id})


class ParametersTests(AdminCase):
    def test_list(self) -> None:
        self.rig.table.rows["mistaken"] = "5"
        members = self.ask("/admin/parameters")
        self.assertEqual(list(PARAMETERS), [one["name"] for one in members["parameters"]])
        self.assertEqual((["mistaken"], 300.0), (members["unknown"], members["elsewhere_within_seconds"]))
        self.refused("unknown_parameter", "/admin/parameters?name=x")

    def test_set_and_unset(self) -> None:
        members = self.ask("/admin/parameters/sync_hour_utc", "PUT", {"value": "7"})
        self.assertEqual((7, True, 6), (members["value"], members["set"], members["default"]))
        self.assertTrue(self.lines.having("parameters.set sync_hour_utc = '7' -> 200 done"))
        self.assertEqual(7, self.ask("/admin/parameters/sync_hour_utc")["value"])
        members = self.ask("/admin/parameters/sync_hour_utc", "DELETE")
        self.assertEqual((6, False, True), (members["value"], members["set"], members["was_set"]))
        self.assertIs(False, self.ask("/admin/parameters/sync_hour_utc", "DELETE")["was_set"])

    def test_refusals(self) -> None:
        for value in (24, "noon", 6.5, True):
            detail = self.refused("malformed_parameter", "/admin/parameters/sync_hour_utc", "PUT", {"value": value})
            self.assertIn("sync_hour_utc", detail)
        self.assertEqual({}, self.rig.table.rows)
        self.refused("malformed_body", "/admin/parameters/sync_hour_utc", "PUT", {"valeu": 5})
        self.refused("not_found", "/admin/parameters/sync_hour", "PUT", {"value": 5})
        self.refused("not_found", "/admin/parameters/sync_hour", "DELETE")
        self.refused("not_found", "/admin/parameters/x%00y", "DELETE")
        self.refused("not_found", "/admin/parameters/%ff")

    def test_a_row_that_is_no_parameter_can_be_cleared_away(self) -> None:
        self.rig.table.rows["mistaken"] = "5"
        self.assertEqual({"name": "mistaken", "was_set": True}, self.ask("/admin/parameters/mistaken", "DELETE"))

    def test_reload(self) -> None:
        members = self.ask("/admin/parameters/reload", "POST")
        self.assertEqual("database", members["source"])
        self.assertEqual([{"name": "sync_hour_utc", "before": "6", "after": "7"}], members["changes"])
        self.assertEqual(1, self.rig.table.reloads)
        self.assertEqual(405, self.rig.ask("/admin/parameters/reload").status)

    def test_the_database_is_away(self) -> None:
        self.rig.table.away = StoreUnavailableError("away")
        self.refused("store_unavailable", "/admin/parameters")


class FeedsTests(AdminCase):
    def test_list(self) -> None:
        members = self.ask("/admin/feeds")
        self.assertEqual(("n1", []), (members["node"], members["paused"]))
        feed = members["feeds"][0]
        self.assertEqual(
            ("coinbase", "live", 0.2, 1, ["X-USD"]),
            tuple(feed[name] for name in ("exchange", "state", "age_seconds", "connections", "refused")),
        )
        self.assertEqual("kraken", self.ask("/admin/feeds/kraken")["exchange"])

    def test_pause_and_resume(self) -> None:
        members = self.ask("/admin/feeds/kraken/pause", "POST")
        self.assertEqual(
            ("paused", True, True, True, False),
            tuple(members[name] for name in ("state", "paused", "changed", "this_node_only", "kept_over_restart")),
        )
        self.assertIs(False, self.ask("/admin/feeds/kraken/pause", "POST")["changed"])
        self.assertEqual(["kraken"], self.ask("/admin/feeds")["paused"])
        members = self.ask("/admin/feeds/kraken/resume", "POST")
        self.assertEqual(("live", True), (members["state"], members["changed"]))
        self.assertTrue(self.lines.having("feeds.pause kraken -> 200 done"))

    def test_reconnect(self) -> None:
        kraken = self.rig.feeds.feeds["kraken"]
        members = self.ask("/admin/feeds/kraken/reconnect", "POST")
        self.assertEqual((False, 3), (members["dropped"], members["to_be_replaced"]))
        self.assertIs(True, self.ask("/admin/feeds/kraken/reconnect", "POST", {"drop": True})["dropped"])
        self.assertEqual(["renew", "reconnect"], kraken.told)
        kraken.pause()
        self.refused("conflict", "/admin/feeds/kraken/reconnect", "POST")
        self.assertEqual(2, len(kraken.told))

    def test_refusals(self) -> None:
        self.assertIn("kraken", self.refused("not_found", "/admin/feeds/mtgox/pause", "POST"))
        self.refused("malformed_body", "/admin/feeds/kraken/pause", "POST", {"for": 5})
        self.refused("malformed_body", "/admin/feeds/kraken/reconnect", "POST", {"drop": 1})
        self.refused("not_found", "/admin/feeds/kraken/stop", "POST")
        self.assertEqual(405, self.rig.ask("/admin/feeds/kraken/pause").status)
        self.assertEqual("live", self.rig.feeds.feeds["kraken"].status().state)


class SyncTests(AdminCase):
    def test_begin_and_look(self) -> None:
        self.assertEqual(("never", None), tuple(self.ask("/admin/sync")[name] for name in ("state", "began_at")))
        answer = self.rig.ask("/admin/sync", "POST")
        self.assertEqual((202, "/admin/sync"), (answer.status, answer.headers["Location"]))
        members = self.ask("/admin/sync")
        self.assertEqual(
            ("running", "2026-04-12T14:23:01.000Z", "copying keys", 5, None),
            tuple(members[name] for name in ("state", "began_at", "step", "rows_done", "rows_expected")),
        )
        self.ask("/admin/sync", "POST", {"full": True}, status=202)
        self.assertEqual([False, True], self.rig.sync.begun)

    def test_refusals(self) -> None:
        self.refused("malformed_body", "/admin/sync", "POST", {"fully": True})
        self.rig.sync.busy = "n2"
        self.assertIn("n2", self.refused("conflict", "/admin/sync", "POST"))
        self.assertEqual([], self.rig.sync.begun)


class ClusterTests(AdminCase):
    def test_adds_up(self) -> None:
        self.rig.cluster.nodes = {"n1": {"requests": 5, "ticks": 1}, "n2": {"requests": 7}}
        members = self.ask("/admin/cluster-stats")
        self.assertEqual((True, None), (members["complete"], members["why"]))
        self.assertEqual(7, members["nodes"]["n2"]["requests"])
        self.assertEqual((12, 1), (members["total"]["requests"], members["total"]["ticks"]))


class GovernorTests(AdminCase):
    def test_view(self) -> None:
        self.assertEqual({"state": "single", "limit": 6000}, self.ask("/admin/governor"))

    def test_set(self) -> None:
        members = self.ask("/admin/governor", "POST", {"max_connections": 120})
        self.assertEqual((120, "single"), (members["max_connections"], members["state"]))
        self.assertEqual({"max_connections": 120}, self.rig.table.rows)
        self.refused("malformed_parameter", "/admin/governor", "POST", {"max_connections": 0})
        self.refused("malformed_body", "/admin/governor", "POST", {"max_connections": "120"})
        self.assertEqual({"max_connections": 120}, self.rig.table.rows)


class SocketTests(TestCase):
    """The same over a real socket, where who asks is read from it."""

    def setUp(self) -> None:
        self.rig = AdminRig()
        self.lines = listen(self)
        # the site's clock stands still, so nothing is left behind in the reactor
        loop: Any = reactor
        self.port: Any = loop.listenTCP(0, self.rig.site, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)

    async def ask(self, path: str, method: str = "GET", body: bytes = b"", key: str = KEY) -> tuple[int, bytes]:
        import treq

        url = f"http://127.0.0.1:{self.port.getHost().port}{path}"
        headers = {"X-Admin-Key": key}
        response = await treq.request(method, url, headers=headers, data=body, persistent=False, timeout=20)
        return response.code, await response.content()

    def test_a_key_is_made(self) -> Deferred[None]:
        async def run() -> None:
            status, body = await self.ask("/admin/keys", "POST", b'{"name":"desk"}')
            self.assertEqual(201, status)
            self.assertIn(text_of(0).encode(), body)
            self.assertEqual(401, (await self.ask("/admin/keys", key="y" * 25))[0])
            (made, refused) = self.lines.having("admin: 127.0.0.1 ")
            self.assertIn("POST /admin/keys: keys.create", made)
            self.assertIn("-> 401 bad_admin_key", refused)

        return Deferred.fromCoroutine(run())
