"""The macs of signed datagrams that were answered, in memory that all workers share: each is answered once, by one.

The kernel deals datagrams out by the sender's address, so whoever repeats a datagram from another port may reach
another worker; each must know what the others have answered.

The memory is a table of slots, in the machine's own byte order: when the datagram was signed (8 bytes, milliseconds
since the epoch), who has it (4), 4 unused, the 16 bytes of the mac. A mac lies in the slot that its first bytes name,
or in one of the L{PROBES} after it; a slot is free when it is empty, or when what it holds could not be answered any
more for its age. A worker that looks for a mac that is not there has it from then on, and takes it for spent only when
it was told so; every other worker takes it for spent at once. So no two answer the same, and who was refused may ask
again.

A look takes a lock on its part of the table (of the kind that ends with its process). One that cannot be had is not
waited for: the mac is taken for spent.
"""

from __future__ import annotations

import base64
import fcntl
from contextlib import suppress
from struct import Struct
from typing import Final

from tbeast.codecs.signatures import VALID_MS, SpentMacs

SLOTS: Final = 1 << 19
SLOT_BYTES: Final = 32
PROBES: Final = 64
BYTES: Final = (SLOTS + PROBES) * SLOT_BYTES
"""How much memory it takes at most; what was never used takes none."""

_SLOT: Final = Struct("=qIxxxx16s")
_SPENT: Final = 0
"""In the place of whoever has it."""

_SLOTS_A_LOCK: Final = 4_096
_TRIES: Final = 1_000


class SharedSpentMacs(SpentMacs):
    """One worker's view of them."""

    def __init__(self, memory: memoryview, descriptor: int, worker: int) -> None:
        """Set it up.

        @param memory: L{BYTES} bytes, writable.
        @param descriptor: the file descriptor of that memory, for the locks.
        @param worker: names this worker; its process id. Not 0.
        """
        super().__init__(capacity=SLOTS)
        self._memory = memory
        self._descriptor = descriptor
        self._worker = worker
        self._had_room = True

    def __len__(self) -> int:
        """How many slots are taken; for tests, as it looks at all of them."""
        return sum(at_ms != 0 for at_ms, _, _ in _SLOT.iter_unpack(self._memory))

    def is_spent(self, at_ms: int, mac: bytes) -> bool:
        """Whether this mac was answered, or another worker has it; if not, this one has it now."""
        self._had_room = True
        raw = _raw(mac)
        first = _first(raw)
        if not self._lock(first):
            return True
        try:
            free = -1
            for at in range(first * SLOT_BYTES, (first + PROBES) * SLOT_BYTES, SLOT_BYTES):
                held_ms, worker, held = _SLOT.unpack_from(self._memory, at)
                if held == raw and held_ms == at_ms:
                    return bool(worker != self._worker)
                if free < 0 and (not held_ms or held_ms < self._now_ms - VALID_MS):
                    free = at
                if not held_ms:
                    break
            if free < 0:
                self._had_room = False
            else:
                _SLOT.pack_into(self._memory, free, at_ms, self._worker, raw)
            return False
        finally:
            self._unlock(first)

    @property
    def is_full(self) -> bool:
        """Whether there was no room for the mac that was looked for last."""
        return not self._had_room

    def remember(self, at_ms: int, mac: bytes) -> None:
        """Take note of a mac that is being answered."""
        raw = _raw(mac)
        first = _first(raw)
        for at in range(first * SLOT_BYTES, (first + PROBES) * SLOT_BYTES, SLOT_BYTES):
            held_ms, worker, held = _SLOT.unpack_from(self._memory, at)
            if held == raw and held_ms == at_ms:
                if worker == self._worker:  # nobody else writes it
                    _SLOT.pack_into(self._memory, at, at_ms, _SPENT, raw)
                return

    def _lock(self, first: int) -> bool:
        for _ in range(_TRIES):
            with suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *self._part(first))
                return True
        return False

    def _unlock(self, first: int) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, *self._part(first))

    def _part(self, first: int) -> tuple[int, int]:
        """What is locked, as length and beginning: whoever looks at the same slots locks a byte of the same."""
        return PROBES // _SLOTS_A_LOCK + 2, first // _SLOTS_A_LOCK


def _raw(mac: bytes) -> bytes:
    return base64.urlsafe_b64decode(mac + b"==")


def _first(raw: bytes) -> int:
    """The slot in which the search begins."""
    return int.from_bytes(raw[:4], "little") % SLOTS
