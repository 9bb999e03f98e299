"""What is asked of the daemon from outside, tied to its ports: the pages over HTTP and the datagrams.

Here it is decided which of several ways a question takes; what stands behind the answers is handed in. Ports come from
whoever makes the surface: bound here and now, or inherited from another process.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final, Protocol

from attrs import frozen
from OpenSSL.crypto import FILETYPE_PEM
from twisted.application.service import IService
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.ssl import Certificate, CertificateOptions, KeyPair
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource

from tbeast.codecs.openapi.admin import surface as reports_document
from tbeast.codecs.openapi.prices import prices as prices_document
from tbeast.codecs.signatures import SpentMacs
from tbeast.domain.admission import OpenStanding
from tbeast.domain.counters import Counters
from tbeast.domain.keys import Account
from tbeast.domain.usage import Ledger
from tbeast.interfaces import Now
from tbeast.native.loading import load
from tbeast.servers.answers import Answers
from tbeast.servers.documents import documents
from tbeast.servers.door import RESERVED, Door
from tbeast.servers.fastlane import PriceSite
from tbeast.servers.gate import Gate, Keyring
from tbeast.servers.lpo import Feeds, NodeStatistics, lpo_pages
from tbeast.servers.lrs import LrsSite, Operator, Reports, lrs_pages
from tbeast.servers.lrsudp import ReportDatagrams
from tbeast.servers.nativelanes import LearningGate, NativeLanes, open_lanes
from tbeast.servers.site import WebSite, tree
from tbeast.servers.udp import PriceDatagrams
from tbeast.services.lifecycle import Called
from tbeast.settings import OFF, Settings

VERSION: Final = metadata.version("tbeast")

BACKLOG: Final = 1024
"""How many connections may wait to be taken. Twisted's 50 overflow in a burst; who is left out loses a second."""


