"""C{python -m tbeast.loadtest}: one generator; it is told on standard input what to do."""

import random
import time

from tbeast.loadtest.generator import main

if __name__ == "__main__":
    main(time.monotonic, lambda seed: random.Random(seed).random)
