"""Batches of usage as records of the journal: one line of text each.

A record is C{u1}, the CRC-32 of its body in eight hexadecimal digits, the body's length in bytes, and the body, parted
by single spaces and ended by a line feed. The body is JSON without a line feed in it: the batch's id, its node, and
its rows, each C{[kind, at, request_count, response_us_sum, response_us_max]}. The C{1} is the version.

A reader can meet two kinds of broken records. One that has no end was I{cut off}: whoever wrote it died while it did,
so nothing comes after it, and nobody was told that it was kept. Any other that does not agree with its own checksum is
I{damaged}; the next record then begins at the next line, or at the next beginning of a record if that comes first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final
from zlib import crc32

import msgspec
from attrs import frozen

from tbeast.domain.usage import Batch, Row

_Body = tuple[str, str, tuple[Row, ...]]

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Body)

_HEAD: Final = re.compile(rb"u(\d{1,9}) ([0-9a-f]{8}) (\d{1,12}) ")
_BEGINNING: Final = re.compile(rb"u\d{1,9} [0-9a-f]{8} \d{1,12} \[")
_ID: Final = re.compile(r"[0-9a-f]{24}")


@frozen
class Damage:
    """Bytes that were a record and are none any more.

    @ivar start: where they begin, within what was read.
    @ivar why: what is wrong, for people.
    """

    start: int
    why: str


def encode(batch: Batch) -> bytes:
    """One batch as a record. Also one that no database will take: text and numbers may be anything."""
    content = (batch.id, batch.node, batch.rows)
    try:
        body = _encoder.encode(content)
    except (ValueError, OverflowError):  # text that is not Unicode
        body = b""
    if not body or b"null" in body:  # a number that is none
        body = json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    return b"u1 %08x %d %b\n" % (crc32(body), len(body), body)


def records(data: bytes) -> Iterator[tuple[Batch | Damage, int]]:
    """Read records from the beginning of C{data}.

    @return: each batch or damage with the place where it ends. What is left after the last of these places is cut off,
        or was not read far enough.
    """
    start = 0
    while (feed := data.find(b"\n", start)) >= 0:
        found = _read(data[start:feed])
        if isinstance(found, Batch):
            yield found, feed + 1
            start = feed + 1
        else:
            beginning = _BEGINNING.search(data, start + 1, feed)
            end = beginning.start() if beginning else feed + 1
            yield Damage(start, found), end
            start = end


def _read(line: bytes) -> Batch | str:
    """The batch in one line, or what is wrong with the line."""
    head = _HEAD.match(line)
    if head is None:
        return "it does not begin as a record does"
    if head[1] != b"1":
        return f"this version cannot read records of version {head[1].decode()}"
    body = line[head.end() :]
    if int(head[3]) != len(body):
        return f"it has {len(body)} bytes and says {int(head[3])}"
    if int(head[2], 16) != crc32(body):
        return "its checksum does not agree"
    try:
        batch_id, node, rows = _decoded(body)
    except (ValueError, RecursionError):
        return "its content cannot be read"
    if not _ID.fullmatch(batch_id):
        return "its id is none"
    return Batch(batch_id, node, rows)


def _decoded(body: bytes) -> _Body:
    content: _Body
    try:
        content = _decoder.decode(body)
    except msgspec.DecodeError:
        content = msgspec.convert(json.loads(body), _Body)
    return content
