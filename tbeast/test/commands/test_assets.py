"""tbeast assets, on a real database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store.assetrows import read, read_rows
from tbeast.adapters.store.postgres import connect, target
from tbeast.commands.assets import command
from tbeast.domain.assetmap import AssetMap
from tbeast.settings import SETTINGS
from tbeast.testing.postgres import fresh_database


class AssetsCommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.url = fresh_database(self)

    def tbeast(self, *arguments: str) -> Result:
        clean = dict.fromkeys(SETTINGS)
        return CliRunner().invoke(command, arguments, env={**clean, "AURORA_URL": self.url})

    def done(self, *arguments: str) -> str:
        result = self.tbeast(*arguments)
        self.assertEqual((result.exit_code, result.stderr), (0, ""), result.output)
        return result.stdout

    def refused(self, *arguments: str) -> str:
        result = self.tbeast(*arguments)
        self.assertEqual((result.exit_code, result.stdout), (1, ""), result.output)
        return result.stderr.strip()

    def asked(self, call: Any) -> Any:
        connection = connect(target(self.url))
        found = call(connection)
        connection.close()
        return found

    def map(self) -> AssetMap:
        found: AssetMap = self.asked(read)
        return found

    def written(self, text: str) -> str:
        path = Path(self.mktemp())
        path.write_text(text, "utf-8")
        return str(path)

    def test_the_list(self) -> None:
        lines = [line for line in self.done("list").splitlines() if "│" in line]
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
        self.assertIn(["BTC", "coinbase", "BTC-USD", "Bitcoin", "Major Currencies", "home"], cells)
        self.assertEqual(len(cells), len(self.asked(read_rows)[1]))
        found = json.loads(self.done("list", "--json", "--exchange", "okx"))
        self.assertEqual({row["exchange"] for row in found["listings"]}, {"okx"})
        self.assertEqual(len(found["feeds"]), 6)

    def test_switching(self) -> None:
        self.assertRegex(self.done("disable", "btc", "--exchange", "okx"), r"^The map has 150 assets and 2 stablecoins")
        self.assertNotIn("okx", self.map().assets["BTC"].symbols)
        self.assertIn("has 149 assets", self.done("disable", "BTC"))
        self.assertIn("off", self.done("list"))
        self.assertIn("has 150 assets", self.done("enable", "BTC"))
        self.done("disable", "--exchange", "kraken")
        self.assertEqual(self.map().subscriptions("kraken"), {})
        self.assertEqual(self.refused("disable", "NOPE"), "there is no row of NOPE")
        self.assertEqual(self.refused("disable", "BTC", "--exchange", "binance"), "there is no row of BTC on binance")
        self.assertEqual(self.tbeast("enable").exit_code, 2)

    def test_what_would_leave_no_map_is_not_done(self) -> None:
        for exchange in ("coinbase", "gemini", "kraken", "gateio", "cryptocom"):
            self.done("disable", "--exchange", exchange)
        self.assertIn("no asset is switched on", self.refused("disable", "--exchange", "okx"))
        self.assertTrue(self.map().subscriptions("okx"))

    def test_there_and_back(self) -> None:
        text = self.done("export")
        before = self.asked(read_rows)
        self.assertIn("BTC,coinbase,BTC-USD,Bitcoin,Major Currencies,true,false,true,true,0\n", text)
        self.done("disable", "BTC")
        self.done("import", self.written(text))
        self.assertEqual(self.asked(read_rows), before)

    def test_an_edited_file(self) -> None:
        lines = self.done("export").splitlines()
        kept = [line for line in lines if not line.startswith("ETH,")]
        self.assertIn("has 149 assets", self.done("import", self.written("\n".join(kept))))
        self.assertNotIn("ETH", self.map().assets)

    def test_a_file_at_fault_changes_nothing(self) -> None:
        text = self.done("export")
        before = self.asked(read_rows)
        header, first, *rest = text.splitlines()
        for bad, fault in (
            ("", "the first line must be asset,exchange,symbol"),
            ("\n".join((header, first + ",x", *rest)), "line 2: there must be 10 cells"),
            ("\n".join((header, "BTC,okx", *rest)), "line 2: there must be 10 cells"),
            (text.replace(",true,false,true,true,0", ",yes,false,true,true,0", 1), "home must be true or false"),
            (text.replace("BTC-USD,", "ETH-USD,"), "belongs to"),
        ):
            self.assertIn(fault, self.refused("import", self.written(bad)))
        self.assertEqual(self.asked(read_rows), before)
