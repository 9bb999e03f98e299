"""The one truth behind all six emulated exchanges: a dollar mid price for every asset, and the stablecoins' rates.

The rule: each mid is a geometric random walk, pulled back gently towards where it began and never farther from it than
a factor of two, so that a lab may run for weeks. How often an asset moves falls with its rank by turnover; how far it
moves in an hour does not depend on how often it is stepped. USDT and USDC wander by a few hundred-thousandths
around their pegs, and go elsewhere when they are told to.

The same seed, the same codes and the same number of steps give the same prices.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, log
from random import Random
from typing import Final

from attrs import define

from tbeast.lab.starts import start_of

DEFAULT_STEPS_PER_SECOND: Final = 20.0
"""At this rate the moves-a-second of L{moves_per_second} hold; at another all go faster or slower in proportion."""

PEGS: Final = {"USDT": 0.9995, "USDC": 0.9999}
"""Where each stablecoin stands in dollars when nothing is the matter."""

FARTHEST: Final = 2.0
"""A mid stays within this factor of its start, either way."""

_VOLATILITY: Final = 0.6e-4  # of the logarithm, over one second
_PULL_SECONDS: Final = 86400.0
_PEG_WANDER: Final = 2e-6  # a step
_PEG_PULL: Final = 0.002  # a step
_COIN_CHANCE: Final = 0.08  # that a stablecoin is named among what moved


def moves_per_second(rank: int) -> float:
    """How often the asset of this rank by turnover (1 is the greatest) moves, at the default rate of steps."""
    return min(12.0, 18.0 * exp(-0.7 * log(rank)))


@define
class _Coin:
    peg: float
    rate: float
    target: float
    per_step: float = 0.0


class Market:
    """Mids and rates, moved on by L{step}.

    @ivar mids: USD price by asset code.
    @ivar turnover: a day's USD turnover by asset code, over all exchanges.
    @ivar rank: 1 for the asset with the greatest turnover, and so on.
    @ivar steps: how many steps were taken.
    """

    def __init__(
        self, random: Random, codes: Iterable[str], steps_per_second: float = DEFAULT_STEPS_PER_SECOND
    ) -> None:
        if not steps_per_second > 0:
            raise ValueError("steps_per_second must be above zero")
        self.steps_per_second = steps_per_second
        self.steps = 0
        self._random = random
        starts = {code: start_of(code) for code in codes}
        self.mids = {code: price for code, (price, _) in starts.items()}
        self.turnover = {code: turnover for code, (_, turnover) in starts.items()}
        by_size = sorted(starts, key=lambda code: -self.turnover[code])
        self.rank = {code: place for place, code in enumerate(by_size, 1)}
        self._starts = dict(self.mids)
        self._walks = []
        for code in starts:
            chance = moves_per_second(self.rank[code]) / DEFAULT_STEPS_PER_SECOND
            seconds = 1.0 / (chance * steps_per_second)  # between two moves, on average
            self._walks.append((code, chance, _VOLATILITY * seconds**0.5, seconds / _PULL_SECONDS))
        self._coins = {code: _Coin(peg, peg, peg) for code, peg in PEGS.items()}

    def step(self) -> list[str]:
        """Take one step and name the assets that moved; the stablecoins move with every step and are named at times."""
        self.steps += 1
        random, mids = self._random, self.mids
        moved = []
        for code, chance, spread, pull in self._walks:
            if random.random() < chance:
                start = self._starts[code]
                away = log(mids[code] / start)
                away += random.gauss(0.0, spread) - away * pull
                away = max(-_FARTHEST_LOG, min(_FARTHEST_LOG, away))
                mids[code] = start * exp(away)
                moved.append(code)
        for name, coin in self._coins.items():
            self._step_coin(coin)
            if random.random() < _COIN_CHANCE:
                moved.append(name)
        return moved

    def _step_coin(self, coin: _Coin) -> None:
        if coin.per_step:
            left = coin.target - coin.rate
            if abs(left) <= abs(coin.per_step):
                coin.rate, coin.per_step = coin.target, 0.0
            else:
                coin.rate += coin.per_step
            return
        coin.rate += self._random.gauss(0.0, _PEG_WANDER) + (coin.target - coin.rate) * _PEG_PULL

    def rate(self, coin: str) -> float:
        """What one C{coin} costs in USD.

        @raise KeyError: for anything but a stablecoin.
        """
        return self._coins[coin].rate

    def price(self, code: str, quote: str = "USD") -> float:
        """The mid of an asset or a stablecoin in C{quote}: USD, USDT or USDC.

        @raise KeyError: for a code or a quote that the market does not know.
        """
        dollars = self.mids[code] if code in self.mids else self.rate(code)
        return dollars if quote == "USD" else dollars / self.rate(quote)

    def send_coin(self, coin: str, rate: float | None, ramp_seconds: float = 0.0) -> None:
        """Send a stablecoin to another rate, C{None} back to its peg, evenly over C{ramp_seconds}.

        @raise KeyError: for anything but a stablecoin.
        @raise ValueError: for a rate that is no price.
        """
        state = self._coins[coin]
        target = state.peg if rate is None else rate
        if not 0.01 <= target <= 100.0:
            raise ValueError(f"no rate for a stablecoin: {target!r}")
        state.target = target
        steps = max(1.0, ramp_seconds * self.steps_per_second)
        state.per_step = (target - state.rate) / steps


_FARTHEST_LOG: Final = log(FARTHEST)
