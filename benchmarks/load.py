"""A closed-loop load on one daemon, over HTTP or UDP: so many questions under way, each answer brings the next.

Sends to loopback addresses only, for a bounded time. Prints one line of JSON. The asker is one Python process, so what
it reads is the lesser of what the daemon answers and what the asker can ask; it says how busy it was itself.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import select
import socket
import time


def http(host: str, port: int, key: str, assets: list[str], connections: int, seconds: float) -> dict[str, float]:
    asks = [
        f"GET /price?asset={asset} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        for asset in assets
    ]
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for place in range(connections):
        sock = socket.create_connection((host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[sock.fileno()] = sock
        poll.register(sock.fileno(), select.EPOLLIN)
        sock.sendall(asks[place % len(asks)])
    sent = dict.fromkeys(sockets, time.perf_counter())
    latencies: list[float] = []
    bad = 0
    end = time.perf_counter() + seconds
    turn = connections
    while (now := time.perf_counter()) < end:
        for number, _ in poll.poll(0.5):
            answer = sockets[number].recv(65536)
            now = time.perf_counter()
            if not answer:
                raise SystemExit("the daemon closed a connection")
            if not answer.endswith(b"}"):
                continue  # the rest of the body comes with the next turn
            latencies.append(now - sent[number])
            bad += not answer.startswith(b"HTTP/1.1 200")
            turn += 1
            sent[number] = now
            sockets[number].sendall(asks[turn % len(asks)])
    return summary(latencies, bad, 0, seconds)


def udp(host: str, port: int, key: str, assets: list[str], window: int, seconds: float) -> dict[str, float]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.connect((host, port))
    sock.settimeout(0.2)
    latencies: list[float] = []
    under_way: dict[int, float] = {}
    bad = lost = turn = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        while len(under_way) < window:
            turn += 1
            under_way[turn] = time.perf_counter()
            sock.send(f"{key}|{assets[turn % len(assets)]}|{turn}".encode())
        try:
            answer = sock.recv(2048)
        except TimeoutError:
            lost += len(under_way)
            under_way.clear()
            continue
        body = json.loads(answer)
        began = under_way.pop(int(body["id"]), None)
        if began is not None:
            latencies.append(time.perf_counter() - began)
            bad += "price" not in body
    return summary(latencies, bad, lost, seconds)


def summary(latencies: list[float], bad: int, lost: int, seconds: float) -> dict[str, float]:
    latencies.sort()
    busy = time.process_time() / seconds

    def at(share: float) -> float:
        return round(1e3 * latencies[min(len(latencies) - 1, int(share * len(latencies)))], 3) if latencies else 0.0

    return {
        "rate": round(len(latencies) / seconds), "bad": bad, "lost": lost, "p50_ms": at(0.5), "p99_ms": at(0.99),
        "asker_busy": round(busy, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=["http", "udp"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--assets", default="BTC,ETH,SOL,DOGE,LTC,DOT,BNB,WLD,NEAR")
    parser.add_argument("--level", type=int, default=64, help="connections, or datagrams under way")
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    if not ipaddress.ip_address(args.host).is_loopback:
        parser.error("only loopback addresses are loaded")
    run = http if args.protocol == "http" else udp
    print(json.dumps(run(args.host, args.port, args.key, args.assets.split(","), args.level, min(args.seconds, 60.0))))


if __name__ == "__main__":
    main()
