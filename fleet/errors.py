"""What the fleet refuses, and how it says so.

FleetError
├── BadInput        the caller must change something: value, bound and fix in one line
├── PayloadLost     content of a run cannot be read here: which key or store is missing
├── Unreachable     a component does not answer: which one, where, and what to do
└── UnknownRun      no run of that id
"""


class FleetError(Exception):
    """Root of everything this room raises on purpose. Its text is one line."""


class BadInput(FleetError):
    """A value was refused. The text names the value, the bound and the fix."""


class PayloadLost(FleetError):
    """A payload cannot be read here: its key or its store is missing, or it was changed."""


class Unreachable(FleetError):
    """A component does not answer."""


class UnknownRun(BadInput):
    """No run has that id."""
