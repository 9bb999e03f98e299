"""How keys look for people; how they look for scripts stands in L{tbeast.codecs.adminbodies}."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from tbeast.adapters.store.keyrows import KeyDetails
from tbeast.commands.asking import printable
from tbeast.commands.cells import console
from tbeast.domain.keys import KeyRecord

NEVER_AGAIN: Final = "This is the only time that the key is shown: it is stored nowhere, only its SHA-256 is."


def print_table(records: Sequence[KeyRecord], now: float) -> None:
    """Print keys, a line each."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, right in (
        ("id", False), ("name", False), ("tier", False), (f"used {month_of(now)}", True), ("of", True),
        ("a second", True), ("burst", True), ("created", False), ("last used", False), ("", False),
    ):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for record in records:
        account, plan = record.account, record.account.plan
        cells = (
            account.key_id, account.name, account.tier, _limit(record.used_in(month_of(now))),
            _limit(plan.monthly_quota), _limit(plan.qps), _limit(plan.burst), _day(record.created_at),
            _day(record.last_used_at), _state(record, now),
        )  # fmt: skip
        style = "dim" if record.is_revoked(now) else ""
        table.add_row(*(Text(printable(cell), style=style) for cell in cells))
    console().print(table)


def print_details(details: KeyDetails, now: float) -> None:
    """Print all that is known of a key."""
    account, plan, record = details.record.account, details.record.account.plan, details.record
    used = record.used_in(month_of(now))
    reports = "no limit, by the add-on" if account.lrs_addon else _limit(plan.monthly_reports)
    lines = [
        ("id", account.key_id),
        ("name", account.name),
        ("user", details.email or "-"),
        ("tier", account.tier),
        ("state", _state(record, now) or "good"),
        ("queries", f"{used} in {month_of(now)}, of {_limit(plan.monthly_quota)}"),
        ("a second", f"{_limit(plan.qps)}, burst {_limit(plan.burst)}, wait {plan.min_wait_seconds:g} s when empty"),
        ("reports", f"{reports} a month"),
        ("answers", f"format {account.response_format}, language {account.preferred_lang}"),
        ("created", _moment(record.created_at)),
        ("last used", _moment(record.last_used_at)),
    ]
    if details.revoked_at is not None:
        lines.append(("revoked", _moment(details.revoked_at)))
    if details.replaces is not None:
        lines.append(("replaces", details.replaces))
    if details.replaced_by is not None:
        lines.append(("replaced by", details.replaced_by))
    _print_lines(lines)


def print_key(text: str) -> None:
    """Print a key that was just made, which nobody will ever print again."""
    console(cut=False).print(Text(text, style="bold"))


def print_new(record: KeyRecord) -> None:
    """Print what is to be known of a key that was just made."""
    account, plan = record.account, record.account.plan
    out = console(cut=False)
    out.print()
    out.print(Text(NEVER_AGAIN, style="yellow"))
    out.print()
    _print_lines(
        [
            ("id", account.key_id),
            ("name", account.name),
            ("tier", account.tier),
            (
                "limits",
                f"{_limit(plan.monthly_quota)} a month, {_limit(plan.qps)} a second, burst {_limit(plan.burst)}",
            ),
        ]
    )


def said(record: KeyRecord) -> str:
    """One key in a sentence."""
    return printable(f"{record.account.key_id} ({record.account.name}, {record.account.tier})")


def moment(at: float) -> str:
    """A time for people."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def month_of(now: float) -> str:
    """The month of a time, C{YYYY-MM}, in UTC."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")


def _print_lines(lines: Iterable[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in lines:
        table.add_row(Text(name, style="dim"), Text(printable(value)))
    console(cut=False).print(table)


def _state(record: KeyRecord, now: float) -> str:
    if record.is_revoked(now):
        return "revoked"
    return "" if record.ends_at is None else f"ends {moment(record.ends_at)}"


def _limit(value: float | None) -> str:
    return "no limit" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _day(at: float | None) -> str:
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _moment(at: float | None) -> str:
    return "never" if at is None else moment(at)
