"""The alerts, the dashboard and their page against what the daemon really exports.

Every query in etc/prometheus/*.yml and etc/grafana/*.json may ask only for metrics, labels and label values that there
are (see tbeast/testing/promql.py); every family has its line on docs/monitoring.md, and every alert its section there.
What there is is read from the exposition of two daemons that are tied together and not started, one of one process and
one with workers, and from the closed sets of labels in the code. Where promtool is on the PATH it looks at the rules as
well, and runs their tests; the last line says whether it did.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from random import Random
from time import time
from typing import Any, Final

import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tbeast.assembly import Assembly  # noqa: E402
from tbeast.codecs.problems import CODES  # noqa: E402
from tbeast.domain.counters import FAMILIES  # noqa: E402
from tbeast.domain.feedstatus import STATES  # noqa: E402
from tbeast.domain.governor import STATES as GOVERNOR_STATES  # noqa: E402
from tbeast.domain.quotes import QUALITIES  # noqa: E402
from tbeast.servers.metrics import (  # noqa: E402
    GAUGES,
    HISTOGRAM,
    LAG_OF,
    MORE_COUNTERS,
    PART_STATES,
    PREFIX,
    SERVICES,
    TIMES,
)
from tbeast.settings import EXCHANGES, Layer, load  # noqa: E402
from tbeast.testing.promql import TARGET_LABELS, Known, QueryError, Selector, read  # noqa: E402

RULES: Final = ROOT / "etc/prometheus/tbeast.rules.yml"
RULE_TESTS: Final = ROOT / "etc/prometheus/tbeast.test.yml"
CONFIG: Final = ROOT / "etc/prometheus/prometheus.yml"
DASHBOARD: Final = ROOT / "etc/grafana/tbeast.json"
PAGE: Final = ROOT / "docs/monitoring.md"

SEVERITIES: Final = ("info", "warning", "critical")
ANNOTATIONS: Final = {"summary", "description", "runbook"}
ROWS: Final = (
    "Overview", "Feeds", "Prices", "Requests", "Latency", "Metering", "Cluster and governor", "Process",
)  # fmt: skip
OLDEST_SCHEMA: Final = 36
"""Of dashboards: that of Grafana 9."""

_STATUSES: Final = frozenset({"200", "202", *(str(status) for status, _ in CODES.values())})
VALUES: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    ("requests_total", "service"): frozenset((*SERVICES, "health")),
    ("requests_total", "status"): _STATUSES,
    ("requests_total", "protocol"): frozenset(("http", "udp")),
    ("admin_requests_total", "status"): _STATUSES,
    ("rest_requests_total", "outcome"): frozenset(("answered", "throttled", "status")),
    ("usage_batches_total", "outcome"): frozenset(("settled", "put_back", "set_aside")),
    ("feed_state", "state"): frozenset(STATES),
    ("feed_state", "exchange"): frozenset(EXCHANGES),
    ("feed_lag_seconds", "of"): frozenset(LAG_OF),
    ("assets", "quality"): frozenset(QUALITIES),
    ("part_state", "part"): frozenset(PART_STATES),
    ("part_state", "state"): frozenset(chain.from_iterable(PART_STATES.values())),
    ("governor_state", "state"): frozenset(GOVERNOR_STATES),
}
"""Metric and label: what it may be. Only what stands here may be asked for by a value."""


def expositions() -> Iterator[str]:
    """What daemons export, as they are tied together."""
    from twisted.internet import reactor

    with tempfile.TemporaryDirectory() as state:
        for workers in ("1", "2"):
            values = {
                "TBEAST_STATE": state, "SERVER_TYPE": "ALL_SERVER", "TBEAST_WORKERS": workers,
                "CACHE_URL": "redis://127.0.0.1:1", "AURORA_URL": "postgresql://tbeast@127.0.0.1:1/tbeast",
            }  # fmt: skip
            settings = load([Layer("check", values)])
            yield Assembly(settings, reactor, time, Random(1).random, lambda: "0").metrics.exposition().decode()


def known(texts: Iterator[str]) -> tuple[Known, list[str]]:
    """What there is to ask for, and what is wrong with the expositions themselves."""
    faults = []
    described = {
        f"{PREFIX}{name}_total": set(labels) for name, (_, labels) in (*FAMILIES.items(), *MORE_COUNTERS.items())
    }
    described |= {PREFIX + name: set(labels) for name, (_, labels) in GAUGES.items()}
    described[f"{PREFIX}{HISTOGRAM}_bucket"] = {"service", "le"}
    described[f"{PREFIX}{HISTOGRAM}_count"] = {"service"}
    del described[f"{PREFIX}{TIMES}_total"]
    labels: dict[str, set[str]] = {"up": set()}
    for text in texts:
        for family in text_string_to_metric_families(text):
            name = family.name + ("_total" if family.type == "counter" else "")
            if family.type == "histogram":
                labels |= {each: described[each] for each in described if each.startswith(name)}
            else:
                labels[name] = described.get(name, set())
            for sample in family.samples:
                labels.setdefault(sample.name, set())
                if set(sample.labels) != labels[sample.name]:
                    faults.append(f"{sample.name} has the labels {sorted(sample.labels)}, which nothing tells")
                for label, value in sample.labels.items():
                    choices = VALUES.get((sample.name.removeprefix(PREFIX), label), frozenset((value,)))
                    if value not in choices:
                        faults.append(f"{sample.name} has {label}={value!r}, which is in no closed set")
    faults += [f"{name} is described, and no daemon exports it" for name in sorted(described.keys() - labels.keys())]
    values = {(PREFIX + name, label): found for (name, label), found in VALUES.items()}
    return Known({name: frozenset(found) for name, found in labels.items()}, values), faults


def with_recorded(there: Known, groups: Any) -> Known:
    """What there is, with what the rules record."""
    labels, values = dict(there.labels), dict(there.values)
    for rule in chain.from_iterable(group["rules"] for group in groups):
        if "record" in rule:
            query = read(rule["expr"])
            of_metrics = frozenset(chain.from_iterable(labels[each.metric] for each in query.selectors))
            labels[rule["record"]] = of_metrics & (query.grouping or of_metrics) if _is_grouped(rule) else of_metrics
            for selector in query.selectors:
                for label in labels[selector.metric]:
                    if (selector.metric, label) in values:
                        values[rule["record"], label] = values[selector.metric, label]
    return Known(labels, values)


def _is_grouped(rule: Mapping[str, str]) -> bool:
    return re.match(r"\w+ by |histogram_quantile\(", rule["expr"]) is not None


def rules(there: Known, groups: Any, page: str) -> Iterator[str]:
    """What is wrong with the rules."""
    named: set[str] = set()
    for rule in chain.from_iterable(group["rules"] for group in groups):
        name = rule.get("record") or rule["alert"]
        if name in named:
            yield f"{name} stands twice"
        named.add(name)
        yield from (f"{name}: {fault}" for fault in _asked(there, rule["expr"]))
        if "record" in rule:
            continue
        if rule.get("labels", {}).get("severity") not in SEVERITIES:
            yield f"{name}: has no severity of {', '.join(SEVERITIES)}"
        if "for" not in rule:
            yield f"{name}: does not say for how long"
        if rule.get("annotations", {}).keys() != ANNOTATIONS:
            yield f"{name}: has not just the annotations {', '.join(sorted(ANNOTATIONS))}"
        elif rule["annotations"]["runbook"] != f"docs/monitoring.md#{name.lower()}":
            yield f"{name}: its runbook is somewhere else"
        if f"\n### {name}\n" not in page:
            yield f"{name}: has no section on {PAGE.name}"
    told = set(re.findall(r"^### (TBeast\w+)$", page, re.MULTILINE))
    yield from (f"{PAGE.name}: there is no alert {name}" for name in sorted(told - named))


def _asked(there: Known, text: str) -> Iterator[str]:
    """What a query asks for that is not there; of a part, also that it is ever in that state."""
    yield from there.faults(text)
    try:
        selectors = read(text).selectors
    except QueryError:
        return
    for selector in selectors:
        yield from _part_faults(selector)


def _part_faults(selector: Selector) -> Iterator[str]:
    said = {matcher.label: matcher.value for matcher in selector.matchers}
    if selector.metric == f"{PREFIX}part_state" and said.get("part") in PART_STATES:
        for state in said.get("state", "").split("|"):
            if state and state not in PART_STATES[said["part"]]:
                yield f"the part {said['part']} is never {state}"


def dashboard(there: Known, board: Any) -> Iterator[str]:
    """What is wrong with the dashboard."""
    if board["schemaVersion"] < OLDEST_SCHEMA:
        yield f"its schema {board['schemaVersion']} is too old"
    panels = board["panels"]
    rows = tuple(panel["title"] for panel in panels if panel["type"] == "row")
    if rows != ROWS:
        yield f"its rows are {', '.join(rows)}"
    ids = [panel["id"] for panel in panels]
    if len(set(ids)) != len(ids):
        yield "two panels have one id"
    places: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        taken = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        if places & taken or grid["x"] + grid["w"] > 24:
            yield f"{panel['title']}: lies over another panel, or sticks out"
        places |= taken
        for target in panel.get("targets", ()):
            yield from (f"{panel['title']}: {fault}" for fault in _asked(there, target["expr"]))
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            wanted = TARGET_LABELS.union(
                *(there.labels.get(each.metric, ()) for each in read(target["expr"]).selectors)
            )
            yield from (f"{panel['title']}: there is no label {label}" for label in sorted(shown - wanted))
    for variable in board["templating"]["list"]:
        for query in re.findall(r"label_values\((.*), \w+\)", str(variable["query"])):
            yield from (f"variable {variable['name']}: {fault}" for fault in there.faults(query))
    for annotation in board["annotations"]["list"]:
        yield from (f"annotation {annotation['name']}: {fault}" for fault in there.faults(annotation.get("expr", "")))
    for word in set(re.findall(r"\$\{?(\w+)", json.dumps(board))):
        if word not in {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval", "__all"}:
            yield f"there is no variable {word}"


def on_the_page(there: Known, page: str) -> Iterator[str]:
    """Every family that is exported has its name on the page, and every name on the page is exported."""
    families = {re.sub(r"_(bucket|count)$", "", name) if HISTOGRAM in name else name for name in there.labels}
    families = {name for name in families if name.startswith(PREFIX)}
    told = set(re.findall(r"`(tbeast_\w+)`", page))
    yield from (f"{name} is not named" for name in sorted(families - told))
    yield from (f"{name} is named, and there is none" for name in sorted(told - families - there.labels.keys()))


def promtool() -> Iterator[str]:
    """What promtool says against the files; nothing where there is none."""
    program = shutil.which("promtool")
    for arguments in (("check", "rules", RULES), ("check", "config", CONFIG), ("test", "rules", RULE_TESTS)):
        if program is not None:
            ran = subprocess.run(
                [program, *map(str, arguments)], cwd=RULES.parent, capture_output=True, text=True, timeout=120,
                check=False,
            )  # fmt: skip
            if ran.returncode:
                yield f"promtool {arguments[0]} {arguments[1]}: {ran.stdout}{ran.stderr}"


def main() -> int:
    """Check everything; each fault is one line."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    page = PAGE.read_text(encoding="utf-8")
    exported, faults = known(expositions())
    there = with_recorded(exported, groups)
    faults += (f"{RULES.name}: {fault}" for fault in rules(there, groups, page))
    faults += (f"{DASHBOARD.name}: {fault}" for fault in dashboard(there, json.loads(DASHBOARD.read_text("utf-8"))))
    faults += (f"{PAGE.name}: {fault}" for fault in on_the_page(there, page))
    faults += promtool()
    for fault in faults:
        print(fault)
    print("promtool has looked at the rules" if shutil.which("promtool") else "no promtool here: read by us alone")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
