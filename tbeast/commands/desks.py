"""The two ways to ask a running daemon: over HTTP and over UDP.

Over UDP an unsigned question is in the JSON form, since that is always longer than a refusal, and the daemon sends no
refusal that is longer than the question. Each try of a signed question is signed anew: a mac is good once, and it may
have been the answer that was lost.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from attrs import frozen

from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.signatures import mac_of
from tbeast.commands.asking import (
    Batch,
    NoAnswer,
    Outcome,
    Place,
    Refusal,
    outcome_of,
    portions,
    read_as,
    reason_of,
    spelled,
)
from tbeast.domain.keys import datagram_secret_of, key_id_of

DATAGRAM_TRIES: Final = 3
DATAGRAM_WAIT_SECONDS = 1.0

_LARGEST_BODY: Final = 1 << 20
_T = TypeVar("_T")


@frozen
class Round:
    """What came of one batch.

    @ivar status: the HTTP status of the whole; unless it is 200, every outcome says the same.
    @ivar node: who answered.
    @ivar simulated: whether prices are invented.
    """

    status: int
    node: str
    simulated: bool
    outcomes: list[Outcome]


class HttpDesk:
    """Asks over HTTP, on one connection for as long as it lasts."""

    def __init__(self, place: Place) -> None:
        self.url = place.url("http" if place.tls is None else "https")
        self._headers = {"Authorization": f"Bearer {place.key}", "Accept": "application/json", "User-Agent": "tbeast"}
        self._connection = (
            HTTPConnection(place.host, place.port, timeout=place.timeout_seconds)
            if place.tls is None
            else HTTPSConnection(place.host, place.port, timeout=place.timeout_seconds, context=place.tls)
        )

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """Ask; give the status and the body, of whatever status.

        @raise NoAnswer: when there is none.
        """
        while True:
            was_open = self._connection.sock is not None
            try:
                self._connection.request("GET", path, headers=self._headers)
                response = self._connection.getresponse()
                body = response.read(_LARGEST_BODY + 1)
                if len(body) > _LARGEST_BODY:
                    raise HTTPException("the answer is too large")
                if response.length:
                    raise HTTPException("the answer broke off")
                return response.status, body
            except (OSError, HTTPException, ValueError) as error:
                self.close()
                # the daemon may hang up on an idle connection at any time: that says nothing about a new one
                if not was_open or isinstance(error, TimeoutError):
                    raise NoAnswer(self.url, reason_of(error)) from None

    def price(self, query: PriceQuery) -> Outcome:
        """Ask for one price."""
        wanted: dict[str, str | int] = {"asset": spelled(query)}
        if query.exchange:
            wanted["exchange"] = query.exchange
        if query.max_age_ms is not None:
            wanted["max_age_ms"] = query.max_age_ms
        status, body = self.get(f"/price?{urlencode(wanted)}")
        return self._outcome(spelled(query), status, body)

    def prices(self, queries: Sequence[PriceQuery]) -> Round:
        """Ask for up to L{LARGEST_BATCH} prices at once; each is in its default form, exchange and age aside."""
        asked = [spelled(query) for query in queries]
        status, body = self.get(f"/prices?assets={quote(','.join(asked))}")
        if status != 200:
            refused = self._outcome(asked[0], status, body)
            outcomes = [Outcome(name, body, None, refused.code, refused.detail) for name in asked]
            return Round(status, "", False, outcomes)
        batch = read_as(body, Batch, self.url)
        if len(batch.prices) != len(asked):
            raise NoAnswer(self.url, f"{len(asked)} prices asked for, {len(batch.prices)} given")
        outcomes = [outcome_of(name, bytes(raw), self.url) for name, raw in zip(asked, batch.prices, strict=True)]
        return Round(status, batch.node, batch.simulated, outcomes)

    def explanation(self, asset: str, kind: type[_T]) -> tuple[bytes, _T | Outcome]:
        """Ask how a price came about; give the JSON, and it as a C{kind}, or the refusal."""
        status, body = self.get(f"/explain/{quote(asset, safe='')}")
        if status != 200:
            return body, self._outcome(asset, status, body)
        return body, read_as(body, kind, self.url)

    def _outcome(self, asked: str, status: int, body: bytes) -> Outcome:
        try:
            outcome = outcome_of(asked, body, self.url)
        except NoAnswer:
            if status == 200:
                raise
            raise NoAnswer(self.url, f"status {status}, and not in the words of a tbeast daemon") from None
        if (status == 200) != (outcome.price is not None):
            raise NoAnswer(self.url, f"status {status} does not go with what was said")
        return outcome


class DatagramDesk:
    """Asks over UDP.

    @param now: seconds since the epoch, for signed questions.
    """

    def __init__(self, place: Place, signed: bool, now: Callable[[], float] = time.time) -> None:
        self.url = place.url("udp")
        self._place = place
        self._signed = signed
        self._now = now

    def prices(self, queries: Sequence[PriceQuery]) -> Iterator[Outcome]:
        """Ask for prices; where one answer does not hold all, ask again for the rest.

        @raise NoAnswer: when there is silence; what was answered before was given.
        """
        if self._signed or len(queries) == 1:
            for query in queries:
                yield self._one(spelled(query))
            return
        for portion in portions(queries):
            rest = [spelled(query) for query in portion]
            while rest:
                outcomes = self._several(rest)
                yield from outcomes
                rest = rest[len(outcomes) :]

    def _one(self, asset: str) -> Outcome:
        said = self._ask({"asset": asset})
        return outcome_of(asset, said, self.url)

    def _several(self, assets: list[str]) -> list[Outcome]:
        said = self._ask({"assets": assets})
        refusal = read_as(said, Refusal, self.url)
        if refusal.error:
            return [outcome_of(asset, said, self.url) for asset in assets]
        batch = read_as(said, Batch, self.url)
        if not 0 < len(batch.prices) <= len(assets):
            raise NoAnswer(self.url, f"{len(assets)} prices asked for, {len(batch.prices)} given")
        return [outcome_of(asset, bytes(raw), self.url) for asset, raw in zip(assets, batch.prices, strict=False)]

    def _ask(self, wanted: dict[str, Any]) -> bytes:
        place = self._place
        question_id = secrets.randbelow(10**15)

        def question() -> bytes:
            if self._signed:
                return self._signed_question(wanted["asset"], question_id)
            asked = {"api_key": place.key, **wanted, "id": question_id}
            return json.dumps(asked, separators=(",", ":")).encode("ascii")

        try:
            addresses = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_DGRAM)
        except (OSError, ValueError) as error:
            raise NoAnswer(self.url, reason_of(error)) from None
        why: Exception = OSError("no address")
        for family, kind, protocol, _, address in addresses:
            try:
                with socket.socket(family, kind, protocol) as sender:
                    sender.connect(address)
                    answer = _exchanged(sender, question, question_id)
            except OSError as error:
                why = error
                continue
            if answer is None:
                raise NoAnswer(
                    self.url,
                    f"silence after {DATAGRAM_TRIES} datagrams; the daemon is away, or does not know the key",
                )
            return answer
        raise NoAnswer(self.url, reason_of(why))

    def _signed_question(self, asset: str, question_id: int) -> bytes:
        key = self._place.key
        signed = f"~1|{key_id_of(key)}|{int(self._now() * 1000)}|{asset}|{question_id}".encode("ascii")
        return signed + b"|" + mac_of(datagram_secret_of(key.encode("ascii")), signed)


def _exchanged(sender: socket.socket, question: Callable[[], bytes], question_id: int) -> bytes | None:
    """Send the question until the answer with its id comes; C{None} if it never does."""
    for _ in range(DATAGRAM_TRIES):
        sender.send(question())
        until = time.monotonic() + DATAGRAM_WAIT_SECONDS
        while (left := until - time.monotonic()) > 0:
            sender.settimeout(left)
            try:
                answer = sender.recv(65535)
            except TimeoutError:
                break
            if _id_of(answer) == question_id:
                return answer
    return None


def _id_of(answer: bytes) -> object:
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return said.get("id") if isinstance(said, dict) else None
