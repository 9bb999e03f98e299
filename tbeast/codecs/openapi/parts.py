"""What OpenAPI documents are made of: parameters, schemas, answers and refusals.

The documents follow OpenAPI 3.1, whose schemas are those of JSON Schema. Refusals come from the one table of codes
(L{tbeast.codecs.problems.CODES}): each operation names the codes that it may answer with, and what they have in common
stands here once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tbeast.codecs.problems import CODES

Json = dict[str, Any]

VERSION: Final = "3.1.0"

ALWAYS: Final = ("bad_request", "method_not_allowed", "body_too_large", "internal_error", "too_many_connections")
"""What every operation may be refused with."""

KEYED: Final = ("malformed_authorization", "missing_key", "bad_key", "keys_unavailable", "metering_unavailable")
"""What every operation may be refused with that wants a key."""

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"

MOMENT: Final[Json] = {"type": "string", "format": "date-time"}
COUNT: Final[Json] = {"type": "integer", "minimum": 0}
TEXT: Final[Json] = {"type": "string"}
TRUTH: Final[Json] = {"type": "boolean"}
NUMBER: Final[Json] = {"type": "number"}
ANYTHING: Final[Json] = {"type": "object"}


def document(
    title: str, about: str, paths: Mapping[str, Json], *, tags: Mapping[str, str], schemas: Mapping[str, Json],
    schemes: Mapping[str, Json], version: str,
) -> Json:  # fmt: skip
    """Make a document.

    @param tags: by name, what its operations have in common.
    @param schemas: by the name that L{ref} refers to.
    @param schemes: the ways of proving who one is.
    @param version: of tbeast.
    """
    return {
        "openapi": VERSION,
        "info": {"title": title, "description": about, "version": version, "license": {"name": "MIT"}},
        "tags": [{"name": name, "description": text} for name, text in tags.items()],
        "paths": dict(paths),
        "components": {"schemas": {"Problem": _PROBLEM, **schemas}, "securitySchemes": dict(schemes)},
    }


def operation(
    name: str, tag: str, summary: str, about: str, answers: Mapping[str, Json], *, codes: Iterable[str] = (),
    parameters: Sequence[Json] = (), body: Json | None = None, security: Sequence[Json] = (),
) -> Json:  # fmt: skip
    """Make an operation.

    @param name: its id.
    @param answers: what is answered where nothing is refused, by status.
    @param codes: what it may be refused with, beside L{ALWAYS}.
    @param security: the ways of proving who one is, any of which will do; empty: anybody may ask.
    """
    told: Json = {"operationId": name, "tags": [tag], "summary": summary, "description": about}
    if parameters:
        told["parameters"] = list(parameters)
    if body is not None:
        told["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    told["responses"] = {**answers, **refusals((*ALWAYS, *codes))}
    told["security"] = list(security)
    return told


def answer(about: str, schema: Json, headers: Mapping[str, Json] | None = None, kind: str = JSON) -> Json:
    """Make what is answered: JSON of this schema."""
    return answer_in(about, {kind: schema}, headers)


def answer_in(about: str, schemas: Mapping[str, Json], headers: Mapping[str, Json] | None = None) -> Json:
    """Make what is answered in one of several media types."""
    told: Json = {"description": about}
    if headers:
        told["headers"] = dict(headers)
    told["content"] = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return told


def header(about: str, schema: Json, is_always: bool = False) -> Json:
    """Make a header field of an answer."""
    return {"description": about, "schema": schema, "required": is_always}


def refusals(codes: Iterable[str]) -> dict[str, Json]:
    """What an operation may be refused with, by status.

    @raise KeyError: when a code is none of L{CODES}.
    """
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(CODES[code][0], []).append(code)
    return {str(status): _refusal(status, of_status) for status, of_status in sorted(by_status.items())}


def _refusal(status: int, codes: Sequence[str]) -> Json:
    told: Json = {"description": " ".join(f"`{code}`: {CODES[code][1]}." for code in codes)}
    if status in (429, 503):
        told["headers"] = {"Retry-After": header("Whole seconds until it is worth while to ask again.", COUNT)}
    if status == 401:
        told["headers"] = {"WWW-Authenticate": header("How to prove who one is.", TEXT)}
    if status == 405:
        told["headers"] = {"Allow": header("The methods that there are.", TEXT, is_always=True)}
    listed = {"properties": {"code": {"enum": sorted(codes)}, "status": {"const": status}}}
    told["content"] = {PROBLEM: {"schema": {"allOf": [ref("Problem"), listed]}}}
    return told


def query(name: str, about: str, schema: Json, *, example: object = None, required: bool = False) -> Json:
    """Make a parameter in the query string."""
    told: Json = {"name": name, "in": "query", "description": about, "required": required, "schema": schema}
    if example is not None:
        told["example"] = example
    return told


def in_path(name: str, about: str, schema: Json, example: object) -> Json:
    """Make a parameter in the path."""
    return {"name": name, "in": "path", "description": about, "required": True, "schema": schema, "example": example}


def ref(name: str) -> Json:
    """Refer to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(
    properties: Mapping[str, Json], optional: Iterable[str] = (), *, about: str = "", more: bool = False
) -> Json:
    """Make the schema of an object.

    @param optional: the members that it need not have.
    @param more: whether it may have others.
    """
    not_always = frozenset(optional)
    told: Json = {"type": "object"}
    if about:
        told["description"] = about
    told["properties"] = dict(properties)
    told["required"] = [name for name in properties if name not in not_always]
    if not more:
        told["additionalProperties"] = False
    return told


def listed(of: Json) -> Json:
    """Make the schema of a list."""
    return {"type": "array", "items": of}


def one_of(values: Iterable[str]) -> Json:
    """Make the schema of a word out of several."""
    return {"type": "string", "enum": list(values)}


def by_name(of: Json) -> Json:
    """Make the schema of an object whose members' names are not known beforehand."""
    return {"type": "object", "additionalProperties": of}


def or_null(schema: Json) -> Json:
    """The schema of what may also be C{null}."""
    kind = schema.get("type")
    return {**schema, "type": [kind, "null"]} if isinstance(kind, str) and "enum" not in schema else {
        "anyOf": [schema, {"type": "null"}]
    }  # fmt: skip


def said(schema: Json, about: str) -> Json:
    """A schema with what it means."""
    return {**schema, "description": about}


_PROBLEM: Final[Json] = {
    "type": "object",
    "description": "Why there is no answer (RFC 9457). Programs should read `code`; `title` and `detail` may change.",
    "properties": {
        "type": {"type": "string", "pattern": "^urn:tbeast:problem:[a-z_]+$"},
        "title": TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": TEXT,
        "code": {"type": "string", "enum": sorted(CODES)},
        "request_id": TEXT,
    },
    "required": ["type", "title", "status", "detail", "code", "request_id"],
}
