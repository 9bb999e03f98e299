"""What operators ask of the keys and the parameters in PostgreSQL, each in one transaction of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from attrs import frozen

from tbeast.adapters.store import keyrows, parameterrows
from tbeast.adapters.store.keyrows import KeyDetails, KeyRowError, NoSuchKeyError, Runs
from tbeast.adapters.store.postgres import Connection
from tbeast.domain.keyorders import Denied, KeyEdit, KeyFilter, MadeKey, NewKey
from tbeast.domain.keys import KeyRecord

T = TypeVar("T")

UNKNOWN: Final = "unknown_key"
MALFORMED: Final = "malformed_parameter"
CONFLICT: Final = "conflict"


@frozen
class PostgresKeyDesk:
    """The keys; fits L{tbeast.services.keydesk.KeyRows}."""

    pool: Runs
    random_bytes: Callable[[int], bytes]

    async def listed(self, wanted: KeyFilter) -> Sequence[KeyRecord] | Denied:
        """See L{keyrows.listed}."""
        return await self._do(
            lambda connection: keyrows.listed(
                connection, wanted.tier, wanted.revoked, wanted.after, wanted.limit, wanted.name
            ),
            CONFLICT,
        )

    async def details(self, key_id: str) -> KeyDetails | Denied:
        """See L{keyrows.details}."""
        return await self._do(lambda connection: keyrows.details(connection, key_id), CONFLICT)

    async def create(self, order: NewKey) -> MadeKey | Denied:
        """See L{keyrows.create}; limits of its own come in the same transaction."""

        def work(connection: Connection) -> MadeKey:
            text, record = keyrows.create(
                connection, order.tier, order.name, order.email, lrs_addon=order.lrs_addon,
                response_format=order.response_format, preferred_lang=order.preferred_lang,
                random_bytes=self.random_bytes,
            )  # fmt: skip
            key_id = record.account.key_id
            if order.limits:
                keyrows.change(connection, key_id, KeyEdit(limits=order.limits))
            return MadeKey(text, keyrows.details(connection, key_id))

        return await self._do(work, MALFORMED)

    async def change(self, key_id: str, edit: KeyEdit) -> KeyDetails | Denied:
        """See L{keyrows.change}."""

        def work(connection: Connection) -> KeyDetails | Denied:
            if edit.tier is not None and edit.tier not in (known := [plan.tier for plan in keyrows.tiers(connection)]):
                return Denied(MALFORMED, f"there is no such tier; there are {', '.join(known)}")
            keyrows.change(connection, key_id, edit)
            return keyrows.details(connection, key_id)

        return await self._do(work, CONFLICT)

    async def revoke(self, key_id: str) -> tuple[KeyDetails, bool] | Denied:
        """See L{keyrows.revoke}."""

        def work(connection: Connection) -> tuple[KeyDetails, bool]:
            _, was_good = keyrows.revoke(connection, key_id)
            return keyrows.details(connection, key_id), was_good

        return await self._do(work, CONFLICT)

    async def rotate(self, key_id: str, grace_seconds: float) -> MadeKey | Denied:
        """See L{keyrows.rotate}."""

        def work(connection: Connection) -> MadeKey:
            rotation = keyrows.rotate(connection, key_id, grace_seconds, random_bytes=self.random_bytes)
            new = keyrows.details(connection, rotation.new.account.key_id)
            return MadeKey(rotation.text, new, keyrows.details(connection, key_id))

        return await self._do(work, CONFLICT)

    async def touch(self, key_id: str) -> KeyDetails | Denied:
        """See L{keyrows.touch}."""

        def work(connection: Connection) -> KeyDetails:
            keyrows.touch(connection, key_id)
            return keyrows.details(connection, key_id)

        return await self._do(work, CONFLICT)

    async def _do(self, work: Callable[[Connection], T], otherwise: str) -> T | Denied:
        """Do it; C{otherwise} is the code of a refusal that is not for want of the key."""
        try:
            return await self.pool.run(work)
        except NoSuchKeyError as error:
            return Denied(UNKNOWN, str(error))
        except KeyRowError as error:
            return Denied(otherwise, str(error))


@frozen
class PostgresParameterDesk:
    """The parameters; fits L{tbeast.services.parameterdesk.ParameterRows}."""

    pool: Runs

    async def read(self) -> dict[str, str]:
        """See L{parameterrows.read_rows}."""
        return await self.pool.run(parameterrows.read_rows)

    async def put(self, name: str, value: object) -> str:
        """Set one; give what was written.

        @raise ValueError: when it is no parameter, or may not be that.
        """
        written = await self.pool.run(lambda connection: parameterrows.set_values(connection, {name: value}))
        return written[name]

    async def remove(self, name: str) -> bool:
        """See L{parameterrows.unset}."""
        return await self.pool.run(lambda connection: parameterrows.unset(connection, name))
