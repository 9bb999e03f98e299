"""How many workers there are, and what a worker makes of its beginning."""

from __future__ import annotations

import os

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.assembly import worker_count
from tbeast.codecs import hubwords
from tbeast.codecs.hubwords import LinkError
from tbeast.errors import SettingsError
from tbeast.settings import MOST_WORKERS, Layer, Settings, load
from tbeast.worker import Worker


def settings_of(workers: object, **said: object) -> Settings:
    return load([Layer("test", {"TBEAST_WORKERS": workers, **said})])


class CountTests(SynchronousTestCase):
    def setUp(self) -> None:
        if hasattr(os, "sched_getaffinity"):
            self.patch(os, "sched_getaffinity", lambda pid: {0, 1, 2})
        self.patch(os, "cpu_count", lambda: 3)

    def test_as_said(self) -> None:
        self.assertEqual(
            [1, 1, 4, 3, 3, MOST_WORKERS],
            [worker_count(settings_of(said)) for said in ("", 1, " 4 ", "auto", " AUTO", str(MOST_WORKERS))],
        )

    def test_on_one_core(self) -> None:
        if hasattr(os, "sched_getaffinity"):
            self.patch(os, "sched_getaffinity", lambda pid: {2})
        self.patch(os, "cpu_count", lambda: 1)
        self.assertEqual(1, worker_count(settings_of("auto")))

    def test_without_prices_to_serve(self) -> None:
        self.assertEqual(1, worker_count(settings_of(4, SERVER_TYPE="WEBHOOK_SERVER")))

    def test_what_is_no_number_of_workers(self) -> None:
        for said in ("0", "-1", str(MOST_WORKERS + 1), "all", "1.5", True, "auto 2"):
            error = self.assertRaises(SettingsError, settings_of, said)
            self.assertIn(f"must be auto, or a whole number from 1 to {MOST_WORKERS}", str(error))


class BeginningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.stopped: list[float] = []
        self.clock.stop = lambda: self.stopped.append(self.clock.seconds())  # type: ignore[attr-defined]
        self.worker = Worker(self.clock, self.clock.seconds, lambda: "id", 17)

    def test_nothing_is_taken_before_the_welcome(self) -> None:
        for word in (hubwords.ASSETS, hubwords.STATE, hubwords.KEYS, hubwords.USED):
            self.assertRaises(LinkError, self.worker.link._words[word], hubwords.encode_keys([]))

    def test_the_line_ends_before_the_welcome(self) -> None:
        """The worker goes, once."""
        for _ in range(2):
            self.worker._lost()
        self.clock.advance(0)
        self.assertEqual([0.0], self.stopped)
