"""Random worlds: honest exchanges of all tempers, a minority of rogues that stop at nothing, lines that break.

What docs/prices.md promises is asserted at every moment of them. The rogues know the rules: they freeze, run away
together, whisper along and then lie, drift slowly, send numbers without sense and times out of order, reconnect,
halt, and answer over REST. Exchanges lose connections and fall behind; symbols are busy or tick once a minute.
"""

from __future__ import annotations

import random
from math import isfinite

from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain import quotes
from tbeast.domain.aggregation import BP, K, Noise
from tbeast.domain.assetmap import EXCHANGES
from tbeast.domain.board import OUT_OF_ORDER, REST, WS, Source
from tbeast.domain.freshness import GRACE_SECONDS
from tbeast.domain.pricing import AGREEMENT_BP, RATE_SOURCES
from tbeast.domain.quotes import Quote, SourceView
from tbeast.domain.ticks import GREATEST, SMALLEST, UNKNOWN, Tick, fault_in
from tbeast.test.domain.boards import START, Scene

WIDEST_AGREEMENT = max(AGREEMENT_BP * BP, K * Noise.CEILING)
JUDGED = (quotes.USED, quotes.SET_ASIDE, quotes.SUSPECT, quotes.EXPELLED)
"""The verdicts on values that are fresh."""

WILD = (SMALLEST, 1e-9, 0.5, 0.9, 1.0, 1.0011, 1.02, 2.0, 1e6, GREATEST)

TACTICS = ("honest", "freeze", "whisper", "aim", "aim", "wild", "drift", "alternate", "nonsense", "flap")

ROUNDING = 1e-9


