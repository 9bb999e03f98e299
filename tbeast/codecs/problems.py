"""Refusals: one table of codes for HTTP and UDP, and their JSON.

A L{Problem} is a value; what it becomes depends on the way it leaves: problem JSON (RFC 9457) with a status over
HTTP, C{{"error": code}} over UDP, and an entry with an C{error} in a batch. The code is the part that programs read;
C{detail} is for people and may change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import frozen

CODES: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        "missing_asset": (400, "No asset was asked for"),
        "malformed_asset": (400, "That is no asset"),
        "malformed_parameter": (400, "A parameter cannot be read"),
        "duplicate_parameter": (400, "A parameter stands twice"),
        "unknown_parameter": (400, "There is no such parameter"),
        "bad_cursor": (400, "The cursor does not belong here"),
        "unknown_exchange": (400, "There is no such exchange"),
        "unsupported_quote": (400, "Prices are not quoted in that currency"),
        "too_many_assets": (400, "Too many assets for one question"),
        "malformed_body": (400, "The body cannot be read"),
        "malformed_authorization": (400, "The key was not sent as it should be"),
        "bad_request": (400, "The question cannot be read"),
        "missing_key": (401, "A key is needed"),
        "bad_key": (401, "The key is not valid"),
        "bad_admin_key": (401, "The admin key is not valid"),
        "not_found": (404, "There is nothing here"),
        "unknown_asset": (404, "The asset is not known"),
        "not_listed": (404, "The exchange does not list the asset"),
        "unknown_key": (404, "There is no such key"),
        "method_not_allowed": (405, "The method is not allowed here"),
        "conflict": (409, "That cannot be done as things are"),
        "body_too_large": (413, "The body is too large"),
        "rate_limited": (429, "Too many questions at once"),
        "quota_exceeded": (429, "The month's quota is used up"),
        "report_quota_exceeded": (429, "The month's reports are used up"),
        "internal_error": (500, "Something went wrong here"),
        "no_fresh_price": (503, "There is no fresh price"),
        "keys_unavailable": (503, "Keys cannot be checked now"),
        "metering_unavailable": (503, "Requests cannot be recorded now"),
        "store_unavailable": (503, "The database cannot be asked now"),
        "reports_busy": (503, "Too many reports are being made"),
        "too_many_connections": (503, "Too many connections"),
    }
)
"""Code: the HTTP status and the title."""

CONTENT_TYPE: Final = b"application/problem+json"

_EMPTY: Final[Mapping[str, object]] = MappingProxyType({})


@frozen
class Problem:
    """Why there is no answer.

    @ivar code: one of L{CODES}.
    @ivar detail: one sentence for people.
    @ivar members: what else the JSON says, by name (RFC 9457's extension members).
    """

    code: str
    detail: str
    members: Mapping[str, object] = _EMPTY

    @property
    def status(self) -> int:
        """The HTTP status, which is also what the counters of UDP say."""
        return CODES[self.code][0]


def render(problem: Problem, request_id: str) -> bytes:
    """Give the body of a refusal over HTTP."""
    status, title = CODES[problem.code]
    return encode(
        {
            "type": f"urn:tbeast:problem:{problem.code}",
            "title": title,
            "status": status,
            "detail": problem.detail,
            "code": problem.code,
            "request_id": request_id,
            **problem.members,
        }
    )


def render_entry(asset: str, problem: Problem) -> bytes:
    """Give one refused asset's entry in the answer to a batch."""
    return encode({"asset": asset, "error": problem.code, **problem.members})


def encode(value: object) -> bytes:
    """Encode as compact JSON in ASCII.

    @raise ValueError: for NaN and infinities, which JSON does not have.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
