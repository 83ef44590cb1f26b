"""Fits an artifact on an outcome table: heads, calibrated out of fold per tier, and the two-stage margin."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from .artifacts import Artifact, Evidence, TierModel
from .calibration import Advantage, Calibration, calibration_error
from .categories import GENERAL
from .decision_rule import Scale
from .errors import ArtifactError, DataError
from .features import Features, estimate_tokens, query_of
from .fold_fits import FitData, TierFit, fit_tiers
from .outcomes import OutcomeTable
from .predictors.joined import Joined
from .predictors.neighbours import Space, spherical_kmeans
from .predictors.targets import Constant
from .protocols import CategoryExamples, Extractor, Predictor
from .registry import is_published, name_head, parse_head
from .sweep import Sample, sweep
from .types import Floats, Ints, Tier

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done, steps in all."""

_CHUNK = 128
_GROUP_SIZE = 40
_NEVER = -1.0
"""Quality of an expert that declined: below all others, as the engine leaves it out."""


@dataclass(frozen=True, slots=True)
class CategoryTexts:
    """Texts without outcomes that teach categories: examples of each, and texts whose category is unknown.

    names: the closed list of categories, without the general one; () takes them from the table's tasks
    texts, tags: one tag a text, "" where its category is unknown
    """

    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How to fit.

    predictor, settings: the predictor of quality, by its name in the registry
    n_folds: for everything that is learned from out-of-fold predictions
    kept: share of what routing by the encoder gains over the best single expert that `adaptive` must keep
    tiers: the embedder tiers to fit for; None takes every one the extractor has
    heads: further heads by name, on the same features and folds
    categories: what teaches the head `coe` categories beside the table's tasks
    """

    predictor: str = "blend"
    settings: Mapping[str, Any] = field(default_factory=dict)
    n_folds: int = 5
    kept: float = 0.97
    seed: int = 0
    tiers: tuple[Tier, ...] | None = None
    heads: tuple[str, ...] = ()
    categories: CategoryTexts | None = None


def fit_artifact(
    table: OutcomeTable,
    extractor: Extractor,
    settings: FitSettings | None = None,
    progress: Progress | None = None,
    created: str = "",
    n_workers: int = 1,
) -> Artifact:
    """Fit every head and tier on the table, over `n_workers` processes; `created` is recorded as given.

    Raises:
        DataError: fewer than two queries, or an expert without a single score.
        ArtifactError: there is no head of a name that the settings have.
    """
    return cross_fit(table, extractor, settings, progress, created, n_workers)[0]


def cross_fit(
    table: OutcomeTable,
    extractor: Extractor,
    settings: FitSettings | None = None,
    progress: Progress | None = None,
    created: str = "",
    n_workers: int = 1,
) -> tuple[Artifact, Mapping[Tier, Floats]]:
    """The artifact, and per tier the calibrated out-of-fold quality of its default, (n_queries, n_experts).

    Raises:
        DataError: fewer than two queries, or an expert without a single score.
        ArtifactError: there is no head of a name that the settings have.
    """
    chosen = settings or FitSettings()
    first = name_head(chosen.predictor, chosen.settings)
    heads = {name: parse_head(name) for name in chosen.heads} | {first: (chosen.predictor, chosen.settings)}
    _check(table)
    report = progress or (lambda what, done, total: None)
    by_tier = _extract(table.texts, extractor, report, chosen.tiers)
    material = FitData(
        by_tier,
        table.mask_declined(),
        np.log1p(table.output_tokens),  # skewed to the right: in logarithms nearer to a normal
        table.folds(chosen.n_folds),
        table.tasks,
        heads,
        _extract_examples(chosen, extractor, report),
    )
    fitted = fit_tiers(material, n_workers, lambda done, total: report("fitting", done, total))
    groups = _groups(next(iter(by_tier.values())), chosen.seed)
    artifacts: dict[str, Artifact] = {}
    calibrated: dict[str, Mapping[Tier, Floats]] = {}
    for name, (predictor, how) in heads.items():
        one = replace(chosen, predictor=predictor, settings=how, heads=())
        artifact, calibrated[name] = _calibrate(table, fitted[name], extractor, one, groups, created)
        artifacts[name] = _keep_trial(artifact, extractor)
    default = artifacts.pop(first)
    return replace(default, others=artifacts), calibrated[first]


def _calibrate(
    table: OutcomeTable,
    fitted: Mapping[Tier, TierFit],
    extractor: Extractor,
    settings: FitSettings,
    groups: Ints,
    created: str,
) -> tuple[Artifact, Mapping[Tier, Floats]]:
    """One head, and per tier its calibrated out-of-fold quality, (n_queries, n_experts)."""
    tiers: dict[Tier, TierModel] = {}
    calibrated: dict[Tier, Floats] = {}
    lengths: dict[Tier, Floats] = {}
    for tier, fit in fitted.items():
        fingerprint = extractor.fingerprints[tier]
        tiers[tier], calibrated[tier], lengths[tier] = _tier_model(table, fit, fingerprint, settings, groups)
    margin, margins = choose_margin(table.score, calibrated, settings.kept)
    sample = _sample(table, calibrated, lengths)
    artifact = Artifact(
        experts=_evidence(table),
        tiers=tiers,
        latency=_latency_lines(table),
        margin=margin,
        margins=margins,
        provenance=_provenance(table, settings, created),
        sample=sample,
        sweeps=_sweeps(sample, table.means()["cost_usd"]),
        name=name_head(settings.predictor, settings.settings),
    )
    return artifact, calibrated


def _keep_trial(artifact: Artifact, extractor: Extractor) -> Artifact:
    """The artifact with what it predicts now, by which it is tried before it serves; None where it cannot."""
    try:
        trial = artifact.rehearse(extractor)
    except LookupError:  # recorded features: those of other texts cannot be had
        trial = None
    return replace(artifact, trial=trial)


def _check(table: OutcomeTable) -> None:
    if len(table) < 2:
        raise DataError(f"{len(table)} queries are too few to fit on")
    for name, measured in zip(table.experts, (~np.isnan(table.mask_declined())).sum(axis=0), strict=True):
        if not measured:
            raise DataError(f"score: no query has one for expert {name!r}; leave it out or profile it")


def _extract_examples(
    settings: FitSettings, extractor: Extractor, report: Progress
) -> dict[Tier, CategoryExamples]:
    said = settings.categories
    if said is None:
        return {}
    by_tier = _extract(said.texts, extractor, report, settings.tiers)
    return {tier: CategoryExamples(said.names, features, said.tags) for tier, features in by_tier.items()}


def _extract(
    texts: Sequence[str], extractor: Extractor, report: Progress, tiers: tuple[Tier, ...] | None
) -> dict[Tier, Features]:
    wanted = [tier for tier in extractor.fingerprints if tiers is None or tier in tiers]
    queries = [query_of(text) for text in texts]
    cheap = extractor.extract(queries, "static")
    found: dict[Tier, Features] = {"static": cheap} if "static" in wanted else {}
    if "encoder" not in wanted:
        return found
    parts = []
    for start in range(0, len(queries), _CHUNK):
        report("embedding", start, len(queries))
        block = slice(start, start + _CHUNK)
        parts.append(extractor.extract(queries[block], "encoder", cheap.take(block)).dense)
    found["encoder"] = Features("encoder", np.concatenate(parts), cheap.lexical, cheap.form)
    return found


def _tier_model(
    table: OutcomeTable, fit: TierFit, fingerprint: str, settings: FitSettings, groups: Ints
) -> tuple[TierModel, Floats, Floats]:
    """The model, and out of fold its calibrated quality and expected tokens, (n_queries, n_experts) each."""
    raw, score = fit.raw, table.mask_declined()
    # A published rule must choose as published: nothing may reorder its experts.
    published = is_published(settings.settings)
    calibration = Calibration.fit(raw, score, groups, keeps_order=published)
    quality = calibration.apply(raw).mean
    if published:
        advantage = Advantage.none(quality)
    else:
        judged = ~(table.declined == 1).any(axis=0)
        advantage = Advantage.fit(quality, score, table.bucket, judged, raw.novelty)
    quality = advantage.apply(quality, raw.novelty)
    smear = _smear(fit.log_tokens, table.output_tokens)
    model = TierModel(
        fingerprint=fingerprint,
        predictor=settings.predictor,
        quality=fit.quality,
        calibration=calibration,
        advantage=advantage,
        tokens=fit.tokens,
        smear=smear,
        metrics={
            **_metrics(table, raw.mean, quality, float(calibration.spread.mean())),
            "reliability": advantage.reliability,
            **_category_metrics(table, fit),
        },
    )
    expected = np.maximum(np.expm1(fit.log_tokens) * smear, 1.0)
    return model, np.where(table.declined == 1, _NEVER, quality), expected


def _sample(table: OutcomeTable, quality: Mapping[Tier, Floats], tokens: Mapping[Tier, Floats]) -> Sample:
    estimated = np.array([estimate_tokens(text) for text in table.texts], np.float64)
    return Sample(estimated, table.score, quality, tokens).thin()


def _sweeps(sample: Sample, mean_cost_usd: Floats) -> dict[Tier, list[dict[str, float]]]:
    """The λ tables at the costs that were measured; none where some expert's never was."""
    if np.isnan(mean_cost_usd).any():
        return {}
    cost_usd = np.repeat(mean_cost_usd[None], len(sample), axis=0)  # (n_sample, n_experts)
    scale = Scale.of(mean_cost_usd)
    return {
        tier: sweep(quality, sample.score, cost_usd, scale).rows() for tier, quality in sample.quality.items()
    }


