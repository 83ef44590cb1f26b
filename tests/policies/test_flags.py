"""What counts as a flag in a text, what does not, and what flags ask for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    Flag,
    Objective,
    Require,
    RoutingHints,
    UnknownFlag,
    apply_flags,
    extract_flags,
    looks_pasted,
)
from policies import flags as flags_module
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
        ("x [Flag: a] [Flag: b] [Flag: c]", "x", [Flag("a"), Flag("b"), Flag("c")]),
        ("[Flag: a] [Flag: b] [Flag: c] x", "x", [Flag("a"), Flag("b"), Flag("c")]),
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


@pytest.mark.parametrize(("n_chars", "read"), [(200_000, True), (200_001, False)])
def test_the_end_of_a_text_is_read_up_to_a_length(n_chars: int, read: bool) -> None:
    flag = " [Flag: latest]"
    text = "x" * (n_chars - len(flag)) + flag + "   "
    assert bool(extract_flags(text).flags) is read


@pytest.mark.parametrize(("n_chars", "read"), [(120, True), (121, False)])
def test_a_flag_at_the_end_has_a_greatest_length(n_chars: int, read: bool) -> None:
    flag = f"[Flag: {'latest]':>{n_chars - 7}}"
    assert len(flag) == n_chars
    assert bool(extract_flags(f"What? {flag}").flags) is read


@pytest.mark.parametrize(
    ("text", "n_flags"),
    [
        ("   \t[Flag: latest] x", 0),
        ("   [Flag: latest] x", 1),
        ("\n\n    [Flag: latest] x", 0),
        ("x\n   \ty [Flag: latest]", 0),
        ("x\n   y [Flag: latest]", 1),
        ("x\n    y\n\nz [Flag: latest]", 1),
        ("x\n   > y [Flag: latest]", 0),
        ("> x\ny [Flag: latest]", 1),
        ("```\nx\n````\n[Flag: latest]", 1),
        ("```\nx\n~~~~\n[Flag: latest]", 0),
        ("```\nx\n```\n```\ny\n[Flag: latest]", 0),
        ('"x"\n\n"y [Flag: latest]', 0),
        ('"x\n\ny [Flag: latest]', 1),
        ("“x” [Flag: latest]", 1),
        ("«x» «y [Flag: latest]", 0),
        ("`x` `y [Flag: latest]", 0),
        ("`x [Flag: latest]\ny` [Flag: fastest]", 0),
    ],
)
def test_code_and_quotations_begin_and_end_as_in_commonmark(text: str, n_flags: int) -> None:
    assert len(extract_flags(text).flags) == n_flags


@pytest.mark.parametrize("n", [16, 17])
@pytest.mark.parametrize("text", ["{} x", "x {}"])
def test_sixteen_flags_are_read_at_either_end_and_what_follows_is_text(text: str, n: int) -> None:
    taken = extract_flags(text.format(" ".join(["[Flag: latest]"] * n)))
    assert len(taken.flags) == 16
    assert ("[" in taken.text) is (n > 16)


@pytest.mark.parametrize(
    ("written", "weight"),
    [
        ("size", 0.1),
        ("size=low", 0.05),
        ("size=Medium", 0.1),
        ("size=high", 0.3),
        ("size=0", 0.0),
        ("size=1", 1.0),
    ],
)
def test_a_weight_is_a_word_or_a_number_from_0_to_1(written: str, weight: float) -> None:
    hints = apply_flags(RoutingHints(), [Flag.read(written)])
    assert hints.objective == Objective(goals=(("size", weight),))


WEIGHT_ERROR = "takes a number from 0 to 1: a weight, or low, medium, high"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("size=1.01", f"the flag 'size' {WEIGHT_ERROR}"),
        ("cost=big", f"the flag 'cost' {WEIGHT_ERROR}"),
        (
            "latest=2",
            "the flag 'latest' takes a number from 0 to 1: how far from the best quality is near enough",
        ),
        ("best=1", "the flag 'best' takes no value"),
        ("verbosity=medium", "the flag 'verbosity' takes low or high"),
        ("fastr", f"there is no flag 'fastr'; there are: {', '.join(FLAGS)}"),
    ],
)
def test_the_error_for_a_flag_names_it_and_what_it_takes(written: str, message: str) -> None:
    valid, complaints = check_flags([Flag.read(written), Flag("latest")])
    assert (valid, complaints) == ((Flag("latest"),), [message])


def test_all_flags_that_are_valid_have_no_complaints() -> None:
    assert check_flags([Flag("latest"), Flag("size", "0.2")]) == ((Flag("latest"), Flag("size", "0.2")), [])


@pytest.mark.parametrize("value", ["low", "LOW", ""])
def test_low_verbosity_asks_for_brevity(value: str) -> None:
    hints = apply_flags(RoutingHints(), [Flag("verbosity", value)])
    assert hints.objective == Objective(goals=(("brevity", 0.1),))


@pytest.mark.parametrize("value", ["0.2", ".2", "HIGH", "low"])
def test_security_with_a_weight_is_a_goal_and_not_a_label(value: str) -> None:
    hints = apply_flags(RoutingHints(), [Flag("security", value)])
    assert hints.require == Require()
    assert hints.objective is not None
    assert [goal for goal, _ in hints.objective.goals] == ["security"]


def test_detailed_asks_for_detail() -> None:
    assert apply_flags(RoutingHints(), [Flag("detailed")]).objective == Objective(goals=(("detail", 0.1),))


def test_a_flag_on_cost_replaces_targets() -> None:
    hints = RoutingHints(objective=Objective(max_usd_per_1k=5.0, target_quality=0.8, latency=0.2))
    assert apply_flags(hints, [Flag("cost", "0.3")]).objective == Objective(cost=0.3, latency=0.2)


def test_a_flag_on_latency_leaves_targets() -> None:
    hints = RoutingHints(objective=Objective(target_quality=0.8))
    assert apply_flags(hints, [Flag("latency")]).objective == Objective(latency=0.1, target_quality=0.8)


def test_a_flag_without_a_distance_leaves_that_of_the_objective() -> None:
    hints = RoutingHints(objective=Objective(within=0.3))
    assert apply_flags(hints, [Flag("latest")]).objective == Objective(first=("latest",), within=0.3)


def test_without_flags_hints_stay_as_they_are() -> None:
    hints = RoutingHints()
    assert apply_flags(hints, []) is hints


@pytest.mark.parametrize(
    "before",
    [
        "Summarise this mail:\n\nDear Bob,\nall is well.",
        "Fasse zusammen：\nLieber Bob",
        "Translate.\n\n---\nGuten Tag",
        "-----Original Message-----\nHi",
        "Answer it\n\nFrom: bob@example.org\nSubject: Hi\n\nHi there",
        "Read <notes>\n<notes>\nbuy milk",
        'Explain """\nhe said\n\nso',
        "> he wrote\nand went on",
        "Fix this:\n```\ncode\n```\nand this:\nx = 1",
        "word " * 900,
    ],
)
def test_what_is_long_or_introduced_looks_pasted(before: str) -> None:
    assert looks_pasted(before)
    # The flags themselves are found: whether they count is for the caller to say.
    assert extract_flags(f"{before}\n\n[Flag: latest]").flags == (Flag("latest"),)


