"""A long conversation becomes shorter and stays one that a provider accepts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import compaction, planning
from fleet.contracts.llm import Message, Role, ToolCall
from fleet.contracts.runs import AgentDefinition, ContextPolicy, ToolBinding
from fleet.contracts.tools import TOOLS

EVERY = [ToolBinding(spec=tool.spec, activity=tool.stub.name, task_queue="q") for tool in TOOLS.values()]
OPENING = [Message(role=Role.SYSTEM, content="be brief"), Message(role=Role.USER, content="find out")]


def turn(number, answer="a" * 100):
    """The model asks for a call, the tool answers."""
    call = ToolCall(id=f"c{number}", name="search", arguments={"query": f"q{number}"})
    return [
        Message(role=Role.ASSISTANT, content=f"turn {number}", tool_calls=[call]),
        Message(role=Role.TOOL, content=answer, tool_call_id=f"c{number}"),
    ]


def talk(turns, **how):
    return [*OPENING, *(message for number in range(turns) for message in turn(number, **how))]


messages = st.lists(
    st.one_of(
        st.integers(0, 9).flatmap(lambda n: st.text(max_size=400).map(lambda text: turn(n, text))),
        st.text(min_size=1, max_size=200).map(lambda text: [Message(role=Role.USER, content=text)]),
        st.text(min_size=1, max_size=200).map(lambda text: [Message(role=Role.ASSISTANT, content=text)]),
    ),
    max_size=30,
).map(lambda parts: [*OPENING, *(message for part in parts for message in part)])
policies = st.builds(ContextPolicy, tokens=st.integers(10, 2000), keep=st.integers(1, 8))


def assert_whole(found):
    """Every answer of a tool follows its call, as providers demand."""
    asked = set()
    for message in found:
        if message.role is Role.TOOL:
            assert message.tool_call_id in asked
        asked |= {call.id for call in message.tool_calls}


@settings(max_examples=50)
@given(policies, messages)
def test_calls_and_answers_stay_together_and_people_are_heard_word_for_word(context, before):
    after = compaction.summed_up(context, before, "notes", fenced=False)
    assert_whole(after)
    assert after[:2] == OPENING

    def people(found):
        return [m for m in found if m.role is Role.USER and not m.content.startswith(compaction.NOTES)]

    assert people(after) == people(before)
    assert sum(m.content.startswith(compaction.NOTES) for m in after) == 1
    # the last turn is never summed up
    turns = [m for m in before if m.role is Role.ASSISTANT]
    assert not turns or turns[-1] in after


@settings(max_examples=50)
@given(policies, messages)
def test_a_summary_by_rule_is_short_and_a_second_one_takes_in_the_first(context, before):
    most = context.tokens / compaction.TOKENS_PER_CHAR / 4
    digest = compaction.digest(context, before)
    assert len(digest) <= most + len("(30 older lines are left out)") + 10
    once = compaction.summed_up(context, before, "FIRST NOTES", fenced=False)
    again = compaction.summed_up(context, [*once, *turn(98), *turn(99)], "second", fenced=False)
    assert "FIRST NOTES" not in "".join(m.content for m in again)


@settings(max_examples=50)
@given(messages, st.integers(100, 20_000))
def test_what_is_too_long_in_all_is_cut_where_it_is_longest(before, most):
    after = compaction.within(before, most)
    assert [(m.role, m.tool_call_id) for m in after] == [(m.role, m.tool_call_id) for m in before]
    assert_whole(after)
    assert compaction.chars(before) > most or after == before
    assert after[0] == before[0]
    answers = [m for m in before if m.role is Role.TOOL]
    if compaction.chars(before) - compaction.chars(answers) + 300 * len(answers) <= most:
        # cutting answers of tools is enough
        assert [m for m in after if m.role is Role.USER] == [m for m in before if m.role is Role.USER]


@given(st.text(max_size=500), st.integers(1, 600))
def test_a_text_that_is_cut_says_how_much_is_left_out(text, most):
    cut = compaction.clipped(text, most)
    if len(text) <= most:
        assert cut == text
    else:
        head, _, tail = cut.partition(f"\n[{len(text) - most} characters left out here]\n")
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) + len(tail) == most


def test_it_is_due_by_what_the_provider_has_counted():
    context = ContextPolicy(tokens=1000, keep=1)
    long = talk(10)
    assert compaction.chars(long) < 1500

    def due(ratio):
        return compaction.due(context, long, compaction.most_chars(context, ratio))

    assert [due(None), due(0.5), due(1.0)] == [False, False, True]
    # one turn that is too long has nothing that could be summed up
    assert not compaction.due(context, talk(1, answer="a" * 10_000), 3000)


def test_a_first_count_that_the_tools_dominate_cuts_nothing():
    agent = AgentDefinition(name="a", instructions="be brief", model="openai/m", llm_task_queue="q", tools=EVERY)
    offered = compaction.offered(agent)
    assert offered > 2000
    counted = compaction.ratio(900, compaction.chars(OPENING) + offered)
    assert 0.1 <= counted <= 0.5
    assert compaction.ratio(10**6, 1) == 2.0


def test_a_fence_stays_around_what_is_cut():
    fenced = planning.marked("a" * 5000, "abc123")
    (cut,) = compaction.within([Message(role=Role.TOOL, content=fenced, tool_call_id="c1")], 1000)
    assert cut.content.startswith('<found id="abc123">\naaa')
    assert cut.content.endswith('aaa\n</found id="abc123">')
    assert len(cut.content) < 1000


def test_what_is_carried_fits_whatever_it_is_written_in():
    wide = [Message(role=Role.TOOL, content="\u8a9e" * 100_000, tool_call_id="c1")]
    assert compaction.octets(wide) > 300_000
    assert compaction.octets(compaction.within(wide, 50_000, compaction.octets)) <= 50_000
    call = ToolCall(id="c", name="search", arguments={"query": "q" * 20_000})
    calls = [Message(role=Role.ASSISTANT, tool_calls=[call]) for _ in range(20)]
    assert compaction.octets(compaction.within(calls, 50_000, compaction.octets)) <= 50_000


def test_whoever_writes_the_notes_is_told_the_goal_and_no_more_than_fits():
    agent = AgentDefinition(name="a", instructions="be brief", model="openai/m", llm_task_queue="q")
    context = ContextPolicy(tokens=2000, keep=1, model="openai/small", max_output_tokens=300)
    asked = compaction.request(agent, context, talk(50, answer="b" * 1000))
    assert (asked.model, asked.role, asked.max_output_tokens) == ("openai/small", "a/compact", 300)
    assert asked.tools == []
    assert "find out" in asked.messages[1].content
    assert "called search(" in asked.messages[1].content
    assert len(asked.messages[1].content) < context.tokens * 3
