"""The exception tree.

Refusals are values; what is here are surprises and faults of the operator's making.
"""

from __future__ import annotations

from collections.abc import Sequence


class TBeastError(Exception):
    """The root of everything that tbeast itself raises."""


class SettingsError(TBeastError):
    """One or more settings are unknown, malformed or impossible.

    @ivar faults: every fault found, each with where it stands.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class StateFolderError(TBeastError):
    """The folder for what must outlive a restart cannot be used; the message names it and says why."""


class AssetMapError(TBeastError):
    """The asset table breaks its own rules; the message names every row at fault."""


class FetchError(TBeastError):
    """A REST question to an exchange got no usable answer.

    @ivar reason: one short word for the counters: C{timeout}, C{refused}, C{throttled}...
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class StoreError(TBeastError):
    """The database did not do what it was asked; the message says what and why, and holds no secret."""


class StoreUnavailableError(StoreError):
    """It cannot be asked now: away, too slow, read-only, its disk full. The same question may succeed later."""


class StoreRefusedError(StoreError):
    """It will not take this, now or later: the values break a rule of the schema.

    @ivar code: the SQLSTATE, five characters.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class CacheUnavailableError(TBeastError):
    """The shared cache cannot be asked now; nobody may fail for that alone."""


class CopyIncompleteError(TBeastError):
    """The copy of usage in the shared cache lacks something, or has what cannot be read; the database has it."""


class MigrationError(StoreError):
    """The schema of the database is not one that this version can work with; the message says what to do."""
