"""Questions for a summary over UDP: one datagram each, in the three forms of L{tbeast.codecs.datagrams}.

    - text, C{<key>|summary[,from=...][,to=...][,asset=...][,source=...][|<id>]};
    - signed, C{~1|<key id>|<unix ms>|summary...|<id>|<mac>}, with the same words in the same place;
    - JSON, C{{"api_key":...,"report":"summary","from":...,"to":...,"asset":...,"source":...,"id":...}}.

So the report stands where a question for a price has its asset, and what is the same is read by the same code: the key,
the id, the mac, and how long each may be. What C{from}, C{to}, C{asset} and C{source} may be is told in
L{tbeast.codecs.reportqueries}. There is one report, so that there is no room for a mistake about which; and what is not
understood is not passed over. No bytes make this raise.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from tbeast.codecs import datagrams
from tbeast.codecs.datagrams import EMPTY, LARGEST, OVERSIZED, UNREADABLE
from tbeast.codecs.problems import Problem
from tbeast.codecs.reportqueries import Asked, report_query
from tbeast.domain.reportorders import DATAGRAM
from tbeast.domain.reports import SUMMARY

BAD_REQUEST: Final = "bad_request"

_OPTION: Final = re.compile(rb"(from|to|asset|source)=[-+.:*0-9A-Za-z_]+")
_NAMES: Final = ("from", "to", "asset", "source")
_MEMBERS: Final = frozenset(("api_key", "report", "id", *_NAMES))
_RAW_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STAND_IN: Final = b"X"
"""An asset, where the report stood."""


class ReportQuestion(NamedTuple):
    """One datagram, read.

    @ivar key: the key, or with C{mac} the key id.
    @ivar query: what is asked for, as a query string. Empty with C{fault}.
    @ivar id_json: the id as JSON, empty if there is none.
    @ivar fault: why it cannot be answered, although it says whose it is.
    @ivar signed: what C{mac} is of; C{at_ms} the time that it names.
    """

    key: bytes
    query: bytes
    id_json: bytes
    fault: str
    signed: bytes = b""
    mac: bytes = b""
    at_ms: int = 0


def parse(datagram: bytes) -> ReportQuestion | str:
    """Read a question.

    @return: if not even the key can be read, one of L{datagrams.DROPS}.
    """
    if len(datagram) > LARGEST:
        return OVERSIZED
    if datagram[:1] == b"{":
        return _json(datagram)
    place = 3 if datagram[:1] == b"~" else 1
    stripped = datagram.rstrip(b"\r\n")
    parts = stripped.split(b"|", place + 1)
    if len(parts) <= place:
        return UNREADABLE if datagram else EMPTY
    said = parts[place]
    parts[place] = _STAND_IN
    read = datagrams.parse(b"|".join(parts))
    if isinstance(read, str):
        return read
    report, *options = said.split(b",")
    understood = report == SUMMARY.encode("ascii") and all(_OPTION.fullmatch(option) for option in options)
    fault = read.fault if understood or read.fault else BAD_REQUEST
    signed = stripped.rpartition(b"|")[0] if read.mac else b""
    return ReportQuestion(
        read.key, b"" if fault else b"&".join(options), read.id_json, fault, signed, read.mac, read.at_ms
    )


def summary_query(question: ReportQuestion, key_id: str, now_us: int) -> Asked | Problem:
    """What a question without a fault asks for.

    @param key_id: who asks, and so whose lines are added up.
    """
    asked = report_query(SUMMARY, question.query, key_id=key_id, now_us=now_us)
    return asked if isinstance(asked, Problem) else Asked(asked.query, DATAGRAM)


def _json(datagram: bytes) -> ReportQuestion | str:
    try:
        members = _RAW_OBJECT.decode(datagram)
    except (ValueError, RecursionError):
        return UNREADABLE
    shared = {name: members[name] for name in ("api_key", "id") if name in members}
    read = datagrams.parse(msgspec.json.encode({**shared, "asset": _STAND_IN.decode("ascii")}))
    if isinstance(read, str):
        return read
    fault, options = read.fault, []
    try:
        if msgspec.json.decode(members.get("report", b"null")) != SUMMARY or not members.keys() <= _MEMBERS:
            fault = fault or BAD_REQUEST
        for name in _NAMES:
            if name in members:
                value = msgspec.json.decode(members[name], type=str)
                options.append(f"{name}={value}".encode())
    except (ValueError, RecursionError):
        fault = fault or BAD_REQUEST
    if not all(_OPTION.fullmatch(option) for option in options):
        fault = fault or BAD_REQUEST
    return ReportQuestion(read.key, b"" if fault else b"&".join(options), read.id_json, fault)
