"""Attempts at having a request read in two ways: by a proxy and by what stands behind it, or by nobody as it was meant.

Whoever asks is known by his key and by the asset that he asks for. One client, with L{OWN}, tries something in the
middle of plain questions of his own; in it there may be a whole question for L{HIDDEN} where none is to be seen.
Others, with L{OTHER}, ask through the same door before, meanwhile and after it. What must hold, whatever was tried:

 - each of the others has exactly its own answers;
 - the one who tries has no answer to anybody else's question, and nothing that is no answer;
 - as many questions were answered behind the proxy as the proxy has passed on, and without a proxy as many as came
   back;
 - without a proxy, what is hidden is never answered.

A connection that was ended, a refusal and silence are all right.
"""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import frozen

from tbeast.adapters.store.postgres import connect, target
from tbeast.domain.keys import key_id_of
from tbeast.test.integration.attempts import HIDDEN, OWN, Attempt, ask, attempts
from tbeast.test.integration.crashes import Process, lab, start
from tbeast.test.integration.proxies import Kind, standing

HERE: Final = "127.0.0.1"
OTHER: Final = "ETH"

QUIET_SECONDS: Final = 0.25
"""Whoever has nothing to say for so long has nothing to say."""
PAUSE_SECONDS: Final = 0.01
ACCOUNTS_WITHIN_SECONDS: Final = 3.0
SETTLED_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 15.0


@frozen
class Finding:
    """What became of an attempt.

    @ivar said: what came back to it, in short.
    @ivar others: how many questions of the others were answered.
    @ivar faults: what must not be.
    """

    attempt: str
    door: str
    said: str
    others: int
    faults: Sequence[str]


@frozen
class Door:
    """A way to the daemon.

    @ivar passed: how many questions went in here, by its own account; C{None}: as many as answers came out.
    """

    name: str
    port: int
    passed: Callable[[], int] | None = None


@frozen
class Keys:
    """Who asks.

    @ivar own: the key of the one who tries.
    @ivar other: the key of the others.
    """

    own: str
    other: str


# How one is carried out.


def examine(attempt: Attempt, door: Door, keys: Keys, answered: Callable[[], int]) -> Finding:
    """Try something at a door.

    @param answered: how many questions the daemon has answered until now, by its own account.
    """
    faults: list[str] = []
    before, passed_before = answered(), door.passed() if door.passed is not None else 0
    heard, others = _carry_out(attempt, door, keys, faults)
    answers, rest = read_answers(heard)
    assets = {asset.decode() for asset in re.findall(rb'"asset":"(\w+)"', heard)}
    if strange := sorted(assets - {OWN, HIDDEN}):
        faults.append(f"it was told of {', '.join(strange)}")
    if rest and not attempt.is_old:
        faults.append(f"it was sent what is no answer: {rest[:60]!r}")
    if door.passed is None and attempt.hides and HIDDEN in assets:
        faults.append("what is hidden was answered")

    def asked() -> int:
        return len(answers) + others if door.passed is None else door.passed() - passed_before

    end = time.monotonic() + ACCOUNTS_WITHIN_SECONDS
    while answered() - before != asked() and time.monotonic() < end:
        time.sleep(0.01)
    if answered() - before != asked():
        faults.append(f"{answered() - before} questions were answered, and {asked()} were passed on")
    return Finding(attempt.name, door.name, " ".join(answers) or "nothing", others, faults)


def _carry_out(attempt: Attempt, door: Door, keys: Keys, faults: list[str]) -> tuple[bytes, int]:
    """Try it, with the others around it: what came back, and how many questions of the others were answered."""
    with ExitStack() as opened:
        first = opened.enter_context(_connected(door))
        others = _other(first, keys, "before it", faults)
        sock = opened.enter_context(_connected(door))
        heard = _send(sock, [ask(OWN, keys.own), *attempt.parts])
        time.sleep(PAUSE_SECONDS)  # until it was answered, and its connection behind the proxy is the next one's
        others += _other(first, keys, "meanwhile", faults)
        second = opened.enter_context(_connected(door))
        others += _other(second, keys, "meanwhile, as a new client", faults)
        if attempt.ends:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        else:
            heard += _send(sock, [ask(OWN, keys.own, "Connection: close")])
        heard += _read(sock)
        others += _other(first, keys, "behind it", faults)
        sock.close()
        others += _other(second, keys, "after it", faults)
        third = opened.enter_context(_connected(door))
        others += _other(third, keys, "after it, as a new client", faults)
    return heard, others


