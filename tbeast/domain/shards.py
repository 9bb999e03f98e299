"""How the symbols of one exchange are spread over its connections.

The rule: as few connections as the limit allows, as even as can be, each symbol on exactly one. Symbols are dealt out
in turn, because they come in order of importance and a lost connection should not take all the important ones.
"""

from __future__ import annotations

from collections.abc import Iterable


def shards(symbols: Iterable[str], symbols_per_socket: int) -> list[tuple[str, ...]]:
    """Deal the symbols out; one named twice counts once.

    @return: none at all for no symbols.
    @raise ValueError: when C{symbols_per_socket} is below one.
    """
    if symbols_per_socket < 1:
        raise ValueError(f"a connection must carry at least one symbol, not {symbols_per_socket}")
    wanted = tuple(dict.fromkeys(symbols))
    count = -(-len(wanted) // symbols_per_socket)
    return [wanted[start::count] for start in range(count)]
