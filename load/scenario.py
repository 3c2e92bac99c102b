"""What a scenario is: typed parameters, a stage to set up, and a plan of load, faults and oracles."""

import importlib.util
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fleet.errors import BadInput
from fleet.manifest import Manifest
from fleet.rates import duration
from load import crowd, shapes, sizing
from load.crowd import Cost
from load.oracles import Oracle
from load.trial import Arrival, Engine, Fault, Rated

HOME = Path(__file__).parent / "scenarios"
CROWD = 5
POOLS = "agents=1,llm=1,search=1,email=1"


def _seconds(value: Any) -> Any:
    found = duration(value) if isinstance(value, str) and not value.replace(".", "", 1).isdigit() else value
    return found.total_seconds() if hasattr(found, "total_seconds") else found


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""`90`, `90s`, `5m`, `2h`."""


class Parameters(BaseModel):
    """What every scenario can be told: by options, and by `-o key=value`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    agents: int = Field(default=100, ge=1, le=20_000, description="Runs that are offered.")
    for_s: Seconds = Field(default=60.0, alias="for", ge=1, le=86_400, description="How long load is offered.")
    seed: int = Field(default=1, description="Draws arrivals, jitter, victims and latencies.")
    pools: str = Field(default=POOLS, description="Processes of each pool.")
    mix: str = Field(
        default="load-caller=3,load-mailer=1", description="Agents by weight, as in researcher=2,mailer=1."
    )
    shape: str = Field(default="", description="Arrivals, as in ramp:1/s-20/s. Empty: the scenario's own.")
    pressure: float = Field(
        default=0.7, gt=0, le=100, description="Offered load over what the model's quota grants meanwhile."
    )
    scale: float | None = Field(
        default=None, gt=0, description="Multiplies the manifest's quotas. Empty: whatever gives the pressure."
    )
    burst_s: Seconds = Field(default=2.0, gt=0, description="Most seconds' worth of a model's quota at once.")
    settle_s: Seconds = Field(
        default=120.0, alias="settle", ge=1, description="How long runs may take to end after the load, beyond quota."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What must be there before the load."""

    proxied: bool = False
    """Redis and Temporal are reached through proxies, which can cut and delay."""
    sentinel: bool = False
    """Redis is a primary and a replica under Sentinel."""
    versioned: bool = False
    """Workers have a version, which another can follow."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """JSON merge patch (RFC 7396) for the manifest."""
    cast: Sequence[str] = ()
    """Agents that may arrive: one run of each is rehearsed. Empty: those of the mix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Humans:
    """How approvers behave."""

    after_s: float = 0.0
    """They look at approvals that have been open for so long."""
    at_s: float | None = None
    """They look at nothing before; seconds from the begin of the load."""
    rejected: float = 0.0
    """Share (0-1) that they reject, drawn by the seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is done, and what must hold."""

    arrivals: Sequence[Arrival]
    load_s: float
    """How long load is offered."""
    quotas: Mapping[str, Mapping[str, Rated]]
    """By scope: what the provider grants. Scopes that are missing keep what the manifest has."""
    oracles: Sequence[Oracle]
    faults: Sequence[Fault] = ()
    scheduled: "Schedules | None" = None
    """Real Temporal Schedules start the runs, instead of the harness."""
    providers: Mapping[str, Any] = field(default_factory=dict)
    """JSON merge patch for the simulators' options, from the begin of the load."""
    humans: Humans | None = None
    settle_s: float = 120.0
    """How long runs may take to end after what the quota implies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedules:
    """One Temporal Schedule for each arrival, all at the same instant."""

    at_s: float
    """Seconds from the begin of the load."""
    jitter_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the harness knows before the load: the manifest, what a run of each agent costs, what the engine carries."""

    manifest: Manifest
    costs: Mapping[str, Cost]
    engine: Engine
    questions: Sequence[str]
    """One for each arrival at least."""
    name: str
    """Begins the ids of all runs."""

    @property
    def model(self) -> str:
        """The scope that the harness's own agents press on."""
        return self.manifest.agents[crowd.CALLER].model

    def crowd(self, asked: Parameters) -> int:
        """So many active runs are queued work, wherever they wait: behind a gate it is Temporal who holds the line."""
        return max(CROWD, asked.agents // 10)

    def model_provider(self) -> str:
        """What the simulators call the provider that the harness's own agents press on."""
        return self.manifest.providers[self.model.partition("/")[0]].kind

    def offer(
        self,
        asked: Parameters,
        shape: shapes.Shape,
        *,
        mix: str | None = None,
        tenants: Mapping[str, float] | None = None,
        priorities: Sequence[int] = (3,),
        part: str = "",
    ) -> list[Arrival]:
        """Arrivals by the shape, or by the one that was asked for. The seed decides who comes when.

        Args:
            asked: the parameters.
            shape: the scenario's own.
            mix: agents by weight; default: what was asked for.
            tenants: by weight. Default: one.
            priorities: drawn evenly.
            part: tells arrivals of several calls apart. A part keeps its shape, whatever was asked for.
        """
        dice = random.Random(f"{asked.seed}/{part}")
        if asked.shape and not part:
            shape = shapes.parse(asked.shape, count=asked.agents, for_s=asked.for_s)
        times = shape.times(dice)
        return crowd.arrivals(
            self.manifest,
            times,
            mix=crowd.parse_mix(mix or asked.mix),
            tenants=tenants or {"default": 1.0},
            priorities=priorities,
            questions=self.questions,
            prefix=f"{self.name}-{part}" if part else self.name,
            dice=dice,
        )

    def sized(
        self, asked: Parameters, arrivals: Sequence[Arrival], *, over_s: float | None = None
    ) -> dict[str, dict[str, Rated]]:
        """Quotas under which the arrivals press as was asked.

        Args:
            asked: the parameters: `scale` or `pressure`, `burst_s`.
            arrivals: all of them.
            over_s: in what time their work should be granted at a pressure of 1. Default: as long as load is offered.
        """
        demand = sizing.demand(self.costs, (a.agent for a in arrivals))
        return sizing.sized(
            self.manifest,
            demand,
            largest=sizing.largest(self.costs.values()),
            # a shape that was asked for may last longer
            over_s=over_s or max([asked.for_s, *(a.at_s for a in arrivals if asked.shape)]),
            pressure=asked.pressure,
            scale=asked.scale,
            burst_s=asked.burst_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One file."""

    name: str
    says: str
    """The first line of its docstring."""
    parameters: type[Parameters]
    stage: Callable[[Any], Stage]
    plan: Callable[[Any, Ground], Trial]
    short: Mapping[str, Any]
    """Parameters of the short form."""
    path: Path

    @classmethod
    def of(cls, module: ModuleType, path: Path) -> Self:
        """The scenario of a module.

        Raises:
            BadInput: something is missing.
        """
        for name in ("Parameters", "plan"):
            if not hasattr(module, name):
                raise BadInput(f"{path}: is no scenario: it defines no `{name}` (see docs/load.md)")
        if not (isinstance(module.Parameters, type) and issubclass(module.Parameters, Parameters)):
            raise BadInput(f"{path}: its `Parameters` must derive from `load.scenario.Parameters`")
        return cls(
            name=path.stem,
            says=(module.__doc__ or "").strip().partition("\n")[0],
            parameters=module.Parameters,
            stage=getattr(module, "stage", lambda asked: Stage()),
            plan=module.plan,
            short=getattr(module, "SHORT", {}),
            path=path,
        )

    def ask(self, given: Mapping[str, Any]) -> Parameters:
        """The parameters, of text as options have it.

        Raises:
            BadInput: one is unknown or out of bounds.
        """
        try:
            return self.parameters.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "parameters"
            if first["type"] == "extra_forbidden":
                names = ", ".join(name for name, _ in self.described())
                raise BadInput(f"-o {key}: {self.name} has no such parameter; it has: {names}") from None
            said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
            raise BadInput(f"{key}={first['input']}: {said[:1].lower()}{said[1:]}") from None

    def described(self) -> Iterator[tuple[str, str]]:
        """Each parameter's name and meaning, with its default."""
        for name, one in self.parameters.model_fields.items():
            default = "" if one.default in ("", None) else f" Default: {one.default}."
            yield one.alias or name, f"{one.description or ''}{default}"


def names() -> list[str]:
    """The scenarios that come with the fleet."""
    return sorted(path.stem for path in HOME.glob("*.py") if not path.stem.startswith("_"))


def find(name: str) -> Scenario:
    """A scenario by its name, or by the path of a file.

    Raises:
        BadInput: there is none, or the file is broken: one line with the place.
    """
    path = Path(name) if name.endswith(".py") else HOME / f"{name}.py"
    if not path.is_file():
        raise BadInput(
            f"no scenario {name!r}: there are {', '.join(names())}; your own is named by its path, ./{name}.py"
        )
    spec = importlib.util.spec_from_file_location(f"load.scenarios.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pydantic look their module up
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise BadInput(f"{path}:{error.lineno}: {error.msg}") from None
    except Exception as error:  # noqa: BLE001 - a user's own code
        raise BadInput(f"{_place(path, error)}: {type(error).__name__}: {_line(error)}") from None
    return Scenario.of(module, path)


def staged(scenario: Scenario, asked: Parameters) -> Stage:
    """The scenario's stage.

    Raises:
        BadInput: the scenario fails.
    """
    try:
        found = scenario.stage(asked)
    except Exception as error:  # noqa: BLE001 - a user's own code
        raise BadInput(f"{_place(scenario.path, error)}: {type(error).__name__}: {_line(error)}") from None
    if not isinstance(found, Stage):
        raise BadInput(f"{scenario.path}: `stage` returns {type(found).__name__}, not a load.scenario.Stage")
    return found


def planned(scenario: Scenario, asked: Parameters, ground: Ground) -> Trial:
    """The scenario's plan.

    Raises:
        BadInput: the scenario fails, or plans nothing that could be judged.
    """
    try:
        trial = scenario.plan(asked, ground)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - a user's own code
        raise BadInput(f"{_place(scenario.path, error)}: {type(error).__name__}: {_line(error)}") from None
    if not isinstance(trial, Trial):
        raise BadInput(f"{scenario.path}: `plan` returns {type(trial).__name__}, not a load.scenario.Trial")
    if not trial.arrivals:
        raise BadInput(f"{scenario.path}: plans no arrivals")
    if not trial.oracles:
        raise BadInput(f"{scenario.path}: names no oracle: it could not fail")
    if strange := [one for one in trial.oracles if isinstance(one, type) or not hasattr(one, "judge")]:
        raise BadInput(f"{scenario.path}: {strange[0]!r} is no oracle: make one, as in oracles.NothingLost()")
    if len({arrival.run_id for arrival in trial.arrivals}) < len(trial.arrivals):
        raise BadInput(
            f"{scenario.path}: two arrivals have the same run id: give each `ground.offer` a `part` of its own"
        )
    if unknown := {arrival.agent for arrival in trial.arrivals} - ground.costs.keys():
        told = f"agents arrive that were not rehearsed: {', '.join(sorted(unknown))}"
        raise BadInput(f"{scenario.path}: {told}: name them in the mix, or as the stage's `cast`")
    if unknown := trial.quotas.keys() - set(ground.manifest.scopes()):
        raise BadInput(f"{scenario.path}: quotas of unknown scopes: {', '.join(sorted(unknown))}")
    if any(_limits(fault.more.get("options")) for fault in trial.faults) or _limits(trial.providers):
        told = "options of providers change limits: the oracles would judge by others"
        raise BadInput(f"{scenario.path}: {told}; give them as `quotas`")
    # a shape that was asked for may last longer
    return replace(trial, load_s=max([trial.load_s, *(arrival.at_s for arrival in trial.arrivals)]))


def _limits(patch: Any) -> bool:
    """Whether a patch of the simulators' options changes what a provider grants."""
    if not isinstance(patch, Mapping):
        return False
    return "limit" in patch or any(_limits(value) for value in patch.values())


def oracles(scenario: Scenario, manifest: Manifest) -> Sequence[Oracle]:
    """What the scenario is judged by, with its default parameters.

    Args:
        scenario: any.
        manifest: with the harness's own agents.
    """
    asked = scenario.ask({"agents": scenario.parameters.model_fields["agents"].default})
    model = manifest.agents[crowd.CALLER].model
    once = Cost(units={model: {"requests": 1.0, "tokens": 200.0}}, calls={model: 1}, activities=1, took_s=1.0)
    ground = Ground(
        manifest=manifest,
        costs=dict.fromkeys(manifest.agents, once),
        engine=Engine(activities_per_s=0.0),
        questions=["What is a list?"],
        name="shown",
    )
    return planned(scenario, asked, ground).oracles


def _place(path: Path, error: BaseException) -> str:
    """The last line of the file that the error went through."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]
