"""The settings: what there is to set, and how mappings of raw values become one frozen L{Settings}.

The rules. A setting has one name everywhere: in the environment as it stands, in the TOML file in capitals or not.
Layers are laid over one another and the later wins, but every value in every layer must be sound, also one that is
overruled: a fault that hides today stops the start on another day. An empty text counts as not set. An unknown name,
a value that cannot be read and a combination that cannot work are faults; all of them are found before any is
raised, and each names the setting, the value, where it stands and what is allowed. A secret's value is in no fault
and in no C{repr}.

Nothing here reads a file or the environment: texts and mappings are handed in.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from attrs import Factory, field, frozen

from tbeast.errors import SettingsError
from tbeast.settingkinds import (
    ADDRESS,
    KEYS,
    LONGEST_KEY,
    NETWORKS,
    KeySetting,
    Kind,
    Network,
    matching,
    number,
    one_of,
    url,
    whole,
)

__all__ = ["SETTINGS", "ExchangeAddress", "KeySetting", "Layer", "Setting", "Settings", "environment_layer", "load"]

EXCHANGES: Final = ("coinbase", "gemini", "kraken", "gateio", "cryptocom", "okx")

SERVER_TYPES: Final[Mapping[str, frozenset[str]]] = {
    "APP_SERVER": frozenset({"lpo"}),
    "REPORT_SERVER": frozenset({"lrs"}),
    "APP_REPORT_SERVER": frozenset({"lpo", "lrs"}),
    "WEBHOOK_SERVER": frozenset({"webhook"}),
    "ALL_SERVER": frozenset({"lpo", "lrs", "webhook"}),
}
"""Server type: the parts of the daemon that it starts."""

LIVE: Final = "live"
LAB: Final = "lab"
DEFAULT: Final = "default"
AUTO: Final = "auto"
NEVER: Final = "never"
SERVE: Final = "serve"
REFUSE: Final = "refuse"

OFF: Final = "off"
TEXT: Final = "text"
JSON: Final = "json"
SHORTEST_ADMIN_KEY: Final = 16
MOST_WORKERS: Final = 128


@frozen
class Layer:
    """Raw values from one place.

    @ivar origin: what that place is called in a fault: C{environment}, C{etc/tbeast.toml}, C{option --feeds}.
    @ivar values: by setting name, capitals or not; text, or for a TOML file what its types give.
    @ivar lines: for a file, the line on which each name stands.
    """

    origin: str
    values: Mapping[str, object]
    lines: Mapping[str, int] = Factory(dict)

    def place(self, name: str) -> str:
        """Where C{name} stands, for people."""
        line = self.lines.get(name)
        return f"{self.origin}, line {line}" if line is not None else self.origin


@frozen
class ExchangeAddress:
    """Where one exchange is reached; C{None}: at its own address."""

    websocket_url: str | None = None
    rest_url: str | None = None


@frozen
class Setting:
    """One row of L{SETTINGS}.

    @ivar name: as it stands in the environment.
    @ivar default: what holds when it is not set; C{None}: nothing.
    @ivar description: one sentence or two.
    @ivar hot: whether the value may change while the daemon runs (through the parameters in the database).
    @ivar secret: whether the value is to be shown to nobody.
    """

    name: str
    kind: Kind
    default: Any
    description: str
    hot: bool = False
    secret: bool = False

    @property
    def attribute(self) -> str:
        """The name of the field in L{Settings}."""
        return self.name.removeprefix("TBEAST_").lower()


_PORT = whole(0, 65535, " (0: any free port)")
_FEW = whole(1, MOST_WORKERS)
_WORKERS = Kind(
    f"{AUTO}, or {_FEW.allowed}",
    lambda raw: AUTO if isinstance(raw, str) and raw.strip().casefold() == AUTO else _FEW.read(raw),
)
_PATH = matching("a path", r"[^\x00\r\n]+")
_POSTGRES = url(("postgresql", "postgres"), or_host=True, userinfo=True)
_REDIS = url(("redis", "rediss"), or_host=True, userinfo=True)
_ADMIN_KEY = matching(
    f"{SHORTEST_ADMIN_KEY} to {LONGEST_KEY} printable characters without spaces",
    rf"[\x21-\x7e]{{{SHORTEST_ADMIN_KEY},{LONGEST_KEY}}}",
)


def _exchange_settings() -> Iterable[Setting]:
    for exchange in EXCHANGES:
        name = f"TBEAST_{exchange.upper()}"
        yield Setting(
            f"{name}_WS_URL", url(("wss", "ws")), None,
            f"Where the WebSocket feed of {exchange} is reached: a regional host, a relay, a recording."
            " Not set: at its own address.",
        )  # fmt: skip
        yield Setting(
            f"{name}_REST_URL", url(("https", "http")), None,
            f"Where the REST interface of {exchange} is reached. Not set: at its own address.",
        )  # fmt: skip


SETTINGS: Final[Mapping[str, Setting]] = {
    setting.name: setting
    for setting in (
        Setting(
            "SERVER_TYPE", one_of(SERVER_TYPES), "APP_REPORT_SERVER",
            "Which parts start: APP_SERVER the price surface (LPO), REPORT_SERVER the report surface (LRS),"
            " APP_REPORT_SERVER both, WEBHOOK_SERVER the webhook push, ALL_SERVER everything in one process.",
        ),
        Setting("TBEAST_LISTEN", ADDRESS, "0.0.0.0",
            "The address on which every port listens; :: takes IPv6 and IPv4."),
        Setting("TCP_PORT_LPO", _PORT, 8080, "HTTP port of the price surface."),
        Setting("TCP_PORT_LRS", _PORT, 9090, "HTTP port of the report surface."),
        Setting("HEALTH_PORT_LPO", _PORT, 8081, "Health and metrics port of the price surface."),
        Setting("HEALTH_PORT_LRS", _PORT, 9091, "Health and metrics port of the report surface."),
        Setting("HEALTH_PORT_WEBHOOK", _PORT, 8083, "Health and metrics port of a webhook node."),
        Setting("UDP_PORT_LPO", _PORT, 2679, "Datagram port of the price surface."),
        Setting("UDP_PORT_LRS", _PORT, 2680, "Datagram port of the report surface."),
        Setting("TBEAST_UDP_BUFFER_KB", whole(8, 1_048_576), 4096,
            "How much the kernel is asked to hold of datagrams that were not read or not sent yet, in KiB, for each"
            " direction. It gives no more than net.core.rmem_max and net.core.wmem_max allow."),
        Setting("AURORA_URL", _POSTGRES, None,
            "PostgreSQL: a host, or a full postgresql:// URL. Not set: an embedded PostgreSQL.", secret=True),
        Setting("DB_SECRET_NAME", matching("the name or ARN of a secret", r"[A-Za-z0-9/_+=.@:-]{1,2048}"), None,
            "The secret in AWS Secrets Manager that gives the user, password and name of the database."),
        Setting("CACHE_URL", _REDIS, None,
            "Valkey: a host, or a redis:// or rediss:// (TLS) URL. Not set: a cache in the process.", secret=True),
        Setting("TBEAST_DB_CA", _PATH, None,
            "PEM file with the certificate authorities that the database's certificate is checked against."
            " Not set: those of the system."),
        Setting("TBEAST_CACHE_CA", _PATH, None,
            "PEM file with the certificate authorities that Valkey's certificate is checked against."
            " Not set: those of the system."),
        Setting("TBEAST_MIGRATE", one_of((AUTO, NEVER)), AUTO,
            "auto: bring the database's schema up to date at the start. never: only tbeast migrate does."),
        Setting("TBEAST_CLUSTER_NODES", whole(1, 1000), 1,
            "How many nodes share the limits of keys, and the connections, through Valkey. While that is away each has"
            " its part."),
        Setting("TBEAST_SPOOL_LIMIT_MB", whole(1, 1_000_000), 1024,
            "How much usage that the database has not taken yet may lie in the state folder, in MiB."
            " At the limit the oldest is kept."),
        Setting("TBEAST_WHEN_UNMETERED", one_of((SERVE, REFUSE)), SERVE,
            "What to do while neither database nor spool takes usage. serve: answer, count in memory, and raise the"
            " alarm. refuse: answer 503."),
        Setting("TBEAST_WORKERS", _WORKERS, 1,
            "How many processes answer questions. 1: this one does everything. More: it holds feeds, prices and"
            " accounts, and so many workers beside it share its ports. auto: one for each core, if there are several."),
        Setting("TBEAST_NATIVE", one_of((AUTO, OFF)), AUTO,
            "Whether the native parts are used. auto: if they were built. off: everything is done in Python, more"
            " slowly."),
        Setting("CLUSTER_NODE",
            matching("1 to 253 letters, digits, dots, underscores and hyphens", r"[A-Za-z0-9._-]{1,253}"), "localhost",
            "The name of this node. Not set: the name of the host."),
        Setting("NODE_ENV", matching("1 to 64 letters, digits, underscores and hyphens", r"[A-Za-z0-9_-]{1,64}"),
            "development", "The environment that this node belongs to."),
        Setting("AWS_REGION", matching("a region such as us-east-2", r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}"), None,
            "The AWS region of the secret and the queue."),
        Setting("SQS_USAGE_LOG_QUEUE_URL", url(("https", "http")), None,
            "The queue to which usage batches are sent. Not set: they are written to the database directly."),
        Setting("ADMIN_KEY", _ADMIN_KEY, None,
            "The X-Admin-Key that opens /admin. Not set: /admin answers 404.", secret=True),
        Setting("TBEAST_LOG_FORMAT", one_of((TEXT, JSON)), TEXT,
            "text: the log as twistd and twist write it. json: one JSON object a line, without secrets."),
        Setting("TBEAST_FEEDS", one_of((LIVE, LAB)), LIVE,
            "live: the exchanges. lab: the bundled exchange lab, whose prices are invented and marked as such."),
        *_exchange_settings(),
        Setting("TBEAST_TLS_CERT", _PATH, None,
            "PEM file of the certificate chain: with it the LPO and LRS ports speak HTTPS."),
        Setting("TBEAST_TLS_KEY", _PATH, None, "PEM file of the certificate's private key."),
        Setting("TBEAST_TRUSTED_PROXIES", NETWORKS, (),
            "The networks whose X-Forwarded-For is believed."),
        Setting("TBEAST_STATE", _PATH, "./var",
            "The folder for what must outlive a restart: spool, embedded database, generated demo key."),
        Setting("TBEAST_KEYS", KEYS, (),
            "API keys that the operator chose; a key alone has the tier partner."
            " In TOML also an array of tables with name, tier and key.", secret=True),
        Setting("TBEAST_MAX_PRICE_AGE_SECONDS", number(1, 3600), 60.0,
            "A price older than this is never given out as current.", hot=True),
        Setting("TBEAST_LAB_SEED", whole(0, 2**63 - 1), 1,
            "What the lab's invented market grows from: the same seed, the same market."),
    )
}  # fmt: skip
"""Every setting, by its name."""


@frozen(kw_only=True)
class Settings:
    """Everything that can be set, checked. The fields are told in L{SETTINGS}.

    @ivar exchange_addresses: by exchange, in lower case; every exchange is there.
    @ivar origins: by setting name, where its value stands; L{DEFAULT} where it is the default.
    """

    server_type: str
    listen: str
    tcp_port_lpo: int
    tcp_port_lrs: int
    health_port_lpo: int
    health_port_lrs: int
    health_port_webhook: int
    udp_port_lpo: int
    udp_port_lrs: int
    udp_buffer_kb: int
    aurora_url: str | None = field(repr=False)
    db_secret_name: str | None
    cache_url: str | None = field(repr=False)
    db_ca: str | None
    cache_ca: str | None
    migrate: str
    cluster_nodes: int
    spool_limit_mb: int
    when_unmetered: str
    workers: int | str
    native: str
    cluster_node: str
    node_env: str
    aws_region: str | None
    sqs_usage_log_queue_url: str | None
    admin_key: str | None = field(repr=False)
    log_format: str
    feeds: str
    exchange_addresses: Mapping[str, ExchangeAddress]
    tls_cert: str | None
    tls_key: str | None
    trusted_proxies: tuple[Network, ...]
    state: str
    keys: tuple[KeySetting, ...]
    max_price_age_seconds: float
    lab_seed: int
    origins: Mapping[str, str] = field(repr=False, eq=False)

    @property
    def parts(self) -> frozenset[str]:
        """The parts that L{server_type} starts: C{lpo}, C{lrs}, C{webhook}."""
        return SERVER_TYPES[self.server_type]

    @property
    def simulated(self) -> bool:
        """Whether prices are the lab's inventions."""
        return self.feeds == LAB

    def unused_here(self) -> list[str]:
        """What is set and accepted, but not acted on by this version yet: one sentence each, for the log."""
        lines = []
        missing = [what for part, what in _PARTS_TO_COME.items() if part in self.parts]
        if missing:
            lines.append(f"SERVER_TYPE={self.server_type}: this version does not serve {' nor '.join(missing)} yet")
        lines.extend(
            f"{name} is set and has no effect: this version has no {what} yet"
            for name, what in TO_COME.items()
            if self.origins.get(name, DEFAULT) != DEFAULT
        )
        if self.admin_key is not None and "lrs" not in self.parts:
            why = f"SERVER_TYPE={self.server_type} has no report surface, where /admin is"
            lines.append(f"ADMIN_KEY is set and has no effect: {why}")
        return lines


