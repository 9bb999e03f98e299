"""Every fault of the lab, on every exchange: flagged within its bound, no wrong price called good, healed by itself.

One daemon with a lab of its own for each exchange, all at once; each fault is one test. While a fault lasts and after,
every price on the shelf is held against the lab's truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, ensureDeferred, gatherResults
from twisted.trial.unittest import TestCase

from tbeast.domain.assetmap import EXCHANGES
from tbeast.test.integration.daemons import Daemon, sleep

WRONG_BP = 25.0
"""How far from the truth a price called good may lie: the venues' noise, and what moves between two looks."""

HEAL_SECONDS = 75.0
"""A backoff at its cap of 60 s, and a moment to subscribe."""

Flag = Callable[[Daemon, str], object]


def faulted(*reasons: str) -> Flag:
    """Counted among the feed's faults or its dropped ticks, under one of these reasons."""

    def flag(daemon: Daemon, exchange: str) -> int:
        families = ("feed_faults", "feed_dropped_ticks")
        return sum(daemon.count(family, exchange, reason) for family in families for reason in reasons)

    return flag


def judged(*verdicts: str, most_of_all: bool = False) -> Flag:
    """Some of the exchange's sources (or more than half) have one of these verdicts."""

    def flag(daemon: Daemon, exchange: str) -> bool:
        found = daemon.verdicts(exchange, *verdicts)
        return 2 * found > len(daemon.views(exchange)) if most_of_all else found > 0

    return flag


def not_live(daemon: Daemon, exchange: str) -> object:
    return daemon.feed(exchange).state != "live"


