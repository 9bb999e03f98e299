"""What a whole daemon exports: that it says what is so, in good days and in bad ones."""

from __future__ import annotations

from math import inf
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tbeast.domain.clusterstats import OF_PRICES
from tbeast.domain.counters import FAMILIES
from tbeast.domain.governor import STATES as GOVERNOR_STATES
from tbeast.servers.metrics import GAUGES, MORE_COUNTERS, PART_STATES, TIMES
from tbeast.test.integration.accounts import AccountsCase
from tbeast.test.integration.daemons import WORKERS, Daemon, sleep

LOOKS = 600
LOOK_SECONDS = 0.1

Samples = dict[str, dict[tuple[str, ...], float]]


class MonitoringTests(AccountsCase):
    partner = ""

    async def scrape(self, daemon: Daemon) -> Samples:
        """By name without its prefix, then by label values in the order of the labels' names."""
        url = f"http://127.0.0.1:{daemon.settings.health_port_lpo}/metrics"
        status, _, body = await daemon.fetcher.fetch(url, {})
        self.assertEqual(200, status)
        found: Samples = {}
        for family in text_string_to_metric_families(body.decode()):
            name = family.name.removeprefix("tbeast_")
            found.setdefault(f"{name}_total" if family.type == "counter" else name, {})
            for sample in family.samples:
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                found.setdefault(sample.name.removeprefix("tbeast_"), {})[labels] = sample.value
        return found

    async def well(self, **said: Any) -> Daemon:
        daemon = await self.daemon(**said)
        await daemon.until(daemon.all_live, 60, "all feeds live")
        await daemon.until(daemon.all_good, 60, "all prices are good")
        return daemon

    async def ask(self, daemon: Daemon, times: int) -> None:
        """Ask so often, with a key that may."""
        if not self.partner:
            self.partner = self.key("partner")
            await self.accepted(daemon, self.partner)
        for _ in range(times):
            self.assertEqual(200, (await daemon.get("/price?asset=btc", self.partner))[0])

    async def until_scraped(
        self, daemon: Daemon, name: str, labels: tuple[str, ...], least: float, most: float | None = None
    ) -> Samples:
        """Scrape until it says so much, or up to C{most}."""
        for _ in range(LOOKS):
            found = await self.scrape(daemon)
            value = found[name].get(labels, 0.0)
            if least <= value <= (least if most is None else most):
                return found
            await sleep(LOOK_SECONDS)
        raise self.failureException(f"{name} of {labels} stays {value}, and not {least}")

    async def test_a_good_day(self) -> None:
        cache = self.valkey()
        daemon = await self.well(CACHE_URL=cache.url)
        await self.ask(daemon, 20)
        found = await self.until_scraped(daemon, "requests_total", ("http", "lpo", "200"), 20.0, inf)
        families = [*(f"{name}_total" for name in (FAMILIES.keys() - {TIMES}) | MORE_COUNTERS.keys()), *GAUGES]
        self.assertEqual([], [name for name in families if name not in found])
        self.assertEqual((1.0, 1.0, 1.0), tuple(found[name][()] for name in ("healthy", "ready", "simulated")))
        live = {labels[0] for labels, value in found["feed_state"].items() if labels[1] == "live" and value == 1.0}
        self.assertEqual(set(daemon.parts.exchanges), live)
        self.assertEqual(len(daemon.parts.assets.assets), found["assets"]["good",])
        self.assertEqual(0.0, found["requests_total"]["http", "lpo", "500"])
        for name in ("feed_oldest_seconds", "feed_delay_seconds", "rest_late_symbols", "rest_fed_symbols"):
            self.assertEqual(live, {labels[0] for labels in found[name]}, name)
        median = {labels[0]: value for labels, value in found["feed_lag_seconds"].items() if labels[1] == "median"}
        self.assertTrue(median)
        self.assertTrue(all(-1.0 < value < 5.0 for value in median.values()), median)
        self.assertLess(found["process_resident_memory_bytes"][()], found["memory_limit_bytes"][()])
        ((version, *_),) = found["info"]
        self.assertTrue(version)
        if WORKERS != "1":
            numbers = {str(number) for number in range(1, int(WORKERS) + 1)}
            for name in ("worker_memory_bytes", "worker_cpu_seconds_total", "worker_open_fds"):
                self.assertEqual(numbers, {labels[0] for labels in found[name]}, name)

    async def test_parts_are_in_states_that_are_known(self) -> None:
        """Alerts name them, so none may be in a state that nobody has foreseen."""
        cache = self.valkey()
        daemon = await self.well(CACHE_URL=cache.url)
        found = await self.scrape(daemon)
        states: dict[str, set[str]] = {}
        for part, state in found["part_state"]:
            states.setdefault(part, set()).add(state)
        expected = PART_STATES.keys() - (set() if WORKERS != "1" else {"workers"})
        self.assertEqual({part: set(PART_STATES[part]) for part in expected}, states)
        for part in states:
            held = [value for labels, value in found["part_state"].items() if labels[0] == part]
            self.assertEqual(1.0, sum(held), part)

    async def test_an_exchange_goes_away(self) -> None:
        daemon = await self.well()
        await daemon.fault("kraken", "refuse_connect", how="unlisten")
        await daemon.fault("kraken", "rest_down", how="reset")
        await daemon.fault("kraken", "disconnect")
        found = await self.until_scraped(daemon, "feed_state", ("kraken", "down"), 1.0)
        self.assertEqual(0.0, found["feed_state"]["kraken", "live"])
        await daemon.heal()
        await self.until_scraped(daemon, "feed_state", ("kraken", "live"), 1.0)

    async def test_the_database_goes_away(self) -> None:
        daemon = await self.well()
        await self.ask(daemon, 1)
        self.database.kill()
        await self.ask(daemon, 1)
        found = await self.until_scraped(daemon, "part_state", ("usage", "behind"), 1.0)
        self.assertEqual(0.0, found["part_state"]["usage", "ok"])
        found = await self.until_scraped(daemon, "part_state", ("database", "away"), 1.0)
        self.assertGreater(found["usage_behind_seconds"][()], 0.0)
        self.assertGreater(found["usage_spool_limit_bytes"][()], found["usage_spooled_bytes"][()])
        self.assertGreater(found["usage_spooled_bytes"][()], 0.0)
        self.database.start()
        found = await self.until_scraped(daemon, "part_state", ("usage", "ok"), 1.0)
        self.assertEqual(0.0, found["usage_behind_seconds"][()])

    async def test_times_lag_and_connections(self) -> None:
        """What other parts measure arrives here."""
        daemon = await self.well()
        await self.ask(daemon, 30)
        found = await self.until_scraped(daemon, "response_seconds_count", ("lpo",), 30.0, inf)
        self.assertEqual(found["response_seconds_bucket"]["+Inf", "lpo"], found["response_seconds_count"]["lpo",])
        self.assertGreaterEqual(found["reactor_lag_max_seconds"][()], found["reactor_lag_mean_seconds"][()])
        self.assertEqual(1.0, sum(found["governor_state"].values()))
        self.assertEqual(set(GOVERNOR_STATES), {labels[0] for labels in found["governor_state"]})
        self.assertGreater(found["governor_limit"][()], 0.0)
        self.assertLessEqual(found["governor_connections"][()], found["governor_limit"][()])
        self.assertLessEqual(found["governor_limit"][()], found["governor_cluster_limit"][()])

    async def test_a_node_of_reports_alone(self) -> None:
        """It has no feeds and no prices, so there is nothing of them that could be an alarm, here or on the page."""
        daemon = await self.daemon(SERVER_TYPE="REPORT_SERVER")
        exposition = daemon.parts.metrics.exposition().decode()
        sampled = {family.name for family in text_string_to_metric_families(exposition) if family.samples}
        silent = {"tbeast_assets", "tbeast_feed_state", "tbeast_feed_symbols", "tbeast_rest_late_symbols"}
        self.assertEqual((set(), {"tbeast_ready"}), (sampled & silent, sampled & {"tbeast_ready"}))
        self.assertEqual(set(), daemon.parts.cluster_stats.own().keys() & set(OF_PRICES))
        overview = daemon.parts.operating.overview
        overview.look()
        self.assertEqual(([], [0, 0]), (overview.snapshot()["complaints"], overview.snapshot()["priced"]))
