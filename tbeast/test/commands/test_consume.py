"""tbeast consume-usage: as a process, between moto's server and a real PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from click.testing import CliRunner
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.adapters.cloud.sqs import SqsQueue, SqsUsageStore, queue_address
from tbeast.adapters.cloud.threads import CallThreads
from tbeast.adapters.store.postgres import Connection, target
from tbeast.commands.consume import Report, build, command
from tbeast.commands.storedoor import secret_of
from tbeast.domain.usage import Batch, Kind, Row
from tbeast.settings import Layer, load
from tbeast.test.adapters.cloud.awsserver import REGION, AwsServer, log_in
from tbeast.testing.logs import listen
from tbeast.testing.postgres import environment, fresh_connection, fresh_database, own_server

PROGRAM = "from tbeast.commands.consume import command; command()"
KIND = Kind("a1b2c3d4e5", "lpo", "http", "BTC", "median", "shelf", 200, True)
WITHIN_SECONDS = 60.0


def a_batch(number: int, rows: int = 20) -> Batch:
    at = time.time()
    return Batch(f"{number:024x}", "n1", tuple(Row(KIND, at, number + place + 1, 5, 5) for place in range(rows)))


def requests_of(batches: list[Batch]) -> int:
    return sum(batch.requests for batch in batches)


class MisuseTests(SynchronousTestCase):
    def run_with(self, *arguments: str, **environ: str | None) -> tuple[int, str]:
        clean = {name: None for name in os.environ if name.startswith(("AWS_", "SQS_", "TBEAST_", "AURORA_", "DB_"))}
        result = CliRunner().invoke(command, arguments, env={**clean, **environ})
        return result.exit_code, result.output

    def test_without_a_queue(self) -> None:
        status, output = self.run_with()
        self.assertEqual(status, 1)
        self.assertIn("set SQS_USAGE_LOG_QUEUE_URL", output)

    def test_faults_in_the_settings_are_told(self) -> None:
        status, output = self.run_with(SQS_USAGE_LOG_QUEUE_URL="usage", AWS_REGION="mars")
        self.assertEqual(status, 1)
        self.assertIn("SQS_USAGE_LOG_QUEUE_URL", output)
        self.assertIn("AWS_REGION", output)

    def test_a_queue_that_will_not_do(self) -> None:
        status, output = self.run_with(SQS_USAGE_LOG_QUEUE_URL="https://sqs.us-east-2.amazonaws.com/1/usage.fifo")
        self.assertEqual(status, 1)
        self.assertIn("FIFO", output)

    def test_a_secret_that_is_not_there(self) -> None:
        server = AwsServer()
        self.addCleanup(server.stop)
        log_in(self)
        status, output = self.run_with(
            SQS_USAGE_LOG_QUEUE_URL=f"{server.url}/1/usage", AURORA_URL="127.0.0.1:1", DB_SECRET_NAME="prod/db",
            AWS_REGION=REGION, AWS_ENDPOINT_URL_SECRETS_MANAGER=server.url, AWS_ACCESS_KEY_ID="testing",
            AWS_SECRET_ACCESS_KEY="testing",
        )  # fmt: skip
        self.assertEqual(status, 1)
        self.assertIn("secret prod/db: ResourceNotFoundException", output)

    def test_who_reads_the_secret(self) -> None:
        self.assertIsNone(secret_of(load([Layer("here", {})])))
        secret = secret_of(load([Layer("here", {"DB_SECRET_NAME": "prod/db", "AWS_REGION": "eu-west-1"})]))
        self.assertEqual(getattr(secret, "args", None), ("prod/db", "eu-west-1", None))


class ReportTests(SynchronousTestCase):
    def test_it_tells_what_is_new(self) -> None:
        lines = listen(self)
        count = Counter({"received": 3, "settled": 2})
        report = Report(count)
        report()
        report()
        count["settled"] += 1
        report()
        self.assertEqual(lines.having("messages:"), ["messages: 3 received, 2 settled", "messages: 1 settled"])


class ConsumeCase(TestCase):
    timeout = 120
    connection: Connection

    def setUp(self) -> None:
        log_in(self)
        self.server = AwsServer()
        self.addCleanup(self.server.stop)
        self.url = self.server.queue("usage")
        self.threads = CallThreads("test", reactor)
        self.addCleanup(self.threads.stop)
        queue = SqsQueue(queue_address(self.url, REGION), self.threads)
        self.producer = SqsUsageStore(queue, self.threads, reactor, lambda: 0.0)
        self.database = fresh_database(self)

    async def put(self, *batches: Batch) -> None:
        self.assertEqual((await self.producer.write(batches)).refused, ())

    def recorded(self) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT coalesce(sum(request_count), 0)::bigint FROM usage_logs")
            ((found,),) = cursor.fetchall()
        self.connection.rollback()
        return int(found)

    def left(self, hidden: bool = True) -> int:
        """How many messages lie on the queue; with those that somebody has in hand, or without."""
        told = self.server.client("sqs").get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])["Attributes"]
        visible = int(told["ApproximateNumberOfMessages"])
        return visible + int(told["ApproximateNumberOfMessagesNotVisible"]) if hidden else visible

    async def until(self, true: Callable[[], bool]) -> None:
        end = reactor.seconds() + WITHIN_SECONDS
        while not await deferToThread(true):
            self.assertLess(reactor.seconds(), end, "it did not come to that")
            await deferLater(reactor, 0.05)


class ProcessTests(ConsumeCase):
    def setUp(self) -> None:
        super().setUp()
        self.connection = fresh_connection(self, self.database)

    def begin(self, program: str = PROGRAM) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--state", self.mktemp()],
            env={**environment(), "SQS_USAGE_LOG_QUEUE_URL": self.url, "AURORA_URL": self.database},
            stderr=subprocess.PIPE,
        )

        def end() -> None:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()

        self.addCleanup(end)
        return process

    async def test_it_empties_the_queue_and_ends_well(self) -> None:
        batches = [a_batch(number) for number in range(30)]
        await self.put(*batches)
        process = self.begin()
        await self.until(lambda: self.recorded() == requests_of(batches))
        await self.put(a_batch(100), *batches[:5])
        await self.until(lambda: self.left() == 0)
        self.assertEqual(await deferToThread(self.recorded), requests_of([*batches, a_batch(100)]))
        process.send_signal(signal.SIGTERM)
        _, words = await deferToThread(process.communicate)
        self.assertEqual(process.returncode, 0, words)
        self.assertIn(b"messages: 36 received, 36 settled", words)

    async def test_a_start_that_fails_ends_it(self) -> None:
        process = self.begin(
            f"import tbeast.commands.consume as it; it.StorePool.start = lambda pool: 1 / 0; {PROGRAM}"
        )
        _, words = await deferToThread(process.communicate)
        self.assertEqual(process.returncode, 1, words)
        self.assertIn(b"ZeroDivisionError", words)

    async def test_killed_and_started_again_it_counts_each_request_once(self) -> None:
        batches = [a_batch(number) for number in range(120)]
        await self.put(*batches)
        process = self.begin()
        await self.until(lambda: self.recorded() > 0)
        process.kill()
        await deferToThread(process.communicate)
        # what it had in hand stays hidden for a while; the same usage, sent once more by one who heard no answer
        await self.put(*batches)
        process = self.begin()
        await self.until(lambda: self.left(hidden=False) == 0)
        process.send_signal(signal.SIGINT)
        _, words = await deferToThread(process.communicate)
        self.assertEqual(process.returncode, 0, words)
        self.assertEqual(await deferToThread(self.recorded), requests_of(batches))


class ServiceTests(ConsumeCase):
    async def test_poison_is_set_aside_and_the_database_may_go_and_come(self) -> None:
        server = await deferToThread(own_server, self)
        self.connection = fresh_connection(self, server.url())
        sound = a_batch(1)
        rows = (*sound.rows, sound.rows[0]._replace(kind=KIND._replace(asset="\x00\ud800", status=2**70)))
        await self.put(Batch(sound.id, "n1", rows), Batch(f"{2:024x}", "n\x00", (sound.rows[0],)))
        count: Counter[str] = Counter()
        root = build(target(server.url()), queue_address(self.url, REGION), reactor, count)
        await root.startService()
        self.addCleanup(root.stopService)
        await self.until(lambda: self.left() == 0)
        self.assertEqual(await deferToThread(self.recorded), sound.requests)
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT id::text FROM usage_refused ORDER BY id")
            refused = [row[0].replace("-", "") for row in cursor.fetchall()]
        self.assertEqual(refused, [f"{sound.id}{20:08x}", f"{2:024x}{0:08x}"])

        self.connection.close()
        await deferToThread(server.kill)
        await self.put(a_batch(3))
        reader: Any = root.getServiceNamed("usage-queue")
        await self.until(lambda: bool(reader.trouble))
        self.assertEqual(await deferToThread(self.left), 1)
        await deferToThread(server.start)
        await self.until(lambda: self.left() == 0)
        self.connection = fresh_connection(self, server.url())
        self.assertEqual(await deferToThread(self.recorded), requests_of([sound, a_batch(3)]))
        await root.stopService()
        self.assertEqual((count["received"], count["settled"]), (3, 3))

    async def test_what_is_in_hand_is_given_back_at_the_end(self) -> None:
        await self.put(a_batch(1))
        count: Counter[str] = Counter()
        root = build(target("postgresql://nobody@127.0.0.1:1/tbeast"), queue_address(self.url, REGION), reactor, count)
        await root.startService()
        await self.until(lambda: count["received"] == 1)
        await root.stopService()
        self.assertEqual(count["released"], 1)
        queue = SqsQueue(queue_address(self.url, REGION), self.threads)
        (again,) = await queue.receive(10, 0, 60)
        self.assertEqual(again.times, 2)
