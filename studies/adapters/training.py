"""Trains one adapter on the bundled SmolLM2: `python -m studies.adapters.training FIELD OUT.gguf`.

It needs the extra `train` and the package `gguf`. A run that was stopped goes on at its last checkpoint.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import click
import torch
from torch import Tensor, nn

from .bundled import FIELDS, draw_lesson, find_bundled_model, write_prompt
from .gguf_adapter import write_gguf

RANK = 8
ALPHA = 16.0
FIRST_LAYER = 10
"""Of 30. Below it nothing is trained, which spares a third of the way back and of the file."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CHUNK_LESSONS = 192
"""So many lessons are drawn at once and put into batches of like lengths, so that little is padding."""
BATCH_TOKENS = 480
CHECKPOINT_S = 60.0


class LoraLinear(nn.Module):  # type: ignore[misc]
    """A frozen matrix with a trained change of low rank.

    Reference: Hu et al., LoRA, arXiv 2106.09685, section 4.1.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(base.weight.detach().to(torch.bfloat16), requires_grad=False)
        self.lora_a = nn.Parameter(torch.empty(RANK, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, RANK))  # zero: training begins at the base
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        low = nn.functional.linear(x, self.lora_a.to(x.dtype))
        change = nn.functional.linear(low, self.lora_b.to(x.dtype))
        return nn.functional.linear(x, self.weight) + change * (ALPHA / RANK)


def load_model() -> tuple[nn.Module, object]:
    """The bundled model in bfloat16, with an adapter in each projection of each layer, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = find_bundled_model()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    # Eager: on short texts the fused attention takes a fifth of the time, most of it backwards.
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.bfloat16, attn_implementation="eager"
    )
    model.requires_grad_(False)
    for layer in model.model.layers[FIRST_LAYER:]:
        for part in (layer.self_attn, layer.mlp):
            for name in PROJECTIONS:
                if hasattr(part, name):
                    setattr(part, name, LoraLinear(getattr(part, name)))
    return model, tokenizer


def draw_batches(field: str, tokenizer: object, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and targets of a chunk's lessons, each (n_lessons, n_tokens); -100 where nothing is learned."""
    pairs = []
    for n in range(chunk * CHUNK_LESSONS, (chunk + 1) * CHUNK_LESSONS):
        lesson = draw_lesson(FIELDS[field], n)
        prompt = tokenizer.encode(write_prompt(FIELDS[field].system, lesson.prompt), add_special_tokens=False)  # type: ignore[attr-defined]
        answer = tokenizer.encode(f"{lesson.answer}<|im_end|>", add_special_tokens=False)  # type: ignore[attr-defined]
        pairs.append((prompt + answer, [-100] * len(prompt) + answer))
    pairs.sort(key=lambda pair: len(pair[0]))
    batches: list[list[tuple[list[int], list[int]]]] = [[]]
    for pair in pairs:
        if (len(batches[-1]) + 1) * len(pair[0]) > BATCH_TOKENS and batches[-1]:
            batches.append([])
        batches[-1].append(pair)
    Random(chunk).shuffle(batches)
    for batch in batches:
        width = max(len(tokens) for tokens, _ in batch)
        # The padding is to the right, so that with causal attention no token sees it.
        yield (
            torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in batch]),
            torch.tensor([targets + [-100] * (width - len(targets)) for _, targets in batch]),
        )


def measure_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens."""
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    wanted = targets[:, 1:]
    is_answer = wanted != -100
    # Logits of answers alone: the head is a fifth of the model.
    logits = model.lm_head(hidden[is_answer])
    return nn.functional.cross_entropy(logits.float(), wanted[is_answer])


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def train(field: str, checkpoint: Path, n_tokens: int, rate: float) -> dict[str, Tensor]:
    """The adapter's matrices by name, after about `n_tokens` tokens of lessons."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, tokenizer = load_model()
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.99))
    chunk, seen, spent_s = 0, 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["adapter"], strict=False)
        optimizer.load_state_dict(saved["optimizer"])
        chunk, seen, spent_s = saved["chunk"], saved["seen"], saved["spent_s"]
    start_s = saved_s = time.monotonic()
    while seen < n_tokens:
        losses = []
        for tokens, targets in draw_batches(field, tokenizer, chunk):
            # Up for a twentieth of the way, then down to zero.
            share = min(seen / n_tokens, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate * min((share + 0.002) / 0.05, (1 - share) / 0.95 + 0.005)
            loss = measure_loss(model, tokens, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seen += tokens.numel()
            losses.append(loss.item())
        chunk += 1
        now_s = time.monotonic()
        taken_s = spent_s + now_s - start_s
        click.echo(f"{field}: {seen} tokens, {taken_s:.0f} s, loss {sum(losses) / len(losses):.3f}")
        if now_s - saved_s > CHECKPOINT_S or seen >= n_tokens:
            saved_s = now_s
            state = {"adapter": adapter_state(model), "optimizer": optimizer.state_dict()}
            partial = checkpoint.with_suffix(".part")
            torch.save(state | {"chunk": chunk, "seen": seen, "spent_s": taken_s}, partial)
            partial.replace(checkpoint)
    return adapter_state(model)


@click.command()
@click.argument("field", type=click.Choice(sorted(FIELDS)))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--tokens", default=160_000, show_default=True, help="Tokens of lessons, padding counted.")
@click.option("--rate", default=1.5e-3, show_default=True, help="The highest rate of learning.")
def main(field: str, out: Path, tokens: int, rate: float) -> None:
    """Train the adapter of FIELD and write it to the file OUT."""
    state = train(field, out.with_suffix(".pt"), tokens, rate)
    write_gguf(out, state, ALPHA)
    click.echo(f"{field}: wrote {out}, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
