"""Versions of the workers' code: which one new runs begin on, which ones old runs still need, and how to change that.

Every pool is a Worker Deployment of its own, and a build is a version in it. A run stays on the build that it began on
(it is pinned), and so does an effect; what it asks of another pool goes to that pool's current build.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.deployment.v1 import WorkerDeploymentVersion as VersionName
from temporalio.api.workflow.v1 import VersioningOverride, WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import (
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
    UpdateWorkflowExecutionOptionsRequest,
)
from temporalio.service import RPCError, RPCStatusCode

from fleet.builds import Builds, Carried
from fleet.errors import BadInput, FleetError, Unreachable
from fleet.tables import AGENTS_POOL
from fleet.versions import NEVER, Deployment

__all__ = ["Carried", "Change", "Rollout"]

_TOLD_WRONG = (RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A step of a plan: one pool's new runs begin elsewhere."""

    pool: str
    deployment: str
    before: str
    after: str
    """Build; empty ends a ramp."""
    percentage: float | None
    """None: all new runs."""
    token: bytes

    def __str__(self) -> str:
        if self.percentage is None:
            return f"{self.pool}: {self.before or 'unversioned'} -> {self.after}"
        if not self.after:
            return f"{self.pool}: the ramp of {self.before} ends"
        return f"{self.pool}: {self.percentage:g} % of new runs begin on {self.after}"


