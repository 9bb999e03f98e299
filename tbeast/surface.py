"""What is asked of the daemon from outside, tied to its ports: the pages over HTTP and the datagrams.

Here it is decided which of several ways a question takes; what stands behind the answers is handed in. Ports come from
whoever makes the surface: bound here and now, or inherited from another process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

from attrs import frozen
from OpenSSL.crypto import FILETYPE_PEM
from twisted.application.service import IService
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.ssl import Certificate, CertificateOptions, KeyPair
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource

from tbeast.domain.counters import Counters
from tbeast.domain.usage import Ledger
from tbeast.interfaces import Now
from tbeast.servers.answers import Answers
from tbeast.servers.gate import Gate
from tbeast.servers.lpo import Feeds, lpo_tree
from tbeast.servers.site import WebSite
from tbeast.servers.udp import PriceDatagrams
from tbeast.services.lifecycle import Called
from tbeast.settings import Settings

BACKLOG: Final = 1024
"""How many connections may wait to be taken. Twisted's 50 overflow in a burst; who is left out loses a second."""


class Ports(Protocol):
    """Gives the ports that are listened on.

    Each call begins to listen and gives the port; it raises L{CannotListenError} when that is not possible.
    """

    def tcp(self, name: str, number: int, factory: IProtocolFactory) -> IListeningPort:
        """Take connections on the port C{number}; C{name} is C{lpo} or C{health}."""

    def udp(self, name: str, number: int, protocol: DatagramProtocol) -> IListeningPort:
        """Take datagrams."""


class BoundPorts:
    """Ports that this process binds for itself."""

    def __init__(self, reactor: Any, interface: str) -> None:
        self._reactor = reactor
        self._interface = interface

    def tcp(self, name: str, number: int, factory: IProtocolFactory) -> IListeningPort:
        """See L{Ports.tcp}."""
        port: IListeningPort = self._reactor.listenTCP(number, factory, backlog=BACKLOG, interface=self._interface)
        return port

    def udp(self, name: str, number: int, protocol: DatagramProtocol) -> IListeningPort:
        """See L{Ports.udp}."""
        port: IListeningPort = self._reactor.listenUDP(number, protocol, interface=self._interface)
        return port


@frozen
class Behind:
    """What a surface needs of the rest of the daemon.

    @ivar idle_seconds: asked when a port opens: how long a connection may be idle.
    """

    gate: Gate
    answers: Answers
    ledger: Ledger
    feeds: Feeds
    counters: Counters
    now: Now
    new_id: Callable[[], str]
    idle_seconds: Callable[[], float]


class Surface:
    """The ports of one process.

    @ivar listening: every listener by name, and whether it is up.
    """

    def __init__(self, settings: Settings, reactor: Any, behind: Behind, ports: Ports) -> None:
        self._settings = settings
        self._reactor = reactor
        self._behind = behind
        self._ports = ports
        self.listening: dict[str, bool] = {}

    def health(self, pages: Resource) -> IService:
        """The health port, with these pages."""
        return self._site("health", pages, self._settings.health_port_lpo)

    def prices(self) -> Iterable[IService]:
        """The price surface: HTTP, then UDP."""
        settings, behind = self._settings, self._behind
        pages = lpo_tree(
            gate=behind.gate, answers=behind.answers, counters=behind.counters, feeds=behind.feeds, now=behind.now,
            node=settings.cluster_node,
        )  # fmt: skip
        yield self._site("lpo", pages, settings.tcp_port_lpo, behind.ledger, secure=True)
        datagrams = PriceDatagrams(
            gate=behind.gate, answers=behind.answers, counters=behind.counters, now=behind.now, ledger=behind.ledger
        )
        yield self._listener("udp", lambda: self._ports.udp("lpo", settings.udp_port_lpo, datagrams))

    def _site(
        self, name: str, pages: Resource, number: int, ledger: Ledger | None = None, secure: bool = False
    ) -> IService:
        behind = self._behind
        site = WebSite(
            pages, reactor=self._reactor, now=behind.now, new_id=behind.new_id, counters=behind.counters, service=name,
            ledger=ledger,
        )  # fmt: skip

        def listen() -> IListeningPort:
            site.timeOut = behind.idle_seconds()
            return self._ports.tcp(name, number, self._secured(site) if secure else site)

        return self._listener(name, listen)

    def _secured(self, site: WebSite) -> IProtocolFactory:
        """The site behind TLS, if there is a certificate."""
        settings = self._settings
        if not (settings.tls_cert and settings.tls_key):
            return site
        own, *chain = _certificates(Path(settings.tls_cert).read_bytes())
        private = KeyPair.load(Path(settings.tls_key).read_bytes(), FILETYPE_PEM)
        options = CertificateOptions(
            privateKey=private.original, certificate=own, extraCertChain=chain
        )
        return TLSMemoryBIOFactory(options, False, site)

    def _listener(self, name: str, listen: Callable[[], IListeningPort]) -> IService:
        """Note when a listener is up and when it is not."""
        self.listening[name] = False
        port: list[IListeningPort] = []

        def start() -> None:
            port.append(listen())
            self.listening[name] = True

        def stop() -> Any:
            self.listening[name] = False
            return port.pop().stopListening() if port else None

        return Called(f"listener {name}", start, stop)


_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def _certificates(pem: bytes) -> list[Any]:
    """The certificates in a file, in their order: our own, and those between it and the root."""
    return [Certificate.loadPEM(one).original for one in _CERTIFICATE.findall(pem)]
