"""One JSON object for whatever is logged."""

from __future__ import annotations

import io
import json
from math import inf, nan
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tbeast.adapters.logs.jsonlines import (
    LONGEST_FAILURE,
    LONGEST_FIELD,
    LONGEST_MESSAGE,
    MOST_FIELDS,
    JsonLines,
)
from tbeast.adapters.logs.masking import MASK, Masking

KEY = "tb_freefreefr_abcdefghijklmnopqrstuvwxyz234567"
NOON = 1_776_003_781.5


class Sulky:
    """Cannot be told, and is neither true nor false."""

    def __bool__(self) -> bool:
        raise RuntimeError("no")

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class SulkyError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class JsonLinesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.stream = io.StringIO()
        self.observer = JsonLines(self.stream, "node-1", Masking(["hunter2"]))
        self.log = Logger("tbeast.test", observer=self.observer)

    def told(self) -> dict[str, Any]:
        """The one line that there is."""
        text = self.stream.getvalue()
        self.assertEqual((1, True), (text.count("\n"), text.endswith("\n")))
        self.assertTrue(text.isascii())

        def no_constant(name: str) -> Any:
            raise AssertionError(f"{name} is no JSON")

        found: dict[str, Any] = json.loads(text, parse_constant=no_constant)
        return found

    def fields(self, **fields: Any) -> Any:
        self.stream.truncate(0)
        self.stream.seek(0)
        self.log.info("said", **fields)
        return self.told().get("fields")


class LineTests(JsonLinesCase):
    def test_it_is_an_observer(self) -> None:
        self.assertTrue(verifyObject(ILogObserver, self.observer))

    def test_a_plain_event(self) -> None:
        event = {
            "log_time": NOON, "log_level": LogLevel.warn, "log_namespace": "tbeast.feeds", "log_source": self,
            "log_format": "{a} of {b}", "log_logger": self.log, "a": 1, "b": "kraken",
        }  # fmt: skip
        self.observer(event)
        expected = {
            "timestamp": "2026-04-12T14:23:01.500000Z", "level": "warn", "namespace": "tbeast.feeds",
            "node": "node-1", "message": "1 of kraken", "fields": {"a": 1, "b": "kraken"},
        }  # fmt: skip
        self.assertEqual(expected, self.told())
        self.assertEqual(list(expected), list(self.told()))

    def test_the_request_id_is_a_member_of_its_own(self) -> None:
        self.log.error("request {request_id} failed", request_id="0f", path=b"/price")
        told = self.told()
        self.assertEqual(("0f", {"path": "/price"}, "request 0f failed"), (
            told["request_id"], told["fields"], told["message"]))  # fmt: skip

    def test_without_a_request(self) -> None:
        self.log.info("up")
        self.assertEqual({"timestamp", "level", "namespace", "node", "message"}, set(self.told()))

    def test_each_level(self) -> None:
        for level in LogLevel.iterconstants():
            self.stream.truncate(0)
            self.stream.seek(0)
            self.log.emit(level, "said")
            self.assertEqual(level.name, self.told()["level"])

    def test_lines_follow_one_another(self) -> None:
        self.log.info("one\ntwo\r\u2028three")
        self.log.info("four")
        lines = self.stream.getvalue().splitlines()
        self.assertEqual(["one\ntwo\r\u2028three", "four"], [json.loads(line)["message"] for line in lines])

    def test_an_event_that_says_nothing(self) -> None:
        self.observer({"log_time": NOON, "log_level": LogLevel.info})
        self.assertEqual("", self.stream.getvalue())

    def test_an_event_without_anything_usual(self) -> None:
        self.observer({"log_format": "bare", "log_time": "noon"})
        told = self.told()
        self.assertEqual((None, "info", ""), (told["timestamp"], told["level"], told["namespace"]))


class FailureTests(JsonLinesCase):
    def test_a_failure(self) -> None:
        try:
            raise ValueError("with hunter2 in it")
        except ValueError:
            self.log.failure("work failed", request_id="0f")
        told = self.told()
        self.assertEqual(("critical", "work failed", "0f"), (told["level"], told["message"], told["request_id"]))
        self.assertIn("test_jsonlines.py", told["failure"])
        self.assertIn(f"ValueError: with {MASK} in it", told["failure"])

    def test_a_failure_alone(self) -> None:
        self.observer({"log_failure": Failure(ValueError("x")), "log_time": NOON})
        self.assertIn("ValueError: x", self.told()["failure"])

    def test_a_failure_that_cannot_be_told(self) -> None:
        self.observer({"log_failure": Failure(SulkyError()), "log_time": NOON, "log_format": "f"})
        self.assertIn("SulkyError", self.told()["failure"])

    def test_no_failure_at_all(self) -> None:
        self.observer({"log_failure": "oops", "log_time": NOON})
        self.assertEqual("oops", self.told()["failure"])

    def test_a_long_one_keeps_both_ends(self) -> None:
        self.observer({"log_failure": Failure(ValueError("x" * 50_000 + "the end")), "log_time": NOON})
        told = self.told()["failure"]
        self.assertLess(len(told), LONGEST_FAILURE + 50)
        self.assertTrue(told.startswith("Traceback"))
        self.assertIn("the end", told)


