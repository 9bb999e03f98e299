"""What reports are asked for: the query string of C{/reports/...}, and the cursor from one page to the next.

Unlike the questions for prices, a report is asked for rarely and costs something, so what is not understood is not
passed over: an argument that is not known, stands twice, or does not belong to this report is a fault, and a refusal
names all faults at once, each with its argument.

    - C{format}: C{json} (unless something else is said), C{csv}, C{tsv} or C{text}.
    - C{from}, in the range, and C{to}, not in the range: a time as in RFC 3339, with any offset, or a date, which is a
      day of UTC; a range to a date ends with that day. Without C{to} it ends now, and without C{from} it begins with
      the month that it ends in. More than six digits of a second are rounded up, which changes no answer, because all
      lines have whole microseconds. A plus that was not percent-encoded comes as a space, and is read as a plus.
    - C{asset}, C{source}: only lines with it, as they are named in the ledger; C{asset=*} for questions for several.
      Only for reports of questions.
    - C{page_size}: 1 to 10,000 lines; C{cursor}: where the page before has ended. Only for reports that have pages.
      Without both, formats other than JSON have everything; otherwise a page has 1,000 unless its size is said.
    - C{key_id}: whose; a key may only name itself, the operator any key, or C{nobody} for questions without one.

Nothing older than 93 days is kept. A range that ends before that is refused; one that begins before is cut short, and
the report says so.

A cursor holds where its page ended, the range and the cut; a digest of whose lines of which report they are, so that
one cannot go on with the cursor of another question; and a check. It is no secret and no right: whoever makes one up
sees nothing but his own lines. C{from} and C{to} may be left out beside it; if they are there, they must be the same.
Nothing here raises for what a client sends.
"""

from __future__ import annotations

import base64
import re
import struct
from binascii import crc32
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final
from urllib.parse import unquote_to_bytes
from uuid import UUID

from attrs import frozen

from tbeast.codecs.pricequeries import LONGEST_ASSET
from tbeast.codecs.problems import Problem
from tbeast.domain.assetmap import EXCHANGES
from tbeast.domain.keys import ID_LENGTH
from tbeast.domain.reports import (
    DAY_US,
    LATEST_US,
    MOST_ON_A_PAGE,
    OF_QUESTIONS,
    PAGED,
    ReportQuery,
    day_of,
    default_from,
    moment,
)  # fmt: skip
from tbeast.domain.syncplan import SECOND, Place, cutoff_us
from tbeast.domain.usage import NOBODY, SEVERAL

JSON: Final = "json"
CSV: Final = "csv"
TSV: Final = "tsv"
TEXT: Final = "text"
FORMATS: Final = (JSON, CSV, TSV, TEXT)

FIRST_PAGE: Final = 1_000
"""How many lines JSON has unless something else is said."""

SOURCES: Final = ("median", *(f"{exchange}-{via}" for exchange in EXCHANGES for via in ("ws", "rest")))
"""What the ledger names as the source of an answer."""

ARGUMENTS: Final = ("format", "from", "to", "asset", "source", "page_size", "cursor", "key_id")
WITHOUT_KEY: Final = "nobody"

UNKNOWN: Final = "unknown"
DUPLICATE: Final = "duplicate"
MALFORMED: Final = "malformed"
NOT_HERE: Final = "not_here"
NOT_YOURS: Final = "not_yours"
EMPTY_RANGE: Final = "empty_range"
NOT_KEPT: Final = "not_kept"
BAD_CURSOR: Final = "bad_cursor"
OTHER_QUERY: Final = "cursor_of_another_query"

_CODES: Final = {
    DUPLICATE: "duplicate_parameter",
    UNKNOWN: "unknown_parameter",
    BAD_CURSOR: "bad_cursor",
    OTHER_QUERY: "bad_cursor",
}
"""The code of a refusal whose faults are all of this kind."""

MOST_FAULTS: Final = 10
_SHOWN: Final = 40

_ASSET: Final = re.compile(rf"[0-9A-Z]{{1,{LONGEST_ASSET}}}|\*")
_KEY_ID: Final = re.compile(rf"[0-9A-Za-z]{{{ID_LENGTH}}}")
_PAGE_SIZE: Final = re.compile(r"[0-9]{1,5}")
_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_TIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)(?:\.([0-9]{1,30}))?"
    r"(?:[Zz]|([-+ ])([01][0-9]|2[0-3]):([0-5][0-9]))"
)