def _smear(predicted: Floats, tokens: Floats) -> Floats:
    """(n_experts,) by how much exp of the mean logarithm falls short of the mean; 1 where unmeasured."""
    known = ~np.isnan(tokens) & ~np.isnan(predicted)  # (n_queries, n_experts)
    said = np.where(known, np.expm1(np.where(known, predicted, 0.0)), 0.0).sum(axis=0)
    true = np.where(known, tokens, 0.0).sum(axis=0)
    ratio: Floats = np.divide(true, said, out=np.ones_like(true), where=(said > 0) & (true > 0))
    return np.clip(ratio, 0.2, 5.0)  # a few very long answers may not scale all


def _metrics(table: OutcomeTable, raw: Floats, quality: Floats, spread: float) -> dict[str, float]:
    """Figures of out-of-fold predictions, calibrated on the same rows; accuracy where all were scored."""
    mask_declined = table.mask_declined()
    known = ~np.isnan(mask_declined)
    full = ~np.isnan(table.score).any(axis=1)
    picks = np.where(table.declined == 1, _NEVER, quality)[full].argmax(axis=1)
    figures = {
        "brier": float(((quality - mask_declined)[known] ** 2).mean()),
        "calibration_error_before": calibration_error(np.clip(raw, 0, 1), mask_declined),
        "calibration_error": calibration_error(quality, mask_declined),
        "std_factor": spread,
        "n_complete": float(full.sum()),
    }
    if full.any():
        score = table.score[full]
        figures["accuracy"] = float(score[np.arange(len(score)), picks].mean())
        figures["best_single"] = float(score.mean(axis=0).max())
        figures["oracle"] = float(score.max(axis=1).mean())
    return figures


