"""The keys in PostgreSQL: table api_keys.

The rules. Every key is made by L{create} or L{rotate}; its text is returned once and is nowhere else: not in the
database, not in a log, not in an error. A new key gets the limits of its tier as the table rate_limit_template has
them at that moment. Revoking is for good. Rotating makes a new key, with an id and a secret of its own, in the place of
another: same user, name, tier and limits, and what was used of the month, questions and reports, counts on; the other
is revoked at once, or ends after a time of grace. During that time each of the two counts for itself.

A key whose end has come is revoked here too, whether or not anybody has written that down: every function sees it so.
All times are the database's.

The functions take a connection and do not commit; errors of the driver come through as they are, except those that
would quote the values of a row.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import psycopg2
from attrs import field, frozen

from tbeast.adapters.store.postgres import Connection
from tbeast.domain.keyorders import KeyEdit, limited
from tbeast.domain.keys import (
    Account,
    KeyRecord,
    datagram_secret_of,
    digest_of,
    is_well_formed,
    key_id_of,
    make_key,
)
from tbeast.domain.plans import Plan
from tbeast.errors import StoreRefusedError, TBeastError

T = TypeVar("T")

OVERLAP_SECONDS: Final = 60
"""How much before the mark L{changed_since} looks: a change is stamped when it is made, and seen when it is
committed."""

REVOKED_FOR_SECONDS: Final = 25 * 3600
"""For how long a revoked key is told of among all keys: longer than a copy of it lives in the cache."""

SHORTEST_BEGINNING: Final = 4
LONGEST_GRACE_SECONDS: Final = 30 * 86_400
LOAD_SECONDS: Final = 120.0
POLL_SECONDS: Final = 5.0
_FETCHED_AT_ONCE: Final = 2_000
_TRIES: Final = 5
_LONGEST_TEXT: Final = 200
_LONGEST_SAID: Final = 60
_ADDRESS: Final = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")
_A_KEY: Final = re.compile(r"tb_[0-9A-Za-z]{10}_")
_LIKE_A_KEY: Final = re.compile(r"tb_|[0-9A-Za-z]{25}")


class KeyRowError(TBeastError):
    """What was asked of a key cannot be done; the message says why, and holds no key."""


class NoSuchKeyError(KeyRowError):
    """No key is meant by that, or it could be several."""


@frozen
class KeyDetails:
    """All that is known of one key.

    @ivar email: its user's; C{None}: it has no user, or one without.
    @ivar revoked_at: in seconds since the epoch; C{None} while it is good.
    @ivar replaces: the id of the key whose place it took; C{None}: of none.
    @ivar replaced_by: the id of the key that took its place; C{None}: there is none.
    """

    record: KeyRecord
    email: str | None
    revoked_at: float | None
    replaces: str | None
    replaced_by: str | None


@frozen
class Rotation:
    """What came of a rotation.

    @ivar text: the new key; shown once.
    @ivar old: the other one, as it is now.
    """

    text: str = field(repr=False)
    new: KeyRecord
    old: KeyRecord


class _Row(NamedTuple):
    """One row, in the order of L{_COLUMNS}."""

    key_id: str
    digest: memoryview
    datagram_secret: memoryview
    name: str
    tier: str
    monthly_quota: int | None
    qps: float | None
    burst: int | None
    min_wait_seconds: float
    monthly_reports: int | None
    lrs_addon: bool
    response_format: str
    preferred_lang: str
    revoked: bool
    created_at: float
    last_used_at: float | None
    current_usage: int
    usage_month: str
    changed_at: float
    ends_at: float | None


_REVOKED: Final = "(k.revoked OR coalesce(k.ends_at <= clock_timestamp(), false))"


def _epoch(column: str) -> str:
    return f"extract(epoch FROM {column})::float8"


_COLUMNS: Final = (
    "k.key_id, k.key_hash, k.datagram_secret, k.name, k.tier, k.query_limit, k.rate_limit_qps, k.burst_limit,"
    " k.minimum_wait_seconds, k.monthly_reports, k.lrs_enabled, k.response_format, k.preferred_lang,"
    f" {_REVOKED}, {_epoch('k.created_at')}, {_epoch('k.last_used')}, k.current_usage,"
    f" to_char(k.usage_month, 'YYYY-MM'), {_epoch('k.changed_at')}, {_epoch('k.ends_at')}"
)

_LIMITS: Final = "query_limit, rate_limit_qps, burst_limit, minimum_wait_seconds, monthly_reports"


# Making and changing.


def create(
    connection: Connection,
    tier: str,
    name: str,
    email: str | None = None,
    *,
    lrs_addon: bool = False,
    response_format: str = "tbc",
    preferred_lang: str = "en",
    random_bytes: Callable[[int], bytes],
) -> tuple[str, KeyRecord]:
    """Make a key.

    @param name: what the operator calls it; need not be unique.
    @param email: whose it is; a user with this address is made if there is none.
    @param random_bytes: gives so many bytes that nobody can guess.
    @return: the key, which cannot be had again, and what is kept of it.
    @raise KeyRowError: when there is no such tier, or a text will not do.
    """
    for what, given in (("name", name), ("format", response_format), ("language", preferred_lang)):
        _check_text(what, given)
    template = _template(connection, tier)
    user_id = None if email is None else _user(connection, email, preferred_lang)
    for _ in range(_TRIES):
        text, key_id, digest, secret = _new(random_bytes)
        made = _one(
            connection,
            "INSERT INTO api_keys AS k (key_id, key_hash, datagram_secret, user_id, name, tier,"
            f" {_LIMITS}, lrs_enabled, response_format, preferred_lang)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            f" ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",
            (
                key_id, digest, secret, user_id, name, tier, *template, lrs_addon, response_format, preferred_lang,
            ),
        )  # fmt: skip
        if made is not None:
            return text, _record(made, {})
    raise KeyRowError("no key could be made whose id is not taken yet")


def revoke(connection: Connection, key_id: str) -> tuple[KeyRecord, bool]:
    """Revoke a key, for good.

    @return: the key, and whether it was good until now.
    @raise NoSuchKeyError: when there is none with this id.
    """
    before = _locked(connection, key_id)
    row = _one(connection, f"UPDATE api_keys k SET revoked = true WHERE key_id = %s RETURNING {_COLUMNS}", (key_id,))
    assert row is not None
    return _record(row, {}), not before.revoked


def rotate(
    connection: Connection, key_id: str, grace_seconds: float = 0.0, *, random_bytes: Callable[[int], bytes]
) -> Rotation:
    """Put a new key in the place of another; see the module.

    @param grace_seconds: how long the other works on; at 0 it is revoked now.
    @raise NoSuchKeyError: when there is none with this id.
    @raise KeyRowError: when it is revoked, or was rotated already, or the time of grace is too long.
    """
    if not 0.0 <= grace_seconds <= LONGEST_GRACE_SECONDS:
        raise KeyRowError(f"the time of grace must be between 0 and {LONGEST_GRACE_SECONDS // 86_400} days")
    old = _locked(connection, key_id)
    if old.revoked:
        raise KeyRowError(f"the key {key_id} is revoked; make a new one")
    if old.ends_at is not None:
        raise KeyRowError(f"the key {key_id} was rotated already; rotate the one that took its place")
    for _ in range(_TRIES):
        text, new_id, digest, secret = _new(random_bytes)
        row = _one(
            connection,
            "INSERT INTO api_keys AS k (key_id, key_hash, datagram_secret, user_id, name, tier,"
            f" {_LIMITS}, lrs_enabled, response_format, preferred_lang, current_usage, usage_month, last_used,"
            " last_success, replaces)"
            " SELECT %s, %s, %s, user_id, name, tier,"
            f" {_LIMITS}, lrs_enabled, response_format, preferred_lang, current_usage, usage_month, last_used,"
            " last_success, key_id FROM api_keys WHERE key_id = %s"
            f" ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",
            (new_id, digest, secret, key_id),
        )
        if row is not None:
            break
    else:
        raise KeyRowError("no key could be made whose id is not taken yet")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO monthly_report_counts (key_id, month, report_count)"
            " SELECT %s, month, report_count FROM monthly_report_counts WHERE key_id = %s",
            (new_id, key_id),
        )
    ended = _one(
        connection,
        "UPDATE api_keys k SET revoked = %s, ends_at = clock_timestamp() + %s * interval '1 second'"
        f" WHERE key_id = %s RETURNING {_COLUMNS}",
        (grace_seconds == 0.0, grace_seconds, key_id),
    )
    assert ended is not None
    return Rotation(text, _record(row, {}), _record(ended, {}))


def set_tier(connection: Connection, key_id: str, tier: str) -> KeyRecord:
    """Give a key the limits of a tier as the template has them now; what it has used of the month stays used.

    @raise NoSuchKeyError: when there is none with this id.
    @raise KeyRowError: when it is revoked, or there is no such tier.
    """
    template = _template(connection, tier)
    if _locked(connection, key_id).revoked:
        raise KeyRowError(f"the key {key_id} is revoked; make a new one")
    row = _one(
        connection,
        f"UPDATE api_keys k SET tier = %s, ({_LIMITS}) = ROW(%s, %s, %s, %s, %s) WHERE key_id = %s"
        f" RETURNING {_COLUMNS}",
        (tier, *template, key_id),
    )
    assert row is not None
    return _record(row, {})


def change(connection: Connection, key_id: str, edit: KeyEdit) -> KeyRecord:
    """Change a key; what it has used of the month stays used.

    @raise NoSuchKeyError: when there is none with this id.
    @raise KeyRowError: when it is revoked, or there is no such tier, or limits do not go together.
    """
    held = _locked(connection, key_id)
    if held.revoked:
        raise KeyRowError(f"the key {key_id} is revoked; make a new one")
    plan = held.account.plan if edit.tier is None else Plan(edit.tier, *_template(connection, edit.tier))
    try:
        plan = limited(plan, edit.limits)
    except ValueError as error:
        raise KeyRowError(str(error)) from None
    row = _one(
        connection,
        f"UPDATE api_keys k SET tier = %s, lrs_enabled = coalesce(%s, lrs_enabled), ({_LIMITS})"
        f" = ROW(%s, %s, %s, %s, %s) WHERE key_id = %s RETURNING {_COLUMNS}",
        (
            plan.tier, edit.lrs_addon, plan.monthly_quota, plan.qps, plan.burst, plan.min_wait_seconds,
            plan.monthly_reports, key_id,
        ),
    )  # fmt: skip
    assert row is not None
    return _record(row, {})


def touch(connection: Connection, key_id: str) -> KeyRecord:
    """Change nothing of a key but the time of its last change, so that every node reads it anew.

    @raise NoSuchKeyError: when there is none with this id.
    """
    row = _one(connection, f"UPDATE api_keys k SET tier = tier WHERE key_id = %s RETURNING {_COLUMNS}", (key_id,))
    if row is None:
        raise NoSuchKeyError(f"there is no key {_said(key_id)}")
    return _record(row, {})


# Looking.


def find(connection: Connection, which: str) -> KeyRecord:
    """Find the key that somebody means.

    @param which: its id; or the beginning of its id (four characters at least) or its name, if that fits one key only,
        where revoked keys count only if it fits no good one; or the key itself.
    @raise NoSuchKeyError: when it fits none, or several.
    """
    if not which or "\x00" in which:
        raise NoSuchKeyError("no key was named")
    if is_well_formed(which):
        record = find_by_digest(connection, digest_of(which.encode("ascii")))
        if record is None:
            raise NoSuchKeyError(f"there is no key {key_id_of(which)} with this secret")
        return record
    exact = _one(connection, f"SELECT {_COLUMNS} FROM api_keys k WHERE k.key_id = %s", (which,))
    if exact is not None:
        return _record(exact, {})
    # a name may be the beginning of another key's id: then both are meant, and nothing is done to either
    condition = "k.name = %(which)s"
    if len(which) >= SHORTEST_BEGINNING:
        condition = f"({condition} OR starts_with(k.key_id, %(which)s))"
    for revoked in (False, True):
        rows = _all(
            connection,
            f"SELECT {_COLUMNS} FROM api_keys k WHERE {condition} AND {_REVOKED} = %(revoked)s"
            " ORDER BY k.created_at, k.key_id LIMIT 6",
            {"which": which, "revoked": revoked},
        )
        if len(rows) == 1:
            return _record(rows[0], {})
        if rows:
            raise NoSuchKeyError(f"{_said(which)} could be any of {_listed(row.key_id for row in rows)}")
    raise NoSuchKeyError(f"there is no key {_said(which)}")


def find_by_digest(connection: Connection, digest: bytes) -> KeyRecord | None:
    """Find a key by its SHA-256, revoked or not."""
    row = _one(connection, f"SELECT {_COLUMNS} FROM api_keys k WHERE k.key_hash = %s", (digest,))
    return None if row is None else _record(row, {})


def details(connection: Connection, key_id: str) -> KeyDetails:
    """All that is known of a key.

    @raise NoSuchKeyError: when there is none with this id.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT u.email, {_epoch(f'CASE WHEN {_REVOKED} THEN coalesce(k.revoked_at, k.ends_at) END')}, k.replaces,"
            " (SELECT n.key_id FROM api_keys n WHERE n.replaces = k.key_id ORDER BY n.created_at DESC LIMIT 1),"
            f" {_COLUMNS} FROM api_keys k LEFT JOIN users u ON u.id = k.user_id WHERE k.key_id = %s",
            (key_id,),
        )
        row = cursor.fetchone()
    if row is None:
        raise NoSuchKeyError(f"there is no key {_said(key_id)}")
    email, revoked_at, replaces, replaced_by, *columns = row
    return KeyDetails(_record(_Row(*columns), {}), email, revoked_at, replaces, replaced_by)


