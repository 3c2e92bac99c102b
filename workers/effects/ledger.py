"""The effect ledger: intent before, evidence after, one holder of the fence in between."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, func, select, update

from fleet.contracts.effects import EffectState
from workers.database.engine import Database
from workers.database.tables import effects
from workers.redaction import REDACTOR


class KeyReused(Exception):
    """The key stands for another call already: having this one under it would be taken for that one."""

    def __init__(self, message: str, entry: "Entry") -> None:
        super().__init__(message)
        self.entry = entry
        """The call that it stands for."""


class NotIntended(LookupError):
    """Nobody has written the effect down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One effect, as the ledger has it."""

    key: str
    tool: str
    digest: str
    run_id: str
    agent: str
    tenant: str
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the call, without secrets. Empty for calls of release 0.1."""
    state: EffectState
    fence: int = 0
    """Grows with every claim, and never shrinks."""
    result: str = ""
    """JSON text for the model."""
    evidence: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    created_at: datetime
    executing_since: datetime | None = None
    """When an attempt first began it. None: nobody ever has."""
    updated_at: datetime
    """When its state was last written. A claim leaves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the ledger says when an attempt wants to have the effect."""

    mine: bool
    """This attempt holds the fence, until another one claims. False: the effect is done."""
    entry: Entry
    """As it was before the claim: after `executing`, find out whether the effect took place before having it again."""
    fence: int


class Ledger:
    """One row per effect. The fence grows with every claim: an attempt with an older one begins and records nothing.

    Every method raises `DatabaseLost` when the database does not answer. What it was asked may then have been written
    or not; asking again is safe.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def intend(
        self,
        key: str,
        *,
        tool: str,
        digest: str,
        run_id: str,
        agent: str,
        tenant: str,
        arguments: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Write down what is going to be done. Asked again, it changes nothing. Secrets in arguments are left out.

        Raises:
            KeyReused: the key was written down for another tool, or other arguments.
        """
        now = datetime.now(UTC)
        call = {"tool": tool, "digest": digest, "run_id": run_id, "agent": agent, "tenant": tenant}
        call |= {"arguments": REDACTOR.clean_value(dict(arguments or {}))}
        new = self._database.insert(effects).values(
            key=key, state=EffectState.INTENDED, fence=0, result="", evidence={}, reason="",
            created_at=now, updated_at=now, **call,
        )  # fmt: skip
        # release 0.1 did not know its calls: the row becomes this one's
        adopt = new.on_conflict_do_update(index_elements=[effects.c.key], set_=call, where=effects.c.digest == "")
        async with self._database.begin() as connection:
            found = (await connection.execute(adopt.returning(*effects.c))).mappings().one_or_none()
            if found is None:
                found = (await connection.execute(select(effects).where(effects.c.key == key))).mappings().one()
        entry = _entry(found)
        if (entry.tool, entry.digest) != (tool, digest):
            raise KeyReused(
                f"effect {key}: written down for {entry.tool} {entry.digest}, asked for {tool} {digest}; "
                "another call needs another key",
                entry,
            )
        return entry

    async def claim(self, key: str) -> Claim:
        """Take the fence of the effect, unless it is done. Nothing has begun by that.

        Raises:
            NotIntended: nobody has written the effect down.
        """
        take = (
            update(effects)
            .where(effects.c.key == key, effects.c.state != EffectState.DONE)
            .values(fence=effects.c.fence + 1)
            .returning(*effects.c)
        )
        async with self._database.begin() as connection:
            taken = (await connection.execute(take)).mappings().one_or_none()
            if taken is not None:
                after = _entry(taken)
                return Claim(mine=True, entry=replace(after, fence=after.fence - 1), fence=after.fence)
            found = (await connection.execute(select(effects).where(effects.c.key == key))).mappings().one_or_none()
        if found is None:
            raise NotIntended(f"effect {key}: not in the ledger; call intend first")
        entry = _entry(found)
        return Claim(mine=False, entry=entry, fence=entry.fence)

    async def begin(self, key: str, fence: int) -> bool:
        """Say that the provider is called now. False: refused, another attempt holds the fence or it is done."""
        now = datetime.now(UTC)
        return await self._write(
            key, fence, EffectState.EXECUTING, executing_since=func.coalesce(effects.c.executing_since, now)
        )

    async def record(
        self,
        key: str,
        fence: int,
        state: EffectState,
        *,
        result: str = "",
        evidence: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> bool:
        """Record how it ended. False: another attempt holds the fence, or it is done; nothing was written.

        What is done stays done: recorded again as `done`, its result is written again.
        """
        return await self._write(key, fence, state, result=result, evidence=dict(evidence or {}), reason=reason)

    async def get(self, key: str) -> Entry | None:
        """The effect; None: nobody has written it down."""
        async with self._database.reading() as connection:
            found = (await connection.execute(select(effects).where(effects.c.key == key))).mappings().one_or_none()
        return None if found is None else _entry(found)

    async def entries(
        self, *, state: EffectState | None = None, run_id: str | None = None, limit: int = 100
    ) -> list[Entry]:
        """Effects, the newest first."""
        query = select(effects).order_by(effects.c.created_at.desc(), effects.c.key).limit(limit)
        if state is not None:
            query = query.where(effects.c.state == state)
        if run_id is not None:
            query = query.where(effects.c.run_id == run_id)
        async with self._database.reading() as connection:
            return [_entry(row) for row in (await connection.execute(query)).mappings()]

    async def _write(self, key: str, fence: int, state: EffectState, **values: Any) -> bool:
        held = [effects.c.key == key, effects.c.fence == fence]
        if state is not EffectState.DONE:
            held.append(effects.c.state != EffectState.DONE)
        write = update(effects).where(*held).values(state=state, updated_at=datetime.now(UTC), **values)
        async with self._database.begin() as connection:
            return (await connection.execute(write)).rowcount == 1


def _entry(row: RowMapping) -> Entry:
    return Entry(**{**row, "state": EffectState(row["state"])})
