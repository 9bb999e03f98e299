"""Askers over HTTP, against servers on loopback."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.arrivals import arrivals
from tbeast.loadtest.orders import SetUp
from tbeast.loadtest.phases import closed_loop, open_loop
from tbeast.loadtest.streams import Streams
from tbeast.loadtest.tally import Tally
from tbeast.test.loadtest.peers import HttpPeer, dead_port, good, http_answer, price_of

SECONDS = 0.2


def never(_: float) -> bool:
    return False


class StreamsTests(SynchronousTestCase):
    def peer(self, answers: Callable[[str], bytes | None] = good) -> HttpPeer:
        made = HttpPeer(answers)
        self.addCleanup(made.close)
        return made

    def streams(self, port: int, timeout_seconds: float = 5.0, sources: tuple[str, ...] = ()) -> Streams:
        setup = SetUp(
            "tcp", "127.0.0.1", port, f"localhost:{port}", "the-key", ("BTC", "ETH"), timeout_seconds, sources
        )
        made = Streams(setup, time.monotonic)
        self.addCleanup(made.close)
        return made

    def gathered(self, streams: Streams, count: int) -> Tally:
        streams.gather(count, 0, time.monotonic() + 10.0)
        return streams.take()

    def run_both(self, streams: Streams, count: int = 4) -> list[Tally]:
        """Both loops; what they count must add up."""
        gathered = self.gathered(streams, count)
        self.assertEqual((gathered.connections, gathered.asked), (count, 0))
        closed = closed_loop(streams, SECONDS, never)
        steady = open_loop(streams, arrivals(100.0, SECONDS, lambda: 0.5), SECONDS, never)
        for tally in (closed, steady):
            self.assertEqual(tally.asked, tally.ok + tally.failed)
            self.assertEqual(tally.latency.total, tally.ok)
            self.assertGreater(tally.asked, 10)
        return [closed, steady]

    def test_prices(self) -> None:
        peer = self.peer()
        for tally in self.run_both(self.streams(peer.port)):
            self.assertEqual((tally.errors, tally.reopened, tally.connections), ({}, 0, 4))
        rest = f"HTTP/1.1\r\nHost: localhost:{peer.port}\r\nAuthorization: Bearer the-key"
        self.assertEqual(set(peer.asked), {f"GET /price?asset=BTC {rest}", f"GET /price?asset=ETH {rest}"})

    def test_connections_are_kept_from_level_to_level(self) -> None:
        peer = self.peer()
        streams = self.streams(peer.port)
        for count in (2, 5, 3):
            self.assertEqual(self.gathered(streams, count).connections, count)
            closed = closed_loop(streams, 0.1, never)
            self.assertEqual((closed.errors, closed.connections), ({}, count))
        self.assertEqual(len(peer.sources), 5)

    def test_answers_in_pieces(self) -> None:
        peer = self.peer()
        streams = self.streams(peer.port)
        self.gathered(streams, 1)
        stream = streams.idle.popleft()
        streams.ask(stream, 0.0, time.monotonic())
        whole = good("asset=BTC")
        for end in range(1, len(whole)):
            streams._received(stream, whole[:end])
            self.assertEqual((streams.under_way, streams.tally.ok), (1, 0))
        streams._received(stream, whole)
        self.assertEqual((streams.under_way, streams.tally.ok, list(streams.idle)), (0, 1, [stream]))

    def test_what_is_no_price_is_no_success(self) -> None:
        for answer, reason in (
            (http_answer(429, b'{"code":"rate_limited"}'), "status 429"),
            (http_answer(503), "status 503"),
            (http_answer(200, price_of("DOGE")), "wrong answer"),
            (http_answer(200, b"{}"), "wrong answer"),
            (b"HTTP/1.1 200 OK\r\n\r\n{}", "malformed answer: no Content-Length of a price"),
            (http_answer(200, b"{}") + b"x", "malformed answer: more than was asked for"),
            (b"SSH-2.0-x\r\n", "malformed answer: no head"),
            (None, "hung up"),
            (b"RESET", "reset"),
        ):

            def same(_: str, answer: bytes | None = answer) -> bytes | None:
                return answer

            peer = self.peer(same)
            for tally in self.run_both(self.streams(peer.port)):
                self.assertEqual((list(tally.errors), tally.ok), ([reason], 0), answer)
                stays = reason.startswith("status") or reason == "wrong answer"
                self.assertEqual(tally.reopened > 0, not stays)

    def test_members_in_another_order_are_a_price(self) -> None:
        peer = self.peer(lambda target: http_answer(200, b'{"price":1.5,"asset":"%b"}' % target[-3:].encode()))
        for tally in self.run_both(self.streams(peer.port)):
            self.assertEqual(tally.errors, {})

    def test_a_server_that_closes_after_each_answer(self) -> None:
        peer = self.peer(lambda target: good(target).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        for tally in self.run_both(self.streams(peer.port)):
            self.assertEqual(tally.errors, {})
            self.assertEqual(tally.reopened, tally.ok)

    def test_a_silent_server(self) -> None:
        peer = self.peer(lambda _: b"")
        streams = self.streams(peer.port, timeout_seconds=0.2)
        self.gathered(streams, 3)
        closed = closed_loop(streams, SECONDS, never)
        self.assertEqual(closed.errors, {"timed out": closed.asked})
        self.assertEqual(closed.reopened, closed.asked)

    def test_bytes_that_nobody_asked_for(self) -> None:
        peer = self.peer()
        streams = self.streams(peer.port)
        self.gathered(streams, 1)
        stream = streams.idle[0]
        streams._received(stream, good("asset=BTC"))
        self.assertEqual((streams.tally.unasked, streams.tally.asked, stream.is_open), (1, 0, False))
        closed = closed_loop(streams, SECONDS, never)
        self.assertEqual((closed.errors, closed.reopened), ({}, 1))

    def test_fewer_than_before_while_some_are_not_open_yet(self) -> None:
        peer = self.peer()
        streams = self.streams(peer.port)
        streams.gather(100, 0, 0.0)
        self.assertEqual(self.gathered(streams, 10).connections, 10)
        self.assertEqual(self.gathered(streams, 200).connections, 200)
        self.assertEqual(closed_loop(streams, SECONDS, never).errors, {})

    def test_nobody_listens(self) -> None:
        streams = self.streams(dead_port(socket.SOCK_STREAM))
        gathered = self.gathered(streams, 5)
        self.assertEqual((gathered.connections, gathered.asked, gathered.errors), (0, 5, {"connecting: refused": 5}))
        # tried again, but not in a tight loop
        self.assertEqual(self.gathered(streams, 5).asked, 5)
        self.assertLessEqual(closed_loop(streams, SECONDS, never).asked, 5)

    def test_a_server_that_comes_back(self) -> None:
        peer = self.peer()
        streams = self.streams(peer.port)
        self.gathered(streams, 2)
        peer.answers = lambda _: None
        self.assertEqual(set(closed_loop(streams, SECONDS, never).errors), {"hung up"})
        peer.answers = good
        after = closed_loop(streams, SECONDS, never)
        self.assertEqual((after.errors, after.connections), ({}, 2))
        self.assertGreater(after.ok, 10)

    def test_many_at_once_from_several_addresses(self) -> None:
        peer = self.peer()
        streams = self.streams(peer.port, sources=("127.0.0.1", "127.0.0.2", "127.0.0.3"))
        self.assertEqual(self.gathered(streams, 200).connections, 200)
        closed = closed_loop(streams, SECONDS, never)
        self.assertEqual(closed.errors, {})
        self.assertEqual({peer.sources.count(f"127.0.0.{last}") for last in (1, 2, 3)}, {66, 67})

    def test_too_few_files(self) -> None:
        peer = self.peer()
        streams = self.streams(peer.port)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as probe:
            lowest = probe.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            gathered = self.gathered(streams, 3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual(gathered.errors, {"connecting: too many open files": 3})
        self.assertEqual(self.gathered(streams, 3).connections, 3)

    def test_an_address_that_is_not_ours(self) -> None:
        streams = self.streams(dead_port(socket.SOCK_STREAM), sources=("192.0.2.1",))
        self.assertEqual(self.gathered(streams, 1).errors, {"connecting: no local port left": 1})
