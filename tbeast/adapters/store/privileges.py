"""Who PostgreSQL runs as when we are root, since it refuses to run as root itself.

The rule. It gets the owner of its folder, or C{nobody} when that is root; no groups; and no right beyond that, unless
its folder or its programs lie below a folder that this user may not enter (a home that is closed to others, a fresh
temporary folder). Then it keeps the one capability that opens such folders and nothing else: the folders above ours
are never touched.

That capability must outlive two things. An exec by a user other than root drops it unless it is an ambient one; and
access(2), by which PostgreSQL looks for its own programs, leaves capabilities out of account unless the securebit
NO_SETUID_FIXUP is set.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from tbeast.errors import StoreError

NOBODY: Final = 65534
"""The user id of C{nobody} where the system's list of users does not say."""

CAP_DAC_OVERRIDE: Final = 1
CAP_DAC_READ_SEARCH: Final = 2

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECUREBITS: Final = 28
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_CAPABILITY_VERSION_3: Final = 0x20080522

PROBE_SECONDS: Final = 10.0
RUN_SECONDS: Final = 120.0


@frozen
class Identity:
    """Who a child process is to be.

    @ivar user: user id; C{None}: who we are.
    @ivar capability: the one that it keeps; C{None}: none.
    """

    user: int | None = None
    group: int | None = None
    capability: int | None = None


def has_name(user: int) -> bool:
    """Whether the system knows a user by name; PostgreSQL makes no data for one that it does not."""
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def identity(folder: Path, program: Path) -> Identity:
    """Find out who is to run C{program} on C{folder}.

    @param folder: exists; what the program writes lies in it.
    @raise StoreError: when nobody can.
    """
    if os.geteuid() != 0:
        return Identity()
    stat = folder.stat()
    try:
        account = pwd.getpwuid(stat.st_uid) if stat.st_uid else pwd.getpwnam("nobody")
        plain = Identity(account.pw_uid, account.pw_gid)
    except KeyError:
        plain = Identity(stat.st_uid or NOBODY, stat.st_gid if stat.st_uid else NOBODY)
    if not stat.st_uid:
        assert plain.user is not None
        assert plain.group is not None
        try:
            os.chown(folder, plain.user, plain.group)
        except OSError as error:  # a root with few rights, or of a namespace that has no other user
            raise _nobody_can(f"{folder} cannot be given to user {plain.user} ({error.strerror})") from None
    for capability in (None, CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if sys.platform == "linux" else (None,):
        candidate = evolve(plain, capability=capability)
        if _works(candidate, folder, program):
            return candidate
    raise _nobody_can(f"user {plain.user} cannot reach both {folder} and {program}")


def _nobody_can(why: str) -> StoreError:
    return StoreError(
        f"PostgreSQL does not run as root, and {why}; start tbeast as a user other than root, or set TBEAST_STATE to a"
        " folder that everyone may enter, or set AURORA_URL to a PostgreSQL server"
    )


def _works(candidate: Identity, folder: Path, program: Path) -> bool:
    try:
        subprocess.run(
            # what it says is its name and version, if its libraries are found as well
            [str(program), "--version"], cwd="/", preexec_fn=lowering(candidate, folder),
            check=True, capture_output=True, timeout=PROBE_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def lowering(who: Identity, folder: Path, ends_with_us: int | None = None) -> Callable[[], None]:
    """What a child has to do between fork and exec.

    @param folder: where it is to stand afterwards.
    @param ends_with_us: the signal that it gets when we die (Linux); C{None}: none.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def lower() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if who.user is not None:
            assert who.group is not None
            if who.capability is not None:
                _prctl(libc, _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
            os.setgroups([])
            os.setgid(who.group)
            os.setuid(who.user)
            if who.capability is not None:
                _keep(libc, who.capability)
        if ends_with_us is not None and sys.platform == "linux":
            _prctl(libc, _PR_SET_PDEATHSIG, ends_with_us)
            if os.getppid() != parent:
                os._exit(1)
        os.umask(0o077)
        os.chdir(folder)

    return lower


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _keep(libc: ctypes.CDLL, capability: int) -> None:
    bit = 1 << capability
    sets = (_Sets * 2)(_Sets(bit, bit, bit), _Sets(0, 0, 0))
    if libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), ctypes.byref(sets)) != 0:
        _fail()
    _prctl(libc, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _prctl(libc: ctypes.CDLL, option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if libc.prctl(ctypes.c_int(option), *padded) != 0:
        _fail()


def _fail() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


_WHY: Final = re.compile(r"\b(?:error|ERROR|FATAL|PANIC):|\bcould not\b")


def run_as(who: Identity, folder: Path, command: Sequence[str], what: str, stdin: bytes = b"") -> str:
    """Run a program to its end.

    @param what: the beginning of a sentence that tells of its failure.
    @return: what it wrote.
    @raise StoreError: when it failed, with its last words.
    """
    try:
        done = subprocess.run(
            command, input=stdin, cwd="/", env=environment(), start_new_session=True,
            preexec_fn=lowering(who, folder, signal.SIGTERM), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise StoreError(f"{what}: {error}") from None
    said = done.stdout.decode("utf-8", "replace").strip()
    if not done.returncode:
        return said
    lines = said.splitlines()
    # initdb says why, and then for long what it was about and what it takes away again
    words = " / ".join(([line for line in lines if _WHY.search(line)] or lines)[-4:]) or f"status {done.returncode}"
    # initdb wants to know its user's name, although it is given another to use
    advice = "; start tbeast as a user who has an entry in /etc/passwd" if "look up effective user ID" in words else ""
    raise StoreError(f"{what}: {words}{advice}")


def environment() -> dict[str, str]:
    """What PostgreSQL is told of our environment: none of our secrets, and no PG* variable to lead it astray."""
    passed = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in passed if name in os.environ}}
