"""Who is measured: the daemon in several forms, the same job in Go, and the limits of the two protocols.

Each is started on its cores and free ports of loopback, and is ready when it answers the first key's question with 200.
All know the same keys, each with a bucket and a quota so large that everything is counted and nothing is refused.
"""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path

from askers import BUILT, PEERS, FailedError, MissingError, Spent, compiled
from attrs import define, field, frozen
from cores import Cores, kept_to
from outcomes import ROOT
from psycopg2.extras import execute_values

import tbeast
from tbeast.adapters.store.embedded import running as embedded_of
from tbeast.adapters.store.postgres import Connection, connect
from tbeast.domain.keys import datagram_secret_of, digest_of, key_id_of, make_key
from tbeast.errors import SettingsError
from tbeast.settings import Layer, load
from tbeast.testing.daemonports import free_ports

HTTP, UDP = "http", "udp"
NATIVE = "tbeast.native._lanes"
ASSETS = Path(tbeast.__file__).parent / "data" / "assets.csv"
WORKERS = 2
READY_SECONDS = 60.0
QUIET_SECONDS = 1.0
LOOK_SECONDS = 0.3  # longer than anything is on its way from a worker to the database
"""What the daemon has to itself after its start."""
STOP_SECONDS = 30.0
SETTLE_SECONDS = 30.0
"""Within so long the daemon has recorded what it answered."""

PORTS = ("TCP_PORT_LPO", "UDP_PORT_LPO", "HEALTH_PORT_LPO", "TCP_PORT_LRS", "HEALTH_PORT_LRS", "UDP_PORT_LRS")
BODY = (
    '{"asset":"BTC","price":83430.775,"timestamp":"2026-11-22T12:25:05.457855Z","source":"median","cached":true,'
    '"cache_age_seconds":0.262,"latency_ms":0,"duration_ms":0,"quote":"USD","quality":"good","sources_used":6,'
    '"sources_seen":6,"spread_bp":2.68,"bid":83429.59,"ask":83431.85,"simulated":true}'
)
"""What the limits answer: an answer of the daemon's."""
QUOTA, QPS, BURST = 10**12, 1e7, 10**7


@frozen
class Bench:
    """What all contenders of a run share.

    @ivar folder: for what they write; it is gone in the end.
    @ivar keys: the keys, of which the first is the one that C{first_key} holds alone.
    @ivar assets: the codes of the daemon's assets, BTC first.
    @ivar workers: of the daemon that has several.
    """

    folder: Path
    cores: Cores
    keys: tuple[str, ...] = field(repr=False)
    assets: tuple[str, ...]
    workers: int

    def words(self, name: str, count: int) -> Path:
        """A file with the first so many C{keys} or C{assets}."""
        path = self.folder / f"{name}-{count}"
        if not path.exists():
            path.write_text("".join(f"{word}\n" for word in getattr(self, name)[:count]))
        return path


@contextmanager
def bench(cores: Cores, keys: int, workers: int = WORKERS) -> Iterator[Bench]:
    """A place for a run with so many keys."""
    with ASSETS.open(encoding="utf-8") as rows:
        assets = [row["asset"] for row in csv.DictReader(rows)]
    assets.sort(key=lambda code: code != "BTC")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that what was begun is put away
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Bench(Path(folder), cores, tuple(make_key(os.urandom) for _ in range(keys)), tuple(assets), workers)


@define
class Running:
    """A server that has its turn.

    @ivar ports: by protocol.
    @ivar cores: those of the servers and of the askers.
    @ivar recorded: how many questions it has recorded so far; C{None}: it records nothing that could be counted.
    """

    process: subprocess.Popen[bytes]
    ports: Mapping[str, int]
    cores: Sequence[int]
    recorded: Callable[[], int] | None = None

    def spent(self) -> Spent:
        """Processor time so far, of it and on the cores of this run."""
        parents: dict[int, int] = {}
        spent: dict[int, float] = {}
        aside = set()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                name, _, rest = (path / "stat").read_text().partition("(")[2].rpartition(")")
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            fields, number = rest.split(), int(path.name)
            parents[number] = int(fields[1])
            spent[number] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            if name.startswith("postgres") or {b"tbeast.lab", b"tbeast.adapters.store.keeper"} & set(words):
                aside.add(number)
        whole = serving = 0.0
        for number, seconds in spent.items():
            line = [number]
            while line[-1] in parents and line[-1] != self.process.pid:
                line.append(parents[line[-1]])
            if line[-1] == self.process.pid:
                whole += seconds
                serving += 0.0 if aside & set(line) else seconds
        return Spent(time.monotonic(), whole, serving, _busy_seconds(self.cores), len(self.cores))


