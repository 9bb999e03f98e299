"""tbeast explain, against a real surface on loopback."""

from __future__ import annotations

import json
import re

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from tbeast.commands.main import main
from tbeast.domain.quotes import HALTED, SET_ASIDE, SILENT, STALE, SourceView
from tbeast.settings import SETTINGS
from tbeast.test.commands.opendoors import STRANGER, OpenDoors
from tbeast.test.servers.rooms import PARTNER, quote_of, view_of

WHY = "214 bp from the median of all, more than 12 allowed"


LATE = "late: quiet for longer than its rhythm explains"


class ExplainTests(OpenDoors):
    def setUp(self) -> None:
        super().setUp()
        now = self.house.time
        self.quote = quote_of("BTC", 83421.57, observed_at=now - 0.3, fresh_until=now + 60.0)
        self.explain(
            view_of("coinbase", home=True, raw=83421.57, deviation_bp=0.0),
            view_of("gateio", symbol="BTC_USDT", quote_currency="USDT", raw=83480.1, rate=0.9993,
                value=83421.66393, age_seconds=14.0, late=True, deviation_bp=0.01),
            view_of("gemini", symbol="btcusd", raw=81655.0, value=81655.0, verdict=SET_ASIDE, why=WHY,
                deviation_bp=-211.76),
            view_of("okx", symbol="BTC-USDT", via="", quote_currency="USDT", raw=None, rate=None, value=None,
                age_seconds=None, verdict=SILENT, why="nothing heard", deviation_bp=None),
        )  # fmt: skip

    def explain(self, *sources: SourceView) -> None:
        self.house.view.explained["BTC"] = (self.quote, list(sources))

    def cells(self, result: Result) -> dict[str, list[str]]:
        """The cells of each line, by the first."""
        rows = [re.split("  +", line.strip()) for line in result.stdout.splitlines() if line.strip()]
        return {row[0]: row[1:] for row in rows}

    async def test_every_source_and_the_result(self) -> None:
        result = await self.ask("explain", "btc")
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        rows = self.cells(result)
        self.assertEqual(rows["BTC (Bitcoin), home coinbase"], ["SIMULATED"])
        self.assertEqual(
            rows["exchange"],
            ["symbol", "via", "raw", "quote", "rate", "value USD", "age", "off bp", "verdict", "why"],
        )
        self.assertEqual(
            rows["coinbase"], ["BTC-USD", "ws", "83421.57", "USD", "1.0", "83421.57", "0.25 s", "+0.0", "used"]
        )
        self.assertEqual(
            rows["gateio"],
            ["BTC_USDT", "ws", "83480.1", "USDT", "0.9993", "83421.66393", "14 s", "+0.0", "used", LATE],
        )
        self.assertEqual(
            rows["gemini"],
            ["btcusd", "ws", "81655.0", "USD", "1.0", "81655.0", "0.25 s", "-211.8", "set_aside", WHY],
        )
        self.assertEqual(rows["okx"], ["BTC-USDT", "-", "-", "USDT", "-", "-", "silent", "nothing heard"])
        self.assertEqual(
            rows["BTC"],
            ["83421.57 USD", "good", "median", "3/4 sources", "age 0.30 s", "spread 1.8 bp", "SIMULATED"],
        )
        self.assertNotIn("\x1b", result.stdout)

    async def test_in_eighty_columns_the_reasons_stand_below(self) -> None:
        result = await self.ask("explain", "BTC", COLUMNS="80")
        lines = [line.rstrip() for line in result.stdout.splitlines()]
        self.assertIn(f"gemini: {WHY}", lines)
        self.assertIn(f"gateio: {LATE}", lines)
        table = lines[1:7]
        self.assertTrue(table[0].startswith("exchange symbol"), table)
        self.assertTrue(table[0].endswith("verdict"), table)
        self.assertTrue(all(len(line) <= 80 for line in table), table)
        self.assertTrue(any("83421.66393   14 s   +0.0 used" in line for line in table), table)

    async def test_nothing_is_cut_off_however_narrow_it_is(self) -> None:
        result = await self.ask("explain", "BTC", COLUMNS="40")
        self.assertNotIn("\u2026", result.stdout)
        self.assertIn("BTC  83421.57 USD  good", result.stdout)

    async def test_colours(self) -> None:
        result = await self.ask("explain", "BTC", FORCE_COLOR="1", COLUMNS="160")
        for coloured in ("\x1b[32mused", "\x1b[33mset_aside", "\x1b[2msilent", "\x1b[33m  14 s", "\x1b[1mcoinbase"):
            self.assertIn(coloured, result.stdout)

    async def test_json_is_as_the_daemon_wrote_it(self) -> None:
        result = await self.ask("explain", "BTC", "--json")
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        self.assertEqual(result.stdout.count("\n"), 1)
        explained = json.loads(result.stdout)
        self.assertEqual(
            [source["exchange"] for source in explained["sources"]], ["coinbase", "gateio", "gemini", "okx"]
        )
        self.assertEqual(explained["result"]["price"], 83421.57)

    async def test_an_old_price_is_not_passed_off_as_new(self) -> None:
        for quality in (STALE, HALTED):
            then = self.house.time - 400.0
            self.quote = quote_of("BTC", 83000.0, quality=quality, observed_at=then, fresh_until=then + 60.0)
            self.explain(view_of("coinbase", verdict=quality))
            result = await self.ask("explain", "BTC")
            self.assertEqual(result.exit_code, 0)
            self.assertEqual(self.cells(result)["BTC"][1], quality)
            self.assertIn("age 7 min", result.stdout)
            self.assertIn("This is the last price known; it is not fresh, and not given out.", result.stdout)

    async def test_no_price_yet(self) -> None:
        self.house.view.explained["BTC"] = (None, [view_of("coinbase", via="", raw=None, value=None, verdict=SILENT)])
        result = await self.ask("explain", "BTC")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("BTC: no source has given a price yet.", result.stdout)

    async def test_refused(self) -> None:
        result = await self.ask("explain", "SOLL")
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(result.stderr, "SOLL is not among the assets. Near to it: SOL (Solana). (unknown_asset)\n")
        result = await self.ask("explain", "SOLL", "--json")
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(json.loads(result.stdout)["nearest"], ["SOL"])
        result = await self.ask("explain", "BTC", key=STRANGER)
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(result.stderr, "BTC: Nobody has this key, or it was taken back. (bad_key)\n")

    async def test_somebody_else_answers(self) -> None:
        for answer in (b'{"asset":"BTC"}', b'{"asset":"BTC","name":"","home":"","sources":[{}]}', b"[]"):
            port = self.saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            result = await self.ask("explain", "BTC", "--port", str(port))
            self.assertEqual((result.exit_code, result.stdout), (3, ""))
            self.assertIn("not in the words of a tbeast daemon", result.stderr)

    async def test_nothing_that_commands_a_terminal_is_printed(self) -> None:
        self.explain(view_of("coinbase", symbol="\x1b[2J", why="[red]\x9b2J[/red]"))
        result = await self.ask("explain", "BTC")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("?[2J", result.stdout)
        self.assertIn("[red]?2J[/red]", result.stdout)


class RealTests(OpenDoors):
    simulated = False

    async def test_what_is_real_is_not_called_simulated(self) -> None:
        now = self.house.time
        quote = quote_of("BTC", observed_at=now, fresh_until=now + 60.0)
        self.house.view.explained["BTC"] = (quote, [view_of("coinbase")])
        for arguments in (("explain", "BTC"), ("price", "BTC"), ("price", "BTC", "--udp"), ("watch", "--count", "1")):
            result = await self.ask(*arguments)
            self.assertEqual(result.exit_code, 0, result.stderr)
            self.assertIn("83421.57", result.stdout)
            self.assertNotIn("SIMULATED", result.stdout)


class MisuseTests(SynchronousTestCase):
    def test_misuse(self) -> None:
        for arguments, words in (
            ([], "Missing argument"),
            (["BTC-USDT"], "An explanation is in USD"),
            (["../prices"], "is no asset"),
            (["BTC", "ETH"], "unexpected extra argument"),
        ):
            result = CliRunner().invoke(main, ["explain", "--key", PARTNER, *arguments], env=dict.fromkeys(SETTINGS))
            self.assertEqual((result.exit_code, result.stdout), (2, ""), arguments)
            self.assertIn(words, result.stderr)
