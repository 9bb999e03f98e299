"""Daemons that are killed under load, and what of their metering is lost; benchmarks/crashes.py kills many.

A daemon answers questions over UDP and HTTP and is ended by SIGKILL at a random moment; the next one starts on the same
state folder. The client notes when each answer came. Each life has a key of its own, so that in the end, when a last
daemon has written everything that was left, the database tells for each life how many questions were recorded.

What a life has lost is told as a time: so long before its end came the earliest answers that are not recorded.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import IO, Any

from attrs import define, frozen

from tbeast.adapters.store.postgres import connect, target
from tbeast.domain.keys import key_id_of
from tbeast.test.integration.daemons import WORKERS
from tbeast.testing.daemonports import free_ports

PORTS = ("TCP_PORT_LPO", "HEALTH_PORT_LPO", "TCP_PORT_LRS", "HEALTH_PORT_LRS", "UDP_PORT_LPO", "UDP_PORT_LRS")
CONNECTIONS = 4
IN_FLIGHT = 8
"""How many questions over UDP wait for their answers at a time."""
ASSETS = ("BTC", "ETH", "SOL", "DOGE", "XRP", "NOPE")


@frozen
class Life:
    """What became of one daemon.

    @ivar key_id: whose questions it answered.
    @ivar answered: when each answer came, before its end, in seconds.
    @ivar recorded: how many of its answers the database knows.
    """

    key_id: str
    answered: Sequence[float]
    recorded: int

    @property
    def lost(self) -> int:
        """Answers that are not recorded."""
        return max(len(self.answered) - self.recorded, 0)

    @property
    def lost_ms(self) -> float:
        """How long before the end the earliest answers came that are not recorded."""
        return 1e3 * sorted(self.answered)[self.lost - 1] if self.lost else 0.0


@define
class Process:
    """A daemon in a process of its own."""

    process: subprocess.Popen[bytes]
    ports: Mapping[str, int]
    output: IO[bytes]

    def ready(self) -> bool:
        """Whether it answers that it is."""
        url = f"http://127.0.0.1:{self.ports['HEALTH_PORT_LPO']}/ready"
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_until_ready(self, seconds: float = 60.0) -> None:
        """Wait for that.

        @raise AssertionError: when it ends or takes too long.
        """
        deadline = time.monotonic() + seconds
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.output.seek(0)
                raise AssertionError("the daemon is not ready:\n" + self.output.read()[-8000:].decode(errors="replace"))
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait for its end in good order."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextmanager
def lab() -> Iterator[Mapping[str, str]]:
    """Run a lab; gives the settings that lead a daemon to it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tbeast.lab", "--parent"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        announced = json.loads(process.stdout.readline())
        yield {
            f"TBEAST_{name.upper()}_{which.upper()}_URL": address[f"{which}_url"]
            for name, address in announced["exchanges"].items()
            for which in ("ws", "rest")
        }
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def start(folder: Path, settings: Mapping[str, str]) -> Process:
    """Start a daemon with C{folder} as its place."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    kept = {name: text for name, text in os.environ.items() if not name.startswith("TBEAST_")}
    environ = {
        **kept, **{name: str(port) for name, port in ports.items()}, "SERVER_TYPE": "APP_SERVER",
        "TBEAST_LISTEN": "127.0.0.1", "TBEAST_STATE": str(folder / "state"), "CLUSTER_NODE": "crash",
        "TBEAST_WORKERS": WORKERS, **settings,
    }  # fmt: skip
    output = (folder / "daemon.log").open("w+b")
    process = subprocess.Popen(
        [sys.executable, "-m", "twisted", "--log-format=text", "tbeast"], cwd=folder, env=environ,
        stdin=subprocess.DEVNULL, stdout=output, stderr=output,
    )  # fmt: skip
    return Process(process, ports, output)


def load(daemon: Process, key: str, seconds: float) -> list[float]:
    """Ask over UDP and HTTP without a pause, and kill the daemon after so long.

    @return: for each answer, how long before the daemon's end it came.

    What had been sent by the daemon before its end, and was read after it, counts as well.
    """
    came: list[float] = []
    with ExitStack() as opened:
        selector = opened.enter_context(selectors.DefaultSelector())
        datagrams = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.connect(("127.0.0.1", daemon.ports["UDP_PORT_LPO"]))
        datagrams.setblocking(False)
        selector.register(datagrams, selectors.EVENT_READ)
        partial: dict[socket.socket, bytes] = {}
        asked = 0

        def ask(sock: socket.socket) -> None:
            nonlocal asked
            asked += 1
            asset = ASSETS[asked % len(ASSETS)]
            try:
                if sock is datagrams:
                    # padded, so that a refusal is no longer than the question and is answered too
                    sock.send(f'{{"api_key":"{key}","asset":"{asset}","pad":"{"x" * 40}"}}'.encode())
                else:
                    sock.send(f"GET /price?asset={asset} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n".encode())
            except OSError:
                pass

        for _ in range(CONNECTIONS):
            sock = opened.enter_context(socket.create_connection(("127.0.0.1", daemon.ports["TCP_PORT_LPO"])))
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
            partial[sock] = b""
            ask(sock)
        for _ in range(IN_FLIGHT):
            ask(datagrams)
        end, killed = time.monotonic() + seconds, False
        while True:
            if not killed and time.monotonic() >= end:
                os.kill(daemon.process.pid, signal.SIGKILL)
                end, killed = time.monotonic(), True
            events = selector.select(0.0 if killed else max(0.0, end - time.monotonic()))
            if killed and not events:
                break
            for event, _ in events:
                heard: Any = event.fileobj
                try:
                    data = heard.recv(65536)
                except OSError:
                    data = b""
                if not data:
                    selector.unregister(heard)
                    continue
                now = time.monotonic()
                if heard is datagrams:
                    came.append(now)
                else:
                    answers, partial[heard] = whole_answers(partial[heard] + data)
                    came += [now] * answers
                    if not answers:
                        continue
                if not killed:
                    ask(heard)
    daemon.process.wait()
    return [max(end - at, 0.0) for at in came]


def whole_answers(data: bytes) -> tuple[int, bytes]:
    """How many whole HTTP answers these bytes hold, and what is left of them."""
    count = 0
    while True:
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            return count, data
        length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))[15:])
        if len(rest) < length:
            return count, data
        count, data = count + 1, rest[length:]


def recorded(database: str) -> dict[str, int]:
    """How many questions of each key the database knows."""
    connection = connect(target(database))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT key_id, sum(request_count)::bigint FROM usage_logs GROUP BY key_id")
            return dict(cursor.fetchall())
    finally:
        connection.close()


def trial(
    folder: Path,
    database: str,
    kills: int,
    random: Random,
    longest_seconds: float = 2.0,
    shown: Callable[[int], object] = lambda number: None,
    **settings: str,
) -> list[Life]:
    """Kill so many daemons, one after the other, each at a random moment within so long after it was ready.

    @param shown: told after each how many were killed.
    """
    lives: list[tuple[str, list[float]]] = []
    with lab() as addresses:
        common = {**addresses, "AURORA_URL": database, **settings}
        for number in range(kills):
            key = f"crash-{number}-{random.randrange(10**12):012d}"
            daemon = start(folder, {**common, "TBEAST_KEYS": key})
            try:
                daemon.wait_until_ready()
                lives.append((key_id_of(key), load(daemon, key, random.uniform(0.05, longest_seconds))))
            finally:
                if daemon.process.poll() is None:
                    daemon.kill()
                daemon.output.close()
            shown(number + 1)
        last = start(folder, common)
        try:
            last.wait_until_ready()
            last.stop()
        finally:
            if last.process.poll() is None:
                last.kill()
            last.output.close()
    found = recorded(database)
    return [Life(key_id, answered, found.get(key_id, 0)) for key_id, answered in lives]