class FaultTests(TestCase):
    timeout = 300
    exchanges = EXCHANGES

    async def each(self, scenario: Callable[[Daemon, str], Any], *exchanges: str) -> None:
        """Run one scenario for each exchange, every one with a daemon and a lab of its own."""
        runs = [
            ensureDeferred(self.one(scenario, exchange, seed)) for seed, exchange in enumerate(exchanges or EXCHANGES)
        ]
        outcomes = await DeferredList(runs, consumeErrors=True)
        for worked, outcome in outcomes:
            if not worked:
                outcome.raiseException()  # type: ignore[attr-defined]

    async def one(self, scenario: Callable[[Daemon, str], Any], exchange: str, seed: int) -> None:
        daemon = Daemon(self.mktemp(), TBEAST_LAB_SEED=seed)
        self.wrong: list[str] = []
        try:
            await daemon.start()
            await daemon.until(lambda: daemon.all_live() and daemon.all_good(), 30.0, "a good start")
            await scenario(daemon, exchange)
        finally:
            await daemon.stop()

    async def compare(self, daemon: Daemon) -> None:
        """Hold what is on the shelf against the truth."""
        truth = (await daemon.lab("GET", "/prices"))["mids"]
        for asset, quote in daemon.quotes().items():
            off = abs(quote.price / truth[asset] - 1.0) * 1e4
            if quote.quality == "good" and off > WRONG_BP:
                raise AssertionError(
                    f"{asset} is called good at {quote.price}, {off:.1f} bp from {truth[asset]}: {quote}"
                )

    async def while_comparing(self, daemon: Daemon, waiting: Deferred[float]) -> float:
        comparing = True

        async def compare() -> None:
            while comparing:
                await self.compare(daemon)
                await sleep(0.5)

        beside = ensureDeferred(compare())
        try:
            took = await waiting
        finally:
            comparing = False
            await beside
        return took

    async def suffer(
        self, kind: str, flag: Flag, bound: float, *exchanges: str, linger: float = 2.0, **params: object
    ) -> None:
        """Inject, wait for the flag, look on for a while, take it away, and wait for health."""

        async def scenario(daemon: Daemon, exchange: str) -> None:
            await daemon.fault(exchange, kind, **params)
            name = f"{kind} on {exchange} is flagged"
            flagged = ensureDeferred(daemon.until(lambda: flag(daemon, exchange), bound, name))
            await self.while_comparing(daemon, flagged)
            await self.while_comparing(daemon, sleep(linger).addCallback(lambda _: linger))
            await self.recover(daemon, kind, exchange)

        await self.each(scenario, *exchanges)

    async def recover(self, daemon: Daemon, kind: str, exchange: str) -> None:
        await daemon.heal()
        healthy = ensureDeferred(
            daemon.until(
                lambda: daemon.all_live() and daemon.all_good(), HEAL_SECONDS, f"health after {kind} on {exchange}"
            )
        )
        await self.while_comparing(daemon, healthy)

    # What comes wrong.

    async def test_freeze(self) -> None:
        await self.suffer("freeze", judged("suspect", "set_aside"), 120.0)

    async def test_drift(self) -> None:
        await self.suffer("drift", judged("set_aside", most_of_all=True), 20.0, bp_per_second=20.0)

    async def test_another_coin(self) -> None:
        await self.suffer("price_scale", judged("expelled", most_of_all=True), 20.0, factor=1.5)

    async def test_another_coin_of_ten_times_the_price(self) -> None:
        await self.suffer("price_scale", judged("set_aside", most_of_all=True), 15.0, factor=10.0)

    async def test_crossed_book(self) -> None:
        await self.suffer("crossed", faulted("crossed"), 10.0)

    async def test_garbage_values(self) -> None:
        reasons = ("no_price", "no_quote", "not_positive", "not_finite", "malformed")
        await self.suffer("garbage", faulted(*reasons), 10.0, linger=5.0)

    async def test_malformed(self) -> None:
        await self.suffer("malformed", faulted("malformed"), 10.0)

    async def test_binary_garbage(self) -> None:
        await self.suffer("malformed", faulted("malformed"), 10.0, how="binary")

    async def test_wrong_shape(self) -> None:
        reasons = ("malformed", "unknown_message", "no_price", "no_quote", "unknown_symbol")
        await self.suffer("malformed", faulted(*reasons), 10.0, how="wrong_shape")

    async def test_duplicate(self) -> None:
        await self.suffer("duplicate", faulted("duplicate", "sequence_gap", "out_of_order"), 10.0)

    async def test_out_of_order(self) -> None:
        await self.suffer("out_of_order", faulted("out_of_order", "sequence_gap"), 15.0)

    # What does not come.

    async def test_silence(self) -> None:
        await self.suffer("silence", not_live, 45.0)

    async def test_silence_of_prices_alone(self) -> None:
        def all_late(daemon: Daemon, exchange: str) -> bool:
            return 2 * sum(view.late for view in daemon.views(exchange)) > len(daemon.views(exchange))

        await self.suffer("silence", all_late, 60.0, keep_heartbeats=True)

    async def test_slow_drip(self) -> None:
        def slow(daemon: Daemon, exchange: str) -> object:
            views = daemon.views(exchange)
            return not_live(daemon, exchange) or 2 * sum(view.late for view in views) > len(views)

        await self.suffer("slow_drip", slow, 60.0)

    async def test_disconnect(self) -> None:
        await self.suffer("disconnect", lambda daemon, exchange: daemon.count("feed_disconnects", exchange), 5.0)

    async def test_huge_frame(self) -> None:
        await self.suffer("huge_frame", lambda daemon, exchange: daemon.count("feed_disconnects", exchange), 20.0)

    async def test_refused_connections(self) -> None:
        async def scenario(daemon: Daemon, exchange: str) -> None:
            await daemon.fault(exchange, "refuse_connect")
            await daemon.fault(exchange, "disconnect")
            down = daemon.until(lambda: daemon.feed(exchange).state == "down", 30.0, f"{exchange} is down")
            await self.while_comparing(daemon, ensureDeferred(down))
            status, body = await daemon.ready()
            self.assertEqual(status, 200)
            self.assertEqual(
                {feed["exchange"]: feed["state"] == "live" for feed in body["feeds"]},
                {name: name != exchange for name in EXCHANGES},
            )
            await self.recover(daemon, "refuse_connect", exchange)

        await self.each(scenario)

    async def test_refused_symbol(self) -> None:
        async def scenario(daemon: Daemon, exchange: str) -> None:
            symbol = daemon.parts.assets.assets["BTC"].symbols[exchange]
            await daemon.fault(exchange, "refuse_symbol", asset="BTC")
            await daemon.fault(exchange, "disconnect")

            def named() -> bool:
                status = daemon.feed(exchange)
                return symbol in (*status.refused, *status.unacknowledged)

            await self.while_comparing(daemon, ensureDeferred(daemon.until(named, 60.0, f"{symbol} is named")))
            others = daemon.until(
                lambda: daemon.feed(exchange).live_symbols >= daemon.feed(exchange).symbols - 1, 45.0,
                f"all others on {exchange} are heard",
            )  # fmt: skip
            await self.while_comparing(daemon, ensureDeferred(others))
            await daemon.heal()
            daemon.parts.feeds.reconnect(exchange, "the symbol is listed again")
            await self.recover(daemon, "refuse_symbol", exchange)

        await self.each(scenario)

    async def test_throttle(self) -> None:
        async def scenario(daemon: Daemon, exchange: str) -> None:
            await daemon.fault(exchange, "throttle")
            await daemon.fault(exchange, "disconnect")
            flagged = daemon.until(lambda: not_live(daemon, exchange), 20.0, f"{exchange} is not live")
            await self.while_comparing(daemon, ensureDeferred(flagged))
            await self.while_comparing(daemon, sleep(10.0).addCallback(lambda _: 10.0))
            self.assertGreater(daemon.count("rest_requests", exchange, "throttled"), 0)
            await self.recover(daemon, "throttle", exchange)

        await self.each(scenario)

    async def test_rest_down(self) -> None:
        async def scenario(daemon: Daemon, exchange: str) -> None:
            await daemon.fault(exchange, "rest_down")
            await daemon.fault(exchange, "silence", keep_heartbeats=True)

            def failed() -> int:
                answered = daemon.count("rest_requests", exchange, "answered")
                return daemon.count("rest_requests", exchange) - answered

            await self.while_comparing(daemon, ensureDeferred(daemon.until(failed, 60.0, "REST has failed")))
            await self.recover(daemon, "rest_down", exchange)

        await self.each(scenario)

    # What only some do.

    async def test_upgrade_notice(self) -> None:
        async def scenario(daemon: Daemon, exchange: str) -> None:
            dialed = daemon.count("feed_dials", exchange)
            await daemon.fault(exchange, "upgrade_notice", close_after_seconds=15.0)
            lost: list[int] = []

            def replaced() -> bool:
                lost.append(daemon.verdicts(exchange, "lost"))
                status = daemon.feed(exchange)
                return (
                    daemon.count("feed_dials", exchange) >= dialed + 2
                    and status.connections == 2
                    and daemon.count("feed_disconnects", exchange) >= 2
                    and status.live_symbols == status.symbols
                )

            await self.while_comparing(
                daemon, ensureDeferred(daemon.until(replaced, 14.0, "replaced before the close"))
            )
            self.assertEqual(set(lost), {0})
            await self.while_comparing(daemon, sleep(5.0).addCallback(lambda _: 5.0))
            self.assertEqual(daemon.feed(exchange).state, "live")

        await self.each(scenario, "okx")

    async def test_maintenance(self) -> None:
        await self.suffer("status", judged("halted", most_of_all=True), 5.0, "kraken")

    async def test_cancel_only(self) -> None:
        await self.suffer("status", judged("halted", most_of_all=True), 5.0, "kraken", system="cancel_only")

    async def test_sequence_gap(self) -> None:
        await self.suffer("sequence_gap", faulted("sequence_gap"), 10.0, "coinbase")

    async def test_depeg(self) -> None:
        async def scenario(daemon: Daemon, exchange: str) -> None:
            await daemon.lab("POST", "/depeg", {"rate": 0.97})

            def followed() -> bool:
                rate = daemon.parts.pricer.rate("USDT", daemon.parts.now())
                return rate is not None and abs(rate - 0.97) < 0.002 and daemon.all_good()

            await self.while_comparing(daemon, ensureDeferred(daemon.until(followed, 90.0, "USDT is worth 0.97")))
            rates = {view.rate for view in daemon.views("okx", ["BTC"])}
            self.assertEqual({round(rate or 0.0, 2) for rate in rates}, {0.97})
            await self.recover(daemon, "depeg", exchange)

        await self.each(scenario, "*")


