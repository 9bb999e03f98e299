"""Reading datagrams from the port's socket: the quick way and the ordinary way are one."""

from __future__ import annotations

import errno
import json
import socket
from collections import Counter, deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater
from twisted.internet.udp import Port
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.codecs import datagrams
from tbeast.codecs.signatures import mac_of
from tbeast.domain.usage import Row
from tbeast.servers import udp
from tbeast.servers.udp import AT_A_TIME, DROPS_LOOK_SECONDS, MOST_SPELLINGS, ORDINARY, PriceDatagrams
from tbeast.test.domain.boards import changed
from tbeast.test.servers.rooms import FREE, PARTNER, House, Ring, quote_of
from tbeast.test.servers.test_datagramsockets import Told
from tbeast.testing.logs import listen
from tbeast.testing.reactors import MemoryDatagramPort

CLIENT = ("192.0.2.7", 5000)
UNREACHABLE = ("192.0.2.7", 0)
TICK = 2.0**-20
"""What passes between two looks at the clock, in seconds: a float counts these without rounding."""


class TickingHouse(House):
    """A house in which every look at the clock takes time, so that a look more or less shows."""

    def now(self) -> float:
        self.time += TICK
        return self.time


class Socket(Told):
    """A socket in memory.

    @ivar waiting: what can be received: a datagram and its sender, or an exception.
    @ivar sent: what was sent, and to whom.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: deque[Any] = deque()
        self.sent: list[tuple[bytes, Any]] = []
        self.tell_drops(0)

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        first = self.waiting.popleft()
        if isinstance(first, Exception):
            raise first
        datagram, sender = first
        return datagram[:size], sender

    def sendto(self, answer: bytes, addr: Any) -> int:
        if addr == UNREACHABLE:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.sent.append((answer, addr))
        return len(answer)


class PlainPort(MemoryDatagramPort):
    """A port without a socket, that one address cannot be sent to from."""

    def write(self, packet: bytes, addr: tuple[str, int] | None = None) -> None:
        if addr == UNREACHABLE:
            raise OSError(errno.EINVAL, "Invalid argument")
        super().write(packet, addr)


class Desk:
    """A house that answers datagrams."""

    def __init__(self, **more: Any) -> None:
        self.house = house = TickingHouse()
        house.time = float(int(house.time))
        house.put(quote_of("ETH", 1800.5, source="kraken-ws"))
        house.view.rates["USDT"] = 0.5
        house.put(quote_of("DOGE", 0.1, fresh_until=house.time + 30.0))
        self.clock = Clock()
        self.protocol = PriceDatagrams(
            gate=house.gate, answers=house.answers, counters=house.counters, now=house.now, ledger=house.ledger, **more
        )

    def outcome(self) -> tuple[list[Row], dict[tuple[str, ...], int], float]:
        """What was recorded, what was counted, and how often the clock was looked at."""
        return sorted(self.house.ledger.cut(10**6)), self.house.counters.counts, self.house.time

    def signed(self, asset: str, id_text: str, at_ms: int) -> bytes:
        account = Ring().find_by_id("freefreefr")
        text = f"~1|{account.key_id}|{at_ms}|{asset}|{id_text}".encode()
        return text + b"|" + mac_of(account.datagram_secret, text)


class OrdinaryDesk(Desk):
    """One that is handed its datagrams."""

    def __init__(self) -> None:
        super().__init__()
        self.port = PlainPort(2679, self.protocol)
        self.port.startListening()

    @property
    def sent(self) -> list[tuple[bytes, Any]]:
        return self.port.sent

    def come(self, datagram: bytes, sender: Any) -> None:
        self.protocol.datagramReceived(datagram, sender)

    def read(self) -> None:
        """Everything was read when it came."""


class ReadingDesk(Desk):
    """One that reads its port's socket."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.socket = Socket()
        port: Any = Port(0, self.protocol, reactor=self.clock)
        port.socket = self.socket
        self.protocol.makeConnection(port)
        self.port = port

    @property
    def sent(self) -> list[tuple[bytes, Any]]:
        return self.socket.sent

    def come(self, datagram: bytes, sender: Any = CLIENT) -> None:
        self.socket.waiting.append((datagram, sender))

    def read(self) -> None:
        while self.socket.waiting:
            self.port.doRead()  # as the reactor does, which closes the port if this raises
        self.port.doRead()

    def ask(self, datagram: bytes) -> list[bytes]:
        """Have one datagram read; give what comes back."""
        before = len(self.sent)
        self.come(datagram)
        self.read()
        return [answer for answer, _ in self.sent[before:]]


