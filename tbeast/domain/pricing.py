"""From the board to a quote: who may vote, in which currency, and what came of it.

A source votes when it has a value no older than the greatest age, trading goes on, it is neither suspect nor expelled,
and its currency can be turned into dollars. Sources quoted in USDT are converted with the median USDT/USD of the
exchanges that list it; while that is unknown they have no vote, for one to one is a guess. A rate that rests on
fewer than L{RATE_SOURCES} sources is a word that one of them could have made up for all that is quoted in it.

Values of lost connections, and values converted with such a rate, vote only where no other value is left, and what
comes of that is never better than L{tbeast.domain.quotes.DEGRADED}. The suspect and the expelled have no vote, but as
long as they are fresh they hold the price (L{tbeast.domain.aggregation}).

Three votes are no agreement because they are three (two against two set nobody aside): where one of them lies farther
from the price than L{AGREEMENT_BP}, and than five times the asset's usual noise, it is
L{tbeast.domain.quotes.DEGRADED}.

With two sources the home exchange wins; where neither is home, the one that stands earlier in L{TRUST}.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from statistics import median
from typing import Final, NamedTuple

from tbeast.domain import quotes
from tbeast.domain.aggregation import BP, Combination, K, Noise, combine
from tbeast.domain.assetmap import STABLECOINS
from tbeast.domain.board import REST, Board, Source
from tbeast.domain.freshness import GRACE_SECONDS, REST_GRACE_SECONDS
from tbeast.domain.quotes import Quote, SourceView
from tbeast.domain.suspicion import Change, Standing, forget, review

TRUST: Final = ("gemini", "coinbase", "kraken", "gateio", "cryptocom", "okx")
"""After the home exchange: the order in which exchanges are asked over REST, and in which they win ties."""

RATE_SOURCES: Final = 3
"""With so many, no one of them can move a rate beyond the others."""

AGREEMENT_BP: Final = 20.0
"""Votes that lie closer to the price than this agree, however quiet the asset's sources usually are."""

SIGNIFICANT_DIGITS: Final = 10


