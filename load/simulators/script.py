"""Scripts of a trial: failures and other options that begin and end by themselves, by the monotonic clock."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from load.simulators.options import OptionsError, problems
from load.simulators.orders import MOST_STEPS, Step
from load.simulators.world import Spell, World

_STEPS: TypeAdapter[list[Step]] = TypeAdapter(list[Step])


@dataclass(slots=True)
class _Playing:
    number: int
    step: Step
    begins: float
    """Wall-clock seconds."""
    state: str = "waiting"
    """`waiting`, `running`, `done`, `stopped`, or `failed: why`."""
    timer: asyncio.TimerHandle | None = None
    end: Callable[[], None] | None = None
    """Takes back what the step has done, while it runs."""

    def document(self) -> dict[str, Any]:
        return {
            "id": self.number,
            "state": self.state,
            "begins": self.begins,
            "ends": self.begins + self.step.for_s,
            **self.step.model_dump(mode="json", exclude_unset=True),
        }


class Script:
    """Plays steps. Those of several posts run side by side; of failures that overlap the one that began first counts,
    of options the one that began last."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._coming: list[_Playing] = []
        self._ended: deque[_Playing] = deque(maxlen=MOST_STEPS)
        self._count = 0

    def post(self, document: Any) -> list[dict[str, Any]]:
        """Play these steps from now on. A step at 0 has begun when this returns.

        Raises:
            ValueError: a step is not accepted; none is played.
        """
        try:
            steps = _STEPS.validate_python(document)
        except ValidationError as error:
            raise ValueError(problems(error)) from None
        if len(self._coming) + len(steps) > MOST_STEPS:
            raise ValueError(f"{len(self._coming) + len(steps)} steps to come: at most {MOST_STEPS}; DELETE ends them")
        for number, step in enumerate(steps):
            if step.options is not None:
                try:
                    self._world.options.patched(step.options)
                except OptionsError as error:
                    raise ValueError(f"{number}.options.{error}") from None
        return [self._play(step).document() for step in steps]

    def document(self) -> list[dict[str, Any]]:
        """Every step that is known, those that have ended (of them the last thousand) first."""
        return [one.document() for one in (*self._ended, *self._coming)]

    def stop(self) -> None:
        """End what runs, forget what is to come."""
        for one in list(self._coming):
            self._finish(one, "stopped")

    def _play(self, step: Step) -> _Playing:
        self._count += 1
        playing = _Playing(self._count, step, self._world.now() + step.at_s)
        self._coming.append(playing)
        if step.at_s == 0:
            self._begin(playing)
        else:
            playing.timer = asyncio.get_running_loop().call_later(step.at_s, self._begin, playing)
        return playing

    def _begin(self, playing: _Playing) -> None:
        world, step = self._world, playing.step
        if step.fault is not None:
            assert step.provider is not None
            spell = Spell(provider=step.provider, model=step.model, fault=step.fault)
            world.spells.append(spell)
            playing.end = lambda: _without(world.spells, spell)
        else:
            # a copy: two steps with one patch are told apart
            patch = dict(step.options or {})
            try:
                world.patch(patch)
            except OptionsError as error:
                # other options than when it was posted
                self._finish(playing, f"failed: {error}")
                return
            playing.end = lambda: world.unpatch(patch)
        playing.state = "running"
        playing.timer = asyncio.get_running_loop().call_later(step.for_s, self._finish, playing, "done")

    def _finish(self, playing: _Playing, state: str) -> None:
        if playing.timer is not None:
            playing.timer.cancel()
        self._coming.remove(playing)
        self._ended.append(playing)
        playing.state = state
        if playing.end is not None:
            playing.end()


def _without(spells: list[Spell], ended: Spell) -> None:
    spells[:] = [one for one in spells if one is not ended]
