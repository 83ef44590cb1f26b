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


def build_router(config: Config, pool: Sequence[ExpertProfile]) -> Router:
    """The router of a configuration. Without an artifact nothing is embedded.

    An embedder that cannot be loaded degrades the router; the gateway still starts.

    Raises:
        ArtifactError: the artifact is damaged, or was fitted on another embedder.
    """
    path = Path(config.routing.artifact)
    if not path.exists():
        forecaster, extractor, batcher, missing = Forecaster(pool, None), None, None, None
    else:
        extractor, encoder, missing = _build_extractor(config)
        artifact = Artifact.load(path, extractor.fingerprints if extractor else None)
        forecaster, batcher = Forecaster(pool, artifact), None
        if encoder is not None and "encoder" in artifact.heads:
            batcher = EmbeddingBatcher(encoder, config.routing.encoder_threads, budget=_budget(config))
        if extractor is not None and "encoder" not in artifact.heads:
            missing = None
    scale = Scale.of(forecaster.mean_cost_usd, forecaster.mean_latency_s)
    return Router(Engine(pool, scale, forecaster.sweep), forecaster, extractor, batcher, missing)


def _build_extractor(config: Config) -> tuple[FeatureExtractor | None, Embedder | None, str | None]:
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
