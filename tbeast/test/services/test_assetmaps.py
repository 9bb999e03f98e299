"""Which asset map is in force."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.assetmap import Asset, AssetMap
from tbeast.domain.counters import Counters
from tbeast.errors import AssetMapError, StoreRefusedError, StoreUnavailableError
from tbeast.services.assetmaps import (
    AGAIN_SECONDS,
    AWAY,
    CHANGED,
    DATABASE,
    FAULTY,
    PACKAGE,
    PATIENCE_SECONDS,
    READING_SECONDS,
    SAME,
    AssetMaps,
    MapChange,
    Reloaded,
    difference,
)
from tbeast.test.domain.boards import asset_map, changed, without
from tbeast.testing.logs import listen

MINUTES = 5.0
NEW = Asset("NEW", "New", "Novelties", "okx", {"okx": "NEW-USDT", "kraken": "NEW/USD"}, frozenset({"kraken"}))


class Rows:
    """A database that says what the test wants it to, at once or when told to."""

    def __init__(self) -> None:
        self.says: AssetMap | Exception | None = asset_map()
        self.waiting: list[Deferred[AssetMap]] = []
        self.asked = 0
        self.cancelled = 0

    def read(self) -> Deferred[AssetMap]:
        self.asked += 1
        answer: Deferred[AssetMap] = Deferred(lambda _: self._cancel())
        self.waiting.append(answer)
        if self.says is not None:
            self.answer(self.says)
        return answer

    def answer(self, says: AssetMap | Exception) -> None:
        answer = self.waiting.pop(0)
        if isinstance(says, Exception):
            answer.errback(says)
        else:
            answer.callback(says)

    def _cancel(self) -> None:
        self.cancelled += 1


class AssetMapsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.rows = Rows()
        self.counters = Counters()
        self.heard: list[tuple[str, AssetMap]] = []
        self.package = asset_map()
        self.maps = AssetMaps(
            self.rows, self.package, [lambda assets: self.heard.append(("first", assets)), self.second], self.clock,
            self.counters, lambda: MINUTES,
        )  # fmt: skip
        self.lines = listen(self)

    def second(self, assets: AssetMap) -> None:
        self.heard.append(("second", assets))

    def start(self) -> None:
        self.assertIsNone(self.successResultOf(self.maps.startService()))

    def reload(self) -> Reloaded:
        return self.successResultOf(self.maps.reload())

    def wait(self, seconds: float) -> int:
        """Let time go by; how often the database was asked in it."""
        before = self.rows.asked
        for _ in range(round(seconds)):
            self.clock.advance(1)
        return self.rows.asked - before

    def test_the_database_has_the_same(self) -> None:
        self.start()
        self.assertIs(self.maps.current, self.package)
        self.assertEqual((self.maps.source, self.maps.why, self.heard, self.lines.lines), (DATABASE, "", [], []))

    def test_it_has_another(self) -> None:
        """Everybody hears of it, in their order; the log says what is another."""
        self.rows.says = other = changed(self.package, "ETH", NEW=NEW)
        self.start()
        self.assertEqual(self.heard, [("first", other), ("second", other)])
        self.assertIs(self.maps.current, other)
        self.assertEqual(
            self.lines.lines,
            [
                "another asset map is in force, 4 assets: added NEW; removed ETH; coinbase: -ETH-USD;"
                " kraken: +NEW/USD on demand, -ETH/USD; gateio: -ETH_USDT; cryptocom: -ETH_USD; okx: +NEW-USDT"
            ],
        )

    def test_it_is_asked_again_and_again(self) -> None:
        self.start()
        self.assertEqual(self.wait(MINUTES * 60 - 1), 0)
        self.rows.says = other = changed(self.package, "ETH")
        self.assertEqual(self.wait(1), 1)
        self.assertIs(self.maps.current, other)
        self.assertEqual(self.wait(MINUTES * 60 * 3), 3)
        self.assertEqual(len(self.heard), 2)

    def test_and_on_command(self) -> None:
        self.start()
        self.assertEqual(self.reload(), Reloaded(SAME))
        self.rows.says = changed(self.package, "BTC")
        reloaded = self.reload()
        assert reloaded.change is not None
        self.assertEqual((reloaded.outcome, reloaded.change.removed), (CHANGED, ("BTC",)))
        self.assertEqual(self.wait(MINUTES * 60 - 1), 0)
        self.assertEqual(self.wait(1), 1, "a command does not add to the rounds")

    def test_away_at_the_start(self) -> None:
        """The package's tables hold; it is asked until it answers, and then as seldom as ever."""
        self.rows.says = StoreUnavailableError("refused")
        self.start()
        self.assertEqual((self.maps.source, self.maps.why), (PACKAGE, "refused"))
        self.rows.says = StoreRefusedError("no such table")
        self.assertEqual(self.wait(AGAIN_SECONDS * 4), 4)
        self.rows.says = changed(self.package, "ETH")
        self.assertEqual(self.wait(AGAIN_SECONDS), 1)
        self.assertEqual((self.maps.source, self.maps.why, len(self.heard)), (DATABASE, "", 2))
        self.assertEqual(self.wait(MINUTES * 60 - 1), 0)
        self.assertEqual(
            self.lines.lines[:2],
            [
                "the asset map cannot be read from the database, that of the package stays: refused",
                "the asset map can be read from the database again",
            ],
        )
        self.assertEqual(len(self.lines.lines), 3)
        self.assertEqual(self.counters.value("service_failures", "asset map"), 5)

    def test_away_later(self) -> None:
        self.rows.says = other = changed(self.package, "ETH")
        self.start()
        self.rows.says = StoreUnavailableError("refused")
        self.assertEqual(self.reload(), Reloaded(AWAY, "refused"))
        self.assertEqual((self.maps.current, self.maps.source), (other, DATABASE))
        self.assertEqual(self.wait(MINUTES * 60), 1)
        self.assertEqual(self.lines.having("that of the database stays"), self.lines.having("cannot be read"))

    def test_a_slow_one_is_not_waited_for_long(self) -> None:
        """What it says in the end holds all the same."""
        self.rows.says = None
        started = self.maps.startService()
        self.clock.advance(PATIENCE_SECONDS - 0.1)
        self.assertNoResult(started)
        self.clock.advance(0.1)
        self.assertIsNone(self.successResultOf(started))
        other = changed(self.package, "ETH")
        self.rows.answer(other)
        self.assertIs(self.maps.current, other)

    def test_one_that_never_answers_is_asked_again(self) -> None:
        self.rows.says = None
        self.maps.startService()
        self.wait(READING_SECONDS)
        self.assertEqual((self.rows.cancelled, self.maps.why), (1, "no answer in 30 s"))
        self.assertEqual(self.wait(AGAIN_SECONDS), 1)

    def test_a_faulty_one_changes_nothing(self) -> None:
        self.rows.says = AssetMapError("BTC: has no home; ETH: stands twice")
        self.start()
        self.assertIs(self.maps.current, self.package)
        self.assertEqual(self.reload(), Reloaded(FAULTY, "BTC: has no home; ETH: stands twice"))
        self.assertEqual((self.heard, self.maps.source), ([], PACKAGE))
        self.assertEqual(self.maps.why, "BTC: has no home; ETH: stands twice")
        self.assertEqual(self.wait(MINUTES * 60 - 1), 0)
        self.assertEqual(
            self.lines.lines,
            ["the asset map in the database is at fault, the one in force stays: BTC: has no home; ETH: stands twice"],
        )

    def test_another_fault_is_told_and_that_there_is_none(self) -> None:
        self.start()
        for fault in ("one", "two", "two", "one"):
            self.rows.says = AssetMapError(fault)
            self.reload()
        self.assertEqual(len(self.lines.having("is at fault")), 3)
        self.rows.says = asset_map()
        self.assertEqual(self.reload(), Reloaded(SAME))
        self.assertEqual((self.maps.why, len(self.lines.having("is in order again"))), ("", 1))

    def test_away_and_at_fault_in_turn(self) -> None:
        """Each is told when it begins."""
        self.start()
        for says in (StoreUnavailableError("refused"), AssetMapError("a row")) * 2:
            self.rows.says = says
            self.reload()
        self.assertEqual((len(self.lines.having("cannot be read")), len(self.lines.having("is at fault"))), (2, 1))

    def test_nothing_is_taken_over_after_the_stop(self) -> None:
        self.start()
        self.maps.stopService()
        self.rows.says = changed(self.package, "ETH")
        self.assertEqual((self.reload().outcome, self.heard), (AWAY, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_who_fails_keeps_it_from_nobody(self) -> None:
        self.rows.says = other = changed(self.package, "ETH")
        self.maps._adopters = (lambda _: 1 / 0, self.second)
        self.start()
        self.assertEqual(self.heard, [("second", other)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.reload(), Reloaded(SAME))

    def test_a_broken_reader_is_asked_again(self) -> None:
        self.rows.says = RuntimeError("a defect")
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.rows.says = changed(self.package, "ETH")
        self.assertEqual(self.wait(AGAIN_SECONDS), 1)
        self.assertEqual(len(self.heard), 2)

    def test_who_asks_meanwhile_is_told_of_the_next_reading(self) -> None:
        """What is under way may have begun before the change that is meant."""
        self.start()
        self.rows.says = None
        first, second, third = self.maps.reload(), self.maps.reload(), self.maps.reload()
        self.rows.answer(self.package)
        self.assertEqual(self.successResultOf(first), Reloaded(SAME))
        self.assertNoResult(second)
        self.rows.answer(changed(self.package, "ETH"))
        self.assertEqual([self.successResultOf(each).outcome for each in (second, third)], [CHANGED, CHANGED])
        self.assertEqual((self.rows.asked, self.rows.waiting), (3, []))

    def test_the_stop_gives_a_reading_up(self) -> None:
        self.rows.says = None
        started = self.maps.startService()
        asked = self.maps.reload()
        self.maps.stopService()
        self.assertIsNone(self.successResultOf(started))
        self.assertEqual(self.successResultOf(asked).outcome, AWAY)
        self.assertEqual((self.clock.getDelayedCalls(), self.rows.asked, self.lines.lines), ([], 1, []))

    def test_the_stop_ends_the_rounds(self) -> None:
        self.start()
        self.maps.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class DifferenceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.before = asset_map()
        self.btc = self.before.assets["BTC"]

    def found(self, *gone: str, **others: Asset) -> MapChange:
        change = difference(self.before, changed(self.before, *gone, **others))
        assert change is not None
        return change

    def test_none(self) -> None:
        self.assertIsNone(difference(self.before, asset_map()))

    def test_order_alone(self) -> None:
        change = self.found("BTC", BTC=self.btc)
        self.assertEqual((change, str(change)), (MapChange(), "another order"))

    def test_names_and_homes(self) -> None:
        change = self.found(BTC=evolve(self.btc, home="okx"), ETH=evolve(self.before.assets["ETH"], name="Ether"))
        self.assertEqual((change, str(change)), (MapChange(altered=("BTC", "ETH")), "altered BTC, ETH"))

    def test_spellings(self) -> None:
        change = self.found(BTC=evolve(self.btc, symbols={**self.btc.symbols, "kraken": "XBT/USD"}))
        self.assertEqual(change, MapChange(exchanges={"kraken": ("BTC/USD now XBT/USD",)}))

    def test_listings(self) -> None:
        change = self.found(BTC=without(self.btc, "okx"), USDC=without(self.before.stablecoins["USDC"], "gemini"))
        self.assertEqual(change, MapChange(exchanges={"okx": ("-BTC-USDT",), "gemini": ("-usdcusd",)}))

    def test_feeds_and_demand(self) -> None:
        on_demand = evolve(self.btc, unsubscribed=frozenset({"okx"}))
        self.assertEqual(str(self.found(BTC=on_demand)), "okx: BTC-USDT on demand")
        self.before = changed(self.before, BTC=on_demand)
        self.assertEqual(str(self.found(BTC=self.btc)), "okx: BTC-USDT subscribed")

    def test_long_lists_are_cut(self) -> None:
        many = {f"N{number}": evolve(self.btc, code=f"N{number}") for number in range(50)}
        self.assertIn("N19 and 30 more", str(self.found(**many)))
