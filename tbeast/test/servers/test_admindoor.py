"""Tests of L{tbeast.servers.admindoor}."""

from __future__ import annotations

from ipaddress import ip_network

from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.adminaccess import CALLS_AT_ONCE, GUESSES, GUESSES_BACK_SECONDS
from tbeast.errors import StoreRefusedError, StoreUnavailableError
from tbeast.servers.admindoor import LINES_AT_ONCE, Entrance
from tbeast.servers.site import Page, WebRequest, tree
from tbeast.test.servers.adminrig import KEY, AdminRig
from tbeast.test.servers.rooms import Wire, problem_of
from tbeast.testing.logs import listen


class DoorCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = AdminRig()
        self.lines = listen(self)

    def admin_lines(self) -> list[str]:
        return self.lines.having("admin: ")


class KeyTests(DoorCase):
    def test_with_the_key(self) -> None:
        answer = self.rig.ask("/admin")
        self.assertEqual(200, answer.status)
        self.assertEqual("no-store", answer.headers["Cache-Control"])
        self.assertEqual(1, self.rig.count("places", 200))

    def test_without(self) -> None:
        answer = self.rig.ask("/admin", key=None)
        self.assertEqual((401, "missing_key"), (answer.status, problem_of(answer)["code"]))
        self.assertIn("X-Admin-Key", answer.headers["WWW-Authenticate"])
        self.assertEqual(1, self.rig.count("door", 401))

    def test_with_another(self) -> None:
        answer = self.rig.ask("/admin", key="x" * 25)
        self.assertEqual((401, "bad_admin_key"), (answer.status, problem_of(answer)["code"]))

    def test_a_key_of_questions_opens_nothing(self) -> None:
        answer = Wire(self.rig.site).ask("/admin", KEY)
        self.assertEqual((401, "missing_key"), (answer.status, problem_of(answer)["code"]))

    def test_twice(self) -> None:
        answer = self.rig.ask("/admin", headers=[("X-Admin-Key", KEY)])
        self.assertEqual((400, "malformed_authorization"), (answer.status, problem_of(answer)["code"]))

    def test_nothing_shows_without_it(self) -> None:
        """Neither what there is, nor what there is not, nor which methods."""
        for path, method in (("/admin/nothing", "GET"), ("/admin/keys/x/nothing", "GET"), ("/admin/keys", "DELETE")):
            self.assertEqual(401, self.rig.ask(path, method, key=None).status)
        self.assertEqual(404, self.rig.ask("/admin/nothing").status)
        self.assertEqual(404, self.rig.ask("/admin/").status)
        self.assertEqual(404, self.rig.ask("/admin/keys/x/nothing").status)
        self.assertEqual(404, self.rig.ask("/admin/sync/nothing").status)
        answer = self.rig.ask("/admin/keys", "DELETE")
        self.assertEqual((405, "GET, POST, HEAD"), (answer.status, answer.headers["Allow"]))
        self.assertEqual(405, self.rig.ask("/admin/invalidate-key").status)

    def test_head(self) -> None:
        answer = self.rig.ask("/admin/feeds", "HEAD")
        self.assertEqual((200, b""), (answer.status, answer.body))

    def test_where_it_is_off_it_is_unknown(self) -> None:
        answer = Wire(self.rig.house.site(tree({}))).ask("/admin", None, headers=[("X-Admin-Key", KEY)])
        self.assertEqual((404, "not_found"), (answer.status, problem_of(answer)["code"]))


class LimitTests(DoorCase):
    def test_guessing(self) -> None:
        statuses = [self.rig.ask("/admin", key=f"guess-{number:020d}").status for number in range(GUESSES + 2)]
        self.assertEqual([401] * GUESSES + [429] * 2, statuses)
        answer = self.rig.ask("/admin")
        self.assertEqual((429, "rate_limited"), (answer.status, problem_of(answer)["code"]))
        self.assertTrue(0 < int(answer.headers["Retry-After"]) <= GUESSES_BACK_SECONDS + 1)
        self.rig.house.pass_time(int(answer.headers["Retry-After"]))
        self.assertEqual(200, self.rig.ask("/admin").status)

    def test_calls(self) -> None:
        statuses = [self.rig.ask("/admin").status for _ in range(CALLS_AT_ONCE + 1)]
        self.assertEqual([200] * CALLS_AT_ONCE + [429], statuses)
        answer = self.rig.ask("/admin/keys", "POST", {"name": "late"})
        self.assertEqual((429, "1"), (answer.status, answer.headers["Retry-After"]))
        self.assertEqual([], self.rig.keys.asked)


class ProxyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = AdminRig([ip_network("192.0.2.0/24")])
        self.lines = listen(self)

    def test_guesses_count_by_who_asks(self) -> None:
        """The wire's end is 192.0.2.7: a proxy of ours."""
        far = [("X-Forwarded-For", "203.0.113.5")]
        for _ in range(GUESSES + 1):
            self.rig.ask("/admin", key="x" * 25, headers=far)
        self.assertEqual(429, self.rig.ask("/admin", headers=far).status)
        self.assertEqual(200, self.rig.ask("/admin", headers=[("X-Forwarded-For", "203.0.113.6")]).status)

    def test_the_log_names_who_asks(self) -> None:
        self.rig.ask("/admin", headers=[("X-Forwarded-For", "198.51.100.9, 203.0.113.5")])
        self.assertTrue(self.lines.having("admin: 203.0.113.5 GET /admin"))


