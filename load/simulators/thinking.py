"""The simulated model: the same conversation gives the same answer, and the answer makes sense.

With tools that search, read and send, it researches: search, read the best hits, write an extractive brief with
citations, send it if an address was given, finish. A tool it does not know is called once if the task names it, with
arguments that follow the tool's schema.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from load.simulators import text

_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_READS = 2
"""Documents read for one question."""
_SEARCHES = 2
_SHARE = 0.6
"""Of the output limit that a brief may fill: arguments are JSON, which is longer than its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The model wants a tool called."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One thing said, whatever the API's words for it are."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    text: str = ""
    calls: list[Call] = field(default_factory=list)
    call_id: str = ""
    """Of a `tool` turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool on offer."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Everything the model sees."""

    model: str
    turns: list[Turn]
    tools: list[Tool]
    max_tokens: int
    force: str | None = None
    """A tool's name, `*` for any of them, `-` for none; None leaves the choice to the model."""
    parallel: bool = True
    schema: dict[str, Any] | None = None
    """JSON Schema that the final answer must follow."""

    @property
    def characters(self) -> int:
        """Of everything that counts towards the prompt."""
        said = sum(len(t.text) + sum(len(c.name) + text.size(c.arguments) for c in t.calls) for t in self.turns)
        return said + sum(len(t.name) + len(t.description) + text.size(t.schema) for t in self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model says."""

    text: str
    calls: list[Call]
    output_tokens: int
    finish: str
    """`stop`, `tool_calls` or `length`."""


@dataclass(frozen=True, slots=True)
class _Source:
    id: str
    title: str
    body: str


def answer(prompt: Prompt) -> Reply:
    """Think."""
    mind = _Mind(prompt)
    said, calls = mind.decide()
    if prompt.schema is not None and not calls:
        said = mind.structured(prompt.schema)
    spent = text.tokens(len(said) + sum(len(c.name) + text.size(c.arguments) for c in calls))
    if spent > prompt.max_tokens:
        # cut off in the middle, as models are
        return Reply(
            text=said[: prompt.max_tokens * text.CHARS_PER_TOKEN],
            calls=[],
            output_tokens=prompt.max_tokens,
            finish="length",
        )
    return Reply(text=said, calls=calls, output_tokens=spent, finish="tool_calls" if calls else "stop")


class _Mind:
    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._tools = {tool.name: tool for tool in prompt.tools}
        begin = max((n for n, t in enumerate(prompt.turns) if t.role == "user"), default=0)
        self._goal = prompt.turns[begin].text if prompt.turns else ""
        since = prompt.turns[begin + 1 :]
        self._made = {call.id: call for turn in since for call in turn.calls}
        self._seen = [(self._made[t.call_id], t.text) for t in since if t.role == "tool" and t.call_id in self._made]
        self._task = " ".join(s for s in re.split(r"(?<=[.?!])\s+", self._goal) if not _ADDRESS.search(s)) or self._goal
        self._topic = text.topic(_ADDRESS.sub(" ", self._task))
        address = _ADDRESS.search(self._goal)
        self._address = address.group() if address else None

    def decide(self) -> tuple[str, list[Call]]:
        prompt = self._prompt
        if prompt.force == "-" or not self._tools:
            return self._speak(), []
        if prompt.force not in (None, "*"):
            tool = self._tools.get(prompt.force)
            return "", [self._call(tool, self._filled(tool))] if tool else []
        calls = self._plan()
        if not calls and prompt.force == "*":
            tool = prompt.tools[0]
            calls = [self._call(tool, self._filled(tool))]
        if not calls:
            return self._speak(), []
        return "", calls if prompt.parallel else calls[:1]

    def structured(self, schema: dict[str, Any]) -> str:
        """A final answer that follows the schema."""
        return json.dumps(self._value("answer", {"type": "object", **schema}))

    def _plan(self) -> list[Call]:
        search, read, send = self._find("search"), self._find("fetch", "read", "open"), self._find("email", "mail")
        if search and not self._hits() and self._times(search.name) < _SEARCHES:
            # the second try is broader
            terms = self._topic if self._times(search.name) == 0 else self._topic[:2]
            return [self._call(search, {_first(search, "query", "q"): " ".join(terms) or self._task})]
        if read and self._hits():
            done = self._times(read.name)
            ids = [hit.id for hit in self._hits()[:_READS]]
            if done < len(ids):
                about = {"about": " ".join(self._topic)} if "about" in read.schema.get("properties", {}) else {}
                return [self._call(read, {_first(read, "id", "url"): i, **about}) for i in ids[done:]]
        if send and self._address and not self._times(send.name):
            return [self._call(send, self._mail(send))]
        known = {tool.name for tool in (search, read, send) if tool}
        named = [t for t in self._prompt.tools if t.name not in known and self._names(t) and not self._times(t.name)]
        return [self._call(tool, self._filled(tool)) for tool in named]

    def _names(self, tool: Tool) -> bool:
        goal = set(text.words(self._goal))
        return tool.name.lower() in self._goal.lower() or set(text.words(tool.name.replace("_", " "))) <= goal

    def _mail(self, tool: Tool) -> dict[str, Any]:
        body = self._brief() if self._sources() else self._message()
        known = {"to": self._address, "subject": self._subject(), "body": body, "text": body}
        properties = tool.schema.get("properties", {})
        return {name: known[name] for name in properties if name in known} | {
            name: self._value(name, properties[name])
            for name in tool.schema.get("required", [])
            if name not in known and name in properties
        }

    def _subject(self) -> str:
        return " ".join(self._task.split())[:90] or "A message"

    def _message(self) -> str:
        quoted = re.search(r"[“\"](.{3,}?)[”\"]", self._goal)
        return quoted.group(1) if quoted else self._goal

    def _speak(self) -> str:
        errors = [content for _, content in self._seen if content.startswith('{"error"')]
        if self._sources():
            return self._brief()
        sent = [call for call, content in self._seen if "mail" in call.name and '"error"' not in content]
        if sent:
            return f"Sent to {sent[0].arguments.get('to')}: {sent[0].arguments.get('subject')}"
        if errors:
            return f"I could not do this: {errors[-1]}"
        if self._seen:
            return f"Nothing was found about {', '.join(self._topic) or self._task}."
        return f"About {', '.join(self._topic[:4]) or 'this'}: {self._task}"

    def _brief(self) -> str:
        about = {word: 3.0 if "." in word else 1.0 for word in self._topic}
        for word in list(about):
            for part in word.split("."):
                about.setdefault(part, 0.5)
        room = int(self._prompt.max_tokens * text.CHARS_PER_TOKEN * _SHARE)
        sources = self._sources()
        listed = [f"[{n}] {s.title} ({s.id})" for n, s in enumerate(sources, start=1)]
        room -= sum(map(len, listed)) + 40
        scored = [
            (text.relevance(sentence, about), -n, -place, sentence)
            for n, source in enumerate(sources, start=1)
            for place, sentence in enumerate(text.sentences(source.body))
        ]
        chosen: list[tuple[int, int, str]] = []
        for _, n, place, sentence in sorted(scored, reverse=True):
            if len(chosen) == 6 or room < len(sentence) + 6:
                break
            room -= len(sentence) + 6
            chosen.append((-n, -place, sentence))
        lines = [f"{sentence} [{n}]" for n, _, sentence in sorted(chosen)]
        body = "\n".join(lines) or "The documents that were read do not answer this."
        return f"{body}\n\nSources:\n" + "\n".join(listed)

    def _hits(self) -> list[_Source]:
        return list(_unique(s for call, content in self._seen if "search" in call.name for s in _results(content)))

    def _sources(self) -> list[_Source]:
        read = [
            s
            for call, content in self._seen
            if any(word in call.name for word in ("fetch", "read", "open"))
            for s in _document(content)
        ]
        return list(_unique(read)) or self._hits()[:_READS]

    def _find(self, *parts: str) -> Tool | None:
        return next((tool for tool in self._prompt.tools for part in parts if part in tool.name.lower()), None)

    def _times(self, name: str) -> int:
        return sum(call.name == name for call in self._made.values())

    def _call(self, tool: Tool, arguments: dict[str, Any]) -> Call:
        basis = json.dumps([tool.name, arguments, len(self._made), self._goal], sort_keys=True)
        return Call(id=blake2b(basis.encode(), digest_size=12).hexdigest(), name=tool.name, arguments=arguments)

    def _filled(self, tool: Tool) -> dict[str, Any]:
        properties = tool.schema.get("properties", {})
        return {name: self._value(name, properties.get(name, {})) for name in tool.schema.get("required", properties)}

    def _value(self, name: str, schema: dict[str, Any]) -> Any:
        """A value that the schema accepts, taken from the task where it has one."""
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            said = set(text.words(self._goal))
            return next((e for e in schema["enum"] if str(e).lower() in said), schema["enum"][0])
        if "default" in schema:
            return schema["default"]
        kind = schema.get("type")
        kind = kind[0] if isinstance(kind, list) else kind
        match kind:
            case "integer" | "number":
                found = re.search(r"\d+(?:\.\d+)?", self._goal)
                value = float(found.group()) if found else float(schema.get("minimum", 1))
                value = min(max(value, schema.get("minimum", value)), schema.get("maximum", value))
                return int(value) if kind == "integer" else value
            case "boolean":
                return True
            case "array":
                return [self._value(name, schema.get("items", {}))] if schema.get("minItems", 1) else []
            case "object":
                inner = schema.get("properties", {})
                return {key: self._value(key, inner.get(key, {})) for key in schema.get("required", inner)}
            case "null":
                return None
            case _:
                return self._words(name, schema)

    def _words(self, name: str, schema: dict[str, Any]) -> str:
        if self._address and ("mail" in name or name in ("to", "recipient")):
            return self._address
        value = " ".join(self._topic) or self._task or name
        return value[: schema.get("maxLength", 200)].ljust(schema.get("minLength", 0), ".")


def _first(tool: Tool, *names: str) -> str:
    """The property to use: one of the names, else the first required one."""
    properties = tool.schema.get("properties", {})
    found = next((name for name in names if name in properties), None)
    return found or next(iter(tool.schema.get("required", properties)), names[0])


def _unique(sources: Iterable[_Source]) -> Iterable[_Source]:
    return {source.id: source for source in sources}.values()


def _parsed(content: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _results(content: str) -> Iterable[_Source]:
    found = _parsed(content)
    results = found.get("results") if isinstance(found, dict) else found
    for hit in results if isinstance(results, list) else []:
        if isinstance(hit, dict) and (identity := hit.get("id") or hit.get("url")):
            body = str(hit.get("snippet") or hit.get("content") or "")
            yield _Source(str(identity), str(hit.get("title") or identity), body)


def _document(content: str) -> Iterable[_Source]:
    found = _parsed(content)
    if isinstance(found, dict) and "error" not in found and (body := found.get("text") or found.get("content")):
        identity = str(found.get("id") or found.get("url") or "document")
        yield _Source(identity, str(found.get("title") or identity), str(body))
