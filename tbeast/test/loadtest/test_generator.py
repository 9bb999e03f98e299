"""A generator: its orders, in this process and as one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.generator import Generator, Pipes
from tbeast.loadtest.orders import (
    Closed,
    Done,
    Event,
    Gather,
    Order,
    Progress,
    SetUp,
    Steady,
    Stop,
    event_decoder,
    line_of,
)
from tbeast.test.loadtest.peers import HttpPeer, UdpPeer


def tcp(port: int) -> SetUp:
    return SetUp("tcp", "127.0.0.1", port, "localhost", "the-key", ("BTC",), 5.0)


def udp(port: int) -> SetUp:
    return SetUp("udp", "127.0.0.1", port, "localhost", "the-key", ("BTC",), 5.0)


class GeneratorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.http = HttpPeer()
        self.addCleanup(self.http.close)
        self.datagrams = UdpPeer()
        self.addCleanup(self.datagrams.close)
        self.events: list[Event] = []

    def carry_out(self, *orders: Order, between: tuple[Order, ...] = ()) -> list[Done]:
        """Let it hear the orders one after the other, and C{between} while it carries out the last."""
        coming = [[order] for order in orders]
        late = [list(between)] if between else []

        def heard(wait: bool) -> list[Order]:
            if wait:
                return coming.pop(0) if coming else []
            return late.pop(0) if late and not coming else []

        self.events.clear()
        Generator(heard, self.events.append, time.monotonic, lambda seed: Random(seed).random).run()
        return [event for event in self.events if isinstance(event, Done)]

    def test_a_level_of_each_protocol(self) -> None:
        done = self.carry_out(
            tcp(self.http.port), Gather(3), Closed(0.3), Steady(100.0, 0.3, 1),
            udp(self.datagrams.port), Gather(5, 2), Closed(0.3), Steady(100.0, 0.3, 1),
        )  # fmt: skip
        self.assertEqual(len(done), 8)
        for first in (1, 5):
            gathered, closed, steady = (one.tally for one in done[first : first + 3])
            self.assertEqual(gathered.connections, 3 if first == 1 else 2)
            self.assertEqual((closed.errors, steady.errors), ({}, {}))
            self.assertGreater(closed.ok, 20)
            self.assertGreater(closed.rate, 50.0)
        # the same seed asks at the same moments
        self.assertEqual(done[3].tally.asked, done[7].tally.asked)
        self.assertTrue(10 <= done[3].tally.asked <= 60)

    def test_it_tells_how_far_it_is(self) -> None:
        self.carry_out(tcp(self.http.port), Gather(2), Closed(0.5))
        told = [event for event in self.events if isinstance(event, Progress)]
        self.assertGreaterEqual(len(told), 2)
        self.assertEqual([event.ok for event in told], sorted(event.ok for event in told))

    def test_it_is_stopped(self) -> None:
        done = self.carry_out(tcp(self.http.port), Gather(2), Closed(60.0), between=(Stop(),))
        self.assertTrue(done[-1].tally.interrupted)
        # one that comes too late is not answered
        self.assertEqual(len(self.carry_out(tcp(self.http.port), Gather(2), Stop())), 2)


class PipesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.source, self.into = os.pipe()
        self.outof, self.target = os.pipe()
        self.pipes = Pipes(self.source, self.target)
        for descriptor in (self.source, self.outof, self.target):
            self.addCleanup(os.close, descriptor)

    def test_lines_in_pieces(self) -> None:
        self.addCleanup(os.close, self.into)
        self.assertEqual(self.pipes.heard(False), [])
        line = line_of(Closed(1.5))
        os.write(self.into, line[:7])
        self.assertEqual(self.pipes.heard(False), [])
        os.write(self.into, line[7:] + line_of(Stop()) + b"{")
        self.assertEqual(self.pipes.heard(True), [Closed(1.5), Stop()])
        os.write(self.into, line[1:])
        self.assertEqual(self.pipes.heard(False), [Closed(1.5)])

    def test_the_end(self) -> None:
        os.close(self.into)
        self.assertEqual(self.pipes.heard(True), [])
        self.assertRaises(EOFError, self.pipes.heard, False)

    def test_events_are_lines(self) -> None:
        self.addCleanup(os.close, self.into)
        self.pipes.tell(Progress(3, 2, 1))
        self.assertEqual(event_decoder.decode(os.read(self.outof, 1000)), Progress(3, 2, 1))


class ProcessTests(SynchronousTestCase):
    def started(self) -> subprocess.Popen[bytes]:
        made = subprocess.Popen(
            [sys.executable, "-m", "tbeast.loadtest"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

        def end() -> None:
            made.kill()
            made.communicate(timeout=10.0)

        self.addCleanup(end)
        return made

    def test_it_ends_with_its_input_even_at_work_and_not_at_ctrl_c(self) -> None:
        peer = HttpPeer()
        self.addCleanup(peer.close)
        process = self.started()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(line_of(tcp(peer.port)) + line_of(Gather(2)) + line_of(Closed(60.0)))
        process.stdin.flush()
        events = [event_decoder.decode(process.stdout.readline()) for _ in range(3)]
        self.assertEqual([type(event) for event in events], [Done, Done, Progress])
        process.send_signal(signal.SIGINT)
        self.assertIsInstance(event_decoder.decode(process.stdout.readline()), Progress)
        _, errors = process.communicate(timeout=10.0)
        self.assertEqual((process.returncode, errors), (0, b""))
