"""When agents arrive. Load is offered whatever the system does: no arrival waits for another run's end."""

from load.shapes.grammar import GRAMMAR, parse
from load.shapes.patterns import MOST, Burst, Constant, Ramp, Scheduled, Shape, Together, Wave
from load.shapes.trace import Trace

__all__ = [
    "GRAMMAR", "MOST", "Burst", "Constant", "Ramp", "Scheduled", "Shape", "Together", "Trace", "Wave", "parse",
]  # fmt: skip
