"""What must hold of the files themselves, and no other tool looks at."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = frozenset((
    ".git", ".venv", "venv", "build", "dist", "var", "__pycache__", "_build", "tbeast.egg-info", "out",
    ".mypy_cache", ".ruff_cache", ".hypothesis", ".import_linter_cache",
))  # fmt: skip
TEXT = frozenset((".py", ".md", ".toml", ".txt", ".service", ".yml", ".yaml", ".sh", ".json", ".csv", ""))
FRAGMENT = re.compile(r"[a-z0-9-]+\.(feature|bugfix|performance|operations|removal|doc|misc)\.md")
LEFT_OVER = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
PLACE = re.compile(r"(?<![\w.~-])/(?:wo" r"rk|ro" r"ot|ho" r"me|t" r"mp)/[\w.-]")
NEVER = ("twisted/__init__.py", "twisted/plugins/__init__.py")
LOCKS = ("run", "test", "dev")
EXTRAS = {"EMBEDDED": "run", "BROWSER": "dev"}
"""A list of setup.py: the lock that brings it, where that has another name."""


def files() -> Iterator[Path]:
    """The files of the project: what git knows and would know, or without git whatever is there."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        names = (Path(name) for name in listed.stdout.decode().split("\0") if name)
    else:
        names = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
    for name in sorted(set(names)):
        if (ROOT / name).is_file() and not SKIPPED & set(name.parts) and name.name != "dropin.cache":
            yield name


def no_package_around_the_plugin() -> Iterable[str]:
    """An __init__.py there hides Twisted itself, or the plugin."""
    return [f"{name}: must not be there" for name in NEVER if (ROOT / name).exists()]


def clean_texts() -> Iterable[str]:
    """No unfinished work, and no path of somebody's machine."""
    for name in files():
        if name.suffix not in TEXT:
            continue
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            for what, pattern in (("unfinished", LEFT_OVER), ("a path of one machine", PLACE)):
                if pattern.search(line):
                    yield f"{name}:{number}: {what}: {line.strip()[:100]}"


def empty_packages() -> Iterable[str]:
    """Every folder of modules is a package, and its __init__.py holds a docstring and nothing else."""
    folders = {name.parent for name in files() if name.suffix == ".py" and name.parts[0] == "tbeast"}
    for folder in sorted(folders):
        path = ROOT / folder / "__init__.py"
        if not path.exists():
            yield f"{folder}: has no __init__.py"
            continue
        body = ast.parse(path.read_text(encoding="utf-8")).body
        if len(body) != 1 or ast.get_docstring(ast.Module(body, [])) is None:
            yield f"{folder}/__init__.py: holds something else than a docstring"


def fragments() -> Iterable[str]:
    """Every change file has a name that towncrier takes in, and says something."""
    folder = ROOT / "changelog.d"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name == ".gitignore":
            continue
        if not FRAGMENT.fullmatch(path.name):
            yield f"changelog.d/{path.name}: is not named <name>.<kind>.md with a known kind"
        elif not path.read_text(encoding="utf-8").strip():
            yield f"changelog.d/{path.name}: says nothing"


def locks() -> Iterable[str]:
    """Each lock pins everything, the wider hold the narrower, and what setup.py asks for is pinned."""
    pins: dict[str, dict[str, str]] = {}
    for lock in LOCKS:
        lines = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8").splitlines()
        pins[lock] = {}
        for line in lines:
            found = re.fullmatch(r"([a-z0-9-]+)==([0-9][\w.]*)(\s*#.*)?", line)
            if found:
                pins[lock][found[1]] = found[2]
            elif not line.startswith("#"):
                yield f"requirements/{lock}.txt: no plain pin: {line}"
    for narrow, wide in (("run", "test"), ("test", "dev")):
        for name, version in pins[narrow].items():
            if pins[wide].get(name) != version:
                yield f"requirements: {name}=={version} is in {narrow}.txt, and not in {wide}.txt"
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            lock = EXTRAS.get(node.targets[0].id, node.targets[0].id.lower())
            for asked in ast.literal_eval(node.value):
                name = re.split(r"[<>=!~\[ ]", asked)[0].lower().replace(".", "-").replace("_", "-")
                if name not in pins[lock]:
                    yield f"requirements/{lock}.txt: does not pin {name}: run make lock"


CHECKS = (no_package_around_the_plugin, clean_texts, empty_packages, fragments, locks)


def main() -> int:
    """Run every check; each fault is one line."""
    faults = [fault for check in CHECKS for fault in check()]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
