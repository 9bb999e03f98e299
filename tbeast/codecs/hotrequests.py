"""The one request that nearly all are: a whole, plain C{GET /price}. It is recognised here, or declined.

Whatever is declined is nobody's fault: it goes the ordinary way, as it came. So in doubt this declines, and it accepts
nothing that the ordinary way would read in another way. The grammar, which every other form of the lane follows to the
letter:

 1. The request line is C{GET /price?asset=}, then the asset of 1 to 16 ASCII letters and digits, then C{ HTTP/1.1} and
    CRLF; nothing stands before it, and letters are in the case shown, but for the asset's.
 2. Then come 1 to 100 fields, each ended by CRLF, and then CRLF alone. A field is a name, C{:}, a value. The name is
    one or more of the letters, the digits and C{!#$%&'*+-.^_`|~}; the value is any number of bytes from 0x20 to 0x7E
    and tabs (0x09). So there is no CR nor LF but at the ends of lines, no line that continues another, no space before
    the colon, and nothing outside ASCII.
 3. All of this is at most L{LONGEST_HEAD} bytes, the last CRLF included. What follows belongs to the next request.
 4. Names are compared in any case. A value is compared without the spaces and tabs around it.
 5. C{Host} stands exactly once, whatever its value.
 6. Exactly one field holds the key: C{Authorization}, where the value is C{Bearer} in any case, one space, any number
    of spaces and tabs, the key; or C{X-API-Key}, where the value is the key. There is not one of each, nor two of one.
    The key is L{SHORTEST_KEY} to L{LONGEST_KEY} bytes from 0x21 to 0x7E.
 7. C{Connection} may stand once, and its value then is C{keep-alive} in any case.
 8. None of L{DECLINED} stands there at all. Any other field may, and means nothing.

What a client sends differs from one time to the next, if at all, in the asset. So L{RememberedHeads} keeps what it has
read of whole requests, and of what stands behind the asset, and reads neither twice.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

LONGEST_HEAD: Final = 16_384
MOST_FIELDS: Final = 100
SHORTEST_KEY: Final = 4
LONGEST_KEY: Final = 128

DECLINED: Final = (
    b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"http2-settings",
)  # fmt: skip
"""Fields that may ask for something else than the plain answer, in lower case."""

MOST_REMEMBERED: Final = 16_384
LONGEST_REMEMBERED: Final = 512
"""Longer ones are read each time. So what is remembered takes 30 MB at the very most, and commonly a tenth of it."""

_BEGINNING: Final = b"GET /price?asset="
_END: Final = b"\r\n\r\n"
_ASSET_AT: Final = len(_BEGINNING)
_LATEST_SPACE: Final = _ASSET_AT + 17
_LINE: Final = re.compile(rb"GET /price\?asset=([0-9A-Za-z]{1,16}) HTTP/1\.1\r\n")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):([\t\x20-\x7e]*+)\r\n")
_FIELDS: Final = re.compile(rb"(?:%b)++" % _FIELD.pattern)  # nothing in it is tried twice: it takes linear time
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] [ \t]*([!-~]{%d,%d})" % (SHORTEST_KEY, LONGEST_KEY))
_KEY: Final = re.compile(rb"([!-~]{%d,%d})" % (SHORTEST_KEY, LONGEST_KEY))

_DECLINED: Final = frozenset(DECLINED)


class HotRequest(NamedTuple):
    """A plain question. A NamedTuple because one is made for each.

    @ivar key: as it was sent.
    @ivar asset: in upper case; whether there is such an asset is not said.
    @ivar length: how many bytes it is.
    """

    key: bytes
    asset: str
    length: int


def recognise(data: bytes) -> HotRequest | None:
    """Read one whole plain question at the beginning of C{data}.

    @return: C{None} if there is none, or it is not whole.
    """
    line = _LINE.match(data)
    if line is None:
        return None
    end = data.find(_END, line.end() - 2, LONGEST_HEAD)
    if end < 0:
        return None
    key = _key_of_fields(data, line.end(), end + 2)
    return None if key is None else HotRequest(key, line[1].decode("ascii").upper(), end + len(_END))


class RememberedHeads:
    """Recognises as L{recognise} does, but quickly what it has seen before.

    When it has as much as it may keep, it forgets all.

    @ivar known: whole requests by their bytes; for the hot path, which looks here first.
    """

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self.known: dict[bytes, HotRequest] = {}
        self._most = most
        self._keys: dict[bytes, bytes] = {}

    def recognise(self, data: bytes) -> HotRequest | None:
        """Read one whole plain question at the beginning of C{data}; see L{recognise}."""
        known = self.known.get(data)
        if known is not None:
            return known
        if not data.startswith(_BEGINNING):
            return None
        end = data.find(_END, _ASSET_AT, LONGEST_REMEMBERED)
        if end < 0:
            return recognise(data)
        head = data[: end + len(_END)]
        found = self.known.get(head) or self._with_known_key(head) or recognise(head)
        if found is not None and head not in self.known:
            self._remember(head, found)
        return found

    def _with_known_key(self, head: bytes) -> HotRequest | None:
        """Read one of which only the asset is new."""
        space = head.find(b" ", _ASSET_AT, _LATEST_SPACE)
        key = self._keys.get(head[space:])
        asset = head[_ASSET_AT:space]
        if key is None or not asset.isalnum():
            return None
        return HotRequest(key, asset.decode("ascii").upper(), len(head))

    def _remember(self, head: bytes, found: HotRequest) -> None:
        if len(self.known) >= self._most:
            self.known.clear()
        if len(self._keys) >= self._most:
            self._keys.clear()
        self.known[head] = found
        self._keys[head[_ASSET_AT + len(found.asset) :]] = found.key


def _key_of_fields(data: bytes, start: int, end: int) -> bytes | None:
    """The key, if all between C{start} and C{end} is fields, and they are as they should be."""
    whole = _FIELDS.match(data, start, end)
    if whole is None or whole.end() != end:
        return None
    fields = _FIELD.findall(data, start, end)
    if len(fields) > MOST_FIELDS:
        return None
    hosts = connections = 0
    key = None
    for name, value in fields:
        name = name.lower()
        if name == b"host":
            hosts += 1
        elif name == b"authorization" or name == b"x-api-key":
            form = _BEARER if name == b"authorization" else _KEY
            match = form.fullmatch(value.strip(b" \t"))
            if match is None or key is not None:
                return None
            key = match[1]
        elif name == b"connection":
            connections += 1
            if connections > 1 or value.strip(b" \t").lower() != b"keep-alive":
                return None
        elif name in _DECLINED:
            return None
    return key if hosts == 1 else None
