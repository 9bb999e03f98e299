"""The hub's part in the answers of its workers: what does not lie on the shared shelf.

Prices are found as for a question of the hub's own surface. Pages are those of that surface, asked by nobody: the
worker has admitted the question already, and what the page says of it is noted instead of sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

from twisted.web.http_headers import Headers
from twisted.web.resource import Resource

from tbeast.codecs.hubwords import Page
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import Problem
from tbeast.interfaces import Now
from tbeast.servers.answers import Answers
from tbeast.servers.lpo import ExplainPage, KeyedPage

RELAYED: Final = (b"exchanges", b"explain", b"stats")
"""The pages that only the hub can give."""


class AnswerRelay:
    """L{tbeast.services.hub.Relay}."""

    def __init__(self, answers: Answers, pages: Mapping[bytes, Resource], now: Now) -> None:
        """Set it up.

        @param pages: those of L{tbeast.servers.lpo.lpo_pages}.
        """
        self._answers = answers
        self._pages = pages
        self._now = now

    async def price(self, query: PriceQuery, asked_at: float) -> tuple[bytes, str, str] | Problem:
        """See L{tbeast.services.hub.Relay.price}."""
        answer = self._answers.at_once(query, self._now())
        if answer is None:
            answer = await self._answers.after_looking(query, asked_at)
        return answer if isinstance(answer, Problem) else (answer.body, answer.source, answer.tier)

    def page(self, name: str, below: bytes) -> Page | Problem:
        """See L{tbeast.services.hub.Relay.page}."""
        page: Any = self._pages[name.encode("ascii")]
        noted: Any = _Noted()
        if isinstance(page, ExplainPage):  # alone, it is the worker's
            page = page.getChild(below, noted)
        if isinstance(page, KeyedPage):
            page.answer_admitted(noted, self._now())
        else:
            page.answer(noted)
        told: Page | Problem = noted.told
        return told


class _Noted:
    """What a page knows of a request, and a note of what it says."""

    method = b"GET"
    query = b""
    asset = ""
    told: Page | Problem

    def __init__(self) -> None:
        self.content = BytesIO()
        self.responseHeaders = Headers()

    def respond(self, status: int, body: bytes, content_type: bytes) -> None:
        self.told = Page(status, body, content_type, self.asset)

    def refuse(self, problem: Problem) -> None:
        self.told = problem
