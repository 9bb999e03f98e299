"""tbeast watch: what is on the screen, and the rounds against a real surface on loopback."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.trial.unittest import SynchronousTestCase

from tbeast.commands import watch
from tbeast.commands.asking import Outcome, PriceAnswer
from tbeast.commands.desks import Round
from tbeast.commands.main import main
from tbeast.commands.watch import HANDFUL, PATIENCE_SECONDS, REMEMBERED_SECONDS, SPARKS, Row, Screen
from tbeast.settings import SETTINGS
from tbeast.test.commands.opendoors import STRANGER, OpenDoors, real_reactor
from tbeast.test.servers.rooms import FREE, PARTNER

NOON = 1_776_000_000.0
URL = "http://127.0.0.1:8080"


def answered(price: float, asset: str = "BTC", **changes: Any) -> Outcome:
    members: dict[str, Any] = {
        "asset": asset, "price": price, "source": "median", "cache_age_seconds": 0.25, "quote": "USD",
        "quality": "good", "sources_used": 5, "sources_seen": 6, "spread_bp": 1.84, "simulated": False, **changes,
    }  # fmt: skip
    return Outcome(asset, b"{}", PriceAnswer(**members))


def refused(asset: str, code: str = "no_fresh_price") -> Outcome:
    return Outcome(asset, b"{}", None, code, "There is none.")


def round_of(*outcomes: Outcome, status: int = 200, simulated: bool = False) -> Round:
    return Round(status, "falcon", simulated, list(outcomes))


class ScreenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.screen = Screen(["BTC", "ETH"], URL)

    def text(self, now: float, ascii_only: bool = False, colours: bool = False, width: int = 120) -> str:
        out = Console(
            file=io.StringIO(), width=width, force_terminal=colours, color_system="standard" if colours else None,
            highlight=False, no_color=not colours,
        )  # fmt: skip
        out.print(self.screen.shown(now, width, ascii_only))
        assert isinstance(out.file, io.StringIO)
        return out.file.getvalue()

    def row(self, asset: str, now: float) -> list[str]:
        (line,) = (line for line in self.text(now).splitlines() if line.startswith(asset))
        return re.split("  +", line.strip())

    def test_prices(self) -> None:
        self.screen.answered([round_of(answered(83421.5), answered(3180.25, "ETH", quality="degraded"))], NOON)
        text = self.text(NOON + 0.5)
        self.assertTrue(text.startswith(f"tbeast falcon at {URL}  2026-04-12T13:20:00Z"), text)
        self.assertEqual(
            self.row("BTC", NOON + 0.5)[:7], ["BTC", "83421.50 USD", "good", "median", "5/6", "1.8 bp", "0.75 s"]
        )
        self.assertEqual(self.row("ETH", NOON + 0.5)[1:3], ["3180.250 USD", "degraded"])

    def test_directions(self) -> None:
        for price, arrow, plain, colour in (
            (10.0, "", "", ""), (11.0, "\u25b2", "+", "\x1b[32m"), (10.5, "\u25bc", "-", "\x1b[31m"),
            (10.5, "", "", ""),
        ):  # fmt: skip
            self.screen.answered([round_of(answered(price), answered(1.0, "ETH"))], NOON)
            text = self.text(NOON)
            self.assertEqual([mark for mark in "\u25b2\u25bc" if mark in text], [arrow] if arrow else [])
            line = self.text(NOON, ascii_only=True).splitlines()[3]
            self.assertTrue(re.search(rf"{price:.5f} USD +{re.escape(plain)} +good", line), line)
            self.assertIn(f"{colour}{price:.5f}", re.sub(" +", "", self.text(NOON, colours=True)))

    def test_a_direction_is_of_the_last_price_known(self) -> None:
        self.screen.answered([round_of(answered(10.0), refused("ETH"))], NOON)
        self.screen.answered([round_of(refused("BTC"), refused("ETH"))], NOON + 1.0)
        self.screen.answered([round_of(answered(9.0), refused("ETH"))], NOON + 100.0)
        self.assertIn("\u25bc", self.text(NOON + 100.0))

    def test_a_refusal_has_no_price(self) -> None:
        self.screen.answered([round_of(answered(10.0), answered(20.0, "ETH"))], NOON)
        self.screen.answered([round_of(answered(10.0), refused("ETH"))], NOON + 1.0)
        self.assertEqual(self.row("ETH", NOON + 1.0)[:2], ["ETH", "no_fresh_price"])
        self.assertNotIn("20.0", self.text(NOON + 1.0))

    def test_simulated(self) -> None:
        self.assertNotIn("SIMULATED", self.text(NOON))
        self.screen.answered([round_of(refused("BTC"), refused("ETH"), simulated=True)], NOON)
        self.assertIn("SIMULATED", self.text(NOON))
        self.screen.answered([round_of(answered(1.0), refused("ETH"))], NOON)
        self.assertNotIn("SIMULATED", self.text(NOON))
        self.screen.answered([round_of(answered(1.0, simulated=True), refused("ETH"))], NOON)
        self.assertIn("SIMULATED", self.text(NOON))

    def test_several_questions_make_one_round(self) -> None:
        self.screen.answered([round_of(answered(10.0)), round_of(answered(20.0, "ETH"))], NOON)
        self.assertEqual(self.row("ETH", NOON)[1], "20.00000 USD")

    def test_a_round_with_a_limit_keeps_the_node(self) -> None:
        self.screen.answered([round_of(answered(10.0), answered(20.0, "ETH"), simulated=True)], NOON)
        limited = [refused("BTC", "rate_limited"), refused("ETH", "rate_limited")]
        self.screen.answered([Round(429, "", False, limited)], NOON)
        text = self.text(NOON)
        self.assertIn("falcon", text)
        self.assertIn("SIMULATED", text)
        self.assertEqual(self.row("BTC", NOON)[1], "rate_limited")

    def test_while_nobody_answers_no_price_has_a_quality(self) -> None:
        self.screen.answered([round_of(answered(10.0), answered(20.0, "ETH"))], NOON)
        self.screen.answered([round_of(answered(11.0), refused("ETH"))], NOON + 1.0)
        self.screen.asking(NOON + 2.0)
        self.screen.unanswered(f"no answer from {URL}: connection refused")
        text = self.text(NOON + 9.0)
        self.assertIn(f"no answer from {URL}: connection refused; the last answer is 8 s old; still asking", text)
        self.assertEqual(
            self.row("BTC", NOON + 9.0)[:6], ["BTC", "11.00000 USD", "no answer", "median", "5/6", "1.8 bp"]
        )
        self.assertEqual(self.row("BTC", NOON + 9.0)[6], "8.25 s")
        self.assertNotIn("\u25b2", text)
        self.assertNotIn("good", text)
        self.assertNotIn("no_fresh_price", text)
        self.assertIn("\x1b[2m", self.text(NOON + 9.0, colours=True))
        self.screen.answered([round_of(answered(12.0), refused("ETH"))], NOON + 10.0)
        self.assertNotIn("no answer", self.text(NOON + 10.0))

    def test_an_answer_that_is_long_in_coming_counts_as_none(self) -> None:
        self.screen.answered([round_of(answered(10.0), answered(20.0, "ETH"))], NOON)
        self.screen.asking(NOON + 1.0)
        self.assertIn("good", self.text(NOON + 1.0 + PATIENCE_SECONDS))
        text = self.text(NOON + 1.1 + PATIENCE_SECONDS)
        self.assertNotIn("good", text)
        self.assertIn(f"no answer yet from {URL}; the last answer is 3 s old", text)
        # and between the rounds nobody waits
        self.screen.answered([round_of(answered(10.0), answered(20.0, "ETH"))], NOON + 4.0)
        self.assertIn("good", self.text(NOON + 60.0))

    def test_before_the_first_answer(self) -> None:
        text = self.text(NOON)
        self.assertTrue(text.startswith(f"tbeast at {URL}"), text)
        self.screen.unanswered("no answer")
        self.assertIn("no answer; still asking", self.text(NOON))

    def test_on_a_plain_terminal_it_is_plain(self) -> None:
        self.screen.answered([round_of(answered(10.0), answered(20.0, "ETH"))], NOON)
        self.screen.answered([round_of(answered(11.0), answered(19.0, "ETH"))], NOON + 5.0)
        out = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=120)
        self.assertTrue(out.options.ascii_only)
        out.print(self.screen.shown(NOON + 5.0, out.width, out.options.ascii_only))

    def test_a_narrow_terminal_has_fewer_columns_and_nothing_cut(self) -> None:
        self.screen.answered([round_of(answered(83421.5), refused("ETH", "unknown_asset"))], NOON)
        for width, last in ((120, "last minute"), (100, "age"), (80, "age"), (65, "age"), (55, "age"), (45, "quality")):
            _, heads, _, first, second = self.text(NOON, width=width).splitlines()[-5:]
            self.assertTrue(heads.rstrip().endswith(last), (width, heads))
            self.assertTrue(all(len(line) <= width for line in (heads, first, second)), width)
            self.assertIn("83421.50 USD", first)
            self.assertIn("unknown_asset", second)
            self.assertNotIn("\u2026", self.text(NOON, width=width))

    def test_lines(self) -> None:
        self.assertEqual(self.screen.lines(NOON), [])
        self.screen.answered([round_of(answered(83421.57, simulated=True), refused("ETH"))], NOON)
        self.assertEqual(
            self.screen.lines(NOON),
            [
                "2026-04-12T13:20:00Z  BTC  83421.57 USD  good  median  5/6 sources  age 0.25 s  spread 1.8 bp"
                "  SIMULATED",
                "2026-04-12T13:20:00Z  ETH  -  There is none. (no_fresh_price)",
            ],
        )


class SparklineTests(SynchronousTestCase):
    def sparkline(self, *points: tuple[float, float], now: float = 0.0, blocks: str = "01234567") -> str:
        row = Row("BTC")
        for at, price in points:
            row.take(answered(price), NOON + at)
        return row.sparkline(NOON + now, blocks)

    def test_a_minute_of_rising(self) -> None:
        points = [(float(second), 100.0 + second) for second in range(-60, 1)]
        self.assertEqual(self.sparkline(*points), "00111223334445566677")

    def test_nothing_before_the_first(self) -> None:
        self.assertEqual(self.sparkline((-3.0, 5.0), (0.0, 6.0)), " " * (SPARKS - 2) + "07")

    def test_it_moves_on_and_ends(self) -> None:
        points = ((-3.0, 5.0), (0.0, 6.0))
        self.assertEqual(self.sparkline(*points, now=30.0), " " * 8 + "07" + " " * 10)
        self.assertEqual(self.sparkline(*points, now=61.0), "")

    def test_a_price_that_stands_still(self) -> None:
        self.assertEqual(self.sparkline((-3.0, 5.0), (0.0, 5.0)), " " * (SPARKS - 2) + "33")

    def test_gaps_hold_the_last_price(self) -> None:
        self.assertEqual(self.sparkline((-9.0, 5.0), (0.0, 6.0)), " " * (SPARKS - 4) + "0007")

    def test_what_is_over_is_forgotten(self) -> None:
        row = Row("BTC")
        for second in range(1000):
            row.take(answered(float(second + 1)), NOON + second)
        self.assertLessEqual(len(row.history), REMEMBERED_SECONDS + 1)

    @given(
        st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(1e-9, 1e9)), max_size=40), st.floats(0.0, 100.0),
        st.sampled_from(["01234567", "ab"]),
    )  # fmt: skip
    @settings(deadline=None, max_examples=100)
    def test_it_is_always_as_long(self, steps: list[tuple[float, float]], rest: float, blocks: str) -> None:
        points, at = [], 0.0
        for step, price in steps:
            at += step
            points.append((at, price))
        line = self.sparkline(*points, now=at + rest, blocks=blocks)
        self.assertIn(len(line), (0, SPARKS))
        self.assertLessEqual(set(line), {" ", *blocks})


class RoundsTests(OpenDoors):
    async def test_lines_on_a_pipe(self) -> None:
        result = await self.ask("watch", "btc", "NOPE", "--count", "2", "--every", "0.1")
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        lines = result.stdout.splitlines()
        self.assertEqual(len(lines), 4)
        for line in lines[::2]:
            self.assertTrue(
                line.endswith("Z  BTC  83421.57 USD  good  median  3/4 sources  age 0.41 s  spread 1.8 bp  SIMULATED")
            )
        for line in lines[1::2]:
            self.assertTrue(line.endswith("Z  NOPE  -  The asset is not known. (unknown_asset)"))
        self.assertNotIn("\x1b", result.stdout)
        self.assertEqual(self.site.asked, [b"/prices?assets=BTC%2CNOPE"] * 2)

    async def test_a_handful_without_being_asked(self) -> None:
        result = await self.ask("watch", "--count", "1")
        self.assertEqual([line.split()[1] for line in result.stdout.splitlines()], list(HANDFUL))

    def between_rounds(self, work: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """Instead of waiting for the next round, do this; it is told how many rounds there were."""
        rounds = count(1)

        def instead(_: float) -> None:
            number = next(rounds)
            call: Any = blockingCallFromThread
            call(real_reactor, lambda: Deferred.fromCoroutine(work(number)))

        self.patch(watch, "sleep", instead)

    async def test_one_connection_serves_all_rounds(self) -> None:
        seen: list[Any] = []

        async def look(_: int) -> None:
            seen.extend(self.site.channels)

        self.between_rounds(look)
        await self.ask("watch", "BTC", "--count", "3")
        self.assertEqual(len(seen), 2)
        self.assertIs(seen[0], seen[1])

    async def test_the_daemon_may_hang_up_between_the_rounds(self) -> None:
        hung_up: list[Any] = []

        async def hang_up(_: int) -> None:
            hung_up.extend(self.site.channels)
            await self.close_connections()

        self.between_rounds(hang_up)
        result = await self.ask("watch", "BTC", "--count", "3")
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        self.assertEqual(len(result.stdout.splitlines()), 3)
        self.assertEqual(len(set(hung_up)), 2)

    async def test_the_daemon_goes_away_and_comes_back(self) -> None:
        doors: list[Any] = [real_reactor.listenTCP(0, self.site, interface="127.0.0.1")]
        port = doors[0].getHost().port

        async def come_and_go(rounds: int) -> None:
            if rounds == 1:
                await maybeDeferred(doors.pop().stopListening)
                await self.close_connections()
            elif rounds == 3:
                doors.append(real_reactor.listenTCP(port, self.site, interface="127.0.0.1"))

        self.between_rounds(come_and_go)
        result = await self.ask("watch", "BTC", "--count", "5", "--port", str(port))
        await maybeDeferred(doors.pop().stopListening)
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(len(result.stdout.splitlines()), 3)
        url = f"http://127.0.0.1:{port}"
        self.assertEqual(
            result.stderr, f"no answer from {url}: connection refused; still asking\n{url} answers again\n"
        )

    async def test_nobody_ever_answers(self) -> None:
        result = await self.ask("watch", "BTC", "--count", "2", "--every", "0.1", "--port", str(self.saying(b"")))
        self.assertEqual((result.exit_code, result.stdout), (3, ""))
        self.assertEqual(result.stderr.count("still asking"), 1)

    async def test_a_key_that_nobody_has_ends_it(self) -> None:
        result = await self.ask("watch", "BTC", key=STRANGER)
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(result.stderr, "BTC: Nobody has this key, or it was taken back. (bad_key)\n")

    async def test_a_limit_does_not_end_it(self) -> None:
        result = await self.ask("watch", "BTC", "--count", "7", "--every", "0.1", key=FREE)
        self.assertEqual(result.exit_code, 0)
        lines = result.stdout.splitlines()
        self.assertIn("83421.57 USD", lines[4])
        self.assertIn("(rate_limited)", lines[6])

    async def test_more_assets_than_one_question_may_hold(self) -> None:
        assets = [f"A{number}" for number in range(31)]
        result = await self.ask("watch", *assets, "--count", "1")
        self.assertEqual([line.split()[1] for line in result.stdout.splitlines()], assets)
        self.assertEqual(len(self.site.asked), 2)

    async def test_in_a_terminal_until_it_is_interrupted(self) -> None:
        screen, status = await deferToThread(self.watch_in_terminal, b"83421.57")
        self.assertEqual(status, 0)
        for words in ("tbeast node-1 at http://127.0.0.1:", "SIMULATED", "last minute", "83421.57 USD", "degraded"):
            self.assertIn(words, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen))
        self.assertIn("\x1b[?25l", screen)
        self.assertEqual(screen.rfind("\x1b[?25h") > screen.rfind("\x1b[?25l"), True, "the cursor is given back")
        self.assertNotIn("Traceback", screen)
        self.assertNotIn("Aborted", screen)

    def watch_in_terminal(self, until: bytes) -> tuple[str, int]:
        """Run it in a terminal of its own; interrupt it as Ctrl-C does, once these bytes were shown."""
        ours, theirs = pty.openpty()
        environment = {name: text for name, text in self.environment(COLUMNS="110", LINES="30").items() if text}
        running = subprocess.Popen(
            [sys.executable, "-c", "from tbeast.commands.main import main; main()", "watch", "BTC", "ETH",
                "--key", PARTNER],
            env={**environment, "PYTHONPATH": ":".join(sys.path), "TERM": "xterm-256color",
                "PYTHONIOENCODING": "utf-8"},
            stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        interrupted = False
        try:
            while select.select([ours], [], [], 30.0)[0]:
                try:
                    part = os.read(ours, 65536)
                except OSError:  # Linux's end of a terminal
                    break
                if not part:
                    break
                shown += part
                if until in shown and not interrupted:
                    interrupted = True
                    running.send_signal(signal.SIGINT)
            return shown.decode("utf-8"), running.wait(30.0)
        finally:
            os.close(ours)
            if running.poll() is None:
                running.kill()
                running.wait()


class MisuseTests(SynchronousTestCase):
    def test_misuse(self) -> None:
        for arguments, words in (
            (["--every", "0"], "is not in the range"),
            (["--count", "0"], "is not in the range"),
            (["BTC;"], "is no asset"),
        ):
            result = CliRunner().invoke(main, ["watch", "--key", PARTNER, *arguments], env=dict.fromkeys(SETTINGS))
            self.assertEqual((result.exit_code, result.stdout), (2, ""), arguments)
            self.assertIn(words, result.stderr)
