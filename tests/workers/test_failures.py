"""What a provider's error means to Temporal."""

from datetime import timedelta

import pytest
from temporalio.exceptions import ApplicationErrorCategory

from fleet.contracts.names import FailureType
from workers import failures
from workers.providers import errors


@pytest.mark.parametrize("error", [errors.RateLimited("429"), errors.Overloaded("529")])
def test_a_rejection_is_a_wait_however_often_it_comes(error):
    found = failures.failure(error, failures=99, max_failures=3, cooled=True)
    assert found.category is ApplicationErrorCategory.BENIGN
    assert not found.non_retryable
    assert found.next_retry_delay is not None
    assert found.next_retry_delay < timedelta(seconds=1)


def test_a_rejection_without_a_shared_cooldown_waits_as_the_provider_says():
    found = failures.failure(errors.RateLimited("429", retry_after_s=7), failures=0, max_failures=3, cooled=False)
    assert found.next_retry_delay is not None
    assert timedelta(seconds=7) <= found.next_retry_delay <= timedelta(seconds=8.75)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.Refused("401"), FailureType.PROVIDER_REFUSED),
        (errors.Exhausted("no money"), FailureType.QUOTA_EXHAUSTED),
        (errors.BadRequest("400"), FailureType.BAD_REQUEST),
    ],
)
def test_what_waiting_cannot_mend_is_final_at_once(error, kind):
    found = failures.failure(error, failures=0, max_failures=3)
    assert found.non_retryable
    assert found.type == kind


def test_a_real_failure_is_retried_until_its_policy_ends():
    error = errors.Unavailable("500")
    second, third = (failures.failure(error, failures=n, max_failures=3) for n in (2, 3))
    assert not second.non_retryable
    assert third.non_retryable
    assert third.message == "500 (failed 3 times)"


def test_an_effect_that_may_have_happened_is_not_called_a_failure():
    found = failures.failure(errors.Lost("the connection broke"), failures=3, max_failures=3)
    assert (found.type, found.non_retryable) == (FailureType.EFFECT_UNKNOWN, True)
    assert "it may have been done" in found.message
    assert not failures.failure(errors.Lost("x"), failures=2, max_failures=3).non_retryable


def test_backoff_doubles_within_its_bounds_and_honours_the_provider():
    for count, longest in [(1, 1.0), (2, 2.0), (4, 8.0), (50, 60.0)]:
        assert timedelta(seconds=longest / 2) <= failures.backoff(count) <= timedelta(seconds=longest)
    assert failures.backoff(1, retry_after_s=30) == timedelta(seconds=30)


def test_only_states_can_be_waits():
    with pytest.raises(ValueError, match="is not a wait"):
        failures.wait(FailureType.BAD_REQUEST, "x", timedelta(seconds=1))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, errors.RateLimited),
        (503, errors.Overloaded),
        (529, errors.Overloaded),
        (500, errors.Unavailable),
        (502, errors.Unavailable),
        (408, errors.Unavailable),
        (401, errors.Refused),
        (403, errors.Refused),
        (402, errors.Exhausted),
        (400, errors.BadRequest),
        (404, errors.BadRequest),
    ],
)
def test_every_status_has_its_error(status, kind):
    assert type(errors.from_status(status, "x", {})) is kind
