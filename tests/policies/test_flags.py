"""What counts as a flag in a text, what does not, and what flags ask for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Flag, Objective, Require, RoutingHints, UnknownFlag, apply_flags, extract_flags
from policies.flags import FLAGS, check_flags

SMALLEST = Flag("smallest model")


@pytest.mark.parametrize(
    ("text", "left", "flags"),
    [
        ("What is 2+2? [Flag: Smallest model]", "What is 2+2?", [SMALLEST]),
        ("[Flag: Smallest model] What is 2+2?", "What is 2+2?", [SMALLEST]),
        ("[FLAG: smallest_MODEL]\nWhat?", "What?", [SMALLEST]),
        ("What?\n\n[flag:Smallest  model ]  \n", "What?", [SMALLEST]),
        ("[Flag: Cheapest] What? [Flag: size = 0.3]", "What?", [Flag("cheapest"), Flag("size", "0.3")]),
        ("What? [Flag: latest][Flag: verbosity=low]", "What?", [Flag("latest"), Flag("verbosity", "low")]),
        ("[Flag: latest][Flag: fastest] What?", "What?", [Flag("latest"), Flag("fastest")]),
        ("Add a '5' here. [Flag: latest]", "Add a '5' here.", [Flag("latest")]),
        ('He said "no". Why? [Flag: latest]', 'He said "no". Why?', [Flag("latest")]),
        ("```\ncode\n```\n[Flag: latest]", "```\ncode\n```", [Flag("latest")]),
        ("Use `x`. [Flag: latest]", "Use `x`.", [Flag("latest")]),
        ("  keep   inner\n  space [Flag: latest]", "  keep   inner\n  space", [Flag("latest")]),
        ("[Flag: Smallest model]", "", [SMALLEST]),
        ("What? [Flag: red team]", "What?", [Flag("red team")]),
    ],
)
def test_flags_at_either_end_are_taken_and_the_rest_is_left(text: str, left: str, flags: list[Flag]) -> None:
    taken = extract_flags(text)
    assert (taken.text, list(taken.flags)) == (left, flags)


@pytest.mark.parametrize(
    "text",
    [
        "What does [Flag: Smallest model] mean?",
        '"[Flag: Smallest model] hello" is what he wrote.',
        'Explain: "hello [Flag: Smallest model]"',
        'Explain: "hello\nthere [Flag: Smallest model]',
        '"hello [Flag: Smallest model]',
        "Explain: “hello [Flag: Smallest model]",
        "Expliquez : « bonjour [Flag: Smallest model]",
        "> quoted\n> text [Flag: Smallest model]",
        "> [Flag: Smallest model] quoted",
        "```\n[Flag: Smallest model]\n```",
        "Fix this:\n```python\nx = 1\n[Flag: Smallest model]",
        "Fix this:\n~~~\nx = 1\n```\n[Flag: Smallest model]",
        "Fix this:\n````\n```\n[Flag: Smallest model]",
        "Fix this: `x [Flag: Smallest model]",
        "Fix this:\n\n    x = 1 [Flag: Smallest model]",
        "    [Flag: Smallest model] = x",
        "\t[Flag: Smallest model] = x",
        "`[Flag: Smallest model]` is a flag",
        "[Flag: Smallest model](https://example.org) is a link",
        "See x[Flag: Smallest model]",
        "[Flags: Smallest model] What?",
        "[Flag Smallest model] What?",
        "[Flag: ] What?",
        "[Flag: Smallest\nmodel] What?",
        "Flag: Smallest model",
        "What? [Flag: Smallest model].",
        "What? [[Flag: Smallest model]]",
        "",
        "[",
        "]",
    ],
)
def test_what_is_quoted_fenced_or_in_the_middle_is_text(text: str) -> None:
    taken = extract_flags(text)
    assert taken.text is text
    assert taken.flags == ()


@given(st.text(alphabet=st.sampled_from('[]Flag: =smallet`>"“”\n\t ~'), max_size=60))
def test_any_text_is_taken_apart_once_and_for_all(text: str) -> None:
    taken = extract_flags(text)
    assert extract_flags(taken.text).flags == ()
    assert taken.text in text


@pytest.mark.parametrize(
    ("text", "n_flags"),
    [
        ("[Flag: latest] " * 100 + "x", 16),
        ("x" + " [Flag: latest]" * 100, 16),
        ("[Flag: latest] " + "x " * 150_000, 1),
        ("x " * 150_000 + "[Flag: latest]", 0),
    ],
)
def test_flags_without_end_and_ends_far_away_are_text(text: str, n_flags: int) -> None:
    assert len(extract_flags(text).flags) == n_flags


def test_an_end_that_is_not_the_messages_holds_no_flag() -> None:
    text = "[Flag: latest] x [Flag: fastest]"
    assert extract_flags(text, start=False).flags == (Flag("fastest"),)
    assert extract_flags(text, end=False).flags == (Flag("latest"),)


@pytest.mark.parametrize(
    ("flag", "objective"),
    [
        ("Smallest model", Objective(cost=0.2, first=("smallest",))),
        ("smallest = 0.1", Objective(cost=0.2, first=("smallest",), within=0.1)),
        ("latest", Objective(cost=0.2, first=("latest",))),
        ("cheapest", Objective(cost=0.2, first=("cheapest",))),
        ("fastest", Objective(cost=0.2, first=("fastest",))),
        ("best", Objective()),
        ("cost = 0.5", Objective(cost=0.5)),
        ("latency=high", Objective(cost=0.2, latency=0.3)),
        ("size", Objective(cost=0.2, goals=(("size", 0.1),))),
        ("Recency = .25", Objective(cost=0.2, goals=(("recency", 0.25),))),
        ("security", Objective(cost=0.2, goals=(("security", 0.1),))),
        ("readability=low", Objective(cost=0.2, goals=(("readability", 0.05),))),
        ("verbosity", Objective(cost=0.2, goals=(("brevity", 0.1),))),
        ("verbosity=high", Objective(cost=0.2, goals=(("detail", 0.1),))),
        ("concise", Objective(cost=0.2, goals=(("brevity", 0.1),))),
    ],
)
def test_a_flag_changes_what_it_is_about_and_leaves_the_rest(flag: str, objective: Objective) -> None:
    hints = apply_flags(RoutingHints(objective=Objective(cost=0.2)), [Flag.read(flag)])
    assert hints == RoutingHints(objective=objective)


def test_a_named_security_is_a_label_that_must_be_borne() -> None:
    before = RoutingHints(Require(max_cost_usd=1.0))
    after = apply_flags(before, [Flag.read("Security = eu")])
    assert after.require == Require(labels=frozenset({("security", "eu")}), max_cost_usd=1.0)
    assert after.objective is None


def test_flags_add_up_in_their_order() -> None:
    hints = apply_flags(
        RoutingHints(), [Flag.read(f) for f in ("smallest", "cheapest", "size=0.1", "size=0.2", "smallest")]
    )
    assert hints.objective == Objective(first=("cheapest", "smallest"), goals=(("size", 0.2),))


@pytest.mark.parametrize("flag", ["red team", "best=1", "size=2", "size=big", "smallest=-1", "verbosity=x"])
def test_a_flag_that_cannot_be_followed_is_refused_by_name(flag: str) -> None:
    name = Flag.read(flag).name
    with pytest.raises(UnknownFlag, match=name) as caught:
        apply_flags(RoutingHints(), [Flag.read(flag)])
    assert caught.value.name == name
    assert "\n" not in str(caught.value)
    good, complaints = check_flags([Flag("latest"), Flag.read(flag)])
    assert good == (Flag("latest"),)
    assert len(complaints) == 1


def test_every_flag_is_written_as_the_grammar_has_it() -> None:
    for name in FLAGS:
        assert extract_flags(f"What? [Flag: {name.title()}]").flags == (Flag(name),)
