"""tbeast check-config: the table, and the faults."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from tbeast.commands.main import main
from tbeast.settings import SETTINGS


class CheckConfigTests(SynchronousTestCase):
    def check(self, *arguments: str, **environ: str | None) -> Result:
        clean = dict.fromkeys(SETTINGS)
        return CliRunner().invoke(main, ["check-config", *arguments], env={**clean, **environ})

    def rows(self, result: Result) -> dict[str, tuple[str, str]]:
        cells = [[cell.strip() for cell in line.split("│")] for line in result.stdout.splitlines() if "│" in line]
        return {row[1]: (row[2], row[3]) for row in cells}

    def test_every_setting_with_its_origin(self) -> None:
        path = Path(self.mktemp()).absolute()
        path.write_text("\nudp_port_lpo = 7\n")
        result = self.check("--config", str(path), "--feeds=lab", TCP_PORT_LPO="81", CLUSTER_NODE="falcon")
        self.assertEqual(result.exit_code, 0, result.output)
        rows = self.rows(result)
        self.assertEqual(set(rows), set(SETTINGS))
        self.assertEqual(rows["TCP_PORT_LPO"], ("81", "environment"))
        self.assertEqual(rows["TBEAST_FEEDS"], ("lab", "option --feeds"))
        self.assertEqual(rows["TBEAST_MAX_PRICE_AGE_SECONDS"], ("60", "default"))
        self.assertEqual(rows["UDP_PORT_LPO"][0], "7")
        self.assertIn("The settings are sound.", result.stdout)

    def test_secrets_are_masked(self) -> None:
        result = self.check(
            ADMIN_KEY="correct-horse-battery",
            TBEAST_KEYS="desk:pro:opensesame",
            AURORA_URL="postgresql://me:hunter2@db",
        )
        self.assertEqual(result.exit_code, 0, result.output)
        for word in ("correct-horse", "opensesame", "hunter2"):
            self.assertNotIn(word, result.output)
        self.assertEqual(self.rows(result)["TBEAST_KEYS"][0], "desk:pro:***")

    def test_what_has_no_effect_is_named(self) -> None:
        result = self.check(HEALTH_PORT_WEBHOOK="9999")
        self.assertIn("! HEALTH_PORT_WEBHOOK is set and has no effect: this version has no webhook", result.stdout)

    def test_markup_in_a_value_is_no_markup(self) -> None:
        rows = self.rows(self.check(TBEAST_STATE="[red]var[/red]"))
        self.assertEqual(rows["TBEAST_STATE"][0], "[red]var[/red]")

    def test_every_fault(self) -> None:
        missing = self.mktemp()
        result = self.check("--config", missing, TCP_PORT_LPO="x", TBEAST_NONSENSE="1")
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(result.stdout, "")
        lines = result.stderr.splitlines()
        self.assertEqual(len(lines), 4, lines)
        self.assertEqual(lines[0], "3 faults in the settings:")

    def test_a_file_that_is_missing(self) -> None:
        missing = self.mktemp()
        result = self.check(TBEAST_TLS_CERT=missing, TBEAST_TLS_KEY=__file__)
        self.assertEqual(result.exit_code, 1)
        self.assertIn("1 fault in the settings:", result.stderr)
        self.assertIn("TBEAST_TLS_CERT", result.stderr)