_PORTS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "TCP": {
        "lpo": ("TCP_PORT_LPO", "HEALTH_PORT_LPO"),
        "lrs": ("TCP_PORT_LRS", "HEALTH_PORT_LRS"),
        "webhook": ("HEALTH_PORT_WEBHOOK",),
    },
    "UDP": {"lpo": ("UDP_PORT_LPO",), "lrs": ("UDP_PORT_LRS",)},
}
"""Protocol, part of the daemon, the ports on which it listens."""

_PARTS_TO_COME: Final = {"webhook": "webhooks"}
TO_COME: Final = {
    "HEALTH_PORT_WEBHOOK": "webhook push",
}
"""Settings that are accepted and checked, and what this version lacks to act on them."""


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """The part of the environment that is meant for us: the known names, and whatever begins with C{TBEAST_}."""
    ours = {name: text for name, text in environ.items() if name in SETTINGS or name.startswith("TBEAST_")}
    return Layer("environment", ours)


def toml_layer(text: str, origin: str) -> Layer:
    """What a TOML file says.

    @param origin: how the file is to be called in a fault.
    @raise SettingsError: when it is not TOML.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{origin}: not TOML: {error}"]) from None
    lines: dict[str, int] = {}
    for place, line in enumerate(text.splitlines(), 1):
        found = re.match(r"""\s*(?:\[\[?\s*)?(["']?)([^\s"'=\[\].]+)\1\s*[=.\]]""", line)
        if found and found[2] in values:
            lines.setdefault(found[2], place)
    return Layer(origin, values, lines)


def load(layers: Sequence[Layer], faults_before: Sequence[str] = ()) -> Settings:
    """Lay the layers over one another, the later over the earlier, and check everything.

    @param faults_before: what went wrong already while the layers were gathered, to be told with the rest.
    @raise SettingsError: with every fault in every layer.
    """
    faults = list(faults_before)
    values: dict[str, Any] = {name: setting.default for name, setting in SETTINGS.items()}
    origins = dict.fromkeys(SETTINGS, DEFAULT)
    for layer in layers:
        here: dict[str, str] = {}
        for given, raw in layer.values.items():
            place = layer.place(given)
            setting = SETTINGS.get(given.upper())
            if setting is None:
                faults.append(_unknown(place, given))
            elif setting.name in here:
                faults.append(f"{place}: {given} is the same setting as {here[setting.name]}: set it once")
            elif not (isinstance(raw, str) and not raw.strip()):
                here[setting.name] = given
                try:
                    values[setting.name] = setting.kind.read(raw)
                except ValueError as error:
                    faults.append(_malformed(place, setting, raw, str(error)))
                origins[setting.name] = place
    # what could not be read keeps the value below it, so that one mistake is not told twice
    faults.extend(_impossible(values, origins))
    if faults:
        raise SettingsError(faults)
    addresses = {
        exchange: ExchangeAddress(
            values.pop(f"TBEAST_{exchange.upper()}_WS_URL"), values.pop(f"TBEAST_{exchange.upper()}_REST_URL")
        )
        for exchange in EXCHANGES
    }
    fields = {SETTINGS[name].attribute: value for name, value in values.items()}
    return Settings(exchange_addresses=addresses, origins=origins, **fields)


def shown(name: str, settings: Settings) -> str:
    """The value of the setting C{name} as text for people: empty if it has none, a secret masked."""
    setting = SETTINGS[name]
    exchange, _, which = setting.attribute.removesuffix("_url").rpartition("_")
    if exchange in settings.exchange_addresses:
        address = settings.exchange_addresses[exchange]
        return (address.websocket_url if which == "ws" else address.rest_url) or ""
    value = getattr(settings, setting.attribute)
    if name == "TBEAST_KEYS":
        return ", ".join(f"{key.name}:{key.tier}:***" for key in value)
    if value is None:
        return ""
    if setting.secret:
        return "***"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unknown(place: str, given: str) -> str:
    near = get_close_matches(given.upper(), SETTINGS, n=1, cutoff=0.75)
    advice = f"; did you mean {near[0]}?" if near else ""
    return f"{place}: {given}: there is no such setting{advice}"


def _malformed(place: str, setting: Setting, raw: object, why: str) -> str:
    if setting.secret or "@" in str(raw):  # a password may stand in any URL
        value = "(not shown)"
    else:
        text = repr(raw)
        value = text if len(text) <= 80 else f"{text[:77]}..."
    # the standard library's own words on addresses and networks say what is wrong with which of several
    detail = f"; {why}" if why and "invalid literal" not in why else ""
    return f"{place}: {setting.name} = {value}: must be {setting.kind.allowed}{detail}"


def _impossible(values: Mapping[str, Any], origins: Mapping[str, str]) -> Iterable[str]:
    def both(one: str, other: str) -> str:
        return f"{one} ({origins[one]}) and {other} ({origins[other]})"

    parts = SERVER_TYPES[values["SERVER_TYPE"]]
    for protocol, by_part in _PORTS.items():
        taken: dict[int, str] = {}
        for name in (name for part, names in by_part.items() if part in parts for name in names):
            port = values[name]
            if port and port in taken:
                yield f"{both(taken[port], name)}: both are {protocol} port {port}; give one of them another"
            taken.setdefault(port, name)
    for one, other in (("TBEAST_TLS_CERT", "TBEAST_TLS_KEY"), ("TBEAST_TLS_KEY", "TBEAST_TLS_CERT")):
        if values[one] is not None and values[other] is None:
            yield f"{one} ({origins[one]}): needs {other} as well"
    if values["TBEAST_FEEDS"] == LAB:
        for exchange in EXCHANGES:
            for name in (f"TBEAST_{exchange.upper()}_WS_URL", f"TBEAST_{exchange.upper()}_REST_URL"):
                if values[name] is not None:
                    yield f"{both('TBEAST_FEEDS', name)}: the lab has its own addresses; set one of the two"
