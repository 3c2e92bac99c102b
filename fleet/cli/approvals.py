"""Approvals: what humans are asked, and what they answer.

What is listed is what the audit says. What is decided is what the run itself says: a verdict is bound to the digest of
the arguments that were printed.
"""

import asyncio
import json as jsons
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from temporalio.client import WorkflowQueryFailedError

from fleet.cli import context, database, output
from fleet.cli.audit import CHANNEL, REFUSED, Auditor
from fleet.client import FleetClient, connect
from fleet.consent import ended
from fleet.contracts.approvals import Approval, ApprovalState, Ask, Decision, Verdict, run_of
from fleet.contracts.tools import TOOLS
from fleet.documents import plain
from fleet.errors import BadInput, UnknownRun, Unreachable
from fleet.settings import Settings

if TYPE_CHECKING:
    from workers.effects.book import AuditRow

WITHIN_S = 5.0
"""How long a run is waited for to say what it has asked."""
ALL = "all"
OVERDUE = "overdue"
_AGREE = frozenset({Decision.APPROVE, Decision.AMEND})


def ls(*, state: str, run_id: str | None, tenant: str | None, limit: int, manifest: Path | None, json: bool) -> None:
    """List what the audit knows: open ones first, the next to expire before others."""
    if state != ALL and state not in list(ApprovalState):
        raise BadInput(f"--state {state!r} is not one of {', '.join(ApprovalState)}, {ALL}")
    wanted = None if state == ALL else ApprovalState(state)

    async def work() -> list[Approval]:
        from workers.effects.book import Book

        settings, _ = context.load(manifest)
        async with database.opened(settings) as found:
            return await Book(found).approvals(state=wanted, run_id=run_id, tenant=tenant, limit=limit)

    found = context.run(work())
    if json:
        output.document([plain(approval) | {"overdue": _is_overdue(approval)} for approval in found])
        return
    rows = [
        (
            approval.id,
            approval.agent,
            output.shorten(_asks(approval), 70),
            output.shorten(approval.why, 40),
            output.seconds(_open_s(approval)),
            output.moment(approval.expires_at),
            _state(approval),
        )
        for approval in found
    ]
    columns = ("APPROVAL", "AGENT", "ASKS", "WHY", "OPEN FOR", "UNTIL", "STATE")
    output.table(columns, rows, empty="no approvals" if wanted is None else f"no approvals that are {wanted.value}")


def show(approval_id: str, *, manifest: Path | None, json: bool) -> None:
    """Show one approval: as its run says, else as the audit does; and its rows of the audit."""

    async def work() -> "tuple[Approval, list[AuditRow], str]":
        settings, loaded = context.load(manifest)
        run_id = _run_of(approval_id)
        try:
            approval, silent = await asked_of(FleetClient(await connect(settings), loaded), run_id, approval_id), ""
        except (UnknownRun, Unreachable) as error:
            approval, silent = None, str(error)
        try:
            written, rows = await _written(settings, approval_id)
        except Unreachable as lost:
            if approval is None:
                raise
            output.problem(f"the audit cannot be read: {lost}")
            return approval, [], "run"
        if approval is not None:
            return approval, rows, "run"
        if written is None:
            raise BadInput(f"no approval {approval_id!r}: `fleet approvals ls --state all` lists them")
        output.problem(f"this is what the audit says, the run does not answer: {silent or 'it has not asked this'}")
        return written, rows, "audit"

    approval, rows, source = context.run(work())
    if json:
        output.document({"approval": approval, "source": source, "audit": rows})
        return
    for line in (*lines_of(approval), *_rows(rows)):
        typer.echo(line)


