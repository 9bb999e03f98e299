"""The shelf in memory that several readers share without locks: other processes, and the native parts.

One process writes, any number read, nobody waits. The memory is a table of L{SLOTS} slots of L{SLOT_BYTES} bytes; an
asset lies in the slot that its hash (FNV-1a, 32 bits) names, or in the next one that was free when it first came. A
slot is never given to another asset: what is taken down keeps its code, and is never fresh.

B{Never a torn price.} A slot begins with a number that is odd while it is being written, and another one after each
writing. A reader copies the slot, and has a reply only if the number was even and the same before and after, and the
CRC-32 of what it copied is the one that the slot says. The number suffices where writes become visible in order; the
sum does not ask for that. A writer that dies in the middle leaves an odd number: nobody gets that price any more until
it was written anew.

A reader keeps what it has copied of each asset, with the number that the slot had; while the number is the same the
copy is good, and a look costs no more than reading it.

A slot, in the machine's own byte order: C{number} (8 bytes), C{code} (16, zeros behind), C{observed_at} and
C{fresh_until} (doubles, seconds since the epoch), the lengths of C{head}, C{tail} and C{source} (2 each), 2 bytes
unused, C{crc} (4) over all that follows the number but itself, 4 unused, then at L{TEXT_AT} the three texts, one behind
the other.
"""

from __future__ import annotations

from math import inf
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from tbeast.domain.readyreplies import ReadyReply, Shelf

SLOTS: Final = 1024
SLOT_BYTES: Final = 1024
BYTES: Final = SLOTS * SLOT_BYTES
"""How much memory it takes."""

TEXT_AT: Final = 64
LONGEST_TEXT: Final = SLOT_BYTES - TEXT_AT
LONGEST_CODE: Final = 16

NUMBER_BYTES: Final = 8
_FIELDS: Final = Struct("=16sddHHHxxI")
"""From the code to the sum."""
_SUMMED: Final = Struct("=16sddHHHxx")
TRIES: Final = 8
"""How often a reader looks again at a slot that was just being written."""


class SharedReply(NamedTuple):
    """What lies there of one asset: as L{tbeast.domain.readyreplies.ReadyReply}, without the quote."""

    head: bytes
    tail: bytes
    observed_at: float
    fresh_until: float
    source: str


def hash_of(code: bytes) -> int:
    """Where the search for an asset begins, before the modulus: FNV-1a over its code."""
    value = 2166136261
    for byte in code:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


