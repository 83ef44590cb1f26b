"""Routing from the configuration: artifact, embedders, engine. Loads only what decisions need."""

from collections.abc import Sequence
from pathlib import Path

from policies import Engine, Scale
from routers import (
    Artifact,
    CachedEmbedder,
    Embedder,
    EmbedderError,
    ExpertProfile,
    FeatureExtractor,
    Forecaster,
    StaticEmbedder,
    load_embedder,
)

from ..config import Config
from .embedding_batcher import Budget, EmbeddingBatcher
from .router import Router


def build_routing(config: Config, pool: Sequence[ExpertProfile]) -> tuple[Router, EmbeddingBatcher | None]:
    """Ready to decide. Without an artifact nothing is embedded; embedders that cannot be loaded degrade it.

    Raises:
        ArtifactError: the artifact is damaged, or was fitted on another embedder.
    """
    path = Path(config.routing.artifact)
    if not path.exists():
        return _routing(pool, Forecaster(pool, None), None, None, None), None
    extractor, encoder, lack = _extractor(config)
    artifact = Artifact.load(path, extractor.fingerprints if extractor else None)
    batcher = None
    if encoder is not None and "encoder" in artifact.heads:
        batcher = EmbeddingBatcher(encoder, config.routing.encoder_threads, budget=_budget(config))
    if lack is not None and extractor is not None and "encoder" not in artifact.heads:
        lack = None
    return _routing(pool, Forecaster(pool, artifact), extractor, batcher, lack), batcher


def _routing(
    pool: Sequence[ExpertProfile],
    forecaster: Forecaster,
    extractor: FeatureExtractor | None,
    batcher: EmbeddingBatcher | None,
    lack: str | None,
) -> Router:
    scale = Scale.of(forecaster.mean_cost_usd, forecaster.mean_latency_s)
    return Router(Engine(pool, scale, forecaster.sweep), forecaster, extractor, batcher, lack)


def _extractor(config: Config) -> tuple[FeatureExtractor | None, Embedder | None, str | None]:
    """The extractor, its encoder, and what could not be loaded."""
    try:
        static = StaticEmbedder()
    except EmbedderError as error:
        return None, None, f"no embedder: {error}"
    if config.routing.encoder == "none" or all(
        p.encoder == "never" for p in config.policies_by_name().values()
    ):
        return FeatureExtractor(static), None, None
    try:
        encoder = CachedEmbedder(load_embedder(config.routing.encoder), config.routing.embedding_cache)
    except EmbedderError as error:
        return FeatureExtractor(static), None, f"no encoder: {error}"
    return FeatureExtractor(static, encoder), encoder, None


def _budget(config: Config) -> Budget | None:
    limits = config.routing.load_budget
    return None if limits == "off" else Budget(limits.n_waiting, limits.share, config.routing.encoder_threads)