def _connected(door: Door) -> socket.socket:
    sock = socket.create_connection((HERE, door.port), PATIENCE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _other(sock: socket.socket, keys: Keys, when: str, faults: list[str]) -> int:
    """One of the others asks two questions, one behind the other; how many answers came."""
    count = 0
    for _ in range(2):
        heard = b""
        sock.settimeout(PATIENCE_SECONDS)
        try:
            sock.sendall(ask(OTHER, keys.other))
            while not (found := read_answers(heard))[0] or found[1]:
                more = sock.recv(65_536)
                if not more:
                    break
                heard += more
            # another answer than the one would be behind it
            sock.setblocking(False)
            with suppress(BlockingIOError):
                heard += sock.recv(65_536)
        except OSError as error:
            faults.append(f"{when}: another client had {error!r}")
            return count
        answers, rest = read_answers(heard)
        count += len(answers)
        assets = re.findall(rb'"asset":"(\w+)"', heard)
        if answers != ["200"] or rest or assets != [OTHER.encode()]:
            faults.append(f"{when}: another client was told {heard[:2000]!r}")
    return count


def _send(sock: socket.socket, parts: Sequence[bytes]) -> bytes:
    """Send parts with a moment between them, reading meanwhile; what came."""
    heard = b""
    for place, part in enumerate(parts):
        if place:
            time.sleep(PAUSE_SECONDS)
        left = memoryview(part)
        sock.setblocking(False)
        end = time.monotonic() + PATIENCE_SECONDS
        try:
            while left and time.monotonic() < end:
                with suppress(BlockingIOError):
                    left = left[sock.send(left) :]
                with suppress(BlockingIOError):
                    more = sock.recv(65_536)
                    if not more:
                        return heard
                    heard += more
        except OSError:
            break
    return heard


def _read(sock: socket.socket) -> bytes:
    """All that comes, until the end, or until nothing comes any more."""
    heard = b""
    sock.settimeout(QUIET_SECONDS)
    with suppress(OSError):
        while more := sock.recv(65_536):
            heard += more
    return heard


_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def read_answers(heard: bytes) -> tuple[list[str], bytes]:
    """The statuses of the whole answers in this text, but for those that only say "go on", and what is left of it."""
    answers: list[str] = []
    while heard.startswith(b"HTTP/1."):
        head, found, rest = heard.partition(b"\r\n\r\n")
        if not found:
            break
        status = head[9:12].decode("latin-1")
        length = _LENGTH.search(head + b"\r\n")
        if status == "100":
            heard = rest
            continue
        if rest.startswith(b"HTTP/1.") or status == "204":
            heard = rest  # the answer to a HEAD
        elif length is None:
            heard = b""  # to the end
        elif len(rest) < int(length[1]):
            if not rest:
                heard = b""  # to a HEAD, the last one
            else:
                break
        else:
            heard = rest[int(length[1]) :]
        answers.append(status)
    return answers, heard


# The doors of a daemon.


@contextmanager
def doors(port: int, folder: Path, programs: Iterable[tuple[Kind, Path]]) -> Iterator[list[Door]]:
    """Put each of these proxies before a port, strictly and laxly; the first door is the port itself."""
    with ExitStack() as stack:
        found = [Door("direct", port)]
        for number, (kind, program) in enumerate(programs):
            for lax in (False, True):
                place = folder / f"{kind.name}{number}{'lax' if lax else ''}"
                proxy = stack.enter_context(standing(kind, program, port, lax, place))
                found.append(Door(proxy.name, proxy.port, proxy.passed))
        yield found


def answered_by(daemon: Process) -> int:
    """How many questions over HTTP a daemon has answered, by its metrics."""
    url = f"http://{HERE}:{daemon.ports['HEALTH_PORT_LPO']}/metrics"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=PATIENCE_SECONDS) as answer:
        text = answer.read().decode()
    lines = re.findall(r"^tbeast_requests_total\{(.*)\} (\S+)$", text, re.MULTILINE)
    return sum(
        int(float(count)) for labels, count in lines if 'service="lpo"' in labels and 'protocol="http"' in labels
    )