def rounded(value: float) -> float:
    """Drop the digits that binary arithmetic made up: C{value} to L{SIGNIFICANT_DIGITS} significant digits."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


class _Rate(NamedTuple):
    """Dollars for one unit, until when that is known, whether enough sources say so, and which there were."""

    dollars: float
    until: float
    sure: bool
    sources: tuple[Source, ...]


def _lost(source: Source, now: float) -> bool:
    """Whether no connection carries the source, and the time of grace of what it said is over."""
    if source.connected:
        return False
    if source.via == REST:
        return source.heard_at is None or now - source.heard_at >= REST_GRACE_SECONDS
    return not now - source.lost_at < GRACE_SECONDS


def _agreed(values: Sequence[float], combination: Combination, noise: float) -> bool:
    low, high, price = values[combination.used[0]], values[combination.used[-1]], combination.price
    return max(price - low, high - price) <= max(AGREEMENT_BP * BP, K * noise) * price


class Pricer:
    """Makes quotes of what lies on a board.

    @ivar noises: the usual noise of each asset's sources, by code.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.noises = {code: Noise() for code in board.sources}
        self._rates: dict[str, _Rate] = {}

    def adopt(self) -> None:
        """The board has taken another map: forget what went, and every rate that one of these had a part in."""
        sources = self.board.sources
        self.noises = {code: self.noises.get(code) or Noise() for code in sources}
        self._rates = {
            code: rate for code, rate in self._rates.items() if set(rate.sources) <= set(sources.get(code, ()))
        }

    def rate(self, currency: str, now: float) -> float | None:
        """Dollars for one unit of C{currency}; C{None} where that is not known at C{now}."""
        if currency == "USD":
            return 1.0
        known = self._rates.get(currency)
        return known.dollars if known is not None and now <= known.until else None

    def quote(self, asset: str, now: float) -> Quote | None:
        """Price C{asset}, and learn its noise; C{None} if nothing was ever heard of it, or it is not on the board.

        The stablecoins should be priced before the rest: their quotes are the rates of what follows.
        """
        quote, _ = self._price(asset, now)
        if asset in STABLECOINS and quote is not None and quote.quality not in (quotes.STALE, quotes.HALTED):
            rate = _Rate(quote.price, quote.fresh_until, quote.seen >= RATE_SOURCES, self.board.sources[asset])
            if rate.sure or not self._sure(asset, now):
                self._rates[asset] = rate
        return quote

    def explain(self, asset: str, now: float) -> tuple[Quote | None, list[SourceView]]:
        """Price C{asset}, and say of each of its sources what became of it and why."""
        quote, judged = self._price(asset, now)
        return quote, [self._view(source, verdict, quote, now) for source, verdict in judged]

    def single(self, asset: str, exchange: str, now: float) -> Quote | None:
        """Price C{asset} by that exchange alone; C{None} unless it has a fresh value that may be given out."""
        source = next((source for source in self.board.sources.get(asset, ()) if source.exchange == exchange), None)
        if source is None:
            return None
        verdict, value = self._judge(source, now)
        if value is None or verdict not in (quotes.USED, quotes.SUSPECT, quotes.NO_RATE):
            return None
        return self._quote(asset, [source], [value], combine([value]), quotes.SINGLE_SOURCE, 1, [], now)

    def review(self, asset: str, now: float) -> list[Change]:
        """Bring the long memories of the asset's sources up to date; about once a second."""
        standings = []
        for source in self.board.sources.get(asset, ()):
            verdict, value = self._judge(source, now)
            if value is None or verdict not in (quotes.USED, quotes.SUSPECT, quotes.EXPELLED) or _lost(source, now):
                forget(source)
            else:
                rate = value / source.raw
                low, high = sorted((source.bid * rate, source.ask * rate))
                book = (low, high) if low == low and high == high else (value, value)
                standings.append(Standing(source, value, *book))
        return review(standings, self.noises[asset].level, now) if standings else []

    def age(self, source: Source, now: float) -> float | None:
        """How old the source's value is, the delay of its exchange's messages included; C{None} if there is none."""
        if source.heard_at is None:
            return None
        age = max(0.0, now - source.heard_at)
        return age + source.delay.seconds if source.via != REST else age

    def _sure(self, currency: str, now: float) -> bool:
        """Whether no single source can have made up the known rate of C{currency}."""
        known = self._rates.get(currency)
        return currency == "USD" or (known is not None and known.sure and now <= known.until)

    def _judge(self, source: Source, now: float) -> tuple[str, float | None]:
        """What speaks against this source alone (L{quotes.USED}: nothing), and its value in dollars if it has one."""
        age = self.age(source, now)
        if age is None:
            return quotes.SILENT, None
        rate = self.rate(source.quote_currency, now)
        value = None if rate is None else source.raw * rate
        if source.halted:
            return quotes.HALTED_THERE, value
        if age > self.board.limits.max_age_seconds:
            return quotes.TOO_OLD, value
        if value is None:
            return quotes.NO_RATE, None
        if source.expelled:
            return quotes.EXPELLED, value
        if _lost(source, now):
            return quotes.LOST, value
        if not self._sure(source.quote_currency, now):
            return quotes.NO_RATE, value
        return quotes.SUSPECT if source.suspect else quotes.USED, value

    def _price(self, asset: str, now: float) -> tuple[Quote | None, list[tuple[Source, str]]]:
        voters: list[Source] = []
        values: list[float] = []
        spare: list[Source] = []
        spare_values: list[float] = []
        mute: list[Source] = []
        mute_values: list[float] = []
        judged: list[tuple[Source, str]] = []
        suspects: list[str] = []
        for source in self.board.sources.get(asset, ()):
            verdict, value = self._judge(source, now)
            judged.append((source, verdict))
            if value is None:
                continue
            if verdict is quotes.USED:
                voters.append(source)
                values.append(value)
            elif verdict is quotes.LOST or verdict is quotes.NO_RATE:
                if not source.suspect:
                    spare.append(source)
                    spare_values.append(value)
            elif verdict is quotes.SUSPECT or (verdict is quotes.EXPELLED and not _lost(source, now)):
                mute.append(source)
                mute_values.append(value)
                if verdict is quotes.SUSPECT:
                    suspects.append(source.exchange)
        from_spare = not voters and bool(spare)
        if from_spare:
            voters, values = spare, spare_values
        if not voters:
            return self._last_known(asset, judged, now), judged
        noise = self.noises[asset]
        combination = combine(values, noise.level, mute_values)
        if len(values) >= 3:
            noise.heard(combination.dispersion, now)
        aside = [voters[position] for position in combination.set_aside]
        count = len(combination.used)
        if count == 1:
            quality = quotes.SINGLE_SOURCE
        elif count == 2 or aside or suspects or from_spare or not _agreed(values, combination, noise.level):
            quality = quotes.DEGRADED
        else:
            quality = quotes.GOOD
        names = [source.exchange for source in aside] + suspects
        quote = self._quote(
            asset, [*voters, *mute], [*values, *mute_values], combination, quality, len(voters) + len(suspects), names,
            now,
        )  # fmt: skip
        if aside:
            judged = [(source, quotes.SET_ASIDE if source in aside else said) for source, said in judged]
        return quote, judged

    def _quote(
        self,
        asset: str,
        sources: list[Source],
        values: list[float],
        combination: Combination,
        quality: str,
        seen: int,
        aside: Iterable[str],
        now: float,
    ) -> Quote:
        """Say what came of C{values}, those of C{sources}: first of the voters, then of the mute."""
        used, middle = combination.used, combination.middle
        price = rounded(combination.price)
        makers = [sources[position] for position in middle]
        observed_at = now - max(self.age(maker, now) or 0.0 for maker in makers)
        until = [self._rates[maker.quote_currency].until for maker in makers if maker.quote_currency in self._rates]
        until.append(observed_at + self.board.limits.max_age_seconds)
        voters = len(used) + len(combination.set_aside)
        alone = middle[0] < voters and (len(used) == 1 or voters == 2)
        # Of two votes the second only witnesses; and votes that had to be held are not asked for their books.
        booked = used if voters > 2 and set(middle) <= set(used) else middle
        bids, asks = [], []
        for position in booked:
            source = sources[position]
            rate = values[position] / source.raw
            if source.bid == source.bid and source.ask == source.ask:
                bids.append(min(source.bid, source.ask) * rate)
                asks.append(max(source.bid, source.ask) * rate)
        volume = sum(sources[position].volume for position in used if sources[position].volume > 0.0)
        chosen = [values[position] for position in used]
        return Quote(
            asset=asset,
            price=price,
            bid=rounded(min(median(bids), price)) if bids else None,
            ask=rounded(max(median(asks), price)) if asks else None,
            volume=rounded(volume) if 0.0 < volume < inf else None,
            quality=quality,
            source=f"{makers[0].exchange}-{makers[0].via}" if alone else "median",
            used=tuple(sources[position].exchange for position in used),
            seen=seen,
            set_aside=tuple(aside),
            spread_bp=round((max(chosen) - min(chosen)) / combination.price / BP, 2),
            observed_at=observed_at,
            fresh_until=min(until),
        )

    def _last_known(self, asset: str, judged: list[tuple[Source, str]], now: float) -> Quote | None:
        """The newest value that was ever heard, honestly labelled: nothing may be given out of it as current."""
        known = [(source, verdict) for source, verdict in judged if source.heard_at is not None]
        known = [(source, verdict) for source, verdict in known if verdict not in (quotes.NO_RATE, quotes.EXPELLED)]
        found = [(source, verdict) for source, verdict in known if self._judge(source, now)[1] is not None]
        if not found:
            return None
        halted = all(verdict == quotes.HALTED_THERE for _, verdict in known)
        source = max((source for source, _ in found), key=lambda source: source.heard_at or 0.0)
        value = self._judge(source, now)[1] or 0.0
        quality = quotes.HALTED if halted else quotes.STALE
        return self._quote(asset, [source], [value], combine([value]), quality, 0, [], now)

    def _view(self, source: Source, verdict: str, quote: Quote | None, now: float) -> SourceView:
        age = self.age(source, now)
        rate = self.rate(source.quote_currency, now)
        value = None if rate is None or age is None else source.raw * rate
        off = None if value is None or quote is None else round((value / quote.price - 1.0) / BP, 2)
        return SourceView(
            exchange=source.exchange,
            symbol=source.symbol,
            via=source.via,
            home=source.home,
            quote_currency=source.quote_currency,
            raw=None if age is None else source.raw,
            bid=source.bid if source.bid == source.bid else None,
            ask=source.ask if source.ask == source.ask else None,
            rate=rate,
            value=None if value is None else rounded(value),
            age_seconds=None if age is None else round(age, 3),
            late=source.late(now, self.board.limits),
            connected=source.connected,
            verdict=verdict,
            why=self._why(source, verdict, off, age, value),
            deviation_bp=off,
        )

    def _why(self, source: Source, verdict: str, off_bp: float | None, age: float | None, value: float | None) -> str:
        limits = self.board.limits
        match verdict:
            case quotes.SET_ASIDE:
                return f"{off_bp:+.1f} bp from the price, farther than the others' agreement allows"
            case quotes.SUSPECT:
                return "its value stands still while its peers move"
            case quotes.EXPELLED:
                return "stayed more than 10 % from the median of its peers: perhaps another coin of this code"
            case quotes.NO_RATE:
                why = "is not known" if value is None else "rests on too few sources"
                return f"the dollar rate of {source.quote_currency} {why}"
            case quotes.LOST:
                return "its connection is lost" if source.subscribed else "only fetched when somebody asks"
            case quotes.HALTED_THERE:
                return "the exchange says that trading stands still"
            case quotes.TOO_OLD:
                return f"{age:.0f} s old, more than {limits.max_age_seconds:.0f}"
            case quotes.SILENT:
                return "nothing heard yet"
            case _:
                return ""
