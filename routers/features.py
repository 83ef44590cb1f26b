"""What predictors read of a query: its vector, its words, its form."""

from collections.abc import Sequence

from .embedders.static import StaticEmbedder
from .errors import EmbedderError
from .form import FORM_NAMES, FORM_VERSION, form_features
from .language import guess_language
from .lexical import LEXICAL_VERSION, N_SLOTS, lexical_slots
from .protocols import Embedder
from .query import code_share, estimate_tokens, query_of
from .types import Features, Query, Tier

__all__ = [
    "FORM_NAMES",
    "N_SLOTS",
    "FeatureExtractor",
    "code_share",
    "estimate_tokens",
    "form_features",
    "guess_language",
    "query_of",
]


class FeatureExtractor:
    """Features of either tier; words and form are the same in both, and the text is tokenised once for them.

    Without an encoder only the static tier can be asked for. `extract` may be called from many threads.
    """

    def __init__(self, static: StaticEmbedder, encoder: Embedder | None = None) -> None:
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
        if reuse is not None and len(reuse) != len(queries):
            raise ValueError(f"reuse has {len(reuse)} queries, not {len(queries)}")
        texts = [query.text for query in queries]
        if tier == "static":
            return self._of_static(texts, reuse)
        if tier == "encoder" and self._encoder is not None:
            rest = reuse or self._of_static(texts, None)
            return Features("encoder", self._encoder.embed(texts), rest.lexical, rest.form)
        raise EmbedderError(
            f"no features for the tier {tier!r}: this extractor has {', '.join(self.fingerprints)}"
        )

    def _of_static(self, texts: Sequence[str], reuse: Features | None) -> Features:
        ids = [self._static.ids(text) for text in texts]
        dense = self._static.embed_ids(ids)
        if reuse is not None:
            return Features("static", dense, reuse.lexical, reuse.form)
        return Features("static", dense, lexical_slots(ids, texts), form_features(texts))
