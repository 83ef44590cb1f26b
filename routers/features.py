"""What predictors read of a query: its vector, its words, its form."""

from collections.abc import Sequence
from typing import Protocol

from .errors import EmbedderError
from .form import FORM_NAMES, FORM_VERSION, form_features
from .language import guess_language
from .lexical import LEXICAL_VERSION, N_SLOTS, lexical_slots
from .protocols import Embedder
from .query import code_share, estimate_tokens, query_of
from .types import Features, Floats, Floats32, Ints, Query, Tier

__all__ = [
    "FORM_NAMES",
    "N_SLOTS",
    "FeatureExtractor",
    "TokenEmbedder",
    "code_share",
    "estimate_tokens",
    "form_features",
    "guess_language",
    "query_of",
]


class TokenEmbedder(Embedder, Protocol):
    """An embedder whose tokens can be had first: words and vector share one tokenisation."""

    def ids(self, text: str) -> list[int]:
        """Non-negative ids below 2³², at most as many as the embedder reads."""

    def embed_ids(self, ids: Sequence[Sequence[int]]) -> Floats32:
        """(n_texts, dim) unit rows; what `embed` gives for the texts the ids are of."""


class FeatureExtractor:
    """Features of either tier; words and form are the same in both, and a text is tokenised once for them.

    `static` is a `StaticEmbedder` (in tests a `HashingEmbedder`). Without an encoder only the static tier can
    be asked for. `extract` may be called from many threads.
    """

    def __init__(self, static: TokenEmbedder, encoder: Embedder | None = None) -> None:
        self._static = static
        self._encoder = encoder

    @property
    def fingerprints(self) -> dict[Tier, str]:
        """Per tier it can extract, what its features depend on: equal fingerprints give equal features."""
        rest = f"lexical-{N_SLOTS}-b{LEXICAL_VERSION}+form-{len(FORM_NAMES)}-b{FORM_VERSION}"
        # Words come from the static embedder's tokenizer, whichever tier the vector is from.
        of_static = f"{self._static.fingerprint}+{rest}"
        if self._encoder is None:
            return {"static": of_static}
        return {"static": of_static, "encoder": f"{self._encoder.fingerprint}+{of_static}"}

    def extract(self, queries: Sequence[Query], tier: Tier, reuse: Features | None = None) -> Features:
        """Features of the queries, in order; `reuse` gives the words and form already extracted for them.

        Raises:
            EmbedderError: there is no encoder, or a tier without features (`prior`) is asked for.
            ValueError: `reuse` is of another number of queries.
        """
        if tier not in self.fingerprints:
            raise EmbedderError(
                f"no features for the tier {tier!r}: it is one of {', '.join(self.fingerprints)}"
            )
        if reuse is not None and len(reuse) != len(queries):
            raise ValueError(f"reuse has {len(reuse)} queries, not {len(queries)}")
        texts = [query.text for query in queries]
        if tier == "encoder" and self._encoder is not None:
            lexical, form = self._words_and_form(texts, None, reuse)
            return Features(tier, self._encoder.embed(texts), lexical, form)
        ids = [self._static.ids(text) for text in texts]
        lexical, form = self._words_and_form(texts, ids, reuse)
        return Features(tier, self._static.embed_ids(ids), lexical, form)

    def _words_and_form(
        self, texts: Sequence[str], ids: list[list[int]] | None, reuse: Features | None
    ) -> tuple[Ints, Floats]:
        if reuse is not None:
            return reuse.lexical, reuse.form
        ids = ids if ids is not None else [self._static.ids(text) for text in texts]
        return lexical_slots(ids, texts), form_features(texts)
