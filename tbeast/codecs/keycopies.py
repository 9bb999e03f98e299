"""How keys lie in the shared cache, under C{apikey:<sha256 hex>}, and how nodes tell one another of changes: JSON.

A copy holds what a node needs to serve a key while the database is away: the account with its limits, and its use of
the month as it was when the copy was made. It holds the datagram secret too, so whoever can read the cache can sign
datagrams for the keys in it: guard it as you guard the database. The key itself is not in it.

A revoked key leaves no copy but a mark in its place, which no older copy can be mistaken for. And there is a list under
the SHA-256 of two words that can be no key (they have a space between them): how many good keys there are, and the
exclusive or of all their SHA-256s. Copies that agree with it are all there are; then a key without a copy is a bad key.
Where some are missing, it may be a good one.

What comes back was written by some other node, perhaps of another version: what does not read as a copy is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Final

import msgspec
from attrs import frozen

from tbeast.domain.keys import CHANGES, REVOKED, Account, KeyChange, KeyRecord, digest_of
from tbeast.domain.plans import Plan

LIST_AT: Final = digest_of(b"all keys").hex()
"""Where the list lies, beside the copies."""

_DIGEST_BYTES: Final = 32


class _Limits(msgspec.Struct):
    monthly_quota: int | None
    qps: float | None
    burst: int | None
    min_wait_seconds: float
    monthly_reports: int | None


class _Copy(msgspec.Struct, tag="key", tag_field="kind"):
    key_id: str
    tier: str
    name: str
    datagram_secret: str
    limits: _Limits
    lrs_addon: bool
    response_format: str
    preferred_lang: str
    created_at: float
    last_used_at: float | None
    current_usage: int
    usage_month: str
    changed_at: float
    ends_at: float | None


class _Mark(msgspec.Struct, tag="revoked", tag_field="kind"):
    key_id: str


class _List(msgspec.Struct, tag="list", tag_field="kind"):
    keys: int
    xor: str


class _Message(msgspec.Struct):
    what: str
    key_id: str
    digest: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Copy | _Mark | _List).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_UNREADABLE: Final = (msgspec.DecodeError, RecursionError, ValueError)


@frozen
class Copies:
    """What the cache had.

    @ivar records: the copies that could be read.
    @ivar revoked: the marks in the place of revoked keys.
    @ivar whole: whether the list agrees that these are all.
    @ivar unread: how many entries could not be read.
    """

    records: tuple[KeyRecord, ...]
    revoked: tuple[KeyChange, ...]
    whole: bool
    unread: int


def encode_copy(record: KeyRecord) -> bytes:
    """Write what shall lie in the cache for a key: its copy, or the mark if it is revoked."""
    account = record.account
    if record.revoked:
        return encode_mark(account.key_id)
    plan = account.plan
    return _encode(
        _Copy(
            key_id=account.key_id,
            tier=account.tier,
            name=account.name,
            datagram_secret=account.datagram_secret.hex(),
            limits=_Limits(plan.monthly_quota, plan.qps, plan.burst, plan.min_wait_seconds, plan.monthly_reports),
            lrs_addon=account.lrs_addon,
            response_format=account.response_format,
            preferred_lang=account.preferred_lang,
            created_at=record.created_at,
            last_used_at=record.last_used_at,
            current_usage=record.current_usage,
            usage_month=record.usage_month,
            changed_at=record.changed_at,
            ends_at=record.ends_at,
        )
    )


def encode_mark(key_id: str) -> bytes:
    """Write what lies in the place of a revoked key."""
    return _encode(_Mark(key_id))


def encode_list(keys: int, xor: int) -> bytes:
    """Write the list of the good keys: how many there are, and the exclusive or of their SHA-256s as numbers."""
    return _encode(_List(keys, _hex(xor)))


def copies_of(records: Iterable[KeyRecord]) -> dict[str, bytes]:
    """Write all that shall lie in the cache, by where: the copies, the marks and the list.

    @param records: every good key, and revoked ones at will.
    """
    records = list(records)
    entries = {record.account.digest.hex(): encode_copy(record) for record in records}
    entries[LIST_AT] = encode_list(*_sum(record.account.digest for record in records if not record.revoked))
    return entries


def decode_copy(digest: str, text: bytes) -> KeyRecord | KeyChange | None:
    """Read what lies in the cache for a key.

    @param digest: the hexadecimal SHA-256 under which it lay.
    @return: its record; or, in place of a revoked one, the word of that; or C{None}: neither can be read.
    """
    try:
        raw, copy = _digest(digest), _decode(text)
        if isinstance(copy, _Mark):
            return KeyChange(REVOKED, copy.key_id, raw)
        return _record(raw, copy) if isinstance(copy, _Copy) else None
    except _UNREADABLE:
        return None


def read_copies(entries: Mapping[str, bytes]) -> Copies:
    """Read all that lay in the cache."""
    records: list[KeyRecord] = []
    revoked: list[KeyChange] = []
    unread = 0
    for digest, text in entries.items():
        if digest == LIST_AT:
            continue
        copy = decode_copy(digest, text)
        if isinstance(copy, KeyRecord):
            records.append(copy)
        elif isinstance(copy, KeyChange):
            revoked.append(copy)
        else:
            unread += 1
    count, xor = _sum(record.account.digest for record in records)
    try:
        listed = _decode(entries[LIST_AT])
    except (KeyError, *_UNREADABLE):
        listed = None
    whole = isinstance(listed, _List) and (listed.keys, listed.xor) == (count, _hex(xor))
    return Copies(tuple(records), tuple(revoked), whole, unread)


def encode_change(change: KeyChange) -> bytes:
    """Write the message that tells the other nodes."""
    return _encode(_Message(change.what, change.key_id, change.digest.hex()))


def decode_change(message: bytes) -> KeyChange | None:
    """Read a message; C{None} if it is none that we know."""
    try:
        heard = _decode_message(message)
        digest = _digest(heard.digest)
    except _UNREADABLE:
        return None
    return KeyChange(heard.what, heard.key_id, digest) if heard.what in CHANGES and heard.key_id else None


def _record(digest: bytes, copy: _Copy) -> KeyRecord:
    limits = copy.limits
    secret = bytes.fromhex(copy.datagram_secret)
    times = (copy.created_at, copy.changed_at, copy.last_used_at or 0.0, copy.ends_at or 0.0)
    # a limit that makes no sense would end in a bucket that fails at each question
    if not (
        copy.key_id
        and len(secret) == _DIGEST_BYTES
        and copy.current_usage >= 0
        and all(map(isfinite, times))
        and (limits.qps is None) == (limits.burst is None)
        and (limits.qps is None or (isfinite(limits.qps) and limits.qps > 0.0))
        and (limits.burst is None or limits.burst >= 1)
        and isfinite(limits.min_wait_seconds)
        and limits.min_wait_seconds >= 0.0
        and (limits.monthly_quota or 0) >= 0
        and (limits.monthly_reports or 0) >= 0
    ):
        raise ValueError
    plan = Plan(
        copy.tier, limits.monthly_quota, limits.qps, limits.burst, limits.min_wait_seconds, limits.monthly_reports
    )
    account = Account(
        copy.key_id, digest, copy.tier, copy.name, secret, plan, copy.lrs_addon, copy.response_format,
        copy.preferred_lang,
    )  # fmt: skip
    return KeyRecord(
        account, False, copy.created_at, copy.last_used_at, copy.current_usage, copy.usage_month, copy.changed_at,
        copy.ends_at,
    )  # fmt: skip


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    # one spelling alone, or an entry in capitals would be taken for another than the mark in its place
    if len(digest) != _DIGEST_BYTES or digest.hex() != text:
        raise ValueError
    return digest


def _sum(digests: Iterable[bytes]) -> tuple[int, int]:
    count = xor = 0
    for digest in digests:
        count += 1
        xor ^= int.from_bytes(digest, "big")
    return count, xor


def _hex(xor: int) -> str:
    return xor.to_bytes(_DIGEST_BYTES, "big").hex()