class OutageTests(TestCase):
    """One exchange killed, all killed, none there at the start."""

    timeout = 240

    async def begun(self, **said: object) -> Daemon:
        daemon = Daemon(self.mktemp(), **said)
        self.addCleanup(lambda: ensureDeferred(daemon.stop()))
        return await daemon.start()

    async def test_all_killed_and_back(self) -> None:
        daemon = await self.begun(TBEAST_MAX_PRICE_AGE_SECONDS=20)
        await daemon.until(lambda: daemon.all_live() and daemon.all_good(), 30.0, "a good start")
        await daemon.fault("*", "refuse_connect", how="unlisten")
        await daemon.fault("*", "rest_down", how="reset")
        await daemon.fault("*", "disconnect")
        await daemon.until(lambda: not daemon.qualities().get("good"), 12.0, "nothing is called good")
        status, body = await daemon.get("/price?asset=BTC")
        self.assertEqual((status, body["quality"]), (200, "degraded"))
        await daemon.until(lambda: not daemon.quotes(), 20.0, "the shelf is empty")
        status, body = await daemon.get("/price?asset=BTC")
        self.assertEqual((status, body["code"], body["quality"]), (503, "no_fresh_price", "stale"))
        self.assertGreater(body["last_price_age_seconds"], 20.0)
        self.assertGreater(body["last_price"], 0.0)
        status, body = await daemon.ready()
        self.assertEqual((status, body["ready"]), (503, False))
        self.assertIn("no feed is live", body["reasons"])
        await daemon.heal()
        await daemon.until(lambda: daemon.all_live() and daemon.all_good(), 90.0, "everything is back")
        status, body = await daemon.get("/price?asset=BTC")
        self.assertEqual((status, body["quality"]), (200, "good"))

    async def test_nobody_there_at_the_start(self) -> None:
        nowhere = {f"TBEAST_{name.upper()}_WS_URL": "ws://127.0.0.1:1" for name in EXCHANGES}
        nowhere |= {f"TBEAST_{name.upper()}_REST_URL": "http://127.0.0.1:1" for name in EXCHANGES}
        daemon = await self.begun(TBEAST_FEEDS="live", **nowhere)
        status, body = await daemon.get("/price?asset=BTC")
        self.assertEqual((status, body["code"]), (503, "no_fresh_price"))
        status, body = await daemon.get("/live", port=daemon.settings.health_port_lpo)
        self.assertEqual(status, 200)
        status, body = await daemon.ready()
        self.assertEqual((status, len(body["feeds"])), (503, 6))
        answer = await daemon.udp(f"{daemon.parts.demo_key.key}|BTC|1".encode(), 8.0)
        assert answer is not None
        self.assertIn(b"no_fresh_price", answer)

    async def test_every_exchange_killed_in_turn(self) -> None:
        daemon = await self.begun()
        await daemon.until(lambda: daemon.all_live() and daemon.all_good(), 30.0, "a good start")
        for exchange in EXCHANGES:
            await daemon.fault(exchange, "refuse_connect", how="unlisten")
            await daemon.fault(exchange, "rest_down", how="reset")
            await daemon.fault(exchange, "disconnect")

            def voteless(name: str = exchange) -> bool:
                return daemon.verdicts(name, "lost", "stale", "silent") == len(daemon.views(name))

            await daemon.until(voteless, 15.0, f"{exchange} has no vote")
            status, body = await daemon.get("/price?asset=BTC")
            self.assertEqual((status, body["quality"], body["sources_used"]), (200, "good", 5))
            answers = await gatherResults(
                [ensureDeferred(daemon.get(f"/price?asset={asset}")) for asset in daemon.parts.assets.assets]
            )
            self.assertEqual({status for status, _ in answers}, {200})
            await daemon.heal()
            await daemon.until(lambda: daemon.all_live() and daemon.all_good(), 60.0, f"{exchange} is back")
