"""The main job: agents research questions, write briefs, e-mail them; then a verdict from the providers' ledgers."""

import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import tomli_w
import typer

from fleet import manifest as manifests
from fleet import settings as environment
from fleet.cli import output
from fleet.client import FleetClient, connect
from fleet.contracts.runs import Outcome, RunResult
from fleet.errors import BadInput, FleetError
from fleet.history import Story
from fleet.settings import Settings
from fleet.tables import ModelProvider
from load import verdict
from load.gathering import story_of
from load.local import EXPORTER_EVERY_S, LocalFleet, Plan, parse_pools
from load.providers import Ledgers
from load.watch import Watch
from workers.bootstrap import limiter
from workers.clients import chat_provider
from workers.corpus.index import CorpusError
from workers.corpus.questions import Question, questions
from workers.providers.errors import ProviderError
from workers.serving import CHECK_TIMEOUT_S

__all__ = ["Options", "parse_pools", "run"]

AGENT = "researcher"
DOMAIN = "example.com"
NEEDED = {"agents", "llm", "search", "email", "approvals"}
"""Pools without which a researcher would wait for ever."""
START_AT_ONCE = 20
"""Runs being started at the same time: the engine takes about 70 a second."""
_LIVE = (
    ("openai", "OPENAI_API_KEY", "openai/gpt-5-mini"),
    ("anthropic", "ANTHROPIC_API_KEY", "anthropic/claude-haiku-4-5"),
)


LIVE_OUTPUT_TOKENS = 4096
LIVE_QUOTA = {"requests": {"rate": "50/m", "burst": 5}}
"""For a real model that the manifest has no quota for: within the smallest plans of OpenAI and Anthropic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command was asked."""

    agents: int
    pools: dict[str, int]
    corpus: Path | None
    live: bool
    model: str | None
    seed: int
    folder: Path | None
    timeout_s: float
    manifest: Path | None
    json: bool


@dataclass(slots=True)
class Job:
    """The runs of one demo."""

    name: str = field(default_factory=lambda: secrets.token_hex(3))
    """In every run's id: a folder may see many demos."""
    asked: dict[str, Question] = field(default_factory=dict)
    """Question by run id."""
    results: dict[str, RunResult] = field(default_factory=dict)
    began: float = field(default_factory=monotonic)


def run(options: Options) -> int:
    """Run the demo. Returns 0 only if every invariant holds."""
    settings = environment.load()
    # not the manifest of a `fleet dev` that runs here: that one points to its simulators
    source = options.manifest or settings.manifest
    if AGENT not in manifests.load(source).agents:
        raise BadInput(f"{source}: the demo needs [agents.{AGENT}]")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fleet-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    if options.live:
        source = _live_manifest(source, folder / "live.toml", options.model, settings)
        asyncio.run(_check_live(settings, source))
    try:
        return asyncio.run(_main(options, settings, source, folder.absolute()))
    except BadInput:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _live_manifest(source: Path, target: Path, model: str | None, settings: Settings) -> Path:
    chosen = model or next((m for _, key, m in _LIVE if settings.secret(f"env:{key}")), None)
    if chosen is None:
        raise BadInput("--live: set OPENAI_API_KEY or ANTHROPIC_API_KEY, or leave --live out to use the simulators")
    raw = tomllib.loads(source.read_text(encoding="utf-8"))
    researcher = raw["agents"][AGENT]
    # a model that reasons spends output tokens before it says a word
    researcher |= {
        "model": chosen,
        "max_output_tokens": max(LIVE_OUTPUT_TOKENS, researcher.get("max_output_tokens", 0)),
    }
    # alone: the others may need keys that are not set
    raw["agents"] = {AGENT: researcher}
    raw.setdefault("quotas", {}).setdefault(chosen, LIVE_QUOTA)
    target.write_text(tomli_w.dumps(raw), encoding="utf-8")
    manifests.load(target)
    return target


async def _check_live(settings: Settings, source: Path) -> None:
    """Refuse a live demo whose provider refuses the key, or does not answer."""
    loaded = manifests.load(source)
    name = loaded.agents[AGENT].model.partition("/")[0]
    spec = loaded.providers[name]
    assert isinstance(spec, ModelProvider)
    provider = chat_provider(settings, name, spec)
    try:
        await asyncio.wait_for(provider.check(), CHECK_TIMEOUT_S)
    except (ProviderError, TimeoutError) as error:
        raise BadInput(f"--live: {str(error) or f'{name}: no answer in {CHECK_TIMEOUT_S:g} s'}") from None
    finally:
        await provider.aclose()