_CURSOR: Final = struct.Struct(">BqqqqQ16s8s")
_CHECK: Final = struct.Struct(">I")
_VERSION: Final = 1
# of 69 bytes, which base64 writes in one way only
_CURSOR_TEXT: Final = re.compile(rf"[-_0-9A-Za-z]{{{(_CURSOR.size + _CHECK.size) * 4 // 3}}}")


@frozen
class Asked:
    """A report and how it is wanted.

    @ivar format: one of L{FORMATS}.
    """

    query: ReportQuery
    format: str


@frozen
class Fault:
    """What is wrong with an argument.

    @ivar parameter: its name.
    @ivar reason: in one word, for programs.
    @ivar detail: for people.
    """

    parameter: str
    reason: str
    detail: str


@frozen
class _Position:
    """What a cursor says, beside whose it is."""

    asked_from_us: int
    from_us: int
    to_us: int
    cut_us: int
    after: Place


def report_query(report: str, query: bytes, *, key_id: str | None, now_us: int) -> Asked | Problem:
    """Read a query string.

    @param report: one of L{tbeast.domain.reports.REPORTS}.
    @param key_id: who asks, and so whose lines may be seen; C{None}: the operator, who may see all.
    @param now_us: the time, in microseconds since the epoch.
    """
    faults: list[Fault] = []
    given = _arguments(query, faults)
    form = _folded(given.get("format", JSON)).lower()
    if form not in FORMATS:
        faults.append(Fault("format", MALFORMED, f"{_shown(given['format'])} is none of {', '.join(FORMATS)}."))
    whose = _whose(given, key_id, faults)
    asset, source = _filters(given, report, faults)
    page_size = _page_size(given, report, form, faults)
    from_us, to_us = _moment(given, "from", faults), _moment(given, "to", faults)
    mark = _mark_of(report, whose, asset, source)
    position = _position(given, report, mark, from_us, to_us, faults)
    if not faults and position is None:
        from_us, to_us = _range(given, from_us, to_us, now_us, faults)
    if faults:
        return _problem(faults)
    kept_us = cutoff_us(now_us)
    if position is None:
        assert from_us is not None
        assert to_us is not None
        asked = ReportQuery(
            report, whose, max(from_us, kept_us), to_us, asset, source, page_size, asked_from_us=from_us
        )  # fmt: skip
    else:
        begins_us = position.from_us if position.after[0] >= kept_us else max(position.from_us, kept_us)
        asked = ReportQuery(
            report, whose, begins_us, position.to_us, asset, source, page_size, position.after, position.cut_us,
            position.asked_from_us,
        )  # fmt: skip
    if asked.from_us >= asked.to_us:
        detail = f"It ends before {moment(kept_us)}; what is older is not kept."
        return _problem([Fault("to" if position is None else "cursor", NOT_KEPT, detail)])
    return Asked(asked, form)


def cursor_of(query: ReportQuery, cut_us: int, last: Place) -> str:
    """Make the cursor to the page after this one.

    @param cut_us: the cut of this page.
    @param last: the place of its last line.
    @raise ValueError: when the id of the line is no uuid, or a number is out of all bounds.
    """
    body = _packed(query.asked_from_us, query.from_us, query.to_us, cut_us, last, _mark_of_query(query))
    return base64.urlsafe_b64encode(body + _CHECK.pack(crc32(body))).decode("ascii")


def _packed(asked_from_us: int, from_us: int, to_us: int, cut_us: int, last: Place, mark: bytes) -> bytes:
    try:
        return _CURSOR.pack(_VERSION, asked_from_us, from_us, to_us, cut_us, last[0], UUID(last[1]).bytes, mark)
    except struct.error as error:
        raise ValueError(str(error)) from error


def _mark_of_query(query: ReportQuery) -> bytes:
    return _mark_of(query.report, query.key_id, query.asset, query.source)


