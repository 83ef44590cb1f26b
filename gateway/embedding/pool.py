"""The embedders of one gateway: who reads a text, and the reading, both in worker threads."""

import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import msgspec

from routers import ArtifactError, EmbedderError, EmbeddingSelection, Floats32, OnnxEmbedder, PilotRule

from ..config import BASE_EMBEDDER as BASE
from ..config import EmbeddingsConfig
from .choice import TextChoice, format_counts
from .turns import TextQueue

log = logging.getLogger("thalamus")


@dataclass(frozen=True, slots=True)
class Reading:
    """One text read: by whom, its entry in the answer as JSON, and how many tokens the text has."""

    embedder: str
    entry: bytes
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """A choice, and the base's vector of each text where it took a look at them: (n_texts,) of (dim,)."""

    choice: TextChoice
    base: tuple[Floats32, ...] = ()


class EmbedderPool:
    """The base embedder alone, or with experts that read queries.

    With experts everything is loaded at once, so that embedders that do not fit together fail the start; the
    base alone when it is first asked. `degraded` says what fails now.
    """

    def __init__(self, config: EmbeddingsConfig) -> None:
        """Raises: ArtifactError, EmbedderError: a selection or an expert that cannot be served."""
        self.policy: PilotRule = config.policy
        self.input_type = config.input_type
        self.turns = TextQueue(config.n_threads, config.max_waiting)
        self._selection = _load_selection(config)
        self._sources = _collect_sources(config, self._selection)
        self._embedders: dict[str, OnnxEmbedder] = {}
        self._failing: dict[str, str] = {}
        self._lock = Lock()
        if self._selection is not None or config.experts:
            self.load()

    @property
    def names(self) -> tuple[str, ...]:
        """All embedders, the base first."""
        return tuple(self._sources)

    @property
    def readers(self) -> tuple[str, ...]:
        """Embedders that `auto` may choose for queries: those with pilots, or the base where none has."""
        owners = self._selection.experts if self._selection is not None else ()
        return tuple(self._get_public_name(name) for name in owners) or (BASE,)

    @property
    def has_base(self) -> bool:
        return bool(self._embedders)

    @property
    def base(self) -> OnnxEmbedder:
        """The base; `load` comes first."""
        return self._embedders[BASE]

    @property
    def degraded(self) -> str | None:
        """Names of the embedders that fail now; None where none does."""
        return next(iter(self._failing.values()), None)

    def load(self) -> None:
        """Load the embedders that are not loaded yet.

        Raises:
            ArtifactError, EmbedderError: one cannot be loaded, or does not search the base's index.
        """
        # Two first requests may load in two threads; the second finds the work done.
        with self._lock:
            if not self._embedders:
                embedders = {name: _load_embedder(name, source) for name, source in self._sources.items()}
                _check(embedders, self._selection)
                self._embedders = embedders

    async def choose(self, texts: Sequence[str], policy: PilotRule, among: Sequence[str]) -> Chosen:
        """Who of `among`, of whom there is at least one, reads each query.

        Raises:
            EmbedderError: the base failed.
        """
        rejections = {name: "may not be chosen for this request" for name in self.names if name not in among}
        if len(among) == 1:
            return Chosen(self.assign_all(among[0], texts, policy, f"{among[0]} alone may be chosen"), ())
        found = await self.turns.map(lambda text: self._choose_one(text, policy, among), texts)
        chosen = tuple(name for name, _ in found)
        choice = TextChoice(policy, f"for each text: {format_counts(chosen)}", self.names, chosen, rejections)
        return Chosen(choice, tuple(vector for _, vector in found))

    def assign_all(self, name: str, texts: Sequence[str], policy: str, reason: str) -> TextChoice:
        """One embedder for all texts."""
        others = {other: reason for other in self.names if other != name}
        return TextChoice(policy, reason, self.names, (name,) * len(texts), others)

    async def read(
        self, texts: Sequence[str], chosen: Chosen, as_base64: bool, may_stand_in: bool
    ) -> list[Reading]:
        """Every text by its embedder. Where one fails the base may stand in: it searches the same index.

        Raises:
            EmbedderError: an embedder failed and no other could replace it.
        """
        vectors = chosen.base or (None,) * len(texts)
        items = list(zip(range(len(texts)), texts, chosen.choice.chosen, vectors, strict=True))

        def one(item: tuple[int, str, str, Floats32 | None]) -> Reading:
            place, text, name, base = item
            name, vector = self._read_vector(text, name, base, may_stand_in)
            entry = encode_entry(place, name, vector, as_base64)
            return Reading(name, entry, self.base.n_tokens(text))

        return await self.turns.map(one, items)

    def close(self) -> None:
        """Read no more."""
        self.turns.close()

    def _choose_one(self, text: str, policy: PilotRule, among: Sequence[str]) -> tuple[str, Floats32]:
        selection = self._selection
        if selection is None:
            raise ValueError("there is no embedder to choose among")
        vector = self._embed(BASE, text)
        eligible = [name for name in selection.experts if self._get_public_name(name) in among]
        place = selection.choose(vector[None], policy, eligible)[0]
        return self._get_public_name(selection.experts[place]), vector

    def _read_vector(
        self, text: str, name: str, base: Floats32 | None, may_stand_in: bool
    ) -> tuple[str, Floats32]:
        if name == BASE and base is not None:
            return BASE, base
        try:
            return name, self._embed(name, text)
        except EmbedderError:
            if name == BASE or not may_stand_in:
                raise
            return self._read_vector(text, BASE, base, may_stand_in)

    def _embed(self, name: str, text: str) -> Floats32:
        """(dim,) unit vector."""
        try:
            vector: Floats32 = self._embedders[name].embed([text])[0]
        except Exception as error:  # onnxruntime raises a class per status code, all straight from Exception
            if name not in self._failing:
                log.warning("embedder %s failed: %s: %s", name, type(error).__name__, error)
            self._failing[name] = f"embedder {name} failed"
            raise EmbedderError(self._failing[name]) from None
        self._failing.pop(name, None)
        return vector

    def _get_public_name(self, name: str) -> str:
        """What a client knows an expert of the selection by: the base keeps the base's name."""
        selection = self._selection
        return BASE if selection is not None and selection.sources[name] == BASE else name


