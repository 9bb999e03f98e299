"""HTTP/1.1 answers to C{GET}, read as strictly as a price deserves.

An answer is a status line, header lines, an empty line, and a body of exactly C{Content-Length} bytes. Everything
looser is malformed: no length or two, a coded transfer, a line folded or ended by a bare line feed, an interim status,
bytes after the body (nothing more was asked).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

LARGEST: Final = 65_536
"""How many bytes an answer may have."""

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([2-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,6}")


class MalformedAnswerError(ValueError):
    """No answer that counts; says why."""


class _Asset(msgspec.Struct):
    asset: str
    price: float


def read_answer(data: bytes) -> tuple[int, int, bool] | None:
    """Read one whole answer.

    @return: its status, where its body begins, and whether the connection stays open; C{None} while bytes are missing.
    @raise MalformedAnswerError: when it cannot become one.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > LARGEST or not data.startswith(b"HTTP/1."[: len(data)]):
            raise MalformedAnswerError("no head")
        return None
    status, length, keeps = read_head(data[:end])
    missing = end + 4 + length - len(data)
    if missing < 0:
        raise MalformedAnswerError("more than was asked for")
    return None if missing else (status, end + 4, keeps)


# a head differs from the one before in its date at most, and in what is left of a limit
@lru_cache(maxsize=256)
def read_head(head: bytes) -> tuple[int, int, bool]:
    """Read a head without its empty line: the status, the body's length, and whether the connection stays open.

    @raise MalformedAnswerError: when it is none.
    """
    first, *lines = head.split(b"\r\n")
    began = _STATUS.fullmatch(first)
    if began is None:
        raise MalformedAnswerError("no status line")
    length: int | None = None
    keeps = began[1] == b"1"
    for line in lines:
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise MalformedAnswerError("no header line")
        name = parts[1].lower()
        if name == b"content-length":
            if length is not None or _LENGTH.fullmatch(parts[2]) is None:
                raise MalformedAnswerError("no single Content-Length")
            length = int(parts[2])
        elif name == b"transfer-encoding":
            raise MalformedAnswerError("a coded transfer")
        elif name == b"connection" and b"close" in parts[2].lower():
            keeps = False
    if length is None or length > LARGEST:
        raise MalformedAnswerError("no Content-Length of a price")
    return int(began[2]), length, keeps


def is_price_of(asset: str, body: bytes) -> bool:
    """Whether this is a price of this asset, whatever the order of its members."""
    try:
        return msgspec.json.decode(body, type=_Asset).asset == asset
    except (ValueError, RecursionError):
        return False
