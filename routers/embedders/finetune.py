"""The encoder itself fine-tuned on losses, end to end, as Tryage's router is (extra `train`: torch)."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from ..errors import DataError, EmbedderError
from ..folders import replace_files
from ..types import Floats, Floats32, Ints
from .adapters import load_torch_encoder
from .exported import is_buildable, write_export
from .model_files import find_source

_HEAD_RATE = 1e-2
_MAX_TOKENS = 128
_BATCHES_SORTED = 16
"""So many batches' texts are drawn at a time and sorted by length."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How an encoder is fine-tuned on losses.

    n_layers:   how many of the uppermost layers move; None moves all, and the token vectors
    rate:       of the encoder; the head learns faster
    max_tokens: of a text while learning; the encoder that serves reads up to 256
    """

    n_layers: int | None = 2
    n_epochs: int = 2
    rate: float = 1e-4
    batch: int = 32
    max_tokens: int = 128
    seed: int = 0


class EncoderTuning:
    """An encoder to be fine-tuned on the experts' losses of some texts, once or once for each fold.

    One linear head for all experts is trained with it by squared error on L = 1 − score, NaN left out, and
    then dropped: `fit` makes heads of its own. What the layers that stay make of each text is kept, so that
    it is computed once for all folds and epochs.

    Reference: Tryage (arXiv 2308.11601), the training objective with the squared error for its divergence.
    Differs: only the uppermost layers move, unless all are asked for.
    """

    def __init__(
        self,
        texts: Sequence[str],
        base: str = "minilm",
        settings: TuneSettings = TuneSettings(),
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Args:
            base: `minilm`, or a folder or hub id of sentence-transformers.
            progress: called with texts read and in all.

        Raises:
            EmbedderError: the extra `train` is not installed, the base is no encoder, or has fewer layers.
        """
        self._texts = texts
        self._settings = settings
        self._encoder = _TorchEncoder(base, settings.max_tokens)
        self._layers = self._encoder.uppermost(settings.n_layers)
        moved = self._encoder.model if self._layers is None else self._layers
        self._start = deepcopy(moved.state_dict())
        self._states = (
            None if self._layers is None else self._encoder.lower(texts, len(self._layers), progress)
        )

    def tune(
        self,
        score: Floats,
        rows: Ints,
        out: Path | str,
        progress: Progress = lambda done, total: None,
    ) -> Path:
        """A folder with the encoder tuned on these rows alone; `load_embedder(folder)` runs it without torch.

        It begins from the base each time. Fit heads on other queries than these, or know that their figures
        out of fold flatter. The folder is written whole at the end.

        Args:
            score: (n_queries, n_experts) of all texts.
            rows: (n_rows,) of the texts that are learned from.
            progress: called with batches done and in all.

        Raises:
            DataError: nothing to learn from.
        """
        if len(self._texts) != len(score) or np.isnan(score[rows]).all():
            raise DataError(
                f"{len(rows)} of {len(self._texts)} texts, {len(score)} rows of scores: nothing to learn from"
            )
        torch, encoder, settings = self._encoder.torch, self._encoder, self._settings
        torch.manual_seed(settings.seed)
        moved = encoder.model if self._layers is None else self._layers
        moved.load_state_dict(self._start)
        loss = torch.tensor(1.0 - score, dtype=torch.float32)  # (n_queries, n_experts)
        known = ~loss.isnan()
        mean = torch.where(known, loss, 0)[rows].sum(0) / known[rows].sum(0).clamp(min=1)
        head = torch.nn.Linear(encoder.dim, loss.shape[1], bias=False)
        torch.nn.init.zeros_(head.weight)
        groups = [
            {"params": moved.parameters(), "lr": settings.rate},
            {"params": head.parameters(), "lr": _HEAD_RATE},
        ]
        optimizer = torch.optim.AdamW(groups)
        batches = self._plan_batches(rows)
        encoder.model.train()
        for done, batch in enumerate(batches, start=1):
            error = torch.where(known[batch], head(self._vectors(batch)) + mean - loss[batch], 0.0)
            optimizer.zero_grad()
            (error.square().sum() / known[batch].sum().clamp(min=1)).backward()
            optimizer.step()
            progress(done, len(batches))
        encoder.model.eval()
        return encoder.save(out)

    def _vectors(self, rows: list[int]) -> Any:
        if self._states is None:
            return self._encoder.vectors([self._texts[n] for n in rows])
        return self._encoder.upper([self._states[n] for n in rows], self._layers)

    def _plan_batches(self, rows: Ints) -> list[list[int]]:
        """The batches of all epochs; texts of like length stand together, for padding costs as text does."""
        order, size = np.random.default_rng(self._settings.seed), self._settings.batch
        length = np.array([len(text) for text in self._texts])
        planned: list[list[int]] = []
        for _ in range(self._settings.n_epochs):
            shuffled = order.permutation(rows)
            epoch: list[list[int]] = []
            for start in range(0, len(shuffled), size * _BATCHES_SORTED):
                near = shuffled[start : start + size * _BATCHES_SORTED]
                epoch += _batches(near[np.argsort(length[near], kind="stable")], size)
            planned += [epoch[n] for n in order.permutation(len(epoch))]
        return planned


