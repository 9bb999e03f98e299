"""HTTP answers, read strictly."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.httpanswers import LARGEST, MalformedAnswerError, is_price_of, read_answer

BODY = b'{"asset":"BTC","price":83421.57}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: tbeast\r\nDate: Sun, 12 Apr 2026 14:23:01 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


def answer(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return b"\r\n".join([status, *lines, b"", body])


class ReadingTests(SynchronousTestCase):
    def test_a_whole_one(self) -> None:
        self.assertEqual(read_answer(ANSWER), (200, len(ANSWER) - len(BODY), True))

    def test_every_part_of_it_is_waited_for(self) -> None:
        for end in range(1, len(ANSWER)):
            self.assertIsNone(read_answer(ANSWER[:end]), ANSWER[:end])

    def test_whether_the_connection_stays(self) -> None:
        for lines, status, keeps in (
            ([b"Content-Length: 0"], b"HTTP/1.1 503 Service Unavailable", True),
            ([b"Content-Length: 0", b"Connection: Close"], b"HTTP/1.1 503 ", False),
            ([b"content-length:0"], b"HTTP/1.0 404 Not Found", False),
        ):
            read = read_answer(answer(*lines, status=status))
            assert read is not None
            self.assertEqual((read[0], read[2]), (int(status[9:12]), keeps))

    def test_what_is_malformed(self) -> None:
        length = b"Content-Length: 2"
        for data in (
            answer(body=b"{}"),
            answer(length, length, body=b"{}"),
            answer(b"Content-Length: +2", body=b"{}"),
            answer(b"Content-Length: 2, 2", body=b"{}"),
            answer(b"Content-Length: 0x2", body=b"{}"),
            answer(b"Content-Length: %d" % (LARGEST + 1), body=b"{}"),
            answer(b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
            answer(length, b"Transfer-Encoding: identity", body=b"{}"),
            answer(length, b" folded", body=b"{}"),
            answer(b"Content-Length : 2", body=b"{}"),
            answer(length, b"no colon", body=b"{}"),
            answer(length, b": no name", body=b"{}"),
            answer(length, b"a: b\nc: d", body=b"{}"),
            answer(length, b"a: \x00", body=b"{}"),
            answer(length, body=b"{}x"),
            answer(length, status=b"HTTP/1.1 100 Continue", body=b"{}"),
            answer(length, status=b"HTTP/2 200", body=b"{}"),
            answer(length, status=b"HTTP/1.1 2000 OK", body=b"{}"),
            ANSWER + ANSWER,
            b"SSH-2.0-OpenSSH",
            b"h",
            b"HTTP/1.1 200 OK" + b"x" * LARGEST,
        ):
            self.assertRaises(MalformedAnswerError, read_answer, data)

    @given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: ANSWER[:-40] + tail))
    @settings(deadline=None, max_examples=200)
    def test_no_bytes_break_it(self, data: bytes) -> None:
        with contextlib.suppress(MalformedAnswerError):
            read = read_answer(data)
            self.assertTrue(read is None or 0 < read[1] <= len(data))

    def test_prices(self) -> None:
        self.assertTrue(is_price_of("BTC", BODY))
        self.assertTrue(is_price_of("BTC", b'{"price": 1, "asset": "BTC"}'))
        for body in (b'{"asset":"BTC"}', b'{"asset":"BTC","price":"1"}', b"[]", b"", b"\xff", b"[" * 100_000):
            self.assertFalse(is_price_of("BTC", body))
        self.assertFalse(is_price_of("ETH", BODY))
