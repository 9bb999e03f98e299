"""How the reports of the connection governor lie in the shared list: JSON, one text for each node.

What is in the list was written by another node, perhaps of another version: a text that is no report, or whose numbers
cannot be, is no report. A member that we do not know is passed over.
"""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Final

import msgspec
from attrs import astuple
from msgspec import Meta

from tbeast.domain.governor import Report
from tbeast.domain.nodehealth import LEAST_HEALTH

LONGEST: Final = 1_024
"""Bytes of a report."""
MOST: Final = 10_000_000
"""Connections, of whatever kind."""

_Name = Annotated[str, Meta(min_length=1, max_length=300)]
"""CLUSTER_NODE has up to 253 characters, and a worker's name a few more."""
_Connections = Annotated[int, Meta(ge=0, le=MOST)]


class _Report(msgspec.Struct):
    node: _Name
    life: _Name
    sequence: Annotated[int, Meta(ge=1, lt=2**53)]  # Lua compares it, and has no other numbers
    at: float
    connections: _Connections
    demand: _Connections
    is_pressed: bool
    health: Annotated[float, Meta(ge=LEAST_HEALTH, le=1.0)]
    claim: _Connections
    limit: _Connections


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Report).decode


def encode(report: Report) -> bytes:
    """Write a report."""
    return _encode(_Report(*astuple(report)))


def decode(node: str, text: bytes) -> Report | None:
    """Read what lies in the list under C{node}; C{None} if it is no report of that node."""
    if len(text) > LONGEST:
        return None
    try:
        said = _decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if said.node != node or not isfinite(said.at):
        return None
    return Report(*msgspec.structs.astuple(said))