class Rollout(Builds):
    """Leads the new runs of a manifest's pools from build to build."""

    async def promotion(self, build: str, names: Sequence[str] = (), *, force: bool = False) -> list[Change]:
        """What to do so that all new runs begin on a build: tools first, agents last. Ramps of other builds end.

        Args:
            build: of the pools.
            names: pools; default: all that have the build.
            force: also where no live worker would take the work.

        Raises:
            BadInput: no pool has the build, a pool has no live worker of it, or Temporal does not know it yet.
            Unreachable: Temporal does not answer.
        """
        changes: list[Change] = []
        for one in await self._having(build, names, force=force):
            if one.ramping not in ("", build):
                changes.append(_change(one, one.ramping, "", 0.0))
            if one.current != build:
                changes.append(_change(one, one.current, build))
        return changes

    async def ramp(
        self, percentage: float, build: str | None = None, names: Sequence[str] = (), *, force: bool = False
    ) -> list[Change]:
        """What to do so that a share of new runs begins on a build.

        Args:
            percentage: 0 to 100; 0 ends the ramp.
            build: default: the newest that is not current, if all pools that have one agree.
            names: pools; default: all that have the build.
            force: also where no live worker would take the work.

        Raises:
            BadInput: no pool has the build, it is current, a pool has no live worker of it, or Temporal does not know
                it yet.
            Unreachable: Temporal does not answer.
        """
        if not 0 <= percentage <= 100:
            raise BadInput(f"ramp {percentage:g}%: must be from 0% to 100%")
        if percentage == 0:
            return [
                _change(one, one.ramping, "", 0.0)
                for one in await self.deployments(names)
                if one.ramping and build in (None, one.ramping)
            ]
        build = build or _newest(await self.deployments(names))
        chosen = await self._having(build, names, force=force)
        if all(one.current == build for one in chosen):
            raise BadInput(f"{build} is current already: there is nothing to ramp")
        return [
            _change(one, one.ramping or one.current, build, percentage)
            for one in chosen
            if one.current != build and (one.ramping, one.percentage) != (build, percentage)
        ]

    async def rollback(
        self, names: Sequence[str] = (), *, build: str | None = None, source: str | None = None, force: bool = False
    ) -> list[Change]:
        """What to do so that new runs begin where they did before: agents first, tools last. Never leads to a newer
        build, and asked again it does only what is left.

        Args:
            names: pools; default: those whose new runs begin on `source`.
            build: where to; default: the older build that was current last. A ramp of `source` just ends.
            source: the build that is left; default: where new runs were led last, in whichever pool.
            force: also where no live worker would take the work.

        Raises:
            BadInput: no pool has an older version, the build is newer, or there is no live worker of it.
            Unreachable: Temporal does not answer.
        """
        found = sorted(await self.deployments(names), key=lambda one: one.pool != AGENTS_POOL)
        found = [one for one in found if one.versions]
        bad = {one.pool: source or _suspect(one, build) for one in found}
        if source is None and not names and found:
            newest = max(found, key=lambda one: one.changed_at if build is None else one.current_changed_at or NEVER)
            bad = dict.fromkeys(bad, bad[newest.pool])
        changes: list[Change] = []
        back: list[tuple[Deployment, str]] = []
        stuck: list[Deployment] = []
        for one in found:
            leaves = one.current == bad[one.pool] != build
            if one.ramping and (leaves if build else one.ramping == bad[one.pool]):
                changes.append(_change(one, one.ramping, "", 0.0))
            if leaves and (before := _target(one, build)):
                back.append((one, before))
                changes.append(_change(one, one.current, before))
            elif leaves:
                stuck.append(one)
        if not changes and (stuck or not found):
            told = f"has {build}" if build else "has an earlier version"
            raise BadInput(f"no pool {told}: there is nothing to roll back to")
        if not force:
            await self._alive(back)
        return changes

    async def staying(self, changes: Sequence[Change], build: str | None = None) -> dict[str, str]:
        """The current build of each pool that a plan leaves alone; those on `build` need not be told.

        Raises:
            Unreachable: Temporal does not answer.
        """
        led = {change.pool for change in changes if change.percentage is None}
        return {
            one.pool: one.current
            for one in await self.deployments()
            if one.current and one.current != build and one.pool not in led
        }

    async def apply(self, changes: Sequence[Change], *, force: bool = False) -> AsyncIterator[Change]:
        """Carry a plan out, step by step; each is given once it is done.

        Raises:
            FleetError: a step was refused; those before it are done.
        """
        tokens: dict[str, bytes] = {}
        for number, change in enumerate(changes):
            try:
                token = tokens.get(change.deployment, change.token)
                tokens[change.deployment] = await self._set(change, token, force=force)
            except FleetError as error:
                done = ", ".join(dict.fromkeys(c.pool for c in changes[:number]))
                raise type(error)(f"{error}{f'; done: {done}' if done else ''}") from None
            yield change

    async def move(self, run_id: str, build: str, *, force: bool = False) -> None:
        """Let a run go on, and stay, on another build of the agents' pool, also when it continues as new. Safe only
        where `fleet replay` says so.

        Args:
            run_id: still runs.
            build: of the agents' pool.
            force: also where no live worker would take the work.

        Raises:
            BadInput: it has ended, Temporal knows no such build, or there is no live worker of it.
            Unreachable: Temporal does not answer.
        """
        (agents,) = await self.deployments([AGENTS_POOL])
        if not force and agents.version(build):
            await self._alive([(agents, build)], what="the run")
        name = VersionName(deployment_name=agents.name, build_id=build)
        pinned = VersioningOverride.PinnedOverride(
            behavior=VersioningOverride.PINNED_OVERRIDE_BEHAVIOR_PINNED, version=name
        )
        try:
            await self._client.workflow_service.update_workflow_execution_options(
                UpdateWorkflowExecutionOptionsRequest(
                    namespace=self._client.namespace,
                    workflow_execution=WorkflowExecution(workflow_id=run_id),
                    workflow_execution_options=WorkflowExecutionOptions(
                        versioning_override=VersioningOverride(pinned=pinned)
                    ),
                    update_mask=FieldMask(paths=["versioning_override"]),
                ),
                retry=True,
            )
        except RPCError as error:
            if error.status in _TOLD_WRONG:
                raise BadInput(f"run {run_id!r} cannot go on on {build!r}: {error.message}") from None
            raise Unreachable(f"Temporal: {error.message}") from None

    # ---- what is there

    async def _having(self, build: str, names: Sequence[str], *, force: bool) -> list[Deployment]:
        """The pools that have the build, agents last."""
        found = await self.deployments(names)
        live = {(w.deployment, w.build) for w in await self._workers() if w.live}
        unheard = [one for one in found if not one.version(build) and (one.name, build) in live]
        having = [one for one in found if one.version(build) or one in unheard]
        lacking = [one.pool for one in found if one not in having] if names else []
        if lacking or not having:
            of = f"pool {lacking[0]}" if lacking else "any pool"
            builds = {v.build for one in found for v in one.versions}
            known = ", ".join(sorted(builds)) or "none at all"
            raise BadInput(
                f"no worker of {of} has ever polled with build {build!r}: start one with FLEET_BUILD_ID={build};"
                f" known: {known}"
            )
        if unheard and not force:
            raise BadInput(
                f"{', '.join(one.pool for one in unheard)}: live workers of {build} have never polled, their quota is"
                " frozen or used up (`fleet quota show`): wait until it is not, leave the pools out with --pool, or"
                " lead new runs there all the same with --force"
            )
        if not force:
            await self._alive([(one, build) for one in having])
        return sorted(having, key=lambda one: one.pool == AGENTS_POOL)

    async def _alive(self, wanted: Sequence[tuple[Deployment, str]], what: str = "new runs") -> None:
        if not wanted:
            return
        polled = {(worker.deployment, worker.build) for worker in await self._workers() if worker.live}
        dead = [(one.pool, build) for one, build in wanted if (one.name, build) not in polled]
        if dead:
            told = ", ".join(f"{pool} {build}" for pool, build in dead)
            out = ", or leave the pools out with --pool" if what == "new runs" else ""
            raise BadInput(
                f"no live worker of {told}: {what} would wait there for ever. Start them{out};"
                " --force does it all the same"
            )

    # ---- what changes it

    async def _set(self, change: Change, token: bytes, *, force: bool) -> bytes:
        """Carry a step out; answers the token of the deployment's new state."""
        service, name = self._client.workflow_service, change.deployment
        try:
            if change.percentage is None:
                current = await service.set_worker_deployment_current_version(
                    SetWorkerDeploymentCurrentVersionRequest(
                        namespace=self._client.namespace,
                        deployment_name=name,
                        build_id=change.after,
                        conflict_token=token,
                        identity=self._client.identity,
                        ignore_missing_task_queues=force,
                        allow_no_pollers=force,
                    ),
                    retry=True,
                )
                return current.conflict_token
            ramping = await service.set_worker_deployment_ramping_version(
                SetWorkerDeploymentRampingVersionRequest(
                    namespace=self._client.namespace,
                    deployment_name=name,
                    build_id=change.after,
                    percentage=change.percentage,
                    conflict_token=token,
                    identity=self._client.identity,
                    ignore_missing_task_queues=force,
                    allow_no_pollers=force,
                ),
                retry=True,
            )
        except RPCError as error:
            raise _refused(change, error) from None
        return ramping.conflict_token


