"""One connection to PostgreSQL: where it goes, how it is secured, and what its errors mean.

The rules. What a URL says in C{sslmode} holds; otherwise a connection that leaves this machine is encrypted, and the
server's certificate and name are verified against the authorities that the URL names, else those of the system.
Nothing waits without an end: connecting, a statement and a lock each have a limit, and a peer that vanished is noticed
by TCP. A login that is refused is tried once more with credentials asked for anew, because passwords are rotated.

An error means one of two things. Either the database cannot do it now (away, slow, read-only, full, a lost race, a
missing right or table): L{StoreUnavailableError}; the same may work later, so nothing may be thrown away for it. Or it
will not take these values, now or ever: L{StoreRefusedError}. Only the first line of what the server says is passed
on, because the rest quotes rows.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from threading import Lock
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import quote, urlencode

import psycopg2
import psycopg2.extensions
from attrs import field, frozen

from tbeast.errors import StoreError, StoreRefusedError, StoreUnavailableError

Connection: TypeAlias = psycopg2.extensions.connection

CONNECT_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 10.0
LOCK_SECONDS: Final = 5.0
IDLE_IN_TRANSACTION_SECONDS: Final = 60.0
"""A transaction that nobody goes on with holds locks that others wait for."""

SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

DEFAULT_DATABASE: Final = "tbeast"
DEFAULT_USER: Final = "tbeast"
DEFAULT_PORT: Final = "5432"

_OF_EVERY_CONNECTION: Final[Mapping[str, str]] = {
    "connect_timeout": str(CONNECT_SECONDS),
    "gssencmode": "disable",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}

_AUTHORITIES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where systems keep the authorities they trust; the TLS library in psycopg2's wheel may look in none of these."""


class Credentials(Protocol):
    """What a secret says of the database; C{None} where it does not say."""

    @property
    def user(self) -> str:
        """Who logs in."""

    @property
    def password(self) -> str:
        """With which password."""

    @property
    def database(self) -> str | None:
        """The database's name."""

    @property
    def host(self) -> str | None:
        """Where it is."""

    @property
    def port(self) -> int | None:
        """On which port."""


class Login:
    """The credentials as they are now, shared by all connections to one target.

    @param credentials: those to begin with; C{None}: they are asked for when the first connection needs them.
    @param ask: asks for them anew, in the thread that wants them, and may take its time; C{None}: there are no others.
    """

    def __init__(self, credentials: Credentials | None, ask: Callable[[], Credentials] | None = None) -> None:
        self._ask = ask
        self._lock = Lock()
        self._credentials = credentials

    @property
    def credentials(self) -> Credentials | None:
        """What holds now; C{None}: not asked for yet."""
        return self._credentials

    def now(self) -> Credentials | None:
        """The credentials, asked for if they were not yet.

        @raise StoreError: as L{other_than}.
        """
        return self._credentials or self.other_than(None)

    def other_than(self, refused: Credentials | None) -> Credentials | None:
        """Ask for other credentials than those that were refused, unless somebody did so in the meantime.

        @param refused: C{None}: any will do.
        @return: C{None} when there are none.
        @raise StoreError: what whoever knows them raises.
        @raise StoreUnavailableError: when that is anything else.
        """
        with self._lock:
            if self._credentials is not refused:
                return self._credentials
            if self._ask is None:
                return None
            try:
                self._credentials = self._ask()
            except StoreError:
                raise
            except Exception as error:
                # its words are not ours, and may say anything
                why = f"the credentials of the database cannot be had: {type(error).__name__}"
                raise StoreUnavailableError(why) from error
            return self._credentials


