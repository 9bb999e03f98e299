"""What is asked of the machine."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest import machine


class MachineTests(SynchronousTestCase):
    def test_room_on_loopback_and_elsewhere(self) -> None:
        path = Path(self.mktemp())
        path.write_text("40000\t49999\n")
        self.patch(machine, "PORT_RANGE", path)
        here, there = machine.room_for("127.0.0.1"), machine.room_for("192.0.2.1")
        self.assertEqual((here.ports, there.ports), (10_000, 10_000))
        self.assertGreater(here.sources, 1)
        self.assertEqual((there.sources, machine.room_for("::1").sources), (1, 1))
        self.assertGreater(here.files, 0)

    def test_files_without_a_limit(self) -> None:
        self.patch(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
        self.assertEqual(machine.room_for("127.0.0.1").files, 1 << 20)
        self.patch(resource, "getrlimit", lambda _: (1024, 4096))
        self.assertEqual(machine.room_for("127.0.0.1").files, 4096)

    def test_a_range_that_cannot_be_read(self) -> None:
        path = Path(self.mktemp())
        self.patch(machine, "PORT_RANGE", path)
        self.assertEqual(machine.room_for("127.0.0.1").ports, 28_232)
        path.write_text("nonsense")
        self.assertEqual(machine.room_for("127.0.0.1").ports, 28_232)

    def test_addresses(self) -> None:
        self.assertEqual(machine.address_of("127.0.0.1", 80, socket.SOCK_STREAM), "127.0.0.1")
        self.assertTrue(machine.is_loopback(machine.address_of("localhost", 80, socket.SOCK_DGRAM)))
        for host, here in (("127.9.9.9", True), ("::1", True), ("192.0.2.1", False), ("fe80::1%eth0", False)):
            self.assertEqual(machine.is_loopback(host), here)
        self.assertRaises(OSError, machine.address_of, "256.256.256.256", 80, socket.SOCK_STREAM)

    def test_description(self) -> None:
        words = machine.description()
        self.assertIn("core", words)
        self.assertIn("Python 3", words)
        self.assertNotIn(socket.gethostname() + ",", words.split())
        self.assertGreaterEqual(machine.cores(), 1)
