"""Plans compared on an outcome table: one expert, and panels by every rule, with the paper's ablations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec
import numpy as np

from policies import SKILL_MODES, HeadNeeds, PanelRule, Policy
from routers import (
    DataError,
    FitSettings,
    Floats,
    Ints,
    OutcomeTable,
    StaticEmbedder,
    fit_artifact,
    parse_head,
)
from routers.skills import NamedSkills, find_keywords

from .console import OnProgress
from .measures.bootstrap import interval_of_difference
from .replay import RecordedExtractor, Replay, oracle_of, queries_of, replay
from .splits import EvalProtocol

SINGLE, PANEL, BEST_SINGLE = "single", "panel", "best single"
PAPER = "panel:k={k}:keywords=text:predictor=skills-paper:draw=with_replacement:trim=0.05"
"""How the paper recruits, with keywords that are found in the text."""


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """A plan by name, as the policy that makes it."""

    name: str
    policy: Policy


def parse_plan_specs(text: str) -> list[PlanSpec]:
    """Plans from their names, comma-separated: `single`, or `panel[:KEY=VALUE]…` with the keys of a panel.

    Raises:
        DataError: no such plan, key or value, or one plan twice.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise DataError("--plans: name one at least, such as single,panel:k=3")
    if len(set(names)) < len(names):
        raise DataError(f"--plans: {next(n for n in names if names.count(n) > 1)!r} is named twice")
    return [_parse_spec(name) for name in names]


def _parse_spec(name: str) -> PlanSpec:
    kind, *pairs = name.split(":")
    if kind not in (SINGLE, PANEL) or (kind == SINGLE and pairs):
        raise DataError(f"--plans: no plan {name!r}; there are single, and panel:KEY=VALUE…")
    if kind == SINGLE:
        return PlanSpec(name, Policy("auto", encoder="always"))
    known = [field.name for field in fields(PanelRule)]
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise DataError(f"--plans: {name!r}: {pair!r} is no KEY=VALUE; keys: {', '.join(known)}")
        given[key] = value
    try:
        rule = msgspec.convert(given, PanelRule, strict=False)
    except msgspec.ValidationError as error:
        raise DataError(f"--plans: {name!r}: {error}") from None
    if rule.k < 1:
        raise DataError(f"--plans: {name!r}: k must be 1 or more")
    if rule.keywords and (rule.keywords != "text" or rule.predictor not in SKILL_MODES):
        raise DataError(
            f"--plans: {name!r}: no expert is called here, so keywords is text; predictor is one of"
            f" {', '.join(mode for mode in SKILL_MODES if mode)}"
        )
    if rule.head is not None:
        parse_head(rule.head)
    return PlanSpec(name, Policy("auto", encoder="always", panel=rule))


