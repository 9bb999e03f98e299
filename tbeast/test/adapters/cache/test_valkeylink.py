"""Tests of L{tbeast.adapters.cache.valkeylink}, and of the client's rules of time, without a socket."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cache.resp import Limits, packed
from tbeast.adapters.cache.valkey import CacheStatus, RefusedError, ValkeyClient
from tbeast.adapters.cache.valkeylink import Link
from tbeast.adapters.cache.valkeytarget import endpoint, target
from tbeast.errors import CacheUnavailableError
from tbeast.testing.logs import listen

LIMITS = Limits()
PING = packed(b"PING")


class Transport(StringTransport):
    """One that is lost as soon as it is aborted."""

    protocol: Any = None

    def abortConnection(self) -> None:
        self.lose(error.ConnectionAborted())

    def lose(self, fault: Exception | None = None) -> None:
        if self.protocol is not None:
            protocol, self.protocol = self.protocol, None
            protocol.connectionLost(Failure(fault or error.ConnectionDone()))


class Wire:
    """What is beyond a reactor: every attempt to connect, to be taken or refused."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.seen = 0

    @property
    def attempts(self) -> int:
        return len(self.reactor.unixClients)

    def take(self) -> Transport:
        """Let the oldest attempt that was not looked at yet succeed."""
        factory = self._next()
        protocol = factory.buildProtocol(None)
        transport = Transport()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport

    def refuse(self, fault: Exception | None = None) -> None:
        """Let it fail."""
        connector = self.reactor.connectors[self.seen]
        self._next().clientConnectionFailed(connector, Failure(fault or error.ConnectionRefusedError()))

    def _next(self) -> Any:
        factory = self.reactor.unixClients[self.seen][1]
        self.seen += 1
        return factory

    def welcome(self) -> Transport:
        """Take the next attempt, and answer its greeting."""
        transport = self.take()
        transport.protocol.dataReceived(b"+PONG\r\n")
        transport.clear()
        return transport

    def advance(self, seconds: float) -> None:
        """Let time pass in small steps, and two steps more."""
        self.reactor.pump([0.01] * round(seconds / 0.01 + 2))


class LinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wire = Wire()
        self.changes: list[tuple[bool, str]] = []
        self.heard: list[bytes] = []

    def link(self, url: str = "unix:///v", **options: Any) -> Link:
        where = target(url)
        return Link(
            where if where.path else evolve(where, path="/v"),
            endpoint(target("unix:///v"), self.wire.reactor, 3),
            self.wire.reactor,
            lambda: 0.999999,
            LIMITS,
            lambda link: self.changes.append((link.ready, link.why)),
            **options,
        )

    def test_ready_after_a_ping(self) -> None:
        link = self.link()
        started = link.start()
        transport = self.wire.take()
        self.assertEqual(transport.value(), PING)
        self.assertNoResult(started)
        self.assertFalse(link.ready)
        transport.protocol.dataReceived(b"+PONG\r\n")
        self.successResultOf(started)
        self.assertTrue(link.ready and link.usable)
        self.assertEqual(self.changes, [(True, "")])

    def test_the_greeting(self) -> None:
        for url, options, expected in (
            ("redis://:pw@h", {}, packed("AUTH", "pw") + PING),
            ("redis://me:pw@h/7", {}, packed("AUTH", "me", "pw") + packed("SELECT", 7) + PING),
            ("redis://h/7", {"channel": b"c", "heard": self.heard.append}, PING + packed("SUBSCRIBE", "c")),
        ):  # fmt: skip
            self.setUp()
            self.link(url, **options).start()
            self.assertEqual(self.wire.take().value(), expected)

    def test_refused_greetings(self) -> None:
        for url, answers, why in (
            ("redis://:pw@h", b"-WRONGPASS no\r\n-NOAUTH no\r\n", "the password was refused: WRONGPASS no"),
            ("redis://h/9", b"-ERR out of range\r\n+PONG\r\n", "database 9 was refused: ERR out of range"),
            ("redis://h", b"-NOAUTH Authentication required.\r\n", "it is not ready: NOAUTH Authentication required."),
            ("redis://h", b"-LOADING wait\r\n", "it is not ready: LOADING wait"),
            ("redis://h", b"HTTP/1.1 400\r\n", "it does not speak the Redis protocol: it said 'HTTP/1.1 400'"),
        ):  # fmt: skip
            self.setUp()
            link = self.link(url)
            started = link.start()
            self.wire.take().protocol.dataReceived(answers)
            self.successResultOf(started)
            self.assertEqual(self.changes, [(False, why)])
            self.wire.advance(0.2)
            self.assertEqual(self.wire.attempts, 2)

    def test_the_first_attempt_may_fail(self) -> None:
        link = self.link()
        started = link.start()
        self.wire.refuse()
        self.successResultOf(started)
        self.assertEqual(link.why, "connection refused")

    def test_waits_grow_up_to_a_limit_and_never_end(self) -> None:
        self.link().start()
        waits: list[float] = []
        for _ in range(40):
            self.wire.refuse()
            before = self.wire.reactor.seconds()
            while self.wire.attempts == self.wire.seen:
                self.wire.reactor.advance(0.01)
            waits.append(round(self.wire.reactor.seconds() - before, 1))
        self.assertEqual(waits[:6], [0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
        self.assertEqual(set(waits[5:]), {2.0})

    def test_one_that_is_taken_and_dropped_is_not_hammered(self) -> None:
        """Only one that holds for a while makes the waits short again."""
        self.link().start()
        for _ in range(6):
            self.wire.welcome().lose()
            self.wire.advance(2)
        self.assertEqual(self.wire.attempts, 7)
        transport = self.wire.welcome()
        self.wire.advance(1.9)
        transport.lose()
        self.wire.advance(1.5)
        self.assertEqual(self.wire.attempts, 7)
        self.wire.advance(0.5)
        transport = self.wire.welcome()
        for _ in range(3):
            self.wire.advance(2)
            transport.protocol.dataReceived(b"+PONG\r\n")
        transport.lose()
        self.wire.advance(0.1)
        self.assertEqual(self.wire.attempts, 9)

    def test_a_connection_that_does_not_come_to_be(self) -> None:
        link = self.link()
        started = link.start()
        self.wire.advance(2.9)
        self.assertNoResult(started)
        self.wire.advance(0.1)
        self.successResultOf(started)
        self.assertEqual(link.why, "not connected within 3 s")
        self.wire.advance(0.1)
        self.assertEqual(self.wire.attempts, 2)

    def test_a_greeting_without_an_answer(self) -> None:
        link = self.link()
        started = link.start()
        transport = self.wire.take()
        self.wire.advance(3)
        self.successResultOf(started)
        self.assertEqual(link.why, "no answer within 3 s")
        self.assertIsNone(transport.protocol)

    def test_a_subscription_is_ready_when_it_stands(self) -> None:
        link = self.link(channel=b"c", heard=self.heard.append)
        link.start()
        transport = self.wire.take()
        transport.protocol.dataReceived(
            b"+PONG\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\n1\r\n"
        )
        self.assertTrue(link.ready)
        self.assertEqual(self.heard, [b"1"])
        self.wire.advance(2)
        self.assertTrue(transport.value().endswith(PING))
        transport.protocol.dataReceived(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
        self.wire.advance(2 + 3.1)
        self.assertEqual(self.changes, [(True, ""), (False, "no answer within 3 s")])

    def test_stopped_in_every_state(self) -> None:
        def nothing(link: Link) -> None:
            """Still connecting."""

        def refused(link: Link) -> None:
            self.wire.refuse()

        def greeting(link: Link) -> None:
            self.wire.take()

        def ready(link: Link) -> None:
            self.wire.welcome()

        def lost(link: Link) -> None:
            self.wire.welcome().lose()

        for state in (nothing, refused, greeting, ready, lost):
            self.setUp()
            link = self.link()
            started = link.start()
            state(link)
            told = len(self.changes)
            self.successResultOf(link.stop())
            self.successResultOf(started)
            self.wire.advance(10)
            self.assertEqual((link.ready, link.why, len(self.changes)), (False, "stopped", told), state.__name__)
            self.assertEqual(self.wire.reactor.getDelayedCalls(), [], state.__name__)
            link.start()
            self.wire.seen = self.wire.attempts - 1
            self.wire.welcome()
            self.assertTrue(link.ready, state.__name__)

    def test_lost_before_it_was_told_to_be_made(self) -> None:
        made: list[Any] = []
        told: list[Deferred[Any]] = []

        def connect(factory: Any) -> Deferred[Any]:
            made.append(factory.buildProtocol(None))
            made[-1].makeConnection(Transport())
            told.append(Deferred())
            return told[-1]

        link = self.link()
        self.patch(link._endpoint, "connect", connect)
        started = link.start()
        made[0].connectionLost(Failure(error.ConnectionDone()))
        told[0].callback(made[0])
        self.successResultOf(started)
        self.assertEqual(self.changes, [(False, "it hung up")])
        self.wire.advance(0.2)
        told[1].callback(made[1])
        made[1].dataReceived(b"+PONG\r\n")
        self.assertTrue(link.ready)

    def test_an_error_of_ours_costs_one_connection(self) -> None:
        def fail_when_ready(link: Link) -> None:
            note(link)
            if link.ready:
                raise RuntimeError("of the test")

        link = self.link()
        note = link._changed
        link._changed = fail_when_ready
        link.start()
        self.wire.welcome()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.changes[-1], (False, "an error of our own"))
        link._changed = note
        self.wire.advance(0.2)
        self.wire.welcome()
        self.assertEqual(self.changes[-1], (True, ""))

    def test_an_endpoint_that_breaks_is_one_more_failure(self) -> None:
        link = self.link()
        self.patch(link._endpoint, "connect", lambda _factory: 1 // 0)
        self.successResultOf(link.start())
        self.assertIn("not connected: ", link.why)
        self.wire.advance(5)
        self.assertGreater(len(self.changes), 2)


class ClientTests(SynchronousTestCase):
    """The client's rules: fail at once, wait for few, tell once."""

    def setUp(self) -> None:
        self.log = listen(self)
        self.wire = Wire()
        self.client = ValkeyClient(target("unix:///v"), self.wire.reactor, self.wire.reactor.seconds, lambda: 0.999)

    def start(self) -> list[Transport]:
        self.client.start()
        return [self.wire.welcome() for _ in range(3)]

    def refuse_all(self) -> None:
        while self.wire.seen < self.wire.attempts:
            self.wire.refuse()

    def ask(self) -> list[Any]:
        outcomes: list[Any] = []
        self.client.command("GET", "a").addCallbacks(outcomes.append, lambda failure: outcomes.append(failure.value))
        return outcomes

    def assertTurnedAway(self, outcomes: list[Any], why: str) -> None:
        self.assertEqual(len(outcomes), 1)
        self.assertIs(type(outcomes[0]), CacheUnavailableError)
        self.assertIn(why, str(outcomes[0]))

    def test_nobody_waits_before_it_is_there(self) -> None:
        self.assertTurnedAway(self.ask(), "not started")
        self.client.start()
        self.assertTurnedAway(self.ask(), "not connected yet")
        self.failureResultOf(self.client.send_packed(PING, 1), CacheUnavailableError)
        self.assertEqual(self.client.counts["turned_away"], 3)
        self.assertEqual(self.client.status, CacheStatus(False, 0.0, "not connected yet"))
        self.assertRaises(RuntimeError, self.client.start)

    def test_nobody_waits_while_it_is_away(self) -> None:
        transports = self.start()
        waiting = self.ask()
        self.wire.advance(0.1)
        for transport in transports:
            transport.lose()
        self.assertEqual([str(outcome) for outcome in waiting], ["it hung up"])
        self.assertTurnedAway(self.ask(), "it hung up")
        self.assertEqual((self.client.status.up, self.client.status.why), (False, "it hung up"))
        self.assertEqual(self.client.counts["losses"], 1)

    def test_few_wait_for_one_that_hangs(self) -> None:
        """Those who asked within the first moment; the others are told at once, until it answers again."""
        transports = self.start()
        waiting = [self.ask() for _ in range(4)]
        self.wire.advance(0.4)
        waiting.append(self.ask())
        self.wire.advance(0.1)
        for _ in range(100):
            self.assertTurnedAway(self.ask(), "its answers are late")
        self.assertEqual((self.client.status.up, self.client.status.why), (False, "its answers are late"))
        self.assertEqual(waiting, [[]] * 5)
        for transport in transports[:2]:
            transport.protocol.dataReceived(b"$-1\r\n" * 2)
        self.assertEqual(waiting, [[None]] * 4 + [[]])
        self.assertTrue(self.client.status.up)
        self.assertEqual(self.ask(), [])

    def test_one_that_hangs_for_long(self) -> None:
        """What waits fails within the time-out, and nobody waits until it has answered a greeting."""
        self.start()
        waiting = [self.ask() for _ in range(3)]
        self.wire.advance(3)
        self.assertEqual([str(outcomes[0]) for outcomes in waiting], ["no answer within 3 s"] * 3)
        self.wire.advance(0.1)
        greeted = [self.wire.take() for _ in range(self.wire.attempts - self.wire.seen)]
        self.assertTurnedAway(self.ask(), "no answer within 3 s")
        for transport in greeted:
            transport.protocol.dataReceived(b"+PONG\r\n")
        self.assertTrue(self.client.status.up)
        self.assertEqual(self.ask(), [])

    def test_so_many_wait_and_no_more(self) -> None:
        self.start()
        waiting = [self.ask() for _ in range(2 * Limits().most_waiting)]
        self.assertEqual(waiting, [[]] * 512)
        self.assertTurnedAway(self.ask(), "its answers are late")

    def test_questions_are_spread_and_bulk_is_apart(self) -> None:
        one, two, bulk = self.start()
        for _ in range(4):
            self.ask()
        self.client.send_packed(PING * 2, 2)
        self.assertEqual((one.value(), two.value()), (packed("GET", "a") * 2,) * 2)
        self.assertEqual(bulk.value(), PING * 2)

    def test_the_reason_is_that_of_the_last_failure(self) -> None:
        """Also while another attempt is still under way."""
        self.client.start()
        self.wire.seen = 1
        self.wire.refuse()
        self.assertTurnedAway(self.ask(), "connection refused")
        self.wire.seen = 0
        self.wire.refuse(error.DNSLookupError())
        self.assertTurnedAway(self.ask(), "no such host")
        self.assertEqual(len(self.log.having("is away")), 2)
        self.assertEqual(self.log.having("not connected yet"), [])

    def test_one_connection_of_two_is_enough(self) -> None:
        one, two, _bulk = self.start()
        one.lose()
        outcomes = self.ask()
        two.protocol.dataReceived(b"$1\r\n1\r\n")
        self.assertEqual(outcomes, [b"1"])
        self.assertTrue(self.client.status.up)
        self.assertEqual(self.client.counts["losses"], 0)

    def test_each_transition_is_told_once(self) -> None:
        transports = self.start()
        for transport in transports:
            transport.lose()
        for _ in range(30):
            self.refuse_all()
            self.wire.advance(2)
        self.assertEqual(len(self.log.having("is there")), 1)
        self.assertEqual(len(self.log.having("is away: it hung up")), 1)
        self.assertEqual(len(self.log.having("is away: connection refused")), 1)
        transports = [self.wire.welcome() for _ in range(3)]
        for _ in range(4):
            self.wire.advance(2)
            for transport in transports:
                transport.protocol.dataReceived(b"+PONG\r\n")
        self.assertEqual(len(self.log.having("is back; times it was lost: 1")), 1)
        self.assertEqual(len(self.log.lines), 4)
        for transport in transports:
            transport.lose()
        self.assertEqual(len(self.log.having("is away: it hung up")), 2)

    def test_flapping_is_told_once(self) -> None:
        self.start()
        for _ in range(50):
            for protocol in [client[1] for client in self.wire.reactor.unixClients[self.wire.seen :]]:
                self.assertIsNotNone(protocol)
                self.wire.welcome().lose()
            self.wire.advance(2)
        self.assertGreater(self.client.counts["losses"], 20)
        self.assertLess(len(self.log.lines), 4)

    def test_reasons_without_end_are_not_all_told(self) -> None:
        self.client.start()
        for number in range(50):
            while self.wire.seen < self.wire.attempts:
                self.wire.refuse(OSError(f"reason {number}"))
            self.wire.advance(2)
        self.assertEqual(len(self.log.having("is away")), 8)

    def test_a_server_that_became_a_replica_is_left(self) -> None:
        """Its name may lead elsewhere by now; but one that always is one can still be read from."""
        one, two, _bulk = self.start()
        self.ask()
        one.protocol.dataReceived(b"-READONLY You can't write against a read only replica.\r\n")
        self.assertIsNotNone(one.protocol)
        for _ in range(3):
            self.wire.advance(2)
            for transport in (one, two):
                transport.protocol.dataReceived(b"+PONG\r\n")
        outcomes = self.ask()
        one.protocol.dataReceived(b"-READONLY You can't write against a read only replica.\r\n")
        self.assertIsInstance(outcomes[0], RefusedError)
        self.assertIsNone(one.protocol)

    def test_stopped_it_turns_everybody_away_and_leaves_nothing(self) -> None:
        self.start()
        self.client.subscriber(b"c", lambda _: None, lambda: None, lambda: None)
        waiting = self.ask()
        self.successResultOf(self.client.stop())
        self.assertEqual([str(outcome) for outcome in waiting], ["stopped"])
        self.assertTurnedAway(self.ask(), "stopped")
        self.assertEqual(self.wire.reactor.getDelayedCalls(), [])
        self.assertEqual(len(self.log.lines), 1)
