"""The default corpus, read once."""

import json
import os
import subprocess
import sys

import pytest

from workers.corpus.documents import Document

READING = """
import json, sys
from dataclasses import asdict
from workers.corpus.stdlib import read_stdlib
json.dump([asdict(document) for document in read_stdlib()], sys.stdout)
sys.exit(any(m in sys.modules for m in ("this", "antigravity", "turtle", "tkinter", "smtplib", "pdb")))
"""
"""Exits with 1 if to read modules has imported them."""


class Reading:
    """A process that has read the documentation of Python: pytest's own has a `sys` of its own."""

    def __init__(self, hash_seed: int) -> None:
        command = [sys.executable, "-W", "error", "-c", READING]
        environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
        self.ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
        self.documents = [Document(**found) for found in json.loads(self.ended.stdout)]


@pytest.fixture(scope="session")
def reading() -> Reading:
    """One of them."""
    return Reading(hash_seed=1)


@pytest.fixture(scope="session")
def documents(reading: Reading) -> dict[str, Document]:
    """What it has read, by id."""
    return {found.id: found for found in reading.documents}