class World:
    """One world.

    @ivar rogues: the exchanges that are not honest.
    @ivar tainted_until: until when the rate of USDT may be what a majority of rogues made it.
    @ivar checked: how many times the promise to the honest was put to the test.
    """

    def __init__(self, seed: int, rogues: int, outages: bool) -> None:
        self.chance = random.Random(seed)
        self.scene = Scene(max_age_seconds=self.chance.choice([60.0, 60.0, 20.0]))
        self.rogues = tuple(self.chance.sample(EXCHANGES, rogues))
        self.outages = outages
        self.true = {"BTC": 60_000.0, "ETH": 2_000.0, "SKL": 0.03, "NOT": 0.0004, "USDT": 1.0, "USDC": 1.0}
        self.codes = self.scene.board.codes()
        # A busy symbol ticks several times a second, a thin one once a minute.
        self.pace = {
            (source.exchange, code): self.chance.choice([0.9, 0.9, 0.4, 0.05, 0.02])
            for code in self.codes
            for source in self.scene.board.sources[code]
        }
        self.bias = {key: self.chance.gauss(0.0, 5e-4) for key in self.pace}
        self.tactic = dict.fromkeys(self.rogues, "honest")
        self.aim = 1.0
        self.trend = 0.0
        self.behind = dict.fromkeys(EXCHANGES, 0.0)
        self.reviewed_at = START
        self.tainted_until = float("-inf")
        self.majority: dict[str, bool] = dict.fromkeys(self.codes, False)
        self.checked = 0
        self.out_of_order = 0

    def step(self) -> None:
        """Let some time pass, and things happen."""
        chance, scene = self.chance, self.scene
        scene.now += (
            chance.choice([0.05, 0.3, 0.7, 1.0, 1.0, 2.0]) if chance.random() < 0.985 else chance.uniform(5, 70)
        )
        market = self.trend + chance.gauss(0.0, 1e-4)
        for code in self.codes:
            wide = 2e-5 if code.startswith("USD") else 1e-4
            self.true[code] *= 1.0 + chance.gauss(0.0, wide) + (0.0 if code.startswith("USD") else market)
        if chance.random() < 0.05:
            self.aim = chance.choice(WILD)
            together = chance.choice(TACTICS)
            for rogue in self.rogues:
                self.tactic[rogue] = together if chance.random() < 0.7 else chance.choice(TACTICS)
        if chance.random() < 0.05:
            self.trend = chance.choice([0.0, 0.0, 3e-4, -3e-4])
        if self.outages:
            self._break_something()
        for exchange in EXCHANGES:
            for symbol, source in scene.board.by_symbol[exchange].items():
                if exchange in self.rogues:
                    self._lie(source, symbol)
                elif source.connected and chance.random() < self.pace[exchange, source.asset]:
                    self._tell(source, symbol)
        if scene.now - self.reviewed_at >= 1.0:
            self.reviewed_at = scene.now
            scene.board.turn(scene.now)
            for code in self.codes:
                scene.pricer.review(code, scene.now)

    def worth(self, source: Source) -> float:
        """What is honestly asked for it there, in the currency in which it is quoted there."""
        value = self.true[source.asset] * (1.0 + self.bias[source.exchange, source.asset] * (source.asset != "USDT"))
        return value / self.true["USDT"] if source.quote_currency == "USDT" else value

    def _break_something(self) -> None:
        chance, scene = self.chance, self.scene
        exchange = chance.choice(EXCHANGES)
        luck = chance.random()
        if luck < 0.01:
            scene.disconnect(exchange)
        elif luck < 0.10:
            if not all(source.connected for source in scene.board.by_symbol[exchange].values()):
                scene.connect(exchange)
        elif luck < 0.11:
            scene.board.halted(exchange, (), True)
        elif luck < 0.14:
            scene.board.halted(exchange, (), False)
        elif luck < 0.15:
            self.behind[exchange] = chance.choice([0.0, 3.0, 40.0])
        if chance.random() < 0.3:
            for source in scene.board.late(exchange, scene.now):
                if exchange not in self.rogues and chance.random() < 0.5:
                    self._put(source, source.symbol, self.worth(source), said=scene.now - 3600, via=REST)

    def _tell(self, source: Source, symbol: str) -> None:
        chance = self.chance
        behind = self.behind[source.exchange]
        if chance.random() < 0.2 and source.heard_at is not None:  # nothing new, and said so
            fault = self._put(source, symbol, source.price, said=self.scene.now - behind)
        else:
            price = self.worth(source) * (1.0 + chance.gauss(0.0, 5e-5))
            fault = self._put(source, symbol, price, said=self.scene.now - behind)
        self.out_of_order += fault == OUT_OF_ORDER and not self.outages

    def _lie(self, source: Source, symbol: str) -> None:
        chance, scene = self.chance, self.scene
        tactic, worth = self.tactic[source.exchange], self.worth(source)
        said, via = scene.now, WS
        if tactic == "honest":
            price = worth
        elif tactic == "freeze":
            price = source.price if source.heard_at is not None else worth
        elif tactic == "whisper":  # a little along with the market, to make those that are quiet look frozen
            price = worth * (1.0 + 0.0012 * (int(scene.now / 7) % 3))
        elif tactic == "aim":
            price = worth * self.aim
        elif tactic == "wild":
            price = worth * chance.choice(WILD)
        elif tactic == "drift":
            price = worth * (1.0 + 0.0005 * ((scene.now - START) % 300))
        elif tactic == "alternate":
            price = worth * (2.0 if int(scene.now) % 2 else 0.5)
        elif tactic == "nonsense":
            price = chance.choice([SMALLEST, GREATEST, 5e-324, 1.7e308, UNKNOWN, float("inf"), -worth, 0.0])
            said = chance.choice([UNKNOWN, 0.0, 1e308, float("inf"), scene.now - 1e9, scene.now + 1e9])
        else:
            scene.disconnect(source.exchange)
            scene.connect(source.exchange)
            price, via = worth * self.aim, chance.choice([WS, REST])
        self._put(source, symbol, price, said=said, via=via)

    def _put(self, source: Source, symbol: str, price: float, said: float, via: str = WS) -> str | None:
        book = self.chance.random() < 0.9
        bid, ask = (price * 0.99995, price * 1.00005) if book else (UNKNOWN, UNKNOWN)
        volume = self.chance.choice([UNKNOWN, 0.0, 5.0, 1e308])
        reason = fault_in(price, bid, ask)  # as every codec does
        if reason is None:
            reason = self.scene.board.put(
                Tick(source.exchange, symbol, price, bid, ask, volume, said, self.scene.now), via
            )
        return reason

    def look(self, case: SynchronousTestCase) -> None:
        """Price everything and hold it against the promises."""
        for code in self.codes:
            if code == "USDT":
                self._look_at_the_rate()
            self.scene.pricer.quote(code, self.scene.now)
            quote, views = self.scene.pricer.explain(code, self.scene.now)
            if quote is not None:
                self._look_at(case, quote, views)

    def _fresh(self, code: str, views: list[SourceView]) -> tuple[list[SourceView], bool]:
        """The views of fresh values, and whether the rogues among them are few enough for the promise."""
        lost = {
            source.exchange
            for source in self.scene.board.sources[code]
            if not source.connected and source.via != REST and self.scene.now - source.lost_at >= GRACE_SECONDS
        }
        fresh = [view for view in views if view.verdict in JUDGED and view.exchange not in lost]
        rogue = sum(view.exchange in self.rogues for view in fresh)
        return fresh, len(fresh) >= 3 and rogue <= (len(fresh) - 1) // 2

    def _look_at_the_rate(self) -> None:
        pricer, now = self.scene.pricer, self.scene.now
        quote = pricer.quote("USDT", now)
        if quote is None or quote.seen < RATE_SOURCES:
            return
        _, promised = self._fresh("USDT", pricer.explain("USDT", now)[1])
        if not promised:
            self.tainted_until = max(self.tainted_until, quote.fresh_until)

    def _look_at(self, case: SynchronousTestCase, quote: Quote, views: list[SourceView]) -> None:
        now, limit = self.scene.now, self.scene.board.limits.max_age_seconds
        case.assertIn(quote.quality, quotes.QUALITIES)
        for number in (quote.price, quote.observed_at, quote.fresh_until, quote.spread_bp, quote.volume, quote.bid):
            case.assertTrue(number is None or isfinite(number), quote)
        case.assertGreater(quote.price, 0.0)
        fresh, promised = self._fresh(quote.asset, views)
        honest = [view for view in fresh if view.exchange not in self.rogues]
        if not promised:
            self.majority[quote.asset] = True
        if not self.majority[quote.asset] and not self.outages:
            case.assertNotIn(quotes.EXPELLED, [view.verdict for view in honest])
        if quote.quality in (quotes.STALE, quotes.HALTED):
            case.assertNotIn(quotes.USED, [view.verdict for view in views])
            return
        age = now - quote.observed_at
        case.assertTrue(-1e-6 <= age <= limit + 1e-6, quote)
        case.assertLessEqual(quote.fresh_until, quote.observed_at + limit + 1e-6)
        case.assertGreaterEqual(quote.fresh_until, now - 1e-6)
        case.assertTrue((quote.bid or quote.price) <= quote.price <= (quote.ask or quote.price), quote)
        # The age is that of a value that is the price or one of the two that it lies between.
        ages = [view.age_seconds for view in views if view.age_seconds is not None]
        case.assertTrue(any(abs(age - known) < 0.0011 for known in ages), (age, ages))
        voted = [view for view in views if view.exchange in quote.used]
        if quote.quality == quotes.GOOD:
            case.assertGreaterEqual(len(voted), 3)
            case.assertEqual(quote.set_aside, ())
            case.assertEqual({view.verdict for view in voted}, {quotes.USED})
            for view in voted:
                assert view.value is not None
                case.assertLessEqual(abs(view.value - quote.price), (WIDEST_AGREEMENT + ROUNDING) * quote.price)
        elif quote.quality == quotes.SINGLE_SOURCE:
            case.assertEqual(len(quote.used), 1)
        if not promised or not any(view.verdict == quotes.USED for view in views):
            return
        if now <= self.tainted_until and any(view.quote_currency != "USD" for view in fresh):
            return
        self.checked += 1
        values = [view.value for view in honest if view.value is not None]
        case.assertGreaterEqual(quote.price, min(values) * (1.0 - ROUNDING), (quote, views))
        case.assertLessEqual(quote.price, max(values) * (1.0 + ROUNDING), (quote, views))


