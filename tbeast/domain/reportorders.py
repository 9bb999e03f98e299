"""Reports as they are ordered and made: what of a month is left, and what is noted of each that was made.

Each report uses up one of the month's, which are those of the key's plan; the add-on lifts that, and the operator's
reports use up none. Months are those of UTC. The pages that follow the first are of the same report (see
L{tbeast.domain.reports.Cut}) and use up none, for as long as L{PAID_SECONDS} after it and if they are really of it: of
the same key, report, range, asset, source and cut as one that was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from math import ceil
from typing import Final
from uuid import UUID

from attrs import Factory, frozen

from tbeast.domain.admission import NO_LIMIT, month_end
from tbeast.domain.keys import Account
from tbeast.domain.reports import ReportQuery, moment

OPERATOR: Final = "admin"
"""Stands where a key's id would, for reports that the operator asked for."""

DATAGRAM: Final = "datagram"
"""The format of a report that is one datagram."""

PAID_SECONDS: Final = 86_400
"""So long after a report its further pages are asked for free."""


@frozen
class Allowance:
    """How it stands with the month's reports.

    @ivar limit: how many there are; L{NO_LIMIT}: as many as one likes.
    @ivar remaining: how many are left.
    @ivar reset_seconds: until the next month; 0 where there is no limit.
    """

    limit: int
    remaining: int
    reset_seconds: int


UNLIMITED: Final = Allowance(NO_LIMIT, NO_LIMIT, 0)


@frozen
class ReportMade:
    """A report that was made, or was not given.

    @ivar id: a uuid.
    @ivar key_id: who has asked, or L{OPERATOR}.
    @ivar report: one of L{tbeast.domain.reports.REPORTS}.
    @ivar format: that in which it was given, or L{DATAGRAM}.
    @ivar status: of the answer, as in HTTP.
    @ivar row_count: how many lines went out.
    @ivar response_us: how long it took, in microseconds.
    @ivar details: what was asked; see L{details_of}.
    """

    id: str
    key_id: str
    report: str
    format: str
    status: int
    row_count: int
    response_us: int
    details: Mapping[str, object] = Factory(dict)


def quota_of(account: Account | None) -> int | None:
    """How many reports a month somebody may have; C{None}: as many as he likes. The operator is C{None}."""
    if account is None or account.lrs_addon:
        return None
    return account.plan.monthly_reports


def month_day(now: float) -> date:
    """The first day of the month (UTC) that C{now} lies in."""
    return datetime.fromtimestamp(now, UTC).date().replace(day=1)


def allowance(quota: int | None, made: int, now: float) -> Allowance:
    """What is left when so many were made."""
    if quota is None:
        return UNLIMITED
    return Allowance(quota, max(quota - made, 0), ceil(month_end(now) - now))


def identity_of(query: ReportQuery, cut_us: int) -> dict[str, object]:
    """What makes pages be of the same report, beside whose it is and which."""
    return {
        "from": moment(query.asked_from_us),
        "to": moment(query.to_us),
        "of": "any" if query.key_id is None else query.key_id,
        "asset": query.asset,
        "source": query.source,
        "cut": moment(cut_us),
    }


def details_of(query: ReportQuery, cut_us: int | None, broken_off: str = "") -> dict[str, object]:
    """What is noted of a report that was asked for.

    @param cut_us: C{None}: it did not come to that.
    @param broken_off: why it ended before its end; empty: it did not.
    """
    details = identity_of(query, 0 if cut_us is None else cut_us)
    if cut_us is None:
        del details["cut"]
    details["page_size"] = query.page_size
    details["further_page"] = query.after is not None
    if broken_off:
        details["broken_off"] = broken_off
    return details


def make_id(now: float, random_bytes: Callable[[int], bytes]) -> str:
    """Make an id: a uuid of version 7, which sort by the time of making."""
    number = int(now * 1000.0) << 80 | int.from_bytes(random_bytes(10), "big")
    number = number & ~(0xF << 76) | 7 << 76
    return str(UUID(int=number & ~(3 << 62) | 2 << 62))
