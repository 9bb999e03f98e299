"""Manners of the HTTP surface towards hostile and clumsy clients."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET

from tbeast.servers.site import AT_A_TIME, IDLE_SECONDS, LARGEST_BODY, LARGEST_READ_AWAY, Page, WebRequest, tree
from tbeast.test.servers.rooms import PARTNER, House, Wire, problem_of, question, quote_of, read

MOMENT = 1 / 1024


class BrokenPage(Page):
    """Raises at once, or after it has begun to answer."""

    def __init__(self, begin: bool) -> None:
        super().__init__()
        self._begin = begin

    def answer(self, request: WebRequest) -> None:
        if self._begin:
            request.write(b"begun")
        raise ZeroDivisionError("secret")


class SiteCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()
        self.site = self.house.site(self.house.lpo())
        self.wire = Wire(self.site)


class PathTests(SiteCase):
    def test_nothing_there(self) -> None:
        for path in ("/", "//", "/price/", "/price/x", "/Price", "/price%00", "/favicon.ico", "/" + "a/" * 5000, "/%ff",
                     "/../price", "/exchanges/x", "*", "price", "/.env"):  # fmt: skip
            answer = self.wire.ask(path)
            self.assertEqual((404, "not_found"), (answer.status, problem_of(answer)["code"]), path[:40])

    def test_same_path_in_other_letters(self) -> None:
        for path in (
            "/price?asset=BTC",
            "/%70rice?asset=BTC",
            "http://test/price?asset=BTC",
            "HTTPS://x/price?asset=BTC",
        ):
            self.assertEqual(200, self.wire.ask(path).status, path)
        for path in ("http://test", "http://test/", "http://", "xprice?asset=BTC", "?price"):
            self.assertEqual(404, self.wire.ask(path).status, path)

    def test_methods(self) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "get", "BREW", "CONNECT"):
            answer = self.wire.ask("/price?asset=BTC", method=method)
            self.assertEqual((405, "GET, HEAD"), (answer.status, answer.headers["Allow"]), method)
            self.assertEqual("method_not_allowed", problem_of(answer)["code"])
        self.assertEqual("GET, HEAD, POST", self.wire.ask("/prices", method="PUT").headers["Allow"])

    def test_head_of_a_refusal(self) -> None:
        raw = self.wire.send(question("/nowhere", method="HEAD"))
        self.assertTrue(raw.endswith(b"\r\n\r\n"))
        self.assertEqual(404, read(raw, "HEAD").status)


class ManyWaysToSayItTests(SiteCase):
    def test_the_last_question(self) -> None:
        """However a client says that it is, the connection ends, and the answer says so."""
        for wish in (
            [("Connection", "close")], [("Connection", "close, keep-alive")], [("Connection", "Keep-Alive,Close")],
            [("Connection", "keep-alive"), ("Connection", "close")], [("Connection", "x,\tclose ,y")],
        ):  # fmt: skip
            wire = Wire(self.site)
            answer = wire.ask("/price?asset=BTC", headers=wish)
            self.assertEqual((200, "close"), (answer.status, answer.headers["Connection"]), wish)
            self.assertFalse(wire.is_open, wish)
        for wish in ([("Connection", "keep-alive")], [("Connection", "closed")], [("Connection", "x-close, upgrade")]):
            wire = Wire(self.site)
            self.assertNotIn("Connection", wire.ask("/price?asset=BTC", headers=wish).headers, wish)
            self.assertTrue(wire.is_open, wish)

    def test_codings_that_others_may_read_otherwise(self) -> None:
        """A body is chunked, or as long as it says; nothing else is guessed at."""
        for codings in (
            ["identity"],
            ["identity", "chunked"],
            ["chunked", "identity"],
            ["gzip, chunked"],
            ["Chunked", "chunked"],
        ):
            wire = Wire(self.site)
            fields = "".join(f"Transfer-Encoding: {coding}\r\n" for coding in codings)
            raw = wire.send(question("/price?asset=BTC").replace(b"\r\n\r\n", f"\r\n{fields}\r\n0\r\n\r\n".encode()))
            self.assertTrue(raw.startswith(b"HTTP/1.1 400 "), codings)
            self.assertFalse(wire.is_open, codings)


class MistakeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()
        self.wire = Wire(self.house.site(tree({b"soon": BrokenPage(False), b"late": BrokenPage(True)})))

    def test_before_the_answer(self) -> None:
        answer = self.wire.ask("/soon")
        self.assertEqual((500, "internal_error"), (answer.status, problem_of(answer)["code"]))
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertTrue(self.wire.is_open)

    def test_within_the_answer(self) -> None:
        """What was begun cannot be taken back, but it must not look whole."""
        sent = self.wire.send(question("/late"))
        self.assertIn(b"begun", sent)
        self.assertFalse(sent.endswith(b"0\r\n\r\n"))
        self.assertFalse(self.wire.is_open)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_page_without_an_answer(self) -> None:
        wire = Wire(self.house.site(tree({b"bare": Page()})))
        self.assertEqual(500, wire.ask("/bare").status)
        self.assertEqual(1, len(self.flushLoggedErrors(NotImplementedError)))
        self.assertEqual(1, NOT_DONE_YET)


class BodyTests(SiteCase):
    def test_too_large(self) -> None:
        """It is read away, refused, and the connection goes on."""
        for size in (LARGEST_BODY + 1, 200_000):
            answer = self.wire.ask("/prices", method="POST", body=b" " * size)
            self.assertEqual((413, "body_too_large"), (answer.status, problem_of(answer)["code"]))
        self.assertEqual(200, self.wire.ask("/price?asset=BTC").status)

    def test_largest(self) -> None:
        body = b'{"assets":["BTC"]}'.ljust(LARGEST_BODY)
        self.assertEqual(200, self.wire.ask("/prices", method="POST", body=body).status)

    def test_announced_far_too_large(self) -> None:
        """It is refused before any of it comes in, without asking for it, and the connection ends."""
        headers = [("Content-Length", str(LARGEST_READ_AWAY + 1)), ("Expect", "100-continue")]
        sent = self.wire.send(question("/prices", method="POST", headers=headers))
        self.assertEqual(413, read(sent).status)
        self.assertNotIn(b"100 Continue", sent)
        self.assertFalse(self.wire.is_open)
        self.assertEqual(1, self.house.counters.value("requests", "lpo", "http", "413"))

    def test_announced_in_too_many_digits(self) -> None:
        """Python reads no number of more than 4,300 digits."""
        for digits in ("9" * 5000, "0" * 5000, "9" * 19):
            wire = Wire(self.site)
            answer = read(wire.send(question("/prices", method="POST", headers=[("Content-Length", digits)])))
            self.assertEqual(413, answer.status)
            self.assertFalse(wire.is_open)
        wire = Wire(self.site)
        sent = wire.send(question("/prices", method="POST", headers=[("Content-Length", "x" * 5000)]))
        self.assertEqual(b"HTTP/1.1 400 Bad Request\r\n\r\n", sent)

    def test_chunked_without_end(self) -> None:
        """A body that does not say how long it is gets no further than one that does."""
        self.wire.send(question("/prices", method="POST", headers=[("Transfer-Encoding", "chunked")]))
        sent = b""
        for _ in range(40):
            if self.wire.is_open:
                sent += self.wire.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        self.assertEqual(413, read(sent).status)
        self.assertEqual(1, sent.count(b"HTTP/1.1"))
        self.assertFalse(self.wire.is_open)

    def test_continue(self) -> None:
        headers = [("Content-Length", "18"), ("Expect", "100-continue")]
        sent = self.wire.send(question("/prices", method="POST", headers=headers))
        self.assertEqual(b"HTTP/1.1 100 Continue\r\n\r\n", sent)
        self.assertEqual(200, read(self.wire.send(b'{"assets":["BTC"]}')).status)

    def test_body_of_a_get(self) -> None:
        """It is of no use, and no harm."""
        self.assertEqual(200, self.wire.ask("/price?asset=BTC", body=b"whatever").status)
        self.assertEqual(200, self.wire.ask("/price?asset=BTC").status)

    def test_form(self) -> None:
        """A body is not read as a form, whatever it says it is."""
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "multipart/form-data"):
            answer = self.wire.ask("/prices", method="POST", body=b"assets=BTC", headers=[("Content-Type", kind)])
            self.assertEqual("malformed_body", problem_of(answer)["code"])


class HostTests(SiteCase):
    """A question over HTTP/1.1 names one host: with none or two, a proxy and we might mean different ones."""

    def test_one_host(self) -> None:
        line = b"GET /exchanges HTTP/1.%d\r\n"
        for version, hosts, status in ((1, 1, 200), (1, 0, 400), (1, 2, 400), (0, 0, 200), (0, 1, 200)):
            sent = Wire(self.site).send(line % version + b"Host: x\r\n" * hosts + b"\r\n")
            self.assertIn(b" %d " % status, sent.partition(b"\r\n")[0], (version, hosts))
            if status == 400:
                self.assertIn(b'"code":"bad_request"', sent)


class PipelineTests(SiteCase):
    """Questions sent ahead of their answers."""

    def setUp(self) -> None:
        super().setUp()
        # a turn of this clock takes a moment, so that they can be told apart
        clock = self.house.clock
        call_later = clock.callLater
        self.patch(clock, "callLater", lambda seconds, *what: call_later(seconds or MOMENT, *what))

    def turn(self) -> None:
        self.house.clock.advance(MOMENT)

    def statuses(self, data: bytes) -> int:
        return data.count(b"HTTP/1.1 200")

    def test_in_turns(self) -> None:
        """All are answered, but only so many at a time, and meanwhile no more is read."""
        wire = self.wire
        wire.transport.clear()
        wire.channel.dataReceived(question("/price?asset=BTC") * 100 + b"GET /exch")
        self.assertEqual(AT_A_TIME, self.statuses(wire.transport.value()))
        self.assertEqual("paused", wire.transport.producerState)
        turns = 0
        while self.statuses(wire.transport.value()) < 100 and turns < 100:
            turns += 1
            self.turn()
            self.assertLessEqual(self.statuses(wire.transport.value()), AT_A_TIME * (turns + 1))
        self.assertEqual(100 // AT_A_TIME, turns)
        self.assertEqual("producing", wire.transport.producerState)
        self.assertEqual(1, self.statuses(wire.send(b"anges HTTP/1.1\r\nHost: x\r\n\r\n")))

    def test_one_after_the_other(self) -> None:
        """Who waits for each answer is never made to wait for a turn."""
        for _ in range(AT_A_TIME * 3):
            self.assertEqual(200, self.wire.ask("/price?asset=BTC").status)
        self.assertEqual("producing", self.wire.transport.producerState)

    def test_bodies(self) -> None:
        one = question("/prices", method="POST", body=b'{"assets":["BTC"]}')
        self.wire.channel.dataReceived(one * 20)
        self.assertEqual(AT_A_TIME, self.statuses(self.wire.transport.value()))
        for _ in range(20):
            self.turn()
        self.assertEqual(20, self.statuses(self.wire.transport.value()))

    def test_after_a_wait(self) -> None:
        """What came in behind a question that had to wait is answered in turns as well."""
        waiting = self.house.lookup.later("ETH")
        self.wire.channel.dataReceived(question("/price?asset=ETH"))
        self.wire.channel.dataReceived(question("/price?asset=BTC") * 30)
        self.assertEqual(0, self.statuses(self.wire.transport.value()))
        waiting.callback(quote_of("ETH", fresh_until=self.house.time + 1))
        self.assertLessEqual(self.statuses(self.wire.transport.value()), AT_A_TIME)
        for _ in range(10):
            self.turn()
        self.assertEqual(31, self.statuses(self.wire.transport.value()))
        self.assertEqual("producing", self.wire.transport.producerState)

    def test_answers_left_unread(self) -> None:
        """Who does not read is answered nothing more until it does."""
        wire = self.wire
        wire.channel.dataReceived(question("/asset-categories") * (AT_A_TIME + 100))
        wire.channel.pauseProducing()  # the transport has too much
        for _ in range(10):
            self.turn()
        self.assertEqual(AT_A_TIME, self.statuses(wire.transport.value()))
        wire.channel.resumeProducing()
        self.assertEqual(AT_A_TIME, self.statuses(wire.transport.value()))
        self.assertEqual("paused", wire.transport.producerState)
        for _ in range(20):
            self.turn()
        self.assertEqual(AT_A_TIME + 100, self.statuses(wire.transport.value()))

    def test_too_much_within_a_turn(self) -> None:
        """The transport says that it has too much while an answer is written: that answer is the last."""
        wire = self.wire
        write = wire.transport.write

        def full(data: bytes) -> None:
            write(data)
            wire.channel.pauseProducing()

        self.patch(wire.transport, "write", full)
        wire.channel.dataReceived(question("/exchanges") * 20)
        self.turn()
        self.assertEqual(1, self.statuses(wire.transport.value()))
        wire.channel.resumeProducing()
        self.turn()
        self.assertEqual(2, self.statuses(wire.transport.value()))

    def test_never_read(self) -> None:
        """It is idle then like any other."""
        self.wire.channel.dataReceived(question("/exchanges") * 20)
        self.wire.channel.pauseProducing()
        self.turn()
        self.house.pass_time(IDLE_SECONDS)
        self.assertFalse(self.wire.is_open)
        self.assertEqual([], self.house.clock.getDelayedCalls())

    def test_last_one_ends_it(self) -> None:
        last = question("/exchanges", headers=[("Connection", "close")])
        self.wire.channel.dataReceived(question("/exchanges") * (AT_A_TIME - 1) + last + question("/exchanges") * 5)
        for _ in range(5):
            self.turn()
        self.assertEqual(AT_A_TIME, self.statuses(self.wire.transport.value()))
        self.assertFalse(self.wire.is_open)

    def test_last_answer_never_read(self) -> None:
        """A connection that we have ended does not linger for as long as the client likes."""
        self.wire.channel.dataReceived(question("/exchanges", headers=[("Connection", "close")]))
        self.assertFalse(self.wire.transport.disconnected)
        self.house.pass_time(IDLE_SECONDS)
        self.assertTrue(self.wire.transport.disconnected)
        self.assertFalse(self.wire.is_open)
        self.assertEqual([], self.house.clock.getDelayedCalls())

    def test_gone_between_turns(self) -> None:
        self.wire.channel.dataReceived(question("/exchanges") * 100)
        self.wire.lose(ConnectionError())
        self.assertEqual([], self.house.clock.getDelayedCalls())


class TimeoutTests(SiteCase):
    def test_idle(self) -> None:
        self.wire.ask("/price?asset=BTC")
        self.house.pass_time(IDLE_SECONDS - 1)
        self.assertTrue(self.wire.is_open)
        self.house.pass_time(1)
        self.assertFalse(self.wire.is_open)

    def test_questions_put_it_off(self) -> None:
        for _ in range(5):
            self.house.pass_time(IDLE_SECONDS - 1)
            self.wire.ask("/exchanges")
        self.assertTrue(self.wire.is_open)

    def test_drips_do_not(self) -> None:
        """A request that comes in a byte at a time has as long as any other."""
        for part in (b"G", b"ET /exch", b"anges HTTP/1.1\r\nHos", b"t: x\r\n", b"A: b\r\n", b"C: d\r\n"):
            self.assertTrue(self.wire.is_open)
            self.wire.send(part)
            self.house.pass_time(11)
        self.assertFalse(self.wire.is_open)

    def test_dripping_body(self) -> None:
        self.wire.send(question("/prices", method="POST", headers=[("Content-Length", "9999")]))
        for _ in range(6):
            self.wire.channel.dataReceived(b"x")
            self.house.pass_time(10)
        self.assertFalse(self.wire.is_open)

    def test_waiting_is_not_idle(self) -> None:
        """Whoever waits for a look-up is not cut off by the idle timeout, and has a fresh one after it."""
        waiting = self.house.lookup.later("ETH")
        self.wire.send(question("/price?asset=ETH"))
        self.house.pass_time(IDLE_SECONDS + 1)
        waiting.callback(quote_of("ETH", fresh_until=self.house.time + 1))
        self.assertEqual(200, self.wire.answer().status)
        self.house.pass_time(IDLE_SECONDS - 1)
        self.assertTrue(self.wire.is_open)

    def test_nothing_left_behind(self) -> None:
        self.wire.ask("/price?asset=BTC")
        self.wire.lose(ConnectionError())
        self.assertEqual([], self.house.clock.getDelayedCalls())


class EndTests(SiteCase):
    """The port is closed."""

    def test_at_rest(self) -> None:
        """Nothing more is answered, nor begun, nor recorded; also not what had come in already."""
        others = [Wire(self.site) for _ in range(3)]
        others[0].send(question("/price?asset=BTC")[:-2])
        others[1].channel.dataReceived(question("/price?asset=BTC") * (AT_A_TIME + 5))
        self.wire.ask("/price?asset=BTC")
        recorded = self.house.ledger.requests
        self.site.stopFactory()
        for wire in (self.wire, *others):
            wire.transport.clear()
            self.assertTrue(wire.transport.disconnecting)
            wire.channel.dataReceived(b"\r\n" + question("/price?asset=BTC"))
        self.house.clock.advance(0)
        self.assertEqual([b""] * 4, [wire.transport.value() for wire in (self.wire, *others)])
        self.assertEqual(recorded, self.house.ledger.requests)
        self.assertFalse(any(wire.is_open for wire in (self.wire, *others)))
        self.assertEqual([], self.house.clock.getDelayedCalls())
        self.assertEqual(set(), self.site.connections)

    def test_while_one_waits(self) -> None:
        """It gets its answer, which says that it is the last; what was sent behind it gets none."""
        waiting = self.house.lookup.later("ETH")
        self.wire.send(question("/price?asset=ETH"))
        self.wire.send(question("/price?asset=BTC") * 2)
        self.site.stopFactory()
        self.assertTrue(self.wire.is_open)
        waiting.callback(quote_of("ETH"))
        answer = self.wire.answer()
        self.assertEqual((200, "close"), (answer.status, answer.headers["Connection"]))
        self.assertEqual(1, self.wire.transport.value().count(b"HTTP/1.1 "))
        self.assertFalse(self.wire.is_open)
        self.assertEqual(1, self.house.ledger.requests)

    def test_closed_before(self) -> None:
        self.wire.lose(ConnectionError())
        self.assertEqual(set(), self.site.connections)
        self.site.stopFactory()


class HostileBytesTests(SiteCase):
    def test_no_http(self) -> None:
        """Bytes that are no HTTP get an empty 400, and the end."""
        for data in (
            b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n", b"\x00\r\n\r\n", b"GET  / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"GET / HTTP/1.1\r\nA : b\r\n\r\n", b"G\xc3\x84T / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"GET /\xff\xff HTTP/1.1\r\n\r\n",
        ):  # fmt: skip
            wire = Wire(self.site)
            self.assertEqual(b"HTTP/1.1 400 Bad Request\r\n\r\n", wire.send(data), data)
            self.assertFalse(wire.is_open)

    def test_head_without_end(self) -> None:
        for data in (b"GET /" + b"a" * 20000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000,
                     b"GET / HTTP/1.1\r\nA: " + b"b" * 17000):  # fmt: skip
            wire = Wire(self.site)
            self.assertEqual(b"HTTP/1.1 400 Bad Request\r\n\r\n", wire.send(data))
            self.assertFalse(wire.is_open, data[:30])

    def test_control_characters_do_not_come_back(self) -> None:
        """Nothing of a question gets into the headers or, unescaped, into the body of its refusal."""
        answer = self.wire.ask("/price?asset=%0d%0aSet-Cookie:x%22%3Cscript%3E%00")
        self.assertEqual("malformed_asset", problem_of(answer)["code"])
        self.assertNotIn("Set-Cookie", answer.headers)
        self.assertNotIn(b"\x00", answer.body)

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever comes in, what goes out is HTTP without HTML, and nothing is logged."""
        house = House()
        wire = Wire(house.site(house.lpo()))
        sent = wire.send(data) + (wire.send(b"\r\n\r\n") if wire.is_open else b"")
        self.assertTrue(not sent or sent.startswith(b"HTTP/1."), sent)
        self.assertNotIn(b"<html", sent.lower())
        self.assertEqual([], self.flushLoggedErrors())

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from(["/price?", "/prices?", "/explain/", "/stats?", "/"]),
        st.lists(
            st.sampled_from([*"=&%?/+;#-", "asset", "quote", "exchange", "max_age_ms", "BTC", "%0", "%ff", "9" * 30])
        ),
        st.sampled_from(["GET", "HEAD", "POST"]),
        st.none() | st.binary(max_size=50),
    )
    def test_any_target(self, path: str, parts: list[str], method: str, body: bytes | None) -> None:
        """Any question that is HTTP gets one answer, and either what was asked for or a problem that says why not."""
        house = House()
        answer = Wire(house.site(house.lpo())).ask(path + "".join(parts), PARTNER, method, body)
        self.assertIn(answer.status, {200, 400, 404, 405, 503})
        if method != "HEAD":
            (answer.json if answer.status == 200 else lambda: problem_of(answer))()
        self.assertEqual([], self.flushLoggedErrors())
