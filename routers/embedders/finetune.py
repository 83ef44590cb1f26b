"""The encoder itself fine-tuned on losses, end to end, as Tryage's router is (extra `train`: torch)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, EmbedderError
from ..types import Floats
from .source import find_source

_BATCH = 16
_HEAD_RATE = 1e-2


def finetune_encoder(
    texts: Sequence[str],
    score: Floats,
    out: Path | str,
    *,
    base: str = "minilm",
    n_epochs: int = 1,
    rate: float = 3e-5,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """A folder with an encoder whose vectors foretell losses; `load_embedder(folder)` runs it without torch.

    One linear head for all experts is trained with it by squared error on L = 1 − score, NaN left out, and
    then dropped: `fit` makes heads of its own. Fit those on other queries than these: figures out of fold are
    not out of sample for an encoder that has seen every fold.

    Args:
        score: (n_queries, n_experts).
        rate: of the encoder; the head learns faster.
        progress: called with batches done and in all.

    Raises:
        DataError: nothing to learn from.
        EmbedderError: the extra `train` is not installed, or the base is no encoder.

    Reference: Tryage (arXiv 2308.11601), the training objective with the squared error for its divergence.
    """
    if len(texts) != len(score) or np.isnan(score).all():
        raise DataError(f"{len(texts)} texts and {len(score)} rows of scores: nothing to fine-tune on")
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise EmbedderError("fine-tuning needs torch: pip install 'thalamus-gateway[train]'") from None
    torch.manual_seed(seed)
    model = SentenceTransformer(str(find_source(base).folder), device="cpu")
    loss = torch.tensor(1.0 - score, dtype=torch.float32)
    known = ~loss.isnan()
    mean = torch.where(known, loss, 0).sum(0) / known.sum(0).clamp(min=1)
    head = torch.nn.Linear(_vectors(model, ["x"]).shape[1], loss.shape[1], bias=False)
    torch.nn.init.zeros_(head.weight)
    groups = [{"params": model.parameters(), "lr": rate}, {"params": head.parameters(), "lr": _HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups)
    order = np.random.default_rng(seed)
    batches = [rows for _ in range(n_epochs) for rows in _batches(order.permutation(len(texts)))]
    model.train()
    for done, rows in enumerate(batches):
        progress(done, len(batches))
        said = _vectors(model, [texts[n] for n in rows])
        error = torch.where(known[rows], head(said) + mean - loss[rows], 0.0)
        optimizer.zero_grad()
        (error.square().sum() / known[rows].sum().clamp(min=1)).backward()
        optimizer.step()
    progress(len(batches), len(batches))
    model.save(str(out))
    return Path(out)


def _batches(order: Any) -> list[list[int]]:
    return [order[start : start + _BATCH].tolist() for start in range(0, len(order), _BATCH)]


def _vectors(model: Any, texts: list[str]) -> Any:
    """(n_texts, dim) unit rows with their gradients."""
    import torch

    read = getattr(model, "preprocess", None) or model.tokenize  # its newer name first
    tokens = read(texts)
    vectors = model({name: value.to(model.device) for name, value in tokens.items() if hasattr(value, "to")})
    return torch.nn.functional.normalize(vectors["sentence_embedding"], dim=1)
