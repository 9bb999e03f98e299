"""Build the wheel, install it alone into a bare environment far from the checkout, and start what was installed.

What is tested is what a user gets: that the plugin and the tables are in the wheel, and that both front ends start the
daemon, feed it from the lab, answer a question, and stop it in good order.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from daemon import DaemonError, running

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "tbeast", "twisted")
WANTED = (
    "tbeast/py.typed",
    "tbeast/data/assets.csv",
    "tbeast/data/stablecoins.csv",
    "tbeast/data/ui/page.html",
    "tbeast/data/ui/page.js",
    "tbeast/data/ui/page.css",
    "twisted/plugins/tbeast_plugin.py",
)
NEVER = ("twisted/__init__.py", "twisted/plugins/__init__.py")
FRONTS = {
    "twistd": ("twistd", "-n", "--pidfile=", "tbeast"),
    "twist": ("twist", "--log-format=text", "tbeast"),
}


class WheelError(Exception):
    """Something about the wheel is not as it must be."""


def run(*command: str | Path, folder: Path) -> str:
    """Run a command away from the checkout, with none of its paths; what it wrote comes back."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "TBEAST", "COVERAGE"))}
    ran = subprocess.run(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=400,
    )  # fmt: skip
    if ran.returncode:
        raise WheelError(f"{' '.join(map(str, command))} ended with {ran.returncode}:\n{ran.stdout}")
    return ran.stdout


def build(folder: Path) -> Path:
    """Build the wheel from a clean copy: leftovers of earlier builds would get into it."""
    copy = folder / "source"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache", "*.so"))
        else:
            shutil.copy(source, copy / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps")
    run(*pip, "--wheel-dir", folder, copy, folder=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """See that everything is in it, and nothing that would hide Twisted or its plugins."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    missing = [name for name in WANTED if name not in names]
    for path in (ROOT / "tbeast").rglob("*"):
        name = str(path.relative_to(ROOT))
        if path.is_file() and path.suffix in (".py", ".csv", ".json", ".jsonl") and name not in names:
            missing.append(name)
    if missing:
        raise WheelError(f"not in the wheel: {', '.join(sorted(set(missing)))}")
    wrong = [name for name in names if name in NEVER or name.startswith(("tools/", "benchmarks/", "docs/"))]
    if wrong:
        raise WheelError(f"in the wheel, and must not be: {', '.join(wrong)}")


def install(wheel: Path, folder: Path) -> Path:
    """Install it, with the pinned versions of what it needs; the programs' folder comes back."""
    place = folder / "bare"
    venv.create(place, with_pip=True)
    programs = place / "bin"
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--root-user-action=ignore")
    pip = (programs / "python", "-m", "pip")
    run(*pip, "install", *quiet, "--constraint", ROOT / "requirements" / "run.txt", f"{wheel}[embedded]", folder=folder)
    run(*pip, "check", folder=folder)
    return programs


def try_front(front: str, programs: Path, folder: Path) -> None:
    """Start the daemon by one front end, ask it, stop it."""
    place = folder / front
    place.mkdir()
    program, *arguments = FRONTS[front]
    with running([programs / program, *arguments], place) as daemon:
        daemon.wait_until_healthy()
        status, body = daemon.get("TCP_PORT_LPO", "/price?asset=btc")
        answer = json.loads(body)
        if status != 200 or answer.get("asset") != "BTC" or answer.get("simulated") is not True:
            raise daemon.fail(f"/price answered {status} {body!r}")
        daemon.stop()


def main() -> int:
    """Do all of it."""
    with TemporaryDirectory(prefix="tbeast-wheel-") as name:
        folder = Path(name)
        try:
            wheel = build(folder)
            check_contents(wheel)
            programs = install(wheel, folder)
            run(programs / "tbeast", "--version", folder=folder)
            run(programs / "tbeast", "check-config", folder=folder)
            for front in FRONTS:
                try_front(front, programs, folder)
        except (WheelError, DaemonError) as error:
            print(error)
            return 1
    print(f"{wheel.name}: installed bare, it starts by {' and by '.join(FRONTS)}, answers and stops")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
