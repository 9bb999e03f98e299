"""Parameters as the daemon holds them: read at the start, again and again, and on command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.counters import Counters
from tbeast.domain.parameters import Change
from tbeast.errors import CacheUnavailableError, StoreUnavailableError
from tbeast.services.parameters import AGAIN_SECONDS, CACHE, DATABASE, NOWHERE, Parameters, Reloaded
from tbeast.testing.logs import listen

AGE = "max_price_age_seconds"
IDLE = "http_idle_timeout_seconds"
INTERVAL = "application_parameter_interval_minutes"


class Store:
    """A table in memory; C{rows} may be an exception instead, or a Deferred."""

    def __init__(self) -> None:
        self.rows: Any = {}
        self.readings = 0

    async def read(self) -> Mapping[str, str]:
        self.readings += 1
        rows = self.rows
        if isinstance(rows, Deferred):
            rows = await rows
        if isinstance(rows, Exception):
            raise rows
        return dict(rows)


class Copies:
    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.away = False
        self.puts = 0

    async def put(self, rows: Mapping[str, str]) -> None:
        self._reach()
        self.puts += 1
        self.rows = dict(rows)

    async def read(self) -> Mapping[str, str]:
        self._reach()
        return self.rows

    def _reach(self) -> None:
        if self.away:
            raise CacheUnavailableError("away")


class ParametersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.counters = Counters()
        self.store = Store()
        self.copies = Copies()
        self.log = listen(self)
        self.parameters = self.make()

    def make(self, **given: Any) -> Parameters:
        return Parameters(self.store, self.copies, self.clock, self.counters, given)

    def start(self) -> Reloaded:
        self.addCleanup(self.parameters.stopService)
        found: Reloaded = self.successResultOf(self.parameters.startService())
        return found

    def reload(self) -> Reloaded:
        found: Reloaded = self.successResultOf(self.parameters.reload())
        return found

    def test_before_the_start_the_defaults_hold(self) -> None:
        self.assertEqual(self.parameters.value(AGE), 60.0)
        self.assertEqual(self.make(**{AGE: 45}).value(AGE), 45.0)
        self.assertEqual(self.store.readings, 0)

    def test_a_default_of_the_settings_that_is_not_allowed(self) -> None:
        with self.assertRaises(ValueError):
            self.make(**{AGE: 0})

    def test_the_start_reads_the_database(self) -> None:
        self.store.rows = {AGE: "30", IDLE: "90"}
        told: list[float] = []
        self.parameters.on_change(AGE, told.append)
        found = self.start()
        self.assertEqual(found.source, DATABASE)
        self.assertEqual((self.parameters.value(AGE), self.parameters.value(IDLE)), (30.0, 90))
        self.assertEqual(told, [30.0])

    def test_it_is_read_again_after_the_interval_which_may_itself_change(self) -> None:
        self.start()
        self.store.rows = {AGE: "30", INTERVAL: "1"}
        self.clock.advance(299)
        self.assertEqual(self.parameters.value(AGE), 60.0)
        self.clock.advance(1)
        self.assertEqual(self.parameters.value(AGE), 30.0)
        self.store.rows = {AGE: "20", INTERVAL: "1"}
        self.clock.advance(60)
        self.assertEqual(self.parameters.value(AGE), 20.0)

    def test_a_reading_on_command_changes_at_once_and_says_what(self) -> None:
        self.start()
        self.store.rows = {AGE: "30", IDLE: "90", "sync_hour_utc": "25", "zebra": "1"}
        found = self.reload()
        self.assertEqual(found.changes, (Change(AGE, 60.0, 30.0),))
        self.assertEqual(found.at_restart, (Change(IDLE, 60, 90),))
        self.assertEqual([one.name for one in found.refused], ["sync_hour_utc"])
        self.assertEqual(found.unknown, ("zebra",))
        self.assertEqual(self.parameters.value(IDLE), 60)

    def test_a_reading_on_command_puts_the_next_one_off(self) -> None:
        self.start()
        self.clock.advance(200)
        self.reload()
        self.clock.advance(299)
        self.assertEqual(self.store.readings, 2)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(1)
        self.assertEqual(self.store.readings, 3)

    def test_each_listener_is_told_each_change_once(self) -> None:
        told: list[tuple[str, Any]] = []
        self.parameters.on_change(AGE, lambda value: told.append(("one", value)))
        self.parameters.on_change(AGE, lambda value: told.append(("two", value)))
        self.parameters.on_change("when_unmetered", lambda value: told.append(("level", value)))
        self.start()
        self.store.rows = {AGE: "30"}
        self.reload()
        self.reload()
        self.assertEqual(told, [("one", 30.0), ("two", 30.0)])
        self.store.rows = {}
        self.reload()
        self.assertEqual(told[2:], [("one", 60.0), ("two", 60.0)])

    def test_a_listener_that_fails_keeps_nothing_from_the_others(self) -> None:
        told: list[Any] = []
        self.parameters.on_change(AGE, lambda value: 1 / 0)
        self.parameters.on_change(AGE, told.append)
        self.start()
        self.store.rows = {AGE: "30"}
        self.assertEqual(self.reload().changes, (Change(AGE, 60.0, 30.0),))
        self.assertEqual(told, [30.0])
        self.assertEqual(self.counters.value("service_failures", "parameters"), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nobody_can_ask_for_a_parameter_that_is_none(self) -> None:
        with self.assertRaises(KeyError):
            self.parameters.value("zebra")
        with self.assertRaises(KeyError):
            self.parameters.on_change("zebra", print)

    def test_what_stays_wrong_is_logged_once(self) -> None:
        self.store.rows = {AGE: "0", "zebra": "1"}
        self.start()
        self.store.rows = {AGE: "0", IDLE: "90", "zebra": "2"}
        for _ in range(3):
            self.reload()
        self.assertEqual(sorted(self.log.lines), [
            "parameter 'zebra' stands in the database and is none: it has no effect",
            f"parameter {IDLE} is 90 in the database: 60 holds until the next start",
            f"parameter {AGE} = '0': must be a number from 1 to 3600; 60 stays",
        ])  # fmt: skip
        self.store.rows = {AGE: "30", IDLE: "90", "zebra": "2"}
        self.reload()
        self.store.rows = {AGE: "0", IDLE: "90", "zebra": "2"}
        self.reload()
        self.assertEqual(self.log.lines[3:], [
            f"parameter {AGE}: 60 -> 30", f"parameter {AGE} = '0': must be a number from 1 to 3600; 30 stays",
        ])  # fmt: skip

    def test_the_copy_is_written_at_each_reading(self) -> None:
        self.store.rows = {AGE: "30", "zebra": "1"}
        self.start()
        self.assertEqual(self.copies.rows, {AGE: "30", "zebra": "1"})
        self.copies.rows = {}
        self.reload()
        self.assertEqual(self.copies.rows, {AGE: "30", "zebra": "1"})

    def test_a_cache_that_is_away_does_no_harm(self) -> None:
        self.copies.away = True
        self.store.rows = {AGE: "30"}
        self.assertEqual(self.start().source, DATABASE)
        self.assertEqual(self.parameters.value(AGE), 30.0)

    def test_without_a_cache(self) -> None:
        self.parameters = Parameters(self.store, None, self.clock, self.counters)
        self.store.rows = StoreUnavailableError("away")
        self.assertEqual(self.start().source, NOWHERE)
        self.store.rows = {AGE: "30"}
        self.assertEqual(self.reload().source, DATABASE)

    def test_with_the_database_away_at_the_start_the_copy_holds(self) -> None:
        self.store.rows = StoreUnavailableError("connection refused")
        self.copies.rows = {AGE: "30", IDLE: "90"}
        self.assertEqual(self.start().source, CACHE)
        self.assertEqual((self.parameters.value(AGE), self.parameters.value(IDLE)), (30.0, 90))
        self.assertEqual(self.copies.puts, 0)
        self.assertIn("the parameters cannot be read from the database: connection refused", self.log.lines)
        self.store.rows = {AGE: "20"}
        self.clock.advance(AGAIN_SECONDS)
        self.assertEqual(self.parameters.value(AGE), 20.0)
        self.assertEqual(self.parameters.value(IDLE), 90)
        self.assertIn("the parameters can be read from the database again", self.log.lines)

    def test_a_copy_that_somebody_spoilt_is_judged_like_any_row(self) -> None:
        self.store.rows = StoreUnavailableError("away")
        self.copies.rows = {AGE: "-1", "when_unmetered": "refuse"}
        self.start()
        self.assertEqual((self.parameters.value(AGE), self.parameters.value("when_unmetered")), (60.0, "refuse"))

    def test_with_both_away_at_the_start_the_defaults_hold_until_the_database_is_back(self) -> None:
        self.store.rows = StoreUnavailableError("away")
        self.copies.away = True
        self.assertEqual(self.start().source, NOWHERE)
        self.assertEqual(self.parameters.value(AGE), 60.0)
        self.store.rows = {AGE: "30", IDLE: "90"}
        self.clock.advance(AGAIN_SECONDS)
        self.assertEqual(self.parameters.value(AGE), 30.0)
        self.assertEqual(self.parameters.value(IDLE), 60)  # the start is over

    def test_a_database_that_goes_away_changes_nothing_and_is_one_line(self) -> None:
        self.store.rows = {AGE: "30"}
        self.copies.rows = {AGE: "99"}
        self.start()
        self.store.rows = StoreUnavailableError("away")
        self.log.lines.clear()
        self.clock.pump([300.0, AGAIN_SECONDS, AGAIN_SECONDS])
        self.assertEqual(self.store.readings, 4)
        self.assertEqual(self.parameters.value(AGE), 30.0)
        self.assertEqual(self.log.lines, ["the parameters cannot be read from the database: away"])
        self.assertEqual(self.counters.value("service_failures", "parameters"), 3)

    def test_a_surprise_ends_neither_the_start_nor_the_readings(self) -> None:
        self.store.rows = ZeroDivisionError()
        self.assertEqual(self.start().source, NOWHERE)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.store.rows = {AGE: "30"}
        self.clock.advance(AGAIN_SECONDS)
        self.assertEqual(self.parameters.value(AGE), 30.0)

    def test_who_asks_during_a_reading_is_told_of_the_next(self) -> None:
        self.start()
        slow: Deferred[Mapping[str, str]] = Deferred()
        self.store.rows = slow
        first, second, third = (self.parameters.reload() for _ in range(3))
        self.assertEqual(self.store.readings, 2)
        self.store.rows = {AGE: "30"}
        slow.callback({AGE: "20"})
        self.assertEqual(self.successResultOf(first).changes, (Change(AGE, 60.0, 20.0),))
        self.assertEqual(self.successResultOf(second).changes, (Change(AGE, 20.0, 30.0),))
        self.assertEqual(self.successResultOf(third).source, DATABASE)
        self.assertEqual(self.parameters.value(AGE), 30.0)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_the_stop_waits_for_the_reading_under_way_and_leaves_nothing(self) -> None:
        self.start()
        slow: Deferred[Mapping[str, str]] = Deferred()
        self.store.rows = slow
        self.clock.advance(300)
        stopped = self.parameters.stopService()
        assert stopped is not None
        self.assertNoResult(stopped)
        slow.callback({})
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_can_be_stopped_and_started_again(self) -> None:
        self.start()
        self.assertIsNone(self.parameters.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.store.rows = {AGE: "30"}
        self.assertEqual(self.successResultOf(self.parameters.startService()).changes, (Change(AGE, 60.0, 30.0),))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_a_listener_may_ask_for_a_reading(self) -> None:
        self.start()
        self.parameters.on_change(AGE, lambda _: self.parameters.reload())
        self.store.rows = {AGE: "30"}
        self.reload()
        self.assertEqual(self.store.readings, 3)
