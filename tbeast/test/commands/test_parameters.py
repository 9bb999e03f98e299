"""tbeast parameters, on a real database."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store.postgres import connect, target
from tbeast.commands.parameters import command
from tbeast.domain.parameters import PARAMETERS
from tbeast.settings import SETTINGS
from tbeast.testing.postgres import fresh_database

AGE = "max_price_age_seconds"


class ParametersCommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.url = fresh_database(self)

    def tbeast(self, *arguments: str, **environ: str | None) -> Result:
        clean = dict.fromkeys(SETTINGS)
        return CliRunner().invoke(command, arguments, env={**clean, "AURORA_URL": self.url, **environ})

    def done(self, *arguments: str) -> str:
        result = self.tbeast(*arguments)
        self.assertEqual((result.exit_code, result.stderr), (0, ""), result.output)
        return result.stdout

    def refused(self, *arguments: str) -> str:
        result = self.tbeast(*arguments)
        self.assertEqual((result.exit_code, result.stdout), (1, ""), result.output)
        return result.stderr.strip()

    def run_sql(self, query: str) -> Any:
        connection = connect(target(self.url))
        with connection.cursor() as cursor:
            cursor.execute(query)
            found = cursor.fetchall() if cursor.description else None
        connection.commit()
        connection.close()
        return found

    def test_the_list_has_every_parameter(self) -> None:
        self.done("set", AGE, "45")
        cells = [
            [cell.strip() for cell in line.split("│")[1:-1]] for line in self.done("list").splitlines() if "│" in line
        ]
        rows = {row[0]: row[1:4] for row in cells}
        self.assertLessEqual(set(PARAMETERS), set(rows))
        self.assertEqual(rows[AGE], ["45", "60", "at once"])
        self.assertEqual(rows["http_idle_timeout_seconds"], ["60", "60", "at a start"])

    def test_the_default_is_what_the_settings_give(self) -> None:
        found = json.loads(self.tbeast("list", "--json", TBEAST_MAX_PRICE_AGE_SECONDS="30").stdout)
        age = next(one for one in found["parameters"] if one["name"] == AGE)
        self.assertEqual((age["default"], age["value"], age["set"]), (30.0, 30.0, False))

    def test_the_list_as_json(self) -> None:
        self.done("set", AGE, "45")
        found = json.loads(self.done("list", "--json"))
        by_name = {one["name"]: one for one in found["parameters"]}
        self.assertEqual(list(by_name), list(PARAMETERS))
        self.assertEqual((by_name[AGE]["value"], by_name[AGE]["set"], by_name[AGE]["hot"]), (45.0, True, True))
        self.assertEqual(by_name["when_unmetered"]["set"], False)
        self.assertEqual(found["unknown"], [])

    def test_the_list_names_what_is_wrong(self) -> None:
        self.run_sql(f"INSERT INTO application_parameters (key, value) VALUES ('{AGE}', 'soon'), ('zebra', '1')")
        listed = self.done("list")
        self.assertIn(f"! {AGE} = 'soon': must be a number from 1 to 3600; it is as if it were not set\n", listed)
        self.assertIn("! zebra: there is no such parameter; the row has no effect\n", listed)
        found = json.loads(self.done("list", "--json"))
        self.assertEqual(found["unknown"], ["zebra"])
        self.assertEqual([one["name"] for one in found["parameters"] if one["refused"]], [AGE])

    def test_set_and_unset(self) -> None:
        self.assertEqual(self.done("set", AGE, "45.0"), f"{AGE} is 45, on every node within 5 minutes.\n")
        self.assertEqual(self.run_sql("SELECT key, value FROM application_parameters"), [(AGE, "45")])
        self.assertEqual(self.done("unset", AGE), f"{AGE} is 60, on every node within 5 minutes.\n")
        self.assertEqual(self.run_sql("SELECT key FROM application_parameters"), [])
        self.assertEqual(self.refused("unset", AGE), f"{AGE} is not set")

    def test_the_interval_itself_and_what_needs_a_start(self) -> None:
        self.done("set", "application_parameter_interval_minutes", "1")
        self.assertIn("within 1 minutes", self.done("set", AGE, "45"))
        self.assertEqual(
            self.done("set", "http_idle_timeout_seconds", "30"),
            "http_idle_timeout_seconds is 30, on every node when it is started again.\n",
        )

    def test_what_is_not_allowed_is_refused_and_nothing_is_written(self) -> None:
        self.assertEqual(self.refused("set", AGE, "0"), f"{AGE} = '0': must be a number from 1 to 3600")
        self.assertIn("did you mean max_price_age_seconds?", self.refused("set", "max_price_age", "5"))
        self.assertEqual(self.run_sql("SELECT key FROM application_parameters"), [])

    def test_a_row_that_is_no_parameter_can_be_removed(self) -> None:
        self.run_sql("INSERT INTO application_parameters (key, value) VALUES ('zebra', '1')")
        self.assertEqual(self.done("unset", "zebra"), "zebra is removed.\n")

    def test_profiles(self) -> None:
        self.assertEqual(self.done("profile", "list"), "There are no profiles.\n")
        self.done("profile", "save", "calm", f"{AGE}=90", "when_unmetered=refuse", "--description", "at night")
        self.assertEqual(self.done("profile", "list"), f"calm: when_unmetered=refuse, {AGE}=90 - at night\n")
        self.assertEqual(self.run_sql("SELECT key FROM application_parameters"), [])
        applied = self.done("profile", "apply", "calm")
        self.assertIn(f"{AGE} is 90, on every node", applied)
        self.assertEqual(
            self.run_sql("SELECT key, value FROM application_parameters ORDER BY key"),
            [(AGE, "90"), ("when_unmetered", "refuse")],
        )
        self.done("profile", "remove", "calm")
        self.assertEqual(self.refused("profile", "remove", "calm"), "there is no profile calm")
        self.assertEqual(self.refused("profile", "apply", "calm"), "there is no profile calm")

    def test_a_profile_that_is_not_allowed(self) -> None:
        self.assertIn("must be", self.refused("profile", "save", "calm", f"{AGE}=0", "when_unmetered=refuse"))
        self.assertEqual(self.refused("profile", "save", "calm", AGE), f"{AGE}: give PARAMETER=VALUE")
        self.assertEqual(self.done("profile", "list"), "There are no profiles.\n")

    def test_settings_at_fault_and_a_database_that_is_away(self) -> None:
        result = self.tbeast("list", AURORA_URL="postgresql://127.0.0.1:1/none")
        self.assertEqual(result.exit_code, 3)
        self.assertIn("the database cannot be asked: ", result.stderr)
        result = self.tbeast("list", TCP_PORT_LPO="x")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("TCP_PORT_LPO", result.stderr)
