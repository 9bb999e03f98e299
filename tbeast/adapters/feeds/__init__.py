"""The exchanges, over WebSocket and REST."""