def listed(
    connection: Connection,
    tier: str | None = None,
    revoked: bool | None = None,
    after: str | None = None,
    limit: int = 100,
    name: str | None = None,
) -> list[KeyRecord]:
    """Keys in the order of their making.

    @param tier: of this tier alone, C{name}: of this name alone.
    @param revoked: C{True}: revoked ones alone; C{False}: good ones alone.
    @param after: the id of the last key of the page before.
    @raise NoSuchKeyError: when there is no key C{after}.
    """
    if after is not None:
        details(connection, after)
    rows = _all(
        connection,
        f"SELECT {_COLUMNS} FROM api_keys k WHERE (%(tier)s::text IS NULL OR k.tier = %(tier)s)"
        " AND (%(name)s::text IS NULL OR k.name = %(name)s)"
        f" AND (%(revoked)s::boolean IS NULL OR {_REVOKED} = %(revoked)s)"
        " AND (%(after)s::text IS NULL OR (k.created_at, k.key_id) >"
        " (SELECT a.created_at, a.key_id FROM api_keys a WHERE a.key_id = %(after)s))"
        " ORDER BY k.created_at, k.key_id LIMIT %(limit)s",
        {"tier": tier, "revoked": revoked, "after": after, "limit": limit, "name": name},
    )
    return list(_records(rows))


