"""Predicting what each expert makes of a query: vocabulary, embedders, predictors, artifacts.

Importing this package loads numpy and nothing heavier; what needs more is loaded when its name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import ArtifactError, DataError, EmbedderError, RoutersError
from .features import (
    FORM_NAMES,
    Embedder,
    FeatureExtractor,
    Features,
    compiled,
    describe_query,
    estimate_tokens,
    query_of,
)
from .protocols import Arrays, Categorizer, Extractor, Predictor, TagLearner
from .types import (
    Bools,
    Estimate,
    ExpertProfile,
    Floats,
    Floats32,
    HeadName,
    Ints,
    Prediction,
    Query,
    Tier,
    parameters_b,
)

if TYPE_CHECKING:
    from .artifacts import Artifact, explain_missing_head, list_heads, previous_path
    from .calibration import prediction_interval, rate_interval, rate_std, show_rate
    from .categories import (
        GENERAL,
        CategoryMapping,
        MappingBudget,
        MappingProblem,
        budget_curve,
        build_mapping_problem,
        solve_mapping,
    )
    from .decision_rule import Scale, compute_utility, fill_unknown, pick, rank, trace_choices
    from .embedders import (
        CachedEmbedder,
        HashingEmbedder,
        OnnxEmbedder,
        StaticEmbedder,
        is_embedder,
        load_embedder,
    )
    from .embedders.exported import export_encoder
    from .embedders.finetune import EncoderTuning, QuerySide, QuerySideSettings, TuneSettings
    from .embedding_selection import EmbeddingSelection, PilotRule, dataset_oracle, instance_oracle
    from .fit import (
        CategoryTexts,
        FitSettings,
        add_experts,
        cross_fit,
        fit_artifact,
        keep_experts,
        why_not_kept,
    )
    from .fold_fits import worker_pool
    from .forecast import Forecaster, find_categorizers
    from .outcomes import OutcomeTable, Provenance, add_outcomes, merge_outcomes
    from .registry import PREDICTORS, fit_predictor, make_predictor, name_head, parse_head
    from .sweep import Sweep

_LAZY = {
    "GENERAL": "categories",
    "PREDICTORS": "registry",
    "PilotRule": "embedding_selection",
    "Artifact": "artifacts",
    "CategoryMapping": "categories",
    "CategoryTexts": "fit",
    "CachedEmbedder": "embedders",
    "EmbeddingSelection": "embedding_selection",
    "FitSettings": "fit",
    "Forecaster": "forecast",
    "HashingEmbedder": "embedders",
    "MappingBudget": "categories",
    "MappingProblem": "categories",
    "OnnxEmbedder": "embedders",
    "OutcomeTable": "outcomes",
    "Provenance": "outcomes",
    "QuerySide": "embedders.finetune",
    "QuerySideSettings": "embedders.finetune",
    "Scale": "decision_rule",
    "StaticEmbedder": "embedders",
    "Sweep": "sweep",
    "add_experts": "fit",
    "add_outcomes": "outcomes",
    "compute_utility": "decision_rule",
    "cross_fit": "fit",
    "budget_curve": "categories",
    "dataset_oracle": "embedding_selection",
    "fill_unknown": "decision_rule",
    "find_categorizers": "forecast",
    "export_encoder": "embedders.exported",
    "EncoderTuning": "embedders.finetune",
    "TuneSettings": "embedders.finetune",
    "is_embedder": "embedders",
    "fit_artifact": "fit",
    "fit_predictor": "registry",
    "instance_oracle": "embedding_selection",
    "list_heads": "artifacts",
    "name_head": "registry",
    "parse_head": "registry",
    "explain_missing_head": "artifacts",
    "keep_experts": "fit",
    "load_embedder": "embedders",
    "prediction_interval": "calibration",
    "previous_path": "artifacts",
    "why_not_kept": "fit",
    "make_predictor": "registry",
    "build_mapping_problem": "categories",
    "merge_outcomes": "outcomes",
    "pick": "decision_rule",
    "rank": "decision_rule",
    "rate_interval": "calibration",
    "rate_std": "calibration",
    "show_rate": "calibration",
    "solve_mapping": "categories",
    "trace_choices": "decision_rule",
    "worker_pool": "fold_fits",
}

__all__ = [
    "FORM_NAMES",
    "GENERAL",
    "PREDICTORS",
    "Arrays",
    "Artifact",
    "ArtifactError",
    "Bools",
    "CachedEmbedder",
    "Categorizer",
    "CategoryMapping",
    "CategoryTexts",
    "DataError",
    "Embedder",
    "EmbedderError",
    "EmbeddingSelection",
    "EncoderTuning",
    "Estimate",
    "ExpertProfile",
    "Extractor",
    "FeatureExtractor",
    "Features",
    "FitSettings",
    "Floats",
    "Floats32",
    "Forecaster",
    "HashingEmbedder",
    "HeadName",
    "Ints",
    "MappingBudget",
    "MappingProblem",
    "OnnxEmbedder",
    "OutcomeTable",
    "PilotRule",
    "Prediction",
    "Predictor",
    "Provenance",
    "Query",
    "QuerySide",
    "QuerySideSettings",
    "RoutersError",
    "Scale",
    "StaticEmbedder",
    "Sweep",
    "TagLearner",
    "Tier",
    "TuneSettings",
    "add_experts",
    "add_outcomes",
    "budget_curve",
    "build_mapping_problem",
    "compiled",
    "compute_utility",
    "cross_fit",
    "dataset_oracle",
    "describe_query",
    "estimate_tokens",
    "explain_missing_head",
    "export_encoder",
    "fill_unknown",
    "find_categorizers",
    "fit_artifact",
    "fit_predictor",
    "instance_oracle",
    "is_embedder",
    "keep_experts",
    "list_heads",
    "load_embedder",
    "make_predictor",
    "merge_outcomes",
    "name_head",
    "parameters_b",
    "parse_head",
    "pick",
    "prediction_interval",
    "previous_path",
    "query_of",
    "rank",
    "rate_interval",
    "rate_std",
    "show_rate",
    "solve_mapping",
    "trace_choices",
    "why_not_kept",
    "worker_pool",
]


if not TYPE_CHECKING:  # so that a type checker refuses a name that is misspelt

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
        globals()[name] = value
        return value
