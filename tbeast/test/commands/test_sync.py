"""tbeast sync as a process of its own, on a real database and a real Valkey."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store.postgres import connect, target
from tbeast.commands.sync import _Lines
from tbeast.services.sync import Progress
from tbeast.settings import SETTINGS
from tbeast.testing.postgres import fresh_database
from tbeast.testing.valkey import shared_server

MANY = 50_000

FILL = """
INSERT INTO usage_logs (at, id, key_id, node, service, protocol, asset, source, cache_tier, status, admitted,
    request_count, response_us_sum, response_us_max, written_at)
SELECT moment, gen_random_uuid(), 'key' || i %% 7, 'n1', 'lpo', 'http', 'AS' || i %% 5, 'median', 'shelf', 200, true,
    1, i, i, moment
FROM generate_series(1, %(rows)s) i, LATERAL (SELECT clock_timestamp() - i * interval '1 second' AS moment) m
"""


class SyncCommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.url = fresh_database(self)
        self.valkey = shared_server()
        clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        self.environ = {
            **clean, "PYTHONPATH": ":".join(sys.path), "AURORA_URL": self.url, "CACHE_URL": self.valkey.url,
            "CLUSTER_NODE": "n1",
        }  # fmt: skip

    def run_sql(self, query: str, **parameters: Any) -> Any:
        connection = connect(target(self.url))
        with connection.cursor() as cursor:
            cursor.execute(query, parameters)
            found = cursor.fetchall() if cursor.description else None
        connection.commit()
        connection.close()
        return found

    def fill(self, rows: int) -> None:
        self.run_sql(
            "CREATE TABLE usage_logs_all PARTITION OF usage_logs FOR VALUES FROM"
            " ('2000-01-01T00:00:00Z') TO ('2200-01-01T00:00:00Z')"
        )
        self.run_sql(FILL, rows=rows)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from tbeast.commands.sync import command; command()", *arguments]

    def sync(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env={**self.environ, **environ}, capture_output=True, text=True, timeout=120
        )

    def done(self, *arguments: str) -> Any:
        ran = self.sync("--json", *arguments)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return json.loads(ran.stdout)

    def half_way(self) -> subprocess.Popen[str]:
        """A process that has written a part of so many rows."""
        self.fill(MANY)
        process = subprocess.Popen(
            self.command(), env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        until = time.monotonic() + 60
        while self.valkey.command("HGET", "sync:marks", "index") in (None, b"0"):
            self.assertLess(time.monotonic(), until)
            time.sleep(0.002)
        return process

    def test_a_new_installation(self) -> None:
        ran = self.sync()
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertRegex(ran.stdout, r"^sync: nothing to do; in the copy 0; [0-9.]+ s \(there are no marks\)\n$")
        self.assertIn("copying keys\n", ran.stderr)

    def test_rows_are_copied_and_then_only_new_ones(self) -> None:
        self.fill(1000)
        self.run_sql("UPDATE usage_logs SET written_at = written_at - interval '1 day'")
        first, second = self.done(), self.done()
        self.assertEqual((first["usage"], first["index"], first["why"]), (1000, 1000, "there are no marks"))
        self.assertEqual((second["usage"], second["index"], second["why"]), (0, 1000, ""))
        self.assertEqual(self.valkey.command("ZCARD", "usage_logs:index"), 1000)
        self.assertEqual(self.done("--full")["usage"], 1000)
        kept = self.run_sql("SELECT summary ->> 'usage', node FROM sync_runs")
        self.assertEqual(kept, [("1000", "n1 (tbeast sync)")])

    def test_killed_in_the_middle_the_next_one_goes_on(self) -> None:
        process = self.half_way()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        self.assertEqual(self.valkey.command("HGET", "sync:marks", "state"), b"building")
        ran = self.sync("--wait", "0")
        self.assertEqual((ran.returncode, ran.stderr.splitlines()[-1]), (3, "n1 (tbeast sync) does it just now"))
        self.run_sql("UPDATE sync_runs SET held_until = clock_timestamp()")
        done = self.done()
        self.assertEqual(done["why"], "the building that was interrupted goes on")
        self.assertLess(done["usage"], MANY)
        self.assertEqual(done["index"], MANY)
        there = self.valkey.command("ZRANGE", "usage_logs:index", 0, -1)
        assert isinstance(there, list)
        wanted = self.run_sql("SELECT id::text FROM usage_logs ORDER BY 1")
        self.assertEqual(sorted(there), [row_id.encode() for (row_id,) in wanted])

    def test_an_interrupt_ends_it_in_good_order(self) -> None:
        process = self.half_way()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        self.assertEqual((process.returncode, said.splitlines()[-1]), (3, "the sync job was told to stop"))
        self.assertEqual(self.done("--wait", "0")["index"], MANY)

    def test_without_a_cache_the_databases_part_is_done(self) -> None:
        del self.environ["CACHE_URL"]
        self.run_sql("INSERT INTO monthly_report_counts VALUES ('abc', '2020-01-01', 3)")
        ran = self.sync()
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertIn("There is no shared cache (CACHE_URL)", ran.stderr)
        self.assertIn("sync: report counts dropped 1; ", ran.stdout)
        self.assertEqual(self.run_sql("SELECT * FROM monthly_report_counts"), [])

    def test_what_is_away_is_told(self) -> None:
        ran = self.sync(CACHE_URL="redis://127.0.0.1:1")
        self.assertEqual((ran.returncode, ran.stdout), (3, ""))
        self.assertIn("the cache at 127.0.0.1:1 cannot be asked", ran.stderr)
        ran = self.sync(AURORA_URL="postgresql://127.0.0.1:1/none")
        self.assertEqual((ran.returncode, ran.stdout), (3, ""))
        self.assertIn("the database cannot be asked", ran.stderr)
        ran = self.sync(TCP_PORT_LPO="x")
        self.assertEqual((ran.returncode, ran.stdout), (1, ""))
        self.assertNotIn("Traceback", ran.stderr)


class LinesTests(SynchronousTestCase):
    def test_each_step_is_told_once(self) -> None:
        from click.testing import CliRunner

        with CliRunner().isolation() as streams:
            lines = _Lines()
            for progress in (
                Progress("copying keys"),
                Progress("building"),
                Progress("building", 5, 1000),
                Progress("trimming", 1234, 5000),
            ):
                lines(progress)
            said = streams[1].getvalue().decode()
        self.assertEqual(said, "copying keys\nbuilding\ntrimming: 1,234 of about 5,000\n")