KEYS = st.sampled_from([PARTNER, PARTNER, PARTNER, FREE, "nobody-has-this", "", "{", "~1", "~", "k" * 129, "\u00e9"])
WRITTEN = [
    "BTC", "btc", "bTc", "BTC-USD", "btc/usd", "BTC-USDT", "BTC-EUR", "ETH", "DOGE", "SOL", "NOPE", "", "B C",
    "BTC\n", "\nBTC", "BTC\r\n", "BTC ", "\u00df", "A" * 17,
]  # fmt: skip
"""Assets as somebody may write them."""
NUMBERED = [
    None, "", "7", "0", "00", "007", "-1", "-0", "+1", "1.5", "1e3", "9" * 18, "9" * 19, "0" * 18, "x", "a|b",
    "|7", "7|", "7\n", "7\r\n", "\r\n", " 7", "\u0667", "\u00b2", "\u00e9", "i" * 65, '"',
]  # fmt: skip
"""Ids."""


def text_of(key: str, asset: str, id_text: str | None) -> bytes:
    return "|".join([key, asset] if id_text is None else [key, asset, id_text]).encode()


ASSETS = st.sampled_from(WRITTEN)
TEXTS = st.builds(text_of, KEYS, ASSETS, st.sampled_from(NUMBERED))
QUICK = st.builds(
    text_of,
    st.sampled_from([PARTNER, FREE]),
    st.sampled_from(["BTC", "btc", "ETH", "DOGE"]),
    st.sampled_from([None, "7"]),
)
JSONS = st.builds(
    lambda members: json.dumps(members).encode(),
    st.fixed_dictionaries(
        {"api_key": st.sampled_from([PARTNER, FREE, "x"])},
        optional={
            "asset": ASSETS, "assets": st.lists(ASSETS, max_size=4), "id": st.integers() | st.text(max_size=3),
            "quote": st.sampled_from(["USD", "EUR"]), "max_age_ms": st.integers(-1, 10**6),
        },
    ),
)  # fmt: skip
SIGNED = st.tuples(st.sampled_from(["BTC", "NOPE"]), st.sampled_from(["", "7", "x"]), st.sampled_from([0, -29, 31]))
DATAGRAMS = st.one_of(
    QUICK, QUICK, QUICK, TEXTS, TEXTS, JSONS, SIGNED, st.binary(max_size=40),
    st.builds(lambda text: text * 300, st.binary(max_size=6)),
    st.builds(lambda text, more: text + more, TEXTS, st.binary(max_size=2)),
)  # fmt: skip
EVENTS = st.one_of(
    st.tuples(st.just("pass"), st.sampled_from([0.25, 1.0, 40.0, 3600.0])),
    st.tuples(st.just("shut"), st.booleans()),
    st.tuples(st.just("adopt"), st.booleans()),
    st.tuples(st.just("take down"), st.sampled_from(["BTC", "ETH"])),
    st.tuples(st.just("put"), st.sampled_from(["BTC", "ETH", "SOL"])),
    st.tuples(st.just("forget"), st.sampled_from([0, 1])),
    st.tuples(st.just("incomplete"), st.booleans()),
    st.tuples(st.just("close"), st.booleans()),
    st.tuples(st.just("read"), st.none()),
)
STEPS = st.lists(
    st.tuples(DATAGRAMS, st.sampled_from([CLIENT, CLIENT, CLIENT, UNREACHABLE])) | EVENTS, min_size=15, max_size=60
)
KNOWN = [(f"{PARTNER}|{spelling}".encode(), CLIENT) for spelling in ("BTC", "btc", "BTC-USD", "ETH", "DOGE")]
"""What comes first, so that the quick way knows something."""


