from typing import Any

import msgspec
import pytest

from gateway.config import ExpertConfig
from gateway.experts import Call
from gateway.experts.prompt_preset import PromptPreset


def send_fields(fields: dict[str, object], **config: object) -> dict[str, object]:
    expert = msgspec.convert({"name": "e", "model": "openai/e", **config}, ExpertConfig)
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    applied = PromptPreset(expert).apply(Call("chat/completions", raw))
    return {name: msgspec.json.decode(value) for name, value in applied.items()}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"max_tokens": 24}),
        ({"max_tokens": 100}, {"max_tokens": 24}),
        ({"max_tokens": 8}, {"max_tokens": 8}),
        ({"max_completion_tokens": 100}, {"max_completion_tokens": 24}),
        ({"max_tokens": None}, {"max_tokens": 24}),
        ({"max_tokens": "many"}, {"max_tokens": "many"}),
        ({"max_tokens": 8, "max_completion_tokens": 99}, {"max_tokens": 8, "max_completion_tokens": 24}),
        ({"max_tokens": 99, "max_completion_tokens": 8}, {"max_tokens": 24, "max_completion_tokens": 8}),
    ],
)
def test_no_answer_is_longer_than_the_expert_gives_and_a_shorter_wish_is_kept(
    asked: Any, expected: Any
) -> None:
    assert send_fields(asked, max_output_tokens=24) == expected


def test_the_cap_holds_over_defaults_and_forced_parameters() -> None:
    assert send_fields({}, max_output_tokens=24, params={"max_tokens": 99}) == {"max_tokens": 24}
    assert send_fields({}, max_output_tokens=24, override_params={"max_tokens": 99}) == {"max_tokens": 24}


@pytest.mark.parametrize("empty", [b"[]", b"[  ]", b" [\n]"])
def test_turns_of_the_expert_before_no_turns_of_the_client_are_still_json(empty: Any) -> None:
    expert = msgspec.convert({"name": "e", "model": "openai/e", "system": "Be brief."}, ExpertConfig)
    applied = PromptPreset(expert).apply(Call("chat/completions", {"messages": msgspec.Raw(empty)}))
    assert msgspec.json.decode(applied["messages"]) == [{"role": "system", "content": "Be brief."}]