class _TorchEncoder:
    """A sentence encoder in torch, with what trains its uppermost layers where it is a BERT."""

    def __init__(self, base: str, max_tokens: int = _MAX_TOKENS) -> None:
        """Raises: EmbedderError: the extra `train` is not installed, or the base is no encoder."""
        self.base = base
        self.model = load_torch_encoder(str(find_source(base).folder) if base == "minilm" else base)
        self.torch = import_module("torch")
        self._served_length = self.model.max_seq_length
        self._max_tokens = min(self.model.max_seq_length or max_tokens, max_tokens)
        self.model.max_seq_length = self._max_tokens
        part = self.model[0]
        self.transformer = getattr(part, "model", None) or part.auto_model  # its newer name first
        self.dim = int(self.vectors(["x"]).shape[1])

    def uppermost(self, n_layers: int | None) -> Any:
        """The layers that move, or None for all.

        Raises:
            EmbedderError: only a mean-pooled BERT can be taken apart, or it has fewer layers.
        """
        if n_layers is None:
            return None
        find_source("minilm" if self.base == "minilm" else self.base)
        layers = self.transformer.encoder.layer
        if not 1 <= n_layers <= len(layers):
            raise EmbedderError(f"{self.base} has {len(layers)} layers; of these {n_layers} cannot move")
        return layers[len(layers) - n_layers :]

    def vectors(self, texts: list[str]) -> Any:
        """(n_texts, dim) unit rows with their gradients."""
        read = getattr(self.model, "preprocess", None) or self.model.tokenize  # its newer name first
        tokens = read(texts)
        given = {name: value for name, value in tokens.items() if hasattr(value, "to")}
        return self.torch.nn.functional.normalize(self.model(given)["sentence_embedding"], dim=1)

    def lower(
        self, texts: Sequence[str], n_upper: int, progress: Progress = lambda done, total: None
    ) -> list[Any]:
        """Per text (n_tokens, dim) what enters the uppermost layers."""
        found = []
        with self.torch.no_grad():
            for n, text in enumerate(texts):
                tokens = self.model.tokenizer(
                    text, truncation=True, max_length=self._max_tokens, return_tensors="pt"
                )
                states = self.transformer(**tokens, output_hidden_states=True).hidden_states
                found.append(states[len(states) - 1 - n_upper][0].clone())
                progress(n + 1, len(texts))
        return found

    def upper(self, states: list[Any], layers: Any) -> Any:
        """(n_texts, dim) unit rows: the uppermost layers, and the mean over tokens."""
        torch = self.torch
        padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        lengths = torch.tensor([len(state) for state in states])
        there = torch.arange(padded.shape[1])[None] < lengths[:, None]
        mask = torch.where(there, 0.0, torch.finfo(padded.dtype).min)[:, None, None]
        for layer in layers:
            given = layer(padded, mask)
            padded = given[0] if isinstance(given, tuple) else given
        mean = (padded * there[..., None]).sum(1) / lengths[:, None]
        return torch.nn.functional.normalize(mean, dim=1)

    def save(self, folder: Path | str) -> Path:
        """A folder that `load_embedder` runs without torch."""
        self.model.max_seq_length = self._served_length
        with replace_files(Path(folder)) as fresh:
            self.model.save(str(fresh))
            if not is_buildable(fresh):
                write_export(self.model, fresh)
        self.model.max_seq_length = self._max_tokens
        return Path(folder)


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
        self._encoder = _TorchEncoder(base)

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
        torch = self._encoder.torch
        torch.manual_seed(settings.seed)
        layers = self._encoder.uppermost(settings.n_layers)
        lower = self._encoder.lower(texts, settings.n_layers)
        index = torch.from_numpy(np.ascontiguousarray(documents, np.float32)).T
        parameters = [weight for layer in layers for weight in layer.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=settings.rate)
        order = np.random.default_rng(settings.seed)
        for epoch in range(settings.n_epochs):
            for rows in _batches(order.permutation(len(texts)), settings.batch):
                vectors = self._encoder.upper([lower[n] for n in rows], layers)
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
            return np.empty((0, self._encoder.dim), np.float32)
        encoder = self._encoder
        with encoder.torch.no_grad():
            lower, layers = encoder.lower(texts, 1), encoder.uppermost(1)
            parts = [
                encoder.upper([lower[n] for n in rows], layers)
                for rows in _batches(np.arange(len(texts)), 32)
            ]
        vectors: Floats32 = encoder.torch.cat(parts).numpy()
        return vectors

    def save(self, folder: Path | str) -> Path:
        """A folder that `load_embedder` runs without torch."""
        return self._encoder.save(folder)


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
