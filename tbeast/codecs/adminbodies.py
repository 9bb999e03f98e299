"""What operators send to /admin, and how keys look in what they get back: JSON.

A body is an object with the members that its place names and no others; a misspelled member is refused by its name, so
that nobody believes to have set what was passed over. Texts are taken as they stand; whoever keeps them judges them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tbeast.codecs.problems import Problem
from tbeast.domain.keyorders import LIMITS, KeyDetails, KeyEdit, KeyFilter, MadeKey, NewKey
from tbeast.domain.keys import KeyRecord

PAGE_SIZE: Final = 100
LARGEST_PAGE: Final = 1_000
LONGEST_GRACE_SECONDS: Final = 30 * 86_400

_LONGEST_DETAIL: Final = 200
_MOST: Final = 2**31 - 1

_NO_NUL: Final = r"^[^\x00]*$"
"""PostgreSQL keeps every character but this."""

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Small = Annotated[int, Meta(ge=0, le=_MOST)]
_Burst = Annotated[int, Meta(ge=1, le=_MOST)]
_Rate = Annotated[float, Meta(gt=0, le=1e9)]
_Wait = Annotated[float, Meta(ge=0, le=86_400)]


class _Limits(Struct, forbid_unknown_fields=True):
    queries_per_month: _Count | UnsetType | None = UNSET
    queries_per_second: _Rate | UnsetType | None = UNSET
    burst: _Burst | UnsetType | None = UNSET
    min_wait_seconds: _Wait | UnsetType = UNSET
    reports_per_month: _Small | UnsetType | None = UNSET


class _NewKey(Struct, forbid_unknown_fields=True):
    name: str
    tier: str = "free"
    email: Annotated[str, Meta(pattern=_NO_NUL)] | None = None
    lrs_addon: bool = False
    response_format: str = "tbc"
    preferred_lang: str = "en"
    limits: _Limits = msgspec.field(default_factory=_Limits)


class _Edit(Struct, forbid_unknown_fields=True):
    tier: str | UnsetType = UNSET
    lrs_addon: bool | UnsetType = UNSET
    limits: _Limits = msgspec.field(default_factory=_Limits)


class _Grace(Struct, forbid_unknown_fields=True):
    grace_seconds: Annotated[float, Meta(ge=0, le=LONGEST_GRACE_SECONDS)] = 0.0


class _KeyId(Struct, forbid_unknown_fields=True):
    key_id: Annotated[str, Meta(min_length=1, max_length=64)]


class _Value(Struct, forbid_unknown_fields=True):
    value: str | int | float | bool


class _Drop(Struct, forbid_unknown_fields=True):
    drop: bool = False


class _Full(Struct, forbid_unknown_fields=True):
    full: bool = False


class _Most(Struct, forbid_unknown_fields=True):
    max_connections: int


class _Nothing(Struct, forbid_unknown_fields=True):
    pass


_T = TypeVar("_T", bound=Struct)


def schemas() -> dict[str, dict[str, Any]]:
    """The bodies as JSON Schema, by name: NewKey, Edit, Grace, KeyId, Value, Drop, Full, Most and Nothing."""
    kinds = (_NewKey, _Edit, _Grace, _KeyId, _Value, _Drop, _Full, _Most, _Nothing)
    written, parts = msgspec.json.schema_components(kinds, ref_template="{name}")
    found: dict[str, Any] = {
        kind.__name__.lstrip("_"): _whole(one, parts) for kind, one in zip(kinds, written, strict=True)
    }
    return found


def _whole(schema: Any, parts: Mapping[str, Any]) -> Any:
    """A schema with what it refers to in it."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _whole(parts[schema["$ref"]], parts)
        # a title is the name of a class of ours, and a default of an object is one that says nothing
        return {
            name: _whole(one, parts)
            for name, one in schema.items()
            if name != "title" and not (name == "default" and one == {})
        }
    return [_whole(one, parts) for one in schema] if isinstance(schema, list) else schema


def new_key(body: bytes) -> NewKey | Problem:
    """Read the body of C{POST /admin/keys}."""
    read = _read(body, _NewKey)
    if isinstance(read, Problem):
        return read
    return NewKey(
        read.name, read.tier, read.email, read.lrs_addon, read.response_format, read.preferred_lang,
        _limits(read.limits),
    )  # fmt: skip


def key_edit(body: bytes) -> KeyEdit | Problem:
    """Read the body of C{PATCH /admin/keys/<id>}."""
    read = _read(body, _Edit)
    if isinstance(read, Problem):
        return read
    tier = None if read.tier is UNSET else read.tier
    lrs_addon = None if read.lrs_addon is UNSET else read.lrs_addon
    edit = KeyEdit(tier, lrs_addon, _limits(read.limits))
    return Problem("malformed_body", "Say what is to change: tier, lrs_addon or limits.") if edit == KeyEdit() else edit


def grace_seconds(body: bytes) -> float | Problem:
    """Read the body of a rotation; none at all is no grace."""
    read = _read(body or b"{}", _Grace)
    return read if isinstance(read, Problem) else read.grace_seconds


