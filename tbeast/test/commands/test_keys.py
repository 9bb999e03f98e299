"""tbeast keys, against a real PostgreSQL and a real Valkey."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cache.keyevents import CHANNEL
from tbeast.adapters.store import keyrows
from tbeast.adapters.store.postgres import connect, target
from tbeast.codecs.keycopies import decode_change
from tbeast.commands.keys import command
from tbeast.domain.keys import CHANGED, CREATED, REVOKED, KeyChange, KeyRecord, digest_of, is_well_formed
from tbeast.settings import SETTINGS
from tbeast.test.commands.opendoors import RICH_ENVIRONMENT
from tbeast.testing.postgres import environment, fresh_database
from tbeast.testing.valkey import shared_server


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.url = fresh_database(self)
        self.environment: dict[str, str | None] = {
            **dict.fromkeys((*SETTINGS, *RICH_ENVIRONMENT)), "AURORA_URL": self.url,
            "TBEAST_STATE": str(Path(self.mktemp()).absolute()),
        }  # fmt: skip
        self.connection = connect(target(self.url))
        self.addCleanup(self.connection.close)
        self.connection.autocommit = True

    def invoke(self, *arguments: str, status: int = 0) -> Result:
        result = CliRunner().invoke(command, arguments, env=self.environment, prog_name="tbeast keys")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.assertEqual(status, result.exit_code, result.output)
        return result

    def json(self, *arguments: str) -> dict[str, Any]:
        (line,) = self.invoke(*arguments, "--json").stdout.splitlines()
        read: dict[str, Any] = json.loads(line)
        return read

    def create(self, name: str = "desk", *more: str) -> dict[str, Any]:
        return self.json("create", "--name", name, *more)

    def record(self, key: str) -> KeyRecord:
        record = keyrows.find_by_digest(self.connection, digest_of(key.encode()))
        assert record is not None
        return record


class CreateTests(Case):
    def test_for_people(self) -> None:
        """The key alone on its line, and the words that this was it."""
        lines = self.invoke("create", "--name", "Ann's desk", "--tier", "pro").stdout.splitlines()
        self.assertTrue(is_well_formed(lines[0]))
        record = self.record(lines[0])
        self.assertEqual(("Ann's desk", "pro"), (record.account.name, record.account.tier))
        text = " ".join(" ".join(lines).split())
        self.assertIn("This is the only time that the key is shown", text)
        self.assertIn(f"id {record.account.key_id}", text)
        self.assertIn("50,000 a month, 10 a second, burst 20", text)
        self.assertEqual(1, text.count(lines[0]))

    def test_a_key_that_nobody_could_see_is_not_made(self) -> None:
        """With nowhere to print it, or no room there; nor does one take another's place."""
        key_id = self.create("old")["id"]
        program = [sys.executable, "-c", "from tbeast.commands.keys import command; command()"]
        environ = environment() | {name: text for name, text in self.environment.items() if text is not None}
        for arguments in (("create", "--name", "new"), ("create", "--name", "new", "--json"), ("rotate", key_id)):
            with open("/dev/full", "w") as full:
                for close in (False, True):
                    done = subprocess.run(
                        ["sh", "-c", 'exec "$@" >&-', "sh", *program, *arguments] if close else [*program, *arguments],
                        env=environ, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
                    )  # fmt: skip
                    self.assertEqual((1, False), (done.returncode, "Traceback" in done.stderr), done.stderr)
                    self.assertIn("so none was made", done.stderr)
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT key_id, revoked FROM api_keys")
            self.assertEqual([(key_id, False)], cursor.fetchall())

    def test_who_reads_the_key_alone_has_it(self) -> None:
        """As in KEY=$(tbeast keys create ... | head -1)."""
        environ = environment() | {name: text for name, text in self.environment.items() if text is not None}
        program = 'exec "$0" -c "from tbeast.commands.keys import command; command()" create --name one'
        for _ in range(3):
            done = subprocess.run(
                ["sh", "-c", f"({program}) | head -1", sys.executable], env=environ, capture_output=True, text=True,
                timeout=60, check=True,
            )  # fmt: skip
            self.assertEqual("one", self.record(done.stdout.strip()).account.name)
            self.assertEqual("", done.stderr)

    def test_for_scripts(self) -> None:
        made = self.create(
            "bot", "--tier", "enterprise", "--email", "me@example.net", "--lrs-addon", "--format", "csv", "--lang", "de"
        )
        account = self.record(made.pop("key")).account
        self.assertTrue(made.pop("created_at").endswith("Z"))
        self.assertRegex(made.pop("month"), r"^\d{4}-\d\d$")
        self.assertEqual(
            {
                "id": account.key_id, "name": "bot", "tier": "enterprise", "lrs_addon": True, "response_format": "csv",
                "preferred_lang": "de", "queries_this_month": 0, "last_used_at": None, "ends_at": None,
                "revoked": False,
                "limits": {
                    "queries_per_month": 500_000, "queries_per_second": 50.0, "burst": 100, "min_wait_seconds": 0.02,
                    "reports_per_month": 10,
                },
            },
            made,
        )  # fmt: skip
        self.assertEqual((True, "csv", "de"), (account.lrs_addon, account.response_format, account.preferred_lang))

    def test_refused(self) -> None:
        result = self.invoke("create", "--name", "x", "--tier", "gold", status=1)
        self.assertIn("there is no tier 'gold'; there are free, pro,", result.stderr)
        self.invoke("create", status=2)
        self.assertEqual({"keys": [], "next": None}, self.json("list"))

    def test_no_cache_no_word(self) -> None:
        self.assertEqual("", self.invoke("create", "--name", "x").stderr)


