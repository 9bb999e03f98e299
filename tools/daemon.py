"""A daemon in a process of its own, on the lab's prices and free ports of loopback, for tools that need one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from attrs import define

LISTENERS = ("TCP_PORT_LPO", "TCP_PORT_LRS", "HEALTH_PORT_LPO", "HEALTH_PORT_LRS", "HEALTH_PORT_WEBHOOK")
DATAGRAMS = ("UDP_PORT_LPO", "UDP_PORT_LRS")
KEY = "a-key-for-this-test-alone"
STARTS_WITHIN_SECONDS = 60.0
STOPS_WITHIN_SECONDS = 30.0


class DaemonError(Exception):
    """The daemon did not do as it should; the message ends with what it wrote."""


def free_ports() -> dict[str, int]:
    """A port for each listener, free a moment ago."""
    with ExitStack() as held:
        ports = {}
        for names, kind in ((LISTENERS, socket.SOCK_STREAM), (DATAGRAMS, socket.SOCK_DGRAM)):
            for name in names:
                sock = held.enter_context(socket.socket(socket.AF_INET, kind))
                sock.bind(("127.0.0.1", 0))
                ports[name] = sock.getsockname()[1]
        return ports


@define
class Daemon:
    """A running daemon."""

    process: subprocess.Popen[bytes]
    ports: Mapping[str, int]
    output: IO[bytes]

    def wrote(self) -> str:
        """Everything that it has written so far."""
        self.output.seek(0)
        return self.output.read().decode("utf-8", "replace")

    def fail(self, why: str) -> DaemonError:
        """An exception that tells why, and what the daemon wrote."""
        return DaemonError(f"{why}; it wrote:\n{self.wrote()}")

    def get(self, listener: str, path: str) -> tuple[int, bytes]:
        """Ask one of its HTTP listeners; status 0 while nobody answers."""
        url = f"http://127.0.0.1:{self.ports[listener]}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {KEY}"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def wait_until_healthy(self) -> None:
        """Ask /health until it says 200."""
        deadline = time.monotonic() + STARTS_WITHIN_SECONDS
        status, body = 0, b""
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise self.fail(f"the daemon ended with status {self.process.returncode} while it started")
            status, body = self.get("HEALTH_PORT_LPO", "/health")
            if status == 200:
                return
            time.sleep(0.1)
        raise self.fail(f"/health still said {status} {body[:500]!r} after {STARTS_WITHIN_SECONDS:g} s")

    def stop(self) -> None:
        """End it by SIGTERM; Twisted's front ends end a process by the signal that stopped it.

        @raise DaemonError: when it does not end, or not in good order.
        """
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOPS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            raise self.fail(f"the daemon did not end within {STOPS_WITHIN_SECONDS:g} s of SIGTERM") from None
        if status not in (0, -signal.SIGTERM):
            raise self.fail(f"the daemon ended with status {status}")
        wrote = self.wrote()
        if "Traceback" in wrote or "Main loop terminated" not in wrote:
            raise self.fail("the daemon did not end in good order")


@contextmanager
def running(command: Sequence[str | Path], folder: Path) -> Iterator[Daemon]:
    """Start a daemon in C{folder}, and see to it that it is gone in the end."""
    ports = free_ports()
    settings = {
        **{name: str(port) for name, port in ports.items()},
        "SERVER_TYPE": "ALL_SERVER",
        "TBEAST_LISTEN": "127.0.0.1",
        "TBEAST_FEEDS": "lab",
        "TBEAST_KEYS": KEY,
        "TBEAST_STATE": str(folder / "state"),
    }
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "COVERAGE_PROCESS_START")
    environ = {name: os.environ[name] for name in kept if name in os.environ}
    with TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**environ, **settings}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            yield Daemon(process, ports, output)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
