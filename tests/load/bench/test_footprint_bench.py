"""The benchmark of what runs leave behind measures what it says; its figures are no test."""

import pytest
from sqlalchemy import func, select

from fleet.errors import BadInput
from load.bench import footprint
from load.bench.report import Report
from workers.database.engine import Database
from workers.database.tables import audit, effects, memories, spend_calls


async def test_every_row_is_written_as_a_worker_writes_it(tmp_path):
    url, rows = f"sqlite+aiosqlite:///{tmp_path / 'rows.db'}", 12
    report = Report()
    await footprint._rows(report, url, rows, lambda line: None)
    database = Database(url)
    async with database.reading() as connection:
        for table in (effects, audit, memories):
            assert await connection.scalar(select(func.count()).select_from(table)) == rows
        assert set(await connection.scalars(select(effects.c.state))) == {"done"}
        # those of the budgets are calls too
        assert await connection.scalar(select(func.count()).select_from(spend_calls)) == 3 * rows
    await database.aclose()
    told = {row["limiter"]: row for row in report.rows if row["trial"] == "one row"}
    assert set(told) == set(footprint.DATA)
    assert all(row["written_per_s"] > 0 for row in told.values())
    # a database that was used is not measured again
    with pytest.raises(BadInput, match=r"--database: has tables already .* name an empty database"):
        await footprint._empty(url)


async def test_what_is_no_database_is_refused_in_one_line_without_its_password():
    with pytest.raises(BadInput, match=r"^--database: ") as refused:
        await footprint._empty("nonsense://user:secret@host/x")
    assert "secret" not in str(refused.value)


@pytest.mark.trial
@pytest.mark.timeout(180)
async def test_runs_rows_and_processes_are_measured():
    report = await footprint.run(agents=3, rows=20)
    rows = {(row["trial"], row["limiter"]): row for row in report.rows}
    run = rows["one run", "clerk"]
    # three calls of the model, one search, one e-mail; the effect is a workflow of its own
    assert (run["model_calls"], run["activities"], run["workflows"]) == (3, 5, 2)
    assert run["history_bytes"] > 5000
    assert run["scripts"] > 9
    processes = {name: row for (trial, name), row in rows.items() if trial == "one process"}
    assert {"agents-1", "llm-1", "search-1"} <= set(processes)
    assert all(row["mb"] > 20 and row["series"] > 20 for row in processes.values())
    assert all(processes[name]["redis_connections"] == 1 for name in ("agents-1", "llm-1"))
