"""Parameters: the table of them, and what rows amount to."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.parameters import PARAMETERS, Change, defaults, judge, read, written

AGE = "max_price_age_seconds"
IDLE = "http_idle_timeout_seconds"


class TableTests(SynchronousTestCase):
    def test_every_default_is_allowed_and_survives_being_written(self) -> None:
        for name, parameter in PARAMETERS.items():
            self.assertEqual(name, parameter.name)
            self.assertEqual(read(name, written(parameter.default)), parameter.default, name)
            self.assertIs(type(read(name, written(parameter.default))), type(parameter.default), name)

    def test_every_parameter_tells_what_it_is_for(self) -> None:
        for parameter in PARAMETERS.values():
            self.assertRegex(parameter.description, r"^[A-Z].*\.$")
            self.assertTrue(parameter.kind.allowed)

    def test_the_table_cannot_be_changed(self) -> None:
        with self.assertRaises(TypeError):
            PARAMETERS["x"] = PARAMETERS[AGE]  # type: ignore[index]

    def test_numbers_are_written_as_people_do(self) -> None:
        self.assertEqual([written(value) for value in (60.0, 0.5, 7, "refuse")], ["60", "0.5", "7", "refuse"])


class ReadTests(SynchronousTestCase):
    def fault(self, name: str, raw: object) -> str:
        return str(self.assertRaises(ValueError, read, name, raw))

    def test_bounds(self) -> None:
        cases: tuple[tuple[str, tuple[object, ...], tuple[object, ...]], ...] = (
            (AGE, ("1", "3600", " 60 ", 5, 2.5), ("0.9", "3600.1", "", "x", "nan", "-1", True, None)),
            ("sync_hour_utc", ("0", "23"), ("24", "-1", "6.5")),
            ("when_unmetered", ("SERVE", "refuse"), ("verbose", "", 3)),
            ("usage_log_batch_rows", ("1", "300"), ("0", "301")),
            ("usage_log_flush_ms", ("10", "1000"), ("9", "1001")),
        )
        for name, good, bad in cases:
            for raw in good:
                read(name, raw)
            for raw in bad:
                self.assertIn(f"{name} = {raw!r}: must be ", self.fault(name, raw))

    def test_an_unknown_name_is_told_with_the_nearest(self) -> None:
        self.assertEqual(
            self.fault("max_price_age", "1"), "there is no parameter max_price_age; did you mean max_price_age_seconds?"
        )
        self.assertEqual(self.fault("zzz", "1"), "there is no parameter zzz")

    def test_a_fault_quotes_no_novel(self) -> None:
        self.assertLess(len(self.fault(AGE, "x" * 10_000)), 200)

    def test_defaults_that_the_settings_give(self) -> None:
        self.assertEqual(defaults({AGE: 45.0})[AGE], 45.0)
        self.assertEqual(defaults()[AGE], 60.0)
        with self.assertRaises(ValueError):
            defaults({AGE: 0})
        with self.assertRaises(ValueError):
            defaults({"nonsense": 1})


class JudgeTests(SynchronousTestCase):
    def test_no_rows_are_the_defaults(self) -> None:
        found = judge({}, defaults())
        self.assertEqual(dict(found.values), defaults())
        self.assertEqual((found.changes, found.at_restart, found.refused, found.unknown), ((), (), (), ()))

    def test_at_the_start_every_row_comes_into_force(self) -> None:
        found = judge({AGE: "30", IDLE: "90"}, defaults())
        self.assertEqual((found.values[AGE], found.values[IDLE]), (30.0, 90))
        self.assertEqual(found.changes, (Change(AGE, 60.0, 30.0), Change(IDLE, 60, 90)))
        self.assertEqual(found.at_restart, ())

    def test_later_a_hot_one_changes_and_the_other_waits(self) -> None:
        before = judge({AGE: "30", IDLE: "90"}, defaults()).values
        found = judge({AGE: "20", IDLE: "80"}, defaults(), before)
        self.assertEqual((found.values[AGE], found.values[IDLE]), (20.0, 90))
        self.assertEqual(found.changes, (Change(AGE, 30.0, 20.0),))
        self.assertEqual(found.at_restart, (Change(IDLE, 90, 80),))

    def test_a_row_that_goes_brings_the_default_back(self) -> None:
        before = judge({AGE: "30", IDLE: "90"}, defaults()).values
        found = judge({}, defaults({AGE: 45}), before)
        self.assertEqual(found.changes, (Change(AGE, 30.0, 45.0),))
        self.assertEqual(found.at_restart, (Change(IDLE, 90, 60),))

    def test_a_bad_value_is_refused_and_the_old_one_stays(self) -> None:
        before = judge({AGE: "30"}, defaults()).values
        found = judge({AGE: "0"}, defaults(), before)
        self.assertEqual((found.values[AGE], found.changes), (30.0, ()))
        (refused,) = found.refused
        self.assertEqual(refused.reason, f"{AGE} = '0': must be a number from 1 to 3600")

    def test_a_bad_value_at_the_start_leaves_the_default(self) -> None:
        found = judge({AGE: "soon", IDLE: "1"}, defaults({AGE: 45}))
        self.assertEqual((found.values[AGE], found.values[IDLE]), (45.0, 60))
        self.assertEqual([one.name for one in found.refused], [AGE, IDLE])

    def test_unknown_rows_are_named_and_do_nothing(self) -> None:
        found = judge({"zebra": "1", "ant": "2", AGE: "30"}, defaults())
        self.assertEqual(found.unknown, ("ant", "zebra"))
        self.assertEqual(found.values.keys(), PARAMETERS.keys())

    @given(
        st.dictionaries(st.sampled_from([*PARAMETERS, "other"]), st.text(max_size=6) | st.integers().map(str)),
        st.dictionaries(st.sampled_from(list(PARAMETERS)), st.sampled_from(["7", "20", "100", "refuse"])),
    )
    @settings(deadline=None, max_examples=200)
    def test_whatever_the_rows_say_every_value_in_force_is_allowed(
        self, rows: dict[str, str], earlier: dict[str, str]
    ) -> None:
        before = judge(earlier, defaults()).values
        found = judge(rows, defaults(), before)
        for name, value in found.values.items():
            self.assertEqual(read(name, value), value)
        moved = {name for name, value in found.values.items() if value != before[name]}
        self.assertEqual(moved, {change.name for change in found.changes})
        self.assertTrue(all(PARAMETERS[name].hot for name in moved))
        again = judge(rows, defaults(), found.values)
        self.assertEqual((again.values, again.changes), (found.values, ()))

    @given(st.sampled_from(list(PARAMETERS)), st.floats(0, 5000) | st.integers(0, 5000))
    @settings(deadline=None, max_examples=200)
    def test_what_is_read_and_written_is_read_again(self, name: str, raw: Any) -> None:
        try:
            value = read(name, raw)
        except ValueError:
            return
        self.assertEqual(read(name, written(value)), value)
