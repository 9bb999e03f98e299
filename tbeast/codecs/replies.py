"""The JSON of an answer: a price, a batch, an explanation.

A price's first eight members and their order are fixed, as old clients read them; ours follow. Prices have ten
significant digits, the shortest decimal that says the same, and no exponent between 1e-18 and 1e18. Times are
RFC 3339 in UTC with microseconds. Ages are in seconds to the millisecond, waits in whole milliseconds.

What is put on the shelf has one open place, the age, and is by definition C{cached} with no waiting; an answer that
had to be looked up is rendered by the same lines with its own words in these places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from math import inf, isfinite
from typing import Final

from attrs import evolve

from tbeast.codecs.problems import encode
from tbeast.domain.quotes import Quote, SourceView

CONTENT_TYPE: Final = b"application/json"

PLAIN_FROM: Final = 1e-18
PLAIN_BELOW: Final = 1e18
"""Between these, numbers are written without an exponent."""


def number(value: float) -> str:
    """Write a number as JSON with at most ten significant digits.

    @raise ValueError: for NaN and infinities.
    """
    if not isfinite(value):
        raise ValueError(f"{value} is no JSON number")
    text = repr(float(f"{value:.10g}"))
    if "e" in text and PLAIN_FROM <= abs(value) < PLAIN_BELOW:
        return f"{Decimal(text):f}"
    return text


def timestamp(seconds: float) -> str:
    """Write a moment, given in seconds since the epoch: C{2026-04-12T14:23:01.123456Z}."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")[:26] + "Z"


def render(quote: Quote, simulated: bool) -> tuple[bytes, bytes]:
    """Render what comes before and after the age, for the shelf.

    @raise ValueError: when the price is no number.
    """
    return _head(quote, True), _tail(quote, "USD", 0, simulated)


def answer(
    quote: Quote, now: float, *, cached: bool, waited_seconds: float, currency: str = "USD", simulated: bool = False
) -> bytes:
    """Render one answer that is not on the shelf.

    @param quote: in C{currency} already, see L{converted}.
    @param waited_seconds: how long the price had to be looked up.
    """
    age = now - quote.observed_at
    tail = _tail(quote, currency, max(0, round(waited_seconds * 1000.0)), simulated)
    return b"%b%.3f%b" % (_head(quote, cached), age if age > 0.0 else 0.0, tail)


def converted(quote: Quote, rate: float) -> Quote:
    """Express a dollar quote in a currency of which one unit is worth C{rate} dollars."""
    return evolve(
        quote,
        price=quote.price / rate,
        bid=None if quote.bid is None else quote.bid / rate,
        ask=None if quote.ask is None else quote.ask / rate,
    )


def with_id(body: bytes, id_json: bytes) -> bytes:
    """Append an C{id}, JSON already, to the object C{body}."""
    return b'%b,"id":%b}' % (body[:-1], id_json) if id_json else body


def batch(node: str, entries: Iterable[bytes], simulated: bool) -> bytes:
    """Render the answer to /prices from rendered entries."""
    listed = list(entries)
    return b'{"status_code":200,"endpoint":"/prices","node":%b,"count":%d,"prices":[%b]%b}' % (
        encode(node), len(listed), b",".join(listed), b',"simulated":true' if simulated else b"",
    )  # fmt: skip


def explanation(
    about: Mapping[str, object], quote: Quote | None, sources: Iterable[SourceView], now: float, simulated: bool
) -> bytes:
    """Render how a price came about: what was heard from each source, what became of it, and the result.

    @param about: what is known of the asset beside its price; its members come first.
    """
    explained: dict[str, object] = {
        **about,
        "timestamp": timestamp(now),
        "result": None if quote is None else _result(quote, now),
        "sources": [_source(source) for source in sources],
    }
    if simulated:
        explained["simulated"] = True
    return encode(explained)


def _head(quote: Quote, cached: bool) -> bytes:
    return (
        f'{{"asset":"{quote.asset}","price":{number(quote.price)},"timestamp":"{timestamp(quote.observed_at)}",'
        f'"source":"{quote.source}","cached":{"true" if cached else "false"},"cache_age_seconds":'
    ).encode("ascii")


def _tail(quote: Quote, currency: str, waited_ms: int, simulated: bool) -> bytes:
    last = ',"simulated":true}' if simulated else "}"
    return (
        f',"latency_ms":{waited_ms},"duration_ms":{waited_ms},"quote":"{currency}","quality":"{quote.quality}",'
        f'"sources_used":{len(quote.used)},"sources_seen":{quote.seen},"spread_bp":{_brief(quote.spread_bp)},'
        f'"bid":{_optional(quote.bid)},"ask":{_optional(quote.ask)}{last}'
    ).encode("ascii")


def _optional(value: float | None) -> str:
    return "null" if value is None or not -inf < value < inf else number(value)


def _brief(value: float) -> str:
    return _optional(round(value, 2) if isfinite(value) else None)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else float(f"{value:.10g}")


def _age(seconds: float | None) -> float | None:
    return None if seconds is None or not isfinite(seconds) else round(max(seconds, 0.0), 3)


def _result(quote: Quote, now: float) -> dict[str, object]:
    return {
        "price": _rounded(quote.price),
        "bid": _rounded(quote.bid),
        "ask": _rounded(quote.ask),
        "volume_24h": _rounded(quote.volume),
        "quote": "USD",
        "quality": quote.quality,
        "source": quote.source,
        "used": list(quote.used),
        "set_aside": list(quote.set_aside),
        "sources_seen": quote.seen,
        "spread_bp": _rounded(quote.spread_bp),
        "observed_at": timestamp(quote.observed_at),
        "age_seconds": _age(now - quote.observed_at),
        "fresh": now <= quote.fresh_until,
    }


def _source(source: SourceView) -> dict[str, object]:
    return {
        "exchange": source.exchange,
        "symbol": source.symbol,
        "via": source.via or None,
        "home": source.home,
        "quote": source.quote_currency,
        "raw": _rounded(source.raw),
        "bid": _rounded(source.bid),
        "ask": _rounded(source.ask),
        "rate": _rounded(source.rate),
        "value": _rounded(source.value),
        "age_seconds": _age(source.age_seconds),
        "late": source.late,
        "connected": source.connected,
        "verdict": source.verdict,
        "why": source.why,
        "deviation_bp": _rounded(source.deviation_bp),
    }
