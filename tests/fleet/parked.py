"""A workflow that waits: apart from the tests, because the sandbox imports its module anew."""

from datetime import timedelta

from temporalio import workflow


@workflow.defn(name="Parked")
class Parked:
    """Waits, and says which build it ends on."""

    def __init__(self) -> None:
        self.told = False

    @workflow.signal
    def end(self) -> None:
        """Wait no more."""
        self.told = True

    @workflow.run
    async def run(self) -> str:
        """Wait."""
        await workflow.wait_condition(lambda: self.told)
        await workflow.execute_activity("nothing", start_to_close_timeout=timedelta(seconds=10))
        version = workflow.info().get_current_deployment_version()
        return version.build_id if version and version.deployment_name else ""
