"""How a question says whose it is: the key in HTTP headers, or a mac that proves a key without showing it.

A signed datagram carries the first 16 bytes of HMAC-SHA256 over everything before its last C{|}, base64url without
padding, made with the key's datagram secret (see L{tbeast.domain.keys}). It is good for 30 seconds either way of the
time that it names, and once: a mac that was answered is remembered until its time is out. Only macs that were verified
and admitted are remembered, so nobody without a key can fill the memory; and should those with keys fill it, further
signed questions are refused rather than remembered ones forgotten.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from typing import Final

from tbeast.codecs.problems import Problem

MAC_BYTES: Final = 16
MAC_LENGTH: Final = 22
VALID_MS: Final = 30_000
"""How far the time of a signed question may lie from ours, either way."""

_NO_KEY: Final = Problem("missing_key", "Send the key as Authorization: Bearer KEY, or as X-API-Key: KEY.")


def key_of_headers(authorization: Sequence[bytes] | None, api_key: Sequence[bytes] | None) -> bytes | Problem:
    """Find the key in the values of the C{Authorization} and the C{X-API-Key} headers.

    The scheme's case is of no matter. Another scheme than Bearer is left to whatever stands between, as long as there
    is an C{X-API-Key}. Both headers may stand, with the same key.
    """
    if authorization is not None and len(authorization) > 1:
        return Problem("malformed_authorization", "The Authorization header stands more than once.")
    if api_key is not None and len(api_key) > 1:
        return Problem("malformed_authorization", "The X-API-Key header stands more than once.")
    plain = api_key[0].strip() if api_key else b""
    bearer = b""
    if authorization:
        scheme, _, rest = authorization[0].strip().partition(b" ")
        if scheme.lower() == b"bearer":
            bearer = rest.strip()
    if bearer and plain and bearer != plain:
        return Problem("bad_key", "Authorization and X-API-Key hold different keys.")
    return bearer or plain or _NO_KEY


def mac_of(secret: bytes, signed: bytes) -> bytes:
    """Give the mac of C{signed} in its text form."""
    return base64.urlsafe_b64encode(hmac.digest(secret, signed, "sha256")[:MAC_BYTES]).rstrip(b"=")


def is_genuine(secret: bytes, signed: bytes, mac: bytes) -> bool:
    """Whether C{mac} is the mac of C{signed}; only its one canonical spelling is."""
    return hmac.compare_digest(mac_of(secret, signed), mac)


class SpentMacs:
    """The macs that were answered, for as long as they would be good.

    They lie in drawers by the time that they name (which they prove), so that whole drawers are emptied at once.

    @ivar capacity: how many are remembered at most; each takes about 150 bytes.
    """

    def __init__(self, capacity: int = 500_000) -> None:
        self.capacity = capacity
        self._drawers: dict[int, set[bytes]] = {}
        self._count = 0
        self._now_ms = 0.0

    def __len__(self) -> int:
        return self._count

    def is_timely(self, at_ms: int, now: float) -> bool:
        """Whether a question of C{at_ms} (milliseconds since the epoch) may be answered at C{now} (seconds).

        A clock that goes back does not make forgotten macs good again.
        """
        now_ms = now * 1000.0
        if now_ms > self._now_ms:
            self._now_ms = now_ms
        return self._now_ms - VALID_MS <= at_ms <= now_ms + VALID_MS

    def is_spent(self, at_ms: int, mac: bytes) -> bool:
        """Whether this mac was remembered."""
        return mac in self._drawers.get(at_ms // VALID_MS, ())

    @property
    def is_full(self) -> bool:
        """Whether there is no room for one more, what may be forgotten being forgotten."""
        if self._count >= self.capacity:
            self._forget()
        return self._count >= self.capacity

    def remember(self, at_ms: int, mac: bytes) -> None:
        """Take note of a mac that is being answered."""
        drawer = self._drawers.get(at_ms // VALID_MS)
        if drawer is None:
            self._forget()
            drawer = self._drawers[at_ms // VALID_MS] = set()
        if mac not in drawer:
            drawer.add(mac)
            self._count += 1

    def _forget(self) -> None:
        for drawer in [drawer for drawer in self._drawers if (drawer + 1) * VALID_MS <= self._now_ms - VALID_MS]:
            self._count -= len(self._drawers.pop(drawer))
