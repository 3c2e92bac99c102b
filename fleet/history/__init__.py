"""Reading a run's event history back as a story."""

from fleet.history.model import Cause, Execution, Question, Span, Step, Story, Totals
from fleet.history.reading import Chain, Past, fetch, load, save
from fleet.history.telling import of_chain, story

__all__ = [
    "Cause",
    "Chain",
    "Execution",
    "Past",
    "Question",
    "Span",
    "Step",
    "Story",
    "Totals",
    "fetch",
    "load",
    "of_chain",
    "save",
    "story",
]
