"""The keyring, and the demo key."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.keys import account_of, is_well_formed
from tbeast.errors import StateFolderError
from tbeast.services.keyring import DemoKeyService, Keyring

ONE = account_of("first-key", "free", "one")
TWO = account_of("second-key", "pro", "two")


class KeyringTests(SynchronousTestCase):
    def test_find(self) -> None:
        ring = Keyring([ONE, TWO])
        self.assertEqual([ONE, TWO, None, None], [
            ring.find(key) for key in (b"first-key", b"second-key", b"third-key", ONE.digest)])  # fmt: skip
        self.assertEqual([TWO, None], [ring.find_by_id(TWO.key_id), ring.find_by_id("first-key")])
        self.assertEqual(2, len(ring))

    def test_remove(self) -> None:
        ring = Keyring([ONE, TWO])
        for _ in range(2):
            ring.remove(ONE.key_id)
        self.assertEqual([None, None, TWO], [
            ring.find(b"first-key"), ring.find_by_id(ONE.key_id), ring.find(b"second-key")])  # fmt: skip

    def test_replace(self) -> None:
        ring = Keyring([ONE])
        better = account_of("first-key", "pro", "one")
        ring.add(better)
        self.assertEqual((better, better, 1), (ring.find(b"first-key"), ring.find_by_id(ONE.key_id), len(ring)))

    def test_same_id(self) -> None:
        """Two keys that a signature could not tell apart are refused, and the first stays."""
        secret = "abcdefghijklmnopqrstuvwxyz23456"
        first, second = (account_of(f"tb_sameidsame_{secret}{last}", "free", last) for last in "xy")
        ring = Keyring([first])
        error = self.assertRaises(ValueError, ring.add, second)
        self.assertNotIn(secret, str(error))
        self.assertEqual((first, None), (ring.find_by_id("sameidsame"), ring.find(f"tb_sameidsame_{secret}y".encode())))


class DemoKeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp()) / "deep" / "var"
        self.ring = Keyring()

    def start(self) -> DemoKeyService:
        service = DemoKeyService(self.ring, self.state, os.urandom)
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def test_made(self) -> None:
        service = self.start()
        self.assertTrue(is_well_formed(service.key))
        self.assertEqual(service.key + "\n", service.path.read_text())
        self.assertEqual(self.state / "demo.key", service.path)
        account = self.ring.find(service.key.encode())
        self.assertEqual(("partner", "demo"), (account.tier, account.name) if account else None)

    def test_for_its_owner_alone(self) -> None:
        """Whatever the umask, and whatever it was before."""
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        path = self.start().path
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        path.chmod(0o644)
        self.start()
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        self.assertEqual(["demo.key"], os.listdir(self.state))

    def test_kept(self) -> None:
        self.assertEqual(self.start().key, self.start().key)
        self.assertEqual(1, len(self.ring))

    def test_nonsense_is_replaced(self) -> None:
        first = self.start()
        for nonsense in (b"", b"\xff\x00", b"tb_short_key\n", b"x" * 5000):
            first.path.write_bytes(nonsense)
            self.ring = Keyring()
            again = self.start()
            self.assertTrue(is_well_formed(again.key))
            self.assertNotEqual(first.key, again.key)
            self.assertEqual(again.key + "\n", again.path.read_text())

    def test_left_over(self) -> None:
        """A start that died while it wrote does not stop the next one."""
        self.state.mkdir(parents=True)
        (self.state / "demo.key.new").write_text("half")
        self.assertTrue(is_well_formed(self.start().key))
        self.assertEqual(["demo.key"], os.listdir(self.state))

    def test_cannot_be_written(self) -> None:
        """A state folder that cannot be had stops the start."""
        self.state.parent.mkdir(parents=True)
        self.state.write_text("a file")
        service = DemoKeyService(self.ring, self.state, os.urandom)
        error = self.assertRaises(StateFolderError, service.startService)
        self.assertIn(f"the state folder {self.state} (TBEAST_STATE) cannot be used", str(error))
        self.assertEqual((0, 0), (service.running, len(self.ring)))
