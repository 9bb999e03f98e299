"""A flood of datagrams on the loopback address, from a process of its own.

As a program: the port, and for how many seconds and datagrams at most. Standard input gives the key in a line; the
flood ends with it. Then it says in a line of JSON how many datagrams were sent, and what came back.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

LULL_SECONDS = 1.0
"""After so long without an answer no more are to come."""


def questions(key: str) -> list[bytes]:
    """Good, refused, malformed and hostile ones, in turn."""
    stranger = "tb_aaaaaaaaaa_" + "b" * 32
    texts = [
        f"{key}|BTC", f"{stranger}|BTC", f"{key}|eth|7", "", f"{key}|BTC|a|b", "x", f"{key}|SOL-USD|{10**17}",
        f"{key}|NOPE|1", f'{{"api_key":"{key}","asset":"BTC","id":1}}', f"{key}|BTC-USDT", "{" * 900,
        f'{{"api_key":"{key}","assets":["BTC","ETH","NOPE"]}}', "~1|" + "|" * 40, f"{key}|{'A' * 1200}",
        f"{stranger}|BTC|8", f"~1|aaaaaaaaaa|{time.time_ns() // 1_000_000}|BTC||{'m' * 22}", "|BTC", f"{key}|B C|2",
    ]  # fmt: skip
    return [text.encode() for text in texts] + [b"\xff" * 300, b"\0|\0|\0"]


def main(arguments: list[str]) -> None:
    port, seconds, most = int(arguments[0]), float(arguments[1]), int(arguments[2])
    asked = questions(sys.stdin.readline().strip())
    sent = answered = refused = 0

    def hear() -> bool:
        nonlocal answered, refused
        try:
            answer = raw.recv(2000)
        except BlockingIOError:
            return False
        if answer.startswith(b'{"error"'):
            refused += 1
        else:
            answered += 1
        return True

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.setblocking(False)
        raw.connect(("127.0.0.1", port))
        os.write(1, b"\n")
        end = time.monotonic() + seconds
        while sent < most and time.monotonic() < end and not select.select([sys.stdin], [], [], 0)[0]:
            for question in asked:
                try:
                    raw.send(question)
                except BlockingIOError:
                    continue
                sent += 1
            while hear():
                pass
        while select.select([raw], [], [], LULL_SECONDS)[0]:
            hear()
    os.write(1, json.dumps({"sent": sent, "answered": answered, "refused": refused}).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