class FieldTests(JsonLinesCase):
    def test_scalars_and_errors_get_in(self) -> None:
        self.assertEqual(
            {"a": 1, "b": 1.5, "c": True, "d": None, "e": "é", "f": "caf\\xe9", "g": "timeout"},
            self.fields(a=1, b=1.5, c=True, d=None, e="é", f=b"caf\xe9", g=OSError("timeout")),
        )

    def test_nothing_else_does(self) -> None:
        self.assertIsNone(self.fields(a=[1], b={"c": 1}, d=Sulky(), e=self, f=("g",)))

    def test_numbers_that_json_has_not(self) -> None:
        self.assertEqual(
            {"a": "nan", "b": "inf", "c": "-inf", "d": str(2**53 + 1), "e": 2**53},
            self.fields(a=nan, b=inf, c=-inf, d=2**53 + 1, e=2**53),
        )
        (huge,) = self.fields(a=10**10_000).values()
        self.assertTrue(huge.startswith("0x"))
        self.assertLess(len(huge), LONGEST_FIELD + 50)

    def test_text_that_is_none(self) -> None:
        """Half of a surrogate pair is told as what it is."""
        self.assertEqual({"a": "\\ud800"}, self.fields(a="\ud800"))

    def test_an_error_that_cannot_be_told(self) -> None:
        self.assertEqual({"why": "<SulkyError that cannot be told: RuntimeError>"}, self.fields(why=SulkyError()))

    def test_long_ones_and_many(self) -> None:
        fields = self.fields(a="b" * 10_000 + "end", **{f"f{number}": number for number in range(100)})
        self.assertEqual(MOST_FIELDS, len(fields))
        self.assertLess(len(fields["a"]), LONGEST_FIELD + 50)
        self.assertTrue(fields["a"].endswith("end"))

    def test_a_long_message(self) -> None:
        self.log.info("{a}", a="é" * 100_000)
        self.assertLess(len(self.told()["message"]), LONGEST_MESSAGE + 50)

    def test_a_format_that_is_at_fault(self) -> None:
        self.log.info("{nothing} {sulky}", sulky=Sulky())
        self.assertIn("Unable to format event", self.told()["message"])

    @given(
        st.dictionaries(
            st.text(max_size=5),
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
            max_size=8,
        ),
        st.text(max_size=30),
    )
    @settings(deadline=None, max_examples=100)
    def test_whatever_it_is(self, fields: dict[str, Any], form: str) -> None:
        line = self.observer.line({"log_time": NOON, **fields, "log_format": form, "log_level": LogLevel.info})
        if line:
            self.assertTrue(line.isascii() and line.count("\n") == 1)
            self.assertEqual("node-1", json.loads(line)["node"])


class SecretTests(JsonLinesCase):
    def test_by_the_name_of_the_field(self) -> None:
        """The message is made of what is masked already."""
        self.log.info("demo key {key} (in {path})", key="short", path="var/demo", key_id="tb_aaaaaaaaaa")
        told = self.told()
        self.assertEqual(f"demo key {MASK} (in var/demo)", told["message"])
        self.assertEqual({"key": MASK, "path": "var/demo", "key_id": "tb_aaaaaaaaaa"}, told["fields"])

    def test_whatever_it_is(self) -> None:
        self.log.info("{token} {password} {secret}", token=Sulky(), password=b"x", secret=None)
        told = self.told()
        self.assertEqual(f"{MASK} {MASK} None", told["message"])
        self.assertEqual({"token": MASK, "password": MASK, "secret": None}, told["fields"])

    def test_by_what_they_look_like_and_by_what_is_known(self) -> None:
        self.log.info("{why}", why=ValueError(f"{KEY} hunter2 postgresql://me:secret@db/"))
        text = self.stream.getvalue()
        for secret in ("abcdefghijklmnop", "hunter2", "me:secret"):
            self.assertNotIn(secret, text)

    def test_one_across_the_cut(self) -> None:
        """It is masked before the middle is left out."""
        for before in range(LONGEST_FIELD // 2 - 10, LONGEST_FIELD // 2 + 2):
            (told,) = self.fields(a="x" * before + "hunter2" + "y" * 10_000).values()
            self.assertNotIn("hunt", told)


class LegacyTests(JsonLinesCase):
    def test_twisteds_old_log(self) -> None:
        """What only the old log needs does not get in; what is printed does."""
        legacy.LogPublisher(publishPublisher=LogPublisher(self.observer)).msg("old words", extra=3)
        told = self.told()
        self.assertEqual(("old words", {"extra": 3}, "info"), (told["message"], told["fields"], told["level"]))
