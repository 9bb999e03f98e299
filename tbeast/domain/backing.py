"""How the parts behind the surface are doing: database, cache, keys, usage, limits. What /ready says of them.

A part may be away and the daemon still serve: then its status only says so. A part C{blocks} when questions cannot be
answered as promised without it; its reason then stands among the reasons why this node should get none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from attrs import frozen


@frozen
class PartStatus:
    """How one part is doing.

    @ivar name: C{database}, C{cache}, C{keys}, C{usage}...
    @ivar state: one word: C{up}, C{away}, C{loading}...
    @ivar why: in few words, empty if there is nothing to say.
    @ivar since: when it came to be in that state, in seconds since the epoch; C{None} if that is not known.
    @ivar blocks: whether questions cannot be answered as promised until it is otherwise.
    @ivar figures: numbers that belong to it, by what they are: C{spooled_bytes}...
    """

    name: str
    state: str
    why: str = ""
    since: float | None = None
    blocks: bool = False
    figures: Mapping[str, float] = MappingProxyType({})


Backing = Callable[[], Sequence[PartStatus]]
"""Gives the status of every part behind the surface."""
