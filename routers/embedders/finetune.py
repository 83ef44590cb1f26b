"""The encoder itself fine-tuned on losses, end to end, as Tryage's router is (extra `train`: torch)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from ..errors import DataError, EmbedderError
from ..folders import replace_files
from ..types import Floats, Floats32
from .model_files import find_source

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
    """A folder with an encoder whose vectors predict losses; `load_embedder(folder)` runs it without torch.

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
    batches = [rows for _ in range(n_epochs) for rows in _batches(order.permutation(len(texts)), _BATCH)]
    model.train()
    for done, rows in enumerate(batches):
        progress(done, len(batches))
        said = _vectors(model, [texts[n] for n in rows])
        error = torch.where(known[rows], head(said) + mean - loss[rows], 0.0)
        optimizer.zero_grad()
        (error.square().sum() / known[rows].sum().clamp(min=1)).backward()
        optimizer.step()
    progress(len(batches), len(batches))
    with replace_files(Path(out)) as fresh:
        model.save(str(fresh))
    return Path(out)


def _vectors(model: Any, texts: list[str]) -> Any:
    """(n_texts, dim) unit rows with their gradients."""
    import torch

    read = getattr(model, "preprocess", None) or model.tokenize  # its newer name first
    tokens = read(texts)
    vectors = model({name: value.to(model.device) for name, value in tokens.items() if hasattr(value, "to")})
    return torch.nn.functional.normalize(vectors["sentence_embedding"], dim=1)


_QUERY_SIDE_MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class QuerySideSettings:
    """Chosen by cross-validation, see evals/LOG.md.

    n_layers:    how many of the uppermost layers move
    temperature: cosines are divided by it before the softmax over documents
    """

    n_epochs: int = 4
    rate: float = 1e-4
    n_layers: int = 1
    temperature: float = 0.05
    batch: int = 32
    seed: int = 0


class QuerySide:
    """A copy of the base encoder whose query vectors are moved towards relevant documents.

    The loss is the cross-entropy between the relevance of all documents of the index, as shares, and the
    softmax of their cosines: every document that is not relevant is a negative.

    Reference: RouterRetriever (arXiv 2409.02685), §3.1: one query encoder per domain over frozen documents.
    Differs: uppermost layers instead of low-rank adapters; all documents as negatives instead of the batch's.
    """

    def __init__(self, base: str = "minilm") -> None:
        """Raises: EmbedderError: the extra `train` is not installed, or the base is no encoder."""
        try:
            import torch
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
        except ImportError:
            raise EmbedderError("fine-tuning needs torch: pip install 'thalamus-gateway[train]'") from None
        disable_progress_bar()
        self._torch = torch
        self._model = SentenceTransformer(str(find_source(base).folder), device="cpu").eval()
        part = self._model[0]
        self._bert = getattr(part, "model", None) or part.auto_model  # its newer name first

    def fit(
        self,
        texts: Sequence[str],
        documents: Floats32,
        relevance: scipy.sparse.csr_array,
        settings: QuerySideSettings = QuerySideSettings(),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> "QuerySide":
        """Train on queries: documents (n_documents, dim) unit rows, relevance (n_queries, n_documents) ≥ 0.

        progress: called after every epoch with epochs done and in all.

        Raises:
            DataError: shapes that do not match, or a query without a relevant document.
        """
        _check(texts, documents, relevance)
        torch = self._torch
        torch.manual_seed(settings.seed)
        layers = self._layers()[-settings.n_layers :]
        lower = self._lower(texts, settings.n_layers)
        index = torch.from_numpy(np.ascontiguousarray(documents, np.float32)).T
        parameters = [weight for layer in layers for weight in layer.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=settings.rate)
        order = np.random.default_rng(settings.seed)
        for epoch in range(settings.n_epochs):
            for rows in _batches(order.permutation(len(texts)), settings.batch):
                vectors = self._upper([lower[n] for n in rows], layers)
                shares = torch.from_numpy(_shares(relevance, rows))
                log_shares = torch.log_softmax(vectors @ index / settings.temperature, dim=1)
                optimizer.zero_grad()
                (-(shares * log_shares).sum(1).mean()).backward()
                optimizer.step()
            progress(epoch + 1, settings.n_epochs)
        return self

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows."""
        if not texts:
            return np.empty((0, self._bert.config.hidden_size), np.float32)
        with self._torch.no_grad():
            lower, layers = self._lower(texts, 1), self._layers()[-1:]
            parts = [
                self._upper([lower[n] for n in rows], layers) for rows in _batches(np.arange(len(texts)), 32)
            ]
        vectors: Floats32 = self._torch.cat(parts).numpy()
        return vectors

    def save(self, folder: Path | str) -> Path:
        """A folder that `load_embedder` runs without torch."""
        with replace_files(Path(folder)) as fresh:
            self._model.save(str(fresh))
        return Path(folder)

    def _layers(self) -> Any:
        return self._bert.encoder.layer

    def _lower(self, texts: Sequence[str], n_upper: int) -> list[Any]:
        """Per text (n_tokens, dim) what enters the uppermost layers."""
        found = []
        with self._torch.no_grad():
            for text in texts:
                tokens = self._model.tokenizer(
                    text, truncation=True, max_length=_QUERY_SIDE_MAX_TOKENS, return_tensors="pt"
                )
                states = self._bert(**tokens, output_hidden_states=True).hidden_states
                found.append(states[len(states) - 1 - n_upper][0].clone())
        return found

    def _upper(self, states: list[Any], layers: Any) -> Any:
        """(n_texts, dim) unit rows: the uppermost layers, and the mean over tokens."""
        torch = self._torch
        padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        lengths = torch.tensor([len(state) for state in states])
        there = torch.arange(padded.shape[1])[None] < lengths[:, None]
        mask = torch.where(there, 0.0, torch.finfo(padded.dtype).min)[:, None, None]
        for layer in layers:
            given = layer(padded, mask)
            padded = given[0] if isinstance(given, tuple) else given
        mean = (padded * there[..., None]).sum(1) / lengths[:, None]
        return torch.nn.functional.normalize(mean, dim=1)


def _check(texts: Sequence[str], documents: Floats32, relevance: scipy.sparse.csr_array) -> None:
    if relevance.shape != (len(texts), len(documents)) or not len(texts):
        raise DataError(
            f"{len(texts)} queries, {len(documents)} documents, relevance of shape {relevance.shape}"
        )
    alone = np.flatnonzero(relevance.sum(axis=1) <= 0)
    if len(alone):
        raise DataError(f"query {alone[0]} has no relevant document: {texts[alone[0]][:60]!r}")


def _shares(relevance: scipy.sparse.csr_array, rows: list[int]) -> Floats32:
    gains = relevance[rows].toarray().astype(np.float32)
    shares: Floats32 = gains / gains.sum(axis=1, keepdims=True)
    return shares


def _batches(order: Any, size: int) -> Iterator[list[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size].tolist()
