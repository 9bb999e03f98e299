"""Write the table in docs/statistics.md from that in the code, or with --check see whether the two agree."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tbeast.domain.clusterstats import MAX, MIN, STATISTICS, SUM  # noqa: E402

PAGE = ROOT / "docs" / "statistics.md"
BEGINS = "<!-- written by tools/statistics_page.py -->\n"
ENDS = "<!-- up to here -->\n"
ADDS = {SUM: "sum", MAX: "greatest", MIN: "least"}


def table() -> str:
    """Every statistic, a row each."""
    rows = [
        f"| `{name}` | {each.kind} | {each.unit} | {ADDS[each.adds]} | {each.what} |\n"
        for name, each in STATISTICS.items()
    ]
    return "".join(["| name | kind | unit | over nodes | what it says |\n", "|---|---|---|---|---|\n", *rows])


def main(arguments: list[str]) -> int:
    """Write the table, or check it."""
    found = PAGE.read_text(encoding="utf-8")
    before, begins, rest = found.partition(BEGINS)
    _, ends, after = rest.partition(ENDS)
    if not (begins and ends):
        print(f"docs/statistics.md has no place for the table, between {BEGINS.strip()} and {ENDS.strip()}")
        return 1
    wanted = f"{before}{begins}{table()}{ends}{after}"
    if arguments == ["--check"]:
        if found != wanted:
            print("docs/statistics.md and the table in the code differ: run python tools/statistics_page.py")
        return int(found != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
