"""The price surface over UDP: one datagram asks, at most one answers.

The sender's address of a datagram can be forged, so nothing goes out that somebody without a key could have sent
elsewhere: a price goes to a question with a real key, a refusal too, and only if it is no longer than the question.
Everything else is dropped and counted by reason. A signed question is checked in the order of cost: the id, the time,
the mac, whether the mac was spent; then it passes the gate as any other, and an admitted one spends its mac.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.codecs import datagrams, problems
from tbeast.codecs.datagrams import Question
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import CODES, Problem
from tbeast.codecs.replies import with_id
from tbeast.codecs.signatures import SpentMacs, is_genuine
from tbeast.domain.admission import ADMITTED, BAD_KEY, Verdict
from tbeast.domain.counters import Counters
from tbeast.interfaces import Now
from tbeast.servers.answers import Answers
from tbeast.servers.gate import Gate

SERVICE: Final = "lpo"
MOST_WAITING: Final = 1_000
"""How many questions may wait for a look-up at a time; more are refused as having no fresh price."""
AT_A_TIME: Final = 100
"""How many datagrams are taken before others have their turn. The port itself counts bytes, and so reads small and
empty ones for as long as they come."""


class PriceDatagrams(DatagramProtocol):
    """Listens for questions.

    @ivar waiting: how many questions wait for a look-up.
    """

    _log = Logger()
    noisy = False

    def __init__(
        self, *, gate: Gate, answers: Answers, counters: Counters, now: Now, spent: SpentMacs | None = None
    ) -> None:
        self._gate = gate
        self._answers = answers
        self._counts = counters.counts
        self._now = now
        self._spent = SpentMacs() if spent is None else spent
        self.waiting = 0
        self._in_a_row = 0

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Answer one datagram, refuse it, or drop it."""
        self._in_a_row += 1
        if self._in_a_row >= AT_A_TIME:
            self._in_a_row = 0
            self._rest()
        now = self._now()
        question = datagrams.parse(datagram)
        if isinstance(question, str):
            self._drop(question)
            return
        verdict = self._admitted(question, now) if question.mac else self._gate.admit(question.key, now)
        if isinstance(verdict, str):
            self._drop(verdict)
        elif verdict.outcome == BAD_KEY:
            self._drop(datagrams.BAD_KEY)
        elif verdict.outcome != ADMITTED:
            self._refuse(verdict.outcome, question, len(datagram), addr)
        elif question.fault:
            self._refuse(question.fault, question, len(datagram), addr)
        elif question.several:
            self._answer_several(question, now, len(datagram), addr)
        else:
            self._answer_one(question, now, len(datagram), addr)

    def _rest(self) -> None:
        """Have the port read no more in this turn of the reactor."""
        port: Any = self.transport
        most = getattr(port, "maxThroughput", 0)  # 0 as well when it rests already
        if most:
            port.maxThroughput = 0
            port.reactor.callLater(0, setattr, port, "maxThroughput", most)

    def _admitted(self, question: Question, now: float) -> Verdict | str:
        """The verdict on a signed question, or why it is dropped."""
        account = self._gate.keyring.find_by_id(question.key.decode("latin-1"))
        if account is None:
            return datagrams.BAD_KEY
        if not self._spent.is_timely(question.at_ms, now):
            return datagrams.UNTIMELY
        if not is_genuine(account.datagram_secret, question.signed, question.mac):
            return datagrams.BAD_MAC
        if self._spent.is_spent(question.at_ms, question.mac):
            return datagrams.REPLAYED
        if self._spent.is_full:
            return datagrams.MEMORY_FULL
        verdict = self._gate.admit_account(account, now)
        if verdict.outcome == ADMITTED:
            self._spent.remember(question.at_ms, question.mac)
        return verdict

    def _answer_one(self, question: Question, now: float, length: int, addr: Any) -> None:
        query = question.asked[0]
        assert isinstance(query, PriceQuery)
        answer = self._answers.at_once(query, now)
        if answer is None:
            self._wait(self._look_up(question, query, now, length, addr), question, length, addr)
        else:
            self._send_one(answer, question, length, addr)

    async def _look_up(self, question: Question, query: PriceQuery, now: float, length: int, addr: Any) -> None:
        self._send_one(await self._answers.after_looking(query, now), question, length, addr)

    def _send_one(self, answer: bytes | Problem, question: Question, length: int, addr: Any) -> None:
        if isinstance(answer, bytes):
            self._send(with_id(answer, question.id_json), 200, addr)
        else:
            self._refuse(answer.code, question, length, addr)

    def _answer_several(self, question: Question, now: float, length: int, addr: Any) -> None:
        found = [query if isinstance(query, str) else self._answers.at_once(query, now) for query in question.asked]
        if None in found:
            self._wait(self._look_up_several(question, now, found, addr), question, length, addr)
        else:
            self._send_several(question, found, addr)

    async def _look_up_several(
        self, question: Question, now: float, found: list[bytes | Problem | str | None], addr: Any
    ) -> None:
        # all of them begin now, and are waited for together
        begun = [
            Deferred.fromCoroutine(self._answers.after_looking(query, now))
            if answer is None and isinstance(query, PriceQuery)
            else None
            for query, answer in zip(question.asked, found, strict=True)
        ]
        for place, looking in enumerate(begun):
            if looking is not None:
                try:
                    found[place] = await looking
                except Exception:
                    self._log.failure("A look-up failed")
                    found[place] = Problem("internal_error", "")
        self._send_several(question, found, addr)

    def _send_several(self, question: Question, found: Sequence[bytes | Problem | str | None], addr: Any) -> None:
        entries = []
        for query, answer in zip(question.asked, found, strict=True):
            if isinstance(answer, bytes):
                entries.append(answer)
            elif isinstance(query, str):
                entries.append(problems.render_entry(query, Problem("malformed_asset", "")))
            elif isinstance(answer, Problem):
                entries.append(problems.render_entry(query.asset, answer))
        self._send(datagrams.several(entries, question.id_json), 200, addr)

    def _wait(self, coroutine: Any, question: Question, length: int, addr: Any) -> None:
        if self.waiting >= MOST_WAITING:
            coroutine.close()
            self._refuse("no_fresh_price", question, length, addr)
            return
        self.waiting += 1
        Deferred.fromCoroutine(coroutine).addErrback(self._failed, question, length, addr).addBoth(self._waited)

    def _failed(self, reason: Failure, question: Question, length: int, addr: Any) -> None:
        self._log.failure("A look-up failed", reason)
        self._refuse("internal_error", question, length, addr)

    def _waited(self, _: object) -> None:
        self.waiting -= 1

    def _refuse(self, code: str, question: Question, length: int, addr: Any) -> None:
        answer = datagrams.refusal(code, question.id_json)
        if len(answer) > length:
            self._drop(datagrams.SHORT_QUESTION)
        else:
            self._send(answer, CODES[code][0], addr)

    def _send(self, answer: bytes, status: int, addr: Any) -> None:
        transport = self.transport
        if transport is None:
            return
        try:
            transport.write(answer, addr)
        except OSError:
            # a port that cannot be sent to, or no room in the socket's buffer
            self._drop(datagrams.UNSENDABLE)
            return
        key = ("requests", SERVICE, "udp", str(status))
        self._counts[key] = self._counts.get(key, 0) + 1

    def _drop(self, reason: str) -> None:
        key = ("udp_dropped", SERVICE, reason)
        self._counts[key] = self._counts.get(key, 0) + 1
