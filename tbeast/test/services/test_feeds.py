"""Tests of L{tbeast.services.feeds}, with the shards and links that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tbeast.codecs.exchanges.base import Rate, Reconnect, Send
from tbeast.domain.assetmap import Asset, AssetMap
from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import CONNECTING, DOWN, LATE, LIVE, OFF, PAUSED
from tbeast.domain.shards import shards
from tbeast.domain.ticks import Tick
from tbeast.services.feedlink import MOST_FRAMES_PER_SECOND, named
from tbeast.services.feeds import BY_OPERATOR, ExchangeFeed, Feeds, moved
from tbeast.testing.exchanges import PlainExchange
from tbeast.testing.sockets import MemoryDialer, MemoryPeer

EPOCH = 1_790_000_000.0


class Sink:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.ticks: list[tuple[str, float]] = []
        self.told: list[tuple[str, str, tuple[str, ...]]] = []
        self.fault: str | None = None

    def put(self, tick: Tick, via: str) -> str | None:
        assert via == "ws"
        self.ticks.append((tick.symbol, tick.price))
        return self.fault

    def connected(self, exchange: str, symbols: tuple[str, ...], now: float) -> None:
        self.told.append(("connected", exchange, symbols))

    def disconnected(self, exchange: str, symbols: tuple[str, ...], now: float) -> None:
        self.told.append(("disconnected", exchange, symbols))

    def halted(self, exchange: str, symbols: tuple[str, ...], halted: bool) -> None:
        self.told.append(("halted" if halted else "resumed", exchange, symbols))

    def words(self) -> list[tuple[str, str]]:
        """What was told, of one exchange, in short."""
        return [(word, "".join(symbols)) for word, _exchange, symbols in self.told]


class FeedCase(SynchronousTestCase):
    symbols: Sequence[str] = "AB"

    def setUp(self) -> None:
        self.clock = Clock()
        self.dialer = MemoryDialer(self.clock)
        self.sink = Sink()
        self.counters = Counters()
        self.chance = 0.0
        self.subscribed: list[tuple[str, tuple[str, ...]]] = []
        self.logged: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            self.logged.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def said(self, words: str) -> int:
        """How many log lines hold these words."""
        return sum(words in line for line in self.logged)

    def now(self) -> float:
        return EPOCH + self.clock.seconds()

    def make(self, exchange: PlainExchange | None = None, symbols: Sequence[str] | None = None) -> ExchangeFeed:
        self.exchange = exchange or PlainExchange()
        self.feed = ExchangeFeed(
            self.exchange,
            self.symbols if symbols is None else symbols,
            self.dialer,
            self.sink,
            self.counters,
            self.clock,
            self.now,
            lambda: self.chance,
            lambda name, symbols: self.subscribed.append((name, symbols)),
        )
        return self.feed

    def start(self, **changes: Any) -> MemoryPeer:
        """Start a feed of one connection and give the exchange's end of it."""
        self.make(PlainExchange(**changes)).startService()
        self.clock.advance(0)
        return self.dialer.last

    def go_live(self, **changes: Any) -> MemoryPeer:
        peer = self.start(**changes)
        peer.accept()
        for symbol in self.symbols:
            peer.say({"tick": symbol})
        return peer

    def pass_time(self, seconds: float, *peers: MemoryPeer) -> None:
        """Let time go by in seconds, the peers sending a price of each symbol in every one of them."""
        for _ in range(round(seconds)):
            self.clock.advance(1)
            for peer in peers:
                for symbol in self.symbols:
                    peer.say({"tick": symbol})

    def state(self) -> str:
        return self.feed.status().state


class ComingUpTests(FeedCase):
    def test_dials_subscribes_and_passes_prices_on(self) -> None:
        peer = self.start()
        self.assertEqual(peer.url, "ws://kraken.invalid/")
        self.assertEqual(self.sink.told, [])
        peer.accept()
        self.assertEqual(peer.sent, ["subscribe A B"])
        self.assertEqual(self.sink.told, [("connected", "kraken", ("A", "B"))])
        peer.say({"tick": ["A", 12.5]})
        self.assertEqual(self.sink.ticks, [("A", 12.5)])

    def test_counts(self) -> None:
        peer = self.go_live()
        self.sink.fault = "duplicate"
        peer.say({"tick": "A"})
        peer.say({"fault": "malformed"})
        peer.say({"refuse": "B"})
        peer.end()
        found = {
            key[0]: number for key, number in self.counters.counts.items() if key[1] == "kraken"
        }  # every family has one label tuple here
        self.assertEqual(
            found,
            {
                "feed_dials": 1,
                "feed_connections": 1,
                "feed_frames": 5,
                "feed_ticks": 2,
                "feed_dropped_ticks": 1,
                "feed_faults": 1,
                "feed_refused_symbols": 1,
                "feed_disconnects": 1,
            },
        )

    def test_the_start_does_not_wait_for_the_exchange(self) -> None:
        self.assertIsNone(self.make().startService())  # type: ignore[func-returns-value]
        self.assertEqual(self.state(), CONNECTING)

    def test_symbols_are_spread_over_connections(self) -> None:
        self.make(PlainExchange(symbols_per_socket=2), "ABCDE").startService()
        self.clock.advance(0)
        for peer in self.dialer.peers:
            peer.accept()
        self.assertEqual(
            [peer.sent for peer in self.dialer.peers], [["subscribe A D"], ["subscribe B E"], ["subscribe C"]]
        )

    def test_dials_keep_to_the_exchange_s_pace(self) -> None:
        self.make(PlainExchange(symbols_per_socket=1, dials=Rate(2, 5.0)), "ABCDE").startService()
        dialed = []
        for seconds in (0.0, 4.9, 0.2, 4.8, 0.3):
            self.clock.advance(seconds)
            dialed.append(len(self.dialer.peers))
        self.assertEqual(dialed, [2, 2, 4, 4, 5])

    def test_seeding_is_asked_for_where_there_is_no_snapshot(self) -> None:
        self.go_live(name="gateio", seeds_from_rest=True)
        self.assertEqual(self.subscribed, [("gateio", ("A", "B"))])

    def test_and_not_elsewhere(self) -> None:
        self.go_live()
        self.assertEqual(self.subscribed, [])

    def test_a_failing_seed_harms_nobody(self) -> None:
        def fail(_name: str, _symbols: object) -> None:
            raise ZeroDivisionError

        self.make(PlainExchange(seeds_from_rest=True))._on_subscribed = fail
        self.feed.startService()
        self.clock.advance(0)
        self.dialer.last.accept()
        self.assertTrue(self.dialer.last.alive)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_pings_and_pongs_reach_the_codec(self) -> None:
        peer = self.go_live()
        peer.pong()
        self.assertEqual(self.exchange.codecs[0].pongs, 1)

    def test_without_symbols_nothing_is_dialed(self) -> None:
        self.make(symbols=()).startService()
        self.clock.advance(100)
        self.assertEqual(self.dialer.peers, [])
        self.assertEqual(self.state(), OFF)