class LineTests(DoorCase):
    def test_every_call_has_one(self) -> None:
        self.rig.keys.add()
        key_id = next(iter(self.rig.keys.details_of))
        done = self.rig.ask(f"/admin/keys/{key_id}/revoke", "POST")
        (line,) = self.admin_lines()
        self.assertIn(f"admin: 192.0.2.7 POST /admin/keys/{key_id}/revoke: keys.revoke {key_id} -> 200 done", line)
        self.assertIn(f"(request {done.headers['X-Request-Id']})", line)
        refused = self.rig.ask("/admin/keys/nobody")
        self.assertIn("keys.show", self.admin_lines()[1])
        self.assertIn(f"-> 404 unknown_key (request {refused.headers['X-Request-Id']})", self.admin_lines()[1])

    def test_no_key_stands_in_any(self) -> None:
        made = self.rig.ask("/admin/keys", "POST", {"name": "desk"}).json()
        text = made["key"]
        self.rig.ask(f"/admin/keys/{text}")
        self.rig.ask(f"/admin/{text}/{KEY}?key={KEY}")
        self.rig.ask(f"/admin/{KEY.replace('-', '%2d')}", key=None)
        self.rig.ask(f"/admin/keys/{text}", key=text)
        self.rig.ask("/admin/invalidate-key", "POST", {"key_id": text})
        self.rig.ask("/admin", key=KEY + "x")
        found = "\n".join(self.admin_lines())
        self.assertEqual(7, len(self.admin_lines()))
        for secret in (text, "s" * 25, KEY, KEY.replace("-", "%2d")):
            self.assertNotIn(secret, found)

    def test_no_line_can_be_forged(self) -> None:
        self.rig.ask("/admin/x%0aadmin:%1b[2J")
        self.rig.ask("/admin/parameters/x%0ay", "DELETE")
        for line in self.admin_lines():
            self.assertTrue(line.isprintable(), line)

    def test_who_hammers_does_not_fill_the_log(self) -> None:
        for _ in range(LINES_AT_ONCE + 100):
            self.rig.ask("/admin", key=None)
        self.assertEqual(LINES_AT_ONCE, len(self.admin_lines()))
        self.assertEqual(LINES_AT_ONCE + 100, self.rig.count("door", 401))
        self.rig.ask("/admin")
        self.assertEqual(LINES_AT_ONCE + 1, len(self.admin_lines()))
        self.rig.house.pass_time(2.0)
        self.rig.ask("/admin", key=None)
        self.assertIn("100 before it have no line", self.admin_lines()[-1])


class FaultTests(DoorCase):
    def test_the_database_is_away(self) -> None:
        self.rig.keys.away = StoreUnavailableError("connection refused")
        answer = self.rig.ask("/admin/keys", "POST", {"name": "desk"})
        self.assertEqual((503, "store_unavailable"), (answer.status, problem_of(answer)["code"]))
        self.assertIn("Retry-After", answer.headers)
        self.assertEqual(1, self.rig.count("keys.create", 503))

    def test_the_database_will_not(self) -> None:
        self.rig.keys.away = StoreRefusedError("violates a check")
        answer = self.rig.ask("/admin/keys")
        self.assertEqual((409, "conflict"), (answer.status, problem_of(answer)["code"]))

    def test_a_fault_of_ours(self) -> None:
        self.rig.keys.away = ZeroDivisionError("oops")
        answer = self.rig.ask("/admin/keys")
        self.assertEqual((500, "internal_error"), (answer.status, problem_of(answer)["code"]))
        self.assertNotIn(b"oops", answer.body)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertTrue(self.lines.having(f"Request {answer.headers['X-Request-Id']}: keys.list failed"))

    def test_a_body_that_is_too_large(self) -> None:
        answer = self.rig.ask("/admin/keys", "POST", b" " * 17_000)
        self.assertEqual(413, answer.status)
        self.assertEqual([], self.rig.keys.asked)


class StreamPage(Page):
    """A page that answers in its own way."""

    def __init__(self, entrance: Entrance) -> None:
        super().__init__()
        self._entrance = entrance

    def answer(self, request: WebRequest) -> None:
        allowed = self._entrance.allows(request)
        if allowed is True:
            request.respond(200, b"{}", b"application/json")
        else:
            request.refuse(allowed)


class EntranceTests(DoorCase):
    def test_other_pages_have_the_same_door(self) -> None:
        self.rig.root.putChild(b"events", StreamPage(self.rig.door.entrance("events")))
        self.assertEqual(200, self.rig.ask("/admin/events").status)
        answer = self.rig.ask("/admin/events", key="x" * 25)
        self.assertEqual((401, "bad_admin_key"), (answer.status, problem_of(answer)["code"]))
        self.assertEqual((1, 1), (self.rig.count("events", 200), self.rig.count("door", 401)))
        self.assertIn("GET /admin/events: events  -> 200 let in", self.admin_lines()[0])
