"""Tests of L{tbeast.adapters.cloud.sqs}: against moto's server, and against a client that fails as it is told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from botocore.exceptions import ClientError, ReadTimeoutError
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.adapters.cloud import sqs
from tbeast.adapters.cloud.sqs import QueueAddress, SqsQueue, SqsUsageStore, queue_address
from tbeast.adapters.cloud.threads import CallThreads
from tbeast.codecs.usageenvelopes import Delivery, decode
from tbeast.domain.usage import MOST_ROWS, Batch, Kind, Row
from tbeast.errors import StoreError, StoreUnavailableError
from tbeast.interfaces import Written
from tbeast.test.adapters.cloud.awsserver import REGION, AwsServer, log_in
from tbeast.testing.logs import listen

T = TypeVar("T")
KIND = Kind("a1b2c3d4e5", "lpo", "http", "BTC", "median", "shelf", 200, True)


def a_batch(number: int, rows: int = 3, kind: Kind = KIND) -> Batch:
    """A batch; all its numbers are its own."""
    made = tuple(Row(kind, 1790000000.25 + n, number * 1000 + n + 1, 50, 9) for n in range(rows))
    return Batch(f"{number:024x}", "n1", made)


class Inline:
    """Runs what would block at once."""

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        return execute(work)


class FakeClient:
    """Takes messages as a queue does, or fails as it is told.

    @ivar calls: the bodies of each call.
    @ivar script: for each call what to do: an exception, or a function from entries to an answer; then all is taken.
    """

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.taken: list[str] = []
        self.script: list[Any] = []
        self.always: Any = None

    def send_message_batch(self, QueueUrl: str, Entries: Sequence[dict[str, str]]) -> dict[str, Any]:
        self.calls.append([entry["MessageBody"] for entry in Entries])
        step = self.script.pop(0) if self.script else self.always
        if isinstance(step, Exception):
            raise step
        answer = step(Entries) if step else {"Successful": [{"Id": entry["Id"]} for entry in Entries]}
        taken = {entry["Id"] for entry in answer.get("Successful", ())}
        self.taken += [entry["MessageBody"] for entry in Entries if entry["Id"] in taken]
        return dict(answer)

    @property
    def batches(self) -> list[Batch]:
        return [decode(body, "m") for body in self.taken]


def client_error(code: str, message: str = "no") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "SendMessageBatch")


def failing(*places: int, code: str = "InternalError", sender_fault: bool = False) -> Callable[[Any], Any]:
    """An answer in which the entries at these places were not taken."""

    def answer(entries: Sequence[dict[str, str]]) -> dict[str, Any]:
        bad = [entries[place]["Id"] for place in places]
        return {
            "Successful": [{"Id": entry["Id"]} for entry in entries if entry["Id"] not in bad],
            "Failed": [{"Id": one, "SenderFault": sender_fault, "Code": code, "Message": "so"} for one in bad],
        }

    return answer


class QueueAddressTests(SynchronousTestCase):
    def test_at_aws_the_url_says_the_region(self) -> None:
        for host, region in (
            ("sqs.us-east-2.amazonaws.com", "us-east-2"), ("eu-west-1.queue.amazonaws.com", "eu-west-1"),
            ("queue.amazonaws.com", "us-east-1"), ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ):  # fmt: skip
            url = f"https://{host}/123456789012/usage"
            self.assertEqual(queue_address(url, "ap-south-1"), QueueAddress(url, region, None))

    def test_other_doors_of_aws_are_called_by_their_names(self) -> None:
        for host in (
            "vpce-0a1b-2c3d.sqs.us-east-2.vpce.amazonaws.com", "sqs-fips.us-east-2.amazonaws.com",
            "sqs.us-east-2.api.aws",
        ):  # fmt: skip
            url = f"https://{host}/123456789012/usage"
            self.assertEqual(queue_address(url, None), QueueAddress(url, "us-east-2", f"https://{host}"))

    def test_elsewhere_the_host_is_the_endpoint(self) -> None:
        url = "http://127.0.0.1:9324/000000000000/usage"
        self.assertEqual(queue_address(url, "eu-west-1"), QueueAddress(url, "eu-west-1", "http://127.0.0.1:9324"))
        self.assertEqual(queue_address(url, None).region, "us-east-1")
        # a name that only looks like one of AWS
        evil = "https://sqs.us-east-2.amazonaws.com.example.net/1/usage"
        self.assertEqual(queue_address(evil, None).endpoint, "https://sqs.us-east-2.amazonaws.com.example.net")

    def test_a_queue_with_an_order_is_none_for_us(self) -> None:
        error = self.assertRaises(StoreError, queue_address, "https://sqs.us-east-2.amazonaws.com/1/usage.fifo", None)
        self.assertIn("FIFO", str(error))

    def test_nothing_of_boto3_is_loaded_before_it_is_needed(self) -> None:
        program = (
            "import sys; import tbeast.adapters.cloud.sqs, tbeast.adapters.cloud.secrets;"
            "sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
        )
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.assertEqual(subprocess.run([sys.executable, "-c", program], env=environ, timeout=60).returncode, 0)


class SqsUsageStoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = listen(self)
        self.clock = Clock()
        self.client = FakeClient()
        self.made = 0

        def make(address: QueueAddress) -> FakeClient:
            self.made += 1
            return self.client

        queue = SqsQueue(queue_address("http://127.0.0.1:1/1/usage", None), Inline(), make)
        self.store = SqsUsageStore(queue, Inline(), self.clock, lambda: 0.0)

    def write(self, *batches: Batch) -> Deferred[Written]:
        return ensureDeferred(self.store.write(batches))

    def unavailable(self, writing: Deferred[Written]) -> str:
        for _ in range(10):
            self.clock.advance(1.0)
        return str(self.failureResultOf(writing, StoreUnavailableError).value)

    def test_a_batch_is_a_message(self) -> None:
        batches = [a_batch(1), a_batch(2, rows=1)]
        self.assertEqual(self.successResultOf(self.write(*batches)), Written((), {}))
        self.assertEqual(self.client.batches, batches)
        self.assertEqual(len(self.client.calls), 1)

    def test_nothing_is_no_call(self) -> None:
        self.assertEqual(self.successResultOf(self.write()), Written((), {}))
        self.assertEqual(self.successResultOf(self.write(Batch("0" * 24, "n1", ()))), Written((), {}))
        self.assertEqual(self.client.calls, [])

    def test_at_most_ten_messages_and_their_bytes_a_call(self) -> None:
        batches = [a_batch(number, rows=MOST_ROWS) for number in range(5)]
        batches += [a_batch(number, rows=1) for number in range(5, 40)]
        self.successResultOf(self.write(*batches))
        self.assertEqual(self.client.batches, batches)
        self.assertTrue(all(len(call) <= 10 for call in self.client.calls))
        self.assertTrue(all(sum(map(len, call)) <= 256 * 1024 for call in self.client.calls))

    def test_what_was_not_taken_is_sent_again_alone(self) -> None:
        batches = [a_batch(number) for number in range(10)]
        self.client.script = [failing(2, 7), failing(0)]
        writing = self.write(*batches)
        self.assertNoResult(writing)
        self.clock.advance(1.0)
        self.clock.advance(1.0)
        self.assertEqual(self.successResultOf(writing).refused, ())
        self.assertEqual([len(call) for call in self.client.calls], [10, 2, 1])
        self.assertEqual(sorted(batch.id for batch in self.client.batches), [batch.id for batch in batches])

    def test_what_is_in_no_list_was_not_taken(self) -> None:
        self.client.script = [lambda entries: {"Successful": [{"Id": entries[0]["Id"]}]}, lambda entries: {}]
        writing = self.write(a_batch(1), a_batch(2))
        self.clock.advance(1.0)
        self.clock.advance(1.0)
        self.successResultOf(writing)
        self.assertEqual([batch.id for batch in self.client.batches], [a_batch(1).id, a_batch(2).id])

    def test_what_is_never_taken_is_for_the_caller_to_keep(self) -> None:
        self.client.always = failing(0, code="InternalError")
        self.assertEqual(
            self.unavailable(self.write(a_batch(1))), "the usage queue: 1 of 1 messages not taken: InternalError: so"
        )
        self.assertEqual(len(self.client.calls), sqs.SENDINGS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_fault_that_is_not_the_messages_refuses_no_row(self) -> None:
        for code in ("RequestThrottled", "KmsThrottled", "KMS.AccessDeniedException", "InvalidSecurity", "OverLimit"):
            self.client.always = failing(0, code=code, sender_fault=True)
            self.assertIn(code, self.unavailable(self.write(a_batch(1))))

    def test_whole_calls_that_fail(self) -> None:
        for error, word in (
            (client_error("RequestThrottled"), "RequestThrottled"),
            (client_error("AWS.SimpleQueueService.NonExistentQueue", "no such queue"), "no such queue"),
            (client_error("AccessDenied"), "AccessDenied"),
            (ReadTimeoutError(endpoint_url="http://127.0.0.1"), "ReadTimeoutError"),
            (OSError(28, "strange"), "strange"),
            (KeyError("something else of boto3"), "KeyError"),
        ):
            self.client.always = error
            self.assertIn(word, self.unavailable(self.write(a_batch(1))))

    def test_one_call_that_fails_does_not_hold_back_the_others(self) -> None:
        self.client.script = [client_error("RequestThrottled")]
        self.unavailable(self.write(*(a_batch(number) for number in range(20))))
        self.assertEqual([batch.id for batch in self.client.batches], [a_batch(number).id for number in range(10, 20)])

    def test_what_the_queue_refuses_whole_is_sent_row_by_row(self) -> None:
        def answer(entries: Sequence[dict[str, str]]) -> Any:
            places = [place for place, entry in enumerate(entries) if len(entry["MessageBody"]) > 1000]
            return failing(*places, code="InvalidParameterValue", sender_fault=True)(entries)

        self.client.always = answer
        batch = a_batch(1, rows=30)
        writing = self.write(a_batch(2), batch)
        self.assertEqual(self.successResultOf(writing).refused, ())
        self.assertEqual([row for one in self.client.batches[1:] for row in one.rows], list(batch.rows))
        self.assertEqual(self.client.batches[1].row_id(0), batch.row_id(0))
        self.assertEqual(len(self.lines.having("sending their rows apart")), 1)

    def test_a_row_that_the_queue_refuses_is_refused_and_the_rest_is_sent(self) -> None:
        def answer(entries: Sequence[dict[str, str]]) -> Any:
            places = [place for place, entry in enumerate(entries) if "POISON" in entry["MessageBody"]]
            return failing(*places, code="InvalidMessageContents", sender_fault=True)(entries)

        self.client.always = answer
        sound = a_batch(1, rows=4)
        rows = list(sound.rows)
        rows[2] = rows[2]._replace(kind=KIND._replace(asset="POISON"))
        batch = Batch(sound.id, "n1", tuple(rows))
        single = Batch(f"{9:024x}", "n1", (rows[2],))
        refused = self.successResultOf(self.write(batch, single)).refused
        self.assertEqual({(row.batch_id, row.place) for row in refused}, {(batch.id, 2), (single.id, 0)})
        self.assertTrue(all("InvalidMessageContents" in row.reason for row in refused))
        taken = [row for one in self.client.batches for row in one.rows]
        self.assertEqual(taken, [rows[0], rows[1], rows[3]])

    def test_a_call_that_is_refused_for_one_of_its_messages_is_sent_one_by_one(self) -> None:
        def answer(entries: Sequence[dict[str, str]]) -> Any:
            if any("POISON" in entry["MessageBody"] for entry in entries):
                raise client_error("InvalidParameterValue", "Reason: Message must be shorter than 1024 bytes.")
            return failing()(entries)

        self.client.always = answer
        poison = a_batch(3, rows=1, kind=KIND._replace(asset="POISON"))
        refused = self.successResultOf(self.write(a_batch(1), a_batch(2), poison)).refused
        self.assertEqual([(row.batch_id, row.place) for row in refused], [(poison.id, 0)])
        self.assertEqual([batch.id for batch in self.client.batches], [a_batch(1).id, a_batch(2).id])

    def test_the_names_of_errors_may_have_a_prefix(self) -> None:
        self.client.script = [client_error("AWS.SimpleQueueService.BatchRequestTooLong")]
        self.assertEqual(self.successResultOf(self.write(a_batch(1), a_batch(2))).refused, ())
        self.assertEqual([len(call) for call in self.client.calls], [2, 1, 1])

    def test_rows_that_fit_into_no_message_are_refused(self) -> None:
        rows = (*a_batch(1).rows, a_batch(1).rows[0]._replace(kind=KIND._replace(asset="x" * 300_000)))
        (refused,) = self.successResultOf(self.write(Batch(a_batch(1).id, "n1", rows))).refused
        self.assertEqual((refused.batch_id, refused.place), (a_batch(1).id, 3))
        self.assertEqual(sum(len(batch.rows) for batch in self.client.batches), 3)
        (line,) = self.lines.having(f"row 3 of batch {a_batch(1).id} cannot be sent")
        self.assertIn("a1b2c3d4e5", line)
        self.assertLess(len(line), 2000)

    def test_other_credentials_are_looked_for_when_these_do_not_do(self) -> None:
        self.client.script = [client_error("ExpiredToken"), client_error("RequestThrottled")]
        for _ in range(3):
            self.write(a_batch(1)).addErrback(lambda failure: None)
        self.assertEqual(self.made, 2)

    def test_no_secret_in_what_is_told(self) -> None:
        self.client.always = client_error("SignatureDoesNotMatch", "The Canonical String is: AKIAXYZ")
        told = self.unavailable(self.write(a_batch(1)))
        self.assertIn("SignatureDoesNotMatch", told)
        self.assertNotIn("AKIAXYZ", told)


class RealCallsTests(TestCase):
    """Against moto's server, through threads and sockets."""

    timeout = 60

    def setUp(self) -> None:
        log_in(self)
        self.server = AwsServer()
        self.addCleanup(self.server.stop)
        self.threads = CallThreads("aws", reactor)
        self.addCleanup(self.threads.stop)

    def queue(self, url: str) -> SqsQueue:
        return SqsQueue(queue_address(url, REGION), self.threads)

    def store(self, queue: SqsQueue) -> SqsUsageStore:
        return SqsUsageStore(queue, self.threads, reactor, lambda: 0.0)

    async def test_what_is_sent_is_received(self) -> None:
        queue = self.queue(self.server.queue("sent"))
        strange = KIND._replace(asset="\x00\ud800\uffff😀", source="é")
        batches = [a_batch(number, rows=MOST_ROWS) for number in range(12)]
        batches += [
            a_batch(20, kind=strange),
            a_batch(21, rows=1),
            Batch(f"{22:024x}", "n2", (Row(KIND, 1e9, 2**70, 5, 5),)),
        ]
        self.assertEqual(await self.store(queue).write(batches), Written((), {}))
        received: list[Delivery] = []
        while deliveries := await queue.receive(10, 0, 60):
            received += deliveries
            self.assertEqual(await queue.delete([delivery.receipt for delivery in deliveries]), {})
        found = [decode(delivery.body, delivery.message_id) for delivery in received]
        self.assertEqual(sorted(found, key=lambda batch: batch.id), batches)
        self.assertEqual({delivery.times for delivery in received}, {1})

    async def test_a_message_is_hidden_until_it_is_given_back(self) -> None:
        queue = self.queue(self.server.queue("hidden"))
        await self.store(queue).write([a_batch(1)])
        (first,) = await queue.receive(10, 0, 60)
        self.assertEqual(await queue.receive(10, 0, 60), [])
        self.assertEqual(await queue.hide([first.receipt], 0), {})
        (second,) = await queue.receive(10, 0, 60)
        self.assertEqual((second.message_id, second.times), (first.message_id, 2))
        self.assertEqual(await queue.delete([second.receipt]), {})

    async def test_deletes_that_fail_are_told_one_by_one(self) -> None:
        queue = self.queue(self.server.queue("deletes"))
        await self.store(queue).write([a_batch(1)])
        (delivery,) = await queue.receive(10, 0, 60)
        failed = await queue.delete(["no such receipt", delivery.receipt])
        self.assertEqual(list(failed), [0])
        self.assertIn("ReceiptHandleIsInvalid", failed[0].reason)

    async def test_a_queue_that_takes_only_small_messages(self) -> None:
        url = self.server.queue("small", MaximumMessageSize="1024")
        queue = self.queue(url)
        batch = a_batch(1, rows=40)
        self.assertEqual((await self.store(queue).write([batch, a_batch(2, rows=1)])).refused, ())
        rows = []
        while deliveries := await queue.receive(10, 0, 60):
            rows += [row for one in deliveries for row in decode(one.body, one.message_id).rows]
        self.assertEqual(sorted(rows, key=lambda row: row.request_count)[:40], sorted(batch.rows)[:40])
        self.assertEqual(len(rows), 41)

    async def test_a_queue_that_is_not_there(self) -> None:
        store = self.store(self.queue(f"{self.server.url}/123456789012/nowhere"))
        error = await self.assertFailure(ensureDeferred(store.write([a_batch(1)])), StoreUnavailableError)
        self.assertIn("NonExistentQueue", str(error))

    async def test_nobody_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        store = self.store(self.queue(f"http://127.0.0.1:{port}/1/usage"))
        error = await self.assertFailure(ensureDeferred(store.write([a_batch(1)])), StoreUnavailableError)
        self.assertIn("EndpointConnectionError", str(error))

    async def test_somebody_who_never_answers(self) -> None:
        self.patch(sqs, "READ_SECONDS", 0.2)
        self.patch(sqs, "TRIES_A_CALL", 1)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            store = self.store(self.queue(f"http://127.0.0.1:{listener.getsockname()[1]}/1/usage"))
            error = await self.assertFailure(ensureDeferred(store.write([a_batch(1)])), StoreUnavailableError)
        self.assertIn("ReadTimeoutError", str(error))

    async def test_no_credentials_and_then_some(self) -> None:
        queue = self.queue(self.server.queue("keys"))
        key = os.environ.pop("AWS_ACCESS_KEY_ID")
        error = await self.assertFailure(ensureDeferred(self.store(queue).write([a_batch(1)])), StoreUnavailableError)
        self.assertIn("NoCredentialsError", str(error))
        os.environ["AWS_ACCESS_KEY_ID"] = key
        self.assertEqual((await self.store(queue).write([a_batch(1)])).refused, ())

    async def test_the_envelope_on_the_wire(self) -> None:
        url = self.server.queue("wire")
        await self.store(self.queue(url)).write([a_batch(1, rows=1)])
        (message,) = self.server.client("sqs").receive_message(QueueUrl=url)["Messages"]
        envelope = json.loads(message["Body"])
        self.assertEqual((envelope["type"], envelope["payload"]["api_key_id"]), ("usage_log", "a1b2c3d4e5"))
