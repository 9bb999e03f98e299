"""API keys: how a key is made and read, and what is kept of it.

A key that tbeast makes is C{tb_}, ten characters of id, C{_} and 32 characters of secret: base32 in lower case, so
50 random bits name it and 160 guard it. An operator may choose other keys: 4 to 128 printable ASCII characters, no
space, no C{|}, and neither an opening brace nor C{~} in front, which is how the forms of a datagram are told apart.
The id of such a key is the beginning of its SHA-256, in base32.

Ids are no secret: they stand in logs, reports and signed datagrams. Of the key itself only the SHA-256 is kept, and
the datagram secret, which is HMAC-SHA256 with the key as the key and the word C{datagram} as the message: whoever
holds the key can compute it, and whoever sees it cannot compute the key.

A key that was revoked stays revoked, for good; and a key may have an end to come, from which on it is as good as
revoked: so a key that was rotated works for a while beside the one that takes its place.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Final

from attrs import Factory, field, frozen

from tbeast.domain.plans import PLANS, Plan

ID_LENGTH: Final = 10
SECRET_LENGTH: Final = 32
SHORTEST: Final = 4
LONGEST: Final = 128

MOST_REMEMBERED: Final = 16_384

_MADE: Final = re.compile(rf"tb_([0-9A-Za-z]{{{ID_LENGTH}}})_[0-9A-Za-z]{{{SECRET_LENGTH}}}")
_ALLOWED: Final = re.compile(rf"(?![{{~])[!-{{}}~]{{{SHORTEST},{LONGEST}}}")


@frozen
class Account:
    """Whoever asks, known by a key.

    @ivar key_id: the key's id, no secret.
    @ivar digest: SHA-256 of the key.
    @ivar tier: one of L{tbeast.domain.plans.PLANS}.
    @ivar name: what the operator calls it.
    @ivar datagram_secret: what signed datagrams are signed with.
    @ivar plan: the limits of this very key; those of its tier unless somebody changed them.
    @ivar lrs_addon: whether the add-on of unlimited reports was bought.
    @ivar response_format: the format of answers that the owner prefers.
    @ivar preferred_lang: the language of messages to the owner.
    """

    key_id: str
    digest: bytes = field(repr=False)
    tier: str
    name: str
    datagram_secret: bytes = field(repr=False)
    plan: Plan = Factory(lambda self: PLANS[self.tier], takes_self=True)
    lrs_addon: bool = False
    response_format: str = "tbc"
    preferred_lang: str = "en"


@frozen
class KeyRecord:
    """What the database knows of one key.

    @ivar revoked: whether it was taken back, for good.
    @ivar created_at: in seconds since the epoch, as is C{last_used_at}, which is C{None} before the first use.
    @ivar current_usage: questions admitted in C{usage_month}, on all nodes, as far as they were recorded.
    @ivar usage_month: C{YYYY-MM}, in UTC.
    @ivar changed_at: when it was made, changed or revoked last, by the database's clock.
    @ivar ends_at: from when on it is revoked without anybody's doing; C{None}: no such time was set.
    """

    account: Account
    revoked: bool
    created_at: float
    last_used_at: float | None
    current_usage: int
    usage_month: str
    changed_at: float = 0.0
    ends_at: float | None = None

    def is_revoked(self, now: float) -> bool:
        """Whether it is refused at C{now}."""
        return self.revoked or (self.ends_at is not None and self.ends_at <= now)

    def used_in(self, month: str) -> int:
        """How many questions were admitted in a month, C{YYYY-MM}: none, unless it is the one that was counted last."""
        return self.current_usage if month == self.usage_month else 0


CREATED: Final = "created"
CHANGED: Final = "changed"
REVOKED: Final = "revoked"
CHANGES: Final = (CREATED, CHANGED, REVOKED)


@frozen
class KeyChange:
    """Word that something happened to a key.

    @ivar what: one of L{CHANGES}.
    @ivar digest: SHA-256 of the key.
    """

    what: str
    key_id: str
    digest: bytes = field(repr=False)


def make_key(random_bytes: Callable[[int], bytes]) -> str:
    """Make a new key; C{random_bytes} gives so many bytes that nobody can guess."""
    return f"tb_{_base32(random_bytes(7))[:ID_LENGTH]}_{_base32(random_bytes(20))}"


def is_well_formed(text: str) -> bool:
    """Whether this is a key of the shape that L{make_key} gives."""
    return _MADE.fullmatch(text) is not None


def is_allowed(text: str) -> bool:
    """Whether this may be a key at all."""
    return _ALLOWED.fullmatch(text) is not None


def digest_of(key: bytes) -> bytes:
    """What a key is stored and found by."""
    return hashlib.sha256(key).digest()


class RememberedDigests(dict[bytes, bytes]):
    """L{digest_of} keys, each computed once: C{digests[key]}. When there are too many, all are forgotten."""

    def __missing__(self, key: bytes) -> bytes:
        """The digest of a key that was not asked for, or was forgotten."""
        if len(self) >= MOST_REMEMBERED:
            self.clear()
        digest = self[key] = digest_of(key)
        return digest


def key_id_of(text: str) -> str:
    """Give a key's id: its own, or the one derived from a key that the operator chose."""
    made = _MADE.fullmatch(text)
    return made[1] if made else _base32(digest_of(text.encode("ascii")))[:ID_LENGTH]


def datagram_secret_of(key: bytes) -> bytes:
    """Give what C{key}'s datagrams are signed with."""
    return hmac.digest(key, b"datagram", "sha256")


def account_of(text: str, tier: str, name: str) -> Account:
    """Make the account of a key.

    @raise ValueError: when it may be no key, or there is no such tier; the message does not hold the key.
    """
    if not is_allowed(text):
        raise ValueError(
            f"the key of {name!r} is no key: it has {SHORTEST} to {LONGEST} printable ASCII characters, no space, no |,"
            " and neither { nor ~ in front"
        )
    if tier not in PLANS:
        raise ValueError(f"the key of {name!r} has the unknown tier {tier!r}")
    key = text.encode("ascii")
    return Account(key_id_of(text), digest_of(key), tier, name, datagram_secret_of(key))


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()