@pytest.mark.parametrize(
    "before",
    [
        "What is 2+2?",
        "Translate this: Guten Tag",
        "Fix this:\n```\ncode\n```\nThank you.",
        "---\npasted\n---\nWhat is that?",
        "<notes>\nbuy milk\n</notes>\nWhat do I buy?",
        "> he wrote\n\nIs that so?",
        "Name three:",
        "Write an essay.\n\nAbout horses.",
        "word " * 700,
        "",
    ],
)
def test_what_is_typed_does_not_look_pasted(before: str) -> None:
    assert not looks_pasted(before)


@pytest.mark.parametrize(
    ("text", "n_flags"),
    [
        ("„x“ [Flag: latest]", 1),
        ("Übersetze: „x [Flag: latest]", 0),
        ("Übersetze: „x” [Flag: latest]", 1),
        ("Traduisez ‹x [Flag: latest]", 0),
        ("翻訳:「x [Flag: latest]", 0),
        ("翻訳:「x」 [Flag: latest]", 1),
        ("<blockquote>x [Flag: latest]", 0),
        ("<BLOCKQUOTE>x</BLOCKQUOTE> [Flag: latest]", 1),
        ("Use <code>x [Flag: latest]", 0),
    ],
)
def test_quotations_of_other_languages_and_of_html_hold_no_flags(text: str, n_flags: int) -> None:
    assert len(extract_flags(text).flags) == n_flags


@pytest.mark.parametrize("n_flags", [1, 16])
def test_the_text_before_is_read_once_however_many_flags_end_it(
    monkeypatch: pytest.MonkeyPatch, n_flags: int
) -> None:
    read: list[int] = []

    def count(text: str) -> bool:
        read.append(len(text))
        return False

    for name in ("_is_in_fence", "_is_in_quotation", "_is_code_line"):
        monkeypatch.setattr(flags_module, name, count)
    text = "```\nx\n```\n" * 10_000
    assert len(extract_flags(text + " [Flag: latest]" * n_flags).flags) == n_flags
    assert sum(read) <= 2 * len(text) + 10


PIECES = (
    "[Flag: latest]",
    "[flag:size = 0.2]",
    "x",
    " ",
    "\n",
    "\n\n",
    "    ",
    "`",
    '"',
    "„",
    "“",
    "```\n",
    "> ",
)


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_flags_are_taken_as_they_are_one_by_one(pieces: list[str]) -> None:
    """The flags of a text are those that are found when the last one is taken away again and again."""
    text = "".join(pieces)
    taken = extract_flags(text, start=False)
    rest, one_by_one = text, list[Flag]()
    while len(one_by_one) < 16:
        found = flags_module._AT_END.search(rest)
        if found is None or not extract_flags(f"{rest[: found.start()]}[Flag: latest]", start=False).n_last:
            break
        one_by_one.insert(0, Flag.of(found[1], found[2] or ""))
        rest = rest[: found.start()].rstrip()
    assert list(taken.flags) == one_by_one
