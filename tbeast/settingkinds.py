"""The sorts of value that a setting can have: each reads one raw value, or says what is allowed instead.

A raw value is text, or what TOML's types give. Reading is strict, because what is guessed here is believed later: a
port is digits and no more, C{true} is no number, and a network with bits set outside its mask is a slip of the pen.
What is said of a key or a URL never holds a part of it: there may be a secret in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from attrs import field, frozen

Network = IPv4Network | IPv6Network

TIERS: Final = ("free", "pro", "enterprise", "unlimited", "lifetime", "partner")
SHORTEST_KEY: Final = 4
LONGEST_KEY: Final = 128


@frozen
class KeySetting:
    """An API key that the operator chose.

    @ivar name: who uses it; unique, for logs and the ledger.
    @ivar tier: one of L{TIERS}.
    """

    name: str
    tier: str
    key: str = field(repr=False)


@frozen
class Kind:
    """One sort of value.

    @ivar allowed: what is allowed, for people.
    @ivar read: raw value to value; raises C{ValueError} on anything else, with a message if C{allowed} is too little.
    """

    allowed: str
    read: Callable[[object], Any]


def stripped(raw: object) -> str:
    """Text without white space around it."""
    if not isinstance(raw, str):
        raise ValueError
    return raw.strip()


def matching(allowed: str, pattern: str) -> Kind:
    """Text of which the whole fits C{pattern}."""
    compiled = re.compile(pattern)

    def read(raw: object) -> str:
        text = stripped(raw)
        if not compiled.fullmatch(text):
            raise ValueError
        return text

    return Kind(allowed, read)


def one_of(words: Iterable[str]) -> Kind:
    """One of these words, capitals or not."""
    by_folded = {word.casefold(): word for word in words}

    def read(raw: object) -> str:
        word = by_folded.get(stripped(raw).casefold())
        if word is None:
            raise ValueError
        return word

    return Kind("one of " + ", ".join(by_folded.values()), read)


def whole(least: int, most: int, more: str = "") -> Kind:
    """A whole number within these bounds; C{more} is added to what is allowed."""

    def read(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError
        if isinstance(raw, str) and not re.fullmatch(r"\s*[+-]?[0-9]{1,20}\s*", raw, re.ASCII):
            raise ValueError
        value = int(raw)
        if not least <= value <= most:
            raise ValueError
        return value

    return Kind(f"a whole number from {least} to {most}{more}", read)


def number(least: float, most: float) -> Kind:
    """A number within these bounds."""

    def read(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise ValueError
        if isinstance(raw, str) and not re.fullmatch(r"\s*[0-9]+(\.[0-9]+)?\s*", raw, re.ASCII):
            raise ValueError
        value = float(raw)
        if not least <= value <= most:  # NaN is not within anything
            raise ValueError
        return value

    return Kind(f"a number from {least:g} to {most:g}", read)


_HOST = re.compile(r"(?:(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def url(schemes: Sequence[str], *, or_host: bool = False, userinfo: bool = False) -> Kind:
    """An absolute URL of one of these schemes, without white space and fragment.

    @param or_host: whether a host alone, or host:port, will do.
    @param userinfo: whether user and password may stand in it.
    """
    names = ", ".join(f"{scheme}://" for scheme in schemes)
    allowed = f"a URL that begins with {names} and has a host"

    def read(raw: object) -> str:
        text = stripped(raw)
        if not re.fullmatch(r"[\x21-\x7e]+", text) or "#" in text:
            raise ValueError
        if "://" not in text:
            if not or_host or not _HOST.fullmatch(text):
                raise ValueError
            _split(f"//{text}")
            return text
        parts = _split(text)
        if parts.scheme not in schemes or not parts.hostname or ("@" in parts.netloc and not userinfo):
            raise ValueError
        return text

    return Kind(allowed + (", or a host alone" if or_host else ""), read)


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # its words quote the text
        raise ValueError from None
    if port == 0:
        raise ValueError
    return parts


def _address(raw: object) -> str:
    return str(ip_address(stripped(raw)))


def _items(raw: object) -> list[object]:
    if isinstance(raw, str):
        return [item for item in (part.strip() for part in raw.split(",")) if item]
    if isinstance(raw, list):
        return raw
    raise ValueError


def _networks(raw: object) -> tuple[Network, ...]:
    return tuple(ip_network(stripped(item)) for item in _items(raw))


_KEY = re.compile(rf"(?!~)[A-Za-z0-9._~+/=-]{{{SHORTEST_KEY},{LONGEST_KEY}}}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _keys(raw: object) -> tuple[KeySetting, ...]:
    read = [_key(place, item) for place, item in enumerate(_items(raw), 1)]
    for what, all_of_them in (("name", [key.name for key in read]), ("key", [key.key for key in read])):
        if len(set(all_of_them)) != len(all_of_them):
            raise ValueError(f"the same {what} stands there twice")
    return tuple(read)


def _key(place: int, item: object) -> KeySetting:
    name: object = f"key-{place}"
    tier: object = "partner"
    key: object
    match item:
        case str():
            match item.strip().split(":"):
                case [key]:
                    pass
                case [name, tier, key]:
                    pass
                case _:
                    raise ValueError(f"entry {place} is neither a key nor name:tier:key")
        case {"key": key, **rest} if rest.keys() <= {"name", "tier"}:
            name, tier = rest.get("name", name), rest.get("tier", tier)
        case _:
            raise ValueError(f"entry {place} is neither a text nor a table of name, tier and key")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"entry {place}: a name is 1 to 64 letters, digits, dots, underscores and hyphens")
    if not isinstance(tier, str) or tier not in TIERS:
        raise ValueError(f"entry {place}: a tier is one of {', '.join(TIERS)}")
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError(
            f"entry {place}: a key is {SHORTEST_KEY} to {LONGEST_KEY} letters, digits and . _ ~ + / = -,"
            " and does not begin with ~"
        )
    return KeySetting(name, tier, key)


ADDRESS: Final = Kind("an IP address, such as 127.0.0.1 or ::", _address)
NETWORKS: Final = Kind("networks such as 10.0.0.0/8, no bits set outside their mask, separated by commas", _networks)
KEYS: Final = Kind("keys, or name:tier:key, separated by commas", _keys)
