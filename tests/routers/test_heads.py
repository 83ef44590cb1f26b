"""Several heads in one artifact: fitted side by side, kept to the byte, read when asked for."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from policies import Engine, Fleet, Policy
from routers import (
    PREDICTORS,
    Artifact,
    ArtifactError,
    Categorizer,
    ExpertProfile,
    Features,
    FitSettings,
    Forecaster,
    OutcomeTable,
    Query,
    Tier,
    add_experts,
    fit_artifact,
    keep_experts,
    list_heads,
    make_predictor,
    pick,
    query_of,
)
from routers.artifacts import read_origin
from routers.registry import PUBLISHED, name_head, parse_head
from routers.types import HeadName

NAMES: tuple[str, ...] = get_args(HeadName)
PAPERS = tuple(name for name in NAMES if name.endswith(PUBLISHED))
QUICK = FitSettings("knn", n_folds=2, heads=("coe", "constant"))
EXPERTS = ("ada", "bob", "cyd", "dot")


class RandomExtractor:
    """Features drawn from the number in a text such as "query 17"; the first five columns say something."""

    def __init__(self, *tiers: Tier) -> None:
        self.fingerprints: dict[Tier, str] = {tier: tier for tier in tiers or ("static",)}
        self.n_extracted = 0

    def extract(self, queries: Any, tier: Tier, reuse: Features | None = None) -> Features:
        self.n_extracted += len(queries)
        words = [query.text.split()[-1] for query in queries]
        numbers = [int(word) if word.isdigit() else len(word) for word in words]
        return draw(numbers, tier)


def draw(numbers: Any, tier: Tier = "static") -> Features:
    rows = [np.random.default_rng(number) for number in numbers]
    dense = np.array([rng.normal(size=12) for rng in rows], np.float32).reshape(-1, 12)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    lexical = np.array([np.sort(rng.integers(0, 60, 12)) for rng in rows], np.int64).reshape(-1, 12)
    form = np.array([rng.random(5) for rng in rows]).reshape(-1, 5)
    return Features(tier, dense, lexical, form)


def table(n: int = 240, experts: tuple[str, ...] = EXPERTS) -> OutcomeTable:
    """Outcomes that hang on the features, in one of three tasks each."""
    numbers = np.arange(n)
    dense = draw(numbers).dense.astype(float)
    columns = [EXPERTS.index(name) for name in experts]
    score = (dense[:, columns] + np.random.default_rng(1).normal(0, 0.2, (n, len(columns))) > 0).astype(float)
    tasks = [("sum", "verse", "code")[int(row[:3].argmax())] for row in dense]
    measures = {"score": score, "output_tokens": 10.0 + 20 * score, "cost_usd": np.full(score.shape, 1e-3)}
    return OutcomeTable.build([f"query {i}" for i in numbers], list(experts), measures, tasks=tasks)


def read_bytes(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "manifest.json").read_bytes(), (folder / "arrays.npz").read_bytes()


@pytest.fixture(scope="module")
def several() -> Artifact:
    return fit_artifact(table(), RandomExtractor(), QUICK)


def _has_mode(predictor: str, mode: str) -> bool:
    try:
        return bool(make_predictor(predictor, {"mode": mode}).settings()["mode"] == mode)
    except ArtifactError:
        return False


def test_every_predictor_and_each_published_mode_of_one_is_a_head() -> None:
    assert {parse_head(name)[0] for name in NAMES} == PREDICTORS.keys() - {"joined"}
    for name in NAMES:
        predictor, settings = parse_head(name)
        assert name_head(predictor, make_predictor(predictor, settings).settings()) == name
    modes = {(name, mode) for name in PREDICTORS for mode in PUBLISHED if _has_mode(name, mode)}
    assert modes == {(parse_head(name)[0], parse_head(name)[1]["mode"]) for name in PAPERS}
    assert name_head("joined", {"parts": [["coe", {"mode": "paper"}], ["knn", {}]]}) == "coe-paper"
    assert name_head("joined", {}) == "joined"
    with pytest.raises(ArtifactError, match="no head 'oracle'; there are blend, "):
        parse_head("oracle")


def test_heads_fitted_together_are_those_fitted_alone(several: Artifact) -> None:
    assert several.head_names == ("knn", "coe", "constant")
    features = draw(range(500, 520))
    for name in several.head_names:
        alone = fit_artifact(table(), RandomExtractor(), FitSettings(name, n_folds=2))
        one, other = alone.tiers["static"], several.head(name).tiers["static"]
        assert one.quality.predict(features).mean.tobytes() == other.quality.predict(features).mean.tobytes()
        assert one.calibration.slope.tobytes() == other.calibration.slope.tobytes()
        assert one.tokens is not None
        assert other.tokens is not None
        lengths = [model.predict(features).mean.tobytes() for model in (one.tokens, other.tokens)]
        assert lengths[0] == lengths[1]
        assert one.metrics == other.metrics


def test_features_are_computed_once_however_many_heads_there_are() -> None:
    counts = []
    for heads in ((), ("coe", "constant", "linear")):
        extractor = RandomExtractor()
        fit_artifact(table(), extractor, FitSettings("knn", n_folds=2, heads=heads))
        # Each head tries itself out on a few texts, after the table's were read.
        counts.append(extractor.n_extracted - 12 * (1 + len(heads)))
    assert counts == [240, 240]


def test_a_head_is_renewed_and_the_others_stay_to_the_byte(several: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "a"
    several.save(path)
    assert list_heads(path) == ("knn", "coe", "constant")
    before = {name: read_bytes(path / "heads" / name) for name in ("coe", "constant")}
    root, origin = read_bytes(path), read_origin(path)
    fresh = fit_artifact(table(120), RandomExtractor(), FitSettings("coe", n_folds=2), created="now")
    fresh.save(path, keep_heads=list_heads(path), default="knn")
    assert read_bytes(path) == root
    assert read_bytes(path / "heads/constant") == before["constant"]
    assert read_bytes(path / "heads/coe") != before["coe"]
    assert Artifact.load(path).head("coe").provenance["n_queries"] == 120
    assert read_origin(path) != origin
    fit_artifact(table(), RandomExtractor(), FitSettings("linear", n_folds=2)).save(
        path, keep_heads=list_heads(path), default="knn"
    )
    assert list_heads(path) == ("knn", "coe", "constant", "linear")
    assert read_bytes(path) == root
    several.head("coe").save(path, keep_heads=("constant",))
    assert list_heads(path) == ("coe", "constant")


def test_a_head_is_read_when_it_is_first_asked_for(several: Artifact, tmp_path: Path) -> None:
    several.save(tmp_path / "a")
    (tmp_path / "a/heads/constant/arrays.npz").write_bytes(b"damaged")
    loaded = Artifact.load(tmp_path / "a", mapped=True)
    features = draw(range(500, 509))
    for name in ("knn", "coe"):
        quality = [a.head(name).tiers["static"].quality.predict(features).mean for a in (several, loaded)]
        assert quality[0].tobytes() == quality[1].tobytes()
    with pytest.raises(ArtifactError, match="heads/constant: damaged"):
        loaded.head("constant")


def test_a_head_that_is_not_there_is_refused_with_the_fix(several: Artifact) -> None:
    with pytest.raises(ArtifactError) as refused:
        several.head("tryage")
    assert str(refused.value) == (
        "no head 'tryage', there are knn, coe, constant; `thalamus fit --head tryage` adds it"
    )


@pytest.mark.parametrize("schema", [1, 2])
def test_an_artifact_from_before_there_were_heads_is_one_head(schema: int, tmp_path: Path) -> None:
    fit_artifact(table(), RandomExtractor(), FitSettings("coe", {"mode": "paper"}, 2)).save(tmp_path / "a")
    file = tmp_path / "a/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["heads"] = manifest.pop("tiers")
    del manifest["head"], manifest["digest"]
    file.write_text(json.dumps({**manifest, "schema": schema}))
    assert list_heads(tmp_path / "a") == ("coe-paper",)
    loaded = Artifact.load(tmp_path / "a", {"static": "static"})
    assert (loaded.head_names, list(loaded.tiers)) == (("coe-paper",), ["static"])
    loaded.save(tmp_path / "a")
    assert json.loads(file.read_text())["head"] == "coe-paper"


def test_new_experts_are_learned_by_every_head() -> None:
    two = fit_artifact(table(experts=EXPERTS[:2]), RandomExtractor(), QUICK)
    grown = add_experts(two, table(120, EXPERTS[2:]), RandomExtractor(), FitSettings("knn", n_folds=2))
    pool = [ExpertProfile(name, name) for name in EXPERTS]
    for name in grown.head_names:
        assert [expert.name for expert in grown.head(name).experts] == list(EXPERTS)
        prediction = Forecaster(pool, grown, name).predict([query_of("query 1")], draw([1]))
        assert prediction.head == name
        assert prediction.evidence.all()


def test_experts_that_are_kept_are_kept_by_every_head(several: Artifact) -> None:
    fresh = fit_artifact(table(experts=EXPERTS[:2]), RandomExtractor(), QUICK)
    whole = keep_experts(fresh, several, RandomExtractor())
    features = draw(range(900, 920))
    for name in whole.head_names:
        now, before = (a.head(name).tiers["static"].quality.predict(features).mean for a in (whole, several))
        assert now[:, 2:].tobytes() == before[:, 2:].tobytes()


def test_categories_are_told_whatever_head_predicts(several: Artifact, tmp_path: Path) -> None:
    several.save(tmp_path / "a")
    pool, queries = (
        [ExpertProfile(name, name) for name in EXPERTS],
        [query_of(f"query {n}") for n in range(50)],
    )
    features = draw(range(50))
    coe = several.head("coe").tiers["static"].quality
    assert isinstance(coe, Categorizer)
    for name in ("knn", "coe", "constant"):
        prediction = Forecaster(pool, Artifact.load(tmp_path / "a"), name).predict(queries, features)
        assert prediction.categories == coe.categories(features)
    assert len(set(coe.categories(features))) > 1
    silent = Forecaster(pool, several, categories=False)
    assert (silent.has_categories, silent.predict(queries, features).categories) == (False, None)


@pytest.mark.parametrize("name", PAPERS)
def test_a_published_mode_chooses_as_published(name: str) -> None:
    predictor, settings = parse_head(name)
    artifact = fit_artifact(table(), RandomExtractor(), FitSettings(predictor, settings, n_folds=2))
    pool = [ExpertProfile(expert, expert) for expert in EXPERTS]
    queries = [Query(f"query {i}", 9) for i in range(1000)]
    # Far from what was fitted on, so that lines leave [0, 1].
    features = draw(range(5000, 6000))
    features = Features("static", 4 * features.dense, features.lexical, 9 * features.form)
    prediction = Forecaster(pool, artifact).predict(queries, features)
    engine = Engine(pool)
    decisions = engine.decide(Policy("auto"), queries, prediction, Fleet.idle(len(pool)))
    raw = artifact.tiers["static"].quality.predict(features).mean
    published = [EXPERTS[e] for e in pick(raw, prediction.cost_usd).tolist()]
    assert sum(d.chosen == e for d, e in zip(decisions, published, strict=True)) == 1000
    assert ((prediction.quality > 0) & (prediction.quality < 1)).all()
