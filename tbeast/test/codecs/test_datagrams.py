"""Questions in datagrams. What becomes of them is tested with the listener."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.datagrams import (
    DROPS,
    LARGEST,
    LONGEST_ID,
    Question,
    is_number,
    parse,
    refusal,
    several,
    spelling_of,
)
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import CODES

MAC = b"m" * 22


class ParseTests(SynchronousTestCase):
    def test_text(self) -> None:
        self.assertEqual(Question(b"key", (PriceQuery("BTC"),), False, b"", ""), parse(b"key|btc"))
        self.assertEqual(Question(b"key", (PriceQuery("BTC", "USDT"),), False, b"7", ""), parse(b"key|BTC-USDT|7\r\n"))

    def test_signed(self) -> None:
        self.assertEqual(
            Question(b"id", (PriceQuery("BTC"),), False, b'"x|y"', "", b"~1|id|123|BTC|x|y", MAC, 123),
            parse(b"~1|id|123|BTC|x|y|" + MAC),
        )

    def test_json(self) -> None:
        one = Question(b"key", (PriceQuery("BTC"),), False, b"1e2", "")
        self.assertEqual(one, parse(b'{"api_key":"key","asset":"btc","id":1e2}'))
        two = Question(b"key", [PriceQuery("BTC"), "x y"], True, b"", "")
        self.assertEqual(two, parse(b'{"api_key":"key","assets":["BTC","x y","btc"]}'))

    def test_faults(self) -> None:
        """Whose it is can be read, what is asked cannot."""
        for datagram, id_json in (
            (b"key|", b""), (b"key||7", b"7"), (b"key|B C|7", b"7"), (b"key|\xff|7", b"7"),
            (b"key|BTC|" + b"i" * 63, b""),
            (b'{"api_key":"key"}', b""), (b'{"api_key":"key","asset":7,"id":"a"}', b'"a"'),
            (b'{"api_key":"key","asset":"BTC","assets":["BTC"],"id":1}', b"1"),
            (b'{"api_key":"key","assets":[],"id":1}', b"1"),
            (b'{"api_key":"key","asset":"\xff","id":1}', b"1"), (b'{"api_key":"key","asset":"BTC","id":{"a":1}}', b""),
        ):  # fmt: skip
            question = parse(datagram)
            self.assertIsInstance(question, Question, datagram)
            self.assertEqual((b"key", "bad_request", id_json), (question[0], question[4], question[3]), datagram)

    def test_longest_id(self) -> None:
        for size, fault in ((LONGEST_ID, ""), (LONGEST_ID + 1, "bad_request")):
            identity = b'"' + b"i" * (size - 2) + b'"'
            for datagram in (b'{"api_key":"key","asset":"BTC","id":%b}' % identity, b"key|BTC|" + identity[1:-1]):
                question = parse(datagram)
                assert isinstance(question, Question)
                self.assertEqual((fault, b"" if fault else identity), (question.fault, question.id_json))

    def test_sizes(self) -> None:
        self.assertEqual("oversized", parse(b"key|BTC|".ljust(LARGEST + 1, b"i")))
        self.assertIsInstance(parse(b"key|BTC|".ljust(LARGEST, b"i")), Question)
        self.assertEqual("empty", parse(b""))

    @settings(max_examples=500, deadline=None)
    @given(
        st.binary(max_size=1300)
        | st.lists(
            st.sampled_from(
                [b"~1", b"|", b"{", b'"api_key":', b'"k"', b",", b'"asset":', b'"id":', b"1", b"}", b"[", MAC]
            )
        ).map(b"".join)
    )
    def test_any(self, datagram: bytes) -> None:
        question = parse(datagram)
        if isinstance(question, str):
            self.assertIn(question, DROPS)
            return
        self.assertTrue(question.fault or question.asked)
        self.assertTrue(not question.fault or question.fault in CODES)
        self.assertLessEqual(len(question.id_json), LONGEST_ID)
        self.assertIsInstance(json.loads(refusal("bad_request", question.id_json)), dict)

    @settings(max_examples=200, deadline=None)
    @given(
        st.none()
        | st.booleans()
        | st.integers(-(10**15), 10**15)
        | st.text(max_size=5)
        | st.floats(allow_nan=False, allow_infinity=False)
    )
    def test_json_id_comes_back(self, identity: object) -> None:
        question = parse(json.dumps({"api_key": "key", "asset": "BTC", "id": identity}).encode())
        assert isinstance(question, Question)
        self.assertEqual(json.dumps(identity).encode(), question.id_json)

    @settings(max_examples=200, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=9))
    def test_text_id_comes_back(self, identity: str) -> None:
        question = parse(f"key|BTC|{identity}".encode())
        assert isinstance(question, Question)
        self.assertEqual(identity, str(json.loads(question.id_json)))


class QuickTests(SynchronousTestCase):
    @settings(max_examples=300, deadline=None)
    @given(
        st.binary(max_size=4)
        | st.integers(0, 10**20).map(lambda number: b"%d" % number)
        | st.text("0123", max_size=20).map(str.encode)
    )
    def test_numbers(self, text: bytes) -> None:
        """What is said to be one comes back as it stands; and those are all plain integers that are not negative."""
        read = parse(b"key|BTC|" + text)
        assert isinstance(read, Question)
        plain = text.isdigit() and text == b"%d" % int(text) and int(text) < 10**18
        self.assertEqual(plain, is_number(text))
        if plain:
            self.assertEqual((text, ""), (read.id_json, read.fault))

    @settings(max_examples=300, deadline=None)
    @given(
        st.sampled_from([b"key|", b"|", b"{|", b"~1|", b""]),
        st.binary(max_size=3) | st.sampled_from([b"BTC", b"btc/usd", b"BTC\n"]),
        st.sampled_from([b"", b"|", b"|7", b"|a|b", b"|\n", b"\r\n"]),
    )
    def test_spellings(self, key: bytes, asset: bytes, rest: bytes) -> None:
        """Whoever writes an asset the same way, with any id or none, asks for the same."""
        question = parse(key + asset + rest)
        spelling = spelling_of(key + asset + rest)
        if spelling is None or isinstance(question, str) or question.fault:
            return
        for suffix in (b"", b"|7", b"|x"):
            same = parse(b"key|" + spelling + suffix)
            assert isinstance(same, Question)
            self.assertEqual(question.asked, same.asked)

    def test_no_spellings(self) -> None:
        for datagram in (b"", b"key|BTC\n", b"~1|id|1|BTC|7|" + MAC, b'{"api_key":"key","asset":"BTC","id":"|x"}'):
            self.assertIn(spelling_of(datagram), (None, b""), datagram)
        for datagram in (b"key|BTC", b"key|BTC|", b"key|BTC|7\n", b"key|BTC|a|b"):
            self.assertEqual(b"BTC", spelling_of(datagram), datagram)


class AnswerTests(SynchronousTestCase):
    def test_refusal(self) -> None:
        self.assertEqual(b'{"error":"rate_limited"}', refusal("rate_limited", b""))
        self.assertEqual(b'{"error":"rate_limited","id":"x"}', refusal("rate_limited", b'"x"'))

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(2, 1500), max_size=30), st.sampled_from([b"", b"7", b'"' + b"i" * 62 + b'"']))
    def test_several(self, sizes: list[int], id_json: bytes) -> None:
        """As many as fit and not one fewer, in order, and the rest is counted."""
        entries = [b'"%b"' % (b"x" * (size - 2)) for size in sizes]
        answer = several(entries, id_json)
        self.assertLessEqual(len(answer), LARGEST)
        members = json.loads(answer)
        kept = len(members["prices"])
        self.assertEqual([len(entry) - 2 for entry in entries[:kept]], [len(price) for price in members["prices"]])
        self.assertEqual(len(entries) - kept, members.get("left_out", 0))
        if kept < len(entries):
            self.assertGreater(len(answer) + 1 + len(entries[kept]), LARGEST - len(',"left_out":99'))
