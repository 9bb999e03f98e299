"""The six exchanges together: one market, a port for each, the loops that move them, and the faults carried out.

It can run inside a test or as a process of its own; the reactor, the time and the seed are handed in. It listens on
loopback alone and refuses to start anywhere else: what it serves looks like the real exchanges and is invented.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from random import Random
from typing import Any, Final

from twisted.internet.defer import DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.web.server import Site

from tbeast.lab.coinbase import Coinbase, CoinbaseConversation
from tbeast.lab.control import ControlResource
from tbeast.lab.conversation import Close
from tbeast.lab.cryptocom import Cryptocom
from tbeast.lab.faults import Fault, FaultBoard, read_fault
from tbeast.lab.gateio import Gateio
from tbeast.lab.gemini import Gemini
from tbeast.lab.kraken import Kraken, KrakenConversation
from tbeast.lab.market import DEFAULT_STEPS_PER_SECOND, PEGS, Market
from tbeast.lab.okx import Okx, OkxConversation
from tbeast.lab.recurring import Recurring
from tbeast.lab.script import Step, Timeline
from tbeast.lab.tables import EXCHANGES, Tables, bundled_tables
from tbeast.lab.venue import Venue
from tbeast.lab.wire import QuietSite, VenuePort, VenueSite, VenueSocket

VENUES: Final[Mapping[str, type[Venue]]] = {
    "coinbase": Coinbase, "gemini": Gemini, "kraken": Kraken, "gateio": Gateio, "cryptocom": Cryptocom, "okx": Okx,
}  # fmt: skip

SWEEP_SECONDS: Final = 0.25
"""How often deadlines are looked at: heartbeats, idle connections, ends of faults, the script."""

AT_ONCE: Final = 3
"""So many exchanges tell of a step in one go, and the others a moment later: one burst of all would hold up whoever has
the same core, and one of each would cost everybody more turns."""
APART_SECONDS: Final = 0.001
"""That moment."""

_REPRICE: Final = 2e-4  # a stablecoin that moved so far reprices all that is quoted in it


class NotLoopbackError(ValueError):
    """The lab was asked to listen where others could reach it."""


def check_loopback(host: str) -> str:
    """Give C{host} back when it is a loopback address.

    @raise NotLoopbackError: when it is not.
    """
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise NotLoopbackError(f"the lab listens on loopback alone, not on {host!r}")


def _control_site(resource: ControlResource) -> Site:
    site = QuietSite(resource)  # type: ignore[no-untyped-call]
    site.displayTracebacks = False
    return site


class ExchangeLab:
    """See the module.

    @ivar venues: by name.
    @ivar market: the one truth.
    @ivar faults: what holds now.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        now: Callable[[], float],
        *,
        seed: int = 1,
        host: str = "127.0.0.1",
        port_base: int = 0,
        steps_per_second: float = DEFAULT_STEPS_PER_SECOND,
        script: Iterable[Step] = (),
        habits: Mapping[str, Mapping[str, float]] | None = None,
        limited: bool = True,
        tables: Tables | None = None,
    ) -> None:
        self._host = check_loopback(host)
        self._reactor = reactor
        self._now = now
        self._seed = seed
        self._port_base = port_base
        self._timeline = Timeline(script)
        self._tables = bundled_tables() if tables is None else tables
        changes = dict(habits or {})
        odd = changes.keys() - set(EXCHANGES)
        if odd:
            raise ValueError(f"no exchange {', '.join(sorted(odd))}")
        self.market = Market(Random(seed), self._tables.codes, steps_per_second)
        self.faults = FaultBoard()
        self.venues: dict[str, Venue] = {}
        for place, (name, make) in enumerate(VENUES.items(), 1):
            random = Random(seed * 1009 + place)
            listing = self._tables.listings[name]
            self.venues[name] = make(self.market, listing, self.faults, random, changes.get(name), limited)
        self._sites: dict[str, VenueSite] = {}
        self._ports: dict[str, VenuePort] = {}
        self._control: VenuePort | None = None
        self._began_at = 0.0
        self._priced_at = {coin: self.market.rate(coin) for coin in PEGS}
        self._untold: deque[tuple[str, Iterable[str]]] = deque()
        self._telling: IDelayedCall | None = None
        self._apart_seconds = min(APART_SECONDS, 0.5 / steps_per_second)
        self._loops = (
            Recurring(reactor, 1.0 / steps_per_second, self.step),
            Recurring(reactor, SWEEP_SECONDS, self.sweep),
        )

    # Starting and stopping

    def start(self) -> None:
        """Listen, and let the prices move.

        @raise twisted.internet.error.CannotListenError: when a port is taken; then nothing listens.
        """
        base = self._port_base
        try:
            self._control = VenuePort(self._reactor, _control_site(ControlResource(self)), self._host, base)
            for place, (name, venue) in enumerate(self.venues.items(), 1):
                site = self._sites[name] = VenueSite(venue, self._reactor, self._now)
                self._ports[name] = VenuePort(self._reactor, site, self._host, base + place if base else 0)
        except Exception:
            self._stop_listening()
            raise
        self._began_at = self._now()
        for loop in self._loops:
            loop.start()

    def stop(self) -> Any:
        """Drop every connection, stop listening; gives a Deferred."""
        for loop in self._loops:
            loop.stop()
        self._untold.clear()
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        for name in self.venues:
            for socket in self._sockets(name):
                socket.end(Close())
        return self._stop_listening()

    def _stop_listening(self) -> Any:
        ports = [*self._ports.values(), *([self._control] if self._control is not None else [])]
        return DeferredList([maybeDeferred(port.stop) for port in ports], consumeErrors=True)

    def announcement(self) -> dict[str, Any]:
        """Where everything is: the control API, and each exchange's WebSocket and REST."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        control = self._control.number if self._control is not None else 0
        return {
            "control": f"http://{host}:{control}",
            "exchanges": {
                name: {
                    "ws_url": f"ws://{host}:{port.number}{self.venues[name].ws_path}",
                    "rest_url": f"http://{host}:{port.number}",
                }
                for name, port in self._ports.items()
            },
        }

    # The loops

    def step(self) -> None:
        """Move the market by one step, and let the exchanges tell, some after the others."""
        while self._untold:
            self._tell_one()
        moved = self.market.step()
        everything = self._repriced()
        for name, venue in self.venues.items():
            self._untold.append((name, (*moved, *self.market.mids) if venue.quote in everything else moved))
        if self._telling is None:
            self._tell_some()

    def _tell_some(self) -> None:
        self._telling = None
        if len(self._untold) > AT_ONCE:
            self._telling = self._reactor.callLater(self._apart_seconds, self._tell_some)
        for _ in range(min(AT_ONCE, len(self._untold))):
            self._tell_one()

    def _tell_one(self) -> None:
        name, codes = self._untold.popleft()
        now = self._now()
        lines = self.venues[name].moved(codes, now)
        if lines:
            for socket in self._sockets(name):
                if socket.conversation is not None:
                    socket.deliver(socket.conversation.prices(lines, now))

    def _repriced(self) -> list[str]:
        coins = []
        for coin, before in self._priced_at.items():
            rate = self.market.rate(coin)
            if abs(rate / before - 1.0) > _REPRICE:
                self._priced_at[coin] = rate
                coins.append(coin)
        return coins

    def sweep(self) -> None:
        """Look at every deadline."""
        now = self._now()
        for fault in self.faults.expired(now):
            self._ended(fault, now)
        for step in self._timeline.due(now - self._began_at):
            if step.fault is None:
                self.clear_faults()
            else:
                self.begin_fault(step.fault)
        for name in self.venues:
            for socket in self._sockets(name):
                if socket.conversation is not None:
                    socket.deliver(socket.conversation.due(now))

    def _sockets(self, name: str) -> list[VenueSocket]:
        site = self._sites.get(name)
        return site.sockets if site is not None else []

    # Faults

    def begin_fault(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begin the fault that C{body} describes, and give it back as it now stands.

        @raise FaultError: when there is no such fault.
        """
        now = self._now()
        asked = read_fault(body, (*self._tables.codes, *self._tables.coins))
        fault = self.faults.add(asked, now)
        self._log.info(
            "Fault {number} begins: {kind} at {exchange}", number=fault.number, kind=fault.kind, exchange=fault.exchange
        )
        self._began(fault, now)
        return fault.described()

    def end_fault(self, number: int) -> bool:
        """End one fault; whether there was such a one."""
        fault = self.faults.remove(number)
        if fault is not None:
            self._ended(fault, self._now())
        return fault is not None

    def clear_faults(self) -> int:
        """End every fault; how many there were."""
        holding = self.faults.holding()
        for fault in holding:
            self.end_fault(fault.number)
        return len(holding)

    def _began(self, fault: Fault, now: float) -> None:
        params = fault.params
        if fault.kind == "depeg":
            self.market.send_coin(params["coin"], params["rate"], params["ramp_seconds"])
        for name in self.venues:
            if not fault.meets(name):
                continue
            if fault.kind == "refuse_connect" and params["how"] == "unlisten":
                self._ports[name].stop()
            for socket in self._sockets(name):
                self._strike(socket, fault, now)

    def _strike(self, socket: VenueSocket, fault: Fault, now: float) -> None:
        params, conversation = fault.params, socket.conversation
        if conversation is None:
            return
        if fault.kind == "disconnect":
            socket.end(Close(params["code"], params["reason"]))
        elif fault.kind == "huge_frame":
            about = list(conversation.subscribed.values())[:1]
            texts = [text for text in conversation.prices(about, now) if isinstance(text, str)] or ["{}"]
            socket.deliver([texts[0] + " " * int(params["megabytes"] * 1e6)])
        elif fault.kind == "upgrade_notice" and isinstance(conversation, OkxConversation):
            notice = conversation.give_notice(now, params["close_after_seconds"])
            socket.deliver(conversation.announce([notice], now))
        elif fault.kind == "status" and isinstance(conversation, KrakenConversation):
            socket.deliver(conversation.announce([conversation.status()], now))
        elif fault.kind == "sequence_gap" and isinstance(conversation, CoinbaseConversation):
            conversation.skip(params["skip"])

    def _ended(self, fault: Fault, now: float) -> None:
        self._log.info("Fault {number} ends: {kind}", number=fault.number, kind=fault.kind)
        if fault.kind == "depeg":
            coin = fault.params["coin"]
            others = [
                other for other in self.faults.holding() if other.kind == "depeg" and other.params["coin"] == coin
            ]
            rate = others[-1].params["rate"] if others else None
            self.market.send_coin(coin, rate, fault.params["ramp_seconds"])
        for name in self.venues:
            if not fault.meets(name):
                continue
            if fault.kind == "refuse_connect" and not self._unlistening(name):
                self._ports[name].listen()
            if fault.kind == "status":
                for socket in self._sockets(name):
                    self._strike(socket, fault, now)

    def _unlistening(self, name: str) -> bool:
        faults = self.faults.holding()
        return any(
            fault.kind == "refuse_connect" and fault.params["how"] == "unlisten" and fault.meets(name)
            for fault in faults
        )  # fmt: skip

    # What it tells of itself

    def state(self) -> dict[str, Any]:
        """Connections, subscriptions and counts by exchange."""
        return {
            "seed": self._seed,
            "uptime_seconds": round(self._now() - self._began_at, 3),
            "steps": self.market.steps,
            "exchanges": {
                name: {
                    "listening": name in self._ports and self._ports[name].listening,
                    "connections": len(venue.conversations),
                    "subscriptions": sum(len(conversation.subscribed) for conversation in venue.conversations),
                    "listed": len(venue.lines),
                    **venue.counts,
                    "last_heard": list(venue.heard)[-3:],
                }
                for name, venue in self.venues.items()
            },
        }

    def prices(self, exchange: str | None = None) -> dict[str, Any]:
        """The true mids in USD and the stablecoins' rates; with an exchange, its own undistorted quotes.

        @raise KeyError: for an exchange that there is not.
        """
        rates = {coin: self.market.rate(coin) for coin in PEGS}
        if exchange is None:
            return {"rates": rates, "mids": dict(self.market.mids)}
        venue = self.venues[exchange]
        return {
            "rates": rates,
            "quote": venue.quote,
            "quotes": {
                line.symbol: dict(zip(("last", "bid", "ask"), venue.fresh(line).quote, strict=True))
                for line in venue.lines.values()
            },
        }
