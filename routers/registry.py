"""Predictors by name; a class is imported when it is first made."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .errors import ArtifactError
from .features import Features
from .protocols import CategoryExamples, ExampleLearner, Predictor, TagLearner
from .types import Floats, HeadName

PREDICTORS: Mapping[str, str] = {
    "blend": "blend:Blend",
    "clusters": "neighbours:Clusters",
    "coe": "coe:CoE",
    "constant": "targets:Constant",
    "factorization": "factorization:Factorization",
    "kernel": "kernel:Kernel",
    "joined": "joined:Joined",
    "knn": "neighbours:KNN",
    "linear": "linear:Linear",
    "mlp": "mlp:MLP",
    "pilots": "pilots:Pilots",
    "skills": "skills:Skills",
    "trees": "trees:Trees",
    "tryage": "tryage:Tryage",
}
"""Name → module:class in `routers.predictors`."""

IMPROVED = "improved"
PUBLISHED = ("paper", "code")
"""Modes that do what a paper, or the code released with it, does; the other one is ours."""


def name_head(predictor: str, settings: Mapping[str, Any]) -> str:
    """The name of a head by its predictor and that one's mode: `coe`, or `coe-paper`.

    One that experts were added to is named by the predictor that it began with.
    """
    if predictor == "joined" and settings.get("parts"):
        predictor, settings = settings["parts"][0]
    mode = settings.get("mode") or IMPROVED
    return predictor if mode == IMPROVED else f"{predictor}-{mode}"


def is_published(settings: Mapping[str, Any]) -> bool:
    """Whether a predictor with these settings is a published rule, whose choices nothing may alter."""
    return settings.get("mode") in PUBLISHED


def parse_head(name: str) -> tuple[str, dict[str, Any]]:
    """The predictor and the settings of a head.

    Raises:
        ArtifactError: there is no such head.
    """
    known: Sequence[str] = get_args(HeadName)
    if name not in known:
        raise ArtifactError(f"no head {name!r}; there are {', '.join(known)}")
    predictor, dash, mode = name.partition("-")
    return predictor, {"mode": mode} if dash else {}


def make_predictor(name: str, settings: Mapping[str, Any] | None = None) -> Predictor:
    """An unfitted predictor.

    Raises:
        ArtifactError: no predictor has that name, or it does not take these settings.
    """
    if name not in PREDICTORS:
        raise ArtifactError(f"no predictor {name!r}; there are {', '.join(sorted(PREDICTORS))}")
    module, _, attribute = PREDICTORS[name].partition(":")
    made = getattr(import_module(f".predictors.{module}", __package__), attribute)
    _check_names(name, made, settings or {})
    _check_words(name, made, settings or {})
    try:
        predictor: Predictor = made(**(settings or {}))
    except TypeError as error:
        raise ArtifactError(f"predictor {name!r}: {error}") from None
    return predictor


def _check_names(name: str, made: type, settings: Mapping[str, Any]) -> None:
    """Check that there are settings of these names."""
    there = [one for one in signature(made).parameters if one != "self"]
    for key in settings:
        if key not in there:
            few = f"it has {', '.join(there)}" if there else "it has none"
            raise ArtifactError(f"predictor {name!r} has no setting {key!r}; {few}")


def _check_words(name: str, made: type, settings: Mapping[str, Any]) -> None:
    """Check settings that accept only certain words."""
    hints = get_type_hints(made.__init__)  # type: ignore[misc]
    for key, value in settings.items():
        words = get_args(hints.get(key)) if get_origin(hints.get(key)) is Literal else ()
        if words and value not in words:
            raise ArtifactError(f"predictor {name!r}: no {key} {value!r}; there are {', '.join(words)}")


def fit_predictor(
    predictor: Predictor,
    features: Features,
    targets: Floats,
    tasks: Sequence[str] | None = None,
    examples: CategoryExamples | None = None,
) -> Predictor:
    """Fit it, with the queries' task tags and with examples of categories where it learns from them."""
    if examples is not None and isinstance(predictor, ExampleLearner):
        predictor.fit_examples(features, targets, tasks or [""] * len(features), examples)
        return predictor
    if tasks is not None and any(tasks) and isinstance(predictor, TagLearner):
        predictor.fit_tagged(features, targets, tasks)
        return predictor
    return predictor.fit(features, targets)
