"""The one table from what went wrong to what Temporal does about it."""

import random
from datetime import timedelta

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from fleet.contracts.names import WAITS, FailureType
from workers.providers import errors

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0


def wait(kind: FailureType, message: str, delay: timedelta) -> ApplicationError:
    """A state, not an error: come back after `delay`. Uses up no retry budget and alarms nobody."""
    if kind not in WAITS:
        raise ValueError(f"{kind} is not a wait")
    return ApplicationError(
        message, type=kind, next_retry_delay=delay, category=ApplicationErrorCategory.BENIGN, non_retryable=False
    )


def final(kind: FailureType, message: str) -> ApplicationError:
    """Trying again would not help."""
    return ApplicationError(message, type=kind, non_retryable=True)


def failure(error: errors.ProviderError, *, failures: int, max_failures: int, cooled: bool = False) -> ApplicationError:
    """What a provider's error means for the activity.

    Args:
        error: what the provider answered.
        failures: real failures of this call so far, this one included.
        max_failures: after so many the call is given up.
        cooled: the scope is closed for the whole fleet, so that admission spaces those who come back.
    """
    text = str(error)
    match error:
        case errors.RateLimited():
            return wait(FailureType.RATE_LIMITED, text, _pause(error, cooled))
        case errors.Overloaded():
            return wait(FailureType.OVERLOADED, text, _pause(error, cooled))
        case errors.Refused():
            return final(FailureType.PROVIDER_REFUSED, text)
        case errors.Exhausted() if cooled:
            # the scope is closed until somebody has paid: the run waits there, and nothing is lost
            return wait(FailureType.QUOTA_EXHAUSTED, text, _pause(error, cooled))
        case errors.Exhausted():
            return final(FailureType.QUOTA_EXHAUSTED, text)
        case errors.Fenced():
            # not a failure of the provider: the later attempt tells how it ended
            return ApplicationError(text, type=FailureType.PROVIDER_FAILED, next_retry_delay=backoff(1))
        case errors.BadRequest():
            return final(FailureType.BAD_REQUEST, text)
        case _:
            if failures >= max_failures and isinstance(error, errors.Lost):
                unknown = f"{text} (failed {failures} times): it may have been done; do not have it done again"
                return final(FailureType.EFFECT_UNKNOWN, unknown)
            if failures >= max_failures:
                return final(FailureType.PROVIDER_FAILED, f"{text} (failed {failures} times)")
            return ApplicationError(
                text, type=FailureType.PROVIDER_FAILED, next_retry_delay=backoff(failures, error.retry_after_s)
            )


def _pause(error: errors.ProviderError, cooled: bool) -> timedelta:
    if cooled:
        # coming back at once books a place in line behind the cooldown
        return timedelta(seconds=random.uniform(0.05, 0.25))
    hint = 5.0 if error.retry_after_s is None else error.retry_after_s
    return timedelta(seconds=hint * random.uniform(1.0, 1.25))


def backoff(failures: int, retry_after_s: float | None = None) -> timedelta:
    """Delay before the next attempt: doubles from a second to a minute, with full jitter on its upper half."""
    longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(failures - 1, 16))
    return timedelta(seconds=max(retry_after_s or 0.0, random.uniform(longest / 2, longest)))
