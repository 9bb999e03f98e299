"""Questions, recognised in C: as in Python, or not at all."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tbeast.codecs import datagrams
from tbeast.codecs.hotrequests import LONGEST_HEAD, LONGEST_KEY, MOST_FIELDS, HotRequest, recognise
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.test.codecs import hotheads
from tbeast.test.native.parts import KEY, MODULE, NOT_BUILT, NativeCase, head

LINES = st.sampled_from((
    b"GET /price?asset=BTC HTTP/1.1", b"GET /price?asset=b HTTP/1.1", b"GET /price?asset=1inch HTTP/1.1",
    b"GET /price?asset=ABCDEFGHIJKLMNOP HTTP/1.1", b"GET /price?asset=ABCDEFGHIJKLMNOPQ HTTP/1.1",
    b"GET /price?asset= HTTP/1.1", b"GET /price?asset=BTC  HTTP/1.1", b"GET /price?asset=BTC HTTP/1.0",
    b"GET /price?asset=BTC HTTP/1.1 ", b"get /price?asset=BTC HTTP/1.1", b"GET /price?asset=BTC-USD HTTP/1.1",
    b"GET /price?asset=%42TC HTTP/1.1", b"GET /price?asset=BTC&quote=USD HTTP/1.1", b"HEAD /price?asset=BTC HTTP/1.1",
    b"\r\nGET /price?asset=BTC HTTP/1.1", b"GET /price?asset=\xc3\x9c HTTP/1.1",
    b"GET http://h/price?asset=BTC HTTP/1.1",
))  # fmt: skip
NAMES = st.sampled_from((
    b"Host", b"host", b"HOST", b"Authorization", b"AUTHORIZATION", b"X-API-Key", b"x-api-key", b"Connection",
    b"Content-Length", b"Transfer-Encoding", b"Expect", b"Upgrade", b"TE", b"Trailer", b"HTTP2-Settings", b"Accept",
    b"User-Agent", b"X-\x80", b"", b"Host ", b" Host", b"a!#$%&'*+-.^_`|~9", b"Hos", b"Hosts", b"Authorizatio",
))  # fmt: skip
VALUES = st.one_of(
    st.sampled_from((
        b"h", b"", b"keep-alive", b"Keep-Alive", b"close", b"keep-alive, close", b"0", b"chunked", b"Bearer " + KEY,
        b"bearer " + KEY, b"Bearer  " + KEY, b"Bearer \t" + KEY, b"Bearer" + KEY, b"Bearer\t" + KEY, b"Basic " + KEY,
        b"Bearer", b"Bearer ", KEY, b"abc", b"abcd", b"a" * 128, b"a" * 129, b"with space", b"a\x7fbcd", b"a\x00bcd",
        b"a\rbcd", b"a\nbcd", b"\xff\xfe\xfd\xfc", b"a|bcd", b"folded\r\n line",
    )),
    st.binary(max_size=12),
)  # fmt: skip
SPACES = st.sampled_from((b" ", b"", b"\t", b"  \t ", b"\x0b"))
ENDS = st.sampled_from((b"\r\n",) * 20 + (b"\n", b"\r", b"\r\r\n", b""))
FIELDS = st.builds(lambda *parts: b"".join(parts), NAMES, st.just(b":"), SPACES, VALUES, SPACES, ENDS)
GOOD_FIELDS = st.builds(
    lambda key, others, end: [b"Host: h\r\n", key, *others, end],
    st.sampled_from((b"Authorization: Bearer " + KEY + b"\r\n", b"X-API-Key: " + KEY + b"\r\n")),
    st.lists(st.sampled_from((b"Accept: */*\r\n", b"Connection: keep-alive\r\n", b"A:\r\n")), max_size=3),
    st.sampled_from((b"", b"", b"\r\n", b"\n")),
)
HEADS = st.builds(
    lambda line, end, good, odd, order, last, behind: (
        line + end + b"".join(order.sample([*good, *odd], len(good) + len(odd))) + last + behind
    ),
    LINES, ENDS, GOOD_FIELDS, st.lists(FIELDS, max_size=3), st.randoms(use_true_random=False),
    st.sampled_from((b"\r\n", b"\r\n", b"\n", b"")), st.binary(max_size=4),
)  # fmt: skip
WHOLE = head(more=b"Accept: */*\r\nConnection: keep-alive\r\n")


class HeadTests(hotheads.HotRequestContract):
    """What holds of every reader of heads."""

    skip = NOT_BUILT

    def reader(self) -> Any:
        assert MODULE is not None
        return MODULE.recognise


class RecogniseTests(NativeCase):
    """Against L{tbeast.codecs.hotrequests.recognise}, which says what is wanted."""

    def same(self, data: bytes) -> HotRequest | None:
        """Both read the same; what that is."""
        wanted = recognise(data)
        self.assertEqual(None if wanted is None else tuple(wanted), self.module.recognise(data), data)
        return wanted

    def test_plain(self) -> None:
        self.assertEqual((KEY, "BTC", len(WHOLE)), self.module.recognise(WHOLE + b"GET /"))
        self.same(WHOLE)

    def test_partial(self) -> None:
        """Until the last byte is there it is nothing."""
        for length in range(len(WHOLE)):
            self.assertIsNone(self.module.recognise(WHOLE[:length]))

    def test_every_byte(self) -> None:
        """Any byte at any place, put there or put in."""
        small = b"GET /price?asset=BTC HTTP/1.1\r\nHost:h\r\nX-API-Key: abcd\r\nA:b\r\n\r\n"
        read = 0
        for at in range(len(small)):
            for byte in range(256):
                read += self.same(small[:at] + bytes((byte,)) + small[at + 1 :]) is not None
                read += self.same(small[:at] + bytes((byte,)) + small[at:]) is not None
        self.assertGreater(read, 1_000)

    def test_limits(self) -> None:
        for count in (MOST_FIELDS - 3, MOST_FIELDS - 2, MOST_FIELDS - 1, 3 * MOST_FIELDS):
            found = self.same(head(more=b"A: b\r\n" * count))
            self.assertEqual(count <= MOST_FIELDS - 2, found is not None)
        for length in (LONGEST_HEAD - 1, LONGEST_HEAD, LONGEST_HEAD + 1):
            padded = head(more=b"A: " + b"b" * (length - len(head()) - 5) + b"\r\n")
            self.assertEqual(length, len(padded))
            self.assertEqual(length <= LONGEST_HEAD, self.same(padded + b"more") is not None)
        for length in (3, 4, LONGEST_KEY, LONGEST_KEY + 1):
            self.assertEqual(4 <= length <= LONGEST_KEY, self.same(head(key=b"k" * length)) is not None)

    def test_other_buffers(self) -> None:
        """Whatever has bytes can be read, and nothing else."""
        for data in (bytearray(WHOLE), memoryview(WHOLE)):
            self.assertEqual((KEY, "BTC", len(WHOLE)), self.module.recognise(data))
        others: tuple[object, ...] = ("text", None, 7, memoryview(WHOLE)[::2])
        for other in others:
            self.assertRaises((TypeError, BufferError), self.module.recognise, other)
            self.assertRaises((TypeError, BufferError), self.module.recognise_datagram, other)

    @settings(max_examples=1_500, deadline=None)
    @given(HEADS)
    @example(head(more=b"Connection: keep-alive\r\n" * 2))
    @example(head().replace(b"Bearer ", b"Bearer \t "))
    @example(head(more=b"Host: h\r\n"))
    def test_any_head(self, data: bytes) -> None:
        self.same(data)

    @settings(max_examples=700, deadline=None)
    @given(st.integers(0, len(WHOLE)), st.integers(0, 4), st.binary(max_size=6))
    def test_any_change(self, at: int, gone: int, put: bytes) -> None:
        """A good head in which some bytes became others."""
        self.same(WHOLE[:at] + put + WHOLE[at + gone :])

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        self.same(data)
        self.same(b"GET /price?asset=BTC HTTP/1.1\r\n" + data)


PARTS = st.one_of(
    st.sampled_from((
        b"", KEY, b"BTC", b"btc", b"b", b"BTC-USD", b"BTC/USD", b"BTC-USDT", b"ABCDEFGHIJKLMNOP", b"ABCDEFGHIJKLMNOPQ",
        b"1", b"0", b"-0", b"007", b"-", b"-5", b"--5", b"+5", b"5.0", b"1e3", b"9" * 18, b"9" * 19, b"-" + b"9" * 18,
        b"-" + b"9" * 19, b"some-id", b"abc", b"abcd", b"k" * 128, b"k" * 129, b"with space", b"{", b"~1", b"\xff" * 5,
        b"7\n", b"\n", b"\r\n",
    )),
    st.binary(max_size=8),
)  # fmt: skip
LINE_ENDS = st.sampled_from((b"", b"\n", b"\r\n\r"))
DATAGRAMS = st.one_of(
    st.builds(lambda parts, end: b"|".join(parts) + end, st.lists(PARTS, max_size=4), LINE_ENDS),
    st.builds(lambda asset, end: KEY + b"|" + asset + end, PARTS, LINE_ENDS),
    st.builds(lambda asset, id_text: KEY + b"|" + asset + b"|" + id_text, PARTS, PARTS),
    st.builds(lambda number: KEY + b"|BTC|%d" % number, st.integers(-(10**20), 10**20)),
    st.binary(max_size=40),
)
MUST_READ = re.compile(rb"([!-z}][!-{}~]{3,127})\|([0-9A-Za-z]{1,16})(?:\|(|-?(?:0|[1-9][0-9]{0,17})))?[\r\n]*")
"""A plain text question, with an integer for an id, or none."""


class DatagramTests(NativeCase):
    """Against L{tbeast.codecs.datagrams.parse}."""

    def read(self, datagram: bytes) -> object:
        """What C reads, which Python reads as well; and C reads it whenever it is plain."""
        found = self.module.recognise_datagram(datagram)
        plain = MUST_READ.fullmatch(datagram)
        self.assertEqual(plain is not None and len(datagram) <= datagrams.LARGEST, found is not None, datagram)
        if found is not None:
            key, asset, id_json = found
            self.assertEqual(
                datagrams.Question(key, (PriceQuery(asset),), False, id_json, ""), datagrams.parse(datagram)
            )
        return found

    def test_plain(self) -> None:
        for end in (b"", b"\n", b"\r\n"):
            self.assertEqual((KEY, "BTC", b""), self.read(KEY + b"|btc" + end))
            self.assertEqual((KEY, "BTC", b""), self.read(KEY + b"|btc|" + end))
            self.assertEqual((KEY, "1INCH", b"-7"), self.read(KEY + b"|1inch|-7" + end))

    def test_declined(self) -> None:
        for datagram in (
            b"", b"|", b"\n", KEY, KEY + b"|", KEY + b"||1", KEY + b"|BTC|x", KEY + b"|BTC|01", KEY + b"|BTC|-",
            KEY + b"|BTC|1|2", KEY + b"|BTC-USD", KEY + b"|BTC|" + b"1" * 19, b"abc|BTC", b"k" * 129 + b"|BTC",
            b'{"api_key":"%b","asset":"BTC"}' % KEY, b"~1|a|1|BTC||x", b"~abc|BTC", b"{abc|BTC",
            KEY + b"|BTC" + b"\n" * 1_200, b"k\xc3\xa9yy|BTC", KEY + b"|BTC\n|1",
        ):  # fmt: skip
            self.assertIsNone(self.read(datagram), datagram)

    def test_every_byte(self) -> None:
        small = b"abcd|BTC|17"
        for at in range(len(small) + 1):
            for byte in range(256):
                self.read(small[:at] + bytes((byte,)) + small[at + 1 :])
                self.read(small[:at] + bytes((byte,)) + small[at:])

    @settings(max_examples=1_500, deadline=None)
    @given(DATAGRAMS)
    def test_any(self, datagram: bytes) -> None:
        self.read(datagram)
