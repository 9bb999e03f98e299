"""Refusals."""

from __future__ import annotations

import json
from http import HTTPStatus

from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.problems import CODES, Problem, encode, render, render_entry
from tbeast.domain import admission


class ProblemTests(SynchronousTestCase):
    def test_render(self) -> None:
        problem = Problem("no_fresh_price", "Nothing.", {"quality": "stale", "last_price": 1.5})
        self.assertEqual(503, problem.status)
        self.assertEqual(
            {
                "type": "urn:tbeast:problem:no_fresh_price", "title": "There is no fresh price", "status": 503,
                "detail": "Nothing.", "code": "no_fresh_price", "request_id": "id-1", "quality": "stale",
                "last_price": 1.5,
            },
            json.loads(render(problem, "id-1")),
        )  # fmt: skip

    def test_entry(self) -> None:
        self.assertEqual(
            b'{"asset":"A\\"\\u00df","error":"unknown_asset","nearest":[]}',
            render_entry('A"\xdf', Problem("unknown_asset", "x", {"nearest": []})),
        )

    def test_codes(self) -> None:
        """Each has a status that is one, and a title; what the gate says is among them."""
        for code, (status, title) in CODES.items():
            self.assertGreaterEqual(HTTPStatus(status), 400)
            self.assertTrue(title)
            self.assertEqual(code, json.loads(render(Problem(code, "d"), ""))["code"])
        self.assertLessEqual(set(admission.OUTCOMES) - {admission.ADMITTED}, set(CODES))

    def test_no_json_numbers(self) -> None:
        for value in (float("nan"), float("inf")):
            self.assertRaises(ValueError, encode, {"x": value})
