"""The `tbeast` command: what it lists, and that it loads no more than it needs."""

from __future__ import annotations

import subprocess
import sys

import click
from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from tbeast.commands.main import SUBCOMMANDS, main


class MainTests(SynchronousTestCase):
    def test_help_lists_every_subcommand(self) -> None:
        result = CliRunner().invoke(main, ["--help"])
        self.assertEqual(result.exit_code, 0)
        for name, (_, line) in SUBCOMMANDS.items():
            self.assertIn(name, result.output)
            self.assertIn(line, " ".join(result.output.split()))

    def test_every_subcommand_loads_and_explains_itself(self) -> None:
        for name in SUBCOMMANDS:
            context = click.Context(main)
            command = main.get_command(context, name)
            assert command is not None
            self.assertEqual(command.name, name)
            self.assertTrue(command.help, name)

    def test_an_unknown_subcommand(self) -> None:
        result = CliRunner().invoke(main, ["prices-please"])
        self.assertEqual(result.exit_code, 2)
        self.assertIn("No such command", result.output)

    def test_the_help_loads_neither_twisted_nor_a_subcommand(self) -> None:
        program = (
            "import sys\nfrom tbeast.commands.main import main\n"
            "main(['--help'], standalone_mode=False)\n"
            "print(sorted(name for name in sys.modules if name in ('twisted', 'rich', 'treq', 'autobahn')\n"
            "    or name.startswith('tbeast.commands.') and name != 'tbeast.commands.main'), file=sys.stderr)\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, timeout=60
        )
        self.assertEqual(ran.stderr, b"[]\n")