def _busy_seconds(cores: Sequence[int]) -> float:
    """For how long these cores have worked for any program, or were kept from us by the machine's host."""
    total = 0.0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in {f"cpu{core}" for core in cores}:
            total += sum(int(fields[place]) for place in (0, 1, 2, 7)) / os.sysconf("SC_CLK_TCK")
    return total


@frozen
class Contender:
    """Somebody to be measured.

    @ivar name: in options and in the JSON.
    @ivar title: in tables and plots.
    @ivar protocols: what it speaks.
    @ivar start: starts it, and stops it in the end.
    @ivar why_not: why it cannot take part on this machine; empty if it can.
    """

    name: str
    title: str
    protocols: tuple[str, ...]
    start: Callable[[Bench], Iterator[Running]]
    why_not: Callable[[], str]


@contextmanager
def started(contender: Contender, bench: Bench) -> Iterator[Running]:
    """Run a contender, until it is ready and to its end."""
    with contextmanager(contender.start)(bench) as running:
        _wait_until_ready(contender, running, bench)
        yield running


@contextmanager
def _process(command: Sequence[str | Path], bench: Bench, name: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("TBEAST_")}
    environ |= {"PYTHONPATH": str(ROOT), **more}
    with (bench.folder / f"{name}.log").open("wb") as output:
        process = subprocess.Popen(
            kept_to(bench.cores.servers, command), env=environ, cwd=bench.folder, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its session is its own
                process.wait()


def _answers(running: Running, bench: Bench) -> bool:
    if HTTP in running.ports:
        request = urllib.request.Request(
            f"http://127.0.0.1:{running.ports[HTTP]}/price?asset=BTC",
            headers={"Authorization": f"Bearer {bench.keys[0]}"},
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # a refusal is one as well
            return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(("127.0.0.1", running.ports[UDP]))
            sock.send(f"{bench.keys[0]}|BTC".encode())
            return sock.recv(2048).startswith(b'{"asset":"BTC"')
        except OSError:
            return False


def _wait_until_ready(contender: Contender, running: Running, bench: Bench) -> None:
    until = time.monotonic() + READY_SECONDS
    while not _answers(running, bench):
        if running.process.poll() is not None or time.monotonic() > until:
            said = "".join(path.read_text(errors="replace")[-3000:] for path in sorted(bench.folder.glob("*.log")))
            how = "does not answer" if running.process.poll() is None else "ended"
            raise FailedError(f"{contender.title} {how}; it wrote:\n{said}")
        time.sleep(0.1)


# The daemon.


def _connected(state: Path) -> Connection:
    there = embedded_of(state)
    if there is None:
        raise FailedError("the daemon's database is not there")
    return connect(there)


def _insert_keys(bench: Bench, state: Path) -> None:
    rows = [
        (key_id_of(key), digest_of(key.encode()), datagram_secret_of(key.encode()), f"bench {place}", "enterprise",
         QUOTA, QPS, BURST, 0.0)
        for place, key in enumerate(bench.keys)
    ]  # fmt: skip
    columns = (
        "key_id, key_hash, datagram_secret, name, tier, query_limit, rate_limit_qps, burst_limit, minimum_wait_seconds"
    )
    connection = _connected(state)
    try:
        with connection.cursor() as cursor:
            execute_values(cursor, f"INSERT INTO api_keys ({columns}) VALUES %s", rows, page_size=1000)
        connection.commit()
    finally:
        connection.close()


def _recorded(bench: Bench, state: Path, health: int) -> int:
    """How many questions stand in the table, once the daemon has nothing left to write, and no worker either."""
    until = time.monotonic() + SETTLE_SECONDS
    connection = _connected(state)
    connection.autocommit = True
    try:
        before = -1
        with connection.cursor() as cursor:
            while True:
                time.sleep(LOOK_SECONDS)
                waiting = _waiting(health)
                cursor.execute("SELECT coalesce(sum(request_count), 0) FROM usage_logs")
                now = int(cursor.fetchone()[0])
                if (not waiting and now == before) or time.monotonic() > until:
                    return now
                before = now
    finally:
        connection.close()


def _waiting(health: int) -> float:
    """What waits in the daemon, in the ledger or in the journal."""
    with urllib.request.urlopen(f"http://127.0.0.1:{health}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.split()[1])
        for line in lines
        if line.startswith(("tbeast_usage_waiting_rows ", "tbeast_usage_spooled_batches "))
    )


def _why_no_native_parts() -> str:
    try:
        import_module(NATIVE)
    except ImportError as error:
        return f"its native parts are not built for this Python ({error})"
    return ""


def _daemon(name: str, title: str, settings: Callable[[int], Mapping[str, str]], needs_native: bool) -> Contender:
    def start(bench: Bench) -> Iterator[Running]:
        ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        with tempfile.TemporaryDirectory(dir=bench.folder) as state:
            said = {**ports, "TBEAST_STATE": state, "TBEAST_LISTEN": "127.0.0.1", "TBEAST_FEEDS": "lab"}
            command = (sys.executable, "-m", "twisted", "--log-format=text", "tbeast")
            with _process(command, bench, "tbeast", **said, **settings(bench.workers)) as process:
                _wait_for_all_assets(int(ports["HEALTH_PORT_LPO"]), process, bench)
                _insert_keys(bench, Path(state))
                time.sleep(QUIET_SECONDS)
                health = int(ports["HEALTH_PORT_LPO"])
                protocols = {HTTP: int(ports["TCP_PORT_LPO"]), UDP: int(ports["UDP_PORT_LPO"])}
                yield Running(process, protocols, bench.cores.all, lambda: _recorded(bench, Path(state), health))

    def why_not() -> str:
        try:
            load([Layer("this benchmark", settings(WORKERS))])
        except SettingsError as error:
            return f"this version does not know it ({error})"
        return _why_no_native_parts() if needs_native else ""

    return Contender(name, title, (HTTP, UDP), start, why_not)


def _wait_for_all_assets(port: int, process: subprocess.Popen[bytes], bench: Bench) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise FailedError(f"tbeast is not ready; it wrote:\n{(bench.folder / 'tbeast.log').read_text()[-3000:]}")


# The others.


@cache
def _go() -> Path:
    if shutil.which("go") is None:
        raise MissingError("go")
    BUILT.mkdir(parents=True, exist_ok=True)
    built = BUILT / "priceserver"
    environ = {**os.environ, "GO111MODULE": "off", "GOCACHE": str(BUILT / "gocache"), "GOFLAGS": ""}
    subprocess.run(["go", "build", "-o", built, PEERS / "priceserver.go"], check=True, env=environ)
    return built


def _start_go(bench: Bench) -> Iterator[Running]:
    http, udp = free_ports(2)
    keys, assets = bench.words("keys", len(bench.keys)), bench.words("assets", len(bench.assets))
    command = (_go(), str(http), str(udp), keys, assets)
    with _process(command, bench, "go", GOMAXPROCS=str(len(bench.cores.servers))) as process:
        yield Running(process, {HTTP: http, UDP: udp}, bench.cores.all)


def _nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingError("nginx")
    return found


def _start_nginx(bench: Bench) -> Iterator[Running]:
    (port,) = free_ports(1)
    filled = {"FOLDER": str(bench.folder), "PORT": str(port), "BODY": BODY, "CORES": str(len(bench.cores.servers))}
    text = (PEERS / "nginx.conf").read_text()
    for name, value in filled.items():
        text = text.replace(f"@{name}@", value)
    config = bench.folder / "nginx.conf"
    config.write_text(text)
    with _process((_nginx(), "-e", "stderr", "-c", config), bench, "nginx") as process:
        yield Running(process, {HTTP: port}, bench.cores.all)


def _start_fixed(bench: Bench) -> Iterator[Running]:
    (port,) = free_ports(1)
    body = bench.folder / "body"
    body.write_text(BODY)
    command = (compiled("udpfixed"), str(port), body, str(len(bench.cores.servers)))
    with _process(command, bench, "c") as process:
        yield Running(process, {UDP: port}, bench.cores.all)


def _unless(find: Callable[[], object]) -> Callable[[], str]:
    """Why what C{find} looks for is not there."""

    def why_not() -> str:
        try:
            find()
        except MissingError as missing:
            return f"{missing} is not installed"
        except subprocess.CalledProcessError as error:
            return f"it could not be built ({error})"
        return ""

    return why_not


CONTENDERS: Mapping[str, Contender] = {
    each.name: each
    for each in (
        _daemon("native", "tbeast", lambda _: {}, needs_native=True),
        _daemon("python", "tbeast, pure Python", lambda _: {"TBEAST_NATIVE": "off"}, needs_native=False),
        _daemon("workers", "tbeast, with workers", lambda count: {"TBEAST_WORKERS": str(count)}, needs_native=False),
        Contender("go", "Go, the same job", (HTTP, UDP), _start_go, _unless(_go)),
        Contender("nginx", "nginx, fixed body", (HTTP,), _start_nginx, _unless(_nginx)),
        Contender("c", "C, fixed body", (UDP,), _start_fixed, _unless(lambda: compiled("udpfixed"))),
    )
}
"""By name. Those from C{go} on are what the daemon is compared with."""
PEER = "go"
LIMITS = {HTTP: "nginx", UDP: "c"}


def able(names: Sequence[str], say: Callable[[str], None]) -> list[Contender]:
    """Those of the named that can take part; of the others it is said why not."""
    found = []
    for name in names:
        why = CONTENDERS[name].why_not()
        if why:
            say(f"left out: {CONTENDERS[name].title}: {why}")
        else:
            found.append(CONTENDERS[name])
    return found
