import pytest

from routers import parameters_b


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("openai/llama-3.1-8b", 8),
        ("meta/Llama-3.3-70B-Instruct", 70),
        ("groq/mixtral-8x7b-32768", 56),
        ("bundled/smollm2-135m", 0.135),
        ("qwen2.5-1.5b-instruct", 1.5),
        ("openai/gpt-4.1", None),
        ("x/v2beta", None),
        ("x/4bit", None),
        ("", None),
    ],
)
def test_a_models_name_may_tell_its_size(model: str, billions: float | None) -> None:
    assert parameters_b(model) == billions
