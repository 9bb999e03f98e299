"""All tests that run whole daemons, in every way that the daemon can serve: with native parts and without, with one
process and with two workers. It takes an hour or so; names of modules after it run these alone.
"""

from __future__ import annotations

import sys
from itertools import product

from test_all import INTEGRATION, Tally, trial

WAYS = [{"TEST_NATIVE": native, "TEST_WORKERS": workers} for native, workers in product(("auto", "off"), ("1", "2"))]


def main(names: list[str]) -> int:
    """Run them; status 0 if nothing failed."""
    tally = Tally()
    wanted = [f"{INTEGRATION}.{name}" for name in names] or [INTEGRATION]
    for way in WAYS:
        said = f"native {way['TEST_NATIVE']}, workers {way['TEST_WORKERS']}"
        print(said, flush=True)
        trial(tally, f"integration tests, {said}", wanted, None, way)
    for failure in tally.failures:
        print(f"failed: {failure}")
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
