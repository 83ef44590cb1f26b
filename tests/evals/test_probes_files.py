"""A user's own probes, and the split into families."""

import json
from pathlib import Path

import pytest

from evals.probes import Probe, ProbeError, choose_held_out_families, load_probes

GOOD = {
    "id": "a",
    "kind": "facts",
    "family": "facts/x",
    "prompt": "Capital of Peru?",
    "grader": "text",
    "expected": {"accept": ["Lima"]},
}


def write_lines(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "probes.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_file_of_ones_own_is_loaded_in_order_with_defaults(tmp_path: Path) -> None:
    probes = load_probes(
        write_lines(tmp_path, GOOD, "", GOOD | {"id": "b", "max_tokens": 8, "reference": "Lima"})
    )
    assert [p.id for p in probes] == ["a", "b"]
    assert probes[0] == Probe(
        "a", "facts", "facts/x", "Capital of Peru?", "text", {"accept": ["Lima"]}, 64, ""
    )
    assert probes[1].max_tokens == 8


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":2: not JSON"),
        ("[1]", r":2: not a JSON object"),
        ({k: v for k, v in GOOD.items() if k != "prompt"}, r":2: field 'prompt' is missing"),
        (GOOD | {"id": "b", "kind": 3}, r":2: field 'kind' must be a non-empty string"),
        (GOOD | {"id": "b", "prompt": " "}, r":2: field 'prompt' must be a non-empty string"),
        (
            {k: v for k, v in GOOD.items() if k != "grader"} | {"id": "b", "gradr": "exact"},
            r":2: unknown field 'gradr'; did you mean",
        ),
        (GOOD | {"id": "b", "max_tokens": 0}, r":2: field 'max_tokens' must be a whole number"),
        (GOOD | {"id": "b", "max_tokens": True}, r":2: field 'max_tokens' must be a whole number"),
        (GOOD | {"id": "b", "reference": 1}, r":2: field 'reference' must be a string"),
        (GOOD | {"id": "b", "grader": "oracle"}, r":2: grader 'oracle' is unknown"),
        (GOOD | {"id": "b", "expected": {"accept": "Lima"}}, r":2: expected.accept has the wrong type"),
        ({k: v for k, v in GOOD.items() if k != "expected"}, r":2: field 'expected' is missing"),
        (GOOD, r":2: id 'a' is already that of line 1"),
    ],
)
def test_a_bad_probe_is_named_by_line_and_field(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        load_probes(write_lines(tmp_path, GOOD, line))


def test_a_missing_empty_or_binary_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="cannot be read"):
        load_probes(tmp_path / "none.jsonl")
    with pytest.raises(ProbeError, match="holds no probe"):
        load_probes(write_lines(tmp_path, ""))
    binary = tmp_path / "x.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProbeError, match="cannot be read"):
        load_probes(binary)


def probes(kind: str, n_families: int) -> list[Probe]:
    return [
        Probe(f"{kind}{i}", kind, f"{kind}/{i}", "?", "text", {"accept": ["x"]}) for i in range(n_families)
    ]


def test_each_kind_gives_its_share_of_families() -> None:
    held = choose_held_out_families(probes("a", 10) + probes("b", 20), share=0.3)
    assert sum(f.startswith("a/") for f in held) == 3
    assert sum(f.startswith("b/") for f in held) == 6


def test_the_split_depends_on_the_seed_but_not_on_order_or_other_kinds() -> None:
    many = probes("a", 10)
    held = choose_held_out_families(many)
    assert held == choose_held_out_families(many[::-1])
    assert held <= choose_held_out_families(many + probes("b", 10))
    assert held != choose_held_out_families(many, seed=8)


def test_a_kind_is_never_held_out_whole() -> None:
    assert choose_held_out_families(probes("a", 1)) == frozenset()
    assert len(choose_held_out_families(probes("a", 2), share=0.9)) == 1
    assert choose_held_out_families(probes("a", 5), share=0) == frozenset()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share must be"):
        choose_held_out_families(probes("a", 3), share=share)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_and_line_separators_in_texts_is_loaded(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "probes.jsonl"
    line = json.dumps(GOOD | {"prompt": "a\u2028b"}, ensure_ascii=False)
    path.write_bytes(f"{line}\r\n".encode(encoding))
    assert load_probes(path)[0].prompt == "a\u2028b"


def test_a_file_in_another_encoding_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_bytes(json.dumps(GOOD | {"prompt": "Grüße"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(ProbeError, match="byte 0xfc in line 1 is not UTF-8; save the file as UTF-8"):
        load_probes(path)