class LookTests(Case):
    def test_list(self) -> None:
        keys = [
            self.create(name, "--tier", tier) for name, tier in (("one", "free"), ("two", "pro"), ("three", "partner"))
        ]
        self.invoke("revoke", "two")
        lines = self.invoke("list").stdout.splitlines()
        self.assertEqual(4, len(lines))
        for line, key, words in zip(
            lines[2:], (keys[0], keys[2]), (["one", "free", "0", "1,000", "1", "5"], ["three", "partner"]), strict=True
        ):
            self.assertEqual([key["id"], *words], line.split()[: len(words) + 1])
        self.assertIn("no limit", lines[3])
        self.assertIn("never", lines[3])
        for key in keys:
            self.assertNotIn(key["key"], "\n".join(lines))
        listed = {
            arguments: [key["name"] for key in self.json("list", *arguments)["keys"]]
            for arguments in ((), ("--revoked",), ("--all",), ("--tier", "pro"), ("--tier", "pro", "--all"))
        }
        self.assertEqual([["one", "three"], ["two"], ["one", "two", "three"], [], ["two"]], list(listed.values()))
        self.assertIn("There are no such keys.", self.invoke("list", "--tier", "pro").stdout)
        self.assertIn("revoked", self.invoke("list", "--all").stdout)

    def test_pages(self) -> None:
        names = [f"key {number}" for number in range(5)]
        for name in names:
            self.create(name)
        found: list[str] = []
        after: list[str] = []
        while True:
            page = self.json("list", "--limit", "2", *after)
            found += [key["name"] for key in page["keys"]]
            if page["next"] is None:
                break
            self.assertIn(f"There are more: --after {page['next']}", self.invoke("list", "--limit", "2", *after).stdout)
            after = ["--after", page["next"]]
        self.assertEqual(names, found)

    def test_show(self) -> None:
        made = self.create("Ann's desk", "--tier", "pro", "--email", "me@example.net")
        with self.connection.cursor() as cursor:
            cursor.execute("UPDATE api_keys SET current_usage = 1234, last_used = '2026-04-12T14:23:01Z'")
        for which in (made["id"], made["id"][:6], "Ann's desk"):
            text = " ".join(self.invoke("show", which).stdout.split())
            for part in (
                f"id {made['id']}", "user me@example.net", "state good", "queries 1234 in", "of 50,000",
                "10, burst 20, wait 0.1 s when empty", "last used 2026-04-12 14:23:01 UTC",
            ):  # fmt: skip
                self.assertIn(part, text)
            self.assertNotIn(made["key"].split("_")[2], text)
        shown = self.json("show", made["id"])
        self.assertEqual(
            ("me@example.net", 1234, "2026-04-12T14:23:01.000Z", None, None),
            (
                shown["email"],
                shown["queries_this_month"],
                shown["last_used_at"],
                shown["revoked_at"],
                shown["replaces"],
            ),
        )
        self.assertNotIn("key", shown)

    def test_a_month_that_is_over(self) -> None:
        """What was used then is not this month's."""
        made = self.create()
        with self.connection.cursor() as cursor:
            cursor.execute("UPDATE api_keys SET current_usage = 9, usage_month = '2025-01-01'")
        self.assertEqual(0, self.json("show", made["id"])["queries_this_month"])

    def test_not_found(self) -> None:
        made = self.create()
        self.create()
        self.assertIn("there is no key 'nobody'", self.invoke("show", "nobody", status=1).stderr)
        self.assertIn("'desk' could be any of", self.invoke("show", "desk", status=1).stderr)
        wrong = made["key"][:-2] + "zz"
        for name in ("show", "revoke", "rotate"):
            self.assertNotIn(wrong, self.invoke(name, wrong, status=1).output)

    def test_a_name_that_is_no_name(self) -> None:
        """Written by somebody else's hand; a terminal is not to obey it."""
        self.create()
        with self.connection.cursor() as cursor:
            cursor.execute("UPDATE api_keys SET name = E'\\x1b[2J'")
        for arguments in (("list",), ("show", "\x1b[2J"), ("list", "--json"), ("revoke", "\x1b[2J")):
            self.assertNotIn("\x1b", self.invoke(*arguments).output)


