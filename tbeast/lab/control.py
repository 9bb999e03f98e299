"""The lab's own HTTP door: faults, state, true prices. See docs/lab.md for its use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from twisted.web.http import Request
from twisted.web.resource import Resource

from tbeast.lab.faults import KINDS, Fault, FaultBoard, FaultError

_ROUTES = {
    "GET /faults": "the faults that hold",
    "POST /faults": "begin one",
    "DELETE /faults": "end all",
    "DELETE /faults/<id>": "end one",
    "POST /depeg": "send a stablecoin to another rate: the fault of that name",
    "GET /kinds": "every kind of fault with its parameters",
    "GET /state": "connections, subscriptions and counts by exchange",
    "GET /prices": "true mids and rates; ?exchange=<name> for one exchange's quotes",
}


class Controlled(Protocol):
    """The part of the lab that the control door needs."""

    faults: FaultBoard

    def begin_fault(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begin what C{body} describes."""

    def end_fault(self, number: int) -> bool:
        """End one."""

    def clear_faults(self) -> int:
        """End all."""

    def state(self) -> dict[str, Any]:
        """Connections and counts."""

    def prices(self, exchange: str | None = None) -> dict[str, Any]:
        """Mids and rates, or an exchange's quotes."""


class ControlResource(Resource):
    """Every path of the control API."""

    isLeaf = True

    def __init__(self, lab: Controlled) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._lab = lab

    def render(self, request: Request) -> bytes:
        """Answer any request, with JSON always."""
        method = (request.method or b"").decode("latin-1")
        path = "/" + (request.path or b"").decode("latin-1").strip("/")
        try:
            status, body = self._answer(method, path, request)
        except FaultError as error:
            status, body = 400, {"error": str(error)}
        request.setResponseCode(status)
        request.setHeader("Content-Type", "application/json")  # type: ignore[no-untyped-call]
        return json.dumps(body, indent=1).encode("utf-8") + b"\n"

    def _answer(self, method: str, path: str, request: Request) -> tuple[int, Any]:
        first, _, rest = path[1:].partition("/")
        verb = "GET" if method == "HEAD" else method
        if (verb, first) == ("POST", "faults") and not rest:
            return 201, self._lab.begin_fault(_body(request))
        if (verb, path) == ("POST", "/depeg"):
            return 201, self._lab.begin_fault({**_body(request), "kind": "depeg"})
        if (verb, path) == ("DELETE", "/faults"):
            return 200, {"ended": self._lab.clear_faults()}
        if verb == "DELETE" and first == "faults":
            found = rest.isascii() and rest.isdigit() and self._lab.end_fault(int(rest))
            return (200, {"ended": 1}) if found else (404, {"error": f"no fault {rest} holds"})
        if verb != "GET":
            return 405, {"error": f"no {method} here", "routes": _ROUTES}
        return self._read(path, request)

    def _read(self, path: str, request: Request) -> tuple[int, Any]:
        if path == "/faults":
            return 200, {"faults": [Fault.described(fault) for fault in self._lab.faults.holding()]}
        if path == "/state":
            return 200, self._lab.state()
        if path == "/prices":
            asked = (request.args or {}).get(b"exchange", [b""])[-1].decode("latin-1")
            try:
                return 200, self._lab.prices(asked or None)
            except KeyError:
                return 404, {"error": f"no exchange {asked!r}"}
        if path == "/kinds":
            return 200, {
                name: {
                    "does": kind.does,
                    "parameters": dict(kind.params),
                    "choices": {key: list(values) for key, values in kind.choices.items()},
                    "exchanges": list(kind.exchanges),
                    "for_one_asset": kind.per_asset,
                    "once": kind.once,
                }
                for name, kind in KINDS.items()
            }
        return (200 if path == "/" else 404), {"routes": _ROUTES}


def _body(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(request.content.read() or b"{}")  # type: ignore[union-attr]
    except ValueError as error:
        raise FaultError(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise FaultError("the body is no JSON object")
    return value