class SendingTests(FeedCase):
    def test_a_delayed_frame_goes_when_it_is_due(self) -> None:
        peer = self.go_live()
        peer.say({"send": ["later", 2.5]})
        self.clock.advance(2.4)
        self.assertNotIn("later", peer.sent)
        self.clock.advance(0.1)
        self.assertIn("later", peer.sent)

    def test_it_dies_with_its_connection(self) -> None:
        peer = self.go_live()
        peer.say({"send": ["later", 30]})
        peer.end()
        self.clock.advance(2)
        self.dialer.last.accept()
        self.clock.advance(60)
        self.assertNotIn("later", [text for each in self.dialer.peers for text in each.sent])

    def test_what_the_codec_wants_every_second_is_done(self) -> None:
        peer = self.go_live()
        self.exchange.codecs[0].next_due = [Send("ping")]
        self.clock.advance(1)
        self.assertIn("ping", peer.sent)
        self.exchange.codecs[0].next_due = [Reconnect("silent for 40 s")]
        self.clock.advance(1)
        self.assertTrue(peer.aborted)
        self.assertEqual(self.feed.why, "silent for 40 s")


class ComingBackTests(FeedCase):
    def test_the_waits_double_up_to_the_cap_and_never_end(self) -> None:
        self.start()
        waits = []
        for _ in range(9):
            begun = self.clock.seconds()
            self.dialer.last.end("refused")
            count = len(self.dialer.peers)
            while len(self.dialer.peers) == count:
                self.clock.advance(0.25)
            waits.append(self.clock.seconds() - begun)
        self.assertEqual(waits, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0])

    def test_chance_lengthens_the_wait_to_the_whole(self) -> None:
        self.chance = 0.96
        self.start().end("refused")
        self.clock.advance(0.97)
        self.assertEqual(len(self.dialer.peers), 1)
        self.clock.advance(0.02)
        self.assertEqual(len(self.dialer.peers), 2)

    def fail_six_times(self) -> MemoryPeer:
        self.start()
        for _ in range(6):
            self.dialer.last.end("refused")
            self.clock.advance(60)
        return self.dialer.last

    def test_a_connection_that_was_merely_open_forgives_nothing(self) -> None:
        peer = self.fail_six_times()
        peer.accept()
        self.clock.pump([1.0] * 120)  # open, and not one price
        self.check_wait(peer, 29.5, short=False)

    def test_nor_one_that_lasted_less_than_a_minute(self) -> None:
        peer = self.fail_six_times()
        peer.accept()
        self.pass_time(59, peer)
        self.check_wait(peer, 29.5, short=False)

    def test_a_healthy_minute_makes_the_waits_short_again(self) -> None:
        peer = self.fail_six_times()
        peer.accept()
        self.pass_time(63, peer)
        self.check_wait(peer, 0.6, short=True)

    def check_wait(self, peer: MemoryPeer, seconds: float, short: bool) -> None:
        count = len(self.dialer.peers)
        peer.end()
        self.clock.advance(seconds)
        self.assertEqual(len(self.dialer.peers), count + short)

    def test_too_many_requests_are_answered_with_patience(self) -> None:
        self.start().end("handshake: HTTP 429")
        self.clock.advance(29)
        self.assertEqual(len(self.dialer.peers), 1)
        self.clock.advance(2)
        self.assertEqual(len(self.dialer.peers), 2)

    def test_as_much_of_it_as_was_asked_for(self) -> None:
        self.start().end("handshake: HTTP 429, retry after 600 s")
        self.clock.advance(599)
        self.assertEqual(len(self.dialer.peers), 1)
        self.clock.advance(2)
        self.assertEqual(len(self.dialer.peers), 2)

    def test_and_by_all_connections_of_the_exchange(self) -> None:
        self.make(PlainExchange(symbols_per_socket=1)).startService()
        self.clock.advance(0)
        first, second = self.dialer.peers
        first.end("handshake: HTTP 429")
        second.end("refused")
        self.clock.advance(29)
        self.assertEqual(len(self.dialer.peers), 2)

    def test_a_throttled_socket_holds_up_new_ones(self) -> None:
        peer = self.go_live()
        peer.say({"throttle": 100})
        peer.end()
        self.clock.advance(99)
        self.assertEqual(len(self.dialer.peers), 1)
        self.clock.advance(2)
        self.assertEqual(len(self.dialer.peers), 2)

    def test_every_connection_gets_a_codec_of_its_own(self) -> None:
        self.go_live().end()
        self.clock.advance(1)
        self.dialer.last.accept()
        self.assertEqual(len(self.exchange.codecs), 2)
        self.assertEqual(self.dialer.last.sent, ["subscribe A B"])

    def test_the_sink_hears_of_the_loss_and_of_the_return(self) -> None:
        self.go_live().end()
        self.clock.advance(1)
        self.dialer.last.accept()
        self.assertEqual(self.sink.words(), [("connected", "AB"), ("disconnected", "AB"), ("connected", "AB")])

    def test_a_dialer_that_raises_is_tried_again(self) -> None:
        self.make()
        dial = self.dialer.dial

        def fail(url: str, listener: object) -> MemoryPeer:
            raise ZeroDivisionError

        self.dialer.dial = fail  # type: ignore[method-assign]
        self.feed.startService()
        self.clock.advance(0)
        self.dialer.dial = dial  # type: ignore[method-assign]
        self.clock.advance(1)
        self.assertEqual(len(self.dialer.peers), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class ReplacingTests(FeedCase):
    def successor(self, peer: MemoryPeer) -> MemoryPeer:
        peer.say({"replace": 30})
        self.clock.advance(0)
        self.assertIsNot(self.dialer.last, peer)
        return self.dialer.last

    def test_the_old_one_serves_until_the_new_one_has_been_heard(self) -> None:
        old = self.go_live()
        new = self.successor(old)
        self.assertTrue(old.alive)
        new.accept()
        self.clock.advance(1)
        self.assertTrue(old.alive)
        old.say({"tick": ["A", 7.0]})
        self.assertIn(("A", 7.0), self.sink.ticks)
        new.say({"tick": "A"})
        new.say({"tick": "B"})
        self.clock.advance(1)
        self.assertEqual(old.asked_to_close, "replaced")
        self.assertTrue(new.alive)
        self.clock.advance(1)
        self.assertEqual(self.sink.words(), [("connected", "AB")], "the sink must not notice")
        self.assertEqual(len(self.dialer.peers), 2)
        self.assertEqual(self.said("connection replaced"), 1)

    def test_acknowledgements_are_proof_enough(self) -> None:
        old = self.go_live()
        new = self.successor(old)
        new.accept()
        new.say({"ack": ["A", "B"]})
        self.clock.advance(1)
        self.assertIsNotNone(old.asked_to_close)

    def test_one_price_is_proof_after_some_seconds(self) -> None:
        old = self.go_live()
        new = self.successor(old)
        new.accept()
        new.say({"tick": "A"})
        self.clock.pump([1.0] * 3)
        self.assertTrue(old.alive)
        self.clock.pump([1.0] * 3)
        self.assertFalse(old.alive)

    def test_a_failing_successor_leaves_the_old_one_in_its_place(self) -> None:
        old = self.go_live()
        self.successor(old).end("refused")
        self.assertTrue(old.alive)
        self.assertEqual(self.sink.words(), [("connected", "AB")])
        self.clock.advance(1)
        self.assertEqual(len(self.dialer.peers), 3, "and is tried again")

    def test_successors_that_keep_failing_are_tried_ever_more_seldom(self) -> None:
        old = self.go_live()
        self.pass_time(65, old)
        self.successor(old)
        for _ in range(8):
            self.dialer.last.end("refused")
            self.pass_time(20, old)
        self.dialer.last.end("refused")
        count = len(self.dialer.peers)
        self.pass_time(20, old)
        self.assertEqual(len(self.dialer.peers), count)
        self.assertTrue(old.alive)

    def test_a_successor_that_says_nothing_is_given_up(self) -> None:
        old = self.go_live()
        new = self.successor(old)
        new.accept()
        self.pass_time(31, old)
        self.assertTrue(new.aborted)
        self.assertTrue(old.alive)

    def test_when_the_old_one_dies_an_open_successor_takes_over_at_once(self) -> None:
        old = self.go_live()
        new = self.successor(old)
        new.accept()
        old.end()
        self.assertTrue(new.alive)
        self.assertEqual(self.sink.words(), [("connected", "AB")])
        self.assertEqual(self.state(), LIVE)
        self.clock.advance(60)
        self.assertEqual(len(self.dialer.peers), 2)

    def test_when_it_dies_earlier_the_dialing_one_is_waited_for(self) -> None:
        old = self.go_live()
        new = self.successor(old)
        old.end()
        self.assertEqual(self.sink.words()[-1], ("disconnected", "AB"))
        self.clock.advance(5)
        self.assertEqual(len(self.dialer.peers), 2)
        new.accept()
        self.assertEqual(self.sink.words()[-1], ("connected", "AB"))

    def test_asking_twice_makes_one_successor(self) -> None:
        old = self.go_live()
        self.successor(old)
        old.say({"replace": 10})
        self.clock.advance(5)
        self.assertEqual(len(self.dialer.peers), 2)

    def test_a_successor_told_to_leave_gets_a_successor_itself(self) -> None:
        old = self.go_live()
        new = self.successor(old)
        new.accept()
        new.say({"ack": ["A", "B"]})
        new.say({"replace": 30})
        self.clock.advance(1)
        self.assertFalse(old.alive)
        self.clock.advance(0)
        self.assertEqual(len(self.dialer.peers), 3)

    def test_before_its_lifetime_ends(self) -> None:
        self.chance = 0.5
        old = self.go_live(lifetime_seconds=1000.0)
        self.pass_time(924, old)
        self.assertEqual(len(self.dialer.peers), 1)
        self.pass_time(2, old)
        self.assertEqual(len(self.dialer.peers), 2)
        self.dialer.last.accept()
        self.pass_time(2, old, self.dialer.last)
        self.assertFalse(old.alive)
        self.pass_time(900, self.dialer.last)
        self.assertEqual(len(self.dialer.peers), 2, "the new one has a lifetime of its own")

    def test_a_replacement_needs_no_seed(self) -> None:
        old = self.go_live(seeds_from_rest=True)
        new = self.successor(old)
        new.accept()
        self.assertEqual(len(self.subscribed), 1)

    def test_a_symbol_that_the_successor_refuses_is_lost_with_the_old_one(self) -> None:
        old = self.go_live()
        new = self.successor(old)
        new.accept()
        new.say({"refuse": "B"})
        new.say({"tick": "A"})
        self.assertEqual(self.sink.words(), [("connected", "AB")])
        self.clock.advance(1)
        self.assertFalse(old.alive)
        self.assertEqual(self.sink.words()[-1], ("disconnected", "B"))


class SymbolTests(FeedCase):
    symbols = "ABC"

    def test_a_refused_symbol_costs_itself_only(self) -> None:
        peer = self.start()
        peer.accept()
        peer.say({"refuse": "B"})
        peer.say({"ack": ["A", "C"]})
        self.clock.advance(1)
        self.assertEqual(self.sink.words(), [("connected", "ABC"), ("disconnected", "B")])
        status = self.feed.status()
        self.assertEqual((status.refused, status.unacknowledged), (("B",), ()))
        self.assertEqual(self.said("2 of 3 symbols"), 1)
        self.assertEqual(self.said("refuses B"), 1)
        self.assertTrue(peer.alive)

    def test_it_is_tried_again_with_the_next_connection(self) -> None:
        peer = self.start()
        peer.accept()
        peer.say({"refuse": "B"})
        peer.end()
        self.clock.advance(1)
        self.dialer.last.accept()
        self.assertEqual(self.dialer.last.sent, ["subscribe A B C"])
        self.assertEqual(self.feed.status().refused, ())

    def test_what_was_never_answered_is_not_carried(self) -> None:
        peer = self.start()
        peer.accept()
        peer.say({"ack": ["A"]})
        peer.say({"silent": ["B", "C"]})
        self.assertEqual(self.sink.words()[-1], ("disconnected", "BC"))
        self.assertEqual(self.feed.status().unacknowledged, ("B", "C"))
        self.assertEqual(self.said("answers nothing to B, C"), 1)

    def test_until_it_speaks_after_all(self) -> None:
        peer = self.start()
        peer.accept()
        peer.say({"silent": ["B", "C"]})
        peer.say({"tick": "B"})
        self.assertEqual(self.sink.words()[-1], ("connected", "B"))
        peer.say({"ack": ["C"]})
        self.assertEqual(self.sink.words()[-1], ("connected", "C"))
        self.assertEqual(self.feed.status().unacknowledged, ())

    def test_one_that_was_heard_needs_no_acknowledgement(self) -> None:
        peer = self.start()
        peer.accept()
        peer.say({"tick": "B"})
        peer.say({"silent": ["B", "C"]})
        self.assertEqual(self.feed.status().unacknowledged, ("C",))

    def test_a_connection_with_some_silent_symbols_stays(self) -> None:
        peer = self.start()
        peer.accept()
        peer.say({"ack": ["A"]})
        peer.say({"silent": ["B", "C"]})
        self.clock.pump([1.0] * 120)
        self.assertTrue(peer.alive)

    def test_one_on_which_nothing_was_answered_at_all_does_not(self) -> None:
        peer = self.start()
        peer.accept()
        peer.say({"silent": ["A", "B", "C"]})
        self.clock.pump([1.0] * 31)
        self.assertTrue(peer.aborted)
        self.assertEqual(self.feed.why, "no answer to the subscription")

    def test_long_lists_are_cut_in_the_log(self) -> None:
        self.assertEqual(named("ABC"), "A, B, C")
        self.assertTrue(named([str(number) for number in range(50)]).endswith("18, 19 and 30 more"))

    def test_a_fault_is_logged_once_a_connection_and_counted_every_time(self) -> None:
        peer = self.go_live()
        for _ in range(5):
            peer.say({"fault": "malformed"})
        peer.say({"fault": "sequence_gap"})
        self.assertEqual(self.said("malformed"), 1)
        self.assertEqual(self.said("sequence_gap"), 1)
        self.assertEqual(self.counters.value("feed_faults", "kraken", "malformed"), 5)


class HaltTests(FeedCase):
    def test_a_halt_of_everything_and_its_end(self) -> None:
        peer = self.go_live()
        peer.say({"halt": []})
        peer.say({"halt": []})
        peer.say({"resume": []})
        self.assertEqual(self.sink.words()[1:], [("halted", "AB"), ("resumed", "AB")])

    def test_a_halt_of_one_symbol(self) -> None:
        peer = self.go_live()
        peer.say({"halt": ["B"]})
        peer.say({"resume": []})
        self.assertEqual(self.sink.words()[1:], [("halted", "B"), ("resumed", "B")])

    def test_a_new_connection_that_does_not_repeat_it_ends_it(self) -> None:
        peer = self.go_live()
        peer.say({"halt": []})
        peer.end()
        self.assertEqual(self.sink.words()[1:], [("halted", "AB"), ("disconnected", "AB")])
        self.clock.advance(1)
        self.dialer.last.accept()
        self.assertEqual(self.sink.words()[3:], [("resumed", "AB"), ("connected", "AB")])

    def test_a_successor_s_word_counts_when_it_serves(self) -> None:
        old = self.go_live()
        old.say({"replace": 30})
        self.clock.advance(0)
        new = self.dialer.last
        new.accept()
        new.say({"halt": ["A"]})
        self.assertNotIn(("halted", "A"), self.sink.words())
        new.say({"ack": ["A", "B"]})
        self.clock.advance(1)
        self.assertIn(("halted", "A"), self.sink.words())


class SilenceTests(FeedCase):
    symbols = "ABCDE"

    def test_a_brisk_connection_that_falls_silent_is_made_anew(self) -> None:
        peer = self.go_live()
        self.pass_time(70, peer)
        self.clock.pump([1.0] * 29)
        self.assertFalse(peer.aborted)
        self.clock.pump([1.0] * 2)
        self.assertTrue(peer.aborted)
        self.assertEqual(self.feed.why, "no price for 30 s")
        self.clock.advance(1)
        self.assertEqual(len(self.dialer.peers), 2)

    def test_so_is_its_silent_heir(self) -> None:
        self.test_a_brisk_connection_that_falls_silent_is_made_anew()
        self.dialer.last.accept()
        self.clock.pump([1.0] * 31)
        self.assertTrue(self.dialer.peers[1].aborted)

    def test_a_quiet_market_is_left_alone(self) -> None:
        peer = self.go_live()
        for _ in range(30):
            self.clock.pump([1.0] * 4)
            peer.say({"tick": "A"})
        self.clock.pump([1.0] * 300)
        self.assertTrue(peer.alive)
        self.assertEqual(self.state(), LATE)

    def test_a_burst_of_snapshots_is_no_rhythm(self) -> None:
        peer = self.go_live()
        self.clock.pump([1.0] * 300)
        self.assertTrue(peer.alive)

    def test_a_halt_explains_the_silence(self) -> None:
        peer = self.go_live()
        self.pass_time(70, peer)
        peer.say({"halt": []})
        self.clock.pump([1.0] * 60)
        self.assertTrue(peer.alive)


class ManySymbolsTests(FeedCase):
    symbols = [f"S{number}" for number in range(30)]

    def test_a_burst_of_many_snapshots_is_no_rhythm_either(self) -> None:
        peer = self.go_live()
        self.clock.pump([1.0] * 20)
        peer.say({"tick": "S0"})
        self.clock.pump([1.0] * 300)
        self.assertTrue(peer.alive)


class FewSymbolsTests(FeedCase):
    symbols = "ABCD"

    def test_few_symbols_prove_nothing(self) -> None:
        peer = self.go_live()
        self.pass_time(70, peer)
        self.clock.pump([1.0] * 60)
        self.assertTrue(peer.alive)


class DefectTests(FeedCase):
    def test_a_codec_that_raises_costs_its_connection_and_no_other(self) -> None:
        self.make(PlainExchange(symbols_per_socket=1)).startService()
        self.clock.advance(0)
        first, second = self.dialer.peers
        first.accept()
        second.accept()
        first.say({"raise": "words"})
        self.assertTrue(first.aborted)
        self.assertTrue(second.alive)
        self.assertEqual(self.counters.value("service_failures", "feed kraken"), 1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.clock.pump([0.0, 1.0])
        self.assertEqual(len(self.dialer.peers), 3)

    def test_wherever_it_raises(self) -> None:
        for where in ("opened", "ponged", "due"):
            peer = self.start()

            def fail(*_: object) -> None:
                raise ZeroDivisionError

            setattr(self.exchange.codecs[-1], where, fail)
            peer.accept()
            peer.pong()
            self.clock.advance(1)
            self.assertTrue(peer.aborted, where)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1, where)
            self.feed.stopService()
            self.clock.advance(0)

    def test_a_sink_that_raises_costs_a_connection(self) -> None:
        peer = self.start()
        peer.accept()

        def fail(_tick: object, _via: str) -> None:
            raise ZeroDivisionError

        self.sink.put = fail  # type: ignore[method-assign,assignment]
        peer.say({"tick": "A"})
        self.assertTrue(peer.aborted)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nothing_is_heard_after_a_reconnect_was_asked_for(self) -> None:
        peer = self.start()
        peer.accept()
        peer.say({"reconnect": "sequence gap", "tick": "A"})
        self.assertEqual(self.sink.ticks, [])

    def test_a_flood_ends_its_connection(self) -> None:
        peer = self.go_live()
        frame = b'{"tick": "A"}'
        self.clock.advance(1)
        for _ in range(MOST_FRAMES_PER_SECOND):
            peer.say(frame)
        self.assertFalse(peer.aborted)
        peer.say(frame)
        self.assertTrue(peer.aborted)
        for _ in range(10):
            peer.say(frame)
        self.clock.advance(0)
        self.assertIn("flood", self.feed.why)

    def test_what_piled_up_while_we_were_held_up_is_no_flood(self) -> None:
        """As many frames as ten seconds may bring, all at once after these ten seconds."""
        peer = self.go_live()
        self.clock.rightNow += 10.0
        for _ in range(MOST_FRAMES_PER_SECOND * 2):
            peer.say(b'{"tick": "A"}')
        self.assertFalse(peer.aborted)


class StatusTests(FeedCase):
    def test_connecting_live_late_down(self) -> None:
        peer = self.start()
        self.assertEqual(self.state(), CONNECTING)
        peer.accept()
        self.assertEqual(self.state(), CONNECTING)
        peer.say({"tick": "A"})
        self.assertEqual(self.state(), LIVE)
        self.clock.advance(31)
        self.assertEqual(self.state(), LATE)
        peer.end("lost: reset")
        self.assertEqual(self.state(), CONNECTING)
        self.clock.advance(10)
        self.assertEqual(self.state(), DOWN)
        self.assertEqual(self.feed.status().why, "lost: reset")

    def test_an_exchange_that_was_never_there_is_down(self) -> None:
        self.start()
        self.clock.advance(60)
        self.assertEqual(self.state(), CONNECTING, "the first attempt is still under way")
        self.dialer.last.end("refused")
        self.assertEqual(self.state(), DOWN)

    def test_the_worst_connection_decides(self) -> None:
        self.make(PlainExchange(symbols_per_socket=1)).startService()
        self.clock.advance(0)
        first, second = self.dialer.peers
        for peer, symbol in ((first, "A"), (second, "B")):
            peer.accept()
            peer.say({"tick": symbol})
        self.assertEqual(self.state(), LIVE)
        for _ in range(31):
            self.clock.advance(1)
            first.say({"tick": "A"})
        self.assertEqual(self.state(), LATE)
        second.end()
        self.assertEqual(self.state(), CONNECTING)
        self.assertEqual(self.feed.status().connections, 1)

    def test_numbers(self) -> None:
        peer = self.start()
        self.assertEqual((self.feed.status().connected_seconds, self.feed.status().last_heard_seconds), (0.0, None))
        peer.accept()
        self.clock.advance(5)
        peer.say({"tick": "A"})
        self.clock.advance(2)
        status = self.feed.status()
        self.assertEqual(status.exchange, "kraken")
        self.assertEqual((status.connections, status.symbols, status.live_symbols), (1, 2, 1))
        self.assertEqual((status.connected_seconds, status.last_heard_seconds), (7.0, 2.0))

    def test_each_transition_is_one_line(self) -> None:
        peer = self.go_live()
        self.pass_time(20, peer)
        self.clock.pump([1.0] * 60)
        peer.end()
        self.clock.advance(0.1)
        self.dialer.last.end("refused")
        for _ in range(30):
            self.clock.advance(1)
            self.dialer.last.end("refused")
        lines = [line for line in self.logged if "feed is" in line]
        self.assertEqual(
            [line.split(" (")[0] for line in lines],
            ["kraken feed is live", "kraken feed is late", "kraken feed is connecting", "kraken feed is down"],
        )

    def test_a_feed_whose_every_symbol_is_refused_is_late(self) -> None:
        peer = self.start()
        peer.accept()
        for symbol in "AB":
            peer.say({"refuse": symbol})
        self.assertEqual(self.state(), LATE)


class OperatorTests(FeedCase):
    def test_reconnect_drops_and_dials_at_once(self) -> None:
        old = self.go_live()
        self.feed.reconnect("asked for")
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertTrue(old.aborted)
        self.assertEqual(len(self.dialer.peers), 2)

    def test_it_ends_a_long_wait(self) -> None:
        self.start()
        for _ in range(6):
            self.dialer.last.end("refused")
            self.clock.advance(60)
        self.dialer.last.end("refused")
        count = len(self.dialer.peers)
        self.feed.reconnect("asked for")
        self.clock.advance(0)
        self.assertEqual(len(self.dialer.peers), count + 1)

    def test_it_drops_a_successor_too(self) -> None:
        old = self.go_live()
        old.say({"replace": 30})
        self.clock.advance(0)
        self.feed.reconnect("asked for")
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual(len(self.dialer.peers), 3)
        self.assertEqual([peer.aborted for peer in self.dialer.peers], [True, True, False])

    def test_it_does_not_wait_for_the_next_try_of_a_successor(self) -> None:
        old = self.go_live()
        old.say({"replace": 30})
        for _ in range(6):
            self.clock.advance(60)
            self.dialer.last.end("refused")
        count = len(self.dialer.peers)
        self.feed.reconnect("asked for")
        self.clock.pump([0.0, 0.0])
        self.assertTrue(old.aborted)
        self.assertEqual(len(self.dialer.peers), count + 1)

    def test_but_not_the_exchange_s_own_limits(self) -> None:
        self.start(dials=Rate(1, 10.0))
        self.feed.reconnect("asked for")
        self.clock.pump([0.0, 0.0, 9.0])
        self.assertEqual(len(self.dialer.peers), 1)
        self.clock.advance(1.1)
        self.assertEqual(len(self.dialer.peers), 2)


class RenewTests(FeedCase):
    def turn(self, peer: MemoryPeer) -> None:
        """Let a successor come up and be heard."""
        peer.accept()
        for symbol in peer.sent[0].split()[1:]:
            peer.say({"tick": symbol})
        self.clock.advance(1)
        self.clock.advance(0)

    def test_without_a_gap(self) -> None:
        old = self.go_live()
        self.assertEqual(1, self.feed.renew("asked for"))
        self.clock.advance(0)
        self.assertTrue(old.alive)
        self.turn(self.dialer.last)
        self.assertEqual([False, True], [peer.alive for peer in self.dialer.peers])
        self.assertEqual((old.asked_to_close, self.state()), ("replaced", LIVE))
        self.assertNotIn("disconnected", [word for word, _ in self.sink.words()])
        self.pass_time(60, self.dialer.last)
        self.assertEqual(2, len(self.dialer.peers))

    def test_one_after_the_other(self) -> None:
        self.make(PlainExchange(symbols_per_socket=1), "ABC").startService()
        self.clock.advance(0)
        first = list(self.dialer.peers)
        for peer in first:
            self.turn(peer)
        self.assertEqual(3, self.feed.renew("asked for"))
        for count in (4, 5, 6):
            self.clock.advance(2)
            self.assertEqual(count, len(self.dialer.peers))
            self.turn(self.dialer.last)
        self.assertEqual([False] * 3 + [True] * 3, [peer.alive for peer in self.dialer.peers])
        self.clock.advance(2)
        self.assertEqual(6, len(self.dialer.peers))

    def test_a_successor_that_fails_leaves_the_old_one(self) -> None:
        old = self.go_live()
        self.feed.renew("asked for")
        self.clock.advance(0)
        self.dialer.last.end("refused")
        self.assertTrue(old.alive)
        self.clock.advance(60)
        self.turn(self.dialer.last)
        self.assertFalse(old.alive)

    def test_twice_is_once(self) -> None:
        self.go_live()
        self.feed.renew("asked for")
        self.assertEqual(1, self.feed.renew("asked for"))
        self.clock.advance(0)
        self.assertEqual(2, len(self.dialer.peers))

    def test_what_is_out_is_dialed_at_once(self) -> None:
        self.start()
        for _ in range(6):
            self.dialer.last.end("refused")
            self.clock.advance(60)
        self.dialer.last.end("refused")
        count = len(self.dialer.peers)
        self.assertEqual(0, self.feed.renew("asked for"))
        self.clock.advance(0)
        self.assertEqual(count + 1, len(self.dialer.peers))

    def test_when_it_is_not_running(self) -> None:
        self.assertEqual(0, self.make().renew("asked for"))


class PauseTests(FeedCase):
    def test_ends_its_connections_in_good_order(self) -> None:
        peer = self.go_live()
        self.assertTrue(self.feed.pause())
        self.assertEqual((BY_OPERATOR, False), (peer.asked_to_close, peer.aborted))
        self.assertEqual([("connected", "AB"), ("disconnected", "AB"), ("halted", "")], self.sink.words())
        status = self.feed.status()
        self.assertEqual((PAUSED, 0, 2, BY_OPERATOR), (status.state, status.connections, status.symbols, status.why))

    def test_makes_no_new_ones(self) -> None:
        peer = self.go_live()
        self.feed.pause()
        self.pass_time(300)
        self.feed.reconnect("asked for")
        self.feed.renew("asked for")
        self.feed.adopt("ABCD")
        self.pass_time(300)
        self.assertEqual([peer], self.dialer.peers)
        self.assertEqual(PAUSED, self.state())

    def test_hears_nothing_more(self) -> None:
        peer = self.go_live()
        before = list(self.sink.ticks)
        self.feed.pause()
        peer.say({"tick": "A"})
        self.assertEqual(before, self.sink.ticks)

    def test_twice_is_once(self) -> None:
        self.go_live()
        self.feed.pause()
        told = list(self.sink.told)
        self.assertFalse(self.feed.pause())
        self.assertEqual(told, self.sink.told)

    def test_resume(self) -> None:
        self.go_live()
        self.feed.pause()
        self.clock.advance(60)
        self.assertTrue(self.feed.resume())
        self.assertEqual((CONNECTING, ""), (self.state(), self.feed.why))
        self.clock.advance(0)
        self.dialer.last.accept()
        for symbol in "AB":
            self.dialer.last.say({"tick": symbol})
        self.assertEqual([("halted", ""), ("resumed", ""), ("connected", "AB")], self.sink.words()[2:])
        self.assertEqual((LIVE, 2), (self.state(), len(self.dialer.peers)))
        self.assertFalse(self.feed.resume())

    def test_other_symbols_meanwhile(self) -> None:
        """The sink may have new ones, which are as halted as the others; they are subscribed to afterwards."""
        self.go_live()
        self.feed.pause()
        self.feed.adopt("BC")
        self.assertEqual([("halted", ""), ("halted", "")], self.sink.words()[-2:])
        self.feed.resume()
        self.clock.advance(0)
        self.dialer.last.accept()
        self.assertEqual(["subscribe B C"], self.dialer.last.sent)

    def test_while_it_dials(self) -> None:
        peer = self.start()
        self.feed.pause()
        self.clock.advance(0)
        self.assertTrue(peer.aborted)
        self.pass_time(60)
        self.assertEqual([peer], self.dialer.peers)

    def test_while_it_waits_to_dial(self) -> None:
        self.start().end("refused")
        self.feed.pause()
        self.pass_time(60)
        self.assertEqual(1, len(self.dialer.peers))

    def test_while_it_is_renewed(self) -> None:
        self.make(PlainExchange(symbols_per_socket=1)).startService()
        self.clock.advance(0)
        for peer, symbol in zip(list(self.dialer.peers), "AB", strict=True):
            peer.accept()
            peer.say({"tick": symbol})
        self.feed.renew("asked for")
        self.clock.advance(0)
        self.feed.pause()
        self.pass_time(60)
        self.assertEqual((3, []), (len(self.dialer.peers), self.dialer.alive()))

    def test_a_halt_of_the_exchange_s_own_is_not_mixed_up_with_it(self) -> None:
        peer = self.go_live()
        peer.say({"halt": ["A"]})
        self.feed.pause()
        self.feed.resume()
        self.clock.advance(0)
        self.dialer.last.accept()
        self.dialer.last.say({"halt": ["A"]})
        self.assertEqual(
            [("halted", "A"), ("resumed", "A"), ("disconnected", "AB"), ("halted", ""), ("resumed", ""),
             ("connected", "AB"), ("halted", "A")],
            self.sink.words()[1:],
        )  # fmt: skip

    def test_before_the_start(self) -> None:
        self.make().pause()
        self.feed.startService()
        self.pass_time(60)
        self.assertEqual((PAUSED, []), (self.state(), self.dialer.peers))
        self.feed.resume()
        self.clock.advance(0)
        self.assertEqual(1, len(self.dialer.peers))

    def test_stops_all_the_same(self) -> None:
        self.go_live()
        self.feed.pause()
        stopped = self.feed.stopService()
        self.assertNoResult(stopped)
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_is_one_line(self) -> None:
        self.go_live()
        self.clock.advance(1)
        self.feed.pause()
        self.pass_time(5)
        self.assertEqual(1, self.said(f"kraken feed is paused (was live) {BY_OPERATOR}"))


class StoppingTests(FeedCase):
    def check_stops_clean(self) -> None:
        stopped = self.feed.stopService()
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        count = len(self.dialer.peers)
        self.clock.advance(1000)
        self.assertEqual(len(self.dialer.peers), count)
        self.assertEqual(self.dialer.alive(), [])

    def test_while_dialing(self) -> None:
        self.start()
        self.check_stops_clean()

    def test_while_live(self) -> None:
        peer = self.go_live()
        peer.say({"send": ["later", 30]})
        self.check_stops_clean()
        self.assertTrue(peer.aborted)
        self.assertEqual(self.sink.words()[-1], ("disconnected", "AB"))

    def test_while_waiting_to_dial(self) -> None:
        self.start().end("refused")
        self.check_stops_clean()

    def test_while_replacing(self) -> None:
        peer = self.go_live()
        peer.say({"replace": 30})
        self.clock.advance(0)
        self.check_stops_clean()

    def test_before_anything_happened(self) -> None:
        self.make().startService()
        self.check_stops_clean()

    def test_waits_for_the_last_connection(self) -> None:
        self.go_live()
        stopped = self.feed.stopService()
        self.assertNoResult(stopped)
        self.clock.advance(0)
        self.successResultOf(stopped)

    def test_a_retired_connection_is_waited_for_as_well(self) -> None:
        old = self.go_live()
        old.say({"replace": 30})
        self.clock.advance(0)
        new = self.dialer.last
        new.accept()
        new.say({"ack": ["A", "B"]})
        close, old._end_later = old._end_later, lambda reason: None  # type: ignore[method-assign]
        self.clock.advance(1)
        stopped = self.feed.stopService()
        self.clock.advance(0)
        self.assertNoResult(stopped)
        close("closed at last")
        self.clock.advance(0)
        self.successResultOf(stopped)

    def test_can_start_again(self) -> None:
        self.go_live()
        self.check_stops_clean()
        self.feed.startService()
        self.clock.advance(0)
        self.dialer.last.accept()
        self.assertEqual(self.sink.words()[-1], ("connected", "AB"))

    def test_not_before_it_has_ended(self) -> None:
        self.go_live()
        self.feed.stopService()
        self.assertRaises(RuntimeError, self.feed.startService)


class MovedTests(SynchronousTestCase):
    def test_what_is_on_a_connection_stays_there(self) -> None:
        self.assertEqual(moved([("A", "C"), ("B",)], "CBA", 2), [("C", "A"), ("B",)])

    def test_new_ones_go_where_something_changes_anyway(self) -> None:
        self.assertEqual(
            moved([("A", "B"), ("C", "D"), ("E", "F")], "ABCEFXYZ", 4), [("A", "B"), ("C", "X", "Y", "Z"), ("E", "F")]
        )

    def test_then_to_the_emptiest(self) -> None:
        self.assertEqual(moved([("A", "B"), ("C",)], "ABCX", 4), [("A", "B"), ("C", "X")])

    def test_then_to_new_ones(self) -> None:
        self.assertEqual(moved([("A", "B")], "ABCDE", 2), [("A", "B"), ("C", "E"), ("D",)])

    def test_some_are_left_with_nothing(self) -> None:
        self.assertEqual(moved([("A", "B"), ("C",)], "AB", 2), [("A", "B"), ()])
        self.assertEqual(moved([("A",)], "", 2), [()])
        self.assertEqual(moved([], "AB", 1), [("A",), ("B",)])

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(st.sets(st.integers(0, 40)), max_size=5),
        st.integers(1, 6),
        st.sets(st.sampled_from("ABCDEFGHIJKLMNOPQ")),
    )
    def test_each_on_one_connection_within_the_limit(self, steps: list[set[int]], limit: int, first: set[str]) -> None:
        parts = shards(sorted(first), limit)
        for step in steps:
            wanted = [f"S{number}" for number in sorted(step)]
            after = moved(parts, wanted, limit)
            self.assertEqual(sorted(symbol for part in after for symbol in part), sorted(wanted))
            self.assertTrue(all(len(part) <= limit for part in after))
            for before, part in zip(parts, after, strict=False):
                self.assertLessEqual(set(before) & set(wanted), set(part))
            self.assertTrue(all(after[len(parts) :]))
            if len(after) > len(parts):  # a new one is made only where there was no room
                self.assertTrue(all(len(part) == limit for part in after[: len(parts)]))
            parts = [part for part in after if part]