@frozen
class Target:
    """What to connect to, and how.

    @ivar parameters: libpq's connection parameters, as far as they were given.
    @ivar login: who logs in; C{None}: as the parameters say.
    @ivar statement_seconds: the longest that one statement may take; 0: no limit.
    @ivar lock_seconds: the longest that a statement may wait for a lock; 0: no limit.
    @ivar application: what the server's lists call us.
    """

    parameters: Mapping[str, str] = field(repr=False)
    login: Login | None = field(default=None, repr=False)
    statement_seconds: float = STATEMENT_SECONDS
    lock_seconds: float = LOCK_SECONDS
    application: str = "tbeast"

    @property
    def where(self) -> str:
        """Host, port and database, for people."""
        given = self.arguments()
        unknown = "this machine" if self.login is None or self.login.credentials else "the host that the secret names"
        host = given.get("host") or given.get("hostaddr") or unknown
        port = "" if host.startswith("/") else f":{given.get('port', DEFAULT_PORT)}"
        return f"{host}{port}/{given['dbname']}"

    @property
    def password(self) -> str | None:
        """The password, if there is one."""
        return self.arguments().get("password")

    @property
    def url(self) -> str:
        """The place as a URL for psql and its like; without the password."""
        given = self.arguments()
        given.pop("password", None)
        place = quote(given.pop("user"), safe="") + "@"
        if "," not in given.get("host", "") + given.get("port", ""):  # several stand better behind the question mark
            place += quote(given.pop("host", ""), safe="")
            place += f":{given.pop('port')}" if given.get("port") else ""
        database = quote(given.pop("dbname"), safe="")
        ours = {"application_name": self.application, "client_encoding": "UTF8", **_OF_EVERY_CONNECTION}
        rest = {name: text for name, text in sorted(given.items()) if ours.get(name) != text}
        return f"postgresql://{place}/{database}{'?' if rest else ''}{urlencode(rest, quote_via=quote)}"

    def arguments(self, credentials: Credentials | None = None) -> dict[str, str]:
        """All parameters of libpq for a connection.

        @param credentials: who is to log in, if not whom L{login} says.
        """
        given = dict(self.parameters)
        if credentials is None and self.login is not None:
            credentials = self.login.credentials
        if credentials is not None:
            given["user"], given["password"] = credentials.user, credentials.password
            # the URL names the place; the secret fills in what it leaves open
            filling = (("host", credentials.host), ("port", credentials.port), ("dbname", credentials.database))
            for name, value in filling:
                if value is not None:
                    given.setdefault(name, str(value))
        given.setdefault("user", os.environ.get("PGUSER") or DEFAULT_USER)
        given.setdefault("dbname", os.environ.get("PGDATABASE") or DEFAULT_DATABASE)
        given.setdefault("application_name", self.application)
        for name, text in _OF_EVERY_CONNECTION.items():
            given.setdefault(name, text)
        given["client_encoding"] = "UTF8"
        _secure(given)
        return given


def target(
    url: str | None,
    credentials: Credentials | None = None,
    refresh: Callable[[], Credentials] | None = None,
    authorities: str | None = None,
) -> Target:
    """Work out what to connect to.

    @param url: the setting AURORA_URL: a C{postgresql://} URL, or a host with or without a port; C{None} when the
        credentials name the host.
    @param credentials: who logs in, whatever the URL says of that.
    @param refresh: asks for the credentials, when there are none yet and when a login is refused.
    @param authorities: PEM file of the certificate authorities to trust, unless the URL names one.
    @raise StoreError: when C{url} is no such thing, or nothing can name a host.
    """
    if url is None:
        parameters: dict[str, str] = {}
        if credentials is None and refresh is None:
            raise StoreError("neither AURORA_URL nor a secret says on which host the database is")
    elif "://" in url:
        try:
            parameters = dict(psycopg2.extensions.parse_dsn(url))
        except psycopg2.Error:  # its words quote the URL
            raise StoreError("the database's URL cannot be read: it must be a postgresql:// URL of libpq") from None
    else:
        parameters = _host_and_port(url)
    mode = parameters.get("sslmode")
    if mode is not None and mode not in SSL_MODES:
        raise StoreError(f"the database's URL has a sslmode that is none: it must be one of {', '.join(SSL_MODES)}")
    if authorities is not None:
        parameters.setdefault("sslrootcert", authorities)
    return Target(parameters, Login(credentials, refresh) if credentials is not None or refresh is not None else None)


def connect(target: Target) -> Connection:
    """Make a connection, with its limits set, outside of any transaction.

    @raise StoreUnavailableError: when that does not work.
    @raise StoreError: when it never will, because whoever is asked for the credentials says so.
    """
    login = target.login
    used = None if login is None else login.now()
    try:
        return _connect(target, used)
    except psycopg2.Error as error:
        other = login.other_than(used) if login is not None and _login_refused(error) else None
        if other is None:
            raise _not_connected(error, target) from None
    try:
        return _connect(target, other)
    except psycopg2.Error as error:
        raise _not_connected(error, target) from None


def _connect(target: Target, credentials: Credentials | None) -> Connection:
    arguments: dict[str, Any] = dict(target.arguments(credentials))
    if target.login is not None and not {"host", "hostaddr"} & arguments.keys():
        # libpq would take a socket of this machine, and hand the password to whoever listens there
        raise StoreUnavailableError("neither AURORA_URL nor the secret says on which host the database is")
    connection: Connection = psycopg2.connect(**arguments)
    limits = (target.statement_seconds, target.lock_seconds, IDLE_IN_TRANSACTION_SECONDS)
    try:
        with connection.cursor() as cursor:
            # not by the start-up parameter `options`, which proxies refuse
            cursor.execute(
                "SELECT set_config('timezone', 'UTC', false), set_config('statement_timeout', %s, false),"
                " set_config('lock_timeout', %s, false), set_config('idle_in_transaction_session_timeout', %s, false)",
                [str(round(seconds * 1000)) for seconds in limits],
            )
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _not_connected(error: psycopg2.Error, target: Target) -> StoreUnavailableError:
    # whatever the reason, no value was at fault
    words = _words(error)
    return StoreUnavailableError(words if "connection to server" in words else f"{target.where}: {words}")


