"""What all simulated providers share: how long answers take, and options that change for a time."""

import statistics

import pytest

from load.simulators.ledger import Ledger
from load.simulators.limits import LatencyOptions
from load.simulators.mailbox import Mailbox
from load.simulators.options import Options, OptionsError
from load.simulators.world import World


@pytest.fixture
def world(tmp_path):
    def made(**options):
        return World(Options.of(options), Ledger(), Mailbox(tmp_path / "Maildir"))

    return made


def times(world, tokens=0, override=None, count=2000):
    found = [world.latency(tokens, override) for _ in range(count)]
    return [one.first_s for one in found], [one.rest_s for one in found]


def test_a_constant_latency_is_the_base_then_so_much_for_each_token(world):
    one = world(latency={"distribution": "constant", "base_s": 0.2, "per_output_token_s": 0.01}).latency(50)
    assert (one.first_s, one.rest_s) == (0.2, 0.5)


def test_a_uniform_latency_stays_within_its_jitter(world):
    first, _ = times(world(latency={"base_s": 1, "jitter": 0.1}))
    assert 0.9 <= min(first) < 0.91
    assert 1.09 < max(first) <= 1.1


def test_a_lognormal_latency_has_the_base_as_its_median_and_a_long_tail(world):
    first, rest = times(
        world(latency={"distribution": "lognormal", "sigma": 0.5, "base_s": 1, "per_output_token_s": 0.1}), 10
    )
    assert statistics.median(first) == pytest.approx(1, rel=0.05)
    assert statistics.quantiles(first, n=20)[-1] == pytest.approx(2.3, rel=0.1)
    assert rest == pytest.approx(first)


def test_the_same_seed_gives_the_same_times(world):
    options = {"distribution": "lognormal", "seed": 3}
    assert times(world(latency=options)) == times(world(latency=options))


def test_a_model_has_its_own_latency_where_it_sets_one(world):
    made = world(latency={"distribution": "constant", "base_s": 0.2, "per_output_token_s": 0.01})
    one = made.latency(10, LatencyOptions(base_s=1, factor=2))
    assert (one.first_s, one.rest_s) == (2, pytest.approx(0.2))


def test_a_models_own_latency_survives_a_change_of_other_options(world):
    models = {"m": {"latency": {"base_s": 1}}}
    made = world(openai={"models": models}, latency={"distribution": "constant", "per_output_token_s": 0.01})
    made.give({"latency": {"factor": 3}})
    one = made.latency(10, made.options.openai.models["m"].latency)
    assert (one.first_s, one.rest_s) == (3, pytest.approx(0.3))


def test_patches_lie_on_the_options_given_and_are_taken_away_in_any_order(world):
    made = world()
    slow, failing = {"latency": {"factor": 10}}, {"faults": {"rate_500": 1}}
    made.patch(slow)
    made.patch(failing)
    made.give({"latency": {"base_s": 7}})
    assert (made.options.latency.factor, made.options.latency.base_s, made.options.faults.rate_500) == (10, 7, 1)
    made.unpatch(slow)
    assert (made.options.latency.factor, made.options.latency.base_s, made.options.faults.rate_500) == (1, 7, 1)
    made.unpatch(failing)
    assert made.options.faults.rate_500 == 0


def test_options_that_do_not_go_with_a_patch_change_nothing(world):
    made = world(openai={"models": {"m": {}}, "keys": ["sk-a"]})
    made.patch({"outsiders": [{"provider": "openai", "model": "m", "requests_per_s": 1}]})
    with pytest.raises(OptionsError, match=r"outsiders\.0\.key"):
        made.give({"openai": {"keys": None}})
    assert made.options.openai.keys == ["sk-a"]


def test_a_change_that_is_taken_back_leaves_no_trace(world):
    made = world(openai={"models": {"m": {"requests": {"limit": 60}}}})
    before = made.options
    patch = {"openai": {"models": {"m": {"requests": {"limit": 30, "window": "sliding"}}}}}
    made.patch(patch)
    assert made.options.openai.models["m"].requests.limit == 30
    made.unpatch(patch)
    assert made.options == before


@pytest.mark.parametrize(
    ("outsider", "problem"),
    [
        ({"model": "m"}, "openai.keys has none"),
        ({"model": "n", "key": "k"}, "must be one of openai.models"),
        ({"model": "m", "key": "k", "from_s": 5, "to_s": 5}, "above from_s, 5"),
    ],
)
def test_outsiders_that_could_spend_nothing_are_refused(outsider, problem):
    with pytest.raises(OptionsError, match=problem):
        Options.of(
            {
                "openai": {"models": {"m": {}}},
                "outsiders": [{"provider": "openai", "requests_per_s": 1, **outsider}],
            }
        )
