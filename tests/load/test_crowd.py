"""Who arrives, and what must come of them."""

import random
from collections import Counter
from pathlib import Path

import pytest

from fleet import manifest as manifests
from fleet.errors import BadInput
from load import crowd, harness
from load.scenario import Stage

MANIFEST = Path(__file__).parents[2] / "deploy" / "fleet.toml"


@pytest.fixture
def manifest(tmp_path):
    return manifests.load(harness.prepared(MANIFEST, tmp_path / "load.toml", Stage()))


def arrivals(manifest, mix, count=100, **more):
    return crowd.arrivals(
        manifest, [float(n) for n in range(count)], mix=crowd.parse_mix(mix), questions=["What is a list?"],
        prefix="t", dice=random.Random(1), **({"tenants": {"a": 1.0}, "priorities": (3,)} | more),
    )  # fmt: skip


def test_agents_and_tenants_come_as_often_as_their_weights_say(manifest):
    found = arrivals(manifest, "load-caller=3,load-mailer", tenants={"a": 3.0, "b": 1.0}, priorities=(2, 4))
    assert Counter(a.agent for a in found) == {"load-caller": 75, "load-mailer": 25}
    assert Counter(a.tenant for a in found) == {"a": 75, "b": 25}
    assert {a.priority for a in found} == {2, 4}
    assert len({a.run_id for a in found}) == 100
    assert found == arrivals(manifest, "load-caller=3,load-mailer", tenants={"a": 3.0, "b": 1.0}, priorities=(2, 4))


def test_what_must_come_of_a_run_follows_from_its_tools(manifest):
    for agent, mails, pays in [
        ("load-caller", False, False), ("load-mailer", True, False), ("load-payer", False, True),
        ("load-petitioner", False, True), ("researcher", True, False), ("payer", False, True),
    ]:  # fmt: skip
        (one,) = arrivals(manifest, agent, 1)
        assert ((one.mails_to or "") in one.goal, bool(one.mails_to)) == (True, mails)
        assert ((one.pays or "") in one.goal, bool(one.pays)) == (True, pays)


@pytest.mark.parametrize("text", ["", "a=b", "=3", "a=1,,b", "a=0"])
def test_a_mix_that_is_none_is_refused(text):
    with pytest.raises(BadInput, match="mix="):
        crowd.parse_mix(text)


def test_an_agent_that_the_manifest_does_not_have_is_refused(manifest):
    with pytest.raises(BadInput, match="no agent 'nobody' here; there are: analyst"):
        arrivals(manifest, "nobody")


def test_a_change_that_does_not_fit_the_manifest_is_one_line(tmp_path):
    with pytest.raises(BadInput, match=r"do not fit .*fleet\.toml: pools\.llm\.slots") as caught:
        harness.prepared(MANIFEST, tmp_path / "load.toml", Stage(manifest={"pools": {"llm": {"slots": -1}}}))
    assert "\n" not in str(caught.value)
