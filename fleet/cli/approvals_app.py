"""Declarations of `fleet approvals …`."""

from typing import Annotated

import typer

from fleet.cli.options import ByOption, JsonOption, LimitOption, ManifestOption, OfRunOption, OfTenantOption
from fleet.contracts.approvals import Decision

app = typer.Typer(help="What humans are asked, and what they answer.", no_args_is_help=True)

ApprovalArgument = Annotated[str, typer.Argument(metavar="ID", help="As `fleet approvals ls` shows it: RUN/STEP.")]
DigestOption = Annotated[str | None, typer.Option(help="Decide only if these are still the arguments.")]
CommentOption = Annotated[str, typer.Option(help="Why: for the audit, and for the agent.")]


@app.command("ls")
def ls(
    state: Annotated[str, typer.Option(help="open, approved, rejected, expired, skipped, withdrawn or all.")] = "open",
    run_id: OfRunOption = None,
    tenant: OfTenantOption = None,
    limit: LimitOption = 50,
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """List what humans are asked, the next to expire first."""
    from fleet.cli import approvals

    approvals.ls(state=state, run_id=run_id, tenant=tenant, limit=limit, manifest=manifest, json=json)


@app.command("show")
def show(approval_id: ApprovalArgument, manifest: ManifestOption = None, json: JsonOption = False) -> None:
    """Show one: the exact arguments, who has said what, why it is asked."""
    from fleet.cli import approvals

    approvals.show(approval_id, manifest=manifest, json=json)


@app.command("approve")
def approve(
    approval_id: ApprovalArgument,
    digest: DigestOption = None,
    by: ByOption = None,
    comment: CommentOption = "",
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Let the call be made. Of the question whether an effect was had: it was."""
    from fleet.cli import approvals

    approvals.decide(Decision.APPROVE, approval_id, digest=digest, by=by, comment=comment, manifest=manifest, json=json)


@app.command("reject")
def reject(
    approval_id: ApprovalArgument,
    digest: DigestOption = None,
    by: ByOption = None,
    comment: CommentOption = "",
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Do not let the call be made. Of the question whether an effect was had: it was not, have it again."""
    from fleet.cli import approvals

    approvals.decide(Decision.REJECT, approval_id, digest=digest, by=by, comment=comment, manifest=manifest, json=json)


@app.command("amend")
def amend(
    approval_id: ApprovalArgument,
    amended: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One argument to change. Repeatable.")
    ] = None,
    arguments: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="All arguments of the call to make instead.")
    ] = None,
    digest: DigestOption = None,
    by: ByOption = None,
    comment: CommentOption = "",
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Let the call be made with other arguments, within the policy."""
    from fleet.cli import approvals

    approvals.decide(
        Decision.AMEND,
        approval_id,
        digest=digest,
        by=by,
        comment=comment,
        amended=amended,
        arguments=arguments,
        manifest=manifest,
        json=json,
    )


@app.command("skip")
def skip(
    approval_id: ApprovalArgument,
    digest: DigestOption = None,
    by: ByOption = None,
    comment: CommentOption = "",
    manifest: ManifestOption = None,
    json: JsonOption = False,
) -> None:
    """Leave an effect of which nobody knows whether it was had."""
    from fleet.cli import approvals

    approvals.decide(Decision.SKIP, approval_id, digest=digest, by=by, comment=comment, manifest=manifest, json=json)
