"""What a port says of itself: /openapi.json for programs, /docs for people. Public, and written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from twisted.web.resource import Resource

from tbeast.codecs.openapi.page import CONTENT_TYPE, POLICY, page
from tbeast.codecs.openapi.parts import JSON, Json
from tbeast.codecs.problems import encode
from tbeast.servers.site import Page, WebRequest

_HARDENED: Final = (
    (b"Content-Security-Policy", POLICY),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
)


class DocumentPage(Page):
    """A page that is always the same.

    @ivar body: what it is.
    """

    def __init__(self, body: bytes, content_type: bytes, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__()
        self.body = body
        self._content_type = content_type
        self._fields = fields

    def answer(self, request: WebRequest) -> None:
        """Give it."""
        for name, value in self._fields:
            request.responseHeaders.setRawHeaders(name, [value])
        request.respond(200, self.body, self._content_type)


def documents(document: Json) -> Mapping[bytes, Resource]:
    """The pages of a port, by the name they stand under.

    @param document: its OpenAPI document.
    """
    return {
        b"openapi.json": DocumentPage(encode(document), JSON.encode("ascii")),
        b"docs": DocumentPage(page(document), CONTENT_TYPE, _HARDENED),
    }
