"""What the ports say of themselves is what they do: schemathesis asks everything in their OpenAPI documents.

It makes questions that the document allows, and such as it does not, and holds status, media type, header fields, body
and methods of every answer to it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from twisted.internet.utils import getProcessOutputAndValue

from tbeast.test.integration.accounts import AccountsCase
from tbeast.test.integration.daemons import Daemon

EXAMPLES = 40
"""How many questions are made up for each operation, beside those at the borders of what is allowed."""

SETTINGS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]

[generation]
codec = "utf-8"

[[operations]]
# a pair may name another currency than quote does, which a schema has no words for
include-operation-id = ["getPrice"]
checks.positive_data_acceptance.enabled = false
"""


class OpenApiTests(AccountsCase):
    async def conforms(self, port: int, *headers: str, more: str = "") -> int:
        """Ask everything that a port offers.

        @param headers: sent with each question.
        @return: how many operations were asked.
        """
        place = Path(self.mktemp())
        place.mkdir()
        (place / "schemathesis.toml").write_text(SETTINGS + more)
        arguments = [
            "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json", "--checks=all",
            f"--max-examples={EXAMPLES}", "--continue-on-failure", "--generation-deterministic", "--no-color",
        ]  # fmt: skip
        for header in headers:
            arguments += ["--header", header]
        environ = {**os.environ, "COLUMNS": "120"}
        output, errors, status = await getProcessOutputAndValue(sys.executable, arguments, environ, str(place))
        told = output.decode("utf-8", "replace")
        self.assertEqual(0, status, f"{told}\n{errors.decode('utf-8', 'replace')}")
        tested, made_up = re.search(r"Tested: (\d+)", told), re.search(r"(\d+) generated", told)
        assert tested is not None, told
        assert made_up is not None, told
        self.assertGreater(int(made_up[1]), EXAMPLES * int(tested[1]) // 4)
        return int(tested[1])

    async def offered(self, daemon: Daemon, port: int) -> int:
        """How many operations the document of a port has, beside the one that gives it: that is not asked again."""
        _, document = await daemon.get("/openapi.json", "", port)
        return sum(len(methods) for methods in document["paths"].values()) - 1

    async def test_prices(self) -> None:
        daemon = await self.daemon()
        key = self.key("partner")
        await self.accepted(daemon, key)
        await daemon.until(daemon.all_good, 30, "prices")
        port = daemon.settings.tcp_port_lpo
        tested = await self.conforms(port, f"Authorization: Bearer {key}")
        self.assertEqual(await self.offered(daemon, port), tested)
        status, explained = await daemon.get("/price?asset=btc", key)
        self.assertEqual(200, status, json.dumps(explained))
