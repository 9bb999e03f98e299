"""What every reader of plain questions reads, and that it reads nothing else."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.hotrequests import (
    DECLINED,
    LONGEST_HEAD,
    LONGEST_KEY,
    MOST_FIELDS,
    SHORTEST_KEY,
)
from tbeast.codecs.pricequeries import PriceQuery, price_query
from tbeast.codecs.signatures import key_of_headers

LINE = b"GET /price?asset=BTC HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
KEY = b"Authorization: Bearer some-key\r\n"
PLAIN = LINE + HOST + KEY + b"\r\n"

TOKEN = b"!#$%&'*+-.^_`|~" + (string.ascii_letters + string.digits).encode()
VALUE = b"\t" + bytes(range(0x20, 0x7F))
MEANINGFUL = {b"host", b"authorization", b"x-api-key", b"connection", *DECLINED}

SHARED: Any = {"deadline": None, "suppress_health_check": [HealthCheck.differing_executors]}
"""For tests that several classes inherit."""

assets = st.text(string.ascii_letters + string.digits, min_size=1, max_size=16)
keys = st.lists(st.integers(0x21, 0x7E), min_size=SHORTEST_KEY, max_size=LONGEST_KEY).map(bytes)
names = st.lists(st.sampled_from(TOKEN), min_size=1, max_size=20).map(bytes)
values = st.lists(st.sampled_from(VALUE), max_size=30).map(bytes)
space = st.sampled_from([b"", b" ", b"\t", b"  \t "])
others = st.tuples(names.filter(lambda name: name.lower() not in MEANINGFUL), values)


def cased(name: bytes) -> st.SearchStrategy[bytes]:
    """The name in all sorts of letters."""
    return st.sampled_from([name, name.lower(), name.upper(), name.swapcase()])


@st.composite
def fields(draw: Any, key: bytes) -> list[bytes]:
    """The fields of a plain question, in any order."""
    lines = [b"%b:%b" % field for field in draw(st.lists(others, max_size=4))]
    lines.append(b"%b:%b" % (draw(cased(b"Host")), draw(values)))
    if draw(st.booleans()):
        bearer = b"%b %b" % (draw(cased(b"Bearer")), draw(space))
        lines.append(b"%b:%b%b%b%b" % (draw(cased(b"Authorization")), draw(space), bearer, key, draw(space)))
    else:
        lines.append(b"%b:%b%b%b" % (draw(cased(b"X-API-Key")), draw(space), key, draw(space)))
    if draw(st.booleans()):
        lines.append(b"%b:%b%b%b" % (draw(cased(b"Connection")), draw(space), draw(cased(b"keep-alive")), draw(space)))
    return list(draw(st.permutations(lines)))


def head_of(asset: str, lines: list[bytes]) -> bytes:
    return b"\r\n".join([b"GET /price?asset=%b HTTP/1.1" % asset.encode(), *lines, b"", b""])


class HotRequestContract(SynchronousTestCase):
    """For whoever has a reader: inherit this, as C{hotheads.HotRequestContract}, and give L{reader}."""

    def reader(self) -> Any:
        """Give a function like L{tbeast.codecs.hotrequests.recognise}."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.read = self.reader()

    def assert_read(self, key: bytes, asset: str, head: bytes, *following: bytes) -> None:
        """It is read, in whatever follows, and read alike a second time."""
        for _ in range(2):
            for more in (b"", *following):
                self.assertEqual((key, asset, len(head)), self.read(head + more), (head, more))

    def assert_declined(self, *heads: bytes) -> None:
        for head in heads:
            self.assertIsNone(self.read(head), head)

    def test_plain(self) -> None:
        self.assert_read(b"some-key", "BTC", PLAIN, b"G", PLAIN, b"\r\n", b"\x00" * 50, b"x" * LONGEST_HEAD)

    def test_not_whole(self) -> None:
        self.assert_declined(*(PLAIN[:length] for length in range(len(PLAIN))))

    def test_not_at_the_beginning(self) -> None:
        self.assert_declined(b"\r\n" + PLAIN, b" " + PLAIN, b"x" + PLAIN, PLAIN[1:])

    def test_request_line(self) -> None:
        for line in (
            b"get /price?asset=BTC HTTP/1.1", b"HEAD /price?asset=BTC HTTP/1.1", b"POST /price?asset=BTC HTTP/1.1",
            b"GET  /price?asset=BTC HTTP/1.1", b"GET /price?asset=BTC  HTTP/1.1", b"GET /price?asset=BTC HTTP/1.1 ",
            b"GET\t/price?asset=BTC HTTP/1.1", b"GET /price?asset=BTC HTTP/1.0", b"GET /price?asset=BTC HTTP/1.10",
            b"GET /price?asset=BTC http/1.1", b"GET /price?asset=BTC", b"GET /price HTTP/1.1", b"GET /price? HTTP/1.1",
            b"GET /price?asset= HTTP/1.1", b"GET /prices?asset=BTC HTTP/1.1", b"GET /Price?asset=BTC HTTP/1.1",
            b"GET /price?Asset=BTC HTTP/1.1", b"GET //price?asset=BTC HTTP/1.1", b"GET /price/?asset=BTC HTTP/1.1",
            b"GET /price?asset=BTC&asset=BTC HTTP/1.1", b"GET /price?asset=BTC&quote=USDT HTTP/1.1",
            b"GET /price?asset=BTC-USD HTTP/1.1", b"GET /price?asset=%42TC HTTP/1.1", b"GET /price?asset=BTC# HTTP/1.1",
            b"GET http://x/price?asset=BTC HTTP/1.1", b"GET /price?asset=B_C HTTP/1.1",
            b"GET /price?asset=B\xe9 HTTP/1.1", b"GET /price?asset=ABCDEFGHIJKLMNOPQ HTTP/1.1",
            b"GET /price?asset=BTC HTTP/1.1\x00", b"GET /price?asset=B\x00 HTTP/1.1", b"PRI * HTTP/2.0",
        ):  # fmt: skip
            self.assert_declined(line + b"\r\n" + HOST + KEY + b"\r\n")

    def test_assets(self) -> None:
        for asset in ("B", "1INCH", "btc", "bTc", "ABCDEFGHIJKLMNOP", "0" * 16):
            self.assert_read(b"some-key", asset.upper(), head_of(asset, [HOST[:-2], KEY[:-2]]), PLAIN)

    def test_lines_end_in_cr_lf(self) -> None:
        self.assert_declined(
            PLAIN.replace(b"\r\n", b"\n"), PLAIN.replace(b"\r\n", b"\r"), PLAIN.replace(b"\r\n", b"\n\r"),
            LINE[:-2] + b"\n" + HOST + KEY + b"\r\n", LINE + HOST[:-2] + b"\n" + KEY + b"\r\n",
            LINE + HOST + KEY[:-2] + b"\n\r\n", LINE + HOST + KEY + b"\n\r\n", LINE + HOST + KEY + b"\n",
            LINE + HOST + KEY + b"A: b\r\r\n\r\n", LINE + HOST + KEY + b"\r\r\n\r\n",
        )  # fmt: skip

    def test_bytes_in_values(self) -> None:
        for code in range(256):
            head = LINE + HOST + KEY + b"A: b%cc\r\n\r\n" % code
            if code in VALUE:
                self.assert_read(b"some-key", "BTC", head)
            else:
                self.assert_declined(head)

    def test_bytes_in_names(self) -> None:
        for code in range(256):
            head = LINE + HOST + KEY + b"A%cB:c\r\n\r\n" % code
            if code in TOKEN or code == ord(":"):
                self.assert_read(b"some-key", "BTC", head)
            else:
                self.assert_declined(head)

    def test_lines_that_are_no_field(self) -> None:
        for line in (b"nothing", b":", b": a", b" A: b", b"\tA: b", b" ", b"\t", b"A : b", b"A\t: b"):
            self.assert_declined(LINE + HOST + KEY + line + b"\r\n\r\n", LINE + line + b"\r\n" + HOST + KEY + b"\r\n")

    def test_one_host(self) -> None:
        for host in (b"Host:\r\n", b"host: x:80\r\n", b"HOST:\t[::1]\r\n", b"Host: a, b\r\n"):
            self.assert_read(b"some-key", "BTC", LINE + host + KEY + b"\r\n")
            self.assert_declined(
                LINE + KEY + b"\r\n", LINE + host + KEY + host + b"\r\n", LINE + HOST + host + KEY + b"\r\n"
            )

    def test_one_key(self) -> None:
        bearer, plain = b"Authorization: Bearer %b\r\n", b"X-API-Key: %b\r\n"
        one, other = b"some-key", b"other-key"
        self.assert_read(one, "BTC", LINE + HOST + plain % one + b"\r\n")
        self.assert_declined(LINE + HOST + b"\r\n")
        for first in (bearer, plain):
            for second in (bearer, plain):
                for key in (one, other):
                    self.assert_declined(LINE + HOST + first % one + second % key + b"\r\n")

    def test_spelling_of_the_key(self) -> None:
        for value in (b"Bearer some-key", b"  bEARER  some-key\t", b"\tBEARER \t some-key "):
            self.assert_read(b"some-key", "BTC", LINE + HOST + b"authorization:" + value + b"\r\n\r\n")
        for value in (
            b"", b"Bearer", b"Bearer ", b"Bearer\tsome-key", b"Bearersome-key", b"some-key", b"Basic some-key",
            b"Bearer some key", b"Bearer some-key,", b"Bearer some-key x", b"Bearer some\tkey", b"Token some-key",
        ):  # fmt: skip
            head = LINE + HOST + b"Authorization: " + value + b"\r\n\r\n"
            if value == b"Bearer some-key,":
                self.assert_read(b"some-key,", "BTC", head)
            else:
                self.assert_declined(head)
        for value in (b"", b"some key", b"a\tb--"):
            self.assert_declined(LINE + HOST + b"X-API-Key: " + value + b"\r\n\r\n")

    def test_length_of_the_key(self) -> None:
        for length in range(LONGEST_KEY + 3):
            key = b"k" * length
            for field in (b"Authorization: Bearer " + key, b"X-API-Key:" + key):
                head = LINE + HOST + field + b"\r\n\r\n"
                if SHORTEST_KEY <= length <= LONGEST_KEY:
                    self.assert_read(key, "BTC", head, PLAIN)
                else:
                    self.assert_declined(head)

    def test_connection(self) -> None:
        for value in (b"keep-alive", b" Keep-Alive\t"):
            line = b"Connection:" + value + b"\r\n"
            self.assert_read(b"some-key", "BTC", LINE + HOST + KEY + line + b"\r\n")
            self.assert_declined(LINE + HOST + KEY + line + line + b"\r\n")
        for value in (
            b"",
            b"close",
            b"keep-alive, close",
            b"close keep-alive",
            b"keepalive",
            b"keep-alive,",
            b"upgrade",
        ):
            self.assert_declined(LINE + HOST + KEY + b"Connection: " + value + b"\r\n\r\n")

    def test_declined_fields(self) -> None:
        for name in DECLINED:
            for spelled in (name, name.upper(), name.title()):
                for value in (b"", b"0", b"identity"):
                    line = spelled + b": " + value + b"\r\n"
                    self.assert_declined(LINE + HOST + KEY + line + b"\r\n", LINE + line + HOST + KEY + b"\r\n")
            self.assert_read(b"some-key", "BTC", LINE + HOST + KEY + name + b"x: 1\r\n\r\n")

    def test_how_many_fields(self) -> None:
        most = LINE + HOST + KEY + b"A:\r\n" * (MOST_FIELDS - 2)
        self.assert_read(b"some-key", "BTC", most + b"\r\n")
        self.assert_declined(most + b"A:\r\n\r\n")

    def test_how_long(self) -> None:
        fill = LONGEST_HEAD - len(PLAIN) - len(b"A:\r\n")
        self.assert_read(b"some-key", "BTC", LINE + HOST + KEY + b"A:" + b"b" * fill + b"\r\n\r\n", PLAIN)
        self.assert_declined(LINE + HOST + KEY + b"A:" + b"b" * (fill + 1) + b"\r\n\r\n")

    def test_hostile_length(self) -> None:
        """None of these takes long; what takes the square of its length would."""
        for filling in (b" " * 16_000, b"a" * 16_000, b"a " * 8_000, b"A:\r\n" * 4_000, b":" * 16_000, b"\t" * 16_000):
            for _ in range(20):
                self.assert_declined(
                    LINE + HOST + KEY + filling, LINE + HOST + KEY + b"A:" + filling + b"\x00\r\n\r\n",
                    LINE + HOST + b"Authorization: Bearer " + filling + b"\r\n\r\n",
                    LINE + HOST + b"Authorization: " + filling + b"\r\n\r\n",
                )  # fmt: skip

    @settings(max_examples=200, **SHARED)
    @given(st.data(), assets, keys, st.binary(max_size=20))
    def test_whatever_is_plain(self, data: Any, asset: str, key: bytes, more: bytes) -> None:
        head = head_of(asset, data.draw(fields(key)))
        self.assert_read(key, asset.upper(), head, more, PLAIN)

    @settings(max_examples=200, **SHARED)
    @given(st.data(), assets, keys)
    def test_read_as_the_pages_would(self, data: Any, asset: str, key: bytes) -> None:
        """Whoever changes a byte gets either nothing, or what those who read the whole would find."""
        head = bytearray(head_of(asset, data.draw(fields(key))))
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
        found = self.read(bytes(head))
        if found is None:
            return
        line, *lines = bytes(head[: found[2]]).split(b"\r\n")[:-2]
        read = price_query(line.split(b" ")[1].partition(b"?")[2])
        self.assertEqual(PriceQuery(found[1]), read)
        values: dict[bytes, list[bytes]] = {}
        for one in lines:
            name, _, value = one.partition(b":")
            values.setdefault(name.lower(), []).append(value.strip(b" \t"))
        self.assertEqual(found[0], key_of_headers(values.get(b"authorization"), values.get(b"x-api-key")))
        self.assertEqual(1, len(values[b"host"]))

    @settings(max_examples=200, **SHARED)
    @given(
        st.binary(max_size=60) | st.lists(st.sampled_from([LINE, HOST, KEY, b"\r\n", b"A: b\r\n", b" "])).map(b"".join)
    )
    def test_any_bytes(self, data: bytes) -> None:
        """Nothing is an error."""
        found = self.read(data)
        self.assertTrue(found is None or data[found[2] - 4 : found[2]] == b"\r\n\r\n", data)
