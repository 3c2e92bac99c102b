"""Histories in files: ours and Temporal's own."""

import json
from pathlib import Path

import pytest
from temporalio.converter import DataConverter

from fleet.errors import BadInput
from fleet.history import load, of_chain, save

RECORDED = Path(__file__).parents[1] / "histories"


def test_a_file_of_temporals_own_command_is_one_execution():
    chain = load(RECORDED / "completed.json")
    assert chain.run_id == "completed"
    assert [past.workflow_type for past in chain.executions] == ["AgentWorkflow"]
    assert (chain.gone, chain.children, chain.read_at) == ([], {}, None)


def test_what_was_saved_is_read_as_it_was(tmp_path):
    chain = load(RECORDED / "amended.json")
    save(chain, tmp_path / "a.json")
    again = load(tmp_path / "a.json")
    assert again == chain
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no history"),
        ('{"events": []}', "no whole history"),
        ('{"events": [{"eventId": "1"}]}', "no whole history"),
        ('{"events": 3}', "no whole history"),
        ('{"executions": [], "run": "a"}', "no whole history .it has no execution"),
        ('{"executions": [{}], "run": "x", "format": 1}', "no whole history"),
        ('{"executions": [], "run": "x", "format": 7}', "has format 7"),
    ],
)
def test_a_file_that_is_no_history_is_refused_in_one_line(tmp_path, text, words):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(BadInput, match=words) as refused:
        load(tmp_path / "bad.json")
    assert "\n" not in str(refused.value)


def test_a_file_that_lacks_events_is_refused(tmp_path):
    said = json.loads((RECORDED / "completed.json").read_text())
    del said["events"][4]
    (tmp_path / "gap.json").write_text(json.dumps(said))
    with pytest.raises(BadInput, match=r"no whole history \(event 5 is not there"):
        load(tmp_path / "gap.json")


async def test_events_of_a_call_that_was_never_made_are_refused():
    chain = load(RECORDED / "completed.json")
    del chain.executions[0].events[4]
    with pytest.raises(BadInput, match=r"no whole history, .*: event 5, a call's, is not there"):
        await of_chain(chain, DataConverter.default)


@pytest.mark.parametrize("change", [lambda put: put.Clear(), lambda put: put.payloads[0].ClearField("data")])
async def test_events_whose_payloads_are_not_there_are_refused(change):
    chain = load(RECORDED / "completed.json")
    change(chain.executions[0].events[0].workflow_execution_started_event_attributes.input)
    with pytest.raises(BadInput, match="a payload is no RunInput") as refused:
        await of_chain(chain, DataConverter.default)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("where", [".", "nowhere/a.json", "a-file/a.json"])
def test_where_nothing_can_be_written_is_told(tmp_path, where):
    (tmp_path / "a-file").write_text("")
    with pytest.raises(BadInput, match="name a file in a folder that can be written"):
        save(load(RECORDED / "completed.json"), tmp_path / where)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a-file"]


def test_a_file_without_its_last_events_is_a_run_in_flight(tmp_path):
    said = json.loads((RECORDED / "completed.json").read_text())
    (tmp_path / "cut.json").write_text(json.dumps({"events": said["events"][:20]}))
    assert len(load(tmp_path / "cut.json").executions[0].events) == 20
