"""How often an exchange lets itself be asked: a token bucket with the exchange's own numbers."""

from __future__ import annotations

from attrs import define, field, frozen


@frozen
class Allowance:
    """C{count} in C{seconds}, C{burst} at once (0: as many as C{count}), and after the first excess a ban."""

    count: int
    seconds: float
    burst: int = 0
    ban_seconds: float = 0.0


@define
class Bucket:
    """One client's use of an allowance."""

    allowance: Allowance
    _tokens: float = field(init=False)
    _at: float = field(init=False, default=0.0)
    _banned_until: float = field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self._tokens = self._most

    @property
    def _most(self) -> float:
        return float(self.allowance.burst or self.allowance.count)

    @property
    def left(self) -> int:
        """How many more would be let through now."""
        return int(self._tokens)

    def wait(self, now: float) -> float:
        """Take one; 0 when that was allowed, else how many seconds to wait."""
        if now < self._banned_until:
            return self._banned_until - now
        per_second = self.allowance.count / self.allowance.seconds
        self._tokens = min(self._most, self._tokens + max(0.0, now - self._at) * per_second)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        if self.allowance.ban_seconds:
            self._banned_until = now + self.allowance.ban_seconds
            return self.allowance.ban_seconds
        return (1.0 - self._tokens) / per_second
