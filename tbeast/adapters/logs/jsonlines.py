"""The log as JSON: one object a line, for those that collect logs.

The members: C{timestamp} (RFC 3339, UTC), C{level}, C{namespace} (who says it), C{node}, C{message}; C{request_id}
where it is about a request; C{fields}, what the message was made of, as far as it is text, numbers, true, false, null
or an error; C{failure}, an error with its traceback. Nothing else of an event gets in.

Whatever an event holds, there is one line of ASCII for it, of at most some 100 kB, and no secret in it (see
L{tbeast.adapters.logs.masking}). Bytes are told as text, numbers that JSON has not (NaN, infinities) by their names,
and text that is too long loses its middle.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, Final, TextIO

from twisted.logger import ILogObserver, LogEvent, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from tbeast.adapters.logs.masking import MASK, Masking, names_a_secret
from tbeast.codecs.replies import timestamp

LONGEST_MESSAGE: Final = 4_000
LONGEST_FIELD: Final = 500
LONGEST_NAME: Final = 100
LONGEST_FAILURE: Final = 8_000
MOST_FIELDS: Final = 20
LARGEST_WHOLE: Final = 2**53
"""Programs that read numbers as doubles lose digits of what is larger."""

REQUEST_ID: Final = "request_id"
_LEGACY: Final = frozenset(("format", "isError", "message", "system", "time"))
"""What Twisted's old log puts into an event for its own use."""


@implementer(ILogObserver)
class JsonLines:
    """Writes each event as a line.

    @param stream: where to; flushed after each line.
    @param node: the name of this node.
    @param masking: keeps secrets out.
    """

    def __init__(self, stream: TextIO, node: str, masking: Masking) -> None:
        self._stream = stream
        self._node = node
        self._masking = masking

    def __call__(self, event: LogEvent) -> None:
        """Write one event; one that says nothing leaves no line."""
        line = self.line(event)
        if line:
            self._stream.write(line)
            self._stream.flush()

    def line(self, event: LogEvent) -> str:
        """The line, with its end; empty if the event says nothing."""
        seen = {name: value if value is None or not names_a_secret(name) else MASK for name, value in event.items()}
        message = self._text(formatEvent(seen), LONGEST_MESSAGE)
        failure = event.get("log_failure")
        if not message and failure is None:
            return ""
        level = event.get("log_level")
        told: dict[str, object] = {
            "timestamp": _moment(event.get("log_time")),
            "level": getattr(level, "name", "info"),
            "namespace": self._text(_said(event.get("log_namespace", "")), LONGEST_NAME),
            "node": self._node,
            "message": message,
        }
        if event.get(REQUEST_ID) is not None:
            told[REQUEST_ID] = self._text(_said(event[REQUEST_ID]), LONGEST_NAME)
        fields = self._fields(seen)
        if fields:
            told["fields"] = fields
        if failure is not None:
            told["failure"] = self._text(_traceback(failure), LONGEST_FAILURE)
        return json.dumps(told, separators=(",", ":"), allow_nan=False) + "\n"

    def _fields(self, event: LogEvent) -> dict[str, object]:
        is_legacy = isinstance(event.get("message"), tuple)
        fields: dict[str, object] = {}
        for name, value in event.items():
            if name.startswith("log_") or name == REQUEST_ID or (is_legacy and name in _LEGACY):
                continue
            if len(fields) == MOST_FIELDS:
                break
            if value is None or isinstance(value, bool | int | float | str | bytes | BaseException):
                fields[self._text(name, LONGEST_NAME)] = self._scalar(value)
        return fields

    def _scalar(self, value: Any) -> object:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and -LARGEST_WHOLE <= value <= LARGEST_WHOLE:
            return int(value)
        if isinstance(value, float) and isfinite(value):
            return float(value)
        return self._text(_said(value), LONGEST_FIELD)

    def _text(self, text: str, longest: int) -> str:
        # masked before it is cut, so that no half of a secret is left; a surrogate alone is no text
        clean = self._masking(text).encode("utf-8", "backslashreplace").decode("utf-8")
        if len(clean) <= longest:
            return clean
        half = longest // 2
        return f"{clean[:half]} ... {len(clean) - 2 * half} characters ... {clean[-half:]}"


def _moment(seconds: Any) -> str | None:
    try:
        return timestamp(float(seconds))
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _said(value: object) -> str:
    """C{value} as text, whatever it is."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    try:
        if isinstance(value, int) and value.bit_length() > 4 * LONGEST_FIELD:  # Python refuses to write the longest
            return hex(value)
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__} that cannot be told: {type(error).__name__}>"


def _traceback(failure: object) -> str:
    try:
        return failure.getTraceback() if isinstance(failure, Failure) else _said(failure)
    except Exception:
        return _said(getattr(failure, "value", failure))
