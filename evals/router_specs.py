"""Which routers are compared: `blend,knn:k=50,coe:paper@static` as values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routers import PREDICTORS, ArtifactError, DataError, Tier, make_predictor


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """A predictor of the registry with settings, on an embedder tier; `name` is how it was asked for."""

    name: str
    predictor: str
    settings: Mapping[str, Any]
    tier: Tier


def parse_router_specs(told: str, tiers: Sequence[Tier]) -> list[RouterSpec]:
    """Routers from their names, comma-separated: `NAME[:MODE][:KEY=VALUE]…[@static|@encoder]`.

    A bare word is a mode, as in `coe:paper`. Without `@` a router works on the best of the tiers there are.

    Raises:
        DataError: no such predictor, tier or setting, or one router twice.
    """
    names = [part.strip() for part in told.split(",") if part.strip()]
    if not names:
        raise DataError("--routers: name one at least")
    if len(set(names)) < len(names):
        raise DataError(f"--routers: {next(n for n in names if names.count(n) > 1)!r} is named twice")
    return [_parse_spec(name, tiers) for name in names]


def _parse_spec(name: str, tiers: Sequence[Tier]) -> RouterSpec:
    body, _, asked = name.partition("@")
    predictor, *pairs = body.split(":")
    if predictor not in PREDICTORS:
        raise DataError(f"--routers: no predictor {predictor!r}; there are {', '.join(sorted(PREDICTORS))}")
    tier = next((tier for tier in tiers if tier == asked), None) if asked else tiers[-1]
    if tier is None:
        raise DataError(f"--routers: {name!r}: no tier {asked!r}; there are {', '.join(tiers)}")
    settings = dict(_setting(name, pair) for pair in pairs)
    try:
        make_predictor(predictor, settings)
    except (ArtifactError, ValueError) as error:
        raise DataError(f"--routers: {name!r}: {error}") from None
    return RouterSpec(name, predictor, settings, tier)


def _setting(name: str, pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not equals and key.isalpha():
        return "mode", key
    if not key or not equals:
        raise DataError(f"--routers: {name!r}: {pair!r} is neither a mode nor KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
