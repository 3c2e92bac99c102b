"""What a run is found by while it goes on: search attributes, told only when they change."""

from decimal import Decimal
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from fleet.contracts import names
from fleet.contracts.runs import Outcome, RunInput

_WAITING = SearchAttributeKey.for_keyword(names.WAITING_ATTRIBUTE)
_STATUS = SearchAttributeKey.for_keyword(names.STATUS_ATTRIBUTE)
_COST = SearchAttributeKey.for_float(names.COST_ATTRIBUTE)
_STATUSES = {None: names.WORKING, "approval": names.WORKING_APPROVAL, "resume": names.PAUSED}
_LEAST_COST = Decimal("0.01")
_GROWN = Decimal("1.5")
"""A cost is told again once it has grown so many times: some twenty times from a cent to a hundred."""


class Signs:
    """The search attributes of one run."""

    def __init__(self, run: RunInput) -> None:
        self._all = run.rules >= 1
        self._waits_for: str | None = None
        self._money = Decimal(0)
        self._told = Decimal(0)

    def waits_for(self, what: str | None) -> None:
        """It waits for a person now (`approval`, `resume`), or no longer."""
        if what == self._waits_for:
            return
        self._waits_for = what
        waiting = _WAITING.value_unset() if what is None else _WAITING.value_set(what)
        self._tell(waiting, _STATUS.value_set(_STATUSES[what]))

    def cost(self, money: Decimal) -> None:
        """It has spent so much until now."""
        self._money = money
        if self._all and money >= max(_LEAST_COST, self._told * _GROWN):
            self._tell()

    def ended(self, outcome: Outcome) -> None:
        """It has ended."""
        if self._all:
            self._tell(_STATUS.value_set(outcome.value))

    def _tell(self, *updates: Any) -> None:
        if not self._all:
            # of a run that began before the namespace knew the others
            updates = tuple(one for one in updates if one.key == _WAITING)
        elif self._money != self._told:
            self._told = self._money
            updates = (*updates, _COST.value_set(float(self._money)))
        workflow.upsert_search_attributes(list(updates))