def list_embedders(config: EmbeddingsConfig) -> tuple[str, ...]:
    """The names of those that the configuration has served, the base first.

    Raises:
        ArtifactError: the selection cannot be read.
    """
    return tuple(_collect_sources(config, _load_selection(config)))


def _load_selection(config: EmbeddingsConfig) -> EmbeddingSelection | None:
    return None if config.selection is None else EmbeddingSelection.load(config.selection)


def _collect_sources(config: EmbeddingsConfig, selection: EmbeddingSelection | None) -> dict[str, str]:
    """By name where each lies: where the configuration says, else where the selection has it."""
    chosen = selection.sources if selection is not None else {}
    experts = {name: source for name, source in chosen.items() if source != BASE}
    return {BASE: BASE, **experts, **config.experts}


def encode_entry(place: int, name: str, vector: Floats32, as_base64: bool) -> bytes:
    """A vector in its entry as OpenAI writes it: as numbers, or as little-endian float32 in base64.

    Made in the worker thread, text by text: a thousand at once would hold the event loop up.
    """
    # OpenAI's clients read base64 as float32 in the machine's own order, which is little-endian where they
    # run.
    encoded = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()
    return msgspec.json.encode(
        {"object": "embedding", "index": place, "embedding": encoded, "embedder": name}
    )


def _load_embedder(name: str, source: str) -> OnnxEmbedder:
    try:
        return OnnxEmbedder(source)
    except EmbedderError as error:
        raise error if name == BASE else EmbedderError(f"embedding expert '{name}': {error}") from None


def _check(embedders: Mapping[str, OnnxEmbedder], selection: EmbeddingSelection | None) -> None:
    base = embedders[BASE]
    if selection is not None and selection.fingerprint != base.fingerprint:
        raise ArtifactError(
            f"the embedding selection was made for {selection.fingerprint}, {BASE} is {base.fingerprint}: "
            "make it anew with `thalamus embedders add`"
        )
    for name, embedder in embedders.items():
        if embedder.dim != base.dim:
            raise EmbedderError(
                f"embedding expert '{name}' gives {embedder.dim} numbers a text, {BASE} {base.dim}: "
                "it cannot search the same index"
            )
