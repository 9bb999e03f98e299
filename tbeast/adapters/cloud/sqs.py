"""A queue at SQS (or at something that speaks like it): usage is sent to it, and received from it.

The rules. A batch of messages is sent in calls of at most ten messages and 256 KiB, several calls at a time. SQS
answers for each message of a call: those that it did not take are sent again, alone. What it will never take is sent
row by row, since it may be the size that is wrong with it, and then refused row by row. Everything else (throttled,
away, no credentials, no such queue) means that the usage is not delivered yet: the caller keeps it and comes again.
Then some of it arrives twice, which does no harm, because the reader's store counts a batch once.

No call waits without an end. Where the queue is, its URL says: at AWS the region stands in it; any other host is
itself the endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import frozen
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tbeast.adapters.cloud.threads import Threads
from tbeast.adapters.cloud.words import one_line, words_of
from tbeast.codecs.usageenvelopes import Delivery, Message, Unsendable, encode, encode_apart, in_calls
from tbeast.domain.backoff import wait_seconds
from tbeast.domain.usage import Batch
from tbeast.errors import StoreError, StoreUnavailableError
from tbeast.interfaces import Chance, RefusedRow, Written

MOST_MESSAGES_A_CALL: Final = 10
"""SQS's own limit, for sending, receiving and deleting."""

CONNECT_SECONDS: Final = 2
READ_SECONDS: Final = 5
"""Longer than L{SqsQueue.receive} may be asked to wait."""

TRIES_A_CALL: Final = 2
"""By botocore, for a connection that broke or an error of the server."""

LONGEST_WAIT_SECONDS: Final = 3

SENDINGS: Final = 3
FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_RETRY_SECONDS: Final = 1.0

LONGEST_SHOWN: Final = 1000

ANY_REGION: Final = "us-east-1"
"""For a queue that is not at AWS and whose operator has named no region: calls are signed, and it must be with one."""

_AWS: Final = re.compile(
    r"(?:sqs\.(?P<region>[a-z]{2}(?:-[a-z]+)+-\d+)|(?:(?P<legacy>[a-z]{2}(?:-[a-z]+)+-\d+)\.)?queue)"
    r"\.amazonaws\.com(?:\.cn)?"
)
_REGION_IN_HOST: Final = re.compile(
    r"\.([a-z]{2}(?:-[a-z]+)+-\d+)\.(?:[a-z0-9.-]+\.)?(?:amazonaws\.com(?:\.cn)?|api\.aws|api\.amazonwebservices\.com\.cn)$"
)

_TOO_MUCH: Final = re.compile(
    "BatchRequestTooLong|InvalidMessageContents|InvalidParameterValue:.*must be shorter", re.I
)
"""Errors of a whole call that come of what is in one of its messages."""

_LOGIN: Final = re.compile(
    "NoCredentials|PartialCredentials|CredentialRetrieval|InvalidClientToken|UnrecognizedClient|ExpiredToken"
    "|InvalidAccessKey|SignatureDoesNotMatch|InvalidSecurity|AccessDenied"
)
"""Errors that other credentials would mend."""

_NOT_THE_MESSAGE: Final = re.compile(
    "throttl|kms|access|denied|security|token|credential|signature|quota|overlimit", re.I
)
"""Error codes that blame the sender, but not what he sent."""


@frozen
class QueueAddress:
    """Where a queue is.

    @ivar region: the AWS region that calls are signed for.
    @ivar endpoint: the root of the server; C{None}: SQS of that region.
    """

    url: str
    region: str
    endpoint: str | None


def queue_address(url: str, region: str | None) -> QueueAddress:
    """Work out where the queue with this URL is.

    @param region: what the operator set; the region in a URL of AWS goes before it.
    @raise StoreError: for a queue that keeps an order: usage needs none, and it would slow it down.
    """
    parts = urlsplit(url)
    if parts.path.endswith(".fifo"):
        raise StoreError("the usage queue must be a standard queue, not a FIFO queue")
    host = parts.hostname or ""
    if found := _AWS.fullmatch(host):
        return QueueAddress(url, found["region"] or found["legacy"] or ANY_REGION, None)
    # the endpoints of a private network, of FIPS and of IPv6 are at AWS too, but must be called by their own names
    named = _REGION_IN_HOST.search(host)
    return QueueAddress(url, named[1] if named else region or ANY_REGION, f"{parts.scheme}://{parts.netloc}")


