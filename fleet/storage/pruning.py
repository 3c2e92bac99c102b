"""Which stored payloads nothing that Temporal holds refers to any more, and their deletion.

Files are found by age, and spared if any execution of the namespace, open or closed, or any schedule claims them: age
alone says nothing, because a run may be parked for months, a reset copies old claims, and a schedule hands out the same
claim for ever.
"""

import asyncio
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

from fleet.errors import BadInput, Unreachable
from fleet.storage import files
from fleet.storage.places import MARKER, claimed

MARGIN: Final = timedelta(days=7)
"""Beyond the retention, by default."""
AT_ONCE: Final = 16
"""Histories that are read at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was, or would be, deleted."""

    namespace: str
    older_than_s: float
    found: int
    """Payloads of the namespace that are that old."""
    claimed: int
    """Of those, spared because something refers to them."""
    deleted: int
    freed_bytes: int
    dry_run: bool


async def retention(client: Client) -> timedelta:
    """How long the namespace keeps closed runs.

    Raises:
        Unreachable: Temporal does not answer.
    """
    try:
        told = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as error:
        raise Unreachable(f"Temporal: {error.message}") from None
    return told.config.workflow_execution_retention_ttl.ToTimedelta()


async def prune(client: Client, folder: Path, *, older_than: timedelta | None = None, dry_run: bool = False) -> Pruned:
    """Delete payloads of the client's namespace that are old and that nothing refers to.

    Whatever cannot be read ends it before anything is deleted.

    Args:
        client: of the namespace.
        folder: a store of `fleet.storage.files`.
        older_than: since a payload was last stored. Default: the namespace's retention and `MARGIN`.
        dry_run: delete nothing.

    Raises:
        BadInput: `older_than` is shorter than the retention.
        Unreachable: Temporal does not answer.
    """
    kept = await retention(client)
    age = kept + MARGIN if older_than is None else older_than
    if age < kept:
        raise BadInput(
            f"--older-than {_days(age)}: closed runs are kept for {_days(kept)} by namespace {client.namespace!r}, and"
            " need their payloads that long"
        )
    before = time.time() - age.total_seconds()
    old = await asyncio.to_thread(_old, folder, client.namespace, before)
    # nothing to delete: no history has to be read for that
    marked = await _marked(client) if old else set()
    deleted = freed = 0
    for file in old:
        if file.name in marked:
            continue
        size = _size(file) if dry_run else await asyncio.to_thread(_delete, file, folder, before)
        deleted, freed = deleted + (size > 0), freed + size
    return Pruned(
        namespace=client.namespace,
        older_than_s=age.total_seconds(),
        found=len(old),
        claimed=sum(file.name in marked for file in old),
        deleted=deleted,
        freed_bytes=freed,
        dry_run=dry_run,
    )


def _days(period: timedelta) -> str:
    return f"{period / timedelta(days=1):g} days"


def _old(folder: Path, namespace: str, before: float) -> list[Path]:
    found = ((file, _stat(file)) for file in files.stored(folder, namespace))
    return [file for file, stat in found if stat is not None and stat.st_mtime < before]


def _stat(file: Path) -> os.stat_result | None:
    """None if it has gone: another may prune at the same time."""
    try:
        return file.stat()
    except FileNotFoundError:
        return None


def _size(file: Path) -> int:
    found = _stat(file)
    return found.st_size if found else 0


def _delete(file: Path, folder: Path, before: float) -> int:
    return files.delete(file, folder=folder, untouched_since=before)


async def _marked(client: Client) -> set[str]:
    """Digests that anything in the namespace refers to."""
    found: set[str] = set()
    free = asyncio.Semaphore(AT_ONCE)

    async def read(execution: WorkflowExecution) -> None:
        async with free:
            found.update(await _of_execution(client, execution))

    try:
        async with asyncio.TaskGroup() as group:
            async for execution in client.list_workflows():
                group.create_task(read(execution))
                # what is read meanwhile makes room for the next
                await asyncio.sleep(0)
        async for schedule in await client.list_schedules():
            described = await client.get_schedule_handle(schedule.id).describe()
            found |= digests(_payloads(described.raw_description))
    except* RPCError as group_of:
        raise Unreachable(f"Temporal: {group_of.exceptions[0]}: nothing was deleted") from None
    return found


async def _of_execution(client: Client, execution: WorkflowExecution) -> set[str]:
    handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
    found: set[str] = set()
    try:
        async for event in handle.fetch_history_events():
            found |= digests(_payloads(event))
        if execution.close_time is None:
            # what heartbeats have left is in no event
            found |= digests(_payloads((await handle.describe()).raw_description))
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        # its retention has ended meanwhile
    return found


def digests(payloads: Iterable[Payload]) -> set[str]:
    """Digests of those that are claims of a folder."""
    found = set()
    for payload in payloads:
        reference = claimed(payload)
        if reference is None and MARKER in payload.metadata:
            raise BadInput("a claim is encrypted, which this version does not write: nothing was deleted; upgrade")
        if reference is not None and reference.driver_name == files.DRIVER:
            found.add(reference.claim_data.get("digest", ""))
    return found


def _payloads(message: Message) -> Iterable[Payload]:
    """Every payload anywhere in a message."""
    if isinstance(message, Payload):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            parts = list(value.values()) if field.message_type.fields_by_name["value"].message_type else []
        else:
            parts = list(value) if field.is_repeated else [value]
        for part in parts:
            yield from _payloads(part)
