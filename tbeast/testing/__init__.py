"""Fakes that we ship: the real thing minus the socket or the clock."""