class Ports(Protocol):
    """Gives the ports that are listened on.

    Each call begins to listen and gives the port; it raises L{CannotListenError} when that is not possible.
    """

    def tcp(self, name: str, number: int, factory: IProtocolFactory) -> IListeningPort:
        """Take connections on the port C{number}; C{name} is that of its listener."""

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
    @ivar native: what serves plain questions natively; C{None}: nothing does.
    @ivar about: what /stats says of the process beside its counters.
    @ivar statistics: what /stats says of it in numbers.
    @ivar instead: pages that stand in for those of the same name.
    @ivar door: lets connections in; C{None}: whoever comes is in.
    @ivar spent: the macs that were answered, where other processes answer too; C{None}: the port keeps its own.
    """

    gate: Gate
    answers: Answers
    ledger: Ledger
    feeds: Feeds
    counters: Counters
    now: Now
    new_id: Callable[[], str]
    idle_seconds: Callable[[], float]
    native: NativeLanes | None = None
    about: Mapping[str, str] = MappingProxyType({})
    statistics: NodeStatistics | None = None
    instead: Mapping[bytes, Resource] = MappingProxyType({})
    spent: SpentMacs | None = None
    door: Door | None = None


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

    def health(self, pages: Resource, name: str = "health") -> IService:
        """The health port of the price surface, or C{"lrs health"}, with these pages."""
        behind, settings = self._behind, self._settings
        site = WebSite(
            pages, reactor=self._reactor, now=behind.now, new_id=behind.new_id, counters=behind.counters,
            service="health",
        )  # fmt: skip
        return self._served(site, settings.health_port_lpo if name == "health" else settings.health_port_lrs, name=name)

    def prices(self) -> Iterable[IService]:
        """The price surface: HTTP, then UDP."""
        settings, behind = self._settings, self._behind
        pages = lpo_pages(
            gate=behind.gate, answers=behind.answers, counters=behind.counters, feeds=behind.feeds, now=behind.now,
            node=settings.cluster_node, about=behind.about, statistics=behind.statistics,
        )  # fmt: skip
        about = documents(prices_document(VERSION))
        site = PriceSite(
            tree({**pages, **about, **behind.instead}), gate=behind.gate, answers=behind.answers, reactor=self._reactor,
            now=behind.now, new_id=behind.new_id, counters=behind.counters, service="lpo", ledger=behind.ledger,
        )  # fmt: skip
        yield self._served(site, settings.tcp_port_lpo, secure=True, door=behind.door)
        datagrams = PriceDatagrams(
            gate=behind.gate, answers=behind.answers, counters=behind.counters, now=behind.now, ledger=behind.ledger,
            spent=behind.spent, buffer_bytes=settings.udp_buffer_kb * 1024,
        )  # fmt: skip
        native = behind.native

        def listen() -> IListeningPort:
            port = self._ports.udp("lpo", settings.udp_port_lpo, datagrams)
            if native is not None:
                native.take_datagrams(port, datagrams)
            return port

        yield self._listener("udp", listen, native.end_datagrams if native is not None else None)

    def reports(
        self, reports: Reports, operator: Operator | None, pages: Mapping[bytes, Resource]
    ) -> Iterable[IService]:
        """The report surface: HTTP, then UDP.

        @param operator: knows the operator, if there is one.
        @param pages: what else stands on its port.
        """
        settings, behind = self._settings, self._behind
        about = documents(reports_document(VERSION, operator is not None))
        own = lrs_pages(gate=behind.gate, reports=reports, now=behind.now, operator=operator)
        site = LrsSite(
            tree({**own, **about, **pages}), reactor=self._reactor, now=behind.now, new_id=behind.new_id,
            counters=behind.counters, ledger=behind.ledger,
        )  # fmt: skip
        yield self._served(site, settings.tcp_port_lrs, secure=True, door=behind.door)
        datagrams = ReportDatagrams(
            gate=behind.gate, reports=reports, counters=behind.counters, now=behind.now, ledger=behind.ledger
        )
        yield self._listener("lrs udp", lambda: self._ports.udp("lrs", settings.udp_port_lrs, datagrams))

    def _served(
        self, site: WebSite, number: int, secure: bool = False, name: str = "", door: Door | None = None
    ) -> IService:
        factory = self._secured(site) if secure else site
        # under TLS all connections are Twisted's
        native = self._behind.native if factory is site and isinstance(site, PriceSite) else None
        if door is not None:
            door.join(site)
            if native is not None:
                native.door = door

        def listen() -> IListeningPort:
            site.timeOut = self._behind.idle_seconds()
            port = self._ports.tcp(name or site.service, number, factory)
            if native is not None and isinstance(site, PriceSite):
                native.take_connections(port, site)
            elif door is not None:
                reserved = RESERVED if isinstance(site, LrsSite) else 0
                door.keep(port, site, site.service, secured=factory is not site, reserved=reserved)
            return port

        return self._listener(name or site.service, listen, native.end_connections if native is not None else None)

    def _secured(self, site: WebSite) -> IProtocolFactory:
        """The site behind TLS, if there is a certificate."""
        settings = self._settings
        if not (settings.tls_cert and settings.tls_key):
            return site
        own, *chain = _certificates(Path(settings.tls_cert).read_bytes())
        private = KeyPair.load(Path(settings.tls_key).read_bytes(), FILETYPE_PEM)
        options = CertificateOptions(privateKey=private.original, certificate=own, extraCertChain=chain)
        return TLSMemoryBIOFactory(options, False, site)

    def _listener(
        self, name: str, listen: Callable[[], IListeningPort], end: Callable[[], None] | None = None
    ) -> IService:
        """Note when a listener is up and when it is not; C{end} is called before its port closes."""
        self.listening[name] = False
        port: list[IListeningPort] = []

        def start() -> None:
            port.append(listen())
            self.listening[name] = True

        def stop() -> Any:
            self.listening[name] = False
            if end is not None:
                end()
            return port.pop().stopListening() if port else None

        return Called(f"listener {name}", start, stop)


def native_parts(settings: Settings) -> tuple[ModuleType | None, str]:
    """The native parts, if there are any and they are to be used; else C{None} and why."""
    return (None, "TBEAST_NATIVE is off") if settings.native == OFF else load()


class LedKeyring(Keyring, Protocol):
    """A keyring that tells of whom it has withdrawn.

    @ivar withdrawn: told at once of every account that its key does not lead to any more.
    """

    withdrawn: Callable[[Account], object]


def gated(
    parts: ModuleType | None, shelf: Any, keyring: LedKeyring, open_standing: OpenStanding, reactor: Any, now: Now,
    ledger: Ledger, counters: Counters,
) -> tuple[Gate, NativeLanes | None]:  # fmt: skip
    """The gate of a process, and its native lanes if it has any.

    @param parts: as L{native_parts} gives them.
    @param shelf: the memory of a L{tbeast.domain.sharedshelf.SharedShelf}, where there are parts.
    """
    if parts is None:
        return Gate(keyring, open_standing), None
    lanes = open_lanes(parts, shelf, os.urandom(16))
    gate = LearningGate(keyring, lanes, open_standing)
    keyring.withdrawn = gate.forget
    return gate, NativeLanes(lanes, reactor, now, ledger, counters)


def settle_memory() -> None:
    """What the start has made stays: have the garbage collector pass over it from now on, and look less often.

    With many keys there are hundreds of thousands of objects, and to look through them all holds up every question.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def release_memory() -> None:
    """Undo L{settle_memory}, for a process that goes on."""
    gc.unfreeze()
    gc.set_threshold(*_USUAL_THRESHOLDS)


YOUNG_OBJECTS: Final = 10_000
_USUAL_THRESHOLDS: Final = gc.get_threshold()
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def _certificates(pem: bytes) -> list[Any]:
    """The certificates in a file, in their order: our own, and those between it and the root."""
    return [Certificate.loadPEM(one).original for one in _CERTIFICATE.findall(pem)]
