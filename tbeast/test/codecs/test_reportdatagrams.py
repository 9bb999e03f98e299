"""Questions for a summary in a datagram: what is read, what is refused, and that no bytes make the reading raise."""

from __future__ import annotations

import json
from typing import Any
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from tbeast.codecs import datagrams
from tbeast.codecs.problems import Problem
from tbeast.codecs.reportdatagrams import ReportQuestion, parse, summary_query
from tbeast.codecs.reportqueries import Asked
from tbeast.codecs.signatures import mac_of
from tbeast.domain.reportorders import DATAGRAM
from tbeast.domain.reports import SUMMARY, day_of
from tbeast.domain.syncplan import SECOND

NOW_US = 1_795_000_000 * SECOND
SECRET = b"s" * 32


def read(datagram: bytes) -> ReportQuestion:
    question = parse(datagram)
    assert isinstance(question, ReportQuestion), question
    return question


def in_json(**members: Any) -> bytes:
    return json.dumps({"api_key": "abcd", "report": "summary", **members}).encode()


def signed(asked: str, id_text: str = "7") -> bytes:
    text = f"~1|keykeykey1|1795000000000|{asked}|{id_text}".encode()
    return text + b"|" + mac_of(SECRET, text)


class ReadingTests(TestCase):
    def asked(self, datagram: bytes) -> Asked | Problem:
        question = read(datagram)
        self.assertEqual("", question.fault, datagram)
        return summary_query(question, "keykeykey1", NOW_US)

    def test_the_three_forms(self) -> None:
        """They ask for the same."""
        options = "from=2026-11-02,to=2026-11-03,asset=btc,source=kraken-ws"
        text, mac = f"abcd|summary,{options}|7".encode(), signed(f"summary,{options}")
        members = in_json(**{"from": "2026-11-02", "to": "2026-11-03", "asset": "btc", "source": "kraken-ws", "id": 7})
        found = [self.asked(datagram) for datagram in (text, text + b"\r\n", mac, mac + b"\n", members)]
        self.assertEqual([found[0]] * 5, found)
        asked = found[0]
        assert isinstance(asked, Asked)
        query = asked.query
        self.assertEqual((SUMMARY, DATAGRAM, "keykeykey1"), (query.report, asked.format, query.key_id))
        self.assertEqual((day_of(2026, 11, 2), day_of(2026, 11, 4)), (query.from_us, query.to_us))
        self.assertEqual(("BTC", "kraken-ws"), (query.asset, query.source))

    def test_without_anything(self) -> None:
        """The month so far."""
        for datagram in (b"abcd|summary", b"abcd|summary|", in_json(), signed("summary", "")):
            asked = self.asked(datagram)
            assert isinstance(asked, Asked)
            self.assertEqual((day_of(2026, 11, 1), NOW_US), (asked.query.from_us, asked.query.to_us))
            self.assertEqual(b"", read(datagram).id_json)

    def test_times(self) -> None:
        for spelling in ("2026-11-02T01:30:00+01:30", "2026-11-02T00:00:00Z", "2026-11-02T00:00:00.000Z"):
            for datagram in (f"abcd|summary,from={spelling}".encode(), in_json(**{"from": spelling})):
                asked = self.asked(datagram)
                assert isinstance(asked, Asked)
                self.assertEqual(day_of(2026, 11, 2), asked.query.from_us)

    def test_keys_ids_and_macs(self) -> None:
        self.assertEqual((b"abcd", b'"x"'), read(b"abcd|summary|x")[0:3:2])
        self.assertEqual((b"abcd", b"null"), read(in_json(id=None))[0:3:2])
        question = read(signed("summary", "x"))
        self.assertEqual((b"keykeykey1", 1_795_000_000_000), (question.key, question.at_ms))
        self.assertEqual(mac_of(SECRET, question.signed), question.mac)

    def test_what_is_not_understood(self) -> None:
        """It says whose it is, so it is refused and not dropped; its id comes back."""
        for asked in ("", "usage", "SUMMARY", "BTC", "summary,", "summary,from", "summary,from=", "summary,page_size=3",
                      "summary,from=2026-11-02&format=csv", "summary,asset=%42", "summary, asset=BTC"):  # fmt: skip
            for datagram in (f"abcd|{asked}|7".encode(), signed(asked)):
                self.assertEqual(("bad_request", b"7", b""), (read(datagram).fault, read(datagram).id_json,
                                                             read(datagram).query), datagram)  # fmt: skip
        for members in ({"report": "usage"}, {"report": None}, {"report": ["summary"]}, {"from": 7}, {"asset": "a b"},
                        {"key_id": "abc"}, {"asset": "B&source=median"}, {"format": "json"}):  # fmt: skip
            self.assertEqual("bad_request", read(in_json(**members)).fault, members)
        self.assertEqual("bad_request", read(b'{"api_key":"abcd","asset":"BTC"}').fault)
        self.assertEqual("bad_request", read(b"abcd|summary|" + b"x" * 65).fault)

    def test_what_cannot_be_had(self) -> None:
        for asked, code in (
            ("summary,from=2026-13-01", "malformed_parameter"), ("summary,asset=BTC,asset=ETH", "duplicate_parameter"),
            ("summary,from=2020-01-01,to=2020-01-02", "malformed_parameter"),
        ):  # fmt: skip
            problem = self.asked(f"abcd|{asked}".encode())
            assert isinstance(problem, Problem)
            self.assertEqual(code, problem.code)

    def test_drops(self) -> None:
        self.assertEqual(datagrams.EMPTY, parse(b""))
        self.assertEqual(datagrams.OVERSIZED, parse(b"abcd|summary|" + b"x" * 1200))
        for datagram in (b"summary", b"|summary", b"\n", b"{", b"{}", b'{"api_key":7}', b"~1|a|b|summary|x",
                         b"~2|keykeykey1|1795000000000|summary||" + b"m" * 22):  # fmt: skip
            self.assertEqual(datagrams.UNREADABLE, parse(datagram), datagram)

    @settings(deadline=None, max_examples=300)
    @given(st.one_of(
        st.binary(max_size=80),
        st.lists(st.sampled_from([b"abcd", b"|", b"summary", b",", b"from=", b"2026-11-01", b"~1", b"{", b'"api_key"',
                                  b":", b'"abcd"', b"}", b"\n", b"\xff", b"7"]), max_size=14).map(b"".join),
    ))  # fmt: skip
    def test_any_bytes(self, datagram: bytes) -> None:
        """They are dropped, or have a fault, or ask for something."""
        question = parse(datagram)
        if isinstance(question, str):
            self.assertIn(question, datagrams.DROPS)
        elif not question.fault:
            self.assertIsInstance(summary_query(question, "keykeykey1", NOW_US), Asked | Problem)
        else:
            self.assertEqual(b"", question.query)
