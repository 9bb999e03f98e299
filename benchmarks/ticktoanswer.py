"""How long from an exchange's frame to the first answer with its price; prints a JSON list of milliseconds.

A WebSocket server of our own stands in for Kraken; the other exchanges are not there. Each round sends one frame with
a new price, and asks over UDP until that price comes back.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from serving import Daemon
from twisted.internet import reactor, task
from twisted.internet.defer import ensureDeferred
from twisted.internet.protocol import DatagramProtocol

NOWHERE = {
    f"TBEAST_{name}_{half}_URL": f"{scheme}://127.0.0.1:1"
    for name in ("COINBASE", "GEMINI", "KRAKEN", "GATEIO", "CRYPTOCOM", "OKX")
    for half, scheme in (("WS", "ws"), ("REST", "http"))
}


class Kraken(WebSocketServerProtocol):
    connections: list = []

    def onOpen(self):
        self.connections.append(self)

    def onMessage(self, payload, isBinary):
        asked = json.loads(payload)
        for symbol in asked.get("params", {}).get("symbol", ()):
            self.reply({"method": "subscribe", "success": True, "result": {"channel": "ticker", "symbol": symbol}})

    def reply(self, message):
        self.sendMessage(json.dumps(message).encode())


class Asker(DatagramProtocol):
    def __init__(self, port):
        self.port, self.heard = port, {}

    def startProtocol(self):
        self.transport.connect("127.0.0.1", self.port)

    def datagramReceived(self, datagram, addr):
        self.heard = json.loads(datagram)


async def measure(daemon, asker, rounds):
    while not Kraken.connections or not os.path.exists(daemon.folder / "demo.key"):
        await task.deferLater(reactor, 0.1)
    await task.deferLater(reactor, 2.0)
    question = f"{daemon.key}|BTC".encode()
    found = []
    for step in range(rounds + 5):
        price = round(80000.0 + step * 0.1, 1)
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
        row = {"symbol": "BTC/USD", "bid": price, "ask": price, "last": price, "volume": 1.0, "timestamp": stamp}
        began = time.perf_counter()
        for connection in Kraken.connections:
            connection.reply({"channel": "ticker", "type": "update", "data": [row]})
        while asker.heard.get("price") != price and time.perf_counter() - began < 5.0:
            asker.transport.write(question)
            await task.deferLater(reactor, 0.0005)
        if step >= 5:
            found.append(round(1e3 * (time.perf_counter() - began), 3))
        await task.deferLater(reactor, 0.031)
    return found


def main(rounds):
    factory = WebSocketServerFactory()
    factory.protocol = Kraken
    port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
    heartbeat = task.LoopingCall(lambda: [each.reply({"channel": "heartbeat"}) for each in Kraken.connections])
    heartbeat.start(1.0)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        said = {**NOWHERE, "TBEAST_FEEDS": "live", "TBEAST_KRAKEN_WS_URL": f"ws://127.0.0.1:{port}"}
        daemon = Daemon(folder, **said)
        asker = Asker(daemon.ports["UDP_PORT_LPO"])
        reactor.listenUDP(0, asker, interface="127.0.0.1")
        outcome = []
        measuring = ensureDeferred(measure(daemon, asker, rounds))
        measuring.addCallbacks(outcome.extend, lambda why: why.printTraceback())
        measuring.addBoth(lambda _: reactor.stop())
        try:
            reactor.run()
        finally:
            daemon.stop()
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(int(sys.argv[1]))