class AdoptTests(FeedCase):
    """Other symbols than before."""

    def settle(self, peer: MemoryPeer) -> None:
        """Let the newest connection take over."""
        peer.accept()
        peer.say({"ack": peer.sent[0].split()[1:]})
        self.clock.advance(1)

    def test_the_old_connection_serves_until_its_successor_does(self) -> None:
        old = self.go_live()
        self.feed.adopt("ABC")
        self.clock.advance(0)
        new = self.dialer.last
        self.assertIsNot(new, old)
        new.accept()
        self.assertEqual(new.sent, ["subscribe A B C"])
        self.assertEqual(self.sink.words(), [("connected", "AB"), ("connected", "C")])
        old.say({"tick": ["A", 7.0]})
        self.assertIn(("A", 7.0), self.sink.ticks)
        self.assertEqual(self.state(), LIVE)
        new.say({"ack": ["A", "B", "C"]})
        self.clock.advance(1)
        self.assertEqual(old.asked_to_close, "replaced")
        self.clock.advance(100)
        self.assertEqual(len(self.dialer.peers), 2)
        self.assertEqual(self.sink.words(), [("connected", "AB"), ("connected", "C")], "the sink must not notice")

    def test_what_is_wanted_no_more_is_not_carried_at_once(self) -> None:
        old = self.go_live()
        self.feed.adopt("A")
        self.assertEqual(self.sink.words(), [("connected", "AB"), ("disconnected", "B")])
        status = self.feed.status()
        self.assertEqual((status.symbols, status.live_symbols), (1, 1))
        self.clock.advance(0)
        self.settle(self.dialer.last)
        self.assertFalse(old.alive)
        self.assertEqual(self.dialer.last.sent, ["subscribe A"])
        self.assertEqual(self.sink.words()[2:], [])

    def test_a_symbol_that_comes_back_before_it_was_gone(self) -> None:
        self.go_live()
        self.feed.adopt("A")
        self.feed.adopt("AB")
        self.assertEqual(self.sink.words()[1:], [("disconnected", "B"), ("connected", "B")])
        for _ in range(3):
            self.clock.advance(0)
            if not self.dialer.last.accepted:
                self.settle(self.dialer.last)
        self.assertEqual([peer.sent[0] for peer in self.dialer.alive()], ["subscribe A B"])

    def test_no_other_connection_is_touched(self) -> None:
        self.make(PlainExchange(symbols_per_socket=2), "ABCD").startService()
        self.clock.advance(0)
        first, second = self.dialer.peers
        for peer in (first, second):
            self.settle(peer)
        self.feed.adopt("ABCX")
        self.clock.advance(0)
        self.settle(self.dialer.last)
        self.assertTrue(first.alive)
        self.assertFalse(second.alive)
        self.assertEqual(self.dialer.last.sent, ["subscribe B X"])
        self.assertEqual(len(self.dialer.peers), 3)

    def test_more_than_fit_get_a_connection_of_their_own(self) -> None:
        """Which is not missed while it comes up."""
        old = self.go_live(symbols_per_socket=2)
        self.feed.adopt("ABC")
        self.assertEqual(self.state(), LIVE)
        self.clock.advance(0)
        self.assertTrue(old.alive)
        self.dialer.last.accept()
        self.assertEqual(self.dialer.last.sent, ["subscribe C"])
        self.assertEqual(self.state(), LIVE)
        self.pass_time(31, old)
        self.assertEqual(self.state(), LATE)
        self.dialer.last.say({"tick": "C"})
        self.assertEqual(self.state(), LIVE)

    def test_one_that_cannot_be_made_is_missed(self) -> None:
        self.go_live(symbols_per_socket=2)
        self.feed.adopt("ABC")
        self.clock.advance(0)
        self.dialer.last.end("refused")
        self.assertEqual(self.state(), CONNECTING)

    def test_a_successor_that_fails_leaves_the_old_one(self) -> None:
        old = self.go_live()
        self.feed.adopt("ABC")
        for _ in range(3):
            self.pass_time(20, old)
            self.dialer.last.end("refused")
        self.assertTrue(old.alive)
        self.assertEqual(self.sink.words(), [("connected", "AB")])
        self.pass_time(20, old)
        self.settle(self.dialer.last)
        self.assertEqual(self.dialer.last.sent, ["subscribe A B C"])

    def test_others_while_a_successor_is_on_its_way(self) -> None:
        """It was asked for what was wanted then, and is replaced in turn."""
        self.go_live()
        self.feed.adopt("ABC")
        self.clock.advance(0)
        self.feed.adopt("ABD")
        self.settle(self.dialer.last)
        self.assertNotIn(("connected", "C"), self.sink.words())
        self.clock.advance(0)
        self.settle(self.dialer.last)
        self.assertEqual([peer.sent[0] for peer in self.dialer.alive()], ["subscribe A B D"])
        self.assertEqual(self.sink.words()[1:], [("connected", "D")])

    def test_others_while_the_first_is_being_dialed(self) -> None:
        first = self.start()
        self.feed.adopt("BC")
        first.accept()
        self.assertEqual(self.sink.words(), [("connected", "B")])
        self.clock.advance(0)
        self.settle(self.dialer.last)
        self.assertFalse(first.alive)
        self.assertEqual(self.sink.words(), [("connected", "B"), ("connected", "C")])
        self.assertEqual(self.dialer.last.sent, ["subscribe B C"])

    def test_others_while_it_waits_to_dial(self) -> None:
        self.start().end("refused")
        self.feed.adopt("C")
        self.assertEqual(len(self.dialer.peers), 1)
        self.clock.advance(1)
        self.dialer.last.accept()
        self.assertEqual(self.dialer.last.sent, ["subscribe C"])
        self.assertEqual(len(self.dialer.peers), 2)

    def test_others_while_it_reconnects(self) -> None:
        self.go_live()
        self.feed.reconnect("asked for")
        self.feed.adopt("ABC")
        self.clock.pump([0.0, 0.0, 0.0])
        self.settle(self.dialer.last)
        self.clock.pump([0.0, 0.0, 5.0])
        self.assertEqual([peer.sent[0] for peer in self.dialer.alive()], ["subscribe A B C"])

    def test_before_the_start(self) -> None:
        self.make().adopt("CD")
        self.feed.startService()
        self.clock.advance(0)
        self.dialer.last.accept()
        self.assertEqual(self.dialer.last.sent, ["subscribe C D"])

    def test_the_same_in_another_order_is_nothing(self) -> None:
        self.go_live()
        self.feed.adopt("BA")
        self.clock.advance(5)
        self.assertEqual(len(self.dialer.peers), 1)
        self.assertEqual(self.sink.words(), [("connected", "AB")])

    def test_first_prices_are_asked_for_the_new_ones(self) -> None:
        self.go_live(name="gateio", seeds_from_rest=True)
        self.feed.adopt("ABC")
        self.clock.advance(0)
        self.settle(self.dialer.last)
        self.assertEqual(self.subscribed, [("gateio", ("A", "B")), ("gateio", ("C",))])

    def test_what_was_refused_is_forgotten_with_its_symbol(self) -> None:
        peer = self.go_live()
        peer.say({"refuse": "B"})
        self.feed.adopt("AC")
        self.assertEqual(self.feed.status().refused, ())

    def test_a_halt_ends_with_its_symbol(self) -> None:
        peer = self.go_live()
        peer.say({"halt": ["B"]})
        self.feed.adopt("A")
        self.assertIn(("resumed", "B"), self.sink.words())
        self.assertEqual(self.said("trading goes on"), 0)
        self.feed.adopt("AB")
        self.assertEqual([word for word in self.sink.words() if word == ("halted", "B")], [("halted", "B")] * 2)

    def test_many_that_went_are_no_silence(self) -> None:
        """The rhythm of many symbols is not expected of the few that are left."""
        self.symbols = "ABCDEFGHIJ"
        old = self.go_live()
        self.pass_time(70, old)
        self.feed.adopt("ABCDE")
        self.clock.pump([1.0] * 70)
        self.assertEqual((old.aborted, self.said("no price for")), (False, 0))


