"""Write etc/tbeast.toml from the table of settings, or with --check see whether the two agree."""

from __future__ import annotations

import difflib
import json
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tbeast.settings import SETTINGS, TO_COME, Setting, load, toml_layer  # noqa: E402

SAMPLE = ROOT / "etc" / "tbeast.toml"

HEAD = """\
# The settings of tbeast, each with its meaning and its default. To set one, take away the # before its name.
#
#     twistd -n tbeast --config etc/tbeast.toml
#     tbeast check-config --config etc/tbeast.toml
#
# The same names, in capitals, can stand in the environment, which wins over this file; options win over both.
# Written by tools/sample_settings.py from the table in tbeast/settings.py.
"""

EXAMPLES = {
    "aurora_url": "postgresql://user:password@db.example:5432/tbeast",
    "db_secret_name": "tbeast/database",
    "cache_url": "rediss://cache.example:6379",
    "cluster_node": "node-1",
    "tbeast_db_ca": "/etc/tbeast/database-ca.pem",
    "tbeast_cache_ca": "/etc/tbeast/cache-ca.pem",
    "aws_region": "us-east-2",
    "sqs_usage_log_queue_url": "https://sqs.example/123456789012/usage",
    "admin_key": "at-least-16-characters",
    "tbeast_tls_cert": "/etc/tbeast/chain.pem",
    "tbeast_tls_key": "/etc/tbeast/key.pem",
    "tbeast_trusted_proxies": ["10.0.0.0/8"],
    "tbeast_keys": ["desk:pro:at-least-8-characters"],
    **{f"tbeast_{name}_ws_url": f"wss://{name}.example/ws" for name in (
        "coinbase", "gemini", "kraken", "gateio", "cryptocom", "okx"
    )},
    **{f"tbeast_{name}_rest_url": f"https://{name}.example" for name in (
        "coinbase", "gemini", "kraken", "gateio", "cryptocom", "okx"
    )},
}  # fmt: skip
"""What stands there for a setting without a default worth showing."""


def entry(setting: Setting) -> str:
    """One setting: its meaning, what is allowed, and its line, all as comments."""
    name = setting.name.lower()
    said = [setting.description, f"Allowed: {setting.kind.allowed}."]
    if setting.name in TO_COME:
        said.append("Checked, but without effect in this version.")
    if name in EXAMPLES:
        said.append("Default: none. For example:" if setting.name != "CLUSTER_NODE" else "For example:")
        value: object = EXAMPLES[name]
    else:
        value = setting.default
    comment = textwrap.fill(" ".join(said), 110, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    return f"{comment}\n#{name} = {json.dumps(value)}\n"


def sample() -> str:
    """The whole file."""
    return HEAD + "\n" + "\n".join(entry(setting) for setting in SETTINGS.values())


def uncommented(text: str) -> str:
    """The file with every setting set, to see that what it shows is allowed."""
    lines = [line for line in text.splitlines() if line.startswith("#") and not line.startswith("# ")]
    return "\n".join(line.removeprefix("#") for line in lines)


def main(arguments: list[str]) -> int:
    """Write the file, or check it."""
    wanted = sample()
    shown = load([toml_layer(uncommented(wanted), "the sample")])
    silent = set(SETTINGS) - {name for name, origin in shown.origins.items() if origin != "default"}
    assert not silent, f"the sample does not show {silent}"
    if arguments == ["--check"]:
        found = SAMPLE.read_text(encoding="utf-8") if SAMPLE.exists() else ""
        if found == wanted:
            return 0
        sys.stdout.writelines(
            difflib.unified_diff(
                found.splitlines(True), wanted.splitlines(True), "etc/tbeast.toml", "the table of settings"
            )
        )
        print("etc/tbeast.toml and the table of settings differ: run make sample")
        return 1
    SAMPLE.parent.mkdir(exist_ok=True)
    SAMPLE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