def add_ablations(specs: Sequence[PlanSpec]) -> list[PlanSpec]:
    """The plans, a single expert first, and for each size of a panel those that the paper compares with."""
    sizes = sorted({spec.policy.panel.k for spec in specs if spec.policy.panel})
    names = [SINGLE, *(spec.name for spec in specs)]
    for k in sizes:
        names += [f"panel:k={k}:draw=random", f"panel:k={k}:predictor=constant", PAPER.format(k=k)]
    known = {spec.name: spec for spec in specs}
    return [known.get(name) or _parse_spec(name) for name in dict.fromkeys(names)]


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What a plan was worth on the tested queries, in the order they were tested; arrays are (n_tested,).

    best:       the best score among those asked
    aggregated: the expected score if the best aggregator weighed the answers, NaN where none was tried
    asked:      the names of those asked, in the order of the pool
    """

    score: Floats
    cost_usd: Floats
    by_proxy: Floats
    best: Floats
    aggregated: Floats
    asked: tuple[tuple[str, ...], ...]


def evaluate_plans(
    protocol: EvalProtocol,
    specs: Sequence[PlanSpec],
    read: RecordedExtractor,
    on_progress: OnProgress,
    trials: Mapping[tuple[str, str], float] | None = None,
) -> dict[str, PlanResult]:
    """Every plan on every test part, decided by what was fitted on the training part; best single first.

    trials: score as aggregator by (id of the query, expert); those of test queries are not learned from
    """
    needs = [HeadNeeds.of(spec.policy) for spec in specs]
    heads = {one.recruiter for one in needs} | {one.predictor for one in needs}
    wanted = FitSettings(heads=tuple(sorted(name for name in heads if name and name != "blend")))
    parts: dict[str, list[PlanResult]] = {}
    for n, split in enumerate(protocol.splits):
        on_progress("replaying plans", n, len(protocol.splits))
        train, test = protocol.table.take(split.train), protocol.table.take(split.test)
        artifact = fit_artifact(train, read, replace(wanted, seed=split.seed))
        named = NamedSkills.fit(train, StaticEmbedder(), trials=trials)
        weighs = _expect_of_aggregators(named, test) if trials else np.full(len(test), np.nan)
        picks = np.full(len(test), train.best_single(), np.int64)
        parts.setdefault(BEST_SINGLE, []).append(_look_up_single(test, picks))
        for spec in specs:
            found = replay(test, artifact, read, spec.policy, named)
            parts.setdefault(spec.name, []).append(_look_up(test, found, weighs))
    return {name: _join(results) for name, results in parts.items()}


def _expect_of_aggregators(named: NamedSkills, test: OutcomeTable) -> Floats:
    """(n_queries,) the chance that the best aggregator is right where a right answer is shown to it."""
    pairs = list(zip(test.experts, test.models, strict=True))
    words = [find_keywords(query) for query in queries_of(test)]
    weighs = named.recruit(words, named.align(pairs)).weighs  # (n_queries, n_experts)
    best: Floats = np.nan_to_num(weighs, nan=-1.0).max(axis=1)
    return np.where(best < 0, np.nan, best)


def _look_up(test: OutcomeTable, found: Replay, weighs: Floats) -> PlanResult:
    column = {name: e for e, name in enumerate(test.experts)}
    votes = np.zeros(test.score.shape, np.int64)  # (n_queries, n_experts)
    for row, decision in enumerate(found.decisions):
        members = decision.plan.parts().get("members") or decision.plan.experts[:1]
        votes[row, [column[name] for name in members]] = 1
    best = oracle_of(test.score, votes)
    several = votes.sum(axis=1) > 1
    aggregated = np.where(several, (best >= 0.5) * weighs, found.score)
    return PlanResult(
        found.score, found.cost_usd, found.by_proxy.astype(np.float64), best, aggregated, _name(test, votes)
    )


def _look_up_single(test: OutcomeTable, picks: Ints) -> PlanResult:
    rows = np.arange(len(test))
    score = test.score[rows, picks]
    votes = np.zeros(test.score.shape, np.int64)
    votes[rows, picks] = 1
    blank = np.zeros(len(test))
    return PlanResult(score, test.cost_usd[rows, picks], blank, score, score, _name(test, votes))


def _name(test: OutcomeTable, votes: Ints) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(test.experts[e] for e in np.flatnonzero(row).tolist()) for row in votes)


def _join(results: Sequence[PlanResult]) -> PlanResult:
    arrays = {
        field.name: np.concatenate([getattr(one, field.name) for one in results])
        for field in fields(PlanResult)
        if field.name != "asked"
    }
    return PlanResult(**arrays, asked=tuple(names for one in results for names in one.asked))


def summarize_plans(found: Mapping[str, PlanResult]) -> dict[str, dict[str, Any]]:
    """The figures of each plan; differences are over the single expert that routing asks, in pairs."""
    routed = found[SINGLE].score
    figures: dict[str, dict[str, Any]] = {}
    for name, result in found.items():
        over = interval_of_difference(result.score, routed)
        sets = Counter(result.asked)
        known = ~np.isnan(result.aggregated)
        figures[name] = {
            "accuracy": float(np.nanmean(result.score)),
            "over_single": [over.value, over.low, over.high],
            "best_of_those_asked": float(np.nanmean(result.best)),
            "with_aggregator": float(result.aggregated[known].mean()) if known.any() else None,
            "calls": float(np.mean([len(names) for names in result.asked])),
            "cost_usd": None if np.isnan(result.cost_usd).all() else float(np.nanmean(result.cost_usd)),
            "by_proxy": float(result.by_proxy.mean()),
            "n": len(result.score),
            "sets": [{"experts": list(names), "n": n} for names, n in sets.most_common(5)],
            "n_sets": len(sets),
        }
    return figures


def render_plans(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line for each plan, and how its figures came about."""
    lines = [
        "| plan | right | over single, 95 % | best of those asked | with aggregator | calls | sets "
        "| $ per 1,000 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in figures.items():
        value, low, high = row["over_single"]
        over = "" if name == SINGLE else f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        joint = "" if row["with_aggregator"] is None else f"{100 * row['with_aggregator']:.1f}"
        cost = "" if row["cost_usd"] is None else f"{1000 * row['cost_usd']:.3g}"
        star, best = " *" if row["by_proxy"] else "", f"{100 * row['best_of_those_asked']:.1f}"
        lines.append(
            f"| {name}{star} | {100 * row['accuracy']:.1f} | {over} | {best} | {joint} "
            f"| {row['calls']:.2f} | {row['n_sets']} | {cost} |"
        )
    if any(row["by_proxy"] for row in figures.values()):
        lines += [
            "",
            "* Answers were not recorded: right is where over half of the votes score at least 0.5",
        ]
    panels = [row for name, row in figures.items() if name.startswith(PANEL)]
    if any(row["with_aggregator"] is not None for row in panels):
        lines += [
            "",
            "With aggregator: expected by trials, where a member's answer is right",
        ]
    return "\n".join(lines)