class ChangeTests(Case):
    def test_revoke(self) -> None:
        made = self.create()
        said = self.invoke("revoke", made["id"]).stdout
        self.assertIn(f"{made['id']} (desk, free) is revoked; every node refuses it within 5 s.", said)
        self.assertTrue(self.record(made["key"]).revoked)
        self.assertIn("was revoked already", self.invoke("revoke", made["id"]).stdout)
        again = self.json("revoke", made["id"])
        self.assertEqual((True, False), (again["revoked"], again["was_good"]))
        self.assertIn("is revoked; make a new one", self.invoke("set-tier", made["id"], "pro", status=1).stderr)
        self.assertIn("state revoked", " ".join(self.invoke("show", made["id"]).stdout.split()))

    def test_rotate(self) -> None:
        made = self.create("desk", "--tier", "pro")
        lines = self.invoke("rotate", made["id"]).stdout.splitlines()
        self.assertTrue(is_well_formed(lines[0]))
        self.assertIn(f"{made['id']} (desk, pro) is revoked;", lines[-1])
        new = self.record(lines[0])
        self.assertEqual(("desk", "pro", False), (new.account.name, new.account.tier, new.revoked))
        self.assertTrue(self.record(made["key"]).revoked)
        shown = self.json("show", made["id"])
        self.assertEqual((new.account.key_id, True), (shown["replaced_by"], shown["revoked"]))
        text = " ".join(self.invoke("show", new.account.key_id).stdout.split())
        self.assertIn(f"replaces {made['id']}", text)

    def test_rotate_with_grace(self) -> None:
        made = self.create()
        rotated = self.json("rotate", "desk", "--grace", "24h")
        self.assertEqual((made["id"], False, True), (
            rotated["replaces"]["id"], rotated["replaces"]["revoked"], is_well_formed(rotated["key"])))  # fmt: skip
        old = self.record(made["key"])
        assert old.ends_at is not None
        self.assertTrue(86_390.0 < old.ends_at - old.changed_at <= 86_400.0)
        self.assertIn("was rotated already", self.invoke("rotate", made["id"], status=1).stderr)
        self.assertIn("ends", self.invoke("list").stdout)
        lines = self.invoke("rotate", rotated["id"], "--grace", "90").stdout.splitlines()
        self.assertIn(f"{rotated['id']} (desk, free) works until", lines[-1])

    def test_grace_that_is_none(self) -> None:
        self.create()
        for grace in ("soon", "-1s", "1w", "1.5h", ""):
            self.assertIn(
                "give a number and s, m, h or d", self.invoke("rotate", "desk", "--grace", grace, status=2).stderr
            )
        self.assertIn("between 0 and 30 days", self.invoke("rotate", "desk", "--grace", "31d", status=1).stderr)

    def test_set_tier(self) -> None:
        made = self.create()
        self.assertIn(f"{made['id']} (desk, pro) had the tier free.", self.invoke("set-tier", "desk", "pro").stdout)
        changed = self.json("set-tier", "desk", "partner")
        self.assertEqual(("partner", None), (changed["tier"], changed["limits"]["queries_per_month"]))
        self.assertIn("no tier 'gold'", self.invoke("set-tier", "desk", "gold", status=1).stderr)


