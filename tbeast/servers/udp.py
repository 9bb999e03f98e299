"""The price surface over UDP: one datagram asks, at most one answers.

The sender's address of a datagram can be forged, so nothing goes out that somebody without a key could have sent
elsewhere: a price goes to a question with a real key, a refusal too, and only if it is no longer than the question.
Everything else is dropped and counted by reason. A signed question is checked in the order of cost: the id, the time,
the mac, whether the mac was spent; then it passes the gate as any other, and an admitted one spends its mac.

Whoever has a key is recorded in the ledger with every question: the admitted ones whether or not an answer could go
out, the refused ones too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

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
from tbeast.domain.admission import ADMITTED, BAD_KEY, KEYS_UNAVAILABLE, Verdict
from tbeast.domain.counters import Counters
from tbeast.domain.usage import SEVERAL, Ledger
from tbeast.interfaces import Now
from tbeast.servers.answers import Answer, Answers
from tbeast.servers.gate import Gate

SERVICE: Final = "lpo"
MOST_WAITING: Final = 1_000
"""How many questions may wait for a look-up at a time; more are refused as having no fresh price."""
AT_A_TIME: Final = 100
"""How many datagrams are taken before others have their turn. The port itself counts bytes, and so reads small and
empty ones for as long as they come."""


class _Asked(NamedTuple):
    """A question of somebody whose key is real, and what is needed to answer it. A NamedTuple for its speed.

    @ivar length: of the datagram.
    @ivar key_id: for the ledger.
    @ivar is_admitted: by the gate.
    @ivar at: when it came.
    """

    question: Question
    length: int
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
    ) -> None:
        self._gate = gate
        self._answers = answers
        self._counts = counters.counts
        self._now = now
        self._spent = SpentMacs() if spent is None else spent
        self._ledger = Ledger() if ledger is None else ledger
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
            return
        account, outcome = verdict.account, verdict.outcome
        if account is None:
            self._drop(datagrams.BAD_KEY if outcome == BAD_KEY else outcome)
            return
        asked = _Asked(question, len(datagram), addr, account.key_id, outcome == ADMITTED, now)
        if outcome != ADMITTED:
            self._refuse(outcome, asked)
        elif question.fault:
            self._refuse(question.fault, asked)
        elif question.several:
            self._answer_several(asked)
        else:
            self._answer_one(asked)

    def _rest(self) -> None:
        """Have the port read no more in this turn of the reactor."""
        port: Any = self.transport
        most = getattr(port, "maxThroughput", 0)  # 0 as well when it rests already
        if most:
            port.maxThroughput = 0
            port.reactor.callLater(0, setattr, port, "maxThroughput", most)

    def _admitted(self, question: Question, now: float) -> Verdict | str:
        """The verdict on a signed question, or why it is dropped."""
        keyring = self._gate.keyring
        account = keyring.find_by_id(question.key.decode("latin-1"))
        if account is None:
            return datagrams.BAD_KEY if keyring.is_complete else KEYS_UNAVAILABLE
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
            self._record(asked, 200, asset, answer.source, answer.tier)
            self._send(with_id(answer.body, asked.question.id_json), 200, asked.addr)
        else:
            self._refuse(answer.code, asked, asset)

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
        self._record(asked, 200, SEVERAL)
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
        status = CODES[code][0]
        self._record(asked, status, asset)
        answer = datagrams.refusal(code, asked.question.id_json)
        if len(answer) > asked.length:
            self._drop(datagrams.SHORT_QUESTION)
        else:
            self._send(answer, status, asked.addr)

    def _record(self, asked: _Asked, status: int, asset: str = "", source: str = "", tier: str = "") -> None:
        now = self._now()
        took = max(int((now - asked.at) * 1e6), 0)
        self._ledger.count(asked.key_id, SERVICE, "udp", asset, source, tier, status, asked.is_admitted, now, took)

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