def decide(
    decision: Decision,
    approval_id: str,
    *,
    digest: str | None,
    by: str | None,
    comment: str,
    amended: list[str] | None = None,
    arguments: str | None = None,
    manifest: Path | None,
    json: bool,
) -> None:
    """Print what is decided, then give the verdict on exactly that.

    Args:
        decision: what is said.
        approval_id: on what.
        digest: of the arguments that were looked at; others are refused.
        by: who says it.
        comment: why.
        amended: of `amend`: single arguments, as in `amount=120.50`.
        arguments: of `amend`: all arguments as JSON, or `@` and the file that they are in.
        manifest: where it is.
        json: answer with a document.

    Raises:
        BadInput: the verdict cannot be taken: the text says why.
    """
    if decision is Decision.AMEND and bool(amended) == (arguments is not None):
        raise BadInput("amend needs --set NAME=VALUE, or --arguments with all of them as JSON: one of both")

    async def work() -> Approval:
        settings, loaded = context.load(manifest)
        client = FleetClient(await connect(settings), loaded)
        run_id = _run_of(approval_id)
        try:
            return await verdict(client, run_id)
        except UnknownRun:
            raise
        except BadInput as refused:
            detail = {"decision": decision.value, "digest": digest, "said": comment}
            async with Auditor(settings) as auditor:
                await auditor.note(REFUSED, approval_id, run_id=run_id, by=by, comment=str(refused), detail=detail)
            raise

    async def verdict(client: FleetClient, run_id: str) -> Approval:
        info = await client.info(run_id)
        if info.closed_at is not None:
            raise BadInput(f"run {run_id!r} has ended already ({info.state}): too late")
        approval = await asked_of(client, run_id, approval_id)
        if approval is None:
            raise BadInput(f"run {run_id!r} has asked nothing under {approval_id!r}: `fleet approvals ls` lists them")
        if approval.state is not ApprovalState.OPEN:
            raise BadInput(f"{approval_id} is {ended(approval)}: too late")
        if digest is not None and digest != approval.digest:
            raise BadInput(
                f"--digest {digest} is not that of {approval_id} ({approval.digest}): its arguments have changed, look"
                f" at them again with `fleet approvals show {approval_id}`"
            )
        instead = _instead(approval, amended or [], arguments) if decision is Decision.AMEND else None
        for line in (*_what(approval), *_arguments(instead or {}, "instead")):
            typer.echo(line, err=True)
        return await client.decide(
            Verdict(
                approval_id=approval_id,
                decision=decision,
                by=context.user(by),
                digest=approval.digest,
                channel=CHANNEL,
                comment=comment,
                arguments=instead,
            )
        )

    approval = context.run(work())
    if json:
        output.document(approval)
    else:
        typer.echo(f"{approval_id}: {standing(approval)}")


def standing(approval: Approval) -> str:
    """Where an approval stands after a verdict, in words."""
    if approval.state is not ApprovalState.OPEN:
        return approval.state.value
    return f"{_agreeing(approval)} of {approval.needed}: another approver must agree"


def _agreeing(approval: Approval) -> int:
    """How many have said the same as the last one."""
    last = approval.votes[-1].decision if approval.votes else None
    return sum(vote.decision is last or {vote.decision, last} <= _AGREE for vote in approval.votes)


def _run_of(approval_id: str) -> str:
    run_id = run_of(approval_id)
    if not run_id:
        raise BadInput(f"{approval_id!r} is not of the form RUN/STEP: `fleet approvals ls` lists approvals")
    return run_id


async def asked_of(client: FleetClient, run_id: str, approval_id: str) -> Approval | None:
    """The approval as its run knows it; None: it has not asked that.

    Raises:
        UnknownRun: there is no such run.
        Unreachable: it does not answer.
    """
    try:
        asked = await asyncio.wait_for(client.approvals(run_id), WITHIN_S)
    except TimeoutError:
        raise Unreachable(
            f"no worker of the agents' pool has answered within {WITHIN_S:g} s: start one with `fleet worker agents`"
        ) from None
    except WorkflowQueryFailedError as error:
        raise Unreachable(f"run {run_id!r} cannot say what it has asked: {error}") from None
    return next((approval for approval in asked if approval.id == approval_id), None)


async def _written(settings: Settings, approval_id: str) -> "tuple[Approval | None, list[AuditRow]]":
    from workers.effects.book import Book

    async with database.opened(settings) as found:
        book = Book(found)
        return await book.get(approval_id), await book.audit(subject=approval_id)


