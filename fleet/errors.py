"""What the fleet refuses, and how it says so.

FleetError
├── BadInput        the caller must change something: value, bound and fix in one line
├── Unreachable     a component does not answer: which one, where, and what to do
└── UnknownRun      no run of that id
"""


class FleetError(Exception):
    """Root of everything this room raises on purpose. Its text is one line."""


class BadInput(FleetError):
    """A value was refused. The text names the value, the bound and the fix."""


class Unreachable(FleetError):
    """A component does not answer."""


class UnknownRun(BadInput):
    """No run has that id."""
