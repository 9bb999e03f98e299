"""Frames a second, parsed and boarded, per exchange, on one core, from recorded frames.

A recorded frame of each exchange is made into many: other symbols that the exchange lists, prices that move, times that
go on, all made before the clock starts. What is timed is what the feed does with a frame: the codec reads it, and the
tick goes onto the board.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from importlib.resources import files
from pathlib import Path

from tbeast.codecs.exchanges.base import SocketCodec
from tbeast.codecs.exchanges.registry import EXCHANGES
from tbeast.domain.assetmap import AssetMap, parse
from tbeast.domain.board import WS, Board
from tbeast.domain.freshness import Limits
from tbeast.domain.pricing import TRUST
from tbeast.domain.ticks import Tick

RECORDED = files("tbeast") / "test" / "codecs" / "exchanges" / "fixtures"

START = 1_790_000_000.0


def recorded(exchange: str) -> str:
    return Path(str(RECORDED / exchange / "ticker.jsonl")).read_text(encoding="utf-8").splitlines()[0]


def frame(exchange: str, template: dict, symbol: str, step: int) -> bytes:
    """Make of a recorded frame one of another symbol at another time and price."""
    message = json.loads(json.dumps(template))
    price, said = 100.0 + step * 0.01, START + step * 0.001
    iso = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(said)) + f".{int(said % 1 * 1e6):06d}"
    text, low, high = f"{price:.2f}", f"{price - 0.01:.2f}", f"{price + 0.01:.2f}"
    if exchange == "coinbase":
        message |= {"timestamp": iso + "123Z", "sequence_num": step}
        ticker = message["events"][0]["tickers"][0]
        ticker |= {"product_id": symbol, "price": text, "best_bid": low, "best_ask": high}
    elif exchange == "gemini":
        message |= {"s": symbol, "u": message["u"] + step, "E": int(said * 1e9), "b": low, "a": high, "c": text}
    elif exchange == "kraken":
        message["data"][0] |= {
            "symbol": symbol,
            "last": price,
            "bid": float(low),
            "ask": float(high),
            "timestamp": iso + "Z",
        }
    elif exchange == "gateio":
        message |= {"time": int(said), "time_ms": int(said * 1e3)}
        message["result"] |= {"currency_pair": symbol, "last": text, "highest_bid": low, "lowest_ask": high}
    elif exchange == "cryptocom":
        message["id"] = -1
        message["result"] |= {"instrument_name": symbol, "subscription": f"ticker.{symbol}"}
        message["result"]["data"][0] |= {"i": symbol, "a": text, "b": low, "k": high, "t": int(said * 1e3)}
    else:
        message["arg"]["instId"] = symbol
        message["data"][0] |= {"instId": symbol, "last": text, "bidPx": low, "askPx": high, "ts": str(int(said * 1e3))}
    return re.sub(rb"([:,]) ", rb"\1", json.dumps(message).encode())


def measure(exchange: str, assets: AssetMap, count: int, rounds: int) -> tuple[float, int]:
    """The median over rounds of frames a second, and the size of a frame."""
    symbols = list(assets.subscriptions(exchange))
    template = json.loads(recorded(exchange))
    frames = [frame(exchange, template, symbols[step % len(symbols)], step) for step in range(count)]
    rates = []
    for _ in range(rounds):
        board = Board(assets, Limits(), TRUST)
        board.connected(exchange, tuple(symbols), START)
        codec: SocketCodec = EXCHANGES[exchange].socket_codec(symbols)
        codec.opened(START)
        boarded = 0
        began = time.perf_counter()
        for step, text in enumerate(frames):
            for event in codec.received(text, START + step * 0.001):
                if type(event) is Tick and board.put(event, WS) is None:
                    boarded += 1
        rates.append(count / (time.perf_counter() - began))
        if boarded != count:
            raise SystemExit(f"{exchange}: {boarded} of {count} frames came to the board")
    return statistics.median(rates), len(frames[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    data = files("tbeast") / "data"
    assets = parse((data / "assets.csv").read_text("utf-8"), (data / "stablecoins.csv").read_text("utf-8"))
    print(f"{'exchange':>10} {'frames/s':>10} {'us/frame':>9} {'bytes':>6}")
    for exchange in EXCHANGES:
        rate, size = measure(exchange, assets, args.frames, args.rounds)
        print(f"{exchange:>10} {rate:>10,.0f} {1e6 / rate:>9.2f} {size:>6}")


if __name__ == "__main__":
    main()