def wait_for_prices(daemon: Process, key: str, seconds: float = 60.0) -> None:
    """Wait until a daemon has a price for all that is asked for.

    @raise AssertionError: when it has not within so long.
    """
    end = time.monotonic() + seconds
    for asset in (OWN, HIDDEN, OTHER):
        while True:
            with socket.create_connection((HERE, daemon.ports["TCP_PORT_LPO"]), PATIENCE_SECONDS) as sock:
                sock.sendall(ask(asset, key, "Connection: close"))
                if read_answers(_read(sock))[0] == ["200"]:
                    break
            if time.monotonic() > end:
                raise AssertionError(f"no price of {asset} within {seconds:g} s")
            time.sleep(0.1)


def recorded(database: str) -> dict[tuple[str, str, int], int]:
    """What the database knows of questions over HTTP: how many by key id, asset and status."""
    connection = connect(target(database))
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT key_id, asset, status, sum(request_count)::bigint FROM usage_logs"
                " WHERE service = 'lpo' AND protocol = 'http' GROUP BY key_id, asset, status"
            )
            return {(key_id, asset, status): count for key_id, asset, status, count in cursor.fetchall()}
    finally:
        connection.close()


def misrecorded(database: str, keys: Keys, findings: Iterable[Finding], answered: int) -> list[str]:
    """What is wrong in the database, when the daemon has ended: a line each.

    @param answered: how many questions it has answered, by its own account.
    """
    rows = recorded(database)
    faults = []
    if sum(rows.values()) != answered:
        faults.append(f"{sum(rows.values())} questions are in the ledger, and {answered} were answered")
    others = {
        (asset, status): count for (key_id, asset, status), count in rows.items() if key_id == key_id_of(keys.other)
    }
    wanted = {(OTHER, 200): sum(finding.others for finding in findings)}
    if others != wanted:
        faults.append(f"of the others the ledger has {others}, and they have heard {wanted}")
    return faults


@frozen
class Outcome:
    """What was found at all doors of a daemon.

    @ivar findings: attempt by attempt and door by door.
    @ivar faults: what must not be, a line each; of the ledger and the log, too.
    """

    findings: list[Finding]
    faults: list[str]


def _wait_until_told(answered: Callable[[], int]) -> None:
    """Wait until all that was answered before is counted: of several processes each tells of it a moment later."""
    before, since = answered(), time.monotonic()
    while time.monotonic() - since < SETTLED_SECONDS:
        time.sleep(0.05)
        now = answered()
        if now != before:
            before, since = now, time.monotonic()


def examine_daemon(
    folder: Path,
    database: str,
    programs: Iterable[tuple[Kind, Path]],
    shown: Callable[[Finding], object] = lambda finding: None,
    **settings: str,
) -> Outcome:
    """Start a daemon, try everything at every door of it, and read its ledger when it has ended.

    @param database: the URL of an empty one.
    @param programs: of the proxies to be put before it.
    @param shown: told of each finding.
    """
    findings: list[Finding] = []
    keys = Keys("the-key-of-the-one-who-tries", "the-key-of-all-the-others")
    with lab() as addresses:
        said = {"AURORA_URL": database, "TBEAST_KEYS": f"{keys.own},{keys.other}", **settings}
        daemon = start(folder, {**addresses, **said})
        try:
            daemon.wait_until_ready()
            wait_for_prices(daemon, keys.own)
            _wait_until_told(lambda: answered_by(daemon))
            with doors(daemon.ports["TCP_PORT_LPO"], folder / "doors", programs) as ways:
                for door in ways:
                    for attempt in attempts(keys.own):
                        findings.append(examine(attempt, door, keys, lambda: answered_by(daemon)))
                        shown(findings[-1])
            answered = answered_by(daemon)
            daemon.stop()
        finally:
            if daemon.process.poll() is None:
                daemon.kill()
    faults = [f"{one.door}: {one.attempt}: {fault}" for one in findings for fault in one.faults]
    faults += misrecorded(database, keys, findings, answered)
    daemon.output.seek(0)
    wrote = daemon.output.read().decode(errors="replace")
    daemon.output.close()
    if "Traceback" in wrote:
        faults.append(f"the daemon has logged a mistake: {wrote[wrote.index('Traceback') :][:2000]}")
    return Outcome(findings, faults)