def key_id(body: bytes) -> str | Problem:
    """Read C{{"key_id": ...}}."""
    read = _read(body, _KeyId)
    return read if isinstance(read, Problem) else read.key_id


def parameter_value(body: bytes) -> str | int | float | bool | Problem:
    """Read C{{"value": ...}}: a text, a number, true or false; the parameter's kind judges it."""
    read = _read(body, _Value)
    return read if isinstance(read, Problem) else read.value


def wants_drop(body: bytes) -> bool | Problem:
    """Read the body of a reconnect; none at all: without a gap."""
    read = _read(body or b"{}", _Drop)
    return read if isinstance(read, Problem) else read.drop


def wants_full(body: bytes) -> bool | Problem:
    """Read the body of C{POST /admin/sync}; none at all: only what is missing."""
    read = _read(body or b"{}", _Full)
    return read if isinstance(read, Problem) else read.full


def most_connections(body: bytes) -> int | Problem:
    """Read C{{"max_connections": ...}}."""
    read = _read(body, _Most)
    return read if isinstance(read, Problem) else read.max_connections


def nothing(body: bytes) -> Problem | None:
    """See that a body says nothing, for what needs to be told nothing."""
    read = _read(body or b"{}", _Nothing)
    return read if isinstance(read, Problem) else None


def key_filter(query: bytes) -> KeyFilter | Problem:
    """Read the query of C{GET /admin/keys}."""
    given = options(query, ("cursor", "page_size", "tier", "name", "revoked"))
    if isinstance(given, Problem):
        return given
    size = given.get("page_size", str(PAGE_SIZE))
    if not (size.isascii() and size.isdigit() and len(size) <= 5 and 1 <= int(size) <= LARGEST_PAGE):
        return Problem("malformed_parameter", f"page_size is a whole number from 1 to {LARGEST_PAGE}.")
    revoked = given.get("revoked", "false")
    if revoked not in _REVOKED:
        return Problem("malformed_parameter", f"revoked is one of {', '.join(_REVOKED)}.")
    return KeyFilter(given.get("tier"), given.get("name"), _REVOKED[revoked], given.get("cursor"), int(size))


_REVOKED: Final[Mapping[str, bool | None]] = {"false": False, "true": True, "all": None}


def options(query: bytes, known: Iterable[str]) -> dict[str, str] | Problem:
    """Read a query string: each of the known parameters once at most, and no other."""
    known = tuple(known)
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=32)
    except ValueError:
        return Problem("malformed_parameter", "The query cannot be read.")
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "there are none here"
            return Problem("unknown_parameter", f"There is no parameter {_shown(name)}; {there}.")
        if name in given:
            return Problem("duplicate_parameter", f"{name} stands twice.")
        if "\x00" in value:
            return Problem("malformed_parameter", f"{name} has a character that no text has.")
        given[name] = value
    return given


def key_members(record: KeyRecord, now: float) -> dict[str, Any]:
    """How a key looks; times are RFC 3339, and what has no limit or never was is null."""
    account, plan = record.account, record.account.plan
    month = datetime.fromtimestamp(now, UTC).strftime("%Y-%m")
    return {
        "id": account.key_id,
        "name": account.name,
        "tier": account.tier,
        "limits": {name: getattr(plan, field) for name, field in LIMITS.items()},
        "lrs_addon": account.lrs_addon,
        "response_format": account.response_format,
        "preferred_lang": account.preferred_lang,
        "month": month,
        "queries_this_month": record.used_in(month),
        "created_at": moment(record.created_at),
        "last_used_at": moment(record.last_used_at),
        "ends_at": moment(record.ends_at),
        "revoked": record.is_revoked(now),
    }


def details_members(details: KeyDetails, now: float) -> dict[str, Any]:
    """How a key looks with all that is known of it."""
    return {
        **key_members(details.record, now),
        "email": details.email,
        "revoked_at": moment(details.revoked_at),
        "replaces": details.replaces,
        "replaced_by": details.replaced_by,
    }


def made_members(made: MadeKey, now: float) -> dict[str, Any]:
    """How a key looks for the only time that it is shown."""
    members = {"key": made.text, **details_members(made.details, now)}
    if made.replaced is not None:
        members["replaced"] = details_members(made.replaced, now)
    return members


def moment(at: float | None) -> str | None:
    """A time in RFC 3339, to the millisecond."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read(body: bytes, kind: type[_T]) -> _T | Problem:
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:  # what msgspec raises is a ValueError, as is bad UTF-8
        said = str(error) if isinstance(error, msgspec.ValidationError) else "it must be a JSON object in UTF-8"
        return Problem("malformed_body", f"The body cannot be read: {said[:_LONGEST_DETAIL]}.")


def _limits(read: _Limits) -> dict[str, int | float | None]:
    return {field: value for name, field in LIMITS.items() if (value := getattr(read, name)) is not UNSET}


def _shown(text: str) -> str:
    return ascii(text[:40])
