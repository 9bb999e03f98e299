"""Tests of L{tbeast.services.parameterdesk}."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.counters import Counters
from tbeast.domain.parameters import PARAMETERS, defaults, read, written
from tbeast.services.parameterdesk import ParameterDesk, ParameterState, ParameterStates
from tbeast.services.parameters import DATABASE, Parameters

GIVEN = {"max_price_age_seconds": 30.0}


class Rows:
    """The table in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    async def read(self) -> Mapping[str, str]:
        return dict(self.rows)

    async def put(self, name: str, value: object) -> str:
        text = self.rows[name] = written(read(name, value))
        return text

    async def remove(self, name: str) -> bool:
        return self.rows.pop(name, None) is not None


class ParameterDeskTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rows = Rows()
        self.parameters = Parameters(self.rows, None, Clock(), Counters(), GIVEN)
        self.successResultOf(self.parameters.startService())
        self.desk = ParameterDesk(self.rows, self.parameters, defaults(GIVEN))

    def done(self, asked: Coroutine[Any, Any, Any]) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(asked))

    def state(self, name: str) -> ParameterState:
        states: ParameterStates = self.done(self.desk.states())
        return next(state for state in states.parameters if state.parameter.name == name)

    def test_states(self) -> None:
        states = self.done(self.desk.states())
        self.assertEqual(list(PARAMETERS), [state.parameter.name for state in states.parameters])
        self.assertEqual(((), 300.0), (states.unknown, states.elsewhere_seconds))
        state = self.state("max_price_age_seconds")
        self.assertEqual((30.0, 30.0, False, 30.0), (state.value, state.next_value, state.is_set, state.default))

    def test_a_hot_one_is_in_force_at_once(self) -> None:
        heard: list[Any] = []
        self.parameters.on_change("max_price_age_seconds", heard.append)
        self.assertEqual(DATABASE, self.done(self.desk.put("max_price_age_seconds", 45)).source)
        self.assertEqual([45.0], heard)
        self.assertEqual((45.0, True), ((state := self.state("max_price_age_seconds")).value, state.is_set))
        self.assertTrue(self.done(self.desk.remove("max_price_age_seconds")))
        self.assertEqual([45.0, 30.0], heard)
        self.assertFalse(self.done(self.desk.remove("max_price_age_seconds")))

    def test_another_waits_for_the_next_start(self) -> None:
        self.done(self.desk.put("http_idle_timeout_seconds", 90))
        state = self.state("http_idle_timeout_seconds")
        self.assertEqual((60, 90, True), (state.value, state.next_value, state.is_set))

    def test_what_is_refused_is_the_default_from_the_next_start_on(self) -> None:
        self.rows.rows["http_idle_timeout_seconds"] = "90"
        later = Parameters(self.rows, None, Clock(), Counters(), GIVEN)
        self.successResultOf(later.startService())
        self.desk = ParameterDesk(self.rows, later, defaults(GIVEN))
        self.rows.rows["http_idle_timeout_seconds"] = "long"
        state = self.state("http_idle_timeout_seconds")
        self.assertEqual((90, 60), (state.value, state.next_value))
        self.assertIn("long", state.refused)

    def test_what_is_refused(self) -> None:
        """Somebody wrote it by hand."""
        self.rows.rows["sync_hour_utc"] = "noon"
        self.rows.rows["mistaken"] = "5"
        self.successResultOf(self.desk.reload())
        state = self.state("sync_hour_utc")
        self.assertEqual((6, 6), (state.value, state.next_value))
        self.assertIn("sync_hour_utc = 'noon'", state.refused)
        self.assertEqual(("mistaken",), self.done(self.desk.states()).unknown)

    def test_what_may_not_be_is_not_written(self) -> None:
        self.failureResultOf(Deferred.fromCoroutine(self.desk.put("sync_hour_utc", 24)), ValueError)
        self.assertEqual({}, self.rows.rows)
