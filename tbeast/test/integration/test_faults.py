"""Every fault of the lab, on every exchange: flagged within its bound, no wrong price called good, healed by itself.

One daemon with a lab of its own for each exchange, all at once; each goes through the faults one after the other, at
its own pace. From the first fault to the last every price on the shelf is held against the lab's truth.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import Factory, frozen
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.trial.unittest import TestCase

from tbeast.domain.assetmap import EXCHANGES
from tbeast.test.integration.daemons import Daemon, sleep

WRONG_BP = 25.0
"""How far from the truth a price called good may lie: the venues' noise, and what moves between two looks."""

HEAL_SECONDS = 75.0
"""A backoff at its cap of 60 s, and a moment to subscribe."""

Flag = Callable[[Daemon, str], object]


def faulted(*reasons: str) -> Flag:
    """More is counted among the feed's faults or its dropped ticks, under one of these reasons, than before."""

    def flag(daemon: Daemon, exchange: str) -> int:
        families = ("feed_faults", "feed_dropped_ticks")
        return sum(daemon.count(family, exchange, reason) for family in families for reason in reasons)

    return flag


def judged(*verdicts: str, most: bool = False) -> Flag:
    """Some of the exchange's sources (or most of them) have one of these verdicts."""

    def flag(daemon: Daemon, exchange: str) -> object:
        found = daemon.verdicts(exchange, *verdicts)
        return 2 * found > len(daemon.views(exchange)) if most else found > 0

    return flag


def not_live(daemon: Daemon, exchange: str) -> object:
    return daemon.feed(exchange).state != "live"


def late(daemon: Daemon, exchange: str) -> object:
    views = daemon.views(exchange)
    return 2 * sum(view.late for view in views) > len(views)


def not_live_or_late(daemon: Daemon, exchange: str) -> object:
    return not_live(daemon, exchange) or late(daemon, exchange)


def disconnected(daemon: Daemon, exchange: str) -> int:
    return daemon.count("feed_disconnects", exchange)


def throttled(daemon: Daemon, exchange: str) -> object:
    return not_live(daemon, exchange) and daemon.count("rest_requests", exchange, "throttled")


def rest_failed(daemon: Daemon, exchange: str) -> int:
    return daemon.count("rest_requests", exchange) - daemon.count("rest_requests", exchange, "answered")


def btc_is_named(daemon: Daemon, exchange: str) -> object:
    """BTC is named as refused or silent, and all the others are heard."""
    symbol = daemon.parts.assets.assets["BTC"].symbols[exchange]
    status = daemon.feed(exchange)
    return symbol in (*status.refused, *status.unacknowledged) and status.live_symbols >= status.symbols - 1


@frozen
class Ordeal:
    """One kind of fault, and how it must show.

    @ivar flag: holds once the fault is flagged; what is a number must have grown.
    @ivar bound: in how many seconds.
    @ivar beside: further faults, injected with it.
    @ivar linger: for how long prices are watched after the flag, with the fault still there.
    @ivar exchanges: those that it can happen to.
    """

    kind: str
    flag: Flag
    bound: float
    params: dict[str, object] = Factory(dict)
    beside: Sequence[tuple[str, dict[str, object]]] = ()
    linger: float = 2.0
    exchanges: Sequence[str] = EXCHANGES
    reconnect: bool = False

    def __str__(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.kind}({said})"


NO_PRICE = ("no_price", "no_quote", "not_positive", "not_finite", "malformed")

WRONG_VALUES = (
    Ordeal("drift", judged("set_aside", most=True), 30.0, {"bp_per_second": 20.0}),
    Ordeal("price_scale", judged("expelled", most=True), 25.0, {"factor": 1.5}),
    Ordeal("price_scale", judged("set_aside", "expelled", most=True), 20.0, {"factor": 10.0}),
    Ordeal("crossed", faulted("crossed"), 10.0),
    Ordeal("garbage", faulted(*NO_PRICE), 10.0, linger=5.0),
    Ordeal("freeze", judged("suspect", "set_aside"), 120.0),
)

