"""The price surface, as an OpenAPI document."""

from __future__ import annotations

from typing import Final

from tbeast.codecs.openapi.parts import (
    ANYTHING,
    COUNT,
    KEYED,
    MOMENT,
    NUMBER,
    TEXT,
    TRUTH,
    Json,
    answer,
    answer_in,
    by_name,
    document,
    header,
    in_path,
    listed,
    one_of,
    operation,
    or_null,
    query,
    record,
    ref,
    said,
)
from tbeast.codecs.pricequeries import CURRENCIES, LARGEST_BATCH, LONGEST_ASSET
from tbeast.domain.assetmap import EXCHANGES
from tbeast.domain.feedstatus import STATES
from tbeast.domain.quotes import QUALITIES

KEY_SCHEMES: Final[dict[str, Json]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`X-API-Key: KEY`"},
}
WITH_KEY: Final[tuple[Json, ...]] = ({"bearer": []}, {"apiKey": []})

LIMITS: Final[dict[str, Json]] = {
    "RateLimit-Limit": header("How many questions there may be at once, or in the month.", COUNT),
    "RateLimit-Remaining": header("How many of them are left.", COUNT),
    "RateLimit-Reset": header("Whole seconds until all are there again.", COUNT),
}

_ASSET: Final[Json] = {
    "type": "string",
    "pattern": rf"^[0-9A-Za-z]{{1,{LONGEST_ASSET}}}([-/]([Uu][Ss][Dd][TtCc]?))?$",
}
_CODE: Final[Json] = {"type": "string", "pattern": rf"^[0-9A-Za-z]{{1,{LONGEST_ASSET}}}$"}
_LIMITED: Final = ("rate_limited", "quota_exceeded")
_OPTIONS: Final = (
    query(
        "quote", "The currency; a pair says the same, and must agree.", one_of(CURRENCIES), example="USD"
    ),
    query("exchange", "The price of this venue alone.", one_of(EXCHANGES), example="kraken"),
    query(
        "max_age_ms", "503 rather than a price that is older, in milliseconds.",
        {"type": "integer", "minimum": 0, "maximum": 999_999_999}, example=5000,
    ),
)  # fmt: skip
_PRICE_CODES: Final = (
    *KEYED, *_LIMITED, "missing_asset", "malformed_asset", "malformed_parameter", "duplicate_parameter",
    "unknown_exchange", "unsupported_quote",
)  # fmt: skip

_SIMULATED: Final = said({"const": True}, "There only where the node is fed by the bundled lab: prices are invented.")

_PRICE: Final = record(
    {
        "asset": said(TEXT, "The code, in upper case."),
        "price": said(NUMBER, "In `quote`; at most ten significant digits."),
        "timestamp": said(MOMENT, "When the value that is the price was heard."),
        "source": said(TEXT, "The venue that gave it and how, as in `kraken-ws`; or `median`."),
        "cached": said(TRUTH, "Whether it was known before it was asked for."),
        "cache_age_seconds": said({"type": "number", "minimum": 0}, "How old the price is, to the millisecond."),
        "latency_ms": said(COUNT, "How long it had to be looked up."),
        "duration_ms": COUNT,
        "quote": one_of(CURRENCIES),
        "quality": said(one_of(QUALITIES), "How many sources agree."),
        "sources_used": said(COUNT, "How many made the price."),
        "sources_seen": said(COUNT, "How many had a fresh value to judge."),
        "spread_bp": said(or_null(NUMBER), "From the lowest to the highest value used, in basis points."),
        "bid": or_null(NUMBER),
        "ask": or_null(NUMBER),
        "simulated": _SIMULATED,
    },
    ["simulated"],
)
_ENTRY: Final = record(
    {"asset": TEXT, "error": said(TEXT, "Why this one has no price; the others have theirs.")}, more=True
)
_BATCH: Final = record(
    {
        "status_code": {"const": 200},
        "endpoint": {"const": "/prices"},
        "node": TEXT,
        "count": COUNT,
        "prices": listed({"anyOf": [ref("Price"), ref("NoPrice")]}),
        "simulated": _SIMULATED,
    },
    ["simulated"],
)
_SOURCE: Final = record(
    {
        "exchange": one_of(EXCHANGES),
        "symbol": TEXT,
        "via": or_null(TEXT),
        "home": TRUTH,
        "quote": TEXT,
        "raw": or_null(NUMBER),
        "bid": or_null(NUMBER),
        "ask": or_null(NUMBER),
        "rate": or_null(NUMBER),
        "value": said(or_null(NUMBER), "In dollars."),
        "age_seconds": or_null(NUMBER),
        "late": TRUTH,
        "connected": TRUTH,
        "verdict": said(TEXT, "Whether it was used, and if not, why."),
        "why": TEXT,
        "deviation_bp": or_null(NUMBER),
    },
    more=True,
)
_EXPLANATION: Final = record(
    {
        "asset": TEXT,
        "timestamp": MOMENT,
        "result": said(or_null(ANYTHING), "The price as it would be given out now, or the last one known."),
        "sources": listed(_SOURCE),
    },
    more=True,
)
_EXCHANGES: Final = record(
    {
        "count": COUNT,
        "exchanges": listed(
            record(
                {
                    "exchange": one_of(EXCHANGES),
                    "quote": TEXT,
                    "home_assets": COUNT,
                    "assets": COUNT,
                    "state": said(one_of(STATES), "Of its feed."),
                }
            )
        ),
    }
)
_CATEGORIES: Final = record(
    {
        "count": COUNT,
        "categories": listed(
            record(
                {
                    "category": TEXT,
                    "count": COUNT,
                    "assets": listed(record({"asset": TEXT, "name": TEXT, "home": one_of(EXCHANGES)})),
                }
            )
        ),
    }
)
_STATS: Final = record(
    {
        "node": TEXT,
        "timestamp": MOMENT,
        "uptime_seconds": {"type": "number", "minimum": 0},
        "assets": said(by_name(COUNT), "By quality."),
        "feeds": said(by_name(TEXT), "The state of each."),
        "counters": said(by_name(listed(ANYTHING)), "By family; each with its labels and its count."),
    },
    more=True,
)

