"""The database dies under load: kill -9, again and again. What it had acknowledged stands."""

import asyncio
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from fleet.contracts.effects import EffectState
from tests.postgres import running_postgres
from tests.workers.conftest import sqlite_url
from workers.database import Database, DatabaseLost, upgrade
from workers.effects.ledger import Entry, Ledger

KEYS, TASKS, DEATHS = 180, 12, 3
BETWEEN = 25
"""Effects acknowledged as done between one death and the next."""
CALL = {"tool": "send_email", "digest": "d", "run_id": "run", "agent": "a", "tenant": "t"}
Note = Callable[[str, str, int], None]

pytestmark = pytest.mark.trial


@dataclass
class Log:
    """What the ledger has acknowledged to one process, in order."""

    notes: list[tuple[str, str, int]] = field(default_factory=list)
    done: int = 0

    def note(self, what: str, key: str, fence: int) -> None:
        self.notes.append((what, key, fence))
        self.done += what == "done"


async def load(ledger: Ledger, note: Note, *, keys: Iterable[str]) -> None:
    """Have every effect, in spite of losses, of others at the same effect, and of old claims that come back."""
    left = list(keys)
    kept: list[tuple[str, int]] = []
    highest: Counter[str] = Counter()

    async def stages(key: str) -> bool:
        await ledger.intend(key, **CALL)
        known = highest[key]
        claim = await ledger.claim(key)
        if not claim.mine:
            return True
        assert claim.fence > known, "a fence went back"
        note("claimed", key, claim.fence)
        highest[key] = max(highest[key], claim.fence)
        kept.append((key, claim.fence))
        if random.random() < 0.3:
            return False  # died after its claim
        for held, fence in ((key, claim.fence), random.choice(kept)):
            known = highest[held]
            begun = await ledger.begin(held, fence)
            assert fence >= known or not begun, "begun by an attempt that no longer held the fence"
            if begun:
                note("begun", held, fence)
        if await ledger.record(key, claim.fence, EffectState.DONE, result=str(claim.fence)):
            note("done", key, claim.fence)
            return True
        return False

    async def task() -> None:
        while left:
            key = random.choice(left[:TASKS])
            try:
                finished = await stages(key)
            except DatabaseLost:
                finished = False
            if not finished:
                # as retries are: without a pause each attempt takes the fence from the one before, for ever
                await asyncio.sleep(random.uniform(0, 0.1))
            elif key in left:
                left.remove(key)

    await asyncio.gather(*(task() for _ in range(TASKS)))


def judged(logs: list[Log], entries: list[Entry]) -> None:
    """Nothing that was acknowledged is lost, and nobody had what another one held."""
    notes = [note for log in logs for note in log.notes]
    found = {entry.key: entry for entry in entries}
    done = [(key, fence) for what, key, fence in notes if what == "done"]
    claimed = Counter((key, fence) for what, key, fence in notes if what == "claimed")
    assert len(done) == len({key for key, _ in done}), "an effect was done twice"
    assert len(done) >= DEATHS * BETWEEN
    for key, fence in done:
        entry = found[key]
        assert (entry.state, entry.result, entry.fence) == (EffectState.DONE, str(fence), fence)
    assert max(claimed.values()) == 1, "two attempts had the same fence"
    for key, fence in claimed:
        assert found[key].fence >= fence, "a fence went back"
    for log in logs:
        own = {(key, fence) for what, key, fence in log.notes if what == "claimed"}
        assert {(key, fence) for what, key, fence in log.notes if what == "begun"} <= own, "begun on another's fence"


async def until(enough: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not enough():
            await asyncio.sleep(0.01)


async def test_the_ledger_survives_kill_9_of_postgresql():
    log = Log()
    with running_postgres(durable=True) as server:
        url = server.url("postgres")
        await upgrade(url)
        async with aclosing(Database(url)) as database:
            await database.open()
            working = asyncio.create_task(load(Ledger(database), log.note, keys=[f"run/{n}" for n in range(KEYS)]))
            for _ in range(DEATHS):
                enough = log.done + BETWEEN
                await until(lambda enough=enough: log.done >= enough or working.done())
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            async with asyncio.timeout(60):
                await working
            entries = await Ledger(database).entries(limit=KEYS)
    assert {entry.state for entry in entries} == {EffectState.DONE}
    assert len(entries) == KEYS
    judged([log], entries)


CHILD = """
import asyncio, sys
from contextlib import aclosing
from tests.workers.database.test_database_loss import load
from workers.database import Database
from workers.effects.ledger import Ledger

async def main(url, count):
    async with aclosing(Database(url)) as database:
        await database.open()
        note = lambda *words: print(*words, flush=True)
        await load(Ledger(database), note, keys=[f"run/{n}" for n in range(int(count))])

asyncio.run(main(*sys.argv[1:]))
"""


class Child:
    """A process that has effects, and what it was told."""

    def __init__(self, url: str) -> None:
        self.log = Log()
        command = [sys.executable, "-c", CHILD, url, str(KEYS)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.endswith("\n"):  # it died while saying the last one
                what, key, fence = line.split()
                self.log.note(what, key, int(fence))

    def end(self, *, kill: bool) -> Log:
        if kill:
            self.process.kill()
        assert self.process.wait(60) == (-9 if kill else 0)
        self._reader.join()
        self.process.stdout.close()
        return self.log


async def test_the_ledger_survives_kill_9_of_processes_that_share_an_sqlite_file(tmp_path):
    url = sqlite_url(tmp_path / "fleet.db")
    await upgrade(url)
    logs: list[Log] = []
    for _ in range(DEATHS):
        children = [Child(url), Child(url)]
        try:
            await until(lambda children=children: sum(child.log.done for child in children) >= BETWEEN)
        finally:
            logs += [child.end(kill=True) for child in children]
    last = Child(url)
    logs.append(await asyncio.to_thread(last.end, kill=False))
    async with aclosing(Database(url)) as database:
        await database.open()
        entries = await Ledger(database).entries(limit=KEYS)
    assert {entry.state for entry in entries} == {EffectState.DONE}
    assert len(entries) == KEYS
    judged(logs, entries)
