"""What the ports say of themselves is what they do: schemathesis asks everything in their OpenAPI documents.

It makes questions that the document allows, and such as it does not, and holds status, media type, header fields, body
and methods of every answer to it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.internet.utils import getProcessOutputAndValue

from tbeast.domain import adminaccess
from tbeast.services import reports
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


NOT_OF_OPERATORS = (
    # what a schema has no words for: limits that go together, a range that ends before it begins, a parameter's kind
    "positive_data_acceptance",
    # to take a parameter back to its default is no end of it
    "use_after_free",
    # who shows a wrong admin key is not heard for a while, with the right one neither: test_admin looks at that
    "ignored_auth",
)

ADMIN = "the-admin-key-of-this-test"


class OpenApiTests(AccountsCase):
    async def conforms(
        self, port: int, *headers: str, but_not: Sequence[str] = (), but_checks: Sequence[str] = ()
    ) -> int:
        """Ask everything that a port offers.

        @param headers: sent with each question.
        @param but_not: the ids of operations that are not asked.
        @param but_checks: what the answers are not held to.
        @return: how many operations were asked.
        """
        place = Path(self.mktemp())
        place.mkdir()
        (place / "schemathesis.toml").write_text(SETTINGS)
        arguments = [
            "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json", "--checks=all",
            f"--max-examples={EXAMPLES}", "--continue-on-failure", "--generation-deterministic", "--no-color",
        ]  # fmt: skip
        if but_checks:
            arguments.append(f"--exclude-checks={','.join(but_checks)}")
        for name in but_not:
            arguments += ["--exclude-operation-id", name]
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

    async def test_reports_and_administration(self) -> None:
        """Beside what would end the test itself: how many connections there may be."""
        for module, name, of in (
            (adminaccess, "CALLS_A_SECOND", 10_000.0), (adminaccess, "CALLS_AT_ONCE", 10_000),
            (reports, "A_SECOND", 10_000.0), (reports, "BURST", 10_000),
        ):  # fmt: skip
            self.patch(module, name, of)
        daemon = await self.daemon(SERVER_TYPE="APP_REPORT_SERVER", ADMIN_KEY=ADMIN)
        key = self.key("partner")
        await self.accepted(daemon, key)
        await daemon.until(daemon.all_good, 30, "prices")
        port = daemon.settings.tcp_port_lrs
        tested = await self.conforms(
            port,
            f"Authorization: Bearer {key}",
            f"X-Admin-Key: {ADMIN}",
            but_checks=NOT_OF_OPERATORS,
            but_not=("setMaxConnections",),
        )  # fmt: skip
        self.assertEqual(await self.offered(daemon, port) - 1, tested)
        status, _ = await daemon.get("/exchanges", "")
        self.assertEqual(200, status)  # whatever was done to it

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
