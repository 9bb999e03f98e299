"""Askers over UDP, against servers on loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.arrivals import arrivals
from tbeast.loadtest.datagrams import Datagrams
from tbeast.loadtest.orders import SetUp
from tbeast.loadtest.phases import closed_loop, open_loop
from tbeast.loadtest.tally import Tally
from tbeast.test.loadtest.peers import UdpPeer, dead_port, price_of, priced, refused

SECONDS = 0.2


def never(_: float) -> bool:
    return False


def failures(tally: Tally) -> set[str]:
    """Why questions failed, but for those that found nobody idle, since all were waiting for what was lost."""
    return set(tally.errors) - {"never sent"}


class DatagramsTests(SynchronousTestCase):
    def peer(self, answers: Callable[[str, str], bytes] | None = None) -> UdpPeer:
        made = UdpPeer(answers)
        self.addCleanup(made.close)
        return made

    def datagrams(self, port: int, timeout_seconds: float = 0.2) -> Datagrams:
        setup = SetUp("udp", "127.0.0.1", port, f"localhost:{port}", "the-key", ("BTC", "ETH"), timeout_seconds)
        made = Datagrams(setup, time.monotonic)
        self.addCleanup(made.close)
        return made

    def run_both(self, datagrams: Datagrams, askers: int = 8, sockets: int = 4) -> list[Tally]:
        """Both loops; what they count must add up."""
        datagrams.gather(askers, sockets, 0.0)
        self.assertEqual(datagrams.take().connections, sockets)
        closed = closed_loop(datagrams, SECONDS, never)
        steady = open_loop(datagrams, arrivals(100.0, SECONDS, lambda: 0.5), SECONDS, never)
        for tally in (closed, steady):
            self.assertEqual(tally.asked, tally.ok + tally.failed)
            self.assertEqual(tally.latency.total, tally.ok)
            self.assertGreater(tally.asked, 5)
        self.assertEqual(datagrams.under_way, 0)
        self.assertEqual(len(datagrams.idle), askers)
        return [closed, steady]

    def test_prices(self) -> None:
        peer = self.peer()
        for tally in self.run_both(self.datagrams(peer.port)):
            self.assertEqual((tally.errors, tally.late, tally.unasked), ({}, 0, 0))
        self.assertEqual(peer.asked[:2], ["the-key|BTC|1", "the-key|ETH|2"])
        self.assertEqual(len(peer.sources), 4)
        self.assertEqual(len(set(peer.asked)), len(peer.asked))

    def test_what_is_no_price_is_no_success(self) -> None:
        answers: list[tuple[Callable[[str, str], bytes], str]] = [
            (lambda asset, number: refused("rate_limited", number), "rate_limited"),
            (lambda asset, number: refused("no words; at all", number), "wrong answer"),
            (lambda asset, number: refused("x" * 50, number), "wrong answer"),
            (lambda asset, number: priced("DOGE", number), "wrong answer"),
            (lambda asset, number: b'{"nothing":1,"id":%b}' % number.encode(), "wrong answer"),
            (lambda asset, number: b'nonsense "id":%b}' % number.encode(), "malformed answer"),
            (lambda asset, number: b"", "lost"),
        ]
        for answer, reason in answers:
            peer = self.peer(answer)
            for tally in self.run_both(self.datagrams(peer.port)):
                self.assertEqual((failures(tally), tally.ok), ({reason}, 0))

    def test_answers_to_nothing_are_not_answers(self) -> None:
        for answer in (
            b"nonsense",
            price_of("BTC"),
            b'{"asset":"BTC","price":1,"id":"1"}',
            b'{"id":999999999}',
            b"nono1}",
        ):

            def same(asset: str, number: str, answer: bytes = answer) -> bytes:
                return answer

            peer = self.peer(same)
            for tally in self.run_both(self.datagrams(peer.port)):
                self.assertEqual((tally.ok, failures(tally)), (0, {"lost"}))
                self.assertEqual((tally.unasked, tally.late), (tally.errors["lost"], 0))

    def test_members_in_another_order_are_a_price(self) -> None:
        peer = self.peer(
            lambda asset, number: b'{"id":%b, "price":1, "asset":"%b"}' % (number.encode(), asset.encode())
        )
        for tally in self.run_both(self.datagrams(peer.port)):
            self.assertEqual((tally.errors, tally.unasked), ({}, 0))

    def test_some_are_lost(self) -> None:
        peer = self.peer(lambda asset, number: b"" if int(number) % 10 == 0 else priced(asset, number))
        closed, steady = self.run_both(self.datagrams(peer.port))
        for tally in (closed, steady):
            self.assertEqual(list(tally.errors), ["lost"])
            self.assertGreater(tally.ok, tally.failed)

    def test_what_comes_too_late_or_twice_is_counted_beside(self) -> None:
        peer = self.peer()
        datagrams = self.datagrams(peer.port, timeout_seconds=5.0)
        datagrams.gather(2, 1, 0.0)
        wire = datagrams.idle.popleft()
        datagrams.ask(wire, 0.0, 100.0)
        datagrams.tidy(104.9)
        self.assertEqual((datagrams.under_way, datagrams.tally.errors), (1, {}))
        datagrams.tidy(105.1)
        self.assertEqual((datagrams.under_way, datagrams.tally.errors), (0, {"lost": 1}))
        for _ in range(2):
            datagrams._received(wire, priced("BTC", "1"))
        self.assertEqual((datagrams.tally.late, datagrams.tally.ok, datagrams.tally.unasked), (2, 0, 0))

    def test_nobody_listens(self) -> None:
        for tally in self.run_both(self.datagrams(dead_port(socket.SOCK_DGRAM))):
            self.assertEqual((list(tally.errors), tally.ok), (["refused"], 0))

    def test_sockets_are_kept_from_level_to_level(self) -> None:
        peer = self.peer()
        datagrams = self.datagrams(peer.port)
        for askers, sockets in ((1, 1), (50, 20), (3, 2)):
            for tally in self.run_both(datagrams, askers, sockets):
                self.assertEqual(tally.errors, {})
        self.assertEqual(len(peer.sources), 20)