def _suspect(one: Deployment, build: str | None) -> str:
    """The build that a rollback of this pool alone is about."""
    if build is None:
        return one.ramping or one.undone or one.current
    return one.current if one.current != build else one.last


def _target(one: Deployment, build: str | None) -> str:
    """The build that a rollback leads to; empty: there is none."""
    if build is None:
        return one.before.build if one.before else ""
    version = one.version(build)
    if version is not None and not one.older(version):
        raise BadInput(f"{build} is newer than {one.pool}'s {one.current}: `fleet rollout promote {build}`")
    return build if version else ""


def _newest(found: Sequence[Deployment]) -> str:
    """The newest build of each pool that is not its current one, if there is one answer."""
    newest = {one.versions[0].build for one in found if one.versions and one.versions[0].build != one.current}
    if len(newest) != 1:
        told = f"there are several: {', '.join(sorted(newest))}" if newest else "there is none that is not current"
        raise BadInput(f"which build? {told}: name it, as in `fleet rollout ramp 20% v2`")
    return newest.pop()


def _change(one: Deployment, before: str, after: str, percentage: float | None = None) -> Change:
    return Change(
        pool=one.pool, deployment=one.name, before=before, after=after, percentage=percentage, token=one.token
    )


def _refused(change: Change, error: RPCError) -> FleetError:
    if error.status is RPCStatusCode.FAILED_PRECONDITION and "conflict token" in error.message:
        return BadInput(f"{change.pool}: somebody has changed its versions meanwhile: look at `fleet rollout status`")
    if error.status in _TOLD_WRONG:
        return BadInput(f"{change.pool}: Temporal refuses {change.after or 'to end the ramp'}: {error.message}")
    return Unreachable(f"Temporal: {error.message}")