class SharedShelf:
    """The writer's and the readers' side of it.

    @param memory: L{BYTES} bytes, zeros at the beginning; writable for the writer.
    """

    def __init__(self, memory: memoryview) -> None:
        if len(memory) != BYTES:
            raise ValueError(f"the shelf takes {BYTES} bytes, and these are {len(memory)}")
        self._memory = memory
        self._numbers = memory.cast("B").cast("Q")  # read and written whole, where a slice need not be
        self._places: dict[str, int] = {}
        self._copies: dict[str, tuple[int, int, SharedReply]] = {}

    def put(self, asset: str, head: bytes, tail: bytes, observed_at: float, fresh_until: float, source: str) -> bool:
        """Replace what lies there for C{asset}; only ever called by the one writer.

        @return: whether it fits; if it does not, nothing lies there for it any more.
        """
        code = asset.encode("ascii")
        text = head + tail + source.encode("ascii")
        if len(text) > LONGEST_TEXT:
            self.take_down(asset)
            return False
        at = self._place(asset, code)
        if at is None:
            return False
        summed = _SUMMED.pack(code, observed_at, fresh_until, len(head), len(tail), len(source))
        fields = summed + crc32(text, crc32(summed)).to_bytes(4, "little")
        self._write(at, fields, text)
        return True

    def take_down(self, asset: str) -> None:
        """There is nothing current to say of C{asset}."""
        at = self._find(asset.encode("ascii"))
        if at is not None:
            summed = _SUMMED.pack(asset.encode("ascii"), -inf, -inf, 0, 0, 0)
            self._write(at, summed + crc32(summed).to_bytes(4, "little"), b"")

    def find(self, asset: str, now: float) -> SharedReply | None:
        """The reply for C{asset} (upper case), if there is one that may still be given out."""
        reply = self.get(asset)
        return reply if reply is not None and now <= reply.fresh_until else None

    def get(self, asset: str) -> SharedReply | None:
        """What lies there of C{asset}, though it may not be given out any more; C{None} if that cannot be said."""
        copy = self._copies.get(asset)
        if copy is not None and self._numbers[copy[0]] == copy[1]:
            return copy[2]
        at = self._places.get(asset)
        if at is None:
            try:
                at = self._find(asset.encode("ascii"))
            except UnicodeEncodeError:
                return None
            if at is None:
                return None
            self._places[asset] = at
        return self._read(asset, at)

    def _read(self, asset: str, at: int) -> SharedReply | None:
        place = at // NUMBER_BYTES
        for _ in range(TRIES):
            number = self._numbers[place]
            slot = self._memory[at : at + SLOT_BYTES].tobytes()
            if number & 1 or self._numbers[place] != number:
                continue
            _, observed_at, fresh_until, head, tail, source, crc = _FIELDS.unpack_from(slot, NUMBER_BYTES)
            end = head + tail + source
            if end > LONGEST_TEXT:
                continue
            text = slot[TEXT_AT : TEXT_AT + end]
            if crc32(text, crc32(slot[NUMBER_BYTES : NUMBER_BYTES + _SUMMED.size])) != crc:
                continue
            reply = SharedReply(
                text[:head], text[head : head + tail], observed_at, fresh_until, text[head + tail :].decode("ascii")
            )
            self._copies[asset] = (place, number, reply)
            return reply
        return None

    def _write(self, at: int, fields: bytes, text: bytes) -> None:
        memory, place = self._memory, at // NUMBER_BYTES
        number = self._numbers[place] & ~1
        self._numbers[place] = number + 1
        memory[at + NUMBER_BYTES : at + NUMBER_BYTES + len(fields)] = fields
        memory[at + TEXT_AT : at + TEXT_AT + len(text)] = text
        self._numbers[place] = (number + 2) & 0xFFFFFFFFFFFFFFFF

    def _find(self, code: bytes) -> int | None:
        """Where C{code} lies; C{None}: nowhere."""
        at, is_free = self._search(code)
        return None if is_free else at

    def _place(self, asset: str, code: bytes) -> int | None:
        """Where to put C{code}; C{None}: nowhere, the table is full, or it is no code."""
        at = self._places.get(asset)
        if at is None and 0 < len(code) <= LONGEST_CODE and b"\0" not in code:
            at, _ = self._search(code)
            if at is not None:
                self._places[asset] = at
        return at

    def _search(self, code: bytes) -> tuple[int | None, bool]:
        """Where C{code} lies, or would, and whether that place is free; C{None}: those within reach are others'."""
        padded = code.ljust(LONGEST_CODE, b"\0")
        start = hash_of(code)
        for step in range(SLOTS - 1):
            at = (start + step) % SLOTS * SLOT_BYTES
            held = self._memory[at + NUMBER_BYTES : at + NUMBER_BYTES + LONGEST_CODE].tobytes()
            if held == padded:
                return at, False
            if not held.strip(b"\0"):
                return at, True
        return None, True


class TwinShelf(Shelf):
    """A shelf of which all that lies on it lies on a shared one too."""

    def __init__(self, shared: SharedShelf) -> None:
        super().__init__()
        self._shared = shared

    def put(self, asset: str, reply: ReadyReply) -> None:
        """Replace what lies on both for C{asset}. What is too long for the shared one lies on the own one alone."""
        super().put(asset, reply)
        self._shared.put(asset, reply.head, reply.tail, reply.observed_at, reply.fresh_until, reply.source)

    def take_down(self, asset: str) -> None:
        """There is nothing current to say of C{asset}."""
        super().take_down(asset)
        self._shared.take_down(asset)
