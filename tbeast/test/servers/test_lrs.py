"""The report surface over HTTP: who may ask, what goes out, and that nothing is read for who does not read."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.adminaccess import AdminAccess
from tbeast.domain.admission import NO_LIMIT
from tbeast.domain.reportorders import OPERATOR
from tbeast.domain.usage import Kind
from tbeast.servers.admindoor import AdminDoor
from tbeast.servers.lrs import LrsSite, lrs_pages
from tbeast.servers.site import IDLE_SECONDS, tree
from tbeast.test.servers.rooms import FREE, PARTNER, House, Response, Wire, problem_of, question, read
from tbeast.test.services.reportparts import NOW, Desk, line
from tbeast.testing.logs import listen

ADMIN = "operator-of-this-house"
FREE_ID = "freefreefr"


class LrsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = listen(self)
        self.house = House()
        self.house.time = NOW
        self.desk = Desk([line(number) for number in range(400)], 50, self.house.clock)
        self.site = self.surface(ADMIN)
        self.wire = Wire(self.site)

    def surface(self, admin_key: str | None) -> LrsSite:
        house = self.house
        operator = None
        if admin_key is not None:
            door = AdminDoor(AdminAccess(admin_key, house.now()), (), house.now, house.counters)
            operator = door.entrance("reports")
        pages = lrs_pages(gate=house.gate, reports=self.desk.reports, now=house.now, operator=operator)
        return LrsSite(
            tree(pages), reactor=house.clock, now=house.now, new_id=house.new_id, counters=house.counters,
            ledger=house.ledger,
        )  # fmt: skip

    def turn(self) -> None:
        """Let everything happen that waits for a turn of the reactor alone."""
        clock = self.house.clock
        while any(call.getTime() <= clock.seconds() for call in clock.calls):
            clock.advance(0)

    def ask(self, target: str, key: str | None = FREE, method: str = "GET", *headers: tuple[str, str]) -> Response:
        """Ask, and read all of the answer."""
        self.wire.send(question(target, key, method, headers=headers))
        self.turn()
        return self.wire.answer(method)

    def code(self, target: str, key: str | None = FREE, *headers: tuple[str, str]) -> str:
        code: str = problem_of(self.ask(target, key, "GET", *headers))["code"]
        return code

    def rows(self) -> list[tuple[Kind, int]]:
        return [(row.kind, row.request_count) for row in self.house.ledger.drain()]


class WhoTests(LrsCase):
    def test_keys(self) -> None:
        for headers in ((("X-API-Key", FREE),), (("Authorization", f"Bearer {FREE}"),)):
            self.assertEqual(200, self.ask("/reports/summary", None, "GET", *headers).status)
        self.assertEqual("missing_key", self.code("/reports/summary", None))
        answer = self.ask("/reports/summary", "wrong-key")
        self.assertEqual((401, 'Bearer realm="tbeast", error="invalid_token"'),
                         (answer.status, answer.headers["WWW-Authenticate"]))  # fmt: skip
        self.house.gate.keyring.is_complete = False  # type: ignore[misc]
        answer = self.ask("/reports/summary", "wrong-key")
        self.assertEqual(("keys_unavailable", "5"), (problem_of(answer)["code"], answer.headers["Retry-After"]))

    def test_a_key_sees_its_own(self) -> None:
        self.desk.reading.whole += [line(900 + number, "somebody") for number in range(9)]
        found = json.loads(self.ask("/reports/usage?page_size=1000").body)
        self.assertEqual({FREE_ID}, {row["key_id"] for row in found["rows"]})
        self.assertEqual(400, found["row_count"])
        self.assertEqual(0, json.loads(self.ask("/reports/usage", PARTNER).body)["row_count"])
        self.assertEqual("malformed_parameter", self.code("/reports/usage?key_id=somebody"))

    def test_the_operator_sees_all(self) -> None:
        self.desk.reading.whole += [line(900 + number, "somebodyel") for number in range(9)]
        admin = ("X-Admin-Key", ADMIN)
        answer = self.ask("/reports/usage?page_size=1000", None, "GET", admin)
        self.assertEqual((409, str(NO_LIMIT)),
                         (json.loads(answer.body)["row_count"], answer.headers["RateLimit-Remaining"]))  # fmt: skip
        one = json.loads(self.ask("/reports/usage?key_id=somebodyel", None, "GET", admin).body)
        self.assertEqual(9, one["row_count"])
        self.assertEqual([OPERATOR] * 2, [made.key_id for made in self.desk.log.made])
        self.assertEqual({(OPERATOR, 200, True)}, {(kind[0], kind[6], kind[7]) for kind, _ in self.rows()})

    def test_who_is_no_operator(self) -> None:
        """A wrong key is no key, and where none is set there is no operator; a key of his own does not help."""
        self.assertEqual("bad_admin_key", self.code("/reports/usage", FREE, ("X-Admin-Key", ADMIN[:-1])))
        self.assertEqual("missing_key", self.code("/reports/usage", FREE, ("X-Admin-Key", "")))
        twice = (("X-Admin-Key", ADMIN), ("X-Admin-Key", ADMIN))
        self.assertEqual("malformed_authorization", self.code("/reports/usage", FREE, *twice))
        codes = [self.code("/reports/usage", FREE, ("X-Admin-Key", f"guess-{number}")) for number in range(8)]
        self.assertEqual(["bad_admin_key"] * 4 + ["rate_limited"] * 4, codes)
        self.wire = Wire(self.surface(None))
        for given in (ADMIN, "", "None"):
            self.assertEqual("bad_admin_key", self.code("/reports/usage", FREE, ("X-Admin-Key", given)))

    def test_when_nothing_can_be_recorded(self) -> None:
        self.house.gate.is_shut = True
        self.assertEqual("metering_unavailable", self.code("/reports/usage"))


class WhatTests(LrsCase):
    def test_paths(self) -> None:
        for path in ("usage", "summary", "report-usage", "report-summary"):
            self.assertEqual(200, self.ask(f"/reports/{path}", PARTNER).status, path)
        for path in ("/", "/reports", "/reports/", "/reports/other", "/reports/usage/1", "/price"):
            self.assertEqual("not_found", self.code(path), path)
        answer = self.ask("/reports/usage", FREE, "POST", ("Content-Length", "0"))
        self.assertEqual((405, "GET, HEAD"), (answer.status, answer.headers["Allow"]))

    def test_what_is_asked_badly_costs_nothing(self) -> None:
        problem = problem_of(self.ask("/reports/usage?format=xml&nonsense=1"))
        self.assertEqual({"format", "nonsense"}, {fault["parameter"] for fault in problem["faults"]})
        self.assertEqual([], self.desk.log.made)
        self.assertEqual([(FREE_ID, 400, False)], [(kind[0], kind[6], kind[7]) for kind, _ in self.rows()])

    def test_quota(self) -> None:
        lefts = [self.ask("/reports/summary").headers["RateLimit-Remaining"] for _ in range(10)]
        self.assertEqual([str(left) for left in range(9, -1, -1)], lefts)
        self.house.pass_time(5.0)  # the bucket is filled
        answer = self.ask("/reports/summary")
        self.assertEqual(("report_quota_exceeded", 429, "1083200", "10", "0", "1083195"), (
            problem_of(answer)["code"], answer.status, answer.headers["Retry-After"], answer.headers["RateLimit-Limit"],
            answer.headers["RateLimit-Remaining"], str(int(answer.headers["RateLimit-Reset"]) - 5),
        ))  # fmt: skip
        self.assertEqual({(200, True): 10, (429, False): 1}, {(kind[6], kind[7]): count for kind, count in self.rows()})

    def test_too_fast(self) -> None:
        """HEAD is refused with the rest, and nothing of it is logged as a report."""
        statuses = [self.ask("/reports/summary", PARTNER, "HEAD").status for _ in range(11)]
        self.assertEqual([200] * 10 + [429], statuses)
        answer = self.ask("/reports/summary", PARTNER)
        self.assertEqual(("rate_limited", "1"), (problem_of(answer)["code"], answer.headers["Retry-After"]))
        self.assertEqual([], self.desk.log.made)

    def test_head(self) -> None:
        """It says which format there would be, and makes no report."""
        for target, kind in (("?format=csv", "text/csv"), ("", "application/json"), ("?format=text", "text/plain")):
            answer = self.ask(f"/reports/usage{target}", FREE, "HEAD")
            self.assertEqual((200, b"", None), (answer.status, answer.body, answer.headers["Content-Length"]))
            self.assertTrue(answer.headers["Content-Type"].startswith(kind))
            self.assertIsNone(answer.headers["Transfer-Encoding"])
        self.assertEqual(400, self.ask("/reports/usage?format=xml", FREE, "HEAD").status)
        self.assertEqual((0, []), (self.desk.reading.read, self.desk.log.made))
        self.assertTrue(self.wire.is_open)

    def test_accept(self) -> None:
        for accept, kind in (
            ("*/*", "application/json"), ("text/csv", "text/csv"), ("text/*", "text/csv"),
            ("image/png", "application/json"),
            ("text/plain, text/csv;q=0.5", "text/plain"), ("text/csv;q=0, text/*", "text/tab-separated-values"),
            ("text/html,application/xml;q=0.9,*/*;q=0.8", "application/json"), (";q=,/;,", "application/json"),
            ("text/csv;q=nan", "application/json"), ("TEXT/PLAIN; Q=1.0", "text/plain"),
        ):  # fmt: skip
            self.house.pass_time(1.0)
            answer = self.ask("/reports/usage", PARTNER, "HEAD", ("Accept", accept))
            self.assertEqual(kind, answer.headers["Content-Type"].split(";")[0], accept)
        answer = self.ask("/reports/usage?format=text", PARTNER, "HEAD", ("Accept", "text/csv"))
        self.assertEqual("text/plain", answer.headers["Content-Type"].split(";")[0])

    def test_away(self) -> None:
        self.desk.go_away()
        answer = self.ask("/reports/usage")
        self.assertEqual(("store_unavailable", 503, "5"),
                         (problem_of(answer)["code"], answer.status, answer.headers["Retry-After"]))  # fmt: skip

    def test_a_page(self) -> None:
        """It has its length, and the way to the next in a header as well."""
        answer = self.ask("/reports/usage?page_size=30")
        found = json.loads(answer.body)
        self.assertEqual(str(len(answer.body)), answer.headers["Content-Length"])
        self.assertEqual(found["next_cursor"], answer.headers["Report-Next-Cursor"])
        second = self.ask(f"/reports/usage?page_size=30&cursor={found['next_cursor']}")
        self.assertEqual([one.id for one in self.desk.reading.whole[30:60]],
                         [row["id"] for row in json.loads(second.body)["rows"]])  # fmt: skip
        self.assertEqual("9", second.headers["RateLimit-Remaining"])

    def test_a_fault_of_ours(self) -> None:
        self.desk.reading.ask = lambda: 1 // 0  # type: ignore[method-assign, assignment]
        self.assertEqual("internal_error", self.code("/reports/usage"))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class StreamTests(LrsCase):
    def begin(self, target: str = "/reports/usage?format=csv", head: str = "HTTP/1.1") -> None:
        asked = question(target, FREE).replace(b"HTTP/1.1", head.encode())
        self.wire.send(asked)

    def step(self) -> None:
        """Let the next thing happen that waits for a turn of the reactor."""
        (call, *_) = sorted(self.house.clock.calls, key=lambda call: call.getTime())
        self.assertLessEqual(call.getTime(), self.house.clock.seconds())
        self.house.clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)

    def pause(self) -> None:
        """The client does not take what there is."""
        self.wire.channel.pauseProducing()

    def status(self) -> list[tuple[int, Any]]:
        return [(made.row_count, made.details.get("broken_off")) for made in self.desk.log.made]

    def ended(self) -> bool:
        """Whether what was sent is a whole answer."""
        return bytes(self.wire.transport.value()).endswith(b"\r\n0\r\n\r\n")

    def assert_over(self) -> None:
        self.assertEqual((0, {}, set()), (self.desk.reports.reading, dict(self.desk.reports.open), self.site.flows))

    def test_a_whole_one(self) -> None:
        answer = self.ask("/reports/usage?format=csv")
        self.assertEqual(("chunked", "text/csv; charset=utf-8; header=present", "no-store", "9"), tuple(
            answer.headers[name]
            for name in ("Transfer-Encoding", "Content-Type", "Cache-Control", "RateLimit-Remaining")
        ))  # fmt: skip
        self.assertEqual(401, answer.body.count(b"\r\n"))
        self.assertEqual([(400, None)], self.status())
        self.assertEqual([(200, True, 1)], [(kind[6], kind[7], count) for kind, count in self.rows()])
        self.assertEqual(200, self.ask("/reports/summary").status)  # on the same connection
        self.assert_over()

    def test_an_old_client(self) -> None:
        """The end of the connection is the end of the report."""
        self.begin(head="HTTP/1.0")
        self.turn()
        answer = read(self.wire.transport.value())
        self.assertIsNone(answer.headers["Transfer-Encoding"])
        self.assertEqual((401, False), (answer.body.count(b"\r\n"), self.wire.is_open))

    def test_nothing_is_read_for_who_does_not_read(self) -> None:
        self.begin()
        for _ in range(3):
            self.step()
        self.pause()
        self.turn()
        read, sent = self.desk.reading.read, len(self.wire.transport.value())
        self.assertEqual(5, read)
        self.turn()
        self.assertEqual((read, sent), (self.desk.reading.read, len(self.wire.transport.value())))
        self.assertEqual(0, self.desk.reports.reading)
        self.house.pass_time(IDLE_SECONDS - 1.0)
        self.wire.channel.resumeProducing()
        self.turn()
        self.assertTrue(self.ended())
        self.assertEqual(([(400, None)], 8), (self.status(), self.desk.reading.read))
        self.assert_over()

    def test_one_piece_at_a_time(self) -> None:
        """However often the client is full, it gets all, and nothing is read ahead."""
        self.begin()
        for number in range(8):
            self.pause()
            self.turn()
            self.assertLessEqual(self.desk.reading.read, number + 2)
            self.wire.channel.resumeProducing()
        self.turn()
        self.assertEqual(401, read(self.wire.transport.value()).body.count(b"\r\n"))

    def test_too_slow(self) -> None:
        """It is cut off and counted, without the last chunk, and the reading is closed."""
        self.begin()
        self.pause()
        self.turn()
        self.house.pass_time(IDLE_SECONDS)
        self.assertFalse(self.wire.is_open)
        self.assertFalse(self.ended())
        self.assertEqual(1, self.house.counters.value("slow_clients", "lrs", "slow_read"))
        self.assertEqual((["client"], 1), ([why for _, why in self.status()], self.desk.reading.closed))
        self.assertEqual([(200, True)], [(kind[6], kind[7]) for kind, _ in self.rows()])
        self.assert_over()

    def test_the_client_goes_away(self) -> None:
        """Between two pieces, while it is full, and while the first is read."""
        for pause, turns in ((False, 3), (True, 1), (False, 0)):
            self.desk.log.made.clear()
            self.desk.reading.closed = 0
            self.wire = Wire(self.site)
            self.begin()
            if pause:
                self.pause()
            for _ in range(turns):
                self.step()
            self.wire.lose(ConnectionLost())
            self.turn()
            self.assertEqual((["client"], 1), ([why for _, why in self.status()], self.desk.reading.closed))
            self.assertEqual([(200, True)], [(kind[6], kind[7]) for kind, _ in self.rows()])
            self.assert_over()
        self.assertEqual(3, self.desk.log.counts.total())

    def test_the_client_goes_away_before_the_first_row(self) -> None:
        waiting: Deferred[None] = Deferred()
        self.desk.reading.pausing = [waiting]
        self.begin()
        self.wire.lose(ConnectionLost())
        waiting.callback(None)
        self.turn()
        self.assertEqual([(0, "client")], self.status())
        self.assert_over()

    def test_the_database_goes_away(self) -> None:
        """The connection is cut, so that nobody takes what came for the whole."""
        for head in ("HTTP/1.1", "HTTP/1.0"):
            self.desk.reading.away_after = 4
            self.wire = Wire(self.site)
            self.begin(head=head)
            self.turn()
            self.assertIn(b"HTTP/1.1 200 OK", bytes(self.wire.transport.value()).replace(b"1.0 200", b"1.1 200"))
            self.assertFalse(self.ended())
            self.assertFalse(self.wire.is_open)
            self.desk.go_away(False)
        self.assertEqual(["database"] * 2, [why for _, why in self.status()])
        self.assertEqual(0, self.desk.log.counts.total())
        self.assert_over()

    def test_the_port_closes(self) -> None:
        """Nobody would be told of the end, so it is now, and recorded while that can be done."""
        self.begin()
        self.pause()
        self.turn()
        self.site.stopFactory()
        self.assertEqual(["stopping"], [why for _, why in self.status()])
        self.assertEqual(1, self.house.ledger.requests)
        self.assertFalse(self.ended())
        self.assertEqual(0, self.desk.log.counts.total())
        self.assert_over()

    def test_the_port_closes_before_what_is_whole_goes_out(self) -> None:
        """It was made, and nobody has it: that uses up nothing."""
        waiting: Deferred[None] = Deferred()
        self.desk.reading.pausing = [waiting]
        self.begin("/reports/usage")
        self.site.stopFactory()
        waiting.callback(None)
        self.turn()
        self.assertEqual((b"", 0), (bytes(self.wire.transport.value()), self.desk.log.counts.total()))
        self.assert_over()

    def test_the_ledger_is_closed(self) -> None:
        """Nothing is given that would not be recorded."""
        self.house.ledger.is_closed = True
        self.begin()
        self.turn()
        self.assertEqual((b"", 0), (bytes(self.wire.transport.value()), self.house.ledger.requests))
        self.assertEqual(["stopping"], [why for _, why in self.status()])

    def test_a_fault_of_ours_in_the_middle(self) -> None:
        self.desk.reading.whole[200] = "no line"  # type: ignore[call-overload]
        self.desk.reading.usage = self._broken  # type: ignore[method-assign]
        self.begin()
        self.turn()
        self.assertFalse(self.ended())
        self.assertEqual(["fault"], [why for _, why in self.status()])
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(0, self.desk.log.counts.total())

    async def _broken(self, query: object, cut: object) -> Any:
        yield self.desk.reading.whole[:50]
        raise ZeroDivisionError