def _mark_of(report: str, key_id: str | None, asset: str, source: str) -> bytes:
    """A digest of whose lines are asked for, and of which report."""
    told = "\0".join((report, "any" if key_id is None else f"key {key_id}", asset, source))
    return blake2b(told.encode("utf-8", "replace"), digest_size=8).digest()


def _read_cursor(text: str) -> tuple[_Position, bytes] | None:
    """Read a cursor: what it says, and the digest; C{None}: it is none of ours."""
    if _CURSOR_TEXT.fullmatch(text) is None:
        return None
    read = base64.urlsafe_b64decode(text)
    body, check = read[: _CURSOR.size], read[_CURSOR.size :]
    if _CHECK.pack(crc32(body)) != check:
        return None
    version, asked_from_us, from_us, to_us, cut_us, at_us, row_id, mark = _CURSOR.unpack(body)
    ordered = asked_from_us <= from_us <= at_us < to_us <= LATEST_US
    if version != _VERSION or not ordered or asked_from_us < 0 or not 0 <= cut_us <= LATEST_US:
        return None
    return _Position(asked_from_us, from_us, to_us, cut_us, (at_us, str(UUID(bytes=row_id)))), mark


def _position(
    given: Mapping[str, str], report: str, mark: bytes, from_us: int | None, to_us: int | None, faults: list[Fault]
) -> _Position | None:
    if "cursor" not in given:
        return None
    if report not in PAGED:
        faults.append(Fault("cursor", NOT_HERE, f"The report {report} has no pages."))
        return None
    read = _read_cursor(given["cursor"])
    if read is None:
        faults.append(Fault("cursor", BAD_CURSOR, "It is no cursor; take the one of the page before as it stands."))
        return None
    position, of = read
    if of != mark:
        detail = "It belongs to another question; report, key_id, asset and source must be those of the page before."
        faults.append(Fault("cursor", OTHER_QUERY, detail))
    elif from_us not in (None, position.asked_from_us) or to_us not in (None, position.to_us):
        detail = "It belongs to another range; leave from and to as they were, or leave them out."
        faults.append(Fault("cursor", OTHER_QUERY, detail))
    return position


def _arguments(query: bytes, faults: list[Fault]) -> dict[str, str]:
    given: dict[str, str] = {}
    told: set[str] = set()
    for part in query.split(b"&"):
        if not part:
            continue
        name, _, value = part.partition(b"=")
        parameter = _decoded(name)
        if parameter in given or parameter in told:
            if parameter in given and parameter not in told:
                faults.append(Fault(parameter, DUPLICATE, "It stands more than once."))
                told.add(parameter)
        elif parameter in ARGUMENTS:
            given[parameter] = _decoded(value)
        else:
            told.add(parameter)
            faults.append(Fault(_plain(parameter), UNKNOWN, f"There is no such argument; {', '.join(ARGUMENTS)} are."))
    return given


def _whose(given: Mapping[str, str], key_id: str | None, faults: list[Fault]) -> str | None:
    if "key_id" not in given:
        return key_id
    named = given["key_id"]
    if key_id is not None:
        if named != key_id:
            faults.append(Fault("key_id", NOT_YOURS, "A key sees its own reports only."))
        return key_id
    if named == WITHOUT_KEY:
        return NOBODY
    if _KEY_ID.fullmatch(named) is None:
        detail = f"{_shown(named)} is no key's id, which has {ID_LENGTH} letters and digits; nor {WITHOUT_KEY}."
        faults.append(Fault("key_id", MALFORMED, detail))
    return named


def _filters(given: Mapping[str, str], report: str, faults: list[Fault]) -> tuple[str, str]:
    asset, source = _folded(given.get("asset", "")).upper(), _folded(given.get("source", "")).lower()
    if report not in OF_QUESTIONS:
        faults += [
            Fault(name, NOT_HERE, f"The report {report} tells of reports, which have none.")
            for name in ("asset", "source")
            if name in given
        ]
        return "", ""
    if "asset" in given and _ASSET.fullmatch(asset) is None:
        detail = f"{_shown(given['asset'])} is no asset: letters and digits, as in BTC; or {SEVERAL}."
        faults.append(Fault("asset", MALFORMED, detail))
    if "source" in given and source not in SOURCES:
        faults.append(Fault("source", MALFORMED, f"{_shown(given['source'])} is none of {', '.join(SOURCES)}."))
    return asset, source


