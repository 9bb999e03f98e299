"""The six exchanges, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tbeast.codecs.exchanges import coinbase, cryptocom, gateio, gemini, kraken, okx
from tbeast.codecs.exchanges.base import Exchange

EXCHANGES: Final[Mapping[str, Exchange]] = MappingProxyType(
    {module.EXCHANGE.facts.name: module.EXCHANGE for module in (coinbase, gemini, kraken, gateio, cryptocom, okx)}
)
"""Every exchange that tbeast knows, in the order of the asset table's columns."""