class OffTests(FeedCase):
    def test_an_exchange_of_which_nothing_is_wanted_is_closed(self) -> None:
        old = self.go_live()
        self.clock.advance(1)
        self.feed.adopt(())
        self.assertEqual(self.sink.words(), [("connected", "AB"), ("disconnected", "AB")])
        self.assertIsNotNone(old.asked_to_close)
        status = self.feed.status()
        self.assertEqual((status.state, status.symbols, status.connections, status.why), (OFF, 0, 0, ""))
        self.assertEqual(self.said("kraken feed is off (was live)"), 1)
        self.clock.advance(1000)
        self.assertEqual(len(self.dialer.peers), 1)

    def test_and_comes_back(self) -> None:
        self.go_live()
        self.feed.adopt(())
        self.clock.advance(10)
        self.feed.adopt("AB")
        self.assertEqual(self.state(), CONNECTING)
        self.clock.advance(0)
        self.dialer.last.accept()
        self.dialer.last.say({"tick": "A"})
        self.assertEqual((self.state(), self.sink.words()[-1]), (LIVE, ("connected", "AB")))
        self.assertEqual(len(self.dialer.peers), 2)

    def test_while_it_dials(self) -> None:
        peer = self.start()
        self.feed.adopt(())
        self.clock.advance(100)
        self.assertTrue(peer.aborted)
        self.assertEqual((self.state(), len(self.dialer.peers)), (OFF, 1))

    def test_while_it_waits_to_dial(self) -> None:
        self.start().end("refused")
        self.feed.adopt(())
        self.clock.advance(100)
        self.assertEqual((self.state(), self.feed.status().why, len(self.dialer.peers)), (OFF, "", 1))

    def test_from_the_start(self) -> None:
        self.make(symbols=()).startService()
        self.clock.advance(100)
        self.assertEqual((self.state(), self.said("feed is")), (OFF, 0))

    def test_a_stop_waits_for_what_is_being_closed(self) -> None:
        old = self.go_live()
        close, old._end_later = old._end_later, lambda reason: None  # type: ignore[method-assign]
        self.feed.adopt(())
        stopped = self.feed.stopService()
        self.clock.advance(0)
        self.assertNoResult(stopped)
        close("closed at last")
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FeedsTests(FeedCase):
    names = ("coinbase", "gemini", "kraken", "gateio", "cryptocom", "okx")

    def setUp(self) -> None:
        super().setUp()
        self.dialer.script = lambda peer: peer.accept()
        self.feeds = Feeds(self.make(PlainExchange(name)) for name in self.names)
        self.feeds.startService()
        self.clock.pump([0.0, 0.0])

    def test_one_dies_and_five_live(self) -> None:
        def answer(peer: MemoryPeer) -> None:
            if "okx" in peer.url:
                peer.end("refused")
            else:
                peer.accept()

        self.dialer.script = answer
        next(peer for peer in self.dialer.peers if "okx" in peer.url).end("lost: reset")
        for _ in range(100):
            self.clock.advance(1)
            for peer in self.dialer.alive():
                peer.say({"tick": "A"})
        states = {status.exchange: status.state for status in self.feeds.status()}
        self.assertEqual(states, {**dict.fromkeys(self.names, LIVE), "okx": DOWN})
        self.assertEqual([status.exchange for status in self.feeds.status()], list(self.names))

    def test_reconnects_the_one_that_was_named(self) -> None:
        self.assertTrue(self.feeds.reconnect("gemini", "asked for"))
        self.assertFalse(self.feeds.reconnect("mtgox", "asked for"))
        self.assertEqual([peer.url for peer in self.dialer.peers if peer.aborted], ["ws://gemini.invalid/"])

    def test_finds_one(self) -> None:
        feed = self.feeds.find("okx")
        assert feed is not None
        self.assertEqual("okx", feed.exchange_name)
        self.assertIsNone(self.feeds.find("nowhere"))

    def test_all_stop(self) -> None:
        stopped = self.feeds.stopService()
        self.assertNoResult(stopped)
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_goes_over_to_what_another_map_wants_of_it(self) -> None:
        def asset(code: str, **symbols: str) -> Asset:
            return Asset(code, code, "", next(iter(symbols)), symbols, frozenset({"gemini"}))

        found = [asset("X", coinbase="A", gemini="GX", okx="A"), asset("Y", coinbase="C", okx="B")]
        self.feeds.adopt(AssetMap({each.code: each for each in found}, {}))
        for _ in range(4):
            self.clock.advance(0)
            for peer in self.dialer.alive():
                peer.say({"ack": peer.sent[0].split()[1:]})
            self.clock.advance(1)
        carried = sorted((peer.url, peer.sent[0]) for peer in self.dialer.alive())
        self.assertEqual(carried, [("ws://coinbase.invalid/", "subscribe A C"), ("ws://okx.invalid/", "subscribe A B")])
        states = {status.exchange: status.state for status in self.feeds.status()}
        self.assertEqual(
            {name for name, state in states.items() if state == OFF}, {"gemini", "kraken", "gateio", "cryptocom"}
        )

    def test_one_that_fails_to_fails_alone(self) -> None:
        def fail(_symbols: object) -> None:
            raise ZeroDivisionError

        self.feeds._feeds["coinbase"].adopt = fail  # type: ignore[assignment,method-assign]
        self.feeds.adopt(AssetMap({}, {}))
        self.assertEqual([status.symbols for status in self.feeds.status()], [2, 0, 0, 0, 0, 0])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
