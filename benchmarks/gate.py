"""What the gate adds to a request: key, bucket, quota and ledger, in microseconds, for a key of each tier.

Each figure is the median of several rounds, the empty loop taken off. The time goes on between the questions, so that
buckets refill, and quotas are there but large, so that every question is admitted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from attrs import evolve

from tbeast.domain.admission import ADMITTED
from tbeast.domain.keys import account_of
from tbeast.domain.plans import PLANS
from tbeast.domain.usage import Ledger
from tbeast.servers.gate import Gate
from tbeast.services.keyring import Keyring

START = 1_790_000_000.0
ASSETS = [f"ASSET{number}" for number in range(150)]
OTHERS = 1_000
"""Keys that are on the ring as well."""


def seconds(work: Callable[[int], object], questions: int, rounds: int) -> float:
    """The median time of one question."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for number in range(questions):
            work(number)
        times.append((time.perf_counter() - began) / questions)
    return statistics.median(times)


def measure(tier: str, questions: int, rounds: int) -> tuple[float, float]:
    """Microseconds of the verdict, and of the verdict with the ledger's entry."""
    key = f"tb_abcdefghij_{'k' * 32}".encode()
    accounts = [account_of(f"another-key-{number}", "free", str(number)) for number in range(OTHERS)]
    account = account_of(key.decode(), tier, tier)
    if account.plan.monthly_quota is not None:
        account = evolve(account, plan=evolve(account.plan, monthly_quota=10**12))
    gate = Gate(Keyring([*accounts, account]))
    ledger = Ledger()
    now = START
    step = 1.01 / (PLANS[tier].qps or 1e6)

    def nothing(number: int) -> None:
        nonlocal now
        now += step

    def verdict(number: int) -> None:
        nonlocal now
        now += step
        gate.admit(key, now)

    def both(number: int) -> None:
        nonlocal now
        now += step
        verdict = gate.admit(key, now)
        ledger.count(
            verdict.account.key_id,  # type: ignore[union-attr]
            "lpo", "http", ASSETS[number % 150], "median", "shelf", 200, verdict.outcome == ADMITTED, now, 37,
        )  # fmt: skip
        if not number % 10_000:
            ledger.cut(100_000)

    empty = seconds(nothing, questions, rounds)
    return tuple(1e6 * (seconds(work, questions, rounds) - empty) for work in (verdict, both))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print(f"{'tier':>10} {'verdict us':>10} {'with ledger us':>14}")
    for tier in PLANS:
        verdict, both = measure(tier, args.questions, args.rounds)
        print(f"{tier:>10} {verdict:>10.2f} {both:>14.2f}")


if __name__ == "__main__":
    main()
