"""Questions in one datagram, in three forms told apart by the first byte.

    - text, C{<key>|<ASSET>[|<id>]}: anything that begins otherwise than the next two;
    - signed, C{~1|<key id>|<unix ms>|<ASSET>|<id>|<mac>}: begins with C{~};
    - JSON, C{{"api_key":...,"asset":...,"id":...}} or C{"assets":[...]}: begins with an opening brace.

The JSON form takes the options of C{POST /prices} as well: C{quote}, C{exchange}, C{max_age_ms}.
A line end after a text or signed question is taken off. An id is echoed as it came: in JSON it may be a number, a
string, a boolean or null of at most 64 bytes; in the other forms it is a number if it is written as a plain integer of
at most 18 digits, else a string, and an empty one is none.

A question is at most 1,200 bytes, and so is its answer. A refusal is C{{"error":<code>,"id":...}}. Whether it may be
sent (to a real key, and not longer than the question) is for the listener to see. No bytes make this raise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from tbeast.codecs.pricequeries import (
    LARGEST_BATCH,
    NO_OPTIONS,
    OPTIONS,
    JsonOptions,
    Options,
    PriceQuery,
    asked_with,
    asset_query,
    different,
    options_of_json,
)  # fmt: skip
from tbeast.codecs.problems import Problem
from tbeast.codecs.signatures import MAC_LENGTH

LARGEST: Final = 1_200
"""How many bytes a question or an answer has at most."""

LONGEST_ID: Final = 64
LONGEST_KEY: Final = 128
LONGEST_NUMBER: Final = 18
"""How many digits an id has at most that comes back as a number."""

EMPTY: Final = "empty"
OVERSIZED: Final = "oversized"
UNREADABLE: Final = "unreadable"
BAD_KEY: Final = "bad_key"
BAD_MAC: Final = "bad_mac"
UNTIMELY: Final = "untimely"
REPLAYED: Final = "replayed"
MEMORY_FULL: Final = "memory_full"
SHORT_QUESTION: Final = "short_question"
UNSENDABLE: Final = "unsendable"
STOPPING: Final = "stopping"

DROPS: Final = (
    EMPTY, OVERSIZED, UNREADABLE, BAD_KEY, BAD_MAC, UNTIMELY, REPLAYED, MEMORY_FULL, SHORT_QUESTION, UNSENDABLE,
    STOPPING,
)  # fmt: skip
"""Every reason for which a datagram gets no answer."""

_INTEGER: Final = re.compile(rb"-?(?:0|[1-9][0-9]{0,17})")
_MS: Final = re.compile(rb"[0-9]{1,15}")
_RAW_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Question(NamedTuple):
    """One datagram, read. A NamedTuple because one is made for each.

    @ivar key: the key, or with C{mac} the key id.
    @ivar asked: what is asked for; in C{assets} a text that is no asset stands as it is. Empty with C{fault}.
    @ivar several: whether it was asked with C{assets}, and is answered with C{prices}.
    @ivar id_json: the id as JSON, empty if there is none.
    @ivar fault: why it cannot be answered, although it says whose it is.
    @ivar signed: what C{mac} is of; C{at_ms} the time that it names.
    """

    key: bytes
    asked: Sequence[PriceQuery | str]
    several: bool
    id_json: bytes
    fault: str
    signed: bytes = b""
    mac: bytes = b""
    at_ms: int = 0


def parse(datagram: bytes) -> Question | str:
    """Read a question.

    @return: if not even the key can be read, one of L{DROPS}.
    """
    if len(datagram) > LARGEST:
        return OVERSIZED
    if not datagram:
        return EMPTY
    first = datagram[0]
    if first == 0x7B:
        return _json(datagram)
    if first == 0x7E:
        return _signed(datagram.rstrip(b"\r\n"))
    return _text(datagram.rstrip(b"\r\n"))


def is_number(id_text: bytes) -> bool:
    """Whether the id of a text question is certain to stand in the answer as it is written: a plain integer, not
    negative. Quicker than to read it.
    """
    return id_text.isdigit() and len(id_text) <= LONGEST_NUMBER and (id_text[0] != 0x30 or len(id_text) == 1)


def spelling_of(datagram: bytes) -> bytes | None:
    """How a question in text writes its asset; C{None} if it is in another form, or a line end may be part of it."""
    if datagram[:1] in (b"{", b"~"):
        return None
    _, _, asked = datagram.partition(b"|")
    spelling = asked.partition(b"|")[0]
    return None if spelling.endswith((b"\r", b"\n")) else spelling


def refusal(code: str, id_json: bytes) -> bytes:
    """Give the answer that is none."""
    if id_json:
        return b'{"error":"%b","id":%b}' % (code.encode("ascii"), id_json)
    return b'{"error":"%b"}' % code.encode("ascii")


def several(entries: Sequence[bytes], id_json: bytes) -> bytes:
    """Give the answer to C{assets}: as many entries, in order, as fit; how many were left out is said."""
    last = b',"id":%b}' % id_json if id_json else b"}"
    for count in range(len(entries), 0, -1):
        left_out = b',"left_out":%d' % (len(entries) - count) if count < len(entries) else b""
        answer = b'{"prices":[%b]%b%b' % (b",".join(entries[:count]), left_out, last)
        if len(answer) <= LARGEST:
            return answer
    return b'{"prices":[],"left_out":%d%b' % (len(entries), last)


def _text(datagram: bytes) -> Question | str:
    parts = datagram.split(b"|", 2)
    if len(parts) < 2 or not _may_be_key(parts[0]):
        return UNREADABLE
    return _plain(parts[0], parts[1], parts[2] if len(parts) == 3 else b"")


def _signed(datagram: bytes) -> Question | str:
    signed, _, mac = datagram.rpartition(b"|")
    parts = signed.split(b"|", 4)
    if len(parts) != 5 or parts[0] != b"~1" or len(mac) != MAC_LENGTH or _MS.fullmatch(parts[2]) is None:
        return UNREADABLE
    return _plain(parts[1], parts[3], parts[4])._replace(signed=signed, mac=mac, at_ms=int(parts[2]))


def _plain(key: bytes, asset: bytes, text: bytes) -> Question:
    id_json = _id_of_text(text)
    try:
        asked = asset_query(asset.decode("ascii"))
    except UnicodeDecodeError:
        return Question(key, (), False, id_json or b"", "bad_request")
    if id_json is None or isinstance(asked, Problem):
        return Question(key, (), False, id_json or b"", "bad_request")
    return Question(key, (asked,), False, id_json, "")


def _json(datagram: bytes) -> Question | str:
    try:
        members = _RAW_OBJECT.decode(datagram)
        key = msgspec.json.decode(members["api_key"], type=str).encode("ascii")
    except (ValueError, KeyError, RecursionError):
        return UNREADABLE
    if not _may_be_key(key):
        return UNREADABLE
    id_json = _id_of_json(bytes(members.get("id", b"")))
    if id_json is None or ("asset" in members) == ("assets" in members):
        return Question(key, (), False, id_json or b"", "bad_request")
    try:
        options: Options | Problem = NO_OPTIONS
        if not members.keys().isdisjoint(OPTIONS):
            options = options_of_json(msgspec.json.decode(datagram, type=JsonOptions))
        if isinstance(options, Problem):
            return Question(key, (), False, id_json, "bad_request")
        if "asset" in members:
            one = asked_with(msgspec.json.decode(members["asset"], type=str), options)
            return Question(key, () if isinstance(one, Problem) else (one,), False, id_json,
                            "bad_request" if isinstance(one, Problem) else "")  # fmt: skip
        texts = msgspec.json.decode(members["assets"], type=list[str])
    except (ValueError, RecursionError):
        return Question(key, (), False, id_json, "bad_request")
    asked = different(texts, options)
    return Question(key, asked, True, id_json, "" if 0 < len(asked) <= LARGEST_BATCH else "bad_request")


def _may_be_key(key: bytes) -> bool:
    return 0 < len(key) <= LONGEST_KEY


def _id_of_text(text: bytes) -> bytes | None:
    if not text:
        return b""
    if _INTEGER.fullmatch(text) is not None:
        return text
    if len(text) > LONGEST_ID:
        return None
    try:
        written = json.dumps(text.decode("utf-8"), ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        return None
    return written if len(written) <= LONGEST_ID else None


def _id_of_json(raw: bytes) -> bytes | None:
    if not raw:
        return b""
    if len(raw) > LONGEST_ID or raw[0] in b"[{":
        return None
    try:
        msgspec.json.decode(raw)
    except ValueError:
        return None
    return raw
