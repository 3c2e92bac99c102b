"""How the simulated models write: extractive briefs with citations."""

from collections.abc import Iterable

from load.simulators import text
from load.simulators.reading import Memory, Source

_MOST_SENTENCES = 6
_SPARE = 40
"""Characters for what stands between the parts."""
_MARK = "(remembered)"


def brief(sources: Iterable[Source], topic: list[str], room: int) -> str:
    """The sentences that say most about the topic, each with its source, in about `room` characters."""
    about = {word: 3.0 if "." in word else 1.0 for word in topic}
    for word in list(about):
        for part in word.split("."):
            about.setdefault(part, 0.5)
    read = list(enumerate(sources, start=1))
    listed = [f"[{n}] {source.title} ({source.id})" for n, source in read]
    room -= sum(map(len, listed)) + _SPARE
    scored = [
        (text.relevance(sentence, about), -n, -place, sentence)
        for n, source in read
        for place, sentence in enumerate(text.sentences(source.body))
    ]
    chosen: list[tuple[int, int, str]] = []
    for _, n, place, sentence in sorted(scored, reverse=True):
        if len(chosen) == _MOST_SENTENCES or room < len(sentence) + 6:
            break
        room -= len(sentence) + 6
        chosen.append((-n, -place, sentence))
    lines = [f"{sentence} [{n}]" for n, _, sentence in sorted(chosen)]
    return _with_sources("\n".join(lines) or "The documents that were read do not answer this.", listed)


def remembered(memory: Memory, room: int) -> str:
    """What is remembered, in about `room` characters, its sources marked as remembered."""
    body, _, listed = memory.text.partition(_with_sources("", []))
    sources = [line for line in listed.partition("\n\n")[0].splitlines() if line]
    sources = sources or [f"[1] {memory.subject or 'Memory'} ({memory.id})"]
    marked = [line if line.endswith(_MARK) else f"{line} {_MARK}" for line in sources]
    room -= sum(map(len, marked)) + _SPARE
    return _with_sources(body[: max(room, 0)], marked)


def _with_sources(body: str, listed: list[str]) -> str:
    return f"{body}\n\nSources:\n" + "\n".join(listed)
