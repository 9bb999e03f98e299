"""Notes of usage that still waits: what one file says until its rows leave together.

A note is C{n1}, the CRC-32 of its body in eight hexadecimal digits, the body's length in bytes, and the body, parted by
single spaces and ended by a line feed: a JSON list of what is noted, each a row, C{[kind, at, request_count,
response_us_sum, response_us_max]} as in L{tbeast.codecs.usagerecords}, or what has come to a row, C{[number,
request_count, response_us_sum, response_us_max]}; the rows of a file are numbered from 0 on. Notes add up: rows of the
same kind and hour, and what has come to them, are parts of one row, whose C{at} is the earliest and whose longest time
is the greatest of them.

What comes behind the last whole note of a file is left out: whoever wrote it died while it did, and nobody was told
that it was kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final
from zlib import crc32

import msgspec

from tbeast.domain.usage import Row

_decoder: Final = msgspec.json.Decoder(list[list[Any]])
_Whole = Annotated[int, msgspec.Meta(ge=0)]
_More = tuple[_Whole, _Whole, _Whole, _Whole]
_HEAD: Final = re.compile(rb"n1 ([0-9a-f]{8}) (\d{1,12}) ")


def encode(noted: bytes) -> bytes:
    """One note of what is JSON already, with commas between its parts."""
    body = b"[%b]" % noted
    return b"n1 %08x %d %b\n" % (crc32(body), len(body), body)


def encode_parts(parts: Iterable[Any]) -> bytes:
    """Rows, and what has come to rows as lists of four, as JSON with commas between them."""
    return msgspec.json.encode(parts)[1:-1]


def read(data: bytes) -> tuple[list[Row], int]:
    """Read the notes of a file, from its beginning.

    @return: their rows, in order, what has come to one as a row of its own; and where the last whole note ends.
    """
    rows: list[Row] = []
    numbered: list[Row] = []
    at = 0
    while (head := _HEAD.match(data, at)) is not None:
        end = head.end() + int(head[2])
        body = data[head.end() : end]
        if data[end : end + 1] != b"\n" or crc32(body) != int(head[1], 16):
            break
        try:
            noted = [_noted(one, numbered) for one in _decoder.decode(body)]
        except (ValueError, IndexError):
            break
        rows += noted
        at = end + 1
    return rows, at


def _noted(one: list[Any], numbered: list[Row]) -> Row:
    if isinstance(one[0], int):
        number, *counts = msgspec.convert(one, _More)
        kind, at, *_ = numbered[number]
        return Row(kind, at, *counts)
    row = msgspec.convert(one, Row)
    numbered.append(row)
    return row
