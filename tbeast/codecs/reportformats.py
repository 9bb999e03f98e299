"""Reports as JSON, CSV, TSV and text, in pieces: whoever writes one never needs all its rows at once.

    - JSON: one object; each row has a line of its own, and what the rows add up to comes behind them. A report that was
      broken off is therefore no JSON.
    - CSV (RFC 4180): a line of names, then the rows, lines ended by CRLF; C{true} and C{false}; nothing where there is
      no value. No line of totals, which would be added up with the others: they are the sums of the columns.
    - TSV (text/tab-separated-values): likewise, lines ended by LF. The format has no way to write a tab or a line end
      within a value, so control characters become spaces; values of ours have none.
    - text: a table, see L{tbeast.codecs.reporttables}.

What CSV and TSV have no place for, the range and how far it is complete, stands in header fields, as does the cursor.

A spreadsheet takes a cell for a formula that begins with one of C{= + - @}. No word of ours does: assets, sources and
ids have letters, digits and asterisks in front. But the name of a node is the operator's choice, so in CSV and TSV a
word that begins so, or with a tab or a carriage return, gets an apostrophe in front; numbers are never negative.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from tbeast.codecs.datagrams import LARGEST
from tbeast.codecs.problems import encode
from tbeast.codecs.reportcolumns import SHAPES, Opening, Shape, Value
from tbeast.codecs.reportqueries import CSV, JSON, TEXT, TSV, WITHOUT_KEY
from tbeast.codecs.reporttables import TextWriter
from tbeast.domain.reports import ReportQuery, Sums, UsageKey, moment
from tbeast.domain.syncplan import KEPT_SECONDS
from tbeast.domain.usage import NOBODY

CONTENT_TYPES: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        JSON: b"application/json",
        CSV: b"text/csv; charset=utf-8; header=present",
        TSV: b"text/tab-separated-values; charset=utf-8",
        TEXT: b"text/plain; charset=utf-8",
    }
)

NEXT_CURSOR: Final = b"Report-Next-Cursor"
"""The header field that leads to the next page; absent where there is none."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_NO_CONTROLS: Final = dict.fromkeys((*range(32), *range(127, 160), 8232, 8233), " ")
_COMPACT: Final = msgspec.json.Encoder()


class ReportWriter(Protocol):
    """Writes one report, in pieces: L{begin} once, L{rows} as often as there are some, and L{end} once."""

    def begin(self) -> bytes:
        """What comes before the rows."""

    def rows(self, rows: Sequence[Any]) -> bytes:
        """Some rows: L{tbeast.codecs.reportcolumns.Row}, of the report that is asked for."""

    def end(self, next_cursor: str = "") -> bytes:
        """What comes after the rows.

        @param next_cursor: leads to the next page; empty: there is none.
        """


def writer(form: str, opening: Opening) -> ReportWriter:
    """Make what writes a report.

    @param form: one of L{tbeast.codecs.reportqueries.FORMATS}.
    """
    return _WRITERS[form](opening)


def whole(form: str, opening: Opening, rows: Sequence[Any], next_cursor: str = "") -> bytes:
    """Write a report whose rows are all there."""
    writes = writer(form, opening)
    return b"".join((writes.begin(), writes.rows(rows), writes.end(next_cursor)))


def headers(form: str, opening: Opening, next_cursor: str = "") -> list[tuple[bytes, bytes]]:
    """The header fields of an answer.

    @param next_cursor: empty: there is no further page, or it is not known yet.
    """
    query = opening.query
    kept = "attachment" if form in (CSV, TSV) else "inline"
    fields = [
        (b"Content-Type", CONTENT_TYPES[form]),
        (b"Content-Disposition", f'{kept}; filename="{file_name(form, query)}"'.encode("ascii")),
        (b"Report-From", moment(query.from_us).encode("ascii")),
        (b"Report-To", moment(query.to_us).encode("ascii")),
        (b"Report-Complete-To", moment(opening.complete_to_us).encode("ascii")),
    ]
    if query.is_clipped:
        fields.append((b"Report-Asked-From", moment(query.asked_from_us).encode("ascii")))
    if next_cursor:
        fields.append((NEXT_CURSOR, next_cursor.encode("ascii")))
    return fields


def file_name(form: str, query: ReportQuery) -> str:
    """What to keep a report as: which it is, the first and the last day that it tells of."""
    first, last = moment(query.from_us)[:10], moment(max(query.to_us - 1, query.from_us))[:10]
    days = first if first == last else f"{first}_{last}"
    # a page is no whole report, and must not take its place
    page = "" if query.after is None else f"_after-{query.after[1]}"
    return f"tbeast_{query.report}_{days}{page}.{'txt' if form == TEXT else form}"


