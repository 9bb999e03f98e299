"""The tables of parameters and profiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.adapters.store.parameterrows import (
    PostgresParameters,
    Profile,
    apply_profile,
    profiles,
    read_rows,
    remove_profile,
    save_profile,
    set_values,
    unset,
)
from tbeast.adapters.store.postgres import target
from tbeast.adapters.store.threads import StorePool
from tbeast.domain.parameters import PARAMETERS
from tbeast.errors import StoreUnavailableError
from tbeast.testing.postgres import fresh_connection, fresh_database

AGE = "max_price_age_seconds"
WHEN = "when_unmetered"


class ParameterRowsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh_connection(self)

    def run_sql(self, query: str) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall() if cursor.description else None

    def fault(self, call: Callable[..., object], *arguments: object) -> str:
        return str(self.assertRaises(ValueError, call, self.connection, *arguments))

    def test_a_new_database_says_nothing(self) -> None:
        self.assertEqual(read_rows(self.connection), {})
        self.assertEqual(profiles(self.connection), [])

    def test_set_and_set_again_and_unset(self) -> None:
        self.assertEqual(set_values(self.connection, {AGE: "30.0", WHEN: "REFUSE"}), {AGE: "30", WHEN: "refuse"})
        self.assertEqual(read_rows(self.connection), {AGE: "30", WHEN: "refuse"})
        set_values(self.connection, {AGE: 20})
        self.assertEqual(read_rows(self.connection), {AGE: "20", WHEN: "refuse"})
        self.assertTrue(unset(self.connection, AGE))
        self.assertFalse(unset(self.connection, AGE))
        self.assertEqual(read_rows(self.connection), {WHEN: "refuse"})

    def test_the_description_and_the_time_are_kept_with_it(self) -> None:
        set_values(self.connection, {AGE: 30})
        ((description, first),) = self.run_sql("SELECT description, changed_at FROM application_parameters")
        self.assertEqual(description, PARAMETERS[AGE].description)
        set_values(self.connection, {AGE: 20})
        ((second,),) = self.run_sql("SELECT changed_at FROM application_parameters")
        self.assertGreater(second, first)

    def test_all_or_nothing_is_set(self) -> None:
        message = self.fault(set_values, {WHEN: "refuse", AGE: "0", "zebra": "1"})
        self.assertIn("max_price_age_seconds = '0': must be", message)
        self.assertIn("there is no parameter zebra", message)
        self.assertEqual(read_rows(self.connection), {})

    def test_what_was_written_by_hand_is_read_as_it_is(self) -> None:
        self.run_sql(f"INSERT INTO application_parameters (key, value) VALUES ('{AGE}', 'soon'), ('zebra', '')")
        self.assertEqual(read_rows(self.connection), {AGE: "soon", "zebra": ""})
        self.assertTrue(unset(self.connection, "zebra"))

    def test_a_profile_sets_what_it_says_and_no_more(self) -> None:
        save_profile(self.connection, "calm", {AGE: "30.0", WHEN: "refuse"}, "for quiet times")
        self.assertEqual(profiles(self.connection), [Profile("calm", "for quiet times", {AGE: "30", WHEN: "refuse"})])
        set_values(self.connection, {"sync_hour_utc": 3, AGE: 99})
        self.assertEqual(apply_profile(self.connection, "calm"), {AGE: "30", WHEN: "refuse"})
        self.assertEqual(read_rows(self.connection), {AGE: "30", WHEN: "refuse", "sync_hour_utc": "3"})

    def test_a_profile_is_made_anew_and_removed(self) -> None:
        save_profile(self.connection, "calm", {AGE: 30})
        save_profile(self.connection, "calm", {WHEN: "refuse"}, "other")
        self.assertEqual(profiles(self.connection), [Profile("calm", "other", {WHEN: "refuse"})])
        self.assertTrue(remove_profile(self.connection, "calm"))
        self.assertFalse(remove_profile(self.connection, "calm"))
        self.assertEqual(profiles(self.connection), [])

    def test_a_profile_at_fault_is_neither_saved_nor_applied(self) -> None:
        self.assertIn("must be", self.fault(save_profile, "calm", {AGE: 0}))
        self.assertEqual(profiles(self.connection), [])
        self.run_sql(
            "INSERT INTO application_parameter_profiles (profile_name, parameters) VALUES"
            f""" ('bad', '{{"{WHEN}": "refuse", "{AGE}": 0}}'), ('odd', '[1]'), ('numbers', '{{"{AGE}": 30.0}}')"""
        )
        self.assertIn("must be a number from 1 to 3600", self.fault(apply_profile, "bad"))
        self.assertIn("is no JSON object", self.fault(apply_profile, "odd"))
        self.assertEqual(self.fault(apply_profile, "gone"), "there is no profile gone")
        self.assertEqual(read_rows(self.connection), {})
        self.assertEqual(apply_profile(self.connection, "numbers"), {AGE: "30"})

    def test_an_empty_profile(self) -> None:
        save_profile(self.connection, "nothing", {})
        self.assertEqual(apply_profile(self.connection, "nothing"), {})


class PostgresParametersTests(TestCase):
    async def test_for_the_daemon(self) -> None:
        pool = StorePool(target(fresh_database(self)), cast(Any, reactor))
        pool.start()
        self.addCleanup(pool.stop)
        parameters = PostgresParameters(pool)
        self.assertEqual(await parameters.read(), {})
        await pool.run(lambda connection: set_values(connection, {AGE: 30}))
        self.assertEqual(await parameters.read(), {AGE: "30"})
        await pool.stop()
        with self.assertRaises(StoreUnavailableError):
            await parameters.read()
