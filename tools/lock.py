"""Write requirements/run.txt, test.txt and dev.txt anew from setup.py: newest versions, all pinned.

The three agree with one another: the widest is solved first and binds the others. They are made with the oldest
Python that is served, 3.11, and must hold for the newer ones too, so a pin that needs a marker is refused.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = (
    "--quiet", "--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links", "--no-emit-options",
    "--strip-extras", "--no-header", "--upgrade", "--annotation-style=line",
)  # fmt: skip
HEAD = "# Written by make lock from setup.py.\n"


def compile_lock(name: str, *options: str) -> None:
    """Solve one lock."""
    target = f"requirements/{name}.txt"
    command = [sys.executable, "-m", "piptools", "compile", *OPTIONS, *options, "--output-file", target, "setup.py"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    path = ROOT / target
    pins = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    loose = [line for line in pins if "==" not in line.split("#")[0] or ";" in line.split("#")[0]]
    if loose:
        sys.exit(f"tbeast: {target} has lines that are no plain pin: {loose}")
    pins = [line.replace("-c requirements/dev.txt, ", "") for line in pins]
    path.write_text(HEAD + "\n".join(pins) + "\n")


def main() -> None:
    """Solve all three."""
    if sys.version_info[:2] != (3, 11):
        sys.exit("tbeast: the locks are made with Python 3.11: make clean, then make lock PYTHON=/path/to/python3.11")
    (ROOT / "requirements").mkdir(exist_ok=True)
    compile_lock("dev", "--extra=dev")
    bound = "--constraint=requirements/dev.txt"
    compile_lock("test", "--extra=test", bound)
    compile_lock("run", "--extra=embedded", bound)


if __name__ == "__main__":
    main()
