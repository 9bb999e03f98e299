"""tbeast lab: hands its words to the lab."""

from __future__ import annotations

import sys
from types import ModuleType

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from tbeast.commands.main import main


class LabCommandTests(SynchronousTestCase):
    def run_with(self, status: int | None, *arguments: str) -> tuple[int, list[list[str]]]:
        heard: list[list[str]] = []

        def run(argv: list[str]) -> int | None:
            heard.append(argv)
            return status

        stub = ModuleType("tbeast.lab.main")
        stub.run = run  # type: ignore[attr-defined]
        before = sys.modules.get("tbeast.lab.main")
        sys.modules["tbeast.lab.main"] = stub
        try:
            result = CliRunner().invoke(main, ["lab", *arguments])
        finally:
            if before is None:
                del sys.modules["tbeast.lab.main"]
            else:
                sys.modules["tbeast.lab.main"] = before
        return result.exit_code, heard

    def test_every_word_goes_to_the_lab(self) -> None:
        words = ["--help", "--seed", "7", "-x", "--", "more"]
        status, heard = self.run_with(None, *words)
        self.assertEqual(status, 0)
        self.assertEqual([word for word in heard[0] if word != "--"], [word for word in words if word != "--"])

    def test_its_status_is_ours(self) -> None:
        self.assertEqual(self.run_with(3), (3, [[]]))
