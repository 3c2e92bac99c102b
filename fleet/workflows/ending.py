"""How a run is ended from wherever it is."""

from fleet.contracts.runs import Outcome


class Ended(Exception):
    """The run ends here, with what it has."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
