"""The report surface over UDP: one datagram asks for a summary, at most one gives it.

The rules are those of the price surface (L{tbeast.servers.udp}), with the same words for what is dropped: an answer
longer than its question goes to a real key only, a refusal to nobody whose question was shorter, and a signed question
is answered once. What is asked for is read in L{tbeast.codecs.reportdatagrams}, and how a report is made, refused and
paid for is told in L{tbeast.services.reports}; a summary over UDP uses up a report of the month as one over HTTP does.

Whoever has a key is in the ledger with every question, whether or not its answer could go out.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.udp import Port
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.codecs import datagrams
from tbeast.codecs.problems import CODES, Problem
from tbeast.codecs.reportdatagrams import ReportQuestion, parse, summary_query
from tbeast.codecs.signatures import SpentMacs
from tbeast.domain.admission import KEYS_UNAVAILABLE, RATE_LIMITED, UNMETERED
from tbeast.domain.counters import Counters
from tbeast.domain.keys import Account
from tbeast.domain.usage import Ledger
from tbeast.interfaces import Now
from tbeast.servers.datagramsockets import KernelDrops
from tbeast.servers.gate import Gate
from tbeast.servers.lrs import SERVICE, STOPPING, Reports
from tbeast.servers.signedquestions import signer

DROPS_LOOK_SECONDS: Final = 1.0
"""How often the kernel is asked what it has dropped."""


@frozen
class _Asked:
    """A question of somebody whose key is real.

    @ivar length: of the datagram, in bytes.
    @ivar at: when it came.
    """

    question: ReportQuestion
    key_id: str
    length: int
    addr: Any
    at: float


class ReportDatagrams(DatagramProtocol):
    """Listens for questions."""

    _log = Logger()
    noisy = False

    def __init__(
        self,
        *,
        gate: Gate,
        reports: Reports,
        counters: Counters,
        now: Now,
        ledger: Ledger,
        spent: SpentMacs | None = None,
    ) -> None:
        self._gate = gate
        self._reports = reports
        self._counters = counters
        self._now = now
        self._ledger = ledger
        self._spent = SpentMacs() if spent is None else spent
        self._drops: KernelDrops | None = None
        self._looking: IDelayedCall | None = None

    def startProtocol(self) -> None:
        """The port is open."""
        port: Any = self.transport
        if isinstance(port, Port):
            self._drops = KernelDrops(port.socket)
            self._look(port.reactor)

    def stopProtocol(self) -> None:
        """The port closes."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._count_drops()
        self._drops = None

    def _look(self, clock: Any) -> None:
        self._looking = clock.callLater(DROPS_LOOK_SECONDS, self._look, clock)
        self._count_drops()

    def _count_drops(self) -> None:
        new = 0 if self._drops is None else self._drops.new()
        if new:
            self._counters.count("udp_kernel_drops", SERVICE, by=new)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Answer one datagram, refuse it, or drop it."""
        now = self._now()
        question = parse(datagram)
        if isinstance(question, str):
            self._drop(question)
            return
        keyring = self._gate.keyring
        account = signer(question, keyring, self._spent, now) if question.mac else self._named(question)
        if isinstance(account, str):
            self._drop(account)
            return
        asked = _Asked(question, account.key_id, len(datagram), addr, now)
        if self._gate.is_shut:
            self._refuse(UNMETERED, asked)
            return
        if self._reports.wait_seconds(account.key_id, now) > 0.0:
            self._refuse(RATE_LIMITED, asked)
            return
        if question.mac:
            self._spent.remember(question.at_ms, question.mac)
        if question.fault:
            self._refuse(question.fault, asked)
            return
        Deferred.fromCoroutine(self._make(asked, account)).addErrback(self._failed, asked)

    def _named(self, question: ReportQuestion) -> Account | str:
        """Whose key it is, or why it is dropped."""
        keyring = self._gate.keyring
        account = keyring.find(question.key)
        if account is None:
            return datagrams.BAD_KEY if keyring.is_complete else KEYS_UNAVAILABLE
        return account

    async def _make(self, asked: _Asked, account: Account) -> None:
        query = summary_query(asked.question, account.key_id, int(asked.at * 1e6))
        if isinstance(query, Problem):
            self._refuse(query.code, asked)
            return
        report = await self._reports.begin(account, query, asked.at, asked.question.id_json)
        if report.problem is not None:
            self._refuse(report.problem.code, asked)
        elif report.body is not None and self._record(asked, 200, is_given=True):
            self._send(report.body, 200, asked.addr)
        else:
            report.break_off(STOPPING)
        report.close()

    def _failed(self, reason: Failure, asked: _Asked) -> None:
        self._log.failure("A report failed", reason)
        self._refuse("internal_error", asked)

    def _refuse(self, code: str, asked: _Asked) -> None:
        status = CODES[code][0]
        if not self._record(asked, status):
            return
        answer = datagrams.refusal(code, asked.question.id_json)
        if len(answer) > asked.length:
            self._drop(datagrams.SHORT_QUESTION)
        else:
            self._send(answer, status, asked.addr)

    def _record(self, asked: _Asked, status: int, is_given: bool = False) -> bool:
        """Put it into the ledger. If that is closed, there is nothing to be answered, and it is dropped."""
        if self._ledger.is_closed:
            self._drop(datagrams.STOPPING)
            return False
        now = self._now()
        took = max(int((now - asked.at) * 1e6), 0)
        self._ledger.count(asked.key_id, SERVICE, "udp", "", "", "", status, is_given, now, took)
        return True

    def _send(self, answer: bytes, status: int, addr: Any) -> None:
        transport: Any = self.transport
        if transport is None:
            return
        try:
            transport.write(answer, addr)
        except OSError:
            self._drop(datagrams.UNSENDABLE)
            return
        self._counters.count("requests", SERVICE, "udp", str(status))

    def _drop(self, reason: str) -> None:
        self._counters.count("udp_dropped", SERVICE, reason)
