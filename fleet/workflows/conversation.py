"""The conversation of a run with its model: what was said, and how it stays short enough."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from fleet import compaction, planning
from fleet.contracts.llm import ChatRequest, ChatResult, Message, Role, ToolCall, Usage
from fleet.contracts.runs import ContextPolicy, Price, RunInput, ToolBinding
from fleet.contracts.tools import ToolResult

Ask = Callable[[ChatRequest], Awaitable[ChatResult]]
"""Calls a model."""


class Conversation:
    """What the model has been told and has said."""

    def __init__(self, run: RunInput, mark: str) -> None:
        """Args:
        run: whose conversation.
        mark: drawn for the run: what strangers' text is fenced with.
        """
        carried = run.carried
        self._agent = run.agent
        self.mark = mark
        self.messages: list[Message] = carried.messages if carried else planning.opening(run.agent, run.goal, mark)
        self.told: list[str] = list(carried.told) if carried else []
        """Said to the run, and not yet heard."""
        self.found = carried.found if carried else False
        """Strangers' text was read."""
        self.tokens_per_char = carried.tokens_per_char if carried else None
        self._offered = compaction.offered(run.agent)

    def recall(self, remembered: str) -> None:
        """Begin with what earlier runs have remembered."""
        self.found = True
        block = planning.marked(remembered, self.mark, tag="remembered")
        self.messages.append(Message(role=Role.USER, content=f"From earlier runs:\n{block}"))

    def listen(self) -> None:
        """Hear what was said to the run."""
        self.messages += [Message(role=Role.USER, content=message) for message in self.told]
        self.told.clear()

    def request(self) -> ChatRequest:
        """The next call of the model."""
        return planning.request(self._agent, self.messages)

    def answered(self, reply: ChatResult) -> None:
        """The model has answered the last request."""
        asked = compaction.chars(self.messages) + self._offered
        if reply.usage.input_tokens:
            self.tokens_per_char = compaction.ratio(reply.usage.input_tokens, asked)
        self.messages.append(reply.message)

    def observe(self, call: ToolCall, tool: ToolBinding, result: ToolResult) -> None:
        """A tool has answered."""
        content = result.content
        if self._agent.context is not None:
            content = compaction.clipped(content, self._agent.context.result_chars)
        if tool.finds:
            # an error too may repeat what a stranger has written
            content = planning.marked(content, self.mark)
            self.found = True
        self.messages.append(planning.observation(call, content))

    def refuse(self, call: ToolCall, reason: str) -> None:
        """A call cannot be made."""
        self.messages.append(planning.observation(call, planning.refusal(reason)))

    async def compact(self, ask: Ask, spend: Callable[[Usage, Price | None], None]) -> bool:
        """Make it shorter, if it is too long: older turns become a summary by a model, or else by rule.

        Answers whether a model was asked.

        Args:
            ask: calls a model.
            spend: takes note of what that has used.

        Raises:
            ActivityError: the run was cancelled meanwhile.
            Exception: whatever `ask` raises to end the run.
        """
        context = self._agent.context
        if context is None:
            return False
        most = compaction.most_chars(context, self.tokens_per_char, self._offered)
        due = compaction.due(context, self.messages, most)
        if due:
            # the mark is a secret between the run and its model: what is quoted must not close a fence
            summary = planning.unmarked(await self._summary(context, ask, spend), self.mark)
            if self.found:
                summary = planning.marked(summary, self.mark)
            self.messages = compaction.summed_up(context, self.messages, summary, fenced=self.found)
        self.messages = compaction.within(self.messages, most)
        return due

    async def _summary(self, context: ContextPolicy, ask: Ask, spend: Callable[[Usage, Price | None], None]) -> str:
        request = compaction.request(self._agent, context, self.messages)
        unmarked = [replace(m, content=planning.unmarked(m.content, self.mark)) for m in request.messages]
        try:
            reply = await ask(replace(request, messages=unmarked))
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the conversation is summed up without a model: %s", error.cause)
            return compaction.digest(context, self.messages)
        spend(reply.usage, context.price if context.model else self._agent.price)
        if not reply.message.content.strip():
            return compaction.digest(context, self.messages)
        cut = "\n(these notes were cut off here)" if reply.finish_reason == "length" else ""
        return reply.message.content + cut

    def described(self) -> str:
        """How long it is, in words."""
        return f"{len(self.messages)} messages of {compaction.chars(self.messages)} characters"

    def last_words(self) -> str:
        """What the model has said last."""
        return next((m.content for m in reversed(self.messages) if m.content and m.role == "assistant"), "")