WRONG_FRAMES = (
    Ordeal("malformed", faulted("malformed"), 10.0),
    Ordeal("malformed", faulted("malformed"), 10.0, {"how": "binary"}),
    Ordeal("malformed", faulted(*NO_PRICE, "unknown_message", "unknown_symbol"), 10.0, {"how": "wrong_shape"}),
    Ordeal("duplicate", faulted("duplicate", "sequence_gap", "out_of_order"), 15.0),
    Ordeal("out_of_order", faulted("out_of_order", "sequence_gap"), 20.0),
    Ordeal("huge_frame", disconnected, 20.0),
    Ordeal("disconnect", disconnected, 5.0),
    Ordeal("sequence_gap", faulted("sequence_gap"), 10.0, exchanges=("coinbase",)),
    Ordeal("status", judged("halted", most=True), 5.0, exchanges=("kraken",)),
    Ordeal("status", judged("halted", most=True), 5.0, {"system": "cancel_only"}, exchanges=("kraken",)),
    Ordeal("refuse_symbol", btc_is_named, 90.0, {"asset": "BTC"}, [("disconnect", {})], reconnect=True),
)

NOTHING_COMES = (
    Ordeal("silence", not_live, 45.0),
    Ordeal("silence", late, 60.0, {"keep_heartbeats": True}),
    Ordeal("slow_drip", not_live_or_late, 60.0),
    Ordeal("rest_down", rest_failed, 60.0, beside=[("silence", {"keep_heartbeats": True})]),
)

NO_WAY_IN = (
    Ordeal("refuse_connect", judged("lost", "stale", most=True), 30.0, beside=[("disconnect", {})]),
    Ordeal("throttle", throttled, 30.0, beside=[("disconnect", {})], linger=5.0),
)


class FaultTests(TestCase):
    timeout = 900

    async def go_through(self, ordeals: Sequence[Ordeal]) -> None:
        """Let every exchange have its daemon, and every daemon go through the ordeals of that exchange."""
        failures: list[str] = []
        await self.each(lambda daemon, exchange: self.sequence(daemon, exchange, ordeals, failures), failures)
        self.assertEqual(failures, [])

    async def each(
        self, scenario: Callable[[Daemon, str], Awaitable[None]], failures: list[str], *exchanges: str
    ) -> None:
        names = exchanges or EXCHANGES
        runs = [ensureDeferred(self.one(scenario, name, seed, failures)) for seed, name in enumerate(names)]
        await gatherResults(runs)

    async def one(
        self, scenario: Callable[[Daemon, str], Awaitable[None]], exchange: str, seed: int, failures: list[str]
    ) -> None:
        daemon = Daemon(self.mktemp(), TBEAST_LAB_SEED=seed)
        try:
            await daemon.start()
            await daemon.until(lambda: daemon.all_live() and daemon.all_good(), 30.0, "a good start")
            await scenario(daemon, exchange)
        except Exception as error:  # told at the end, with whatever became of the others
            failures.append(f"{exchange}: {error!r}")
        finally:
            await daemon.stop()

    async def sequence(self, daemon: Daemon, exchange: str, ordeals: Sequence[Ordeal], failures: list[str]) -> None:
        for ordeal in ordeals:
            if exchange not in ordeal.exchanges:
                continue
            try:
                await self.suffer(daemon, exchange, ordeal)
            except AssertionError as error:
                failures.append(f"{ordeal} on {exchange}: {error}")
            await daemon.heal()
            if ordeal.reconnect:
                daemon.parts.feeds.reconnect(exchange, "the test wants the refused symbol again")
            await self.comparing(
                daemon,
                daemon.until(lambda: daemon.all_live() and daemon.all_good(), HEAL_SECONDS, f"health after {ordeal}"),
            )

    async def suffer(self, daemon: Daemon, exchange: str, ordeal: Ordeal) -> None:
        """Inject, wait for the flag, and look on for a while."""
        before = ordeal.flag(daemon, exchange)
        await daemon.fault(exchange, ordeal.kind, **ordeal.params)
        for kind, params in ordeal.beside:
            await daemon.fault(exchange, kind, **params)

        def flagged() -> object:
            found = ordeal.flag(daemon, exchange)
            return found if found is True or not isinstance(found, int | float) else found > before  # type: ignore[operator]

        await self.comparing(daemon, daemon.until(flagged, ordeal.bound, "it is flagged"))
        await self.comparing(daemon, sleep(ordeal.linger))

    async def comparing(self, daemon: Daemon, waiting: Awaitable[Any]) -> None:
        """Wait, and hold what is on the shelf against the truth all the while."""
        over: list[bool] = []

        async def compare() -> None:
            while not over:
                await self.compare(daemon)
                await sleep(0.5)

        beside = ensureDeferred(compare())
        try:
            await waiting
        finally:
            over.append(True)
            await beside

    async def compare(self, daemon: Daemon) -> None:
        truth = (await daemon.lab("GET", "/prices"))["mids"]
        for asset, quote in daemon.quotes().items():
            off = abs(quote.price / truth[asset] - 1.0) * 1e4
            if quote.quality == "good" and off > WRONG_BP:
                _, sources = daemon.parts.pricer.explain(asset, daemon.parts.now())
                views = [(view.exchange, view.verdict, view.value) for view in sources]
                raise AssertionError(f"{asset} is called good {off:.1f} bp from {truth[asset]}: {quote} {views}")

    async def test_wrong_values(self) -> None:
        await self.go_through(WRONG_VALUES)

    async def test_wrong_frames(self) -> None:
        await self.go_through(WRONG_FRAMES)

    async def test_nothing_comes(self) -> None:
        await self.go_through(NOTHING_COMES)

    async def test_no_way_in(self) -> None:
        await self.go_through(NO_WAY_IN)

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

            await self.comparing(daemon, daemon.until(replaced, 14.0, "replaced before the close"))
            await self.comparing(daemon, sleep(5.0))
            self.assertEqual(set(lost), {0})
            self.assertEqual(daemon.feed(exchange).state, "live")

        failures: list[str] = []
        await self.each(scenario, failures, "okx")
        self.assertEqual(failures, [])

    async def test_depeg(self) -> None:
        async def scenario(daemon: Daemon, exchange: str) -> None:
            await daemon.lab("POST", "/depeg", {"rate": 0.97})

            def followed() -> bool:
                rate = daemon.parts.pricer.rate("USDT", daemon.parts.now())
                return rate is not None and abs(rate - 0.97) < 0.002 and daemon.all_good()

            await self.comparing(daemon, daemon.until(followed, 90.0, "USDT is worth 0.97"))
            rates = {view.rate for view in daemon.views("okx", ["BTC"])}
            self.assertEqual({round(rate or 0.0, 2) for rate in rates}, {0.97})
            await daemon.heal()
            healthy = daemon.until(lambda: daemon.all_live() and daemon.all_good(), HEAL_SECONDS, "health")
            await self.comparing(daemon, healthy)

        failures: list[str] = []
        await self.each(scenario, failures, "*")
        self.assertEqual(failures, [])


