"""A batch of real documents, its workers killed in the middle: none lost, none twice.

Ten thousand: `fleet bench batch --documents 10000`.
"""

import pytest

from load.bench.batch import Stage
from load.bench.report import Report

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]

DOCUMENTS, ITEMS = 800, 100


async def test_a_batch_whose_workers_are_killed_twice_reads_every_document_once(tmp_path):
    said: list[str] = []
    async with Stage.up(tmp_path, DOCUMENTS, said.append) as stage:
        survived = await stage.survive(DOCUMENTS, kills=2)
        report = Report()
        # how fast it is beside a bare workflow is the bench's to judge
        await stage.compare(report, ITEMS, rounds=1)
    assert survived.status.counts == {"done": DOCUMENTS}
    assert survived.results == DOCUMENTS
    assert survived.wrong == []
    # every document was begun once, over all executions: what was done before a kill was not done again
    assert len(survived.begun) == DOCUMENTS
    assert survived.twice == 0
    assert len(survived.killed_at) == 2
    (ratio,) = report.checks
    assert ratio.value > 0, "\n".join(said)