DOCUMENTED: Final = {
    "/openapi.json": {
        "get": operation(
            "getOpenApi", "about", "This document", "What this port offers, as OpenAPI 3.1.",
            {"200": answer("The document.", ANYTHING)},
        )
    },
    "/docs": {
        "get": operation(
            "getDocs", "about", "This document, to read", "The same as a page for people.",
            {"200": answer_in("The page.", {"text/html": TEXT})},
        )
    },
}  # fmt: skip
"""The pages that tell of the others; every port has them."""


def prices(version: str) -> Json:
    """The document.

    @param version: of tbeast.
    """
    batch_about = f"Up to {LARGEST_BATCH} prices with one question. What is asked for twice is answered once."
    batch_answers = {"200": answer("A price or an error for each, in the order of the question.", ref("Batch"), LIMITS)}
    paths: dict[str, Json] = {
        "/price": {
            "get": operation(
                "getPrice", "prices", "One price",
                "The price of an asset as it is now. It is never older than the node's limit.",
                {"200": answer("The price.", ref("Price"), LIMITS)},
                codes=(*_PRICE_CODES, "unknown_asset", "not_listed", "no_fresh_price"),
                parameters=(
                    query("asset", "A code in any case, alone or as a pair.", _ASSET, example="BTC", required=True),
                    *_OPTIONS,
                ),
                security=WITH_KEY,
            )
        },
        "/prices": {
            "get": operation(
                "getPrices", "prices", "Several prices", batch_about, batch_answers,
                codes=(*_PRICE_CODES, "too_many_assets"),
                parameters=(
                    query(
                        "assets", "Codes with commas between them.", {"type": "string", "minLength": 1},
                        example="BTC,ETH", required=True,
                    ),
                    *_OPTIONS,
                ),
                security=WITH_KEY,
            ),
            "post": operation(
                "postPrices", "prices", "Several prices", batch_about, batch_answers,
                codes=(*_PRICE_CODES, "too_many_assets", "malformed_body"),
                body=record(
                    {
                        "assets": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": LARGEST_BATCH},
                        "quote": or_null(one_of(CURRENCIES)),
                        "exchange": or_null(one_of(EXCHANGES)),
                        "max_age_ms": or_null({"type": "integer", "minimum": 0, "maximum": 999_999_999}),
                    },
                    ["quote", "exchange", "max_age_ms"],
                    more=True,
                ),
                security=WITH_KEY,
            ),
        },
        "/explain/{asset}": {
            "get": operation(
                "explainPrice", "prices", "Why a price is what it is",
                "What every source said, what it is in dollars, how old it is, and whether it was used or why not.",
                {"200": answer("The sources and the result.", ref("Explanation"), LIMITS)},
                codes=(*KEYED, *_LIMITED, "malformed_asset", "unsupported_quote", "unknown_asset", "not_found"),
                parameters=(in_path("asset", "A code in any case.", _CODE, "BTC"),),
                security=WITH_KEY,
            )
        },
        "/exchanges": {
            "get": operation(
                "getExchanges", "venues", "The exchanges", "Every exchange, and how its feed is doing.",
                {"200": answer("All of them.", ref("Exchanges"))},
            )
        },
        "/asset-categories": {
            "get": operation(
                "getAssetCategories", "venues", "The assets", "Every asset with its name and home, by category.",
                {"200": answer("All of them.", ref("Categories"))},
            )
        },
        "/stats": {
            "get": operation(
                "getStats", "about", "This node's counters", "Every counter by family and label, as in `/metrics`.",
                {"200": answer("The counters.", ref("Stats"), LIMITS)},
                codes=(*KEYED, *_LIMITED), security=WITH_KEY,
            )
        },
        **DOCUMENTED,
    }  # fmt: skip
    return document(
        "tbeast: prices",
        "What a crypto asset costs, from several exchanges at once. HEAD is answered wherever GET is.",
        paths,
        tags={
            "prices": "What they are, and why.",
            "venues": "What there is to ask for. No key is needed.",
            "about": "The node itself.",
        },
        schemas={
            "Price": _PRICE, "NoPrice": _ENTRY, "Batch": _BATCH, "Explanation": _EXPLANATION,
            "Exchanges": _EXCHANGES, "Categories": _CATEGORIES, "Stats": _STATS,
        },
        schemes=KEY_SCHEMES,
        version=version,
    )  # fmt: skip
