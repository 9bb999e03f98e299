"""A small board for tests: a few assets on a few exchanges, and short words to speak to it."""

from __future__ import annotations

from types import MappingProxyType

from attrs import evolve

from tbeast.domain import assetmap
from tbeast.domain.assetmap import EXCHANGES, Asset, AssetMap, parse
from tbeast.domain.board import WS, Board
from tbeast.domain.freshness import Limits
from tbeast.domain.pricing import TRUST, Pricer
from tbeast.domain.ticks import Tick

ASSETS = """\
asset,name,category,home,coinbase,gemini,kraken,gateio,cryptocom,okx
BTC,Bitcoin,Major,coinbase,BTC-USD,btcusd,BTC/USD,BTC_USDT,BTC_USD,BTC-USDT
ETH,Ethereum,Major,kraken,ETH-USD,,ETH/USD,ETH_USDT,ETH_USD,
SKL,SKALE,Layer 2,gemini,SKL-USD,sklusd,,SKL_USDT,,
NOT,Notcoin,Gaming,okx,,,NOT/USD,NOT_USDT,,NOT-USDT
"""

STABLECOINS = """\
asset,coinbase,gemini,kraken,cryptocom,okx,gateio
USDT,USDT-USD,usdtusd,USDT/USD,USDT_USD,USDT-USD,
USDC,,usdcusd,USDC/USD,,,
"""

START = 1_790_000_000.0


def asset_map() -> AssetMap:
    return parse(ASSETS, STABLECOINS)


def changed(assets: AssetMap, *gone: str, **others: Asset) -> AssetMap:
    """C{assets} without some codes, and with others."""
    tables = []
    for table, is_coins in ((assets.assets, False), (assets.stablecoins, True)):
        kept = {code: asset for code, asset in table.items() if code not in gone}
        kept |= {code: asset for code, asset in others.items() if (code in assetmap.STABLECOINS) is is_coins}
        tables.append(MappingProxyType(kept))
    return AssetMap(*tables)


def without(asset: Asset, *exchanges: str) -> Asset:
    """C{asset} where these exchanges do not list it."""
    symbols = {exchange: symbol for exchange, symbol in asset.symbols.items() if exchange not in exchanges}
    home = asset.home if asset.home in symbols or not asset.home else next(iter(symbols))
    return evolve(asset, symbols=symbols, home=home)


class Scene:
    """A board, its pricer and a time that moves when told to."""

    def __init__(self, max_age_seconds: float = 60.0, connect: bool = True) -> None:
        self.now = START
        self.assets = asset_map()
        self.board = Board(self.assets, Limits(max_age_seconds), TRUST)
        self.pricer = Pricer(self.board)
        if connect:
            for exchange in EXCHANGES:
                self.connect(exchange)

    def connect(self, exchange: str) -> None:
        self.board.connected(exchange, tuple(self.board.by_symbol[exchange]), self.now)

    def disconnect(self, exchange: str) -> None:
        self.board.disconnected(exchange, tuple(self.board.by_symbol[exchange]), self.now)

    def symbol(self, exchange: str, asset: str) -> str:
        coins = self.assets.stablecoins
        return (coins[asset] if asset in coins else self.assets.assets[asset]).symbols[exchange]

    def tick(
        self,
        exchange: str,
        asset: str,
        price: float,
        *,
        spread_bp: float = 2.0,
        lag: float = 0.1,
        via: str = WS,
        volume: float = 10.0,
    ) -> str | None:
        half = price * spread_bp / 2e4
        said = self.now - lag
        tick = Tick(exchange, self.symbol(exchange, asset), price, price - half, price + half, volume, said, self.now)
        return self.board.put(tick, via)

    def tether(self, rate: float) -> None:
        """Let every exchange that lists USDT say what it is worth, and the pricer hear it."""
        for exchange in self.assets.stablecoins["USDT"].symbols:
            self.tick(exchange, "USDT", rate)
        self.pricer.quote("USDT", self.now)

    def say(self, asset: str, **prices: float) -> None:
        """Let exchanges say prices of C{asset}, each in its own quote currency."""
        for exchange, price in prices.items():
            self.tick(exchange, asset, price)

    def verdicts(self, asset: str) -> dict[str, str]:
        _, views = self.pricer.explain(asset, self.now)
        return {view.exchange: view.verdict for view in views}

    def review(self, asset: str) -> list[str]:
        return [f"{change.source.exchange} {change.what}" for change in self.pricer.review(asset, self.now)]
