"""How a quote lies in the shared cache, under C{price:<ASSET>}: JSON, with everything that a node needs to give it out.

What comes back from a cache was written by some other node, perhaps of another version: what does not read as a
quote of that asset is no quote.
"""

from __future__ import annotations

from math import isfinite

import msgspec

from tbeast.domain.quotes import DEGRADED, GOOD, SINGLE_SOURCE, Quote

_GIVABLE = (GOOD, DEGRADED, SINGLE_SOURCE)


class _Cached(msgspec.Struct):
    asset: str
    price: float
    bid: float | None
    ask: float | None
    volume: float | None
    quality: str
    source: str
    used: tuple[str, ...]
    seen: int
    set_aside: tuple[str, ...]
    spread_bp: float
    observed_at: float
    fresh_until: float


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Cached).decode
_FIELDS = _Cached.__struct_fields__


def encode(quote: Quote) -> bytes:
    """Write C{quote} as it shall lie in the cache."""
    return _encode({name: getattr(quote, name) for name in _FIELDS})


def decode(asset: str, text: bytes) -> Quote | None:
    """Read what lies in the cache for C{asset}; C{None} if it is no quote of it that might be given out."""
    try:
        cached = _decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    numbers = (cached.price, cached.observed_at, cached.fresh_until)
    if cached.asset != asset or cached.quality not in _GIVABLE or not cached.price > 0.0:
        return None
    if not all(isfinite(number) for number in numbers):
        return None
    return Quote(**{name: getattr(cached, name) for name in _FIELDS})
