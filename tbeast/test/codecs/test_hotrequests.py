"""What is recognised as a plain question, and what is remembered of it."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import hotrequests
from tbeast.codecs.hotrequests import LONGEST_REMEMBERED, HotRequest, RememberedHeads
from tbeast.test.codecs import hotheads
from tbeast.test.codecs.hotheads import HOST, KEY, LINE, PLAIN


class RecogniseTests(hotheads.HotRequestContract):
    def reader(self) -> Any:
        return hotrequests.recognise


class RememberedHeadsTests(hotheads.HotRequestContract):
    def reader(self) -> Any:
        return RememberedHeads().recognise


class ForgettingTests(hotheads.HotRequestContract):
    """With room for one it is always forgetting, and reads as well as ever."""

    def reader(self) -> Any:
        return RememberedHeads(1).recognise


class MemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.heads = RememberedHeads(10)

    def test_seen_before(self) -> None:
        found = self.heads.recognise(PLAIN)
        self.assertEqual(HotRequest(b"some-key", "BTC", len(PLAIN)), found)
        self.assertIs(found, self.heads.known[PLAIN])
        self.assertIs(found, self.heads.recognise(PLAIN))
        self.assertIs(found, self.heads.recognise(PLAIN + PLAIN))

    def test_another_asset(self) -> None:
        """The rest is not read again, and yet only a plain asset will do."""
        self.heads.recognise(PLAIN)
        self.patch(hotrequests, "recognise", lambda _: None)
        head = PLAIN.replace(b"BTC", b"eth")
        self.assertEqual(HotRequest(b"some-key", "ETH", len(head)), self.heads.recognise(head))
        for asset in (b"", b"B-C", b"B%43", b"B\xe9", b"A" * 17, b"B\r\n", b"BTC&a=b"):
            self.assertIsNone(self.heads.recognise(PLAIN.replace(b"BTC", asset)), asset)

    def test_no_more_than_so_many(self) -> None:
        for number in range(100):
            self.assertIsNotNone(self.heads.recognise(PLAIN.replace(b"some-key", b"key-%d" % number)))
            self.assertLessEqual(len(self.heads.known), 10)
            self.assertLessEqual(len(self.heads._keys), 10)
        self.assertEqual(10, len(self.heads.known))

    def test_no_long_ones(self) -> None:
        fill = LONGEST_REMEMBERED - len(PLAIN) - len(b"A:\r\n")
        for more, kept in ((0, 1), (1, 1)):
            head = LINE + HOST + KEY + b"A:" + b"b" * (fill + more) + b"\r\n\r\n"
            self.assertIsNotNone(self.heads.recognise(head))
            self.assertEqual(kept, len(self.heads.known), more)

    def test_nothing_that_is_declined(self) -> None:
        for head in (PLAIN[:-2], PLAIN.replace(b"GET", b"PUT"), LINE + b"\r\n", b""):
            self.assertIsNone(self.heads.recognise(head))
        self.assertEqual({}, self.heads.known)
