"""Loads the Lua scripts and resolves their includes."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

VERBS = ("reserve", "clock", "settle", "cancel", "renew", "cool_down", "close", "observe", "configure", "inspect")

_INCLUDE = re.compile(r"^--#include (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One verb, ready to be called."""

    verb: str
    text: str
    sha: str


def source(file: str) -> str:
    """A file of `lua/`, as it is written."""
    return resources.files("ratelimit").joinpath("lua", file).read_text(encoding="utf-8")


@cache
def script(verb: str) -> Script:
    """A verb's script with its includes in place."""
    text = _INCLUDE.sub(lambda match: source(match[1]).rstrip("\n"), source(f"{verb}.lua"))
    # EVALSHA names a script by its SHA-1; nothing rests on its strength
    return Script(verb, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
