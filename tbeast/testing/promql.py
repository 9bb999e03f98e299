"""As much of PromQL as it takes to see whether a query asks for what there is.

A query is cut into tokens, and what it selects is read from them: names of metrics with their label matchers, and the
labels that it groups or joins by. It is not evaluated, and its types are not checked; promtool does that. What is asked
for must be known: metrics with their labels, and for labels from a closed set their values. A dashboard's variables
(C{$instance}) may stand for a value or a duration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from attrs import Factory, frozen

TARGET_LABELS: Final = frozenset(("job", "instance"))
"""Every sample gets these from whoever scrapes it."""

AGGREGATIONS: Final = frozenset((
    "avg", "bottomk", "count", "count_values", "group", "max", "min", "quantile", "stddev", "stdvar", "sum", "topk",
))  # fmt: skip
FUNCTIONS: Final = frozenset((
    "abs", "absent", "absent_over_time", "avg_over_time", "ceil", "changes", "clamp", "clamp_max", "clamp_min",
    "count_over_time", "day_of_week", "delta", "deriv", "exp", "floor", "histogram_quantile", "hour", "idelta",
    "increase", "irate", "label_join", "label_replace", "label_values", "last_over_time", "ln", "log10", "log2",
    "max_over_time", "min_over_time", "minute", "predict_linear", "present_over_time", "quantile_over_time", "rate",
    "resets", "round", "scalar", "sgn", "sort", "sort_desc", "sqrt", "stddev_over_time", "sum_over_time", "time",
    "timestamp", "vector",
))  # fmt: skip
GROUPING: Final = frozenset(("by", "without", "on", "ignoring", "group_left", "group_right"))
WORDS: Final = frozenset(("and", "or", "unless", "bool", "offset", "inf", "nan", "atan2", "start", "end"))

_TOKEN: Final = re.compile(
    r"""\s+ | \#[^\n]*
    | (?P<string> "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' | `[^`]*` )
    | (?P<number> (?:\d+(?:ms|[smhdwy]))+ | 0x[0-9a-fA-F]+ | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? )
    | (?P<range> \[\s* SPAN (?:\s*:\s* (?:SPAN)?)? \s*\] )
    | (?P<variable> \$(?:\w+|\{\w+(?::\w+)?\}) )
    | (?P<name> [A-Za-z_:][A-Za-z0-9_:]* )
    | (?P<sign> =~ | !~ | != | == | <= | >= | [-+*/%^=<>(){},@] )""".replace(
        "SPAN", r"(?:(?:\d+(?:ms|[smhdwy]))+|\$\w+|\$\{\w+\})"
    ),
    re.VERBOSE,
)
_OPENED_BY: Final = {")": "(", "}": "{"}


class QueryError(ValueError):
    """A query cannot be read."""


@frozen
class Matcher:
    """A condition on a label, as in C{state="down"}.

    @ivar sign: C{=}, C{!=}, C{=~} or C{!~}.
    """

    label: str
    sign: str
    value: str


@frozen
class Selector:
    """What a query asks for by the name of a metric."""

    metric: str
    matchers: tuple[Matcher, ...] = ()


@frozen
class Query:
    """What was read of a query.

    @ivar selectors: in their order.
    @ivar grouping: every label that it groups or joins by.
    """

    selectors: tuple[Selector, ...]
    grouping: frozenset[str]


@frozen
class Known:
    """What there is to ask for.

    @ivar labels: by metric, the names of its labels.
    @ivar values: by metric and label, what that label may be.
    """

    labels: Mapping[str, frozenset[str]]
    values: Mapping[tuple[str, str], frozenset[str]] = Factory(dict)

    def faults(self, text: str) -> Iterator[str]:
        """What a query asks for that is not there, one sentence each."""
        try:
            query = read(text)
        except QueryError as error:
            yield f"cannot be read: {error}"
            return
        for selector in query.selectors:
            labels = self.labels.get(selector.metric)
            if labels is None:
                yield f"there is no metric {selector.metric}"
                continue
            for matcher in selector.matchers:
                yield from self._faults_of(selector.metric, labels, matcher)
        every = TARGET_LABELS.union(*(self.labels.get(selector.metric, ()) for selector in query.selectors))
        yield from (f"no metric here has the label {label}" for label in sorted(query.grouping - every))

    def _faults_of(self, metric: str, labels: frozenset[str], matcher: Matcher) -> Iterator[str]:
        if matcher.label in TARGET_LABELS or matcher.value.startswith("$"):
            return
        if matcher.label not in labels:
            yield f"{metric} has no label {matcher.label}"
            return
        values = self.values.get((metric, matcher.label))
        if values is None:
            yield f"what {matcher.label} of {metric} may be is not known"
        elif matcher.sign in ("=", "!="):
            if matcher.value not in values:
                yield f"{matcher.label} of {metric} is never {matcher.value}"
        else:
            # each of several must be there, else one slip of the pen hides behind the others
            for choice in matcher.value.split("|"):
                if not any(re.fullmatch(choice, value) for value in values):
                    yield f"{matcher.label} of {metric} is never like {choice}"


def read(text: str) -> Query:
    """Read a query.

    @raise QueryError: when it is none, or uses a function that is not known.
    """
    tokens = _tokens(text)
    selectors: list[Selector] = []
    grouping: set[str] = set()
    place = 0
    while place < len(tokens):
        kind, word = tokens[place]
        place += 1
        following = tokens[place][1] if place < len(tokens) else ""
        if kind != "name":
            if word == "{":
                raise QueryError("a selector without a metric")
        elif word in GROUPING:
            if following == "(":
                labels, place = _labels(tokens, place + 1)
                grouping |= labels
            elif not word.startswith("group_"):
                raise QueryError(f"no labels after {word}")
        elif word.lower() in WORDS:
            continue
        elif following == "(" or (word in AGGREGATIONS and following in ("by", "without")):
            if word not in AGGREGATIONS | FUNCTIONS:
                raise QueryError(f"there is no function {word}")
        elif following == "{":
            matchers, place = _matchers(tokens, place + 1)
            selectors.append(Selector(word, matchers))
        else:
            selectors.append(Selector(word))
    return Query(tuple(selectors), frozenset(grouping))


_Tokens = list[tuple[str, str]]


def _tokens(text: str) -> _Tokens:
    tokens: _Tokens = []
    opened: list[str] = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise QueryError(f"nothing begins with {text[place : place + 20]!r}")
        place = found.end()
        if found.lastgroup is None:
            continue
        word = found[found.lastgroup]
        if word in _OPENED_BY.values():
            opened.append(word)
        elif word in _OPENED_BY and (not opened or opened.pop() != _OPENED_BY[word]):
            raise QueryError(f"a {word} that closes nothing")
        tokens.append((found.lastgroup, word))
    if opened:
        raise QueryError(f"a {opened[-1]} that is not closed")
    return tokens


def _labels(tokens: _Tokens, place: int) -> tuple[set[str], int]:
    """The labels in brackets, and where it goes on."""
    labels = set()
    while tokens[place][1] != ")":
        kind, word = tokens[place]
        if kind == "name":
            labels.add(word)
        elif word != ",":
            raise QueryError(f"{word} among labels")
        place += 1
    return labels, place + 1


def _matchers(tokens: _Tokens, place: int) -> tuple[tuple[Matcher, ...], int]:
    matchers = []
    while tokens[place][1] != "}":
        (kind, label), (_, sign), (what, value) = (*tokens[place : place + 3], *[("", "")] * 3)[:3]
        if kind != "name" or sign not in ("=", "!=", "=~", "!~") or what != "string":
            raise QueryError(f"{label}{sign}{value} is no condition on a label")
        matchers.append(Matcher(label, sign, value[1:-1]))
        place += 3
        if tokens[place][1] == ",":
            place += 1
    return tuple(matchers), place + 1