def sqs_client(address: QueueAddress) -> Any:
    """A client of boto3, with credentials from where AWS's own tools find them."""
    # imported here: it takes a third of a second and 30 MB, which a daemon without a queue need not pay
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": TRIES_A_CALL, "mode": "standard"},
        tcp_keepalive=True,
    )
    # a session of its own: the default one is no place for several threads
    session = boto3.session.Session()
    return session.client("sqs", region_name=address.region, endpoint_url=address.endpoint, config=config)


@frozen
class NotTaken:
    """Why one entry of a call was not taken.

    @ivar forever: whether it will never be.
    """

    reason: str
    forever: bool


class SqsQueue:
    """One queue.

    Every call raises L{StoreUnavailableError} when there is no answer to it that helps; the message has no secret.
    """

    def __init__(
        self, address: QueueAddress, threads: Threads, make_client: Callable[[QueueAddress], Any] = sqs_client
    ) -> None:
        """Set it up; nothing is connected before the first call."""
        self.address = address
        self._threads = threads
        self._make_client = make_client
        self._client: Any = None
        self._making = Lock()

    async def send(self, bodies: Sequence[str]) -> Mapping[int, NotTaken]:
        """Send at most ten messages.

        @return: the places of those that were not taken.
        """
        entries = [{"Id": str(place), "MessageBody": body} for place, body in enumerate(bodies)]
        try:
            return await self._in_batch("send_message_batch", entries)
        except _TooMuchError as error:
            if len(bodies) == 1:
                return {0: NotTaken(error.reason, forever=True)}
        failed: dict[int, NotTaken] = {}
        for place, body in enumerate(bodies):
            for why in (await self.send([body])).values():
                failed[place] = why
        return failed

    async def receive(self, most: int, wait_seconds: int, hidden_seconds: int) -> Sequence[Delivery]:
        """Receive at most so many messages (ten).

        @param wait_seconds: how long to wait for the first, at most L{LONGEST_WAIT_SECONDS}.
        @param hidden_seconds: for how long nobody else is to receive them.
        """
        answer = await self._call(
            "receive_message",
            MaxNumberOfMessages=most,
            WaitTimeSeconds=min(wait_seconds, LONGEST_WAIT_SECONDS),
            VisibilityTimeout=hidden_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return [
            Delivery(
                message["ReceiptHandle"],
                message["MessageId"],
                message["Body"],
                int(message.get("Attributes", {}).get("ApproximateReceiveCount", "1")),
            )
            for message in answer.get("Messages", ())
        ]

    async def delete(self, receipts: Sequence[str]) -> Mapping[int, NotTaken]:
        """Delete at most ten messages.

        @return: the places of those that were not deleted.
        """
        return await self._in_batch("delete_message_batch", _receipts(receipts))

    async def hide(self, receipts: Sequence[str], seconds: int) -> Mapping[int, NotTaken]:
        """Keep at most ten messages from everybody else for so long from now; 0: give them back.

        @return: the places of those for which that could not be done.
        """
        entries = [{**entry, "VisibilityTimeout": seconds} for entry in _receipts(receipts)]
        return await self._in_batch("change_message_visibility_batch", entries)

    async def _in_batch(self, operation: str, entries: Sequence[Mapping[str, object]]) -> dict[int, NotTaken]:
        answer = await self._call(operation, Entries=entries)
        taken = {entry["Id"] for entry in answer.get("Successful", ())}
        failed = {entry["Id"]: entry for entry in answer.get("Failed", ())}
        # what is in neither list is not known to be done
        return {
            place: _not_taken(failed.get(entry["Id"], {}))
            for place, entry in enumerate(entries)
            if entry["Id"] not in taken
        }

    async def _call(self, operation: str, **arguments: object) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = await self._threads.run(partial(self._blocking_call, operation, arguments))
        return answer

    def _blocking_call(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, Any]:
        try:
            with self._making:
                client = self._client = self._client or self._make_client(self.address)
            answer: Mapping[str, Any] = getattr(client, operation)(QueueUrl=self.address.url, **arguments)
        except Exception as error:  # botocore lets the errors of several other libraries through
            words = words_of(error)
            if _LOGIN.search(words):
                self._client = None  # a client never looks for other credentials than those that it began with
            kind = _TooMuchError if _TOO_MUCH.search(words) else StoreUnavailableError
            raise kind(f"the usage queue: {operation}: {words}") from None
        return answer


class _TooMuchError(StoreUnavailableError):
    """A whole call was refused for what is in it."""

    @property
    def reason(self) -> str:
        """What was said."""
        return str(self)


def _receipts(receipts: Sequence[str]) -> list[dict[str, object]]:
    return [{"Id": str(place), "ReceiptHandle": receipt} for place, receipt in enumerate(receipts)]


def _not_taken(entry: Mapping[str, Any]) -> NotTaken:
    code = str(entry.get("Code", "no answer"))
    forever = entry.get("SenderFault") is True and not _NOT_THE_MESSAGE.search(code)
    return NotTaken(f"{code}: {one_line(str(entry.get('Message') or ''))}".removesuffix(": "), forever)


class SqsUsageStore:
    """L{tbeast.interfaces.UsageStore} that sends batches to a queue, whose reader writes them.

    What the cluster has used is not known here: L{Written.usage} is empty.
    """

    log = Logger()

    def __init__(self, queue: SqsQueue, threads: Threads, clock: IReactorTime, chance: Chance) -> None:
        self._queue = queue
        self._threads = threads
        self._clock = clock
        self._chance = chance

    async def write(self, batches: Sequence[Batch]) -> Written:
        """See L{tbeast.interfaces.UsageStore.write}; here it is enough that the queue has all of them."""
        messages, unsendable = await self._threads.run(partial(_encoded, batches))
        refused = [RefusedRow(row.batch.id, row.place, row.reason) for row in unsendable]
        never = await self._send(messages)
        whole = [message for message, _ in never if len(message.places) > 1]
        if whole:
            self.log.warn("the usage queue refuses {count} batches whole; sending their rows apart", count=len(whole))
            apart, unsendable = await self._threads.run(partial(_encoded_apart, whole))
            refused += [RefusedRow(row.batch.id, row.place, row.reason) for row in unsendable]
            never = [(message, reason) for message, reason in never if len(message.places) == 1]
            never += await self._send(apart)
        refused += [RefusedRow(message.batch.id, message.places[0], reason) for message, reason in never]
        self._tell(refused, batches)
        return Written(tuple(refused), {})

    def _tell(self, refused: Sequence[RefusedRow], batches: Sequence[Batch]) -> None:
        """Write refused rows into the log: no database has set them aside."""
        by_id = {batch.id: batch for batch in batches} if refused else {}
        for one in refused:
            row = str(by_id[one.batch_id].rows[one.place])
            self.log.error(
                "row {place} of batch {batch} cannot be sent: {reason}: {row}",
                place=one.place, batch=one.batch_id, reason=one.reason, row=row[:LONGEST_SHOWN],
            )  # fmt: skip

    async def _send(self, messages: Sequence[Message]) -> list[tuple[Message, str]]:
        """Send all; give those that will never be taken, and why.

        @raise StoreUnavailableError: when one was not taken otherwise; the others have been tried too.
        """
        calls = [ensureDeferred(self._send_lot(lot)) for lot in in_calls(messages, MOST_MESSAGES_A_CALL)]
        outcomes: Any = await DeferredList(calls, consumeErrors=True)
        for good, failure in outcomes:
            if not good:
                failure.raiseException()
        return [refusal for _, refusals in outcomes for refusal in refusals]

    async def _send_lot(self, lot: Sequence[Message]) -> list[tuple[Message, str]]:
        never: list[tuple[Message, str]] = []
        waiting = list(lot)
        for sending in range(SENDINGS):
            if sending:
                wait = wait_seconds(sending - 1, self._chance(), FIRST_WAIT_SECONDS, LONGEST_RETRY_SECONDS)
                await deferLater(self._clock, wait)
            failed = await self._queue.send([message.body for message in waiting])
            never += [(waiting[place], why.reason) for place, why in failed.items() if why.forever]
            again = {place: why for place, why in failed.items() if not why.forever}
            if not again:
                return never
            waiting = [waiting[place] for place in again]
        why = next(iter(again.values()))
        raise StoreUnavailableError(f"the usage queue: {len(waiting)} of {len(lot)} messages not taken: {why.reason}")


def _encoded(batches: Sequence[Batch]) -> tuple[list[Message], list[Unsendable]]:
    messages: list[Message] = []
    unsendable: list[Unsendable] = []
    for batch in batches:
        more, worse = encode(batch)
        messages += more
        unsendable += worse
    return messages, unsendable


def _encoded_apart(wholes: Sequence[Message]) -> tuple[list[Message], list[Unsendable]]:
    messages: list[Message] = []
    unsendable: list[Unsendable] = []
    for whole in wholes:
        more, worse = encode_apart(whole.batch, whole.places)
        messages += more
        unsendable += worse
    return messages, unsendable
