"""What a hub and its workers say to each other: a word, and a text of MessagePack.

A worker asks C{hello} first. The answer is a L{Welcome}; after it the hub tells the assets, the state, every account
and what keys have used, and asks C{serve}, which is answered when the worker listens. From then on it tells every
change. The worker tells what it has counted, asks for the time, for leases on the shared buckets, for its share of the
connections, and for whatever does not lie on the shared shelf. C{retire} ends it.

Both ends are of one version and one machine, and the line between them is nobody else's: what does not read as it
should is a mistake of ours, and raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from attrs import astuple, frozen

from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import Problem
from tbeast.domain.assetmap import AssetMap, FeedRow, ListingRow, from_rows, rows_of
from tbeast.domain.governor import TOTAL, Tally
from tbeast.domain.governor import Report as GovernorReport
from tbeast.domain.keys import Account
from tbeast.domain.plans import Plan
from tbeast.domain.sharedbuckets import Balance, Contact, Hello, Report
from tbeast.domain.usage import Row
from tbeast.errors import TBeastError
from tbeast.settings import SETTINGS, Settings

# the file descriptors that a worker inherits
FROM_HUB: Final = 3
TO_HUB: Final = 4
TCP_PORT: Final = 5
UDP_PORT: Final = 6
SHELF: Final = 7
MACS: Final = 8

# the worker asks
HELLO: Final = b"hello"
TIME: Final = b"time"
COUNT: Final = b"count"
LOOK: Final = b"look"
EXCHANGE: Final = b"exchange"
LEAVE: Final = b"leave"
ADAPTIVE: Final = b"adaptive"
PRICE: Final = b"price"
PAGE: Final = b"page"

# the hub asks, or tells
ASSETS: Final = b"assets"
STATE: Final = b"state"
KEYS: Final = b"keys"
USED: Final = b"used"
SERVE: Final = b"serve"
RETIRE: Final = b"retire"


class LinkError(TBeastError):
    """The other end of the line cannot answer, or is gone."""


Differences = Mapping[tuple[str, ...], int]
"""What was added to counters, as L{tbeast.domain.counters.Counters.counts} has them."""


@frozen
class Welcome:
    """What a worker is told first.

    @ivar time: by the hub's clock, in seconds since the epoch.
    @ivar settings: raw values by name, no secret among them.
    @ivar name: the worker's among the nodes that share limits.
    @ivar life: names the hub's process among those that bore its name.
    @ivar nodes: how many share limits at least.
    """

    time: float
    settings: dict[str, Any]
    name: str
    life: str
    nodes: int


@frozen
class State:
    """What a worker must know at every moment.

    @ivar has_all_keys: whether a key that it does not know is nobody's.
    @ivar is_shut: whether nobody is to be admitted, because nothing can be recorded.
    @ivar count_seconds: how often it is to tell what it has counted.
    @ivar idle_seconds: how long a connection may be idle.
    @ivar max_connections: how many there may be, of all who share them.
    """

    has_all_keys: bool
    is_shut: bool
    count_seconds: float
    idle_seconds: float
    max_connections: int = TOTAL


@frozen
class Status:
    """How a worker is doing.

    @ivar shares_limits: whether it has contact to the shared buckets.
    @ivar limits_since: since when that is so, in seconds since the epoch.
    @ivar nodes: how many share them.
    """

    shares_limits: bool
    limits_since: float
    nodes: int


@frozen
class KeyNews:
    """Which keys are good now, and which are not any more.

    @ivar gone: their SHA-256s.
    """

    good: Sequence[Account] = ()
    gone: Sequence[bytes] = ()


@frozen
class Page:
    """A page as the hub gives it.

    @ivar asset: the known asset that it is about; empty if there is none.
    """

    status: int
    body: bytes
    content_type: bytes
    asset: str


class _Account(msgspec.Struct, array_like=True):
    key_id: str
    digest: bytes
    tier: str
    name: str
    datagram_secret: bytes
    plan: Plan
    lrs_addon: bool
    response_format: str
    preferred_lang: str


class _KeyNews(msgspec.Struct, array_like=True):
    good: list[_Account]
    gone: list[bytes]


class _Count(msgspec.Struct, array_like=True):
    rows: list[Row]
    differences: list[tuple[tuple[str, ...], int]]


class _Problem(msgspec.Struct):
    code: str
    detail: str
    members: dict[str, Any]


class _Found(msgspec.Struct, array_like=True):
    problem: _Problem | None
    body: bytes = b""
    source: str = ""
    tier: str = ""


class _Shown(msgspec.Struct, array_like=True):
    problem: _Problem | None
    page: Page | None


encode = msgspec.msgpack.Encoder().encode
"""Writes numbers, text, attrs values and tuples of them; the decoders below read what needs no more than that."""

decode_welcome = msgspec.msgpack.Decoder(Welcome).decode
decode_state = msgspec.msgpack.Decoder(State).decode
decode_status = msgspec.msgpack.Decoder(Status).decode
decode_time = msgspec.msgpack.Decoder(float).decode
decode_used = msgspec.msgpack.Decoder(dict[str, tuple[str, int]]).decode
decode_seconds = msgspec.msgpack.Decoder(float).decode
decode_node = msgspec.msgpack.Decoder(str).decode
decode_contact = msgspec.msgpack.Decoder(Contact).decode
decode_exchanged = msgspec.msgpack.Decoder(tuple[Contact, list[Balance]]).decode
decode_adaptive = msgspec.msgpack.Decoder(tuple[GovernorReport, list[GovernorReport], Tally]).decode
decode_governor_reports = msgspec.msgpack.Decoder(list[GovernorReport]).decode
decode_page_query = msgspec.msgpack.Decoder(tuple[str, bytes]).decode

_decode_assets = msgspec.msgpack.Decoder(tuple[list[FeedRow], list[ListingRow]]).decode
_decode_keys = msgspec.msgpack.Decoder(_KeyNews).decode
_decode_count = msgspec.msgpack.Decoder(_Count).decode
_decode_exchange = msgspec.msgpack.Decoder(tuple[Hello, list[tuple[Any, ...]]]).decode
_decode_query = msgspec.msgpack.Decoder(tuple[PriceQuery, float]).decode
_decode_found = msgspec.msgpack.Decoder(_Found).decode
_decode_shown = msgspec.msgpack.Decoder(_Shown).decode


def settings_told(settings: Settings) -> dict[str, Any]:
    """What a worker is told of the settings: all but secrets, as raw values that read the same."""
    told: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        # where exchanges are reached is no field of its own, and nothing to a worker
        value = None if setting.secret else getattr(settings, setting.attribute, None)
        if value is not None:
            told[name] = [str(item) for item in value] if isinstance(value, tuple) else value
    return told


def encode_assets(assets: AssetMap) -> bytes:
    """Write an asset map."""
    return encode(rows_of(assets))


def decode_assets(text: bytes) -> AssetMap:
    """Read an asset map."""
    return from_rows(*_decode_assets(text))


def encode_keys(good: Iterable[Account], gone: Iterable[bytes] = ()) -> bytes:
    """Write L{KeyNews}."""
    accounts = [
        _Account(
            account.key_id, account.digest, account.tier, account.name, account.datagram_secret, account.plan,
            account.lrs_addon, account.response_format, account.preferred_lang,
        )
        for account in good
    ]  # fmt: skip
    return encode(_KeyNews(accounts, list(gone)))


def decode_keys(text: bytes) -> KeyNews:
    """Read L{KeyNews}."""
    news = _decode_keys(text)
    accounts = [
        Account(
            each.key_id, each.digest, each.tier, each.name, each.datagram_secret, each.plan,
            each.lrs_addon, each.response_format, each.preferred_lang,
        )
        for each in news.good
    ]  # fmt: skip
    return KeyNews(accounts, news.gone)


def encode_count(rows: list[Row], differences: Differences) -> bytes:
    """Write what was counted."""
    return encode(_Count(rows, list(differences.items())))


def decode_count(text: bytes) -> tuple[list[Row], dict[tuple[str, ...], int]]:
    """Read what was counted."""
    count = _decode_count(text)
    return count.rows, dict(count.differences)


def encode_exchange(hello: Hello, reports: Sequence[Report]) -> bytes:
    """Write what a node says to the shared buckets."""
    return encode((hello, [astuple(report) for report in reports]))


def decode_exchange(text: bytes) -> tuple[Hello, list[Report]]:
    """Read what a node says to the shared buckets."""
    hello, reports = _decode_exchange(text)
    return hello, [Report(*report) for report in reports]


def encode_adaptive(report: GovernorReport, gone: Sequence[GovernorReport], tally: Tally) -> bytes:
    """Write what a governor says to the list; see L{tbeast.services.governor.NodeList.exchange}."""
    return encode((report, list(gone), tally))


def encode_query(query: PriceQuery, asked_at: float) -> bytes:
    """Write a question that was asked at C{asked_at}, in seconds since the epoch."""
    return encode((query, asked_at))


def decode_query(text: bytes) -> tuple[PriceQuery, float]:
    """Read a question, and when it was asked."""
    return _decode_query(text)


def encode_found(body: bytes, source: str, tier: str) -> bytes:
    """Write the answer to a question."""
    return encode(_Found(None, body, source, tier))


def encode_not_found(problem: Problem) -> bytes:
    """Write why there is no answer to a question."""
    return encode(_Found(_written(problem)))


def decode_found(text: bytes) -> tuple[bytes, str, str] | Problem:
    """Read the answer to a question: body, source and tier; or why there is none."""
    found = _decode_found(text)
    return (found.body, found.source, found.tier) if found.problem is None else _read(found.problem)


def encode_page(page: Page | Problem) -> bytes:
    """Write a page, or why there is none."""
    return encode(_Shown(_written(page), None) if isinstance(page, Problem) else _Shown(None, page))


def decode_page(text: bytes) -> Page | Problem:
    """Read a page, or why there is none."""
    shown = _decode_shown(text)
    if shown.page is not None:
        return shown.page
    assert shown.problem is not None
    return _read(shown.problem)


def _written(problem: Problem) -> _Problem:
    return _Problem(problem.code, problem.detail, dict(problem.members))


def _read(problem: _Problem) -> Problem:
    return Problem(problem.code, problem.detail, problem.members)
