from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.lab.faults import EVERYWHERE, KINDS, Description, FaultBoard, FaultError, read_fault
from tbeast.lab.lines import Quote
from tbeast.lab.tables import EXCHANGES

QUOTE = Quote(100.0, 99.0, 101.0)


def read(**body: Any) -> Description:
    return read_fault(body, ("BTC", "ETH"))


def holding(board: FaultBoard, now: float = 0.0, **body: Any) -> int:
    return board.add(read(**body), now).number


class ReadFaultTests(SynchronousTestCase):
    def test_what_is_not_said_is_filled_in(self) -> None:
        self.assertEqual(
            read(kind="silence"), Description("silence", EVERYWHERE, None, None, {"keep_heartbeats": False})
        )
        self.assertEqual(
            read(kind="drift", exchange="okx", asset="BTC", for_seconds=5, bp_per_second=-3),
            Description("drift", "okx", "BTC", 5.0, {"bp_per_second": -3, "farthest_bp": 5000.0}),
        )
        self.assertEqual(read(kind="disconnect", code=1001).params, {"code": 1001, "reason": ""})

    def test_every_kind_can_be_asked_for_bare(self) -> None:
        for name in KINDS:
            self.assertEqual(read(kind=name).kind, name)

    def test_what_there_is_not(self) -> None:
        for body in (
            {},
            {"kind": "earthquake"},
            {"kind": ["silence"]},
            {"kind": "silence", "exchange": "mtgox"},
            {"kind": "silence", "asset": "NOPE"},
            {"kind": "disconnect", "asset": "BTC"},
            {"kind": "sequence_gap", "exchange": "kraken"},
            {"kind": "silence", "for_seconds": 0},
            {"kind": "silence", "for_seconds": "long"},
            {"kind": "silence", "for_seconds": True},
            {"kind": "silence", "keep_heartbeats": 1},
            {"kind": "silence", "loud": True},
            {"kind": "price_scale", "factor": -1},
            {"kind": "price_scale", "factor": float("nan")},
            {"kind": "garbage", "value": "gold"},
            {"kind": "garbage", "fields": "last,volume"},
            {"kind": "garbage", "fields": 3},
            {"kind": "huge_frame", "megabytes": 1000},
            {"kind": "disconnect", "code": 5},
            {"kind": "depeg", "rate": 0},
            {"kind": "disconnect", "code": 5000},
        ):
            self.assertRaises(FaultError, read, **body)

    @given(
        st.dictionaries(
            st.sampled_from(["kind", "exchange", "asset", "for_seconds", "factor", "how"]),
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=5)
            | st.lists(st.integers(), max_size=2)
            | st.sampled_from([*KINDS, *EXCHANGES]),
            max_size=4,
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_nothing_but_a_fault_error_is_raised(self, body: dict[str, Any]) -> None:
        try:
            asked = read_fault(body, ("BTC",))
        except FaultError:
            return
        self.assertIn(asked.kind, KINDS)
        self.assertIn(asked.exchange, (EVERYWHERE, *EXCHANGES))
        self.assertTrue(asked.seconds is None or asked.seconds > 0)


class FaultBoardTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.board = FaultBoard()

    def test_found_by_kind_exchange_and_asset(self) -> None:
        holding(self.board, kind="silence", exchange="kraken", asset="BTC")
        self.assertIsNotNone(self.board.find("silence", "kraken", "BTC"))
        for kind, exchange, asset in (
            ("silence", "kraken", "ETH"), ("silence", "kraken", None), ("silence", "okx", "BTC"),
            ("freeze", "kraken", "BTC"),
        ):  # fmt: skip
            self.assertIsNone(self.board.find(kind, exchange, asset))

    def test_for_all_assets_and_everywhere(self) -> None:
        holding(self.board, kind="silence")
        for exchange in EXCHANGES:
            self.assertIsNotNone(self.board.find("silence", exchange))
            self.assertIsNotNone(self.board.find("silence", exchange, "ETH"))

    def test_everywhere_means_where_the_kind_makes_sense(self) -> None:
        fault = self.board.add(read(kind="status"), 0.0)
        self.assertEqual([name for name in EXCHANGES if fault.meets(name)], ["kraken"])
        self.assertIsNone(self.board.find("status", "okx"))

    def test_ends_by_itself_and_by_hand(self) -> None:
        holding(self.board, 10.0, kind="silence", for_seconds=5)
        number = holding(self.board, 10.0, kind="freeze")
        self.assertEqual(self.board.expired(14.9), [])
        self.assertEqual([fault.kind for fault in self.board.expired(15.0)], ["silence"])
        self.assertEqual(self.board.expired(15.0), [])
        self.assertIsNone(self.board.find("silence", "okx"))
        self.assertEqual([fault.kind for fault in self.board.holding()], ["freeze"])
        removed = self.board.remove(number)
        assert removed is not None
        self.assertEqual(removed.kind, "freeze")
        self.assertIsNone(self.board.remove(number))
        self.assertEqual(self.board.holding(), [])

    def test_once_does_not_hold(self) -> None:
        holding(self.board, kind="disconnect")
        self.assertEqual(self.board.holding(), [])

    def test_describes_itself_as_it_was_asked_for(self) -> None:
        fault = self.board.add(read(kind="price_scale", exchange="okx", asset="BTC", for_seconds=2), 7.0)
        self.assertEqual(
            fault.described(),
            {"id": 1, "kind": "price_scale", "exchange": "okx", "asset": "BTC", "began_at": 7.0, "ends_at": 9.0,
             "factor": 1.5},
        )  # fmt: skip


class DistortionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.board = FaultBoard()

    def said(self, now: float = 0.0, quote: Quote = QUOTE, asset: str = "BTC") -> Quote:
        return self.board.distorted("okx", asset, f"{asset}-USDT", quote, now)

    def test_nothing_is_the_matter(self) -> None:
        self.assertIs(self.said(), QUOTE)

    def test_freeze_keeps_each_symbol_at_its_own_first_value(self) -> None:
        number = holding(self.board, kind="freeze", exchange="okx")
        other = Quote(5.0, 4.0, 6.0)
        self.assertEqual(self.said(), QUOTE)
        self.assertEqual(self.said(quote=other, asset="ETH"), other)
        self.assertEqual(self.said(quote=Quote(200.0, 199.0, 201.0)), QUOTE)
        self.board.remove(number)
        self.assertEqual(self.said(quote=other), other)

    def test_drift_goes_on_and_stops_at_the_farthest(self) -> None:
        holding(self.board, 10.0, kind="drift", exchange="okx", bp_per_second=50, farthest_bp=300)
        self.assertAlmostEqual(self.said(10.0).last, 100.0)
        self.assertAlmostEqual(self.said(12.0).last, 101.0)
        self.assertAlmostEqual(self.said(1000.0).bid, 99.0 * 1.03)

    def test_drift_down_never_reaches_zero(self) -> None:
        holding(self.board, 0.0, kind="drift", exchange="okx", bp_per_second=-5000, farthest_bp=20000)
        self.assertGreater(self.said(100.0).bid, 0.0)

    def test_price_scale_and_drift_add_up(self) -> None:
        holding(self.board, kind="price_scale", exchange="okx", asset="BTC", factor=2)
        self.assertEqual(self.said(), Quote(200.0, 198.0, 202.0))
        self.assertEqual(self.said(asset="ETH"), QUOTE)
        holding(self.board, kind="drift", exchange="okx", bp_per_second=100)
        self.assertAlmostEqual(self.said(1.0).last, 202.0)

    def test_crossed(self) -> None:
        holding(self.board, kind="crossed", exchange="okx", percent=2)
        last, bid, ask = self.said()
        self.assertEqual(last, 100.0)
        self.assertAlmostEqual(bid, 101.0)
        self.assertAlmostEqual(ask, 99.0)

    def test_garbage_takes_turns_or_keeps_to_one(self) -> None:
        self.assertIsNone(self.board.garbage("okx", "BTC", 0))
        number = holding(self.board, kind="garbage", exchange="okx")
        self.assertEqual(len({self.board.garbage("okx", "BTC", turn) for turn in range(20)}), 7)
        self.board.remove(number)
        holding(self.board, kind="garbage", exchange="okx", value="nan", fields="bid,ask")
        self.assertEqual(self.board.garbage("okx", "BTC", 3), ("nan", ("bid", "ask")))