async def _main(options: Options, settings: Settings, manifest: Path, folder: Path) -> int:
    say = _Speaker(quiet=options.json)
    pools = {group: count for group, count in options.pools.items() if set(group.split("+")) & NEEDED}
    plan = Plan(
        folder=folder, manifest=manifest, pools=pools, simulate=True, corpus=options.corpus,
        live_models=options.live, own_ledger=True, exporter_every_s=EXPORTER_EVERY_S,
    )  # fmt: skip
    interrupted = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    say(f"starting Temporal, Valkey, simulators and workers in {folder}")
    async with LocalFleet(plan, settings) as fleet:
        await fleet.workers_ready()
        say(f"Temporal Web UI: {fleet.endpoints.ui}")
        say(f"metrics: {fleet.scraped.command}")
        try:
            asked = await asyncio.to_thread(questions, fleet.corpus, options.agents, options.seed)
        except CorpusError as error:
            raise BadInput(str(error)) from None
        client = FleetClient(await connect_to(fleet), fleet.manifest)
        ledgers = Ledgers(fleet.simulators["http"])
        async with limiter(fleet.settings(), fleet.manifest) as shared:
            job = Job()
            before = await ledgers.mail()
            watch = Watch(fleet.manifest, shared, ledgers, total=options.agents, quiet=options.json)
            await _work(job, asked, client, watch, options.timeout_s, (_until(interrupted), fleet.watch()))
            stories = await _stories(client, job)
            evidence = await verdict.gather(fleet, shared, ledgers, stories, watch.samples, before)
            await ledgers.aclose()
        briefs = _write_briefs(folder / "briefs", job)
        found = verdict.judge(evidence, job.results, options.agents, monotonic() - job.began)
    return _report(found, briefs, options, interrupted.is_set())


async def connect_to(fleet: LocalFleet) -> Any:
    """A Temporal client of the embedded server, whatever `TEMPORAL_*` say."""
    return await connect(fleet.settings(), address=fleet.endpoints.temporal)


async def _work(
    job: Job,
    asked: list[Question],
    client: FleetClient,
    watch: Watch,
    timeout_s: float,
    enders: Iterable[Coroutine[Any, Any, None]],
) -> None:
    """Run the agents until all have ended, the time is up or one of `enders` returns."""
    starting = asyncio.Semaphore(START_AT_ONCE)

    async def one(number: int, question: Question) -> None:
        async with starting:
            goal = f"{question.text} E-mail the brief to reader{number:03}@{DOMAIN}."
            run_id = await client.start(AGENT, goal, run_id=f"demo-{job.name}-{number:04}")
            job.asked[run_id] = question
        job.results[run_id] = await client.result(run_id)
        watch.ended(job.results[run_id])

    async def everyone() -> None:
        await asyncio.gather(*(one(n, q) for n, q in enumerate(asked, start=1)))

    agents = asyncio.create_task(everyone())
    tasks = {agents, asyncio.create_task(watch.follow()), *map(asyncio.create_task, enders)}
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        watch.close()


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def _stories(client: FleetClient, job: Job) -> list[Story]:
    at_once = asyncio.Semaphore(8)

    async def one(run_id: str) -> Story:
        async with at_once:
            return await story_of(client, run_id)

    return await asyncio.gather(*(one(run_id) for run_id in job.asked))


def _write_briefs(folder: Path, job: Job) -> Path:
    folder.mkdir(exist_ok=True)
    for run_id, result in job.results.items():
        if result.outcome is Outcome.COMPLETED:
            text = f"# {job.asked[run_id].text}\n\n{result.answer}\n"
            (folder / f"{run_id}.md").write_text(text, encoding="utf-8")
    return folder


def _report(found: verdict.Verdict, briefs: Path, options: Options, interrupted: bool) -> int:
    if options.json:
        output.document(found.document)
    else:
        verdict.print_verdict(found)
        typer.echo(f"briefs   {briefs}")
    if interrupted:
        raise FleetError("interrupted: the verdict is of what was done until then")
    return 0 if found.document["ok"] else 1


class _Speaker:
    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, text: str) -> None:
        if not self._quiet:
            sys.stderr.write(f"fleet: {text}\n")
            sys.stderr.flush()
