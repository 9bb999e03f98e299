"""Who may administer: one key, shown with every call, and what becomes of those who guess at it.

The key is compared as SHA-256 digests, in constant time, so that neither its length nor its beginning shows. A wrong
key costs a token of two buckets: a small one of the address that it came from, and one of all addresses together. A
caller whose own bucket is empty is refused without a look at the key, right or wrong, until a token is back; so is one
that guessed wrong in the last L{SUSPECT_SECONDS}, while the bucket of all is empty. Any other address is always heard,
so nobody's guessing keeps the right key out from elsewhere. After its first few an address has a try in
L{GUESSES_BACK_SECONDS}, and the shortest key that the settings take has 16 characters: guessing is hopeless.

The right key has a bucket of its own, so that a script that runs wild does not keep the daemon from its work.

Addresses of IPv6 count by their /64: who has one has all of it. So many guessers are remembered; of more than that, the
one that was quiet for longest is forgotten.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

from attrs import frozen

from tbeast.domain.ratelimits import TokenBucket

ALLOWED: Final = "allowed"
MISSING: Final = "missing"
WRONG: Final = "wrong"
GUESSING: Final = "guessing"
TOO_FAST: Final = "too_fast"

GUESSES: Final = 5
"""Wrong keys that an address has before it must wait."""
GUESSES_BACK_SECONDS: Final = 10.0
SUSPECT_SECONDS: Final = 600.0
GUESSES_OF_ALL: Final = 30
GUESSES_OF_ALL_A_SECOND: Final = 1.0
CALLS_A_SECOND: Final = 20.0
CALLS_AT_ONCE: Final = 40
MOST_GUESSERS: Final = 4_096


@frozen
class Entry:
    """What becomes of one call.

    @ivar outcome: L{ALLOWED}; L{MISSING}: no key was shown; L{WRONG}: another key; L{GUESSING}: it was not looked at;
        L{TOO_FAST}: the right key, too often.
    @ivar retry_after_seconds: when to come back, with the last two.
    """

    outcome: str
    retry_after_seconds: float = 0.0


_ALLOWED: Final = Entry(ALLOWED)
_MISSING: Final = Entry(MISSING)
_WRONG: Final = Entry(WRONG)


class AdminAccess:
    """Decides on calls.

    @ivar guessers: how many addresses are remembered for a wrong key.
    """

    def __init__(self, key: str, now: float) -> None:
        self._digest = sha256(key.encode("latin-1")).digest()
        self._calls = TokenBucket(CALLS_A_SECOND, CALLS_AT_ONCE, 0.0, now)
        self._guesses = TokenBucket(GUESSES_OF_ALL_A_SECOND, GUESSES_OF_ALL, 0.0, now)
        self._guessers: OrderedDict[str, tuple[TokenBucket, float]] = OrderedDict()

    @property
    def guessers(self) -> int:
        """See the class."""
        return len(self._guessers)

    def is_key(self, shown: bytes) -> bool:
        """Whether this is the key; nothing is counted."""
        return hmac.compare_digest(sha256(shown).digest(), self._digest)

    def judge(self, shown: bytes | None, address: str, now: float) -> Entry:
        """Decide on one call.

        @param shown: the key that came with it; C{None} or nothing: none did.
        @param address: where it came from, as L{tbeast.codecs.forwarded.asked_from} gives it.
        """
        if not shown:
            return _MISSING
        place = _place(address)
        known = self._guessers.get(place)
        own = TokenBucket(1.0 / GUESSES_BACK_SECONDS, GUESSES, 0.0, now) if known is None else known[0]
        is_suspect = known is not None and now - known[1] < SUSPECT_SECONDS
        wait = own.take(now)
        taken = [own] if wait == 0.0 else []
        of_all = self._guesses.take(now)
        if of_all == 0.0:
            taken.append(self._guesses)
        elif is_suspect:
            wait = max(wait, of_all)
        if wait > 0.0:
            _give_back(taken)
            return Entry(GUESSING, wait)
        if self.is_key(shown):
            _give_back(taken)
            wait = self._calls.take(now)
            return Entry(TOO_FAST, wait) if wait > 0.0 else _ALLOWED
        if known is None and len(self._guessers) >= MOST_GUESSERS:
            self._guessers.popitem(last=False)
        self._guessers[place] = (own, now)
        self._guessers.move_to_end(place)
        return _WRONG


def _give_back(buckets: list[TokenBucket]) -> None:
    for bucket in buckets:
        bucket.tokens = min(bucket.tokens + 1.0, float(bucket.burst))


def _place(address: str) -> str:
    try:
        read = ip_address(address)
    except ValueError:
        return address
    return str(IPv6Network((read, 64), strict=False)) if isinstance(read, IPv6Address) else address
