"""The price surface over UDP: one datagram asks, at most one answers.

The sender's address of a datagram can be forged, so nothing goes out that somebody without a key could have sent
elsewhere: a price goes to a question with a real key, a refusal too, and only if it is no longer than the question.
Everything else is dropped and counted by reason. A signed question is checked in the order of cost: the id, the time,
the mac, whether the mac was spent; then it passes the gate as any other, and an admitted one spends its mac.

Whoever has a key is recorded in the ledger with every question: the admitted ones whether or not an answer could go
out, the refused ones too. Once the ledger is closed nobody is answered any more.

From a real port datagrams are read here, so many in a turn of the reactor, and answers are sent by the socket itself.
The plain question, in text, of a dollar price that lies on the shelf, with or without a number for an id, is answered
on the spot (L{PriceDatagrams.read}). Whatever else it may turn out to be goes the ordinary way with the
verdict it has, and a test holds the two ways to the same answers, ledger and counters. The spellings of assets that
were answered are remembered, and nothing else: no key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.udp import Port
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.codecs import datagrams, problems
from tbeast.codecs.datagrams import Question
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import CODES, Problem
from tbeast.codecs.replies import with_id
from tbeast.codecs.signatures import SpentMacs
from tbeast.domain.admission import ADMITTED, BAD_KEY, Verdict
from tbeast.domain.counters import Counters
from tbeast.domain.readyreplies import body
from tbeast.domain.usage import SEVERAL, Ledger
from tbeast.interfaces import Now
from tbeast.servers.answers import SHELF, Answer, Answers
from tbeast.servers.datagramsockets import KernelDrops, ask_for_buffers
from tbeast.servers.gate import Gate
from tbeast.servers.signedquestions import signer
from tbeast.servers.site import CAPACITY_CODES

SERVICE: Final = "lpo"
MOST_WAITING: Final = 1_000
"""How many questions may wait for a look-up at a time; more are refused as having no fresh price."""
AT_A_TIME: Final = 100
"""How many plain questions are taken before others have their turn."""
ORDINARY: Final = 5
"""As how many of them a datagram counts that goes the ordinary way; one that asks for many prices costs still more."""
DROPS_LOOK_SECONDS: Final = 1.0
"""How often the kernel is asked what it has dropped."""
MOST_SPELLINGS: Final = 4_096
"""How many ways to write assets are remembered; when there are more, it begins anew."""

_ROOM: Final = datagrams.LARGEST + 1
"""How much is read of a datagram: enough to see that it is too large."""
_ANSWERED: Final = ("requests", SERVICE, "udp", "200")
_FOUND: Final = ("lookups", SHELF)
_UNKNOWN: Final[dict[bytes, str]] = {}


class _Asked(NamedTuple):
    """A question of somebody whose key is real, and what is needed to answer it. A NamedTuple for its speed.

    @ivar datagram: as it came.
    @ivar key_id: for the ledger.
    @ivar is_admitted: by the gate.
    @ivar at: when it came.
    """

    question: Question
    datagram: bytes
    addr: Any
    key_id: str
    is_admitted: bool
    at: float


class PriceDatagrams(DatagramProtocol):
    """Listens for questions.

    @ivar waiting: how many questions wait for a look-up.
    """

    _log = Logger()
    noisy = False

    def __init__(
        self,
        *,
        gate: Gate,
        answers: Answers,
        counters: Counters,
        now: Now,
        spent: SpentMacs | None = None,
        ledger: Ledger | None = None,
        buffer_bytes: int | None = None,
    ) -> None:
        """Set it up.

        @param buffer_bytes: what to ask the kernel for as the port's buffers; C{None}: what it gives by itself.
        """
        self._gate = gate
        self._answers = answers
        self._counts = counters.counts
        self._now = now
        self._spent = SpentMacs() if spent is None else spent
        self._ledger = Ledger() if ledger is None else ledger
        self._buffer_bytes = buffer_bytes
        self.waiting = 0
        self._spellings: dict[bytes, str] = {}
        self._receive: Callable[[int], tuple[bytes, Any]] | None = None
        self._send_to: Callable[[bytes, Any], object] | None = None
        self._drops: KernelDrops | None = None
        self._looking: IDelayedCall | None = None
        self._unreceived: set[int | None] = set()

    def startProtocol(self) -> None:
        """The port is open: read it ourselves if it has a socket. All else about it stays Twisted's."""
        port: Any = self.transport
        if isinstance(port, Port):
            self._take_over(port)

    def _take_over(self, port: Any) -> None:
        self._receive, self._send_to = port.socket.recvfrom, port.socket.sendto
        port.doRead = self.read
        if self._buffer_bytes is not None:
            ask_for_buffers(port.socket, self._buffer_bytes)
        self._drops = KernelDrops(port.socket)
        self._looking = port.reactor.callLater(DROPS_LOOK_SECONDS, self._look, port.reactor)

    def stopProtocol(self) -> None:
        """The port closes."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._count_drops()
        self._receive = self._send_to = self._drops = None

    def _look(self, clock: Any) -> None:
        self._looking = clock.callLater(DROPS_LOOK_SECONDS, self._look, clock)
        self._count_drops()

    def _count_drops(self) -> None:
        new = 0 if self._drops is None else self._drops.new()
        if new:
            key = ("udp_kernel_drops", SERVICE)
            self._counts[key] = self._counts.get(key, 0) + new

    def read(self) -> None:
        """Take what the port's socket has, up to L{AT_A_TIME} plain questions, and answer it.

        Nothing is raised: the reactor would close the port.
        """
        receive, send, now, admit, count = self._receive, self._send_to, self._now, self._gate.admit, self._ledger.count
        if receive is None or send is None:
            return
        find, assets = self._answers.shelf.find, self._answers.assets.assets
        # once the ledger is closed, only the ordinary way, which knows what to do then
        spelled = _UNKNOWN.get if self._ledger.is_closed else self._spellings.get
        found = answered = 0
        left = AT_A_TIME
        while left > 0:
            left -= 1
            try:
                datagram, addr = receive(_ROOM)
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    self._note(error)
                break
            try:
                key, _, asked = datagram.partition(b"|")
                id_json = b""
                asset = spelled(asked)
                if asset is None:
                    spelling, _, id_json = asked.rpartition(b"|")
                    if datagrams.is_number(id_json):
                        asset = spelled(spelling)
                if asset is None or asset not in assets:
                    left -= ORDINARY - 1
                    self.datagramReceived(datagram, addr)
                    continue
                # no key begins as the other forms do, so whoever is admitted has asked in text
                at = now()
                verdict = admit(key, at)
                account = verdict.account
                reply = find(asset, at) if verdict.outcome == ADMITTED else None
                if reply is None or account is None:
                    left -= ORDINARY - 1
                    self.received_with(verdict, datagram, addr, at)
                    continue
                found += 1
                answer = body(reply, at)
                done = now()
                took = int((done - at) * 1e6)
                took = took if took > 0 else 0
                count(account.key_id, SERVICE, "udp", asset, reply.source, SHELF, 200, True, done, took)
                try:
                    send(with_id(answer, id_json) if id_json else answer, addr)
                except OSError:
                    self._drop(datagrams.UNSENDABLE)
                else:
                    answered += 1
            except Exception:
                self._log.failure("A datagram could not be dealt with")
        if found:
            counts = self._counts
            counts[_FOUND] = counts.get(_FOUND, 0) + found
            if answered:
                counts[_ANSWERED] = counts.get(_ANSWERED, 0) + answered

    def _note(self, error: OSError) -> None:
        """The socket could not be read from: once of each kind. What waits in it is read in a later turn."""
        if error.errno not in self._unreceived:
            self._unreceived.add(error.errno)
            self._log.warn("datagrams cannot be received at the moment: {error}", error=error)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Answer one datagram, refuse it, or drop it: the ordinary way, whoever has read it."""
        now = self._now()
        question = datagrams.parse(datagram)
        if isinstance(question, str):
            self._drop(question)
            return
        verdict = self._admitted(question, now) if question.mac else self._gate.admit(question.key, now)
        if isinstance(verdict, str):
            self._drop(verdict)
            return
        self._judged(question, verdict, datagram, addr, now)

    def received_with(self, verdict: Verdict, datagram: bytes, addr: Any, now: float) -> None:
        """Go on with one datagram in text for whose key the gate was asked already, at C{now}."""
        question = datagrams.parse(datagram)
        if isinstance(question, str):
            self._drop(question)
        else:
            self._judged(question, verdict, datagram, addr, now)

    def _judged(self, question: Question, verdict: Verdict, datagram: bytes, addr: Any, now: float) -> None:
        """Answer or refuse by the gate's verdict."""
        account, outcome = verdict.account, verdict.outcome
        if account is None:
            self._drop(datagrams.BAD_KEY if outcome == BAD_KEY else outcome)
            return
        asked = _Asked(question, datagram, addr, account.key_id, outcome == ADMITTED, now)
        if outcome != ADMITTED:
            self._refuse(outcome, asked)
        elif question.fault:
            self._refuse(question.fault, asked)
        elif question.several:
            self._answer_several(asked)
        else:
            self._answer_one(asked)

    def _admitted(self, question: Question, now: float) -> Verdict | str:
        """The verdict on a signed question, or why it is dropped."""
        account = signer(question, self._gate.keyring, self._spent, now)
        if isinstance(account, str):
            return account
        verdict = self._gate.admit_account(account, now)
        if verdict.outcome == ADMITTED:
            self._spent.remember(question.at_ms, question.mac)
        return verdict

    def _answer_one(self, asked: _Asked) -> None:
        query = asked.question.asked[0]
        assert isinstance(query, PriceQuery)
        answer = self._answers.at_once(query, asked.at)
        if answer is None:
            self._wait(self._look_up(asked, query), asked)
        else:
            self._send_one(answer, asked, query)

    async def _look_up(self, asked: _Asked, query: PriceQuery) -> None:
        self._send_one(await self._answers.after_looking(query, asked.at), asked, query)

    def _send_one(self, answer: Answer | Problem, asked: _Asked, query: PriceQuery) -> None:
        asset = query.asset if query.asset in self._answers.assets.assets else ""
        if isinstance(answer, Answer):
            if self._receive is not None and answer.tier == SHELF and query.is_plain:
                self._remember(asked.datagram, asset)
            if self._record(asked, 200, asset, answer.source, answer.tier):
                self._send(with_id(answer.body, asked.question.id_json), 200, asked.addr)
        else:
            self._refuse(answer.code, asked, asset)

    def _remember(self, datagram: bytes, asset: str) -> None:
        """Know the next time how this question spells C{asset}."""
        spelling = datagrams.spelling_of(datagram)
        if spelling is not None:
            if len(self._spellings) >= MOST_SPELLINGS:
                self._spellings.clear()
            self._spellings[spelling] = asset

    def _answer_several(self, asked: _Asked) -> None:
        found = [
            query if isinstance(query, str) else self._answers.at_once(query, asked.at)
            for query in asked.question.asked
        ]
        if None in found:
            self._wait(self._look_up_several(asked, found), asked)
        else:
            self._send_several(asked, found)

    async def _look_up_several(self, asked: _Asked, found: list[Answer | Problem | str | None]) -> None:
        # all of them begin now, and are waited for together
        begun = [
            Deferred.fromCoroutine(self._answers.after_looking(query, asked.at))
            if answer is None and isinstance(query, PriceQuery)
            else None
            for query, answer in zip(asked.question.asked, found, strict=True)
        ]
        for place, looking in enumerate(begun):
            if looking is not None:
                try:
                    found[place] = await looking
                except Exception:
                    self._log.failure("A look-up failed")
                    found[place] = Problem("internal_error", "")
        self._send_several(asked, found)

    def _send_several(self, asked: _Asked, found: Sequence[Answer | Problem | str | None]) -> None:
        entries = []
        for query, answer in zip(asked.question.asked, found, strict=True):
            if isinstance(answer, Answer):
                entries.append(answer.body)
            elif isinstance(query, str):
                entries.append(problems.render_entry(query, Problem("malformed_asset", "")))
            elif isinstance(answer, Problem):
                entries.append(problems.render_entry(query.asset, answer))
        if self._record(asked, 200, SEVERAL):
            self._send(datagrams.several(entries, asked.question.id_json), 200, asked.addr)

    def _wait(self, coroutine: Any, asked: _Asked) -> None:
        if self.waiting >= MOST_WAITING:
            coroutine.close()
            self._refuse("no_fresh_price", asked)
            return
        self.waiting += 1
        Deferred.fromCoroutine(coroutine).addErrback(self._failed, asked).addBoth(self._waited)

    def _failed(self, reason: Failure, asked: _Asked) -> None:
        self._log.failure("A look-up failed", reason)
        self._refuse("internal_error", asked)

    def _waited(self, _: object) -> None:
        self.waiting -= 1

    def _refuse(self, code: str, asked: _Asked, asset: str = "") -> None:
        if code in CAPACITY_CODES:
            key = ("capacity_refusals", SERVICE, code)
            self._counts[key] = self._counts.get(key, 0) + 1
        status = CODES[code][0]
        if not self._record(asked, status, asset):
            return
        answer = datagrams.refusal(code, asked.question.id_json)
        if len(answer) > len(asked.datagram):
            self._drop(datagrams.SHORT_QUESTION)
        else:
            self._send(answer, status, asked.addr)

    def _record(self, asked: _Asked, status: int, asset: str = "", source: str = "", tier: str = "") -> bool:
        """Put it into the ledger. If that is closed, there is nothing to be answered, and it is dropped."""
        if self._ledger.is_closed:
            self._drop(datagrams.STOPPING)
            return False
        now = self._now()
        took = max(int((now - asked.at) * 1e6), 0)
        self._ledger.count(asked.key_id, SERVICE, "udp", asset, source, tier, status, asked.is_admitted, now, took)
        return True

    def _send(self, answer: bytes, status: int, addr: Any) -> None:
        transport = self.transport
        if transport is None:
            return
        send = transport.write if self._send_to is None else self._send_to
        try:
            send(answer, addr)
        except OSError:
            # an address that cannot be sent to, or no room in the socket's buffer
            self._drop(datagrams.UNSENDABLE)
            return
        key = ("requests", SERVICE, "udp", str(status))
        self._counts[key] = self._counts.get(key, 0) + 1

    def _drop(self, reason: str) -> None:
        key = ("udp_dropped", SERVICE, reason)
        self._counts[key] = self._counts.get(key, 0) + 1
