"""What must hold of the package as a whole."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tbeast
import twisted
from twisted.plugins import tbeast_plugin

PACKAGE = Path(tbeast.__file__).parent


def modules() -> list[str]:
    """The daemon's own modules, by name."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[1] not in ("test", "testing") and parts[-1] not in ("__init__", "__main__"):
            names.append(".".join(parts))
    return names


class HouseTests(SynchronousTestCase):
    def test_nothing_hides_twisted_or_the_plugin(self) -> None:
        """In a checkout the two folders have no __init__.py; installed, they are Twisted's own."""
        plugins = Path(tbeast_plugin.__file__).parent
        if plugins.parent != Path(twisted.__file__).parent:
            self.assertEqual([path.name for path in plugins.glob("__init__.*")], [])
            self.assertEqual([path.name for path in plugins.parent.glob("__init__.*")], [])
        else:
            self.assertTrue((plugins / "__init__.py").exists())

    def test_packages_hold_a_docstring_and_nothing_else(self) -> None:
        folders = {path.parent for path in PACKAGE.rglob("*.py")}
        self.assertGreater(len(folders), 10)
        for folder in folders:
            body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
            self.assertEqual([type(node) for node in body], [ast.Expr], folder)

    def test_importing_it_chooses_no_reactor(self) -> None:
        """The front end has the choice (twist --reactor), so no module may take the default by being imported."""
        names = modules()
        self.assertGreater(len(names), 30)
        program = (
            "import importlib, sys\n"
            f"for name in {names!r}:\n"
            "    importlib.import_module(name)\n"
            "    if 'twisted.internet.reactor' in sys.modules:\n"
            "        sys.exit(f'{name} installs the reactor')\n"
        )
        path = ":".join(entry for entry in (str(PACKAGE.parent), *sys.path) if entry)
        ran = subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
        )
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))

    def test_the_command_is_installed(self) -> None:
        (command,) = [entry for entry in entry_points(group="console_scripts") if entry.name == "tbeast"]
        self.assertEqual(command.value, "tbeast.commands.main:main")
