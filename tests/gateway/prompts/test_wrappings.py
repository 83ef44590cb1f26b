"""A user's words come out of what programs put around them, and what users mark up themselves stays."""

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prompts.lists import normalize_name, read_lists
from gateway.prompts.wrappings import MAX_CHARS, WrappingGrammar

GRAMMAR = WrappingGrammar()
ASK = "Why does iron rust?\n\nAnswer in two sentences."


def clean(text: str) -> str:
    return GRAMMAR.clean(text).text


@pytest.mark.parametrize("tag", sorted(read_lists().context | read_lists().instructions))
@pytest.mark.parametrize("form", ["before", "after", "upper", "camel", "attributes"])
def test_a_listed_element_is_left_out_in_any_form(tag: str, form: str) -> None:
    name, attributes = tag, ""
    if form == "upper":
        name = tag.upper().replace("-", "_")
    elif form == "camel":
        first, *rest = tag.split("-")
        name = first + "".join(map(str.title, rest))
    elif form == "attributes":
        attributes = ' path="src/a.py" n=3'
    element = f"<{name}{attributes}>\nbe <b>quiet</b>\n</{name}>"
    assert clean(f"{ASK}\n{element}\n" if form == "after" else f"{element}\n{ASK}") == ASK


@pytest.mark.parametrize("tag", sorted(read_lists().request))
def test_an_element_that_holds_the_request_is_opened(tag: str) -> None:
    name = tag.replace("-", "_")
    outside = "<open_tabs>\na.py\n</open_tabs>"
    assert clean(f"{outside}\n<{name}>\n{ASK}\n</{name}>\n{outside}") == ASK
    assert clean(f"<{name}>{ASK}</{name}>") == ASK
    assert clean(f"<{name}>\n{ASK}") == ASK


@pytest.mark.parametrize(
    "tag",
    ["workspace_snapshot", "sessionDigest", "ide-state", "AVAILABLE_SKILLS", "user_memories", "lint_errors"],
)
def test_a_name_that_is_in_no_list_is_recognised_by_its_words(tag: str) -> None:
    assert clean(f"<{tag}>\nall green\n</{tag}>\n\n{ASK}") == ASK
    assert clean(f"{ASK}\n\n<{tag} level='2'>all green</{tag}>") == ASK


def test_an_unknown_name_is_a_wrapping_where_it_stands_as_a_block() -> None:
    assert clean(f"<zebra_crossing>\nall green\n</zebra_crossing>\n\n{ASK}") == ASK
    inline = f"Use <zebra_crossing>this</zebra_crossing> word. {ASK}"
    assert clean(inline) == inline


@pytest.mark.parametrize(
    "text",
    [
        f"<system-reminder>outer <system-reminder>inner</system-reminder> rest</system-reminder>\n{ASK}",
        f"<system-reminder>\nThe branch is main.\n\n{ASK}",
        f"{ASK}\n\n<environment_details>\n# Open files\n\na.py",
        f"<context>\n<user_query>not this one</user_query>\n</context>\n<user_query>{ASK}</user_query>",
        f"<user_query><open_files>a.py</open_files>\n{ASK}</user_query>",
        f"# AGENTS.md instructions for /srv/app\n\n<INSTRUCTIONS>\nRun it.\n</INSTRUCTIONS>\n\n{ASK}",
        f"<permissions instructions>\nread only\n</permissions instructions>\n{ASK}",
        f"<collaboration_mode># Plan first</collaboration_mode>\n{ASK}",
        f'<open_file path="a.py"/>\n{ASK}',
        f"[Request interrupted by user for tool use]\n{ASK}",
        f"SessionStart hook: 12 plugins loaded.\n{ASK}",
        f"# Context from my IDE setup:\n\n## Open tabs:\n- a.py\n\n## My request for Codex:\n{ASK}",
        f"Context:\nIron is a metal.\n\nQuestion: {ASK}\nAnswer:",
        f"Use the following pieces of context.\n\nIron is a metal.\n\nQuestion: {ASK}\nHelpful Answer:",
        f"Context information is below.\n-----\nIron.\n-----\nAnswer the query.\nQuery: {ASK}\nAnswer: ",
        f"## Context\nIron is a metal.\n\n## Question\n{ASK}\n\n## Output rules\nBe brief.",
        f"[CONTEXT]\nIron.\n[/CONTEXT]\n{ASK}",
        f"--- BEGIN CONTEXT ---\nIron.\n--- END CONTEXT ---\n{ASK}",
        f"<documents><document>Iron.</document></documents>\n<question>{ASK}</question>",
        "This session is being continued from a previous conversation that ran out of context. "
        f"It is summarized below:\nAnalysis: all done.\n\nSummary:\n1. Tests.\n\n{ASK}",
        f"I have *added these files to the chat*.\n\na.py\n```\nx = 1\n```\n\n{ASK}",
        f"```python src/a.py (1-20)\nx = 1\n```\n{ASK}",
    ],
)
def test_templates_and_blocks_of_programs_are_left_out(text: str) -> None:
    assert clean(text) == ASK


