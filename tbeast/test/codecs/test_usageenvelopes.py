"""Tests of L{tbeast.codecs.usageenvelopes}."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.usageenvelopes import (
    MOST_BYTES,
    UNKNOWN_TYPE,
    UNREADABLE,
    EnvelopeError,
    Message,
    decode,
    encode,
    encode_apart,
    in_calls,
)
from tbeast.domain.usage import MOST_ROWS, Batch, Kind, Row

ID = "0199f0a1b2c3d4e5f6a7b8c9"
BTC = Row(Kind("a1b2c3d4e5", "lpo", "http", "BTC", "coinbase-ws", "memory", 200, True), 1777735800.1234567, 7, 302, 90)
SEED = {
    "type": "usage_log",
    "timestamp": "2026-05-02T15:30:00.000Z",
    "node": "BeastMain",
    "payload": {
        "api_key_id": "ak_live_abc123",
        "asset": "BTC",
        "source": "binance",
        "response_time_us": 42,
        "cache_tier": "L1_MEMORY",
    },
}

texts = st.text(st.characters(codec=None), max_size=12)  # lone surrogates, NUL and all
wholes = st.integers() | st.integers(-(2**70), 2**70)
kinds = st.builds(Kind, texts, texts, texts, texts, texts, texts, wholes, st.booleans())
rows = st.builds(Row, kinds, st.floats(allow_nan=False, allow_infinity=False), wholes, wholes, wholes)
batches = st.builds(
    Batch,
    st.text("0123456789abcdef", min_size=24, max_size=24),
    texts,
    st.lists(rows, min_size=1, max_size=6).map(tuple),
)


def only(batch: Batch) -> Message:
    (message,), unsendable = encode(batch)
    assert not unsendable
    return message


class EncodeTests(SynchronousTestCase):
    def test_a_batch_is_one_message(self) -> None:
        batch = Batch(ID, "n1", (BTC, BTC._replace(at=1777735801.5)))
        message = only(batch)
        self.assertEqual(message.places, range(2))
        envelope = json.loads(message.body)
        self.assertEqual(
            (envelope["type"], envelope["timestamp"], envelope["node"]),
            ("usage_batch", "2026-05-02T15:30:00.123Z", "n1"),
        )
        payload = envelope["payload"]
        self.assertEqual(payload["batch_id"], ID)
        first = dict(zip(payload["columns"], payload["rows"][0], strict=True))
        self.assertEqual(first["api_key_id"], "a1b2c3d4e5")
        self.assertEqual(first["at"], 1777735800.1234567)
        self.assertEqual(first["response_time_us_sum"], 302)

    def test_one_row_has_the_shape_that_others_know(self) -> None:
        envelope = json.loads(only(Batch(ID, "BeastMain", (BTC,))).body)
        self.assertEqual(envelope["type"], "usage_log")
        payload = envelope["payload"]
        self.assertLessEqual(SEED["payload"].keys(), payload.keys())  # type: ignore[attr-defined]
        self.assertEqual(payload["response_time_us"], 302 // 7)
        self.assertEqual((payload["request_count"], payload["batch_id"], payload["row"]), (7, ID, 0))

    def test_a_full_batch_is_far_from_the_limit(self) -> None:
        body = only(Batch(ID, "node-eu-central-1a", (BTC,) * MOST_ROWS)).body
        self.assertLess(len(body), 40_000)

    def test_bodies_hold_only_what_every_queue_takes(self) -> None:
        kind = BTC.kind._replace(asset="\x00\x07\x7f\ufffe\uffff\ud800é😀", source="a/b")
        body = only(Batch(ID, "n\x00", (BTC._replace(kind=kind), BTC))).body
        self.assertTrue(all(0x20 <= ord(character) < 0x7F or character == "\x7f" for character in body), body)
        self.assertIn('"a/b"', body)

    def test_too_large_for_one_message_goes_row_by_row(self) -> None:
        kind = BTC.kind._replace(asset="😀" * 100)  # 1,200 bytes in ASCII
        batch = Batch(ID, "n1", tuple(BTC._replace(kind=kind, request_count=count) for count in range(1, 301)))
        messages, unsendable = encode(batch)
        self.assertEqual(unsendable, [])
        self.assertEqual([message.places for message in messages], [range(n, n + 1) for n in range(300)])
        self.assertTrue(all(len(message.body) <= MOST_BYTES for message in messages))
        self.assertEqual(
            [row.request_count for message in messages for row in decode(message.body, "m").rows], list(range(1, 301))
        )

    def test_what_fits_nowhere_is_told_and_the_rest_is_sent(self) -> None:
        huge = BTC._replace(kind=BTC.kind._replace(asset="x" * MOST_BYTES))
        nowhen = BTC._replace(at=float("nan"))
        batch = Batch(ID, "n1", (BTC, huge, nowhen, BTC._replace(at=float("inf")), BTC))
        messages, unsendable = encode(batch)
        self.assertEqual([list(message.places) for message in messages], [[0], [4]])
        self.assertEqual([row.place for row in unsendable], [1, 2, 3])
        self.assertIn("a message holds 262144", unsendable[0].reason)
        self.assertIn("its time is nan", unsendable[1].reason)

    def test_nothing_is_no_message(self) -> None:
        self.assertEqual(encode(Batch(ID, "n1", ())), ([], []))

    def test_a_time_beyond_all_calendars(self) -> None:
        for at in (1e300, -1e300, 1e18):
            batch = Batch(ID, "n1", (BTC._replace(at=at),))
            self.assertEqual(decode(only(batch).body, "m"), batch)


class RoundTripTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=150)
    @given(batches)
    def test_what_is_read_is_what_was_written(self, batch: Batch) -> None:
        message = only(batch)
        self.assertTrue(message.body.isascii())
        self.assertEqual(decode(message.body, "m"), batch)

    @settings(deadline=None, max_examples=80)
    @given(batches)
    def test_a_row_alone_is_the_same_row_every_time(self, batch: Batch) -> None:
        messages, _ = encode_apart(batch, range(len(batch.rows)))
        alone = [decode(message.body, "one id") for message in messages]
        self.assertEqual([one.rows for one in alone], [(row,) for row in batch.rows])
        self.assertEqual([decode(message.body, "another") for message in messages], alone)
        self.assertEqual(len({one.row_id(0) for one in alone}), len(batch.rows))
        self.assertEqual(alone[0].row_id(0), batch.row_id(0))
        self.assertEqual({one.id[:12] for one in alone}, {batch.id[:12]})

    @settings(deadline=None, max_examples=80)
    @given(batches, st.integers(200, 1500))
    def test_no_row_is_lost_whatever_the_limit(self, batch: Batch, most_bytes: int) -> None:
        messages, unsendable = encode(batch, most_bytes)
        places = [place for message in messages for place in message.places] + [row.place for row in unsendable]
        self.assertEqual(sorted(places), list(range(len(batch.rows))))
        for message in messages:
            self.assertLessEqual(len(message.body), most_bytes)
            sent = tuple(batch.rows[place] for place in message.places)
            self.assertEqual(decode(message.body, "m").rows, sent)


class DecodeTests(SynchronousTestCase):
    def refused(self, body: str, reason: str = UNREADABLE) -> str:
        error = self.assertRaises(EnvelopeError, decode, body, "m")
        self.assertEqual(error.reason, reason, body)
        return str(error)

    def test_a_message_of_another_writer(self) -> None:
        batch = decode(json.dumps(SEED), "4d2c")
        kind = Kind("ak_live_abc123", "lpo", "", "BTC", "binance", "L1_MEMORY", 200, True)
        self.assertEqual(batch.rows, (Row(kind, 1777735800.0, 1, 42, 42),))
        self.assertEqual(batch.node, "BeastMain")
        self.assertEqual(int(batch.id[:12], 16), 1777735800000)
        self.assertEqual(len(batch.id), 24)

    def test_it_is_known_by_the_id_of_the_message(self) -> None:
        body = json.dumps(SEED)
        self.assertEqual(decode(body, "4d2c"), decode(body, "4d2c"))
        self.assertNotEqual(decode(body, "4d2c").id, decode(body, "4d2d").id)
        self.assertEqual(decode(body, "4d2c").rows, decode(body, "4d2d").rows)

    def test_stamps_of_several_spellings(self) -> None:
        for stamp in ("2026-05-02T15:30:00Z", "2026-05-02T17:30:00+02:00", "2026-05-02T15:30:00.000000"):
            self.assertEqual(decode(json.dumps({**SEED, "timestamp": stamp}), "m").rows[0].at, 1777735800.0)

    def test_a_stamp_before_the_epoch_has_an_id_all_the_same(self) -> None:
        batch = decode(json.dumps({**SEED, "timestamp": "1960-01-01T00:00:00Z"}), "m")
        self.assertEqual(batch.id[:12], "0" * 12)

    def test_several_requests_told_by_their_mean(self) -> None:
        payload = {**SEED["payload"], "request_count": 3}  # type: ignore[dict-item]
        (row,) = decode(json.dumps({**SEED, "payload": payload}), "m").rows
        self.assertEqual((row.request_count, row.response_us_sum, row.response_us_max), (3, 126, 42))

    def test_columns_may_stand_in_another_order_with_others_between(self) -> None:
        batch = Batch(ID, "n1", (BTC, BTC._replace(request_count=2)))
        envelope = json.loads(only(batch).body)
        payload = envelope["payload"]
        payload["columns"] = [*payload["columns"][::-1], "colour"]
        payload["rows"] = [[*values[::-1], "red"] for values in payload["rows"]]
        envelope["version"] = 2
        self.assertEqual(decode(json.dumps(envelope), "m"), batch)

    def test_bodies_that_are_no_envelope(self) -> None:
        deep = "[" * 99_999
        for body in (
            "",
            "hello",
            "[]",
            "null",
            "7",
            '"usage_log"',
            '{"type":"usage_log"',
            deep,
            "\x00",
            "\ud800",
            "NaN",
        ):
            self.refused(body)

    def test_types_that_nobody_knows(self) -> None:
        for kind in ("report_log", "", None, 7, ["usage_log"], {"a": 1}, "USAGE_LOG"):
            self.refused(json.dumps({**SEED, "type": kind}), UNKNOWN_TYPE)
        self.refused("{}", UNKNOWN_TYPE)

    def test_what_is_said_of_a_bad_body_is_short(self) -> None:
        self.assertLess(len(self.refused(json.dumps({"type": "x" * 10_000}), UNKNOWN_TYPE)), 100)
        self.assertLess(len(self.refused("x" * 10_000)), 200)

    def test_fields_of_the_wrong_kind(self) -> None:
        for name, value in (
            ("api_key_id", None), ("api_key_id", 7), ("asset", ["BTC"]), ("source", 1), ("cache_tier", None),
            ("response_time_us", 4.2), ("response_time_us", "42"), ("response_time_us", True), ("request_count", None),
            ("admitted", 1), ("admitted", "true"), ("status", "200"), ("at", "now"), ("at", True), ("at", 10**400),
            ("batch_id", 7), ("batch_id", ID[1:]), ("batch_id", ID.upper()), ("batch_id", ID + "\n"),
        ):  # fmt: skip
            payload: dict[str, Any] = {**SEED["payload"], name: value}  # type: ignore[dict-item]
            self.refused(json.dumps({**SEED, "payload": payload}))
        payload = {**SEED["payload"], "batch_id": ID, "row": "1"}  # type: ignore[dict-item]
        self.refused(json.dumps({**SEED, "payload": payload}))
        for name, value in (("timestamp", "yesterday"), ("timestamp", 0), ("node", 7), ("payload", [])):
            self.refused(json.dumps({**SEED, name: value}))

    def test_fields_that_are_not_there(self) -> None:
        for name in ("timestamp", "payload"):
            self.refused(json.dumps({key: value for key, value in SEED.items() if key != name}))
        payload: dict[str, Any] = {**SEED["payload"]}  # type: ignore[dict-item]
        del payload["api_key_id"]
        self.assertIn("api_key_id", self.refused(json.dumps({**SEED, "payload": payload})))

    def test_numbers_that_json_does_not_have(self) -> None:
        for number in ("NaN", "Infinity", "-Infinity", "1e999"):
            body = json.dumps(SEED).replace('"response_time_us": 42', f'"response_time_us": 42, "at": {number}')
            self.refused(body)

    def test_batches_that_are_none(self) -> None:
        sound = json.loads(only(Batch(ID, "n1", (BTC, BTC))).body)
        values = sound["payload"]["rows"][0]
        changes: tuple[dict[str, Any], ...] = (
            {"rows": []}, {"rows": None}, {"rows": {}}, {"rows": [values, values[1:]]}, {"rows": [values, None]},
            {"rows": [values, [[], *values[1:]]]}, {"columns": None}, {"columns": []}, {"columns": [[]] * len(values)},
            {"columns": ["x"] * len(values)}, {"batch_id": None}, {"batch_id": "x" * 24},
        )  # fmt: skip
        for change in changes:
            self.refused(json.dumps({**sound, "payload": {**sound["payload"], **change}}))
        self.assertEqual(len(decode(json.dumps(sound), "m").rows), 2)

    def test_a_batch_needs_the_time_of_each_row(self) -> None:
        sound = json.loads(only(Batch(ID, "n1", (BTC, BTC))).body)
        columns = sound["payload"]["columns"]
        columns[columns.index("at")] = "when"
        self.assertIn("at is not there", self.refused(json.dumps(sound)))

    @settings(deadline=None, max_examples=150)
    @given(st.data())
    def test_a_damaged_body_is_read_or_refused(self, data: st.DataObject) -> None:
        body = only(data.draw(batches)).body
        place = data.draw(st.integers(0, len(body)))
        damaged = body[:place] + data.draw(st.text(max_size=3)) + body[place + data.draw(st.integers(0, 3)) :]
        try:
            batch = decode(damaged, "m")
        except EnvelopeError:
            return
        self.assertTrue(batch.rows)
        batch.row_id(len(batch.rows) - 1)


class InCallsTests(SynchronousTestCase):
    def lots(self, sizes: list[int]) -> list[list[int]]:
        batch = Batch(ID, "n1", ())
        messages = [Message("x" * size, batch, range(0)) for size in sizes]
        return [[len(message.body) for message in lot] for lot in in_calls(messages, 10, 100)]

    def test_by_number_and_by_bytes(self) -> None:
        self.assertEqual(self.lots([]), [])
        self.assertEqual(self.lots([1] * 23), [[1] * 10, [1] * 10, [1] * 3])
        self.assertEqual(self.lots([60, 40, 1, 100, 99]), [[60, 40], [1], [100], [99]])

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.integers(1, 100), max_size=60))
    def test_every_lot_is_within_both_limits(self, sizes: list[int]) -> None:
        lots = self.lots(sizes)
        self.assertEqual([size for lot in lots for size in lot], sizes)
        self.assertTrue(all(1 <= len(lot) <= 10 and sum(lot) <= 100 for lot in lots))

    def test_ten_full_batches_go_in_two_calls(self) -> None:
        messages = [only(evolve(Batch(ID, "n1", (BTC,) * MOST_ROWS), id=f"{n:024x}")) for n in range(10)]
        self.assertLessEqual(len(in_calls(messages, 10)), 2)