def _page_size(given: Mapping[str, str], report: str, form: str, faults: list[Fault]) -> int | None:
    if report not in PAGED:
        if "page_size" in given:
            faults.append(Fault("page_size", NOT_HERE, f"The report {report} has no pages."))
        return None
    if "page_size" not in given:
        return FIRST_PAGE if form == JSON or "cursor" in given else None
    text = given["page_size"]
    size = int(text) if _PAGE_SIZE.fullmatch(text) is not None else 0
    if not 1 <= size <= MOST_ON_A_PAGE:
        detail = f"{_shown(text)} is no whole number from 1 to {MOST_ON_A_PAGE:,}, written in digits alone."
        faults.append(Fault("page_size", MALFORMED, detail))
    return size


def _moment(given: Mapping[str, str], name: str, faults: list[Fault]) -> int | None:
    if name not in given:
        return None
    us = _read_moment(given[name], ends_day=name == "to")
    if us is None:
        detail = f"{_shown(given[name])} is no date as in 2026-04-30 and no time as in 2026-04-30T14:00:00Z."
        faults.append(Fault(name, MALFORMED, detail))
    elif not 0 <= us <= LATEST_US:
        faults.append(Fault(name, MALFORMED, f"{_shown(given[name])} is not within the years 1970 to 9998."))
    else:
        return us
    return None


def _read_moment(text: str, ends_day: bool) -> int | None:
    """Read a time; C{None}: it is none. A date is when it begins, or with C{ends_day} when the next begins."""
    try:
        if match := _DATE.fullmatch(text):
            year, month, day = (int(part) for part in match.groups())
            return day_of(year, month, day) + ends_day * DAY_US
        if match := _TIME.fullmatch(text):
            year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
            fraction, sign, offset_hour, offset_minute = match.groups()[6:]
            us = day_of(year, month, day) + ((hour * 60 + minute) * 60 + second) * SECOND
            if sign is not None:
                offset_us = (int(offset_hour) * 60 + int(offset_minute)) * 60 * SECOND
                us += offset_us if sign == "-" else -offset_us
            if second == 60 and us % DAY_US:
                return None  # a leap second is the last of a day of UTC (RFC 3339, section 5.7)
            if fraction is not None:
                us += -(-int(fraction) * SECOND // 10 ** len(fraction))
            return us
    except ValueError:
        pass
    return None


def _range(
    given: Mapping[str, str], from_us: int | None, to_us: int | None, now_us: int, faults: list[Fault]
) -> tuple[int, int]:
    if to_us is None:
        to_us = now_us
        if from_us is not None and from_us >= now_us:
            faults.append(Fault("from", EMPTY_RANGE, f"{_shown(given['from'])} lies in the future."))
            return from_us, to_us
    if from_us is None:
        from_us = max(default_from(to_us), 0)
    if from_us >= to_us:
        detail = f"The range ends where it begins or before: it is from {moment(from_us)} to {moment(to_us)}."
        faults.append(Fault("from" if "from" in given else "to", EMPTY_RANGE, detail))
    return from_us, to_us


def _problem(faults: list[Fault]) -> Problem:
    told = faults[:MOST_FAULTS]
    codes = {_CODES.get(fault.reason, "malformed_parameter") for fault in faults}
    code = codes.pop() if len(codes) == 1 else "malformed_parameter"
    detail = " ".join(f"{fault.parameter}: {fault.detail}" for fault in told)
    if len(faults) > len(told):
        detail += f" And {len(faults) - len(told)} more."
    listed = [{"parameter": fault.parameter, "reason": fault.reason, "detail": fault.detail} for fault in told]
    return Problem(code, detail, {"faults": listed})


def _decoded(text: bytes) -> str:
    # what is no UTF-8 gets characters that no value has, and fails where values are read
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "replace")


def _folded(text: str) -> str:
    # outside of ASCII, letters in another case may become letters that are in it
    return text if text.isascii() else "?"


def _plain(text: str) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in text[:_SHOWN])
    return plain if len(text) <= _SHOWN else f"{plain}..."


def _shown(text: str) -> str:
    return f"'{_plain(text)}'"
