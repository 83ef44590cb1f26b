"""A policy that follows a mapping of categories to experts."""

import pytest

from gateway.config import ConfigError, parse_config

EXPERTS = "experts:\n  - {name: a, model: openai/x}\n  - {name: b, model: openai/y}\n"


def test_a_policys_mapping_keeps_the_order_of_experts() -> None:
    config = parse_config(
        EXPERTS + "policies:\n  coe:\n    mapping:\n      maths: [b, a]\n      general: [a]\n"
    )
    by_name = config.policies_by_name()
    assert by_name["coe"].mapping == {"maths": ("b", "a"), "general": ("a",)}
    assert by_name["auto"].mapping is None


def test_an_expert_that_is_not_there_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(EXPERTS + "policies:\n  coe:\n    mapping:\n      maths: [b, c]\n")
    assert "thalamus.yaml:7: policies.coe.mapping.maths: no expert is named 'c'" in str(caught.value)