def _category_metrics(table: OutcomeTable, fit: TierFit) -> dict[str, float]:
    """Out of fold: the share of the queries that go to the general category, and how often a task is told."""
    assigned = fit.categories
    if assigned is None:
        return {}
    figures = {"to_general": sum(name == GENERAL for name in assigned) / len(assigned)}
    if "alpha" in (settings := fit.quality.settings()):
        figures["alpha"] = float(settings["alpha"])
    known = {*assigned}
    pairs = [(task, name) for task, name in zip(table.tasks, assigned, strict=True) if task in known and task]
    if pairs:
        figures["category_accuracy"] = sum(task == name for task, name in pairs) / len(pairs)
    return figures


def _groups(features: Features, seed: int) -> Ints:
    """(n_queries,) groups of about forty queries alike in content and form."""
    rows = Space.of(features, 1.0, None).rows(features)
    centroids = spherical_kmeans(rows, max(1, len(rows) // _GROUP_SIZE), 5, seed)
    nearest: Ints = np.argmax(rows @ centroids.T, axis=1)
    return nearest


def choose_margin(
    score: Floats, quality: Mapping[Tier, Floats], kept: float
) -> tuple[float, list[dict[str, float]]]:
    """The smallest margin that keeps `kept` of the encoder's gain over the best single expert; all tried.

    score, and quality per tier, out of fold: (n_queries, n_experts). Only fully scored queries count.
    """
    full = ~np.isnan(score).any(axis=1)
    if len(quality) < 2 or score.shape[1] < 2 or not full.any():
        return 0.0, []
    rows = np.arange(int(full.sum()))
    cheap, closer, truth = quality["static"][full], quality["encoder"][full], score[full]
    first = truth[rows, cheap.argmax(axis=1)]  # (n_full,) score of the expert that the cheap tier chooses
    second = truth[rows, closer.argmax(axis=1)]  # (n_full,) and of the encoder's
    top = np.sort(cheap, axis=1)  # (n_full, n_experts), ascending
    distance = top[:, -1] - top[:, -2]  # (n_full,)
    table = []
    for share in np.linspace(0, 1, 21):
        threshold = 0.0 if share == 0 else float(np.nextafter(np.quantile(distance, share), np.inf))
        unsure = distance < threshold
        accuracy = float(np.where(unsure, second, first).mean())
        table.append({"margin": threshold, "consulted": float(unsure.mean()), "accuracy": accuracy})
    never, always = table[0]["accuracy"], table[-1]["accuracy"]
    if always <= never:  # the encoder gains nothing on this table
        return 0.0, table
    single = float(truth.mean(axis=0).max())
    asked = always - (1 - kept) * max(always - single, 0.0)
    enough = (row["margin"] for row in table if row["accuracy"] >= asked)
    return next(enough), table


def _evidence(table: OutcomeTable) -> tuple[Evidence, ...]:
    means = {
        name: [None if np.isnan(v) else float(v) for v in values] for name, values in table.means().items()
    }
    score = table.mask_declined()
    counts = (~np.isnan(score)).sum(axis=0).tolist()
    certain = replace(table, score=score).effective_counts().tolist()
    return tuple(
        Evidence(
            name=name,
            model=table.models[e],
            n=counts[e],
            score=float(np.nanmean(score[:, e])),
            cost_usd=means["cost_usd"][e],
            output_tokens=means["output_tokens"][e],
            latency_s=means["latency_s"][e],
            n_effective=None if certain[e] == counts[e] else certain[e],
        )
        for e, name in enumerate(table.experts)
    )


def _latency_lines(table: OutcomeTable) -> Floats:
    """(n_experts, 2) seconds before and per output token by least squares; both ≥ 0; NaN where unmeasured."""
    lines = np.full((table.n_experts, 2), np.nan)
    for e in range(table.n_experts):
        seconds, tokens = table.latency_s[:, e], table.output_tokens[:, e]
        if np.isnan(seconds).all():
            continue
        lines[e] = np.nanmean(seconds), 0.0
        both = ~np.isnan(seconds) & ~np.isnan(tokens)
        if both.sum() >= 2 and tokens[both].std() > 0:
            slope = max(float(np.cov(tokens[both], seconds[both], bias=True)[0, 1] / tokens[both].var()), 0.0)
            start = seconds[both].mean() - slope * tokens[both].mean()
            # No answer begins before its question: then a line through the origin.
            if start < 0:
                start, slope = 0.0, float(seconds[both].sum() / tokens[both].sum())
            lines[e] = start, slope
    return lines


def _provenance(table: OutcomeTable, settings: FitSettings, created: str) -> dict[str, Any]:
    origin = table.provenance
    return {
        "created": created,
        "n_queries": len(table),
        "table": table.fingerprint,
        "source": origin.source,
        "licence": origin.licence,
        "cost_basis": origin.cost_basis,
        "n_folds": settings.n_folds,
        "seed": settings.seed,
        "versions": {name: version(name) for name in ("numpy", "scipy")},
    }


Named = tuple[str, Predictor]


def add_experts(
    artifact: Artifact,
    table: OutcomeTable,
    extractor: Extractor,
    settings: FitSettings | None = None,
    progress: Progress | None = None,
    created: str = "",
) -> Artifact:
    """The artifact with the experts of the table that it does not know yet, fitted on their outcomes alone.

    A subset of the queries the others were measured on is enough, or other queries. The λ tables, which need
    queries all experts were asked, are of the pool before and are left out. Every head learns them.

    Raises:
        DataError: the table has no expert that is new, or fewer than two outcomes of the new ones.
        ArtifactError: a tier is of another embedder, or of one the extractor lacks.
    """
    known = {expert.name for head in _heads(artifact) for expert in head.experts}
    new = [name for name in table.experts if name not in known]
    if not new:
        raise DataError(
            f"experts: the artifact knows {', '.join(table.experts)} already; fit anew to change that"
        )
    tiers = {tier: model for head in _heads(artifact) for tier, model in head.tiers.items()}
    for tier, model in tiers.items():
        if extractor.fingerprints.get(tier) != model.fingerprint:
            raise ArtifactError(
                f"the {tier} tier was fitted on another embedder: add experts with the same one"
            )
    part = table.only(new)
    part = part.take(np.flatnonzero(~np.isnan(part.score).all(axis=1)))
    chosen = replace(settings or FitSettings(), tiers=tuple(tiers), heads=tuple(artifact.others))
    fresh = fit_artifact(part, extractor, chosen, progress, created)
    added = {"experts": new, "created": created, "table": part.fingerprint, "n_queries": len(part)}
    default, *others = (
        _grow(head, fresh if head is artifact else fresh.head(head.name), added, extractor)
        for head in _heads(artifact)
    )
    return replace(default, others={head.name: head for head in others})


def _heads(artifact: Artifact) -> list[Artifact]:
    return [artifact.head(name) for name in artifact.head_names]


def _grow(head: Artifact, fresh: Artifact, added: Mapping[str, Any], extractor: Extractor) -> Artifact:
    """One head with the experts of a fresh one behind its own."""
    grown = replace(
        head,
        experts=(*head.experts, *fresh.experts),
        tiers={tier: _join_models(model, fresh.tiers[tier]) for tier, model in head.tiers.items()},
        latency=np.concatenate((head.latency, fresh.latency)),
        provenance={**head.provenance, "added": [*head.provenance.get("added", []), added]},
        sample=None,
        sweeps={},
    )
    return _keep_trial(grown, extractor)


def keep_experts(fresh: Artifact, earlier: Artifact, extractor: Extractor) -> Artifact:
    """The fresh artifact, and behind the experts of each head those of the earlier one that it does not know.

    What was predicted of these stays as it was: by the earlier head of the same name, else by its default. A
    λ table needs queries that all its experts were asked: it is there for pools of the fresh experts alone.

    Raises:
        ArtifactError: a tier of the fresh artifact has no counterpart on the same embedder.
    """
    default, *others = (
        _keep(head, _find_counterpart(earlier, head.name), extractor) for head in _heads(fresh)
    )
    return replace(default, others={head.name: head for head in others})


def _find_counterpart(earlier: Artifact, name: str) -> Artifact:
    """The head of this name; the default where it is missing or damaged, as the fit makes a new one."""
    try:
        return earlier.head(name if name in earlier.head_names else None)
    except ArtifactError:
        return earlier.head(None)


def _keep(fresh: Artifact, earlier: Artifact, extractor: Extractor) -> Artifact:
    """One head, and behind its experts those of an earlier one."""
    known = {expert.name for expert in fresh.experts}
    kept = np.array([n for n, expert in enumerate(earlier.experts) if expert.name not in known], np.int64)
    if not len(kept):
        return fresh
    if reason := why_not_kept(extractor, earlier):
        raise ArtifactError(reason)
    names = [earlier.experts[n].name for n in kept]
    whole = replace(
        fresh,
        experts=(*fresh.experts, *(earlier.experts[n] for n in kept)),
        tiers={
            tier: _join_models(model, _take_experts(earlier.tiers[tier], kept, extractor, tier))
            for tier, model in fresh.tiers.items()
        },
        latency=np.concatenate((fresh.latency, earlier.latency[kept])),
        provenance={**fresh.provenance, "kept": {"experts": names, "of": dict(earlier.provenance)}},
        sample=fresh.sample and fresh.sample.widen(len(kept)),
        sweeps={},
    )
    return _keep_trial(whole, extractor)


def why_not_kept(extractor: Extractor, earlier: Artifact) -> str:
    """Why experts of the artifact cannot join one that is fitted on these features; "" if they can."""
    for tier, fingerprint in extractor.fingerprints.items():
        if tier not in earlier.tiers:
            return f"it has no {tier} tier"
        if earlier.tiers[tier].fingerprint != fingerprint:
            return f"its {tier} tier was fitted on another embedder"
    return ""


def _take_experts(model: TierModel, columns: Ints, extractor: Extractor, tier: Tier) -> TierModel:
    """The model with some of its experts."""
    nothing = extractor.extract([], tier)
    lengths = model.tokens and _take_columns(_parts(model.tokens_predictor, model.tokens), columns, nothing)
    return replace(
        model,
        predictor="joined",
        quality=_take_columns(_parts(model.predictor, model.quality), columns, nothing),
        calibration=model.calibration.take(columns),
        advantage=model.advantage.take(columns),
        tokens=lengths,
        tokens_predictor="joined",
        smear=model.smear[columns],
    )


def _take_columns(parts: list[Named], columns: Ints, nothing: Features) -> Joined:
    """The parts that speak for these experts; the others go, so that repeated fits do not pile them up."""
    needed: list[Named] = []
    place: dict[int, int] = {}  # column of all parts -> column of the needed ones
    first = 0
    for name, part in parts:
        n_experts = part.predict(nothing).mean.shape[1]
        mine = range(first, first + n_experts)
        if any(column in mine for column in columns):
            start = len(place)
            place.update({column: start + n for n, column in enumerate(mine)})
            needed.append((name, part))
        first += n_experts
    return Joined.of(needed, [place[column] for column in columns.tolist()])


def _join_models(old: TierModel, new: TierModel) -> TierModel:
    """One model of both; its figures stay those of the experts it was first fitted on."""
    lengths = None
    if old.tokens is not None or new.tokens is not None:
        lengths = Joined.of([*_length_parts(old), *_length_parts(new)])
    return replace(
        old,
        predictor="joined",
        quality=Joined.of([*_parts(old.predictor, old.quality), *_parts(new.predictor, new.quality)]),
        calibration=old.calibration.concat(new.calibration),
        advantage=old.advantage.concat(new.advantage),
        tokens=lengths,
        tokens_predictor="joined",
        smear=np.concatenate((old.smear, new.smear)),
    )


def _parts(name: str, predictor: Predictor) -> list[Named]:
    """The parts of a joined predictor, unless it leaves out some of their experts."""
    if isinstance(predictor, Joined) and predictor.columns is None:
        return predictor.parts_with_names
    return [(name, predictor)]


def _length_parts(model: TierModel) -> list[Named]:
    """Length predictors; a constant stands in where no length was measured, and is never read."""
    if model.tokens is not None:
        return _parts(model.tokens_predictor, model.tokens)
    blank = Constant()
    blank.mean_, blank.std_ = np.zeros_like(model.smear), np.zeros_like(model.smear)
    return [("constant", blank)]
