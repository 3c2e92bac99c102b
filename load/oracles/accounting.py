"""Was everything done, and nothing twice? Counted at the mailbox and the bank."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from load.oracles.reading import finding, nothing
from load.trial import Arrival, Evidence, Finding

COMPLETED = "completed"
_NAMED = 3
"""Offenders that are named in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingLost:
    """Counts runs that have not ended as they may, and what completed runs owe and nobody got."""

    name: ClassVar[str] = "nothing_lost"
    says: ClassVar[str] = "every run that was offered ended, and every e-mail and transfer of it is there"

    allowed: frozenset[str] = frozenset({COMPLETED})
    """Outcomes that are no loss. Only completed runs owe e-mails and transfers."""
    bound: float = 0.0
    """Most losses."""

    def judge(self, evidence: Evidence) -> Finding:
        """Of an interrupted trial, runs under way are not lost."""
        if not evidence.arrivals:
            return nothing(self, "nothing arrived")
        lost, done = [], []
        for arrival in evidence.arrivals:
            end = evidence.ended.get(arrival.run_id)
            if end is None:
                if not evidence.interrupted:
                    lost.append(f"{arrival.run_id} has not ended")
            elif end.outcome not in self.allowed:
                lost.append(f"{arrival.run_id} {end.outcome}{f' ({end.reason})' if end.reason else ''}")
            elif end.outcome == COMPLETED:
                done.append(arrival)
        for what, owed, had in _effects(evidence, done):
            missing = owed - Counter(had)
            lost += [f"no {what} for {name}" for name in missing.elements()]
        counted = f"{len(evidence.arrivals)} runs" + (", interrupted" if evidence.interrupted else "")
        return finding(self, len(lost), _listed(lost) or f"{counted}: all accounted for")


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingTwice:
    """Counts e-mails and transfers beyond those that were asked for; to a stranger, every one."""

    name: ClassVar[str] = "nothing_twice"
    says: ClassVar[str] = "no e-mail and no transfer was made twice, and none that nobody asked for"

    bound: float = 0.0
    """Most of them."""

    def judge(self, evidence: Evidence) -> Finding:
        """Runs that have not ended may have had their effect; nobody may have two."""
        found, had = [], 0
        for what, asked, got in _effects(evidence, evidence.arrivals):
            had += sum(got.values())
            for name, count in got.items():
                if count <= asked[name]:
                    continue
                of = f"instead of {asked[name]}" if asked[name] else "that nobody asked for"
                found.append((count - asked[name], f"{count} {what}s to {name} {of}"))
        value = sum(count for count, _ in found)
        return finding(self, value, _listed([line for _, line in found]) or f"{had} effects, each asked for once")


def _effects(
    evidence: Evidence, runs: Iterable[Arrival]
) -> tuple[tuple[str, Counter[str], Mapping[str, int]], tuple[str, Counter[str], Mapping[str, int]]]:
    """What, how many by whom are to get it, how many by whom have got it."""
    runs = list(runs)
    return (
        ("e-mail", Counter(a.mails_to for a in runs if a.mails_to is not None), evidence.mails),
        ("transfer", Counter(a.pays for a in runs if a.pays is not None), evidence.transfers),
    )


def _listed(lines: list[str]) -> str:
    more = len(lines) - _NAMED
    return "; ".join(lines[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
