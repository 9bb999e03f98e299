"""An OpenAPI document as one page to read: no script, nothing from outside, one style sheet within.

Everything that comes out of the document is escaped where it is written.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from typing import Any, Final

from tbeast.codecs.openapi.parts import Json

CONTENT_TYPE: Final = b"text/html; charset=utf-8"

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: #0a6cbd }
@media (prefers-color-scheme: dark) { :root { --mark: #6cb6ff } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem }
a { color: var(--mark) }
h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem; text-transform: capitalize }
section.operation { border: 1px solid var(--line); border-radius: .5rem; margin: 1rem 0; padding: .5rem 1rem }
h3 { font-size: 1.05rem; margin: .25rem 0; overflow-wrap: anywhere }
h4 { margin: 1rem 0 .25rem }
.method { background: var(--mark); border-radius: .25rem; color: Canvas; font-size: .8rem; margin-right: .5rem;
  padding: .15rem .5rem }
.table { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
caption { text-align: left; font-weight: 600; padding: .25rem 0 }
th, td { border-top: 1px solid var(--line); padding: .3rem .6rem .3rem 0; text-align: left; vertical-align: top }
code, pre { background: var(--soft); border-radius: .2rem; font-family: ui-monospace, monospace; font-size: .9em }
code { padding: 0 .2rem }
td:first-child code { white-space: nowrap }
h3 code { background: none }
pre { overflow-x: auto; padding: .5rem }
nav li { margin: .15rem 0 }
""".strip()

POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
).encode("ascii")
"""The page's Content-Security-Policy."""


def page(document: Json) -> bytes:
    """Write the page."""
    title = escape(document["info"]["title"])
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]  # fmt: skip
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<header><h1>{title}</h1><p>{_prose(document['info']['description'])}</p>",
        f'<p>Version {escape(document["info"]["version"])}; for programs: <a href="/openapi.json">openapi.json</a>,',
        f"OpenAPI {escape(document['openapi'])}.</p></header>",
        *_contents(document, operations),
        "<main>",
        *_proofs(document),
    ]
    for tag in document["tags"]:
        parts.append(f"<h2>{escape(tag['name'])}</h2><p>{_prose(tag['description'])}</p>")
        for path, method, operation in operations:
            if tag["name"] in operation["tags"]:
                parts += _operation(document, path, method, operation)
    parts.append("</main></body></html>")
    return "\n".join(parts).encode("utf-8")


def _contents(document: Json, operations: Iterable[tuple[str, str, Json]]) -> Iterable[str]:
    yield '<nav aria-label="Contents"><ul>'
    for path, method, operation in operations:
        place = escape(operation["operationId"])
        yield f'<li><a href="#{place}"><code>{method.upper()} {escape(path)}</code></a> {escape(operation["summary"])}'
    yield "</ul></nav>"


def _proofs(document: Json) -> Iterable[str]:
    schemes = document["components"]["securitySchemes"]
    if schemes:
        yield "<h2>Keys</h2><ul>"
        for scheme in schemes.values():
            yield f"<li>{_prose(scheme['description'])}"
        yield "</ul>"


def _operation(document: Json, path: str, method: str, operation: Json) -> Iterable[str]:
    place = escape(operation["operationId"])
    yield f'<section class="operation" id="{place}" aria-labelledby="{place}-title">'
    yield f'<h3 id="{place}-title"><span class="method">{method.upper()}</span><code>{escape(path)}</code>'
    yield f"{escape(operation['summary'])}</h3><p>{_prose(operation['description'])}</p>"
    if not operation["security"]:
        yield "<p>No key is needed.</p>"
    if "parameters" in operation:
        rows = [
            (_code(one["name"]), one["in"], _kind(one["schema"]), _prose(_needed(one)))
            for one in operation["parameters"]
        ]  # fmt: skip
        yield from _table("Parameters", ("name", "in", "what", "meaning"), rows)
    if "requestBody" in operation:
        yield "<h4>Body</h4>"
        yield from _schemas(document, operation["requestBody"]["content"])
    yield "<h4>Answers</h4>"
    refused = []
    for status, told in operation["responses"].items():
        if int(status) >= 400:
            refused.append((_code(status), _prose(told["description"])))
            continue
        yield f"<p>{_code(status)} {_prose(told['description'])}</p>"
        fields = [(_code(name), _prose(field["description"])) for name, field in told.get("headers", {}).items()]
        if fields:
            yield from _table("Header fields", ("name", "meaning"), fields)
        yield from _schemas(document, told.get("content", {}))
    if refused:
        yield from _table("Refusals", ("status", "codes"), refused)
    yield "</section>"


def _schemas(document: Json, content: Mapping[str, Json]) -> Iterable[str]:
    for kind, told in content.items():
        schema = _resolved(document, told["schema"])
        if schema.get("properties"):
            required = schema.get("required", ())
            rows = [
                (_code(name), _kind(_resolved(document, of)), _prose(_about(of, name in required)))
                for name, of in schema["properties"].items()
            ]
            yield from _table(kind, ("member", "what", "meaning"), rows)
        else:
            yield f"<p>{_code(kind)}</p>"


def _resolved(document: Json, schema: Json) -> Json:
    if "$ref" not in schema:
        return schema
    found: Any = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    resolved: Json = found
    return resolved


def _needed(parameter: Json) -> str:
    needed = "" if parameter["required"] else " Optional."
    example = f" As in `{parameter['example']}`." if "example" in parameter else ""
    return f"{parameter['description']}{example}{needed}"


def _about(schema: Json, is_required: bool) -> str:
    return f"{schema.get('description', '')}{'' if is_required else ' Not always there.'}".strip()


def _kind(schema: Json) -> str:
    if "enum" in schema:
        return " ".join(_code(str(value)) for value in schema["enum"])
    if "const" in schema:
        return _code(json.dumps(schema["const"]))
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_kind(schema['items'])}"
    if kind is None:
        return escape(schema["$ref"].rpartition("/")[2]) if "$ref" in schema else "anything"
    name = schema.get("format") or (" or ".join(kind) if isinstance(kind, list) else kind)
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"{escape(name)}, {least:,} to {most:,}"
    return escape(name)


def _table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterable[str]:
    yield f'<div class="table"><table><caption>{escape(caption)}</caption><thead><tr>'
    yield "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield "</tr></thead><tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _prose(text: str) -> str:
    """Text with words between backquotes."""
    parts = text.split("`")
    return "".join(_code(part) if place % 2 else escape(part) for place, part in enumerate(parts))
