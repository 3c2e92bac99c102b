import re
from importlib import resources

import pytest

from ratelimit import scripts
from ratelimit.limiter import Limiter
from ratelimit.store import RedisStore

FILES = sorted(f.name for f in resources.files("ratelimit").joinpath("lua").iterdir() if f.name.endswith(".lua"))
USED = re.compile(r"\b(KEYS|ARGV)\[(\d+|count \+ \d)\]")
DOCUMENTED = re.compile(r"^-- (KEYS|ARGV)\[(\d+|s\+\d)(\.\.s?)?\]  ", re.MULTILINE)


def _header(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True)[: text.split("\n").index("")] if line[:2] == "--")


def test_there_is_one_script_per_verb() -> None:
    assert sorted(f"{verb}.lua" for verb in scripts.VERBS) == [f for f in FILES if not f.startswith("_")]


@pytest.mark.parametrize("file", FILES)
def test_a_script_stays_under_120_lines(file: str) -> None:
    assert len(scripts.source(file).splitlines()) < 120


@pytest.mark.parametrize("verb", scripts.VERBS)
def test_a_script_says_its_purpose_and_what_it_returns(verb: str) -> None:
    header = _header(scripts.source(f"{verb}.lua"))
    assert header.startswith("-- Purpose: ")
    assert "\n-- Returns: " in header


@pytest.mark.parametrize("verb", scripts.VERBS)
def test_every_key_and_argument_is_documented_and_used(verb: str) -> None:
    text = scripts.source(f"{verb}.lua")
    header = _header(text)
    body = text.removeprefix(header)
    documented = {(kind, place, bool(rest)) for kind, place, rest in DOCUMENTED.findall(header)}
    fixed = {(kind, place) for kind, place, rest in documented if not rest}
    used = {(kind, place.replace("count + ", "s+")) for kind, place in USED.findall(body)}
    if "begin(1," in body:
        used.add(("KEYS", "1"))
    # tails begin where the scopes end
    used.discard(("KEYS", "s+1") if ("KEYS", "s+1", True) in documented else ("", ""))
    assert fixed == used
    for kind, place, rest in documented:
        if rest:
            # a tail is walked: by a counter that starts at its first index
            text = scripts.script(verb).text
            assert re.search(rf"\b{kind}\[[a-z]", text), f"{kind}[{place}..] is documented and not used"
    for kind in set(re.findall(r"\b(KEYS|ARGV)\[[a-z]", re.sub(r"\[count \+ \d\]", "[1]", body))):
        assert any(k == kind and rest for k, _, rest in documented)


@pytest.mark.parametrize("verb", scripts.VERBS)
def test_includes_are_resolved(verb: str) -> None:
    assert "#include" in scripts.source(f"{verb}.lua")
    assert "#include" not in scripts.script(verb).text


async def test_a_server_that_forgot_its_scripts_is_sent_them_again(redis_store: RedisStore) -> None:
    async with Limiter(redis_store, {}) as limiter:
        for _ in range(2):
            await redis_store.execute("SCRIPT", "FLUSH")
            assert not (await limiter.inspect("openai/sim")).configured