class JsonWriter:
    """Writes JSON."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._shape = SHAPES[opening.query.report]
        self._sums = self._shape.sums(())
        self._count = 0

    def begin(self) -> bytes:
        """What was asked, and how far it is complete."""
        query = self._opening.query
        members: dict[str, object] = {
            "report": query.report,
            "query": described(query),
            "complete_to": moment(self._opening.complete_to_us),
        }
        if query.is_clipped:
            members["notice"] = f"Lines are kept for {KEPT_SECONDS // 86_400} days; the range was cut short."
        return encode(members)[:-1] + b',"rows":['

    def rows(self, rows: Sequence[Any]) -> bytes:
        """Write rows, each on a line of its own."""
        if not rows:
            return b""
        shape = self._shape
        written = b",\n".join([_COMPACT.encode(_members(shape, row)) for row in rows])
        self._sums = self._sums + shape.sums(rows)
        lead = b",\n" if self._count else b"\n"
        self._count += len(rows)
        return lead + written

    def end(self, next_cursor: str = "") -> bytes:
        """How many rows there are, what they add up to, and where the next begin."""
        totals = dict(zip(self._shape.total_names, self._shape.totals(self._sums), strict=True))
        members = {"row_count": self._count, "totals": totals, "next_cursor": next_cursor or None}
        return b"\n]," + encode(members)[1:] + b"\n"


class CsvWriter:
    """Writes CSV."""

    def __init__(self, opening: Opening) -> None:
        self._shape = SHAPES[opening.query.report]

    def begin(self) -> bytes:
        """The names."""
        return self._lines([self._shape.names])

    def rows(self, rows: Sequence[Any]) -> bytes:
        """Write rows."""
        values = self._shape.values
        return self._lines([[_cell(value) for value in values(row)] for row in rows])

    def end(self, next_cursor: str = "") -> bytes:
        """Nothing comes after the rows."""
        return b""

    def _lines(self, lines: Sequence[Sequence[str | int]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\r\n").writerows(lines)
        return text.getvalue().encode("utf-8", "replace")


class TsvWriter(CsvWriter):
    """Writes TSV."""

    def _lines(self, lines: Sequence[Sequence[str | int]]) -> bytes:
        text = "".join(["\t".join([_spaced(str(cell)) for cell in line]) + "\n" for line in lines])
        return text.encode("utf-8", "replace")


def _spaced(text: str) -> str:
    return text if text.isprintable() else text.translate(_NO_CONTROLS)


_WRITERS: Final[Mapping[str, Callable[[Opening], ReportWriter]]] = MappingProxyType(
    {JSON: JsonWriter, CSV: CsvWriter, TSV: TsvWriter, TEXT: TextWriter}
)


def described(query: ReportQuery) -> dict[str, object]:
    """What was asked, as members of a JSON object."""
    members: dict[str, object] = {"from": moment(query.from_us), "to": moment(query.to_us)}
    if query.is_clipped:
        members["asked_from"] = moment(query.asked_from_us)
    members["key_id"] = WITHOUT_KEY if query.key_id == NOBODY else query.key_id  # null: everybody's
    if query.asset:
        members["asset"] = query.asset
    if query.source:
        members["source"] = query.source
    if query.page_size is not None:
        members["page_size"] = query.page_size
    return members


def datagram(opening: Opening, rows: Sequence[tuple[UsageKey, Sums]], id_json: bytes = b"") -> bytes:
    """Write a summary as one datagram of at most L{LARGEST} bytes.

    A row has its asset, its source, C{over} which service and protocol, and how many requests were C{billed}, or how
    many were C{refused}. The totals are those of all rows.

    @param rows: all of them; those with most requests come first, as many as fit, and it is said how many are left out.
    @param id_json: what the question is known by, as JSON; empty: nothing. It is left out if it alone would not fit.
    """
    query = opening.query
    shape = SHAPES[query.report]
    totals = dict(zip(shape.total_names, shape.totals(shape.sums(rows)), strict=True))
    members = {
        "report": query.report,
        **described(query),
        "complete_to": moment(opening.complete_to_us),
        "totals": {name: totals[name] for name in _BRIEF_TOTALS},
    }
    head = encode(members)[:-1] + b',"rows":['
    left_out = b'],"left_out":%d'
    last = b',"id":%b}' % id_json if id_json else b"}"
    if len(head) + len(left_out % len(rows)) + len(last) > LARGEST:
        last = b"}"
    most = sorted(rows, key=lambda row: (-row[1].requests, row[0]))
    answer = head + (left_out % len(rows) if rows else b"]") + last
    written: list[bytes] = []
    for key, sums in most:
        written.append(_brief(key, sums))
        others = len(most) - len(written)
        longer = head + b",".join(written) + (left_out % others if others else b"]") + last
        if len(longer) > LARGEST:
            break
        answer = longer
    return answer


_BRIEF_TOTALS: Final = ("requests", "billed", "refused", "response_us_mean", "response_us_max")


def _brief(key: UsageKey, sums: Sums) -> bytes:
    return encode(
        {
            "asset": key.asset,
            "source": key.source,
            "over": f"{key.service}/{key.protocol}",
            "billed" if key.admitted else "refused": sums.requests,
        }
    )


def _members(shape: Shape, row: Any) -> dict[str, object]:
    members: dict[str, object] = dict(zip(shape.names, shape.values(row), strict=True))
    details = members.get("details")
    if isinstance(details, str):
        members["details"] = _raw(details)
    return members


def _raw(text: str) -> object:
    """Have JSON stand in JSON as it is; what is none is a string."""
    try:
        written = text.encode("utf-8")
        msgspec.json.decode(written)
    except (ValueError, RecursionError):
        return text.encode("utf-8", "replace").decode("utf-8")
    # line ends are nowhere in JSON but between its parts; here they would end the row's line
    return msgspec.Raw(written.replace(b"\n", b" ").replace(b"\r", b" "))


def _cell(value: Value) -> str | int:
    if isinstance(value, str):
        return "'" + value if value.startswith(_FORMULA) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value
