"""The reports of the report surface, as part of an OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, get_type_hints

from tbeast.codecs.openapi.parts import (
    COUNT,
    JSON,
    KEYED,
    MOMENT,
    TEXT,
    TRUTH,
    Json,
    answer_in,
    header,
    listed,
    one_of,
    operation,
    or_null,
    query,
    record,
    ref,
    said,
)
from tbeast.codecs.openapi.prices import LIMITS, WITH_KEY
from tbeast.codecs.pricequeries import LONGEST_ASSET
from tbeast.codecs.reportcolumns import SHAPES
from tbeast.codecs.reportqueries import FIRST_PAGE, FORMATS, SOURCES
from tbeast.domain.keys import ID_LENGTH
from tbeast.domain.reports import (
    MOST_ON_A_PAGE,
    OF_QUESTIONS,
    PAGED,
    REPORT_SUMMARY,
    REPORT_USAGE,
    REPORTS,
    SUMMARY,
    USAGE,
    ReportKey,
    ReportLine,
    UsageKey,
    UsageLine,
)
from tbeast.domain.syncplan import KEPT_SECONDS

WITH_ANY_KEY: Final[tuple[Json, ...]] = (*WITH_KEY, {"adminKey": []})

_ABOUT: Final = {
    USAGE: ("getUsage", "Usage, row by row", "A row for each kind of question that was answered within a moment."),
    SUMMARY: (
        "getSummary", "Usage, added up",
        "By asset, source, service, protocol, and whether it counts against the quota.",
    ),
    REPORT_USAGE: ("getReportUsage", "The reports that were made", "A row for each."),
    REPORT_SUMMARY: ("getReportSummary", "The reports that were made, added up", "By report and format."),
}  # fmt: skip

_TIME: Final = said(TEXT, "RFC 3339, or a date of UTC.")
_NAMED: Final[dict[str, Json]] = {
    "at": MOMENT,
    "details": said({}, "What else was noted of it."),
    "first": or_null(MOMENT),
    "last": or_null(MOMENT),
}
_OF_TYPE: Final[dict[Any, Json]] = {int: COUNT, str: TEXT, bool: TRUTH}

_FIELDS: Final = {
    "Content-Disposition": header("A name to keep it by.", TEXT, is_always=True),
    "Report-From": header("The range begins here.", MOMENT, is_always=True),
    "Report-To": header("The range ends before this.", MOMENT, is_always=True),
    "Report-Complete-To": header("What was recorded until then is in it.", MOMENT, is_always=True),
    "Report-Asked-From": header("Where the range was to begin, if older lines are not kept.", MOMENT),
}
_NEXT: Final = {"Report-Next-Cursor": header("Leads to the next page; not there on the last.", TEXT)}
_QUERY: Final = record(
    {
        "from": MOMENT, "to": MOMENT, "asked_from": MOMENT,
        "key_id": said(or_null(TEXT), "`null`: everybody's; `nobody`: questions without a known key."),
        "asset": TEXT, "source": TEXT, "page_size": COUNT,
    },
    ["asked_from", "asset", "source", "page_size"],
)  # fmt: skip


def report_paths() -> dict[str, Json]:
    """The reports, by path."""
    return {f"/reports/{report}": {"get": _operation(report)} for report in REPORTS}


def report_schemas() -> dict[str, Json]:
    """What their JSON is, by the name that their answers refer to."""
    return {_schema_name(report): _schema(report) for report in REPORTS}


def _operation(report: str) -> Json:
    name, summary, about = _ABOUT[report]
    csv_like = dict.fromkeys(("text/csv", "text/tab-separated-values", "text/plain"), TEXT)
    fields = {**_FIELDS, **LIMITS, **(_NEXT if report in PAGED else {})}
    return operation(
        name, "reports", summary, f"{about} Each report uses up one of the month; its further pages do not.",
        {"200": answer_in("The report.", {JSON: ref(_schema_name(report)), **csv_like}, fields)},
        codes=(
            *KEYED, "bad_admin_key", "rate_limited", "report_quota_exceeded", "malformed_parameter",
            "duplicate_parameter", "unknown_parameter", "bad_cursor", "store_unavailable", "reports_busy",
        ),
        parameters=list(_parameters(report)),
        security=WITH_ANY_KEY,
    )  # fmt: skip


def _parameters(report: str) -> Iterable[Json]:
    yield query("format", "How it is written; JSON unless it says otherwise.", one_of(FORMATS), example="csv")
    kept = f"Older lines than {KEPT_SECONDS // 86_400} days are not kept."
    yield query("from", f"The range begins here; not set: with its month. {kept}", _TIME)
    yield query("to", "The range ends before this, or with this day; not set: now.", _TIME)
    if report in OF_QUESTIONS:
        code = {"type": "string", "pattern": rf"^([0-9A-Za-z]{{1,{LONGEST_ASSET}}}|\*)$"}
        yield query("asset", "This asset alone; `*`: questions for several.", code, example="BTC")
        yield query("source", "Answers from this source alone.", one_of(SOURCES), example="median")
    if report in PAGED:
        yield query(
            "page_size", f"So many rows at most; {FIRST_PAGE:,} in JSON, otherwise all.",
            {"type": "integer", "minimum": 1, "maximum": MOST_ON_A_PAGE}, example=100,
        )  # fmt: skip
        yield query("cursor", "Where the page before has ended, as that says.", TEXT)
    yield query(
        "key_id", "Whose; for the operator. `nobody`: questions without a known key.",
        {"type": "string", "pattern": f"^([0-9A-Za-z]{{{ID_LENGTH}}}|nobody)$"},
    )  # fmt: skip


def _schema_name(report: str) -> str:
    return "".join(word.capitalize() for word in report.split("-")) + "Report"


def _schema(report: str) -> Json:
    shape = SHAPES[report]
    types: dict[str, Any] = {}
    for kind in (UsageLine, ReportLine, UsageKey, ReportKey):
        types |= get_type_hints(kind)
    row = record({name: _NAMED.get(name) or _OF_TYPE[types.get(name, int)] for name in shape.names})
    totals = record({name: _NAMED.get(name) or COUNT for name in shape.total_names})
    return record(
        {
            "report": {"const": report},
            "query": _QUERY,
            "complete_to": said(MOMENT, "What was recorded until then is in it."),
            "notice": TEXT,
            "rows": listed(row),
            "row_count": COUNT,
            "totals": said(totals, "Of the rows of this page."),
            "next_cursor": said(or_null(TEXT), "Leads to the next page; `null`: there is none."),
        },
        ["notice"],
    )