class WorldTests(SynchronousTestCase):
    def play(self, seed: int, rogues: int, outages: bool, steps: int = 200) -> World:
        world = World(seed, rogues, outages)
        for _ in range(steps):
            world.step()
            world.look(self)
        return world

    def test_a_minority_of_rogues(self) -> None:
        checked = sum(self.play(seed, 1 + seed % 2, outages=False).checked for seed in range(12))
        self.assertGreater(checked, 5000)

    def test_a_minority_of_rogues_while_lines_break(self) -> None:
        checked = sum(self.play(100 + seed, 1 + seed % 2, outages=True).checked for seed in range(14))
        self.assertGreater(checked, 2500)

    def test_no_promise_is_needed_to_stay_upright(self) -> None:
        for seed in range(4):
            self.play(200 + seed, 4 + seed % 3, outages=True)

    def test_honest_worlds(self) -> None:
        for seed in range(3):
            world = self.play(300 + seed, 0, outages=False)
            self.assertEqual(world.out_of_order, 0)
            for code in ("BTC", "ETH"):
                self.assertFalse(any(source.expelled for source in world.scene.board.sources[code]))

    def test_everyone_is_heard_again_when_all_agree(self) -> None:
        for seed in range(8):
            world = self.play(400 + seed, 3, outages=True, steps=150)
            world.rogues = ()
            world.outages = False
            world.behind = dict.fromkeys(EXCHANGES, 0.0)
            for exchange in EXCHANGES:
                world.scene.board.halted(exchange, (), False)
                world.scene.connect(exchange)
            world.pace = dict.fromkeys(world.pace, 0.9)
            for _ in range(90):
                world.step()
                world.look(self)
            for code in world.codes:
                for source in world.scene.board.sources[code]:
                    self.assertFalse(source.expelled, (seed, code, source.exchange))
                quote = world.scene.pricer.quote(code, world.scene.now)
                assert quote is not None
                self.assertNotIn(quote.quality, (quotes.STALE, quotes.HALTED))
