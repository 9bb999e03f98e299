"""Macs that several workers share: each is answered by one of them, once."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.hub import spentmacs
from tbeast.adapters.hub.shared import make_memory, mapped
from tbeast.adapters.hub.spentmacs import BYTES, PROBES, SharedSpentMacs
from tbeast.codecs.signatures import VALID_MS, SpentMacs, mac_of

NOON = 1_776_003_781.0
NOON_MS = int(NOON * 1000)


def mac(number: int) -> bytes:
    return mac_of(b"secret", b"%d" % number)


class SharedSpentMacsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.descriptor = make_memory(BYTES)
        self.addCleanup(os.close, self.descriptor)
        self.one, self.other = self.worker(1), self.worker(2)

    def worker(self, number: int) -> SharedSpentMacs:
        macs = SharedSpentMacs(mapped(self.descriptor, BYTES, True), self.descriptor, number)
        macs.is_timely(NOON_MS, NOON)
        return macs

    def test_answered_once(self) -> None:
        self.assertFalse(self.one.is_spent(NOON_MS, mac(1)))
        self.assertFalse(self.one.is_full)
        self.one.remember(NOON_MS, mac(1))
        for worker in (self.one, self.other):
            self.assertTrue(worker.is_spent(NOON_MS, mac(1)))
        self.assertFalse(self.other.is_spent(NOON_MS, mac(2)))

    def test_who_looks_first_has_it(self) -> None:
        """And may be asked again, as it was refused; the others would be too late."""
        self.assertFalse(self.one.is_spent(NOON_MS, mac(1)))
        self.assertTrue(self.other.is_spent(NOON_MS, mac(1)))
        self.assertFalse(self.one.is_spent(NOON_MS, mac(1)))
        self.other.remember(NOON_MS, mac(1))
        self.assertFalse(self.one.is_spent(NOON_MS, mac(1)))
        self.one.remember(NOON_MS, mac(1))
        self.assertTrue(self.one.is_spent(NOON_MS, mac(1)))

    def test_room_is_used_again(self) -> None:
        """When what lay there can be answered no more."""
        self.patch(spentmacs, "_first", lambda raw: 0)
        for number in range(PROBES):
            self.assertFalse(self.one.is_spent(NOON_MS, mac(number)))
            self.assertFalse(self.one.is_full)
            self.one.remember(NOON_MS, mac(number))
        self.assertEqual(PROBES, len(self.one))
        self.assertFalse(self.one.is_spent(NOON_MS, mac(PROBES)))
        self.assertTrue(self.one.is_full)
        later_ms = NOON_MS + VALID_MS + 1
        self.one.is_timely(later_ms, later_ms / 1000)
        self.assertFalse(self.one.is_spent(later_ms, mac(PROBES)))
        self.assertFalse(self.one.is_full)
        self.one.remember(later_ms, mac(PROBES))
        self.assertTrue(self.other.is_spent(later_ms, mac(PROBES)))
        self.assertEqual(PROBES, len(self.one))

    def test_the_last_slot(self) -> None:
        self.patch(spentmacs, "_first", lambda raw: spentmacs.SLOTS - 1)
        for number in range(PROBES):
            self.one.is_spent(NOON_MS, mac(number))
        self.assertTrue(self.other.is_spent(NOON_MS, mac(PROBES - 1)))

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.booleans()), max_size=30))
    def test_as_one_worker_alone(self, asked: list[tuple[int, int, bool]]) -> None:
        """Whoever is asked, what was answered is never answered again, and one's own refusals do not spend."""
        memory = make_memory(BYTES)
        self.addCleanup(os.close, memory)
        workers = [SharedSpentMacs(mapped(memory, BYTES, True), memory, number) for number in (1, 2)]
        alone, owner = SpentMacs(), dict[int, int]()
        for number, place, is_admitted in asked:
            spent = workers[place].is_spent(NOON_MS, mac(number))
            is_anothers = owner.setdefault(number, place) != place
            self.assertEqual(alone.is_spent(NOON_MS, mac(number)) or is_anothers, spent)
            if is_admitted and not spent:
                for macs in (workers[place], alone):
                    macs.remember(NOON_MS, mac(number))

    def test_a_lock_that_is_held(self) -> None:
        """Is not waited for: what cannot be looked up is not answered. It goes with the process that had it."""
        holding = "import fcntl, sys; fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
        holder = subprocess.Popen(
            [sys.executable, "-c", holding, str(self.descriptor)], pass_fds=[self.descriptor],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert holder.stdin is not None and holder.stdout is not None
        try:
            holder.stdout.readline()
            self.assertTrue(self.one.is_spent(NOON_MS, mac(1)))
        finally:
            holder.kill()
            holder.wait()
            holder.stdin.close()
            holder.stdout.close()
        self.assertFalse(self.one.is_spent(NOON_MS, mac(1)))
