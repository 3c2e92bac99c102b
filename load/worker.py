"""`python -m load.worker --mode MODE POOL…`: serve pools as `fleet worker` does, waiting for quotas in another way."""

import argparse
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from fleet.cli import context, output
from fleet.cli.main import COLLECTED
from fleet.contracts.names import FailureType
from fleet.errors import BadInput, FleetError
from fleet.manifest import Manifest
from fleet.settings import Settings
from fleet.tables import ModelProvider
from load.modes import Mode, Setup, seen
from ratelimit.errors import BadQuota
from ratelimit.limiter import Limiter
from ratelimit.memory import MemoryStore
from ratelimit.profiles import PROFILES
from workers.bootstrap import quotas, run_pools
from workers.metrics import METRICS
from workers.pool import Pool
from workers.providers.chat import ChatProvider
from workers.telemetry import configure_logging

SDK_RETRIES = 2
"""What the SDKs of OpenAI and Anthropic do unless told otherwise (`DEFAULT_MAX_RETRIES`): they wait as long as
`retry-after` says, else half a second, doubled, and hold the slot meanwhile."""


async def serve(settings: Settings, manifest: Manifest, pools: Sequence[str], setup: Setup) -> None:
    """Serve the pools in the mode until SIGTERM or SIGINT, then drain. Raises as `workers.bootstrap.run_pools`."""
    manifest = seen(manifest, setup)
    if setup.mode is Mode.GLOBAL:
        await run_pools(settings, manifest, pools)
    elif setup.mode is Mode.PROCESS:
        await run_pools(settings, manifest, pools, sharing=_alone)
    else:
        await run_pools(settings, manifest, pools, sharing=_alone, chat=_by_sdk, fitted=_plain(setup.rates))


@asynccontextmanager
async def _alone(settings: Settings, manifest: Manifest) -> AsyncIterator[Limiter]:
    """A limiter that shares nothing; without quotas it limits nothing."""
    del settings
    try:
        limiter = Limiter(MemoryStore(), quotas(manifest), observer=METRICS.observe)
    except BadQuota as bad:
        raise BadInput(f"quotas: {bad}") from None
    async with limiter:
        yield limiter


def _plain(rates: Mapping[str, float]) -> Callable[[Pool], Pool]:
    def fitted(pool: Pool) -> Pool:
        return replace(pool, activities_per_s=rates.get(pool.name), interceptors=[_PlainRetries()])

    return fitted


def _by_sdk(settings: Settings, name: str, spec: ModelProvider) -> ChatProvider:
    """The client of a model that retries by itself, as its SDK does by default."""
    key = settings.secret(spec.api_key)
    if key is None:
        raise BadInput(f"providers.{name}: no API key: set {spec.api_key.partition(':')[2]} ({spec.api_key})")
    asked: dict[str, Any] = {
        "name": name,
        "api_key": key,
        "base_url": spec.base_url,
        "timeout_s": spec.timeout.total_seconds(),
        "profile": PROFILES[spec.counts or spec.kind],
    }
    # each SDK takes a second and more to import: only those that are used are
    if spec.kind == "openai":
        from workers.providers.openai import OpenAIChat

        class RetryingOpenAI(OpenAIChat):
            def __init__(self, **given: Any) -> None:
                super().__init__(**given)
                self._client = self._client.with_options(max_retries=SDK_RETRIES)

        return RetryingOpenAI(**asked)
    from workers.providers.anthropic import AnthropicChat

    class RetryingAnthropic(AnthropicChat):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self._client = self._client.with_options(max_retries=SDK_RETRIES)

    return RetryingAnthropic(**asked)


class _PlainRetries(Interceptor):
    """What a provider refuses is retried by the activity's own policy: nobody says when to come back."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        return _PlainActivity(next)


class _PlainActivity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        try:
            return await super().execute_activity(input)
        except ApplicationError as error:
            if error.type not in (FailureType.RATE_LIMITED, FailureType.OVERLOADED):
                raise
            raise ApplicationError(error.message, type=error.type, category=error.category) from None


def _asked(argv: Sequence[str] | None) -> tuple[Setup, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m load.worker", description=__doc__)
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.GLOBAL.value)
    parser.add_argument("--share", type=float, default=1.0, help="of each quota, with --mode process: 0-1")
    parser.add_argument(
        "--rate",
        action="append",
        default=[],
        metavar="POOL=N",
        help="activities a second, with --mode temporal; a pool that is not named is not held back",
    )
    parser.add_argument("pools", nargs="+", metavar="POOL")
    asked = parser.parse_args(argv)
    rates = dict(map(_rate, asked.rate))
    for mode, option, given in (
        (Mode.PROCESS, "--share", asked.share != 1),
        (Mode.TEMPORAL, "--rate", bool(rates)),
    ):
        if given and asked.mode != mode:
            raise BadInput(f"{option} means nothing with --mode {asked.mode}: leave it out, or say --mode {mode}")
    return Setup(mode=Mode(asked.mode), share=asked.share, rates=rates), list(dict.fromkeys(asked.pools))


def _rate(text: str) -> tuple[str, float]:
    pool, _, rate = text.partition("=")
    try:
        return pool, float(rate)
    except ValueError:
        raise BadInput(f"--rate {text}: must be a pool and a number, as in llm=1.5") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, then drain. Returns 2 for bad input, in one line, as `fleet worker`."""
    gc.set_threshold(*COLLECTED)
    try:
        setup, pools = _asked(argv)
        settings, manifest = context.load(None)
        configure_logging(settings)
        context.run(serve(settings, manifest, pools, setup), loop=settings.event_loop, service="fleet-worker")
    except FleetError as error:
        output.problem(str(error))
        return 2
    return 0


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except Exception:  # noqa: BLE001 - the last handler of the process
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # a Temporal client alive at interpreter exit aborts one process in ten
    os._exit(code)
