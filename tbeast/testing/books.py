"""Who asks a cluster, counts the answers, and compares them in the end with what the database knows.

The rules. Each answer without an error is noted under the node that gave it and under that node's life, for a node
may be killed and started again. What the database has recorded is laid to the life in which it was counted; between two
lives of a node there is always half a second and its start. A life that was not killed must have recorded just what was
answered, whatever became of the database and of Valkey meanwhile. One that was killed may have lost its last round of
counting, and may have recorded what was answered and never arrived. How much a life has lost is told as a time:
so long before its end came the earliest answers that are not recorded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConnector, ITransport
from twisted.internet.protocol import ClientFactory, DatagramProtocol, Protocol, connectionDone
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from tbeast.interfaces import Now
from tbeast.testing.cluster import Cluster, Node
from tbeast.testing.upkeep import Life

ASSETS: Final = ("BTC", "ETH", "SOL", "XRP")
ROUND_SECONDS: Final = 0.02
REDIAL_SECONDS: Final = 0.2
LAST_LOOK_SECONDS: Final = 0.3
LAST_ANSWERS_SECONDS: Final = 15.0
"""So long the last answers of those that serve are waited for."""
REMEMBERED: Final = 4_096
"""Of so many of the latest answers of each life it is known when they came."""
LOST_AT_MOST_MS: Final = 400.0
"""The round of counting comes every 100 ms; on a machine that has no time for it, it comes later."""

RECORDED_SQL: Final = (
    "SELECT node, extract(epoch FROM at)::float8, request_count::bigint FROM usage_logs"
    " WHERE key_id = %s AND admitted AND status = 200 AND asset <> ''"
)
"""Prices alone are asked here; a page that says whether a key is known is recorded, too, and names no asset."""


@define
class Answers:
    """What one life of a node has answered.

    @ivar asked: how many questions were sent to it.
    @ivar answered: how many answers without an error came.
    @ivar latest: when the latest of these came, in seconds since the epoch.
    """

    asked: int = 0
    answered: int = 0
    refused: int = 0
    latest: deque[float] = Factory(lambda: deque(maxlen=REMEMBERED))

    @property
    def unanswered(self) -> int:
        """Questions whose answer has not come."""
        return self.asked - self.answered - self.refused


@frozen
class Entry:
    """One life of a node in the books.

    @ivar number: 1 for its first life.
    @ivar killed: whether it did not end in good order.
    @ivar unanswered: questions without an answer: it may have recorded them.
    @ivar lost_ms: how long before its end the earliest answers came that are not recorded; infinite when that is
        longer than is remembered.
    """

    node: str
    number: int
    killed: bool
    answered: int
    unanswered: int
    recorded: int
    lost_ms: float = 0.0

    @property
    def lost(self) -> int:
        """Answers that are not recorded."""
        return max(self.answered - self.recorded, 0)

    @property
    def fault(self) -> str:
        """What is wrong with it, in words; empty: nothing."""
        if self.recorded > self.answered + self.unanswered:
            return f"{self.recorded - self.answered - self.unanswered} were recorded that nobody asked"
        if self.lost and not self.killed:
            return f"{self.lost} answers are not recorded"
        if self.lost_ms > LOST_AT_MOST_MS:
            return f"{self.lost} answers are not recorded, the earliest {self.lost_ms:.0f} ms before the end"
        return ""


def entries(
    lives: Mapping[str, Sequence[Life]],
    answers: Mapping[tuple[str, int], Answers],
    rows: Iterable[tuple[str, float, int]],
) -> list[Entry]:
    """Compare what was answered with what was recorded.

    @param lives: of each node.
    @param answers: by node and the life's number.
    @param rows: what was recorded: the node, when (in seconds since the epoch), and how many.
    """
    starts = {node: [life.started_at for life in its] for node, its in lives.items()}
    recorded: Counter[tuple[str, int]] = Counter()
    for node, at, count in rows:
        # what was counted before anybody had started belongs to nobody, and shows
        recorded[node, bisect_right(starts.get(node, ()), at)] += count
    made = []
    for node, number in sorted({*answers, *recorded}):
        its = lives.get(node, ())
        life = its[number - 1] if 0 < number <= len(its) else None
        answered = answers.get((node, number), Answers())
        entry = Entry(
            node, number, life is not None and life.killed, answered.answered, answered.unanswered,
            recorded[node, number], _lost_ms(answered, recorded[node, number], life),
        )  # fmt: skip
        made.append(entry)
    return made


def _lost_ms(answers: Answers, recorded: int, life: Life | None) -> float:
    lost = answers.answered - recorded
    if lost <= 0:
        return 0.0
    if life is None or life.ended_at is None or lost > len(answers.latest):
        return float("inf")
    return max(life.ended_at - answers.latest[-lost], 0.0) * 1e3


class Asking:
    """Asks the nodes that serve, in turns, over UDP and HTTP alternately, so many questions a second in all.

    @ivar answers: by node and the number of its life.
    @ivar refused: answers with an error, by its code or its HTTP status.
    @ivar turned_away: how many connections were refused before anything was asked on them.
    @ivar admitted: told of each answer without an error, with the node's name.
    @ivar longest_silence: the longest time between two answers without an error, in seconds; may be set back.
    """

    def __init__(
        self,
        cluster: Cluster,
        key: str,
        rate: float,
        reactor: Any,
        now: Now,
        admitted: Callable[[str], object] = lambda node: None,
    ) -> None:
        self.answers: dict[tuple[str, int], Answers] = {}
        self.refused: Counter[str] = Counter()
        self.turned_away = 0
        self.admitted = admitted
        self.longest_silence = 0.0
        self._rate = rate
        self._reactor = reactor
        self._now = now
        self._nodes = cluster.nodes
        self._lines = [_Line(self, node, key, reactor) for node in cluster.nodes]
        self._loop = LoopingCall(self._ask)
        self._loop.clock = reactor
        self._due = 0.0
        self._turn = 0
        self._latest = now()
        self._last = reactor.seconds()

    @property
    def answered(self) -> int:
        """How many answers without an error came in all."""
        return sum(each.answered for each in self.answers.values())

    @property
    def unanswered(self) -> int:
        """How many questions have no answer, yet."""
        return sum(each.unanswered for each in self.answers.values())

    @property
    def lost_questions(self) -> int:
        """How many will never have an answer: the node that was asked has ended."""
        lives = {node.name: node.kept.lives for node in self._nodes}
        return sum(
            each.unanswered
            for (node, number), each in self.answers.items()
            if lives[node][number - 1].ended_at is not None
        )

    def answered_by(self, name: str) -> int:
        """How many of them one node gave in all its lives."""
        return sum(each.answered for (node, _), each in self.answers.items() if node == name)

    def start(self) -> None:
        """Begin."""
        for line in self._lines:
            line.open()
        self._last = self._reactor.seconds()
        self._loop.start(ROUND_SECONDS)

    async def stop(self) -> None:
        """Ask no more, and hear what is still to come."""
        if self._loop.running:
            self._loop.stop()
        for _ in range(round(LAST_ANSWERS_SECONDS / LAST_LOOK_SECONDS)):
            await deferLater(self._reactor, LAST_LOOK_SECONDS)
            if not any(self._of(line.node).unanswered for line in self._lines if line.is_open):
                break
        for line in self._lines:
            await line.close()

    def _ask(self) -> None:
        seconds = self._reactor.seconds()
        # after a pause what was due is not made up for all at once
        self._due = min(self._due + self._rate * (seconds - self._last), max(self._rate * 0.2, 1.0))
        self._last = seconds
        live = [line for line in self._lines if line.is_open]
        while self._due >= 1.0 and live:
            self._due -= 1.0
            self._turn += 1
            live[self._turn % len(live)].ask(self._turn)

    # For the lines alone.

    def sent(self, node: Node) -> None:
        """A question went out."""
        self._of(node).asked += 1

    def came(self, node: Node, error: str) -> None:
        """An answer came; C{error} is empty when it is a price."""
        answers = self._of(node)
        if error:
            answers.refused += 1
            self.refused[error] += 1
            return
        now = self._now()
        if self.answers:
            self.longest_silence = max(self.longest_silence, now - self._latest)
        self._latest = now
        answers.answered += 1
        answers.latest.append(now)
        self.admitted(node.name)

    def _of(self, node: Node) -> Answers:
        return self.answers.setdefault((node.name, len(node.kept.lives)), Answers())


class _Line(DatagramProtocol):
    """To one node: a datagram port, and an HTTP connection that is dialed again whenever it is lost."""

    def __init__(self, asking: Asking, node: Node, key: str, reactor: Any) -> None:
        self._asking = asking
        self.node = node
        self._key = key
        self._reactor = reactor
        self._port: Any = None
        self._http: _Http | None = None
        self._connector: IConnector | None = None
        self._redial: Any = None
        self._wanted = False

    @property
    def is_open(self) -> bool:
        """Whether the node is to be asked."""
        return self._http is not None and self.node.kept.serving

    def open(self) -> None:
        self._wanted = True
        self._port = self._reactor.listenUDP(0, self, interface="127.0.0.1")
        self._dial()

    def startProtocol(self) -> None:
        assert self.transport is not None
        self.transport.connect("127.0.0.1", self.node.ports["UDP_PORT_LPO"])

    async def close(self) -> None:
        self._wanted = False
        if self._redial is not None and self._redial.active():
            self._redial.cancel()
        if self._http is not None:
            lost = self._http.lost
            self._http.transport.loseConnection()
            await lost
        elif self._connector is not None:
            self._connector.disconnect()
        if self._port is not None:
            port, self._port = self._port, None
            await port.stopListening()

    def ask(self, number: int) -> None:
        asset = ASSETS[number % len(ASSETS)]
        self._asking.sent(self.node)
        if number // len(ASSETS) % 2 and self._http is not None and not self._http.waits:
            self._http.ask(f"GET /price?asset={asset} HTTP/1.1\r\nHost: a\r\nX-API-Key: {self._key}\r\n\r\n".encode())
        else:
            assert self.transport is not None
            # so long that a refusal is no longer than the question, and is answered, too
            self.transport.write(f"{self._key}|{asset}|{number:040d}".encode(), None)

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        error = datagram[10:].split(b'"')[0].decode() if datagram.startswith(b'{"error":"') else ""
        self._asking.came(self.node, error)

    def answered(self, status: int) -> None:
        self._asking.came(self.node, "" if status == 200 else str(status))

    def turned_away(self) -> None:
        self._asking.turned_away += 1

    def _dial(self) -> None:
        port = self.node.ports["TCP_PORT_LPO"]
        self._connector = self._reactor.connectTCP("127.0.0.1", port, _Dialing(self), timeout=2)

    def http_made(self, http: _Http) -> None:
        self._http = http

    def http_lost(self, http: _Http | None) -> None:
        if http is self._http:
            self._http = None
        if self._wanted:
            self._redial = self._reactor.callLater(REDIAL_SECONDS, self._dial)


class _Dialing(ClientFactory):
    noisy = False

    def __init__(self, line: _Line) -> None:
        self._line = line

    def buildProtocol(self, addr: object) -> _Http:
        return _Http(self._line)

    def clientConnectionFailed(self, connector: object, reason: object) -> None:
        self._line.http_lost(None)


class _Http(Protocol):
    """One connection, with one question at a time.

    @ivar waits: whether an answer is to come.
    @ivar lost: fires when it has ended.
    """

    transport: ITransport

    def __init__(self, line: _Line) -> None:
        self.waits = False
        self.lost: Deferred[None] = Deferred()
        self._line = line
        self._data = b""

    def connectionMade(self) -> None:
        self._line.http_made(self)

    def ask(self, question: bytes) -> None:
        self.waits = True
        self.transport.write(question)

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))[15:])
        if len(rest) >= length:
            was_asked, self.waits = self.waits, False
            self._data = rest[length:]
            if was_asked:
                self._line.answered(int(head.split(b" ", 2)[1]))
            else:  # the governor refuses a connection before it has read anything: that answers no question
                self._line.turned_away()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._line.http_lost(self)
        self.lost.callback(None)
