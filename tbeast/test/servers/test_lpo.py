"""The price surface over HTTP, in memory."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tbeast.domain.admission import NO_LIMIT
from tbeast.domain.assetmap import EXCHANGES, Asset
from tbeast.domain.quotes import HALTED, SET_ASIDE
from tbeast.servers.lpo import lpo_tree
from tbeast.test.servers.rooms import (
    FREE,
    NOON,
    PARTNER,
    House,
    Wire,
    feed_of,
    problem_of,
    question,
    quote_of,
    read,
    stale_quote,
    view_of,
)  # fmt: skip
from tbeast.testing.logs import listen

FIRST_EIGHT = ["asset", "price", "timestamp", "source", "cached", "cache_age_seconds", "latency_ms", "duration_ms"]
OURS = ["quote", "quality", "sources_used", "sources_seen", "spread_bp", "bid", "ask"]


class LpoCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()
        self.wire = Wire(self.house.site(self.house.lpo()))


class PriceTests(LpoCase):
    def test_body(self) -> None:
        """The whole body, byte by byte."""
        answer = self.wire.ask("/price?asset=BTC")
        self.assertEqual(200, answer.status)
        self.assertEqual(
            b'{"asset":"BTC","price":83421.57,"timestamp":"2026-04-12T14:23:01.123456Z","source":"median",'
            b'"cached":true,"cache_age_seconds":0.412,"latency_ms":0,"duration_ms":0,"quote":"USD",'
            b'"quality":"good","sources_used":3,"sources_seen":4,"spread_bp":1.8,"bid":83421.1,"ask":83422.0}',
            answer.body,
        )

    def test_headers(self) -> None:
        answer = self.wire.ask("/price?asset=BTC")
        self.assertEqual("application/json", answer.headers["Content-Type"])
        self.assertEqual("tbeast", answer.headers["Server"])
        self.assertEqual("no-store", answer.headers["Cache-Control"])
        self.assertEqual("Sun, 12 Apr 2026 14:23:01 GMT", answer.headers["Date"])
        self.assertEqual(str(NO_LIMIT), answer.headers["RateLimit-Limit"])
        self.assertEqual(str(NO_LIMIT), answer.headers["RateLimit-Remaining"])
        self.assertEqual("0", answer.headers["RateLimit-Reset"])

    def test_spellings(self) -> None:
        """Case, a dollar pair and percent-encoding are no matter."""
        plain = self.wire.ask("/price?asset=BTC").body
        for spelling in ("btc", "Btc", "BTC-USD", "btc/usd", "btc%2Fusd", "%62tc", "BTC&quote=usd", "BTC&nonsense=1"):
            self.assertEqual(plain, self.wire.ask(f"/price?asset={spelling}").body, spelling)

    def test_age_grows(self) -> None:
        self.house.pass_time(1.5)
        self.assertEqual(1.912, self.wire.ask("/price?asset=BTC").json()["cache_age_seconds"])

    def test_simulated(self) -> None:
        """A node fed by the lab says so in every kind of answer."""
        house = House(simulated=True)
        wire = Wire(house.site(house.lpo()))
        house.lookup.outcomes["ETH"] = quote_of("ETH")
        self.assertTrue(wire.ask("/price?asset=BTC").body.endswith(b',"simulated":true}'))
        for target in ("/price?asset=BTC", "/price?asset=ETH", "/prices?assets=BTC", "/explain/BTC", "/stats"):
            self.assertIs(True, wire.ask(target).json()["simulated"], target)
        self.assertIs(True, wire.ask("/prices?assets=BTC").json()["prices"][0]["simulated"])

    def test_looked_up_has_the_same_shape(self) -> None:
        """A fetched price has the members of a ready one, in the same order, and says that it was fetched."""
        waiting = self.house.lookup.later("ETH")
        self.assertEqual(b"", self.wire.send(question("/price?asset=eth")))
        self.house.pass_time(0.25)
        waiting.callback(quote_of("ETH", 1800.5, source="coinbase-rest", observed_at=self.house.time))
        fetched = json.loads(self.wire.answer().body, object_pairs_hook=list)
        ready = json.loads(self.wire.ask("/price?asset=BTC").body, object_pairs_hook=list)
        self.assertEqual([name for name, _ in ready], [name for name, _ in fetched])
        self.assertEqual([*FIRST_EIGHT, *OURS], [name for name, _ in fetched])
        members = dict(fetched)
        self.assertEqual((False, 0.0, 250, 250), tuple(members[name] for name in FIRST_EIGHT[4:]))

    def test_looked_up_in_memory(self) -> None:
        """A price that was known before the question is cached, whatever source it came from."""
        self.house.lookup.outcomes["ETH"] = quote_of("ETH", 1800.5, source="coinbase-rest", observed_at=NOON)
        members = self.wire.ask("/price?asset=ETH").json()
        self.assertEqual((True, 0.412, 0), (members["cached"], members["cache_age_seconds"], members["latency_ms"]))

    def test_shelf_past_its_time(self) -> None:
        """A reply that nobody took down is not given out."""
        self.house.time += 60.0
        problem = problem_of(self.wire.ask("/price?asset=BTC"))
        self.assertEqual("no_fresh_price", problem["code"])
        self.assertEqual(["BTC"], self.house.lookup.asked)

    def test_nothing_fresh(self) -> None:
        log = listen(self)
        self.house.lookup.last["ETH"] = stale_quote()
        answer = self.wire.ask("/price?asset=ETH")
        problem = problem_of(answer)
        self.assertEqual((503, "no_fresh_price", "5"), (answer.status, problem["code"], answer.headers["Retry-After"]))
        self.assertEqual(
            ("stale", 1800.5, 90.412),
            tuple(problem[name] for name in ("quality", "last_price", "last_price_age_seconds")),
        )
        (line,) = log.having("503 no_fresh_price for /price, request ")  # under the id that the client was told
        self.assertIn(problem["request_id"], line)
        self.assertNotIn("price", problem)

    def test_halted(self) -> None:
        self.house.lookup.last["ETH"] = stale_quote(quality=HALTED)
        self.assertEqual("halted", problem_of(self.wire.ask("/price?asset=ETH"))["quality"])

    def test_never_known(self) -> None:
        problem = problem_of(self.wire.ask("/price?asset=ETH"))
        self.assertEqual("stale", problem["quality"])
        self.assertNotIn("last_price", problem)

    def test_lookup_that_gives_an_old_price(self) -> None:
        """What comes back from a look-up is judged again."""
        for old in (quote_of("ETH", fresh_until=NOON), stale_quote(fresh_until=NOON + 100)):
            self.house.lookup.outcomes["ETH"] = old
            self.assertEqual("no_fresh_price", problem_of(self.wire.ask("/price?asset=ETH"))["code"])

    def test_lookup_that_fails(self) -> None:
        """A mistake of ours is a 500 without a word of what it was."""
        self.house.lookup.outcomes["ETH"] = ZeroDivisionError("secret")
        answer = self.wire.ask("/price?asset=ETH")
        self.assertEqual((500, "internal_error"), (answer.status, problem_of(answer)["code"]))
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(200, self.wire.ask("/price?asset=BTC").status)

    def test_client_leaves_while_waiting(self) -> None:
        """Nothing is logged, and nothing is sent, when a price comes too late."""
        for outcome in (quote_of("ETH"), None):
            wire = Wire(self.house.site(self.house.lpo()))
            waiting = self.house.lookup.later("ETH")
            wire.send(question("/price?asset=ETH"))
            wire.lose(ConnectionLost())
            waiting.callback(outcome)
            self.assertEqual(b"", wire.transport.value())
        self.assertEqual([], self.flushLoggedErrors())
        self.assertEqual(0, self.house.counters.total("requests"))

    def test_client_leaves_and_the_lookup_fails(self) -> None:
        """The mistake is logged, once, and nothing else."""
        waiting = self.house.lookup.later("ETH")
        self.wire.send(question("/price?asset=ETH"))
        self.wire.lose(ConnectionDone())
        waiting.errback(ZeroDivisionError())
        self.assertEqual(1, len(self.flushLoggedErrors()))

    def test_pipelined(self) -> None:
        """Answers come in the order of the questions, also when the first must wait."""
        waiting = self.house.lookup.later("ETH")
        self.assertEqual(b"", self.wire.send(question("/price?asset=ETH") + question("/price?asset=BTC")))
        waiting.callback(quote_of("ETH"))
        sent = self.wire.transport.value()
        self.assertEqual(2, sent.count(b"HTTP/1.1 200 OK"))
        self.assertLess(sent.index(b'"asset":"ETH"'), sent.index(b'"asset":"BTC"'))

    def test_head(self) -> None:
        """HEAD has the headers of GET, and no body."""
        get = self.wire.ask("/price?asset=BTC")
        raw = self.wire.send(question("/price?asset=BTC", method="HEAD"))
        self.assertTrue(raw.endswith(b"\r\n\r\n"))
        head = read(raw, "HEAD")
        self.assertEqual((200, sorted(get.headers.items())), (head.status, sorted(head.headers.items())))

    def test_counted(self) -> None:
        self.wire.ask("/price?asset=BTC")
        self.wire.ask("/price?asset=BTC", key=None)
        self.wire.ask("/nowhere")
        count = self.house.counters.value
        self.assertEqual(
            [1, 1, 1, 1],
            [count("requests", "lpo", "http", "200"), count("requests", "lpo", "http", "401"),
             count("requests", "lpo", "http", "404"), count("lookups", "shelf")],
        )  # fmt: skip

    def test_no_log(self) -> None:
        """Answering is no event for the log."""
        events: list[LogEvent] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            events.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        for target, method in (("/price?asset=BTC", "GET"), ("/price?asset=BTC", "HEAD"), ("/x", "GET"), ("/x", "PUT")):
            self.wire.ask(target, method=method)
        self.assertEqual([], events)


class PriceOptionTests(LpoCase):
    def test_one_exchange(self) -> None:
        self.house.view.singles["BTC", "kraken"] = quote_of(price=83000.0, source="kraken-ws", used=("kraken",), seen=1)
        members = self.wire.ask("/price?asset=btc&exchange=Kraken").json()
        self.assertEqual((83000.0, "kraken-ws", 1), (members["price"], members["source"], members["sources_used"]))

    def test_one_exchange_without_a_price(self) -> None:
        old = quote_of(fresh_until=NOON)
        for single in (None, old):
            if single is not None:
                self.house.view.singles["BTC", "okx"] = single
            answer = self.wire.ask("/price?asset=BTC&exchange=okx")
            self.assertEqual((503, "no_fresh_price"), (answer.status, problem_of(answer)["code"]))
        self.assertEqual([], self.house.lookup.asked)

    def test_exchange_that_does_not_list_it(self) -> None:
        answer = self.wire.ask("/price?asset=DOGE&exchange=okx")
        problem = problem_of(answer)
        self.assertEqual((404, "not_listed", ["gemini"]), (answer.status, problem["code"], problem["listed_on"]))

    def test_unknown_asset_on_an_exchange(self) -> None:
        self.assertEqual("unknown_asset", problem_of(self.wire.ask("/price?asset=DOGGE&exchange=okx"))["code"])

    def test_other_currency(self) -> None:
        self.house.view.rates["USDT"] = 0.5
        for target in ("/price?asset=BTC&quote=usdt", "/price?asset=BTC-USDT"):
            members = self.wire.ask(target).json()
            self.assertEqual(
                ("USDT", 166843.14, 166842.2, 166844.0, True, 0.412),
                tuple(members[name] for name in ("quote", "price", "bid", "ask", "cached", "cache_age_seconds")),
            )
            self.assertEqual([*FIRST_EIGHT, *OURS], list(members))

    def test_other_currency_without_a_rate(self) -> None:
        for rate in (None, 0.0):
            if rate is not None:
                self.house.view.rates["USDC"] = rate
            self.assertEqual(503, self.wire.ask("/price?asset=BTC&quote=USDC").status)

    def test_max_age(self) -> None:
        self.assertEqual(200, self.wire.ask("/price?asset=BTC&max_age_ms=413").status)
        answer = self.wire.ask("/price?asset=BTC&max_age_ms=400")
        problem = problem_of(answer)
        self.assertEqual((503, "no_fresh_price", 83421.57), (answer.status, problem["code"], problem["last_price"]))

    def test_max_age_of_what_is_looked_up(self) -> None:
        self.house.lookup.outcomes["ETH"] = quote_of("ETH", observed_at=NOON)
        self.assertEqual(503, self.wire.ask("/price?asset=ETH&max_age_ms=400").status)

    def test_bad_options(self) -> None:
        cases = {
            "": "missing_asset", "asset=": "missing_asset", "asset": "missing_asset", "assets=BTC": "missing_asset",
            "asset=B%20C": "malformed_asset", "asset=%00": "malformed_asset", "asset=%ff%fe": "malformed_asset",
            "asset=BTC-": "malformed_asset", "asset=%zz": "malformed_asset", "asset=../../etc": "malformed_asset",
            "asset=" + "A" * 17: "malformed_asset", "asset=%C3%9F": "malformed_asset",
            "asset=BTC_USD": "malformed_asset",
            "asset=BTC&asset=BTC": "duplicate_parameter", "asset=BTC&max_age_ms=1&max_age_ms=1": "duplicate_parameter",
            "asset=BTC-EUR": "unsupported_quote", "asset=BTC&quote=EUR": "unsupported_quote",
            "asset=BTC&quote=": "unsupported_quote", "asset=BTC&exchange=mtgox": "unknown_exchange",
            "asset=BTC&exchange=": "unknown_exchange", "asset=BTC&max_age_ms=": "malformed_parameter",
            "asset=BTC&max_age_ms=-1": "malformed_parameter", "asset=BTC&max_age_ms=1.5": "malformed_parameter",
            "asset=BTC&max_age_ms=1e3": "malformed_parameter", "asset=BTC&max_age_ms=%D9%A1": "malformed_parameter",
            "asset=BTC-USDT&quote=USD": "malformed_parameter", "asset=BTC-USD&quote=USDC": "malformed_parameter",
        }  # fmt: skip
        for query, code in cases.items():
            answer = self.wire.ask(f"/price?{query}")
            self.assertEqual((400, code), (answer.status, problem_of(answer)["code"]), query)

    def test_unknown_asset(self) -> None:
        """The nearest names come with it: by code, and by name."""
        for asset, meant in (("BTCC", "BTC"), ("bitcoin", "BTC"), ("etherium", "ETH"), ("DOG", "DOGE")):
            answer = self.wire.ask(f"/price?asset={asset}")
            problem = problem_of(answer)
            self.assertEqual((404, "unknown_asset"), (answer.status, problem["code"]))
            self.assertIn(meant, problem["nearest"], asset)
        self.assertEqual([], problem_of(self.wire.ask("/price?asset=QQQQQQ"))["nearest"])
        self.assertEqual([], self.house.lookup.asked)


class OtherMapTests(LpoCase):
    """The assets are others than at the start."""

    def code(self, target: str) -> tuple[int, str]:
        answer = self.wire.ask(target)
        return answer.status, problem_of(answer)["code"]

    def test_an_asset_that_went(self) -> None:
        self.assertEqual(200, self.wire.ask("/price?asset=BTC").status)
        self.house.adopt("BTC")
        for target in ("/price?asset=BTC", "/price?asset=BTC&exchange=kraken", "/explain/BTC"):
            self.assertEqual((404, "unknown_asset"), self.code(target), target)
        (entry,) = self.wire.ask("/prices?assets=BTC").json()["prices"]
        self.assertEqual(("BTC", "unknown_asset"), (entry["asset"], entry["error"]))
        self.assertNotIn("BTC", problem_of(self.wire.ask("/price?asset=BTCC"))["nearest"])

    def test_one_that_goes_while_it_is_looked_up(self) -> None:
        waiting = self.house.lookup.later("ETH")
        self.wire.send(question("/price?asset=ETH"))
        self.house.adopt("ETH")
        waiting.callback(quote_of("ETH"))
        answer = self.wire.answer()
        self.assertEqual((404, "unknown_asset"), (answer.status, problem_of(answer)["code"]))

    def test_one_that_came(self) -> None:
        self.house.adopt(NEW=Asset("NEW", "New", "Novelties", "okx", {"okx": "NEW-USDT"}))
        self.house.put(quote_of("NEW"))
        self.assertEqual("NEW", self.wire.ask("/price?asset=new").json()["asset"])

    def test_pages(self) -> None:
        """None of them shows what was in force before."""
        for target in ("/exchanges", "/asset-categories"):
            self.wire.ask(target, key=None)
        self.house.adopt("DOGE", "ETH", NEW=Asset("NEW", "New", "Novelties", "okx", {"okx": "NEW-USDT"}))
        self.house.feeds = [feed_of("coinbase"), feed_of("gemini", "off")]
        listed = {one["exchange"]: one for one in self.wire.ask("/exchanges", key=None).json()["exchanges"]}
        self.assertEqual((1, 1), (listed["coinbase"]["home_assets"], listed["coinbase"]["assets"]))
        self.assertEqual((0, 1, "off"), tuple(listed["gemini"][name] for name in ("home_assets", "assets", "state")))
        members = self.wire.ask("/asset-categories", key=None).json()
        found = {one["category"]: [asset["asset"] for asset in one["assets"]] for one in members["categories"]}
        self.assertEqual({"Major Currencies": ["BTC"], "Layer 2": ["SOL"], "Novelties": ["NEW"]}, found)
        self.assertEqual(3, sum(self.wire.ask("/stats").json()["assets"].values()))


class OnDemandTests(LpoCase):
    """An exchange whose feed is not asked for the asset is asked when somebody wants to know."""

    def setUp(self) -> None:
        super().setUp()
        symbols = {"kraken": "SOL/USD", "okx": "SOL-USDT"}
        self.house.adopt(SOL=Asset("SOL", "Solana", "Layer 2", "kraken", symbols, frozenset({"kraken"})))

    def test_that_exchange(self) -> None:
        self.house.lookup.outcomes["SOL on kraken"] = quote_of("SOL", price=20.0, source="kraken-rest")
        members = self.wire.ask("/price?asset=SOL&exchange=kraken").json()
        self.assertEqual((20.0, "kraken-rest"), (members["price"], members["source"]))

    def test_which_has_none(self) -> None:
        answer = self.wire.ask("/price?asset=SOL&exchange=kraken")
        problem = problem_of(answer)
        self.assertEqual((503, "no_fresh_price"), (answer.status, problem["code"]))
        self.assertEqual("kraken has no fresh price of SOL.", problem["detail"])
        self.assertEqual(["SOL on kraken"], self.house.lookup.asked)

    def test_which_lists_it_no_longer(self) -> None:
        waiting = self.house.lookup.later("SOL on kraken")
        self.wire.send(question("/price?asset=SOL&exchange=kraken"))
        self.house.adopt(SOL=Asset("SOL", "Solana", "Layer 2", "okx", {"okx": "SOL-USDT"}))
        waiting.callback(quote_of("SOL"))
        self.assertEqual("not_listed", problem_of(self.wire.answer())["code"])

    def test_another_is_not(self) -> None:
        self.assertEqual(503, self.wire.ask("/price?asset=SOL&exchange=okx").status)
        self.assertEqual([], self.house.lookup.asked)


class KeyTests(LpoCase):
    def ask(self, *headers: tuple[str, str]) -> Any:
        return self.wire.ask("/price?asset=BTC", key=None, headers=headers)

    def test_good(self) -> None:
        for headers in (
            [("Authorization", f"bearer {PARTNER}")], [("AUTHORIZATION", f"BEARER   {PARTNER} ")],
            [("X-API-Key", PARTNER)], [("X-API-Key", PARTNER), ("Authorization", f"Bearer {PARTNER}")],
            [("Authorization", "Basic eDp5"), ("X-API-Key", PARTNER)],
        ):  # fmt: skip
            self.assertEqual(200, self.ask(*headers).status, headers)

    def test_none(self) -> None:
        for headers in ([], [("Authorization", "Basic eDp5")], [("Authorization", "Bearer")], [("X-API-Key", "")]):
            answer = self.ask(*headers)
            self.assertEqual((401, "missing_key"), (answer.status, problem_of(answer)["code"]), headers)
            self.assertEqual('Bearer realm="tbeast"', answer.headers["WWW-Authenticate"])
            self.assertNotIn("RateLimit-Limit", answer.headers)

    def test_bad(self) -> None:
        for headers in (
            [("Authorization", "Bearer nobody")], [("X-API-Key", "nobody")], [("X-API-Key", "\xff\xfe")],
            [("Authorization", f"Bearer {PARTNER}x")], [("Authorization", f"Bearer {PARTNER}"), ("X-API-Key", FREE)],
            [("Authorization", f"Bearer {PARTNER} {PARTNER}")], [("Authorization", "Bearer " + "k" * 5000)],
        ):  # fmt: skip
            answer = self.ask(*headers)
            self.assertEqual((401, "bad_key"), (answer.status, problem_of(answer)["code"]), headers)
            self.assertIn('error="invalid_token"', answer.headers["WWW-Authenticate"])
            self.assertNotIn(PARTNER.encode(), answer.body)

    def test_twice(self) -> None:
        for header in (("Authorization", f"Bearer {PARTNER}"), ("X-API-Key", PARTNER)):
            answer = self.ask(header, header)
            self.assertEqual((400, "malformed_authorization"), (answer.status, problem_of(answer)["code"]))

    def test_key_in_the_query_is_no_key(self) -> None:
        self.assertEqual(401, self.wire.ask(f"/price?asset=BTC&api_key={PARTNER}", key=None).status)

    def test_what_needs_a_key(self) -> None:
        for target in ("/price", "/prices", "/explain/BTC", "/stats"):
            self.assertEqual(401, self.wire.ask(target, key=None).status, target)
        for target in ("/exchanges", "/asset-categories"):
            self.assertEqual(200, self.wire.ask(target, key=None).status, target)

    def test_rate_limited(self) -> None:
        """The free tier: five at once, then one a second."""
        remaining = []
        for _ in range(5):
            answer = self.wire.ask("/price?asset=BTC", key=FREE)
            self.assertEqual((200, "5"), (answer.status, answer.headers["RateLimit-Limit"]))
            remaining.append(answer.headers["RateLimit-Remaining"])
        self.assertEqual(["4", "3", "2", "1", "0"], remaining)
        answer = self.wire.ask("/price?asset=BTC", key=FREE)
        self.assertEqual((429, "rate_limited"), (answer.status, problem_of(answer)["code"]))
        self.assertEqual(1.001, problem_of(answer)["retry_after_seconds"])
        self.assertIn(b"429 Too Many Requests", self.wire.transport.value())
        names = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
        self.assertEqual(["5", "0", "5"], [answer.headers[name] for name in names])
        self.house.pass_time(int(answer.headers["Retry-After"]))
        self.assertEqual(200, self.wire.ask("/price?asset=BTC", key=FREE).status)
        self.assertEqual(200, self.wire.ask("/price?asset=BTC").status)

    def test_quota(self) -> None:
        """A thousand a month; then 429 until the first of May."""
        for _ in range(1000):
            self.house.pass_time(1.0)
            self.house.put(quote_of(observed_at=self.house.time, fresh_until=self.house.time + 60))
            answer = self.wire.ask("/price?asset=BTC", key=FREE)
            self.assertEqual(200, answer.status)
        self.assertEqual(("1000", "0"), (answer.headers["RateLimit-Limit"], answer.headers["RateLimit-Remaining"]))
        self.house.pass_time(10.0)
        answer = self.wire.ask("/price?asset=BTC", key=FREE)
        self.assertEqual((429, "quota_exceeded"), (answer.status, problem_of(answer)["code"]))
        self.assertEqual(answer.headers["RateLimit-Reset"], answer.headers["Retry-After"])
        self.house.time += int(answer.headers["Retry-After"])
        self.house.put(quote_of(observed_at=self.house.time, fresh_until=self.house.time + 60))
        self.assertEqual(200, self.wire.ask("/price?asset=BTC", key=FREE).status)

    def test_limits_are_told_with_errors_too(self) -> None:
        for target in ("/price?asset=NOPE", "/price", "/price?asset=ETH", "/prices", "/explain/NOPE"):
            answer = self.wire.ask(target)
            self.assertGreaterEqual(answer.status, 400)
            self.assertEqual(str(NO_LIMIT), answer.headers["RateLimit-Limit"], target)


class PricesTests(LpoCase):
    def test_get(self) -> None:
        answer = self.wire.ask("/prices?assets=btc,NOPE,BTC-USD,b%2Bd")
        self.assertEqual(200, answer.status)
        members = answer.json()
        self.assertEqual(["status_code", "endpoint", "node", "count", "prices"], list(members))
        self.assertEqual((200, "/prices", "node-1", 3), tuple(members.values())[:4])
        self.assertEqual(self.wire.ask("/price?asset=BTC").json(), members["prices"][0])
        self.assertEqual({"asset": "NOPE", "error": "unknown_asset"}, members["prices"][1])
        self.assertEqual({"asset": "b+d", "error": "malformed_asset"}, members["prices"][2])

    def test_post(self) -> None:
        self.house.lookup.outcomes["ETH"] = quote_of("ETH", 1800.5)
        self.house.lookup.last["SOL"] = stale_quote("SOL")
        answer = self.wire.ask("/prices", method="POST", body=b'{"assets":["eth","sol","btc","\\u00df"],"x":1}')
        found = {price["asset"]: price for price in answer.json()["prices"]}
        self.assertEqual(["ETH", "SOL", "BTC", "\xdf"], list(found))
        self.assertEqual((1800.5, 83421.57), (found["ETH"]["price"], found["BTC"]["price"]))
        self.assertEqual(("no_fresh_price", "stale"), (found["SOL"]["error"], found["SOL"]["quality"]))

    def test_waits_for_all_together(self) -> None:
        """All look-ups begin at once; one that fails does not fail the others."""
        eth, sol = self.house.lookup.later("ETH"), self.house.lookup.later("SOL")
        self.house.lookup.outcomes["DOGE"] = ZeroDivisionError()
        self.assertEqual(b"", self.wire.send(question("/prices?assets=ETH,BTC,SOL,DOGE")))
        self.assertEqual(["ETH", "SOL", "DOGE"], self.house.lookup.asked)
        sol.callback(quote_of("SOL", 20.0))
        self.assertEqual(b"", self.wire.transport.value())
        eth.callback(quote_of("ETH", 1800.5))
        prices = self.wire.answer().json()["prices"]
        self.assertEqual([1800.5, 83421.57, 20.0], [price["price"] for price in prices[:3]])
        self.assertEqual({"asset": "DOGE", "error": "internal_error"}, prices[3])
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_client_leaves_while_waiting(self) -> None:
        waiting = self.house.lookup.later("ETH")
        self.wire.send(question("/prices?assets=ETH,SOL"))
        self.wire.lose(ConnectionLost())
        waiting.callback(None)
        self.assertEqual([], self.flushLoggedErrors())

    def test_one_question(self) -> None:
        """A batch takes one token."""
        answer = self.wire.ask("/prices?assets=BTC,ETH,SOL,DOGE", key=FREE)
        self.assertEqual("4", answer.headers["RateLimit-Remaining"])

    def test_how_many(self) -> None:
        thirty = [f"A{number}" for number in range(30)]
        self.assertEqual(30, self.wire.ask("/prices?assets=" + ",".join([*thirty, "a0", "A1-USD"])).json()["count"])
        answer = self.wire.ask("/prices?assets=" + ",".join([*thirty, "B"]))
        self.assertEqual((400, "too_many_assets"), (answer.status, problem_of(answer)["code"]))
        body = json.dumps({"assets": [*thirty, "B"]}).encode()
        self.assertEqual("too_many_assets", problem_of(self.wire.ask("/prices", method="POST", body=body))["code"])

    def test_options(self) -> None:
        """They hold for the whole batch; an asset that contradicts them is refused alone."""
        self.house.view.rates["USDT"] = 0.5
        body = b'{"quote":"usdt","assets":["BTC","BTC-USDT","BTC-USD","ETH"]}'
        for answer in (
            self.wire.ask("/prices?assets=BTC,BTC-USDT,BTC-USD,ETH&quote=usdt"),
            self.wire.ask(
                "/prices", method="POST", body=b'{"quote":"usdt","assets":["BTC","BTC-USDT","BTC-USD","ETH"]}'
            ),
        ):
            prices = answer.json()["prices"]
            self.assertEqual(("USDT", 166843.14), (prices[0]["quote"], prices[0]["price"]))
            self.assertEqual({"asset": "BTC-USD", "error": "malformed_asset"}, prices[1])
            self.assertEqual(("ETH", "no_fresh_price"), (prices[2]["asset"], prices[2]["error"]))
        self.house.view.singles["BTC", "okx"] = quote_of(price=1.0, source="okx-ws")
        body = b'{"assets":["BTC"],"exchange":"OKX","max_age_ms":500,"quote":null}'
        self.assertEqual("okx-ws", self.wire.ask("/prices", method="POST", body=body).json()["prices"][0]["source"])
        self.assertIn("error", self.wire.ask("/prices?assets=BTC&max_age_ms=1").json()["prices"][0])

    def test_bad_options(self) -> None:
        for query, body, code in (
            ("quote=EUR", b'"quote":"EUR"', "unsupported_quote"), ("exchange=x", b'"exchange":"x"', "unknown_exchange"),
            ("max_age_ms=-1", b'"max_age_ms":-1', "malformed_parameter"),
        ):  # fmt: skip
            self.assertEqual(code, problem_of(self.wire.ask(f"/prices?assets=BTC&{query}"))["code"])
            posted = self.wire.ask("/prices", method="POST", body=b'{"assets":["BTC"],%b}' % body)
            self.assertEqual(code, problem_of(posted)["code"])

    def test_bad_bodies(self) -> None:
        for body in (
            b"", b"nonsense", b"[]", b'["BTC"]', b"null", b"{}", b'{"assets":"BTC"}', b'{"assets":[1]}',
            b'{"assets":null}',
            b'{"assets":["BTC"]', b'{"assets":["\xff"]}', b'{"assets":["\\ud800"]}', b"\x00" * 50, b"[" * 16000,
            b'{"assets":' + b"[" * 16000, b'{"assets":["BTC"],"x":NaN}',
            b'{"assets":["BTC"],"quote":1}', b'\xef\xbb\xbf{"assets":["BTC"]}',
        ):  # fmt: skip
            answer = self.wire.ask("/prices", method="POST", body=body)
            self.assertEqual((400, "malformed_body"), (answer.status, problem_of(answer)["code"]), body[:40])

    def test_nothing_asked(self) -> None:
        for target, method, body in (
            ("/prices", "GET", None), ("/prices?assets=", "GET", None), ("/prices", "POST", b'{"assets":[]}'),
        ):  # fmt: skip
            self.assertEqual("missing_asset", problem_of(self.wire.ask(target, method=method, body=body))["code"])
        self.assertEqual("duplicate_parameter", problem_of(self.wire.ask("/prices?assets=A&assets=B"))["code"])

    def test_chunked(self) -> None:
        head = question("/prices", method="POST", headers=[("Transfer-Encoding", "chunked")])
        answer = read(self.wire.send(head + b'7\r\n{"asset\r\nb\r\ns":["BTC"]}\r\n0\r\n\r\n'))
        self.assertEqual((200, 1), (answer.status, answer.json()["count"]))


class OtherPageTests(LpoCase):
    def test_exchanges(self) -> None:
        members = self.wire.ask("/exchanges", key=None).json()
        self.assertEqual((6, list(EXCHANGES)), (members["count"], [one["exchange"] for one in members["exchanges"]]))
        self.assertEqual(
            {"exchange": "coinbase", "quote": "USD", "home_assets": 2, "assets": 2, "state": "live"},
            members["exchanges"][0],
        )
        self.assertEqual("down", members["exchanges"][2]["state"])

    def test_categories(self) -> None:
        members = self.wire.ask("/asset-categories", key=None).json()
        found = {one["category"]: [asset["asset"] for asset in one["assets"]] for one in members["categories"]}
        self.assertEqual({"Major Currencies": ["BTC", "ETH"], "Meme Coins": ["DOGE"], "Layer 2": ["SOL"]}, found)
        self.assertEqual({"asset": "SOL", "name": "Solana", "home": "kraken"}, members["categories"][2]["assets"][0])

    def test_explain(self) -> None:
        sources = [
            view_of("coinbase", home=True),
            view_of("gemini", verdict=SET_ASIDE, why="12 bp away", raw=float("nan"), age_seconds=None, via=""),
        ]
        self.house.view.explained["BTC"] = (quote_of(), sources)
        members = self.wire.ask("/explain/btc").json()
        self.assertEqual(("BTC", "Bitcoin", "coinbase"), (members["asset"], members["name"], members["home"]))
        self.assertEqual((83421.57, 0.412, True, ["gemini"]), tuple(
            members["result"][name] for name in ("price", "age_seconds", "fresh", "set_aside")))  # fmt: skip
        self.assertEqual(["used", "set_aside"], [source["verdict"] for source in members["sources"]])
        self.assertEqual(
            ("12 bp away", None, None), tuple(members["sources"][1][name] for name in ("why", "raw", "via"))
        )

    def test_explain_without_a_price(self) -> None:
        members = self.wire.ask("/explain/ETH").json()
        self.assertEqual((None, []), (members["result"], members["sources"]))

    def test_explain_nonsense(self) -> None:
        for path, status, code in (
            ("/explain/BTCC", 404, "unknown_asset"), ("/explain/BTC-USDT", 400, "unsupported_quote"),
            ("/explain/%ff", 400, "malformed_asset"),
            ("/explain/", 400, "malformed_asset"), ("/explain", 404, "not_found"), ("/explain/BTC/x", 404, "not_found"),
            ("/explain/" + "A" * 3000, 400, "malformed_asset"), ("/explain/%2e%2e", 400, "malformed_asset"),
        ):  # fmt: skip
            answer = self.wire.ask(path)
            self.assertEqual((status, code), (answer.status, problem_of(answer)["code"]), path)

    def test_stats(self) -> None:
        self.wire.ask("/price?asset=BTC")
        self.house.pass_time(2.0)
        members = self.wire.ask("/stats").json()
        self.assertEqual(("node-1", 2.0), (members["node"], members["uptime_seconds"]))
        self.assertEqual({"good": 1, "stale": 3}, members["assets"])
        self.assertEqual({"coinbase": "live", "kraken": "down"}, members["feeds"])
        self.assertEqual(
            [{"service": "lpo", "protocol": "http", "status": "200", "count": 1}], members["counters"]["requests"]
        )
        self.assertNotIn(PARTNER.encode(), self.wire.ask("/stats").body)
        self.assertTrue({"statistics", "response_times"}.isdisjoint(members))

    def test_stats_in_numbers(self) -> None:
        """Of the whole node, where somebody knows them."""

        class Statistics:
            def own(self) -> dict[str, float]:
                return {"requests": 7, "reactor_lag_ms": 0.5}

            def percentiles(self) -> dict[str, dict[str, int]]:
                return {"lpo": {"answers": 7, "p50_us": 40}}

        pages = lpo_tree(
            gate=self.house.gate, answers=self.house.answers, counters=self.house.counters, feeds=tuple,
            now=self.house.now, node="node-1", statistics=Statistics(),
        )  # fmt: skip
        members = Wire(self.house.site(pages)).ask("/stats").json()
        self.assertEqual({"requests": 7, "reactor_lag_ms": 0.5}, members["statistics"])
        self.assertEqual({"lpo": {"answers": 7, "p50_us": 40}}, members["response_times"])
