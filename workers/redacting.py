"""Nothing that activities leave in a history has a secret."""

from typing import Any

from temporalio.worker import (
    ActivityInboundInterceptor,
    ActivityOutboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

from workers.redaction import Redactor


class RedactingInterceptor(Interceptor):
    """Cleans what activities leave in a history: results, errors, details of heartbeats.

    Before the others in the list of interceptors, so that it sees what they add; only traces stand before it, so that
    they see what it leaves.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wrap the activities of a worker."""
        return _RedactingActivity(next, self._redactor)


class _RedactingActivity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, redactor: Redactor) -> None:  # noqa: A002
        super().__init__(next)
        self._redactor = redactor

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        super().init(_RedactingHeartbeat(outbound, self._redactor))

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        try:
            result = await super().execute_activity(input)
        except Exception as error:
            cleaned = self._redactor.error(error)
            if cleaned is error:
                raise
            # `from`: else the error itself would be the context, and be written too
            raise cleaned from cleaned.__cause__
        return self._redactor.clean_value(result)


class _RedactingHeartbeat(ActivityOutboundInterceptor):
    def __init__(self, next: ActivityOutboundInterceptor, redactor: Redactor) -> None:  # noqa: A002
        super().__init__(next)
        self._redactor = redactor

    def heartbeat(self, *details: Any) -> None:
        super().heartbeat(*self._redactor.clean_value(details))
