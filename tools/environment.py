"""Make .venv hold what a lock file names, and tbeast itself, editable. Quick when there is nothing to do.

Called by the Makefile with any Python from 3.11 on: tools/environment.py run|test|dev. A .venv of another Python, or
of another place, is made anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONTAINED = {"run": ("run",), "test": ("run", "test"), "dev": ("run", "test", "dev")}
"""Name of a lock: the locks whose packages it brings as well."""


def pip(*arguments: str) -> None:
    """Run the pip of .venv without its chatter; what it says when it fails is shown."""
    quiet = ("--quiet", "--quiet", "--disable-pip-version-check", "--no-input", "--root-user-action=ignore")
    environ = {name: text for name, text in os.environ.items() if name not in ("PIP_USER", "PYTHONPATH", "PYTHONHOME")}
    subprocess.run([PYTHON, "-m", "pip", arguments[0], *quiet, *arguments[1:]], check=True, cwd=ROOT, env=environ)


def mark(*parts: str | bytes) -> str:
    """What tells one state of the environment from another."""
    digest = hashlib.sha256()
    for part in (sys.version, os.path.realpath(sys.base_prefix), str(VENV), *parts):
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


def stands(stamp: Path, wanted: str) -> bool:
    """Whether the stamp says so."""
    return stamp.is_file() and stamp.read_text() == wanted


def make_venv() -> None:
    """Make .venv, unless one of this Python stands at this place."""
    stamp, wanted = VENV / "tbeast-venv.stamp", mark()
    if stands(stamp, wanted) and PYTHON.exists():
        return
    if VENV.is_symlink():
        sys.exit("tbeast: .venv is a link; take it away, or work without make")
    if VENV.exists():
        print(".venv is of another Python or from another place: making it anew", flush=True)
        shutil.rmtree(VENV)
    print(f"making .venv with Python {sys.version.split()[0]}", flush=True)
    try:
        venv.create(VENV, with_pip=True)
    except (subprocess.CalledProcessError, ImportError):
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit(
            "tbeast: this Python cannot make a virtual environment (Debian and Ubuntu keep that in the package"
            " python3-venv); install it, or name another Python: make PYTHON=/path/to/python3 ..."
        )
    stamp.write_text(wanted)


def install(name: str) -> None:
    """Install the lock C{name} and tbeast, unless they are there already."""
    lock = ROOT / "requirements" / f"{name}.txt"
    native = sorted((ROOT / "tbeast" / "native").glob("*.[ch]"))
    recipe = [file.read_bytes() for file in (ROOT / "setup.py", ROOT / "pyproject.toml", *native)]
    wanted = mark(lock.read_bytes(), *recipe)
    stamps = {each: VENV / f"tbeast-{each}.stamp" for each in CONTAINED}
    if any(stands(stamps[each], mark((ROOT / "requirements" / f"{each}.txt").read_bytes(), *recipe))
           for each in CONTAINED if name in CONTAINED[each]):  # fmt: skip
        return
    print(f"installing requirements/{name}.txt into .venv (once)", flush=True)
    try:
        pip("install", "-r", str(lock.relative_to(ROOT)))
        # compat: the newer way of editable installs hides the plugin from Twisted
        pip("install", "--no-deps", "--config-settings", "editable_mode=compat", "-e", ".")
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"tbeast: pip could not install requirements/{name}.txt (its words stand above); status {error.returncode}"
        )
    stamps[name].write_text(wanted)
    if not list((ROOT / "tbeast" / "native").glob("_lanes.*.so")):
        print("tbeast: the native parts were not built (no C compiler?): everything works without, more slowly")


def main(arguments: list[str]) -> None:
    """Make the environment that the arguments ask for."""
    if len(arguments) != 1 or arguments[0] not in CONTAINED:
        sys.exit("usage: tools/environment.py run|test|dev")
    make_venv()
    install(arguments[0])


if __name__ == "__main__":
    main(sys.argv[1:])
