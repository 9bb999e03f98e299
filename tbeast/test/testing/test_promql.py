"""Queries are read as Prometheus reads them, and a slip of the pen in one is found."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.testing.promql import Known, Matcher, Query, QueryError, Selector, read

KNOWN = Known(
    {
        "tbeast_requests_total": frozenset(("service", "status")),
        "tbeast_feed_state": frozenset(("exchange", "state")),
        "tbeast_response_seconds_bucket": frozenset(("service", "le")),
        "tbeast_ready": frozenset(),
        "up": frozenset(),
        "tbeast:requests:rate1m": frozenset(("service",)),
    },
    {
        ("tbeast_requests_total", "status"): frozenset(("200", "404", "500", "503")),
        ("tbeast_requests_total", "service"): frozenset(("lpo", "lrs")),
        ("tbeast_feed_state", "state"): frozenset(("live", "down")),
    },
)


class ReadTests(SynchronousTestCase):
    def names(self, text: str) -> list[str]:
        return [selector.metric for selector in read(text).selectors]

    def test_a_selector(self) -> None:
        self.assertEqual(
            Query(
                (Selector("a_total", (Matcher("x", "=", "y z"), Matcher("w", "!~", "1|2"))),), frozenset(("x", "job"))
            ),
            read("""sum by (x, job) (rate(a_total{x="y z", w!~'1|2',}[5m]))"""),
        )

    def test_words_that_are_no_metrics(self) -> None:
        for text in (
            "a_total and on (x) b > bool 0", "a_total offset 5m unless b[1h:5m]", "a_total * on (x) group_left (y) b",
            "a_total == Inf or b # and c", "sum without (x) (a_total) / ignoring (x) group_right b",
            "label_replace(a_total, \"x\", '$1', `y`, \"(.*)\") + b", "a_total @ end() b", "a_total[1h:] + b",
            "a_total[$__rate_interval] + b > 1.5e-3 + .5 + 0x1f", "a_total[ 1h30m : ${step} ] + b",
            "topk(3, sum(a_total) by (x)) or b", "histogram_quantile(0.99, sum by (le) (rate(a_total[${window}]))) + b",
        ):  # fmt: skip
            self.assertEqual(["a_total", "b"], self.names(text), text)

    def test_metrics_that_are_called_like_words(self) -> None:
        self.assertEqual(["by_hand", "sum", "rate:x"], self.names("by_hand + sum + rate:x"))

    def test_what_is_none(self) -> None:
        for text in (
            "sum(a", "a)", 'a{x="y"', "a{x=y}", 'a{"y"}', "a{x=", '{x="y"}', "rte(a[5m])", "a ~ b", 'a{x="y]}',
            "sum by a", "sum by (x+y) (a)", "a{x}", "rate(a[5])", "a[5m", "a]",
        ):  # fmt: skip
            self.assertRaises(QueryError, read, text)

    @given(st.text(alphabet="abt_:{}()[]=~!\"'`, $5m#\n\\", max_size=40))
    @settings(deadline=None, max_examples=200)
    def test_whatever_it_is(self, text: str) -> None:
        try:
            read(text)
        except QueryError as error:
            self.assertTrue(str(error))


class KnownTests(SynchronousTestCase):
    def test_what_is_there(self) -> None:
        for text in (
            'sum by (instance, service) (rate(tbeast_requests_total{status=~"5..",service!="lrs"}[5m]))',
            'tbeast_feed_state{state="down", instance="a:1", job=~"x"} == 1', "tbeast:requests:rate1m > 1",
            'histogram_quantile(0.5, sum by (le) (rate(tbeast_response_seconds_bucket{service=~"$service"}[5m])))',
            'up{job="tbeast"} == 0', 'tbeast_requests_total{status=~"200|404"}',
        ):  # fmt: skip
            self.assertEqual([], list(KNOWN.faults(text)), text)

    def test_slips_of_the_pen(self) -> None:
        for text, fault in (
            ("rate(tbeast_request_total[5m])", "there is no metric tbeast_request_total"),
            ('tbeast_feed_state{status="down"}', "tbeast_feed_state has no label status"),
            ('tbeast_feed_state{state="dwon"}', "state of tbeast_feed_state is never dwon"),
            ('tbeast_requests_total{status=~"6.."}', "status of tbeast_requests_total is never like 6.."),
            ('tbeast_requests_total{service=~"lpo|lsr"}', "service of tbeast_requests_total is never like lsr"),
            ('tbeast_feed_state{exchange="kraken"}', "what exchange of tbeast_feed_state may be is not known"),
            ("sum by (exchange) (tbeast_requests_total)", "no metric here has the label exchange"),
            ("sum(tbeast_ready", "cannot be read: a ( that is not closed"),
            ("tbeast:requests:rate5m", "there is no metric tbeast:requests:rate5m"),
        ):
            self.assertEqual([fault], list(KNOWN.faults(text)))

    def test_each_misspelling_is_found(self) -> None:
        """A letter left out anywhere in the name of a metric."""
        for name in KNOWN.labels:
            for place in range(len(name)):
                wrong = name[:place] + name[place + 1 :]
                self.assertTrue(list(KNOWN.faults(f"sum(rate({wrong}[5m]))")), wrong)
