"""Loads the Lua scripts, resolves their includes and puts their constants in place.

A constant that were a local would be an upvalue of every function that names it, and Lua makes all functions anew with
each call of a script: that alone would double the time of a call.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

VERBS = (
    "reserve",
    "clock",
    "settle",
    "cancel",
    "renew",
    "present",
    "learn",
    "cool_down",
    "close",
    "observe",
    "configure",
    "inspect",
)

_INCLUDE = re.compile(r"^\s*--#include (\S+)$", re.MULTILINE)
_DEFINE = re.compile(r"^\s*--#define (\w+) (\S+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


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
    """A verb's script with its includes and constants in place, without comments."""
    text = source(f"{verb}.lua")
    while _INCLUDE.search(text):
        text = _INCLUDE.sub(lambda match: source(match[1]).rstrip("\n"), text)
    constants = dict(_DEFINE.findall(text))
    text = _COMMENT.sub("", text)
    if constants:
        text = re.sub(rf"\b({'|'.join(constants)})\b", lambda match: constants[match[1]], text)
    # EVALSHA names a script by its SHA-1; nothing rests on its strength
    return Script(verb, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
