"""Word of changed keys between nodes, over Valkey's publish and subscribe: channel C{tbeast:keys}.

Who is not connected at the moment of a message never hears it, so every subscriber is told when its line is up (again),
to ask the database for what it missed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tbeast.adapters.cache.valkey import ValkeyClient

CHANNEL: Final = b"tbeast:keys"


class ValkeyKeyEvents:
    """L{tbeast.interfaces.KeyEvents} over Valkey."""

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client

    async def publish(self, message: bytes) -> None:
        """See L{tbeast.interfaces.KeyEvents.publish}."""
        await self._client.command(b"PUBLISH", CHANNEL, message)

    def subscribe(self, heard: Callable[[bytes], None], lost: Callable[[], None], regained: Callable[[], None]) -> None:
        """See L{tbeast.interfaces.KeyEvents.subscribe}; it lasts until the client is stopped."""
        self._client.subscriber(CHANNEL, heard, lost, regained)