def _instead(approval: Approval, amended: list[str], arguments: str | None) -> dict[str, Any]:
    """All arguments of the call to make instead."""
    if arguments is None:
        return approval.arguments | dict(_pair(approval, text) for text in amended)
    text = arguments
    if arguments.startswith("@"):
        try:
            text = Path(arguments[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"--arguments {arguments}: cannot be read ({error})") from None
    found = _json(text)
    if not isinstance(found, dict):
        raise BadInput(f"--arguments {output.shorten(text, 60)!r} is not a JSON object of all arguments")
    return found


def _pair(approval: Approval, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadInput(f"--set {text!r} does not look like amount=120.50")
    contract = TOOLS.get(approval.tool)
    properties = contract.spec.parameters.get("properties", {}) if contract else {}
    if contract and name not in properties:
        raise BadInput(f"--set {text!r}: {approval.tool} has no argument {name!r}; it has: {', '.join(properties)}")
    kind = properties.get(name, {}).get("type")
    is_text = kind == "string" if kind else isinstance(approval.arguments.get(name), str)
    found = None if is_text else _json(value)
    return name, value if found is None and value != "null" else found


def _json(text: str) -> Any:
    """The value; None where the text is not JSON."""
    try:
        return jsons.loads(text, parse_constant=_refuse)
    except ValueError:
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _state(approval: Approval) -> str:
    return OVERDUE if _is_overdue(approval) else approval.state.value


def _is_overdue(approval: Approval) -> bool:
    """Its time is up, and its run has not said so: no worker serves it, or it is gone."""
    return approval.state is ApprovalState.OPEN and approval.expires_at <= datetime.now(UTC)


def _asks(approval: Approval) -> str:
    call = f"{approval.tool}({', '.join(f'{name}={_short(value)}' for name, value in approval.arguments.items())})"
    return call if approval.ask is Ask.ALLOW else f"was it had? {call}"


def _short(value: Any) -> str:
    return output.shorten(value if isinstance(value, str) else jsons.dumps(value, ensure_ascii=False), 30)


def _open_s(approval: Approval) -> float:
    return ((approval.decided_at or datetime.now(UTC)) - approval.opened_at).total_seconds()


def _what(approval: Approval) -> Iterator[str]:
    """What is decided, as it is."""
    asked = "may it be called?" if approval.ask is Ask.ALLOW else "was it had? approve: yes; reject: no, have it again"
    yield f"tool      {approval.tool}: {asked}"
    yield from _arguments(approval.arguments, "argument")
    yield f"digest    {approval.digest}"


def _arguments(arguments: dict[str, Any], what: str) -> Iterator[str]:
    for name, value in arguments.items():
        yield f"{what:<10}{output.visible(name)}: {output.visible(jsons.dumps(value, ensure_ascii=False))}"


def lines_of(approval: Approval) -> Iterator[str]:
    """An approval in full, a line for each thing that an approver should know."""
    is_open = approval.state is ApprovalState.OPEN
    voted = f", {_agreeing(approval)} of {approval.needed} agree" if is_open else ""
    yield f"approval  {approval.id}"
    yield f"state     {_state(approval) if is_open else ended(approval)}{voted}"
    yield from _what(approval)
    yield f"why       {output.visible(approval.why)}"
    yield f"goal      {output.visible(approval.goal)}"
    if approval.said:
        yield f"it says   {output.visible(approval.said)}"
    yield f"run       {approval.run_id} (agent {approval.agent}, tenant {approval.tenant})"
    yield f"opened    {output.moment(approval.opened_at)}, open for {output.seconds(_open_s(approval))}"
    yield f"until     {output.moment(approval.expires_at)}"
    yield f"who       {', '.join(approval.approvers) or 'whoever can reach the run'}; {approval.needed} must agree"
    if approval.notify:
        yield f"told      {', '.join(approval.notify)}"
    for vote in approval.votes:
        comment = f": {output.visible(vote.comment)}" if vote.comment else ""
        yield (
            f"vote      {output.visible(vote.by)} {vote.decision.value} ({vote.channel}, {output.moment(vote.at)},"
            f" of {vote.digest}){comment}"
        )
    if is_open:
        verdicts = "approve|reject|amend" if approval.ask is Ask.ALLOW else "approve|reject|skip"
        yield f"decide    fleet approvals {verdicts} {approval.id}"


def _rows(rows: "list[AuditRow]") -> Iterator[str]:
    for row in reversed(rows):
        by = f" by {output.visible(row.actor)} ({row.channel})" if row.actor else ""
        comment = f": {output.visible(row.comment)}" if row.comment else ""
        yield f"audit     {row.at:%Y-%m-%d %H:%M:%S} {row.what}{by}{comment}"