class ForgetfulRing:
    """The house's keyring, of which keys can be forgotten."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole
        self.is_complete = True
        self.accounts = list(whole.accounts)

    def find(self, key: bytes) -> Any:
        account = self._whole.find(key)
        return account if account in self.accounts else None

    def find_by_id(self, key_id: str) -> Any:
        account = self._whole.find_by_id(key_id)
        return account if account in self.accounts else None


def happen(desk: Desk, event: str, what: Any) -> None:
    house = desk.house
    if event == "pass":
        house.time += what
    elif event == "shut":
        house.gate.is_shut = what
    elif event == "adopt":
        # the reply of what is gone is still on the shelf
        house.answers.adopt(changed(house.assets, "ETH") if what else house.assets)
    elif event == "take down":
        house.shelf.take_down(what)
    elif event == "put":
        house.put(quote_of(what, 7.25, fresh_until=house.time + 60.0, observed_at=house.time))
    elif event == "forget":
        ring: Any = house.gate.keyring
        ring.accounts = ring.accounts[what:]
    elif event == "incomplete":
        ring = house.gate.keyring
        ring.is_complete = not what
    elif event == "close":
        house.ledger.is_closed = what


class SameTests(SynchronousTestCase):
    def assertSame(self, steps: list[Any]) -> ReadingDesk:
        """Both desks have the same answers, ledger, counters and looks at the clock after these steps."""
        ordinary, reading = OrdinaryDesk(), ReadingDesk()
        for desk in (ordinary, reading):
            desk.house.gate.keyring = ForgetfulRing(desk.house.gate.keyring)
            for first, second in KNOWN + steps:
                if isinstance(first, str):
                    desk.read()  # what came before it
                    happen(desk, first, second)
                elif isinstance(first, tuple):
                    asset, id_text, seconds = first
                    at_ms = int(desk.house.time + seconds) * 1000
                    desk.come(desk.signed(asset, id_text, at_ms), second)
                else:
                    desk.come(first, second)
            desk.read()
        self.assertEqual(ordinary.sent, reading.sent)
        self.assertEqual(ordinary.outcome(), reading.outcome())
        self.assertEqual([], self.flushLoggedErrors())
        return reading

    def ask(self, *texts: str, sender: Any = CLIENT) -> list[Any]:
        return [(text.encode(), sender) for text in texts]

    @settings(max_examples=300, deadline=None)
    @given(STEPS)
    def test_any(self, steps: list[Any]) -> None:
        """Whatever comes, and whatever happens meanwhile."""
        self.assertSame(steps)

    def test_every_way_to_write(self) -> None:
        """Each of them after every other one was answered, or was not."""
        every = [(text_of(PARTNER, asset, id_text), CLIENT) for asset in WRITTEN for id_text in NUMBERED]
        self.assertSame(every + every)

    def test_other_forms_teach_no_spelling(self) -> None:
        """Whatever stands behind a bar in them."""
        asked = f'{{"api_key":"{PARTNER}","asset":"BTC","id":"|x|7"}}'
        reading = self.assertSame(
            [
                *self.ask(asked),
                (("BTC", "7", 0), CLIENT),
                *self.ask(f"{PARTNER}|x", f'{PARTNER}|x|7"}}', f"{PARTNER}|freefreefr", f"{PARTNER}|freefreefr|7"),
            ]
        )
        self.assertEqual(len(KNOWN) + 2, len([answer for answer, _ in reading.sent if b'"price"' in answer]))

    def test_refused(self) -> None:
        """A key over its limit, one that was taken back, and a gate that is shut."""
        for event, what in (("pass", 0.25), ("forget", 1), ("forget", 2), ("shut", True), ("incomplete", True)):
            reading = self.assertSame(
                [
                    *self.ask(*[f"{FREE}|BTC|{number}" for number in range(8)]),
                    (event, what),
                    *self.ask(f"{FREE}|BTC|8", f"{PARTNER}|BTC|9", "stranger-key|BTC", f"{PARTNER}|NOPE|{'1' * 18}"),
                ]
            )
            self.assertEqual(5, reading.house.gate.used("freefreefr"))

    def test_assets_come_and_go(self) -> None:
        """One that is in no table any more may still lie on the shelf for a moment; one is there and has no price."""
        asked = self.ask(f"{PARTNER}|ETH", f"{PARTNER}|ETH|7", f"{PARTNER}|BTC")
        for event, what in (("adopt", True), ("take down", "ETH"), ("pass", 40.0)):
            self.assertSame([(event, what), *asked, ("adopt", False), ("put", "ETH"), *asked])
        self.assertSame([("pass", 29.0), *self.ask(f"{PARTNER}|DOGE"), ("pass", 1.0), *self.ask(f"{PARTNER}|DOGE")])

    def test_cannot_be_sent(self) -> None:
        asked = [f"{PARTNER}|BTC", f"{PARTNER}|BTC|x"]
        reading = self.assertSame(self.ask(*asked, sender=UNREACHABLE) + self.ask(*asked))
        self.assertEqual(2, reading.house.counters.value("udp_dropped", "lpo", datagrams.UNSENDABLE))

    def test_closed_ledger(self) -> None:
        asked = self.ask(f"{PARTNER}|BTC", f"{FREE}|NOPE|7", "", "stranger-key|BTC")
        self.assertSame([("close", True), *asked, ("close", False), *asked])

    def test_quick(self) -> None:
        """These are not handed to the ordinary way, once the spelling is known."""
        desk = ReadingDesk()
        for spelling in ("BTC", "btc", "eth/usd"):
            desk.ask(f"{PARTNER}|{spelling}".encode())
        handed: list[bytes] = []
        self.patch(desk.protocol, "datagramReceived", lambda datagram, addr: handed.append(datagram))
        quick = ["BTC", "btc|7", "eth/usd|0", "BTC|" + "9" * 18]
        for text in quick:
            ((answer),) = desk.ask(f"{PARTNER}|{text}".encode())
            members = json.loads(answer)
            _, _, id_text = text.partition("|")
            self.assertEqual(int(id_text) if id_text else None, members.get("id"))
        self.assertEqual([], handed)
        others = ["ETH", "BTC|007", "BTC|", "BTC|x", "BTC|7|8", "BTC\n", "BTC|" + "9" * 19, "BTC|-1"]
        for text in others:
            desk.ask(f"{PARTNER}|{text}".encode())
        self.assertEqual([f"{PARTNER}|{text}".encode() for text in others], handed)

    def test_the_gate_is_asked_once(self) -> None:
        """Whatever its verdict is, and whether or not there is a price."""
        desk = ReadingDesk()
        asked: list[bytes] = []
        admit = desk.house.gate.admit
        desk.ask(f"{FREE}|BTC".encode())

        def counted(key: bytes, now: float) -> Any:
            asked.append(key)
            return admit(key, now)

        self.patch(desk.house.gate, "admit", counted)
        for number in range(7):
            desk.ask(f"{FREE}|BTC|{number}".encode())
        desk.house.shelf.take_down("BTC")
        desk.ask(f"{PARTNER}|BTC".encode())
        self.assertEqual(Counter({FREE.encode(): 7, PARTNER.encode(): 1}), Counter(asked))
        self.assertEqual(5, desk.house.gate.used("freefreefr"))


class ReadingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = listen(self)
        self.desk = ReadingDesk(buffer_bytes=64 * 1024)

    def test_so_many_at_a_time(self) -> None:
        self.desk.ask(f"{PARTNER}|BTC".encode())
        self.desk.sent.clear()
        self.desk.house.counters.counts.clear()
        for _ in range(AT_A_TIME + 5):
            self.desk.come(f"{PARTNER}|BTC".encode())
        self.desk.port.doRead()
        self.assertEqual((AT_A_TIME, 5), (len(self.desk.sent), len(self.desk.socket.waiting)))
        self.assertEqual(AT_A_TIME, self.desk.house.counters.value("lookups", "shelf"))
        self.desk.port.doRead()
        self.assertEqual(AT_A_TIME + 5, len(self.desk.sent))

    def test_so_many_others_at_a_time(self) -> None:
        """What costs more is taken in smaller portions: refusals and misses of the quick way, and other forms."""
        self.desk.ask(f"{PARTNER}|BTC".encode())
        for text in ("x", f"{PARTNER}|BTC|x", "stranger-key|BTC", f'{{"api_key":"{PARTNER}","assets":["BTC"]}}'):
            for _ in range(AT_A_TIME):
                self.desk.come(text.encode())
            self.desk.port.doRead()
            self.assertEqual(AT_A_TIME - AT_A_TIME // ORDINARY, len(self.desk.socket.waiting), text)
            self.desk.read()

    def test_too_large(self) -> None:
        """Not more than needed is read of it."""
        self.desk.ask(f"{PARTNER}|BTC|".encode() + b"1" * 60_000)
        self.assertEqual(1, self.desk.house.counters.value("udp_dropped", "lpo", datagrams.OVERSIZED))

    def test_sender_over_ipv6(self) -> None:
        """The answer goes where it came from, the scope of a link-local address included."""
        sender = ("fe80::1", 5000, 0, 2)
        self.desk.ask(f"{PARTNER}|BTC".encode())
        for text in ("BTC", "BTC|x"):
            self.desk.come(f"{PARTNER}|{text}".encode(), sender)
        self.desk.read()
        self.assertEqual([CLIENT, sender, sender], [addr for _, addr in self.desk.sent])

    def test_receiving_fails(self) -> None:
        """It is said once of each kind, and read on in the next turn."""
        for number in (errno.ENOMEM, errno.ENOMEM, errno.ECONNREFUSED):
            self.desk.socket.waiting.append(OSError(number, f"fault {number}"))
            self.desk.port.doRead()
        self.assertEqual(2, len(self.lines.having("cannot be received")))
        self.assertEqual(1, len(self.desk.ask(f"{PARTNER}|BTC".encode())))

    def test_a_fault_of_ours(self) -> None:
        """It costs the one datagram, not the port and not the others; what it had of the gate is not given back."""
        self.desk.ask(f"{PARTNER}|BTC".encode())
        find = self.desk.house.shelf.find
        self.patch(self.desk.house.shelf, "find", lambda asset, now: 1 // 0 if asset == "ETH" else find(asset, now))
        for asset in ("BTC", "ETH", "BTC"):
            self.desk.come(f"{PARTNER}|{asset}".encode())
        self.desk.port.doRead()
        self.assertEqual(3, len(self.desk.sent))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(3, self.desk.house.counters.value("requests", "lpo", "udp", "200"))

    def test_spellings_are_bounded(self) -> None:
        self.patch(udp, "MOST_SPELLINGS", 3)
        for text in ("BTC", "btc", "bTC", "BTc", "btC", "btc"):
            self.assertEqual(1, len(self.desk.ask(f"{PARTNER}|{text}".encode())))
            self.assertLessEqual(len(self.desk.protocol._spellings), 3)
        self.assertGreater(MOST_SPELLINGS, 3 * 150)

    def test_no_key_is_remembered(self) -> None:
        for text in ("BTC", "BTC|7", "nope", "ETH|x"):
            self.desk.ask(f"{PARTNER}|{text}".encode())
            self.desk.ask(f"stranger-key|{text}".encode())
        self.assertEqual({b"BTC": "BTC", b"ETH": "ETH"}, self.desk.protocol._spellings)

    def test_strangers_teach_nothing(self) -> None:
        for spelling in ("BTC", "btc"):
            self.desk.ask(f"stranger-key|{spelling}".encode())
        self.assertEqual({}, self.desk.protocol._spellings)


class PortTests(SynchronousTestCase):
    def test_buffers(self) -> None:
        """Those that were asked for; none where nothing was said."""
        self.assertEqual({64 * 1024 * 2}, set(ReadingDesk(buffer_bytes=64 * 1024).socket.sizes.values()))
        self.assertEqual({}, ReadingDesk().socket.sizes)

    def test_kernel_drops(self) -> None:
        """They are counted every second, and a last time when the port closes."""
        desk = ReadingDesk()
        value = desk.house.counters.value
        desk.socket.tell_drops(3)
        self.assertEqual(0, value("udp_kernel_drops", "lpo"))
        for drops in (3, 3, 10):
            desk.socket.tell_drops(drops)
            desk.clock.advance(DROPS_LOOK_SECONDS)
            self.assertEqual(drops, value("udp_kernel_drops", "lpo"))
        desk.socket.tell_drops(11)
        desk.protocol.doStop()
        self.assertEqual(11, value("udp_kernel_drops", "lpo"))
        self.assertEqual([], desk.clock.getDelayedCalls())

    def test_closed(self) -> None:
        """Nothing is read any more, and what a look-up brings is not sent."""
        desk = ReadingDesk()
        waiting = desk.house.lookup.later("SOL")
        desk.ask(f"{PARTNER}|SOL".encode())
        desk.protocol.doStop()
        waiting.callback(quote_of("SOL", observed_at=desk.house.time, fresh_until=desk.house.time + 60))
        desk.come(f"{PARTNER}|BTC".encode())
        desk.port.doRead()
        self.assertEqual([], desk.sent)
        self.assertEqual(1, len(desk.socket.waiting))

    def test_stopping(self) -> None:
        """What cannot be recorded any more is not answered, whichever way it goes, and it is counted."""
        desk = ReadingDesk()
        waiting = desk.house.lookup.later("SOL")
        for text in ("BTC", "SOL"):
            desk.ask(f"{PARTNER}|{text}".encode())
        recorded = desk.house.ledger.requests
        desk.house.ledger.is_closed = True
        for text in ("BTC", "BTC|7", "NOPE|" + "9" * 20):
            self.assertEqual([], desk.ask(f"{PARTNER}|{text}".encode()))
        waiting.callback(quote_of("SOL", observed_at=desk.house.time, fresh_until=desk.house.time + 60))
        self.assertEqual((1, recorded), (len(desk.sent), desk.house.ledger.requests))
        self.assertEqual(4, desk.house.counters.value("udp_dropped", "lpo", datagrams.STOPPING))


class RealPortTests(TestCase):
    timeout = 30

    async def test_overflow(self) -> None:
        """Each of many datagrams that came before any was read is answered, or known to be lost."""
        house = House()
        protocol = PriceDatagrams(
            gate=house.gate, answers=house.answers, counters=house.counters, now=house.now, ledger=house.ledger,
            buffer_bytes=8 * 1024,
        )  # fmt: skip
        port = reactor.listenUDP(0, protocol, interface="127.0.0.1")  # type: ignore[attr-defined]
        count = house.counters.value
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            for number in range(500):
                client.sendto(f"{PARTNER}|BTC|{number}".encode(), ("127.0.0.1", port.getHost().port))
            seen = -1
            while seen < count("requests", "lpo", "udp", "200"):
                seen = count("requests", "lpo", "udp", "200")
                await deferLater(reactor, 0.05)
            await port.stopListening()
            numbers = [json.loads(client.recv(2000))["id"] for _ in range(seen)]
        self.assertEqual(list(range(seen)), numbers)
        self.assertEqual((seen, 500 - seen), (house.ledger.requests, count("udp_kernel_drops", "lpo")))
        self.assertLess(0, seen)
        self.assertLess(seen, 500)
