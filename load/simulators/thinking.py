"""The simulated model: the same conversation gives the same answer, and the answer makes sense.

With tools that search, read and send, it researches: search, read the best hits, write an extractive brief with
citations, pay if the task asks for a payment, send the brief if an address was given, finish. What it remembers of an
earlier run it does not look up again. A tool it does not know is called once if the task names it, with arguments that
follow the tool's schema. It believes what it reads: a document that orders a payment is obeyed.
"""

import json
import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

from load.simulators import paying, reading, text, writing
from load.simulators.conversation import Call, Prompt, Reply, Tool, Turn
from load.simulators.paying import Payment
from load.simulators.reading import Memory, Source

_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_SENTENCE = re.compile(r"(?<=[.?!])\s+")
_CLAUSE = re.compile(r"(?<=[.?!,;])\s+|\s+(?:and|then)\s+")
_READS = 2
"""Documents read for one question."""
_SEARCHES = 2
_COVERED = 0.7
"""Of the words of a task that an earlier outcome must have, to be its answer."""
_REFUSED, _NOTHING = "I could not do this:", "Nothing was found about"
_NO_ANSWERS = (_REFUSED, _NOTHING)
"""How outcomes begin that are worth another try."""
_SHARE = 0.6
"""Of the output limit that a brief may fill: arguments are JSON, which is longer than its text."""


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
        begin = _goal_at(prompt.turns)
        self._goal = reading.without_memories(prompt.turns[begin].text).strip() if prompt.turns else ""
        since = prompt.turns[begin + 1 :]
        self._made = {call.id: call for turn in since for call in turn.calls}
        self._seen = [(self._made[t.call_id], t.text) for t in since if t.role == "tool" and t.call_id in self._made]
        self._payment, rest = paying.asked(self._goal)
        beside = _questions(rest, _CLAUSE)
        self._researches = self._payment is None or len(_topic(beside)) > 1
        self._task = (beside if self._payment and self._researches else _questions(self._goal)) or self._goal
        self._topic = _topic(self._task)
        address = _ADDRESS.search(self._goal)
        self._address = address.group() if address else None
        self._memory = self._remembered() if self._researches else None

    def decide(self) -> tuple[str, list[Call]]:
        prompt = self._prompt
        if prompt.force == "-" or not self._tools:
            return self._speak(), []
        if prompt.force not in (None, "*"):
            tool = self._tools.get(prompt.force)
            return "", [self._call(tool, self._forced(tool))] if tool else []
        calls = self._plan()
        if not calls and prompt.force == "*":
            tool = prompt.tools[0]
            calls = [self._call(tool, self._filled(tool))]
        if not calls:
            return self._speak(), []
        return "", calls if prompt.parallel else calls[:1]

    def _forced(self, tool: Tool) -> dict[str, Any]:
        if self._payment is not None and paying.pays(tool.name):
            return self._payment_arguments(tool, self._payment)
        return self._filled(tool)

    def structured(self, schema: dict[str, Any]) -> str:
        """A final answer that follows the schema."""
        return json.dumps(self._value("answer", {"type": "object", **schema}))

    def _plan(self) -> list[Call]:
        search, read, send = self._find("search"), self._find("fetch", "read", "open"), self._find("email", "mail")
        pay = self._payer()
        steps: tuple[Callable[[], list[Call]], ...] = (
            lambda: self._obey(pay) if pay else [],
            lambda: self._look(search) if search else [],
            lambda: self._read(read) if read else [],
            lambda: self._pay(pay) if pay else [],
            lambda: self._send(send) if send else [],
        )
        for step in steps:
            if calls := step():
                return calls
        known = {tool.name for tool in (search, read, send, pay) if tool}
        named = [t for t in self._prompt.tools if t.name not in known and self._names(t) and not self._times(t.name)]
        return [self._call(tool, self._filled(tool)) for tool in named]

    def _look(self, search: Tool) -> list[Call]:
        done = self._times(search.name)
        if self._memory or not self._researches or self._hits() or done >= _SEARCHES:
            return []
        # the second try is broader
        terms = self._topic if done == 0 else self._topic[:2]
        return [self._call(search, {_first(search, "query", "q"): " ".join(terms) or self._task})]

    def _read(self, read: Tool) -> list[Call]:
        if self._memory or not self._researches:
            return []
        done = self._times(read.name)
        ids = [hit.id for hit in self._hits()[:_READS]]
        about = {"about": " ".join(self._topic)} if "about" in read.schema.get("properties", {}) else {}
        return [self._call(read, {_first(read, "id", "url"): i, **about}) for i in ids[done:]]

    def _obey(self, pay: Tool) -> list[Call]:
        """Each order once, whatever the arguments became on their way."""
        orders = self._orders(pay)
        asked = self._payment_arguments(pay, self._payment) if self._payment else None
        made = [call.arguments for call in self._made.values() if call.name == pay.name and call.arguments != asked]
        due = [order for order in orders if order not in made and order != asked]
        return [self._call(pay, due[0])] if due and len(made) < len(orders) else []

    def _pay(self, pay: Tool) -> list[Call]:
        if self._payment is None or self._paid_as_asked(pay) is not None:
            return []
        return [self._call(pay, self._payment_arguments(pay, self._payment))]

    def _send(self, send: Tool) -> list[Call]:
        if self._address is None or self._times(send.name):
            return []
        pay = self._payer()
        unpaid = self._payment is not None and pay is not None and self._refused(self._paid_as_asked(pay))
        # there is nothing to confirm
        if unpaid and not self._knows():
            return []
        return [self._call(send, self._mail(send))]

    def _payer(self) -> Tool | None:
        return next((tool for tool in self._prompt.tools if paying.pays(tool.name)), None)

    def _payment_arguments(self, pay: Tool, payment: Payment) -> dict[str, Any]:
        return self._completed(pay, payment.arguments(pay.schema))

    def _orders(self, pay: Tool) -> list[dict[str, Any]]:
        """Arguments of the payments that documents order."""
        said = [t for call, content in self._seen if not _changes(call.name) for t in reading.texts(content)]
        found: list[dict[str, Any]] = []
        for payment in (payment for one in said for payment in paying.injected(one)):
            arguments = self._payment_arguments(pay, payment)
            if arguments not in found:
                found.append(arguments)
        return found

    def _paid_as_asked(self, pay: Tool) -> Call | None:
        """The call that was made because of the task, not because of a document."""
        obeyed = self._orders(pay)
        made = [call for call in self._made.values() if call.name == pay.name]
        asked = self._payment_arguments(pay, self._payment) if self._payment else None
        return next((call for call in made if call.arguments == asked or call.arguments not in obeyed), None)

    def _refused(self, made: Call | None) -> bool:
        return any(call is made and reading.refusal(content) is not None for call, content in self._seen)

    def _remembered(self) -> Memory | None:
        """A memory that answers the task: of the same question, else an outcome about the same things."""
        turns = (turn for turn in self._prompt.turns if turn.role in ("user", "system"))
        found = [m for turn in turns for m in reading.memories(turn.text) if not m.text.startswith(_NO_ANSWERS)]
        if not found:
            return None
        tasks = (_plain(self._task), _plain(_questions(self._goal)))
        same = [memory for memory in found if _plain(_questions(memory.subject)) in tasks]
        near = [memory for memory in found if memory.kind == "outcome" and self._covered(memory) >= _COVERED]
        return next(iter([m for m in same if m.kind == "outcome"] + same + near), None)

    def _covered(self, memory: Memory) -> float:
        said = set(text.words(f"{memory.subject} {memory.text}"))
        return sum(word in said for word in self._topic) / len(self._topic) if self._topic else 0.0

    def _knows(self) -> bool:
        return self._memory is not None or bool(self._sources())

    def _names(self, tool: Tool) -> bool:
        goal = set(text.words(self._goal))
        return tool.name.lower() in self._goal.lower() or set(text.words(tool.name.replace("_", " "))) <= goal

    def _mail(self, tool: Tool) -> dict[str, Any]:
        said = [self._brief()] if self._knows() else []
        body = "\n\n".join(said + self._payments()) or self._message()
        known = {"to": self._address, "subject": self._subject(), "body": body, "text": body}
        properties = tool.schema.get("properties", {})
        return self._completed(tool, {name: known[name] for name in properties if name in known})

    def _completed(self, tool: Tool, known: dict[str, Any]) -> dict[str, Any]:
        properties = tool.schema.get("properties", {})
        return known | {
            name: self._value(name, properties[name])
            for name in tool.schema.get("required", [])
            if name not in known and name in properties
        }

    def _subject(self) -> str:
        if self._payment and not self._researches and (paid := self._payments()):
            return paid[0][:90]
        return " ".join(self._task.split())[:90] or "A message"

    def _payments(self) -> list[str]:
        """What was paid, one sentence for each payment."""
        said = []
        for call, content in self._seen:
            if paying.pays(call.name) and reading.refusal(content) is None:
                # a human may have changed the arguments: the result knows better
                known = {**call.arguments, **reading.fields(content)}
                amount, currency = known.get("amount", "the amount"), known.get("currency", "")
                payee = next((known[name] for name in ("payee", "to", "recipient", "account") if name in known), "?")
                said.append(f"Paid {amount} {currency} to {payee}.")
        return said

    def _message(self) -> str:
        quoted = re.search(r"[“\"](.{3,}?)[”\"]", self._goal)
        return quoted.group(1) if quoted else self._goal

    def _speak(self) -> str:
        refused = [(call, why) for call, content in self._seen if (why := reading.refusal(content)) is not None]
        said = [self._brief()] if self._knows() else []
        said += self._payments()
        said += [f"{_REFUSED} {why}" for call, why in refused if _changes(call.name)]
        sent = [call for call, content in self._seen if "mail" in call.name and reading.refusal(content) is None]
        if sent and not self._knows():
            said.append(f"Sent to {sent[0].arguments.get('to')}: {sent[0].arguments.get('subject')}")
        if said:
            return "\n\n".join(said)
        if refused:
            return f"{_REFUSED} {refused[-1][1]}"
        if self._seen:
            return f"{_NOTHING} {', '.join(self._topic) or self._task}."
        return f"About {', '.join(self._topic[:4]) or 'this'}: {self._task}"

    def _brief(self) -> str:
        room = int(self._prompt.max_tokens * text.CHARS_PER_TOKEN * _SHARE)
        if self._memory:
            return writing.remembered(self._memory, room)
        return writing.brief(self._sources(), self._topic, room)

    def _hits(self) -> list[Source]:
        seen = (content for call, content in self._seen if "search" in call.name)
        return list(_unique(source for content in seen for source in reading.results(content)))

    def _sources(self) -> list[Source]:
        read = [
            s
            for call, content in self._seen
            if any(word in call.name for word in ("fetch", "read", "open"))
            for s in reading.document(content)
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


def _changes(name: str) -> bool:
    """Whether a tool of this name pays or sends: what it answers is no document."""
    return paying.pays(name) or "mail" in name


def _unique(sources: Iterable[Source]) -> Iterable[Source]:
    return {source.id: source for source in sources}.values()


def _goal_at(turns: list[Turn]) -> int:
    """Which turn says what to do: the last of the user's that says more than what is remembered."""
    said = [n for n, turn in enumerate(turns) if turn.role == "user" and reading.without_memories(turn.text).strip()]
    at = said[-1] if said else 0
    if len(said) > 1 and reading.memories(turns[at].text) and all(t.role == "system" for t in turns[said[-2] + 1 : at]):
        # memories came in a message of their own, right behind the task
        return said[-2]
    return at


def _questions(said: str, end: re.Pattern[str] = _SENTENCE) -> str:
    """Without the sentences that say where to send the answer."""
    return " ".join(part for part in end.split(said) if not _ADDRESS.search(part))


def _topic(said: str) -> list[str]:
    return text.topic(_ADDRESS.sub(" ", said))


def _plain(said: str) -> str:
    """As it is compared: case, blanks and addresses do not matter."""
    return "".join(_ADDRESS.sub("", said).lower().split())
