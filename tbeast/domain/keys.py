"""API keys: how a key is made and read, and what is kept of it.

A key that tbeast makes is C{tb_}, ten characters of id, C{_} and 32 characters of secret: base32 in lower case, so
50 random bits name it and 160 guard it. An operator may choose other keys: 4 to 128 printable ASCII characters, no
space, no C{|}, and neither an opening brace nor C{~} in front, which is how the forms of a datagram are told apart.
The id of such a key is the beginning of its SHA-256, in base32.

Ids are no secret: they stand in logs, reports and signed datagrams. Of the key itself only the SHA-256 is kept, and
the datagram secret, which is HMAC-SHA256 with the key as the key and the word C{datagram} as the message: whoever
holds the key can compute it, and whoever sees it cannot compute the key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Final

from attrs import field, frozen

from tbeast.domain.plans import PLANS

ID_LENGTH: Final = 10
SECRET_LENGTH: Final = 32
SHORTEST: Final = 4
LONGEST: Final = 128

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
    """

    key_id: str
    digest: bytes = field(repr=False)
    tier: str
    name: str
    datagram_secret: bytes = field(repr=False)


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