class OutageTests(TestCase):
    """One exchange killed, all killed, none there at the start."""

    timeout = 240

    async def begun(self, **said: object) -> Daemon:
        daemon = Daemon(self.mktemp(), **said)
        self.addCleanup(lambda: ensureDeferred(daemon.stop()))
        return await daemon.start()

    async def kill(self, daemon: Daemon, exchange: str) -> None:
        await daemon.fault(exchange, "refuse_connect", how="unlisten")
        await daemon.fault(exchange, "rest_down", how="reset")
        await daemon.fault(exchange, "disconnect")

    async def test_all_killed_and_back(self) -> None:
        daemon = await self.begun(TBEAST_MAX_PRICE_AGE_SECONDS=20)
        await daemon.until(lambda: daemon.all_live() and daemon.all_good(), 30.0, "a good start")
        await self.kill(daemon, "*")
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
        answer: bytes | None = await daemon.udp(f"{daemon.parts.demo_key.key}|BTC|1".encode(), 8.0)
        assert answer is not None
        self.assertIn(b"no_fresh_price", answer)

    async def test_every_exchange_killed_in_turn(self) -> None:
        daemon = await self.begun()
        await daemon.until(lambda: daemon.all_live() and daemon.all_good(), 30.0, "a good start")
        for exchange in EXCHANGES:
            await self.kill(daemon, exchange)

            def voteless(name: str = exchange) -> bool:
                """Nothing of it votes, and what is given out was made without it."""
                silent = daemon.verdicts(name, "lost", "stale", "silent") == len(daemon.views(name))
                return silent and not any(name in quote.used for quote in daemon.quotes().values())

            await daemon.until(voteless, 25.0, f"{exchange} has no vote")
            status, body = await daemon.get("/price?asset=BTC")
            self.assertEqual((status, body["quality"], body["sources_used"]), (200, "good", 5))
            status, body = await daemon.ready()
            states = {feed["exchange"]: feed["state"] == "live" for feed in body["feeds"]}
            self.assertEqual((status, states), (200, {name: name != exchange for name in EXCHANGES}))
            answers: list[Any] = await gatherResults(
                [ensureDeferred(daemon.get(f"/price?asset={asset}")) for asset in daemon.parts.assets.assets]
            )
            self.assertEqual({status for status, _ in answers}, {200})
            await daemon.heal()
            await daemon.until(lambda: daemon.all_live() and daemon.all_good(), 60.0, f"{exchange} is back")
