"""A process that writes replies to a shelf as fast as it can, until its input ends.

C{python -m tbeast.test.native.shelfwriter FILE}. Each reply says in every part which one it is.
"""

from __future__ import annotations

import mmap
import select
import sys
from math import inf
from pathlib import Path

from tbeast.domain.sharedshelf import BYTES, SharedShelf
from tbeast.test.native.parts import NOW

ASSETS = ("BTC", "ETH", "SOL")


def whole_of(asset: str, number: int) -> tuple[bytes, bytes]:
    """Head and tail of one reply; their lengths vary, and every part says the number."""
    part = b"%d:%b " % (number, asset.encode("ascii"))
    return part * (1 + number % 19), part * (1 + number % 23)


def main(path: Path) -> None:
    """Write."""
    with path.open("r+b") as file:
        shelf = SharedShelf(memoryview(mmap.mmap(file.fileno(), BYTES)))
    number = 0
    while True:
        for _ in range(100):
            number += 1
            for asset in ASSETS:
                if not shelf.put(asset, *whole_of(asset, number), NOW + 3_600.0, inf, f"s{number % 5}"):
                    sys.exit("it does not fit")
        if number == 100:
            sys.stdout.write("writing\n")
            sys.stdout.flush()
        if select.select([sys.stdin], [], [], 0.0)[0]:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