class TellTests(Case):
    def setUp(self) -> None:
        super().setUp()
        self.server = shared_server()
        self.environment["CACHE_URL"] = self.server.url

    def test_told(self) -> None:
        """Of each change, after it was committed."""
        line = socket.create_connection(("127.0.0.1", self.server.port), 10.0)
        self.addCleanup(line.close)
        stream = line.makefile("rb")
        self.addCleanup(stream.close)
        line.sendall(b"SUBSCRIBE %s\r\n" % CHANNEL)
        for _ in range(6):
            stream.readline()

        def heard() -> tuple[str, str]:
            """What, and by its digest in the database, the name of the key."""
            lengths = [stream.readline() for _ in range(6)]
            message = stream.readline()
            self.assertEqual(b"*3\r\n", lengths[0])
            change = decode_change(message.rstrip(b"\r\n"))
            assert isinstance(change, KeyChange)
            record = keyrows.find_by_digest(self.connection, change.digest)
            assert record is not None
            self.assertEqual(change.key_id, record.account.key_id)
            self.assertEqual(change.what == REVOKED, record.revoked)
            return change.what, record.account.key_id

        first = self.create()["id"]
        self.assertEqual((CREATED, first), heard())
        self.json("set-tier", "desk", "pro")
        self.assertEqual((CHANGED, first), heard())
        second = self.json("rotate", "desk", "--grace", "1h")["id"]
        self.assertEqual([(CREATED, second), (CHANGED, first)], [heard(), heard()])
        third = self.json("rotate", second)["id"]
        self.assertEqual([(CREATED, third), (REVOKED, second)], [heard(), heard()])
        for _ in range(2):
            self.json("revoke", third)
            self.assertEqual((REVOKED, third), heard())

    def test_nobody_to_tell(self) -> None:
        """It is done all the same, and that is said."""
        self.environment["CACHE_URL"] = "redis://:hunter2@127.0.0.1:1"
        made = self.create()
        result = self.invoke("revoke", made["id"])
        self.assertIn("It is done, but the nodes could not be told at once (127.0.0.1:1:", result.stderr)
        self.assertIn("is revoked", result.stdout)
        self.assertNotIn("hunter2", result.output)
        self.assertTrue(self.record(made["key"]).revoked)


class PlaceTests(Case):
    def test_database_away(self) -> None:
        self.environment["AURORA_URL"] = "postgresql://me:hunter2@127.0.0.1:1/x"
        for arguments in (("list",), ("create", "--name", "x"), ("revoke", "x")):
            result = self.invoke(*arguments, status=3)
            self.assertIn("the database cannot be asked:", result.stderr)
            self.assertNotIn("hunter2", result.output)

    def test_settings_at_fault(self) -> None:
        self.environment["TCP_PORT_LPO"] = "high"
        self.assertIn("TCP_PORT_LPO", self.invoke("list", status=1).stderr)

    def test_config(self) -> None:
        """As the daemon reads it."""
        path = Path(self.mktemp()).absolute()
        path.write_text(f'aurora_url = "{self.url}"\n')
        self.environment["AURORA_URL"] = None
        self.create("desk", "-c", str(path))
        self.assertEqual(["desk"], [key["name"] for key in self.json("list", "--config", str(path))["keys"]])

    def test_embedded(self) -> None:
        """Without a database of one's own it is the one in the state folder, run or not."""
        self.environment["AURORA_URL"] = None
        state = str(Path(self.mktemp()).absolute())
        made = self.json("create", "--name", "desk", "--state", state)
        self.assertEqual([made["id"]], [key["id"] for key in self.json("list", "--state", state)["keys"]])
        self.assertFalse(os.path.exists(str(self.environment["TBEAST_STATE"])))

    def test_help(self) -> None:
        self.assertTrue(command.help)
        text = self.invoke("--help").stdout
        for name in ("create", "list", "show", "revoke", "rotate", "set-tier"):
            self.assertIn(name, text)
            self.assertIn("--json", self.invoke(name, "--help").stdout)
