"""What an operator asks of the keys, and how far that can be done.

A key has the limits of its tier from the moment it is made, or given another tier; single limits may be set beside
that, and hold until the next change of tier. A key with questions a second has a burst, and one without has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

from attrs import evolve, field, frozen

from tbeast.domain.keys import KeyRecord
from tbeast.domain.plans import Plan

Limits = Mapping[str, int | float | None]
"""Limits to be set, by their names in L{Plan}; C{None} is no limit."""

NO_LIMITS: Final[Limits] = MappingProxyType({})

LIMITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "queries_per_month": "monthly_quota",
        "queries_per_second": "qps",
        "burst": "burst",
        "min_wait_seconds": "min_wait_seconds",
        "reports_per_month": "monthly_reports",
    }
)
"""What operators call the limits, and their names in L{Plan}."""


class KeyDetails(Protocol):
    """All that is known of one key; times in seconds since the epoch."""

    @property
    def record(self) -> KeyRecord:
        """What nodes know of it."""

    @property
    def email(self) -> str | None:
        """Its user's."""

    @property
    def revoked_at(self) -> float | None:
        """C{None} while it is good."""

    @property
    def replaces(self) -> str | None:
        """The id of the key whose place it took."""

    @property
    def replaced_by(self) -> str | None:
        """The id of the key that took its place."""


@frozen
class NewKey:
    """A key to be made.

    @ivar name: what it is called, C{email} whose it is.
    @ivar limits: what is to be other than in its tier.
    """

    name: str
    tier: str = "free"
    email: str | None = None
    lrs_addon: bool = False
    response_format: str = "tbc"
    preferred_lang: str = "en"
    limits: Limits = NO_LIMITS


@frozen
class KeyEdit:
    """A key to be changed; C{None} stays as it is.

    @ivar tier: its new tier, with the tier's limits.
    @ivar limits: set after that.
    """

    tier: str | None = None
    lrs_addon: bool | None = None
    limits: Limits = NO_LIMITS


@frozen
class KeyFilter:
    """Which keys to list, in the order of their making.

    @ivar revoked: C{True}: revoked ones alone; C{False}: good ones alone.
    @ivar after: the id of the last key of the page before.
    @ivar limit: how many at most.
    """

    tier: str | None = None
    name: str | None = None
    revoked: bool | None = None
    after: str | None = None
    limit: int = 100


@frozen
class MadeKey:
    """A key that was made.

    @ivar text: the key; it can be had only here.
    @ivar replaced: the key whose place it took, as it is now.
    """

    text: str = field(repr=False)
    details: KeyDetails
    replaced: KeyDetails | None = None


@frozen
class Denied:
    """What was asked of the keys was not done.

    @ivar code: one of L{tbeast.codecs.problems.CODES}.
    @ivar why: a sentence for people, which holds no key.
    """

    code: str
    why: str


def limited(plan: Plan, limits: Limits) -> Plan:
    """Give a key's limits with some of them set anew.

    @raise ValueError: when they do not fit together; with a sentence for people.
    """
    given: Any = limits
    changed = evolve(plan, **given)
    if (changed.qps is None) != (changed.burst is None):
        raise ValueError("queries_per_second and burst go together: both are numbers, or both are null")
    return changed