def tiers(connection: Connection) -> list[Plan]:
    """The tiers that there are, with the limits that a new key is given."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT tier, {_LIMITS} FROM rate_limit_template ORDER BY query_limit NULLS LAST, tier")
        return [Plan(*row) for row in cursor.fetchall()]


def changed_since(connection: Connection, mark: float | None) -> tuple[list[KeyRecord], float]:
    """The keys that were made, changed or revoked, or came to their end, since C{mark}, and a minute before it.

    @param mark: what was returned before; C{None}: all good keys, and those that were revoked within the last day.
    @return: the keys, and the time of this answer.
    """
    if mark is None:
        return _all_keys(connection)
    with connection.cursor() as cursor:
        # one row comes in any case, for the mark; the statement's time lies before what it sees
        cursor.execute(
            f"SELECT {_epoch('statement_timestamp()')}, {_COLUMNS} FROM (VALUES (0)) one LEFT JOIN api_keys k"
            " ON k.changed_at >= to_timestamp(%(from)s)"
            " OR k.ends_at BETWEEN to_timestamp(%(from)s) AND clock_timestamp()",
            {"from": mark - OVERLAP_SECONDS},
        )
        rows = cursor.fetchall()
    return list(_records(_Row(*row[1:]) for row in rows if row[1] is not None)), rows[0][0]


def _all_keys(connection: Connection) -> tuple[list[KeyRecord], float]:
    with connection.cursor() as cursor:
        # before the look, so that what is committed in between is told of again
        cursor.execute(f"SELECT {_epoch('clock_timestamp()')}")
        found = cursor.fetchone()
        assert found is not None
    # a cursor in the server: the driver would hold the whole answer beside the records made of it
    with connection.cursor("all_keys") as rows:
        rows.itersize = _FETCHED_AT_ONCE
        rows.execute(
            f"SELECT {_COLUMNS} FROM api_keys k WHERE NOT {_REVOKED}"
            " OR coalesce(k.revoked_at, k.ends_at) > clock_timestamp() - %s * interval '1 second'",
            (REVOKED_FOR_SECONDS,),
        )
        return list(_records(map(_Row._make, rows))), found[0]


class Runs(Protocol):
    """What is needed of a pool of connections."""

    def run(self, work: Callable[[Connection], T], limit_seconds: float | None = None) -> Awaitable[T]:
        """Do some work in one transaction, in a thread, within so many seconds."""


class PostgresKeys:
    """The keys, for the daemon: fits L{tbeast.interfaces.KeyStore} and what the demo key needs."""

    def __init__(self, pool: Runs, random_bytes: Callable[[int], bytes]) -> None:
        """Set it up.

        @param random_bytes: gives so many bytes that nobody can guess.
        """
        self._pool = pool
        self._random_bytes = random_bytes

    async def changed_since(self, mark: float | None) -> tuple[Sequence[KeyRecord], float]:
        """See L{tbeast.interfaces.KeyStore.changed_since}, and the function of this name."""
        limit = LOAD_SECONDS if mark is None else POLL_SECONDS
        return await self._pool.run(lambda connection: changed_since(connection, mark), limit)

    async def create(self, tier: str, name: str) -> tuple[str, KeyRecord]:
        """Make a key: its text, and what is kept of it."""
        return await self._pool.run(lambda connection: create(connection, tier, name, random_bytes=self._random_bytes))

    async def find(self, digest: bytes) -> KeyRecord | None:
        """Find a key by its SHA-256, revoked or not."""
        return await self._pool.run(lambda connection: find_by_digest(connection, digest))

    async def revoke(self, which: str) -> tuple[KeyRecord, bool]:
        """Revoke the key that somebody means; see L{find} and the function of this name."""
        return await self._pool.run(lambda connection: revoke(connection, find(connection, which).account.key_id))


# Rows.


def _one(connection: Connection, statement: str, values: Sequence[object]) -> _Row | None:
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement, values)
        except psycopg2.IntegrityError as error:
            # its other words may quote the row, with the datagram secret in it
            raise StoreRefusedError(str(error.diag.message_primary), str(error.pgcode)) from None
        row = cursor.fetchone()
        return None if row is None else _Row(*row)


def _all(connection: Connection, statement: str, values: dict[str, Any]) -> list[_Row]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return [_Row(*row) for row in cursor.fetchall()]


def _locked(connection: Connection, key_id: str) -> KeyRecord:
    row = _one(connection, f"SELECT {_COLUMNS} FROM api_keys k WHERE k.key_id = %s FOR UPDATE", (key_id,))
    if row is None:
        raise NoSuchKeyError(f"there is no key {_said(key_id)}")
    return _record(row, {})


def _records(rows: Iterable[_Row]) -> Iterator[KeyRecord]:
    shared: dict[Any, Any] = {}
    return (_record(row, shared) for row in rows)


def _record(row: _Row, shared: dict[Any, Any]) -> KeyRecord:
    """Make the record of a row.

    @param shared: what many keys have in common, kept once.
    """
    tier, answers, language, month = (
        shared.setdefault(text, text) for text in (row.tier, row.response_format, row.preferred_lang, row.usage_month)
    )
    limits = (tier, row.monthly_quota, row.qps, row.burst, row.min_wait_seconds, row.monthly_reports)
    plan = shared.get(limits)
    if plan is None:
        plan = shared[limits] = Plan(*limits)
    account = Account(
        row.key_id, bytes(row.digest), tier, row.name, bytes(row.datagram_secret), plan, row.lrs_addon, answers,
        language,
    )  # fmt: skip
    return KeyRecord(
        account, row.revoked, row.created_at, row.last_used_at, row.current_usage, month, row.changed_at, row.ends_at
    )


def _template(connection: Connection, tier: str) -> tuple[Any, ...]:
    known = tiers(connection)
    for plan in known:
        if plan.tier == tier:
            return (plan.monthly_quota, plan.qps, plan.burst, plan.min_wait_seconds, plan.monthly_reports)
    raise KeyRowError(f"there is no tier {_said(tier)}; there are {_listed(plan.tier for plan in known)}")


def _user(connection: Connection, email: str, preferred_lang: str) -> str:
    address = email.strip().lower()
    if not _ADDRESS.fullmatch(address):
        raise KeyRowError("this is no e-mail address")
    with connection.cursor() as cursor:
        # the update changes nothing, but without it the row that is there would not be returned
        cursor.execute(
            "INSERT INTO users (email, preferred_lang) VALUES (%s, %s)"
            " ON CONFLICT (email) DO UPDATE SET email = excluded.email RETURNING id",
            (address, preferred_lang),
        )
        found = cursor.fetchone()
    assert found is not None
    return str(found[0])


def _new(random_bytes: Callable[[int], bytes]) -> tuple[str, str, bytes, bytes]:
    text = make_key(random_bytes)
    key = text.encode("ascii")
    return text, key_id_of(text), digest_of(key), datagram_secret_of(key)


def _check_text(what: str, text: str) -> None:
    if not text.strip() or len(text) > _LONGEST_TEXT or not text.isprintable():
        raise KeyRowError(f"the {what} must have 1 to {_LONGEST_TEXT} printable characters")
    if _A_KEY.search(text):
        raise KeyRowError(f"the {what} looks like a key, and keys are kept nowhere")


def _said(text: str) -> str:
    """What somebody gave for a key, for an error; not if it might be one, if only with a slip in it."""
    if len(text) > _LONGEST_SAID or not text.isprintable() or _LIKE_A_KEY.search(text):
        return "like that (not shown, for it may be a key)"
    return repr(text)


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts)