def _host_and_port(text: str) -> dict[str, str]:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s/@]+))(?::([0-9]{1,5}))?", text)
    if not found:
        raise StoreError("the database's host cannot be read: give a host, host:port or a postgresql:// URL")
    parameters = {"host": found[1] or found[2]}
    if found[3]:
        parameters["port"] = found[3]
    return parameters


def _secure(given: dict[str, str]) -> None:
    """Fill in what the parameters, and libpq's own environment variables, leave open on TLS."""
    mode = given.get("sslmode") or os.environ.get("PGSSLMODE")
    if not mode:
        hosts = (given.get("hostaddr") or given.get("host") or os.environ.get("PGHOST") or "").split(",")
        mode = "prefer" if all(map(_here, hosts)) else "verify-full"
    given["sslmode"] = mode
    if mode in ("verify-full", "verify-ca"):
        authorities = given.get("sslrootcert") or os.environ.get("PGSSLROOTCERT") or "system"
        given["sslrootcert"] = _system_authorities() if authorities == "system" else authorities


def _here(host: str) -> bool:
    """Whether a host is this machine: a socket, or the loopback."""
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _system_authorities() -> str:
    ours = ssl.get_default_verify_paths()
    for path in (os.environ.get(ours.openssl_cafile_env), ours.openssl_cafile, *_AUTHORITIES):
        if path and os.path.exists(path):
            return path
    return "system"


_REFUSALS: Final = (
    (re.compile(r"password authentication failed|no password supplied"), "28P01"),
    (
        re.compile(
            r"authentication failed|no pg_hba\.conf entry|pg_hba\.conf rejects|role .* does not exist"
            r"|is not permitted to log in"
        ),
        "28000",
    ),
    (re.compile(r"database .* does not exist"), "3D000"),
    (re.compile(r"too many clients|too many connections|connection slots are reserved"), "53300"),
    (re.compile(r"starting up|shutting down|recovery mode|not (?:yet )?accepting"), "57P03"),
)
"""libpq gives no SQLSTATE for a connection that did not come to be: the words of the server, and what they mean."""


def code_of(error: psycopg2.Error | StoreError) -> str:
    """The SQLSTATE of an error; empty if there is none."""
    if isinstance(error, psycopg2.Error) and error.pgcode:
        return str(error.pgcode)
    text = str(error)
    return next((code for pattern, code in _REFUSALS if pattern.search(text)), "")


def slots_taken(error: StoreError) -> bool:
    """Whether a connection did not come to be because the server has as many as it can take."""
    return code_of(error) == "53300"


def _login_refused(error: psycopg2.Error) -> bool:
    code = code_of(error)
    # a server that speaks another language refuses in words that we do not know
    return code in ("28P01", "28000") or (not code and "FATAL" in str(error))


READ_ONLY: Final = "25006"

_UNAVAILABLE_CLASSES: Final = ("08", "25", "28", "3D", "40", "53", "55", "57", "58", "F0", "XX")
_UNAVAILABLE_CODES: Final = ("42501", "42P01", "42703", "42883", "3F000")
"""A right, a table, a column, a function or a schema is missing: the database's state is at fault, not the values."""

_UNTRANSLATABLE: Final = "22021"


def untellable(error: BaseException) -> bool:
    """Whether an error says that a text cannot be sent to PostgreSQL at all: it holds U+0000, or half a character."""
    return isinstance(error, UnicodeEncodeError) or (isinstance(error, ValueError) and "NUL (0x00)" in str(error))


def translated(error: psycopg2.Error | ValueError) -> StoreError:
    """What an error of the driver means."""
    if not isinstance(error, psycopg2.Error):
        return StoreRefusedError("a text holds a character that PostgreSQL does not take", _UNTRANSLATABLE)
    code = code_of(error)
    if code[:2] in _UNAVAILABLE_CLASSES or code in _UNAVAILABLE_CODES:
        return StoreUnavailableError(_words(error))
    if not code and isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return StoreUnavailableError(_words(error))
    return StoreRefusedError(_words(error), code)


_NO_NEWS: Final = re.compile(r"Is the server running .*\?|This probably means .*|before or while processing .*")


def _words(error: psycopg2.Error) -> str:
    """What an error says, in one line and without the rows that it quotes."""
    primary = error.diag.message_primary
    if primary:
        return " ".join(primary.split())
    lines = [_NO_NEWS.sub("", line).strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line) or type(error).__name__
