"""What next, and what may still be spent: pure."""

from dataclasses import replace

from fleet import budget, planning
from fleet.contracts.llm import ChatResult, Message, Role, ToolCall, Usage
from fleet.contracts.runs import AgentDefinition, Budget, ToolBinding
from fleet.contracts.tools import TOOLS

AGENT = AgentDefinition(
    name="a",
    instructions="be brief",
    model="openai/m",
    llm_task_queue="llm",
    tools=[
        ToolBinding(spec=TOOLS[n].spec, activity=TOOLS[n].stub.name, task_queue=n, effect=TOOLS[n].effect)
        for n in ("search", "send_email")
    ],
)


def _reply(*calls: ToolCall, content: str = "", finish: str = "stop") -> ChatResult:
    message = Message(role=Role.ASSISTANT, content=content, tool_calls=list(calls))
    return ChatResult(message=message, usage=Usage(), finish_reason=finish)


def test_a_run_opens_with_its_instructions_and_its_goal():
    assert [(m.role, m.content) for m in planning.opening(AGENT, "find out", "ab12")] == [
        (Role.SYSTEM, "be brief"),
        (Role.USER, "find out"),
    ]


def test_an_agent_that_reads_is_told_how_strangers_text_is_fenced():
    reader = replace(AGENT, tools=[replace(AGENT.tools[0], finds=True)])
    system, _ = planning.opening(reader, "find out", "ab12")
    assert '<found id="ab12">' in system.content
    assert planning.marked("text", "ab12") == '<found id="ab12">\ntext\n</found id="ab12">'


def test_an_answer_without_calls_finishes():
    assert planning.decide(AGENT, _reply(content="done")) == planning.Finish(answer="done")


def test_an_answer_that_is_cut_off_or_empty_is_none():
    cut = planning.decide(AGENT, _reply(content="it is beca", finish="length"))
    assert cut == planning.Withheld(reason="the answer was cut off at max_output_tokens (1024): raise it")
    empty = planning.decide(AGENT, _reply(content=" ", finish="content_filter"))
    assert empty == planning.Withheld(reason="the model answered nothing (finish reason 'content_filter')")


def test_calls_are_bound_to_their_tools():
    call = ToolCall(id="1", name="search", arguments={"query": "x"})
    decided = planning.decide(AGENT, _reply(call))
    assert decided == planning.Act(calls=[(call, AGENT.tools[0])], refused=[])


def test_a_tool_the_agent_lacks_is_answered_with_those_it_has():
    call = ToolCall(id="1", name="pay", arguments={})
    decided = planning.decide(AGENT, _reply(call))
    assert isinstance(decided, planning.Act)
    assert decided.calls == []
    assert decided.refused == [(call, "there is no tool 'pay'; there are: search, send_email")]


def test_a_call_without_a_required_argument_is_answered_with_its_name():
    call = ToolCall(id="1", name="send_email", arguments={"to": "a@b.c"})
    decided = planning.decide(AGENT, _reply(call))
    assert isinstance(decided, planning.Act)
    told = (
        "send_email cannot be called so: arguments: 'body' is a required property;"
        " arguments: 'subject' is a required property"
    )
    assert decided.refused == [(call, told)]


def test_the_budget_names_the_part_that_ran_out():
    limits = Budget(steps=2, tokens=100, deadline_s=10)
    spent = budget.Spent().step(Usage(input_tokens=10, output_tokens=5), None)
    assert spent == budget.Spent(steps=1, tokens=15)
    assert budget.exhausted(limits, spent, 9.9) is None
    assert budget.exhausted(limits, spent, 10.0) == "the deadline of 10 s has passed"
    assert budget.exhausted(limits, budget.Spent(steps=2), 0) == "used 2 of 2 steps"
    assert budget.exhausted(limits, budget.Spent(tokens=120), 0) == "used 120 of 100 tokens"
