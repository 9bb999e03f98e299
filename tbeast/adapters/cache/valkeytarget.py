"""Where Valkey is, and how a connection to it is made.

C{CACHE_URL} is a host or host:port (plain TCP), C{redis://[user:password@]host[:port][/database]}, or the same with
C{rediss://}: then TLS, and the server's certificate must be vouched for and be that host's. C{unix:///path} is a socket
in the file system. User and password may be percent-encoded.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from attrs import field, frozen
from twisted.internet import ssl
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint

from tbeast.errors import SettingsError

DEFAULT_PORT: Final = 6379
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@frozen
class Target:
    """One server.

    @ivar path: of the socket in the file system; then host, port and tls mean nothing.
    """

    host: str = ""
    port: int = DEFAULT_PORT
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    path: str = ""

    def __str__(self) -> str:
        """For people; without the password."""
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{' (TLS)' if self.tls else ''}"


def target(url: str) -> Target:
    """Read C{CACHE_URL}.

    @raise SettingsError: when it is nothing of the sort; its message does not hold the URL, which may hold a password.
    """
    try:
        parts = urlsplit(url if "://" in url else f"redis://{url}")
        return _target(parts)
    except ValueError as error:
        raise SettingsError([f"CACHE_URL: {error}"]) from None


def _target(parts: SplitResult) -> Target:
    if parts.query or parts.fragment:
        raise ValueError("options after ? or # are not known")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path:
            raise ValueError("a socket in the file system is written unix:///path")
        return Target(path=unquote(parts.path))
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError("must begin with redis:// or rediss://, or be a host alone")
    try:
        port = parts.port
    except ValueError:  # its words quote what may be a password with a sign in it that was not encoded
        raise ValueError("the port is no number from 1 to 65535") from None
    if not parts.hostname or port == 0:
        raise ValueError("a host is missing, or the port is 0")
    if parts.username and not parts.password:
        raise ValueError("a user without a password; a password alone is written redis://:password@host")
    database = parts.path.strip("/")
    if database and not re.fullmatch("[0-9]{1,4}", database):
        raise ValueError("the database after the host must be a number")
    tls = parts.scheme == "rediss"
    if tls:
        try:
            ssl.optionsForClientTLS(parts.hostname)
        except UnicodeError:
            raise ValueError("no certificate can be for a host of that name") from None
    return Target(
        parts.hostname,
        port or DEFAULT_PORT,
        tls,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        int(database or 0),
    )


def trust_root(pem: bytes) -> Any:
    """What to believe instead of the platform's authorities: the certificates in a PEM file's text.

    @raise ValueError: when there is none.
    """
    certificates = [ssl.Certificate.loadPEM(text) for text in _CERTIFICATE.findall(pem)]
    if not certificates:
        raise ValueError("no certificate in it")
    return ssl.trustRootFromCertificates(certificates)  # type: ignore[no-untyped-call]


def endpoint(where: Target, reactor: Any, timeout_seconds: float, trusted: Any = None) -> IStreamClientEndpoint:
    """How to connect there.

    @param trusted: an C{IOpenSSLTrustRoot}; C{None}: the platform's authorities.
    """
    if where.path:
        return UNIXClientEndpoint(reactor, where.path, timeout_seconds)  # type: ignore[no-untyped-call]
    plain = HostnameEndpoint(reactor, where.host, where.port, timeout=timeout_seconds)
    if not where.tls:
        return plain
    wrapped: IStreamClientEndpoint = wrapClientTLS(ssl.optionsForClientTLS(where.host, trustRoot=trusted), plain)
    return wrapped
