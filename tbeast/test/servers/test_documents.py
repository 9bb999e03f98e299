"""/openapi.json and /docs, over the channel that the ports have."""

from __future__ import annotations

import json

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.openapi.page import POLICY
from tbeast.codecs.openapi.prices import prices
from tbeast.servers.documents import documents
from tbeast.servers.site import WebSite, tree


class DocumentsTests(SynchronousTestCase):
    def ask(self, request: bytes) -> tuple[bytes, bytes]:
        site = WebSite(
            tree(documents(prices("1"))), reactor=Clock(), now=lambda: 1.0, new_id=lambda: "id", service="lpo"
        )
        channel = site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(request)
        head, _, body = transport.value().partition(b"\r\n\r\n")
        channel.connectionLost(None)
        return head, body

    def test_the_document(self) -> None:
        head, body = self.ask(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK"), head)
        self.assertIn(b"Content-Type: application/json", head)
        self.assertEqual(prices("1"), json.loads(body))

    def test_the_page(self) -> None:
        head, body = self.ask(b"GET /docs HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertIn(b"Content-Security-Policy: " + POLICY, head)
        self.assertTrue(body.startswith(b"<!DOCTYPE html>"))

    def test_they_are_for_reading(self) -> None:
        head, _ = self.ask(b"POST /docs HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 405"), head)
