"""A price surface with real doors on the loopback address, for commands that ask; they run in a thread beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource

from tbeast.commands.main import main
from tbeast.domain.keys import ID_LENGTH, SECRET_LENGTH
from tbeast.servers.site import WebSite
from tbeast.servers.udp import PriceDatagrams
from tbeast.settings import SETTINGS
from tbeast.test.servers.rooms import PARTNER, House, quote_of

STRANGER = f"tb_{'a' * ID_LENGTH}_{'b' * SECRET_LENGTH}"

real_reactor: Any = reactor

RICH_ENVIRONMENT = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


class Site(WebSite):
    """Remembers its connections, so that a test can end them, and what was asked.

    @ivar asked: the targets, in order.
    """

    def __init__(self, root: Resource, **parts: Any) -> None:
        super().__init__(root, **parts)
        self.channels: list[Any] = []
        self.asked: list[bytes] = []

    def buildProtocol(self, addr: Any) -> Any:
        channel = super().buildProtocol(addr)
        self.channels.append(channel)
        lost = channel.connectionLost

        def connectionLost(*reason: Any) -> None:
            self.channels.remove(channel)
            lost(*reason)

        channel.connectionLost = connectionLost
        return channel

    def getResourceFor(self, request: Any) -> Any:
        self.asked.append(request.uri)
        return super().getResourceFor(request)

    def hang_up(self) -> None:
        for channel in list(self.channels):
            channel.transport.abortConnection()


class Datagrams(PriceDatagrams):
    """Keeps what came in, and loses as many of the first as the test wants.

    @ivar losing: how many are still to be lost.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.heard: list[bytes] = []
        self.losing = 0

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.heard.append(datagram)
        if self.losing:
            self.losing -= 1
        else:
            super().datagramReceived(datagram, addr)


class Saying(Protocol):
    """Answers any question with the bytes it was given, and hangs up."""

    answer = b""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(self.answer)
        self.transport.loseConnection()


class OpenDoors(TestCase):
    """A test with a surface that listens.

    @ivar house: what is behind the doors; its time is the real time of the beginning.
    @ivar port: where HTTP is.
    @ivar udp_port: where datagrams go.
    """

    simulated = True
    timeout = 60

    def setUp(self) -> None:
        self.house = House(simulated=self.simulated)
        self.house.time = time.time()
        self.put("BTC", 83421.57)
        self.put("ETH", 3180.25, quality="degraded", source="kraken-ws", used=("kraken",), seen=2)
        self.house.view.rates["USDT"] = 0.5
        self.site = Site(
            self.house.lpo(), reactor=self.house.clock, now=self.house.now, new_id=self.house.new_id,
            counters=self.house.counters, service="lpo",
        )  # fmt: skip
        self.port = self.listen(self.site)
        self.datagrams = Datagrams(
            gate=self.house.gate, answers=self.house.answers, counters=self.house.counters, now=self.house.now
        )
        udp: Any = real_reactor.listenUDP(0, self.datagrams, interface="127.0.0.1")
        self.addCleanup(udp.stopListening)
        self.udp_port: int = udp.getHost().port
        self.addCleanup(self.close_connections)
        # no demo key here, whatever lies in the folder where the tests run
        self.state = Path(self.mktemp()).absolute()

    def put(self, asset: str, price: float, **changes: Any) -> None:
        now = self.house.time
        made = {"observed_at": now - 0.412, "fresh_until": now + 3600.0, **changes}
        self.house.put(quote_of(asset, price, **made))

    def listen(self, factory: Any) -> int:
        port: Any = real_reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def saying(self, answer: bytes) -> int:
        """Listen, and answer anything with this; give the port."""
        return self.listen(Factory.forProtocol(type("Said", (Saying,), {"answer": answer})))

    async def close_connections(self) -> None:
        self.site.hang_up()
        while self.site.channels:
            await deferLater(real_reactor, 0.01)

    def environment(self, **changes: str) -> dict[str, str | None]:
        return {
            **dict.fromkeys((*SETTINGS, *RICH_ENVIRONMENT)), "TCP_PORT_LPO": str(self.port),
            "UDP_PORT_LPO": str(self.udp_port), "TBEAST_STATE": str(self.state), **changes,
        }  # fmt: skip

    def run_command(self, *arguments: str, **environ: str) -> Deferred[Result]:
        """Run C{tbeast} with these arguments and no key of its own."""
        return self.in_thread(
            lambda: CliRunner().invoke(main, arguments, env=self.environment(**environ), prog_name="tbeast")
        )

    def ask(self, *arguments: str, key: str = PARTNER, **environ: str) -> Deferred[Result]:
        """Run C{tbeast} with these arguments and a key."""
        return self.run_command(*arguments, "--key", key, **environ)

    def in_thread(self, work: Callable[[], Result]) -> Deferred[Result]:
        def seen(result: Result) -> Result:
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            return result

        running: Deferred[Result] = deferToThread(work)
        return running.addCallback(seen)
