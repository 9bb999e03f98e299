from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbeast.lab.script import ScriptError, Step, Timeline, read_script

SILENCE = {"kind": "silence", "exchange": "kraken"}


def read(value: Any) -> list[Step]:
    return read_script(json.dumps(value), ("BTC",))


class ScriptTests(SynchronousTestCase):
    def test_steps_come_in_the_order_of_time(self) -> None:
        steps = read([{"at_seconds": 9, "clear": True}, {"at_seconds": 0.5, "fault": SILENCE}])
        self.assertEqual(steps, [Step(0.5, SILENCE), Step(9.0, None)])
        self.assertEqual(read({"timeline": []}), [])

    def test_every_fault_is_named_at_once(self) -> None:
        rows = [
            {"at_seconds": 1, "fault": SILENCE},
            {"at_seconds": -1, "clear": True},
            {"at_seconds": 1, "fault": {"kind": "earthquake"}},
            {"at_seconds": 1},
            {"at_seconds": 1, "clear": False},
            {"at_seconds": 1, "fault": SILENCE, "clear": True},
            {"at_seconds": True, "clear": True},
            "no",
            {"at_seconds": 1, "fault": []},
        ]
        error = str(self.assertRaises(ScriptError, read, rows))
        for step in range(2, 10):
            self.assertIn(f"step {step}:", error)
        self.assertNotIn("step 1:", error)

    def test_no_script_at_all(self) -> None:
        for text in ("", "{", "3", "{}", '"x"'):
            self.assertRaises(ScriptError, read_script, text, ("BTC",))

    def test_timeline_gives_each_step_once(self) -> None:
        timeline = Timeline([Step(1.0, None), Step(2.0, SILENCE), Step(2.5, None)])
        self.assertEqual(timeline.due(0.9), [])
        self.assertEqual(timeline.due(2.0), [Step(1.0, None), Step(2.0, SILENCE)])
        self.assertEqual(timeline.due(2.0), [])
        self.assertEqual(timeline.due(1e9), [Step(2.5, None)])
        self.assertEqual(timeline.due(1e9), [])
