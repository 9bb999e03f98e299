"""The memory that we may use, as control groups tell it; the machine has more than any of these."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.memorylimit import GROUP_FILES, OWN_GROUP, memory_limit

MIB = 2**20


class MemoryLimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp())

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def test_without_a_limit_it_is_the_machine(self) -> None:
        whole = memory_limit(self.root)
        assert whole is not None
        self.assertGreater(whole, 64 * MIB)
        for name, text in zip(GROUP_FILES, ("max\n", "9223372036854771712\n"), strict=True):
            self.write(name, text)
            self.assertEqual(whole, memory_limit(self.root))

    def test_either_version(self) -> None:
        for name in GROUP_FILES:
            self.write(name, f"{32 * MIB}\n")
            self.assertEqual(32 * MIB, memory_limit(self.root))
            (self.root / name).unlink()

    def test_the_own_group_and_those_around_it(self) -> None:
        """As under systemd: what holds for a slice holds for the service in it."""
        self.write(OWN_GROUP, "0::/system.slice/tbeast.service\n")
        self.write("sys/fs/cgroup/system.slice/tbeast.service/memory.max", "max\n")
        self.write("sys/fs/cgroup/system.slice/memory.max", f"{48 * MIB}\n")
        self.assertEqual(48 * MIB, memory_limit(self.root))
        self.write("sys/fs/cgroup/system.slice/tbeast.service/memory.max", f"{16 * MIB}\n")
        self.assertEqual(16 * MIB, memory_limit(self.root))

    def test_nonsense_is_no_limit(self) -> None:
        whole = memory_limit(self.root)
        self.write(OWN_GROUP, "rubbish\n7:memory:/old\n0::/\n")
        self.write(GROUP_FILES[0], "-5\n")
        self.assertEqual(whole, memory_limit(self.root))