@pytest.mark.parametrize(
    "text",
    [
        "What does <system-reminder> mean in a prompt?",
        "What does `<system-reminder>x</system-reminder>` do?",
        "Fix this HTML:\n<div class='context'>\n<p>Hi</p>\n</div>",
        "Why is this XML invalid?\n<user_info>\n<name>Bo</nam>\n</user_info>",
        "Convert this to JSON:\n<user_info>\n<name>Bo</name>\n</user_info>",
        "Summarize the following document.\n<document>\nIron rusts.\n</document>",
        "Translate the following context.\n<context>\nIron rusts.\n</context>",
        "<instructions>Summarize the text.</instructions>\n<text>Iron rusts.</text>",
        "Why does my component not render?\n<UserStatus name={x}>\n<FileList/>\n</UserStatus>",
        "What is a Map<UserInfo, FileState> in Java?",
        "```xml\n<system-reminder>a</system-reminder>\n```\nWhat is wrong here?",
        "Q: Context: a man walks. Question: where to?",
        "Choose.\n[1, 2, 3]\n[a, b]",
        "[Flag: Smallest mode: nonsense]\nHi there",
        "a desert environment has low",
        " a  b ",
        "1 < 2 > 0",
        "",
    ],
)
def test_what_users_write_themselves_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "<system-reminder>The list is empty.</system-reminder>",
        "<environment_details>\na\n</environment_details>\n<open_tabs>b</open_tabs>",
        "[execute_command for 'ls -la'] Result:\ntotal 0",
        "EXECUTION RESULT of [run]:\n1",
        "OBSERVATION:\n4 files",
    ],
)
def test_a_turn_of_wrappings_alone_asks_nothing(text: str) -> None:
    assert clean(text) == ""


def test_several_elements_of_one_line_are_all_left_out() -> None:
    reminder = "<system-reminder>a</system-reminder>"
    assert clean(f"{reminder}One<bash-stdout x='1'>b</bash-stdout> two{reminder}") == "One two"


def test_the_parts_of_a_message_are_read_together() -> None:
    assert GRAMMAR.join(["one", "two"]).text == "one\ntwo"
    assert GRAMMAR.join(["<attachments>", "a.py", "</attachments>", ASK]).text == ASK
    assert GRAMMAR.join(["<system-reminder>\nnever closed", ASK]).text == ASK
    assert GRAMMAR.join(["OBSERVATION:\n4 files", ASK]).text == ASK


def test_instructions_that_are_left_out_are_remembered() -> None:
    assert GRAMMAR.clean(f"<user_rules>Rhyme.</user_rules>\n{ASK}").asks_more
    assert GRAMMAR.clean(f"Translate this.\n<user_query>{ASK}</user_query>").asks_more
    assert not GRAMMAR.clean(f"<system-reminder>x</system-reminder>\n{ASK}").asks_more
    assert not GRAMMAR.clean(ASK).asks_more


@pytest.mark.parametrize(
    "raw", ["userQuery", "user_query", "USER_QUERY", "user-query", "User Query", "user.query"]
)
def test_a_name_is_one_in_all_its_spellings(raw: str) -> None:
    assert normalize_name(raw) == "user-query"


HOSTILE = [
    "".join(f"<{tag}>" for tag in sorted(read_lists().context)),
    "</system-reminder>",
    "<a ",
    "<system-reminder " + "x" * 300,
    "\n<system-reminder>\n\n",
    "```\n",
    "[[",
    "\n[note: hook",
    "\n--- BEGIN a",
    "\nContext:\nQuestion:",
    "This session is being continued from a previous conversation\n\n",
    "hook:",
    "\n# # #",
    "=" * 40,
    "\n" + " " * 40,
    "<user_query><task>",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_cleaning_takes_linear_time_on_hostile_text(piece: str) -> None:
    text = piece * (MAX_CHARS // len(piece))
    start = perf_counter()
    clean(text)
    # Measured: under half a second. A quadratic step would take minutes.
    assert perf_counter() - start < 5


PIECES = [*HOSTILE, ASK, "<user_query>", "</user_query>", "<context>", "</context>", "\n"]


@given(st.lists(st.sampled_from(PIECES)))
def test_whatever_stands_together_no_word_is_made_up(pieces: list[str]) -> None:
    text = "".join(pieces)
    left = iter(text)
    assert all(letter in left for letter in clean(text) if not letter.isspace())


def test_of_a_turn_beyond_measure_the_ends_are_read() -> None:
    filler = "iron rusts " * (MAX_CHARS // 8)
    assert clean(f"First words. {filler} Last words.") == f"First words. {filler} Last words."
    found = clean(f"<system-reminder>x</system-reminder>First words. {filler}Last words.")
    assert (found[:12], found[-11:], len(found) < MAX_CHARS) == ("First words.", "Last words.", True)
