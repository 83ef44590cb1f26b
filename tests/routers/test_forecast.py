import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from routers import (
    Artifact,
    ArtifactError,
    DataError,
    Estimate,
    ExpertProfile,
    FeatureExtractor,
    Features,
    FitSettings,
    Forecaster,
    HashingEmbedder,
    OutcomeTable,
    Query,
    Tier,
    artifacts,
    fit_artifact,
    query_of,
)
from routers.calibration import Advantage, Calibration, prediction_interval, rate_interval, rate_std
from routers.fit import choose_margin, cross_fit
from routers.predictors.blend import Blend

WORDS = ["sum", "add", "times", "capital", "river", "poem"]


class WordExtractor:
    """A feature extractor that reads six words; its encoder tells more of them apart than its cheap tier."""

    def __init__(self, tiers: tuple[Tier, ...] = ("static", "encoder"), mark: str = "") -> None:
        self._tiers = tiers
        self._mark = mark

    @property
    def fingerprints(self) -> dict[Tier, str]:
        return {tier: f"reader-{tier}{self._mark}" for tier in self._tiers}

    def extract(self, queries: Any, tier: Tier, reuse: Features | None = None) -> Features:
        texts = [query.text for query in queries]
        known = WORDS[:3] if tier == "static" else WORDS
        dense = np.array([[word in text for word in known] + [0.3] for text in texts], np.float32)
        dense = dense.reshape(-1, len(known) + 1)
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
        lexical = np.array([[WORDS.index(word) if word in text else -1 for word in WORDS] for text in texts])
        form = np.array([[len(text) / 50, text.count("a")] for text in texts], float).reshape(-1, 2)
        return Features(tier, dense, lexical.reshape(-1, 6).astype(np.int64), form)


def table(n: int = 240, **measures: Any) -> OutcomeTable:
    """Expert `calc` is right on the first three words, `bard` on the last three; `calc` answers briefly."""
    texts = [f"{WORDS[i % 6]} number {'abcdefgh'[i % 8]} {i}" for i in range(n)]
    numeric = np.arange(n) % 6 < 3
    held: Mapping[str, Any] = {
        "score": np.stack([numeric, ~numeric], 1).astype(float),
        "cost_usd": np.tile([0.001, 0.01], (n, 1)),
        "output_tokens": np.tile([5.0, 200.0], (n, 1)) + np.arange(n)[:, None] % 3,
        "latency_s": 0.1 + 0.01 * (np.tile([5.0, 200.0], (n, 1)) + np.arange(n)[:, None] % 3),
    } | measures
    return OutcomeTable.build(texts, ["calc", "bard"], held, models=["tool/calc", "openai/bard"])


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return fit_artifact(table(), WordExtractor(), created="today")


CALC = ExpertProfile("calc", "tool/calc", 0.0, 0.0)
BARD = ExpertProfile("bard", "openai/bard", 1e-6, 2e-6)


def make_queries(*texts: str, **changes: Any) -> tuple[list[Query], Features]:
    queries = [msgspec.structs.replace(query_of(text), **changes) for text in texts]
    return queries, WordExtractor().extract(queries, "encoder")


def test_each_query_goes_to_the_expert_that_was_right_on_its_like(artifact: Artifact) -> None:
    prediction = Forecaster([BARD, CALC], artifact).predict(
        *make_queries("times number c 1", "poem number d 2")
    )
    assert prediction.experts == ("bard", "calc")
    assert prediction.quality.argmax(axis=1).tolist() == [1, 0]
    assert prediction.evidence.all()
    assert prediction.tier == "encoder"


@pytest.mark.parametrize("tier", ["static", "encoder"])
def test_differences_that_are_not_trusted_send_every_query_to_the_best_on_average(
    artifact: Artifact, tier: Tier
) -> None:
    typical = np.array([0.4, 0.6])
    distrust = Advantage(typical, np.array([True, True]), 0.0)
    tiers = {name: replace(head, advantage=distrust) for name, head in artifact.tiers.items()}
    doubting = Forecaster([CALC, BARD], replace(artifact, tiers=tiers))
    queries = [query_of(text) for text in ("sum number c 1", "poem number c 1")]
    features = WordExtractor().extract(queries, tier)
    assert Forecaster([CALC, BARD], artifact).predict(queries, features).quality.argmax(axis=1).tolist() == [
        0,
        1,
    ]
    quality = doubting.predict(queries, features).quality
    assert quality.argmax(axis=1).tolist() == [1, 1]


def test_a_novel_query_goes_to_the_best_on_average_where_its_lead_is_not_reached(artifact: Artifact) -> None:
    model = artifact.tiers["static"]
    assert model.advantage.lead > 0
    leading = Advantage(np.array([0.4, 0.6]), np.array([True, True]), 1.0, lead=2.0)
    tiers = {**artifact.tiers, "static": replace(model, advantage=leading)}
    queries = [query_of("sum number c 1"), query_of("sum " + "banana " * 400)]
    features = WordExtractor().extract(queries, "static")
    novelty = model.quality.predict(features).novelty
    assert novelty is not None
    assert novelty[0] < 0.7 < 1 < novelty[1]
    plain = Forecaster([CALC, BARD], artifact).predict(queries, features).quality
    led = Forecaster([CALC, BARD], replace(artifact, tiers=tiers)).predict(queries, features).quality
    assert plain[0].argmax() == led[0].argmax() == 0
    assert led[1].argmax() == 1


def test_the_price_is_input_and_expected_output_times_what_they_cost(artifact: Artifact) -> None:
    prediction = Forecaster([CALC, BARD], artifact).predict(
        *make_queries("sum number c 1", n_input_tokens=1000)
    )
    assert prediction.cost_usd[0, 0] == 0
    assert prediction.output_tokens[0] == pytest.approx([6, 201], rel=0.2)
    assert prediction.cost_usd[0, 1] == pytest.approx(1000e-6 + prediction.output_tokens[0, 1] * 2e-6)


def test_what_stands_before_every_conversation_is_paid_for(artifact: Artifact) -> None:
    query = make_queries("sum number c 1")
    for known in (artifact, None):
        bare = Forecaster([CALC, BARD], known)
        long = Forecaster([CALC, replace(BARD, prefix_tokens=2000)], known)
        rise = long.predict(*query).cost_usd - bare.predict(*query).cost_usd
        assert rise[0] == pytest.approx([0, 2000e-6])
        assert long.mean_cost_usd - bare.mean_cost_usd == pytest.approx([0, 2000e-6])


def test_an_experts_own_limit_on_its_answers_counts_beside_the_requests(artifact: Artifact) -> None:
    for known in (artifact, None):
        forecaster = Forecaster([CALC, replace(BARD, max_output_tokens=20)], known)
        for limit, expected in ((None, 20), (100, 20), (7, 7)):
            prediction = forecaster.predict(*make_queries("sum", n_input_tokens=50, max_output_tokens=limit))
            assert prediction.output_tokens[0, 1] == expected
            assert prediction.cost_usd[0, 1] == pytest.approx(50e-6 + expected * 2e-6)
        assert forecaster.mean_cost_usd[1] == pytest.approx(256e-6 + 20 * 2e-6)


def test_a_limit_on_the_answer_limits_the_price_and_the_wait(artifact: Artifact) -> None:
    forecaster = Forecaster([CALC, BARD], artifact)
    free = forecaster.predict(*make_queries("sum number c 1"))
    capped = forecaster.predict(*make_queries("sum number c 1", max_output_tokens=20))
    assert capped.output_tokens.max() == 20
    assert capped.cost_usd[0, 1] < free.cost_usd[0, 1]
    assert capped.latency_s[0, 1] < free.latency_s[0, 1]


def test_a_limit_beyond_64_bits_limits_nothing(artifact: Artifact) -> None:
    forecaster = Forecaster([CALC, BARD], artifact)
    free = forecaster.predict(*make_queries("sum number c 1"))
    huge = forecaster.predict(*make_queries("sum number c 1", max_output_tokens=10**26))
    assert np.array_equal(huge.output_tokens, free.output_tokens)
    assert huge.cost_usd.dtype == huge.output_tokens.dtype == np.float64


def test_an_unknown_price_is_the_measured_mean_or_unknown_but_never_zero(artifact: Artifact) -> None:
    pool = [
        replace(BARD, input_usd_per_token=None, output_usd_per_token=None),
        ExpertProfile("new", "openai/new"),
    ]
    prediction = Forecaster(pool, artifact).predict(*make_queries("sum number c 1"))
    assert prediction.cost_usd[0, 0] == pytest.approx(0.01)
    assert np.isnan(prediction.cost_usd[0, 1])


def test_latency_follows_the_answers_length_or_the_profile(artifact: Artifact) -> None:
    pool = [BARD, ExpertProfile("new", "openai/new", latency_s=7.0), ExpertProfile("newer", "openai/newer")]
    prediction = Forecaster(pool, artifact).predict(*make_queries("sum number c 1"))
    assert prediction.latency_s[0, 0] == pytest.approx(0.1 + 0.01 * prediction.output_tokens[0, 0], rel=0.05)
    assert prediction.latency_s[0, 1] == 7
    assert np.isnan(prediction.latency_s[0, 2])


def test_evidence_for_another_model_warns_and_counts_as_none(artifact: Artifact) -> None:
    forecaster = Forecaster([CALC, replace(BARD, model="openai/bard-2")], artifact)
    prediction = forecaster.predict(*make_queries("poem number c 1"))
    assert prediction.evidence.tolist() == [True, False]
    assert forecaster.warnings == (
        "expert 'bard': the artifact's evidence is for model 'openai/bard',"
        " not for 'openai/bard-2'; it is not used",
    )


def test_evidence_that_names_no_provider_is_about_the_model_at_any(artifact: Artifact) -> None:
    bare = replace(
        artifact, experts=tuple(replace(e, model=e.model.partition("/")[2]) for e in artifact.experts)
    )
    assert Forecaster([BARD], bare).predict(*make_queries("poem number c 1")).evidence.tolist() == [True]
    assert Forecaster([replace(BARD, model="openai/bar")], bare).warnings


def test_an_expert_without_evidence_gets_its_configured_quality_and_at_most_the_pools_mean(
    artifact: Artifact,
) -> None:
    low, high = (ExpertProfile(str(quality), "m", quality=quality) for quality in (0.1, 0.9))
    pool = [CALC, BARD, ExpertProfile("new", "m"), low, high]
    for features in (make_queries("poem number c 1")[1], None):
        prediction = Forecaster(pool, artifact).predict(make_queries("poem number c 1")[0], features)
        # More would send all traffic to an expert of which nothing is known.
        assert prediction.quality[0, [2, 4]] == pytest.approx(prediction.quality[0, :2].mean())
        assert prediction.quality[0, 3] == 0.1
        assert prediction.quality_std[0, 2] > prediction.quality_std[0, :2].max()
        assert prediction.evidence.tolist() == [True, True, False, False, False]


def test_without_an_artifact_everything_is_a_prior_without_evidence() -> None:
    forecaster = Forecaster([BARD, ExpertProfile("told", "m", quality=0.9)], None)
    prediction = forecaster.predict(*make_queries("poem number c 1"))
    assert (prediction.tier, forecaster.tiers, forecaster.margin) == ("prior", (), 0.0)
    assert prediction.quality.tolist() == [[0.5, 0.9]]
    assert not prediction.evidence.any()


def test_without_features_the_means_of_the_evidence_are_the_prior(artifact: Artifact) -> None:
    prediction = Forecaster([CALC, BARD], artifact).predict([query_of("poem")], None)
    assert prediction.tier == "prior"
    assert prediction.quality.tolist() == [[0.5, 0.5]]
    assert prediction.evidence.all()


def test_a_mean_that_is_no_number_is_no_evidence(artifact: Artifact) -> None:
    calc, bard = artifact.experts
    damaged = replace(artifact, experts=(replace(calc, score=float("nan")), bard))
    prediction = Forecaster([CALC, BARD], damaged).predict([query_of("poem")], None)
    assert prediction.quality.tolist() == [[0.5, 0.5]]
    assert np.isfinite(prediction.quality_std).all()


def test_a_batch_is_forecast_as_its_queries_one_by_one(artifact: Artifact) -> None:
    forecaster = Forecaster([BARD, CALC, ExpertProfile("new", "m")], artifact)
    queries, features = make_queries("sum number c 1", "poem number d 2", "river number a 3")
    batch = forecaster.predict(queries, features)
    for row, query in enumerate(queries):
        single = forecaster.predict([query], features.take(slice(row, row + 1)))
        np.testing.assert_allclose(single.quality[0], batch.quality[row], rtol=1e-5)
        np.testing.assert_allclose(single.cost_usd[0], batch.cost_usd[row], rtol=1e-5)


def test_no_query_gives_an_empty_prediction(artifact: Artifact) -> None:
    prediction = Forecaster([BARD, CALC], artifact).predict([], WordExtractor().extract([], "encoder"))
    assert prediction.quality.shape == prediction.cost_usd.shape == (0, 2)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_saved_artifact_predicts_the_same_bits(artifact: Artifact, tmp_path: Any, mapped: bool) -> None:
    artifact.save(tmp_path / "a")
    read = Artifact.load(tmp_path / "a", WordExtractor().fingerprints, mapped=mapped)
    assert read.manifest() == artifact.manifest()
    first, second = (
        Forecaster([BARD, CALC], held).predict(*make_queries("sum number c 1")) for held in (artifact, read)
    )
    for name in ("quality", "quality_std", "output_tokens", "cost_usd", "latency_s"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_a_mapped_artifact_is_not_copied_and_outlives_its_replacement(
    artifact: Artifact, tmp_path: Any
) -> None:
    artifact.save(tmp_path / "a")
    arrays = artifacts._read_files(tmp_path / "a", mapped=True)[1]
    with np.load(tmp_path / "a" / "arrays.npz") as copied:
        assert sorted(arrays) == sorted(copied.files)
        kept = {name: copied[name].copy() for name in copied.files}
    assert all(array.base is not None and not array.flags.writeable for array in arrays.values())
    replace(artifact, margin=0.5, latency=artifact.latency + 1).save(tmp_path / "a")
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, kept[name])


def test_an_older_artifact_whose_arrays_are_not_aligned_can_be_mapped(
    artifact: Artifact, tmp_path: Any
) -> None:
    artifact.save(tmp_path / "a")
    for save in (np.savez, np.savez_compressed):
        with np.load(tmp_path / "a" / "arrays.npz") as file:
            kept = dict(file)
        save(tmp_path / "a" / "arrays.npz", **cast("Any", kept))
        read = Artifact.load(tmp_path / "a", mapped=True)
        np.testing.assert_array_equal(read.latency, artifact.latency)


def test_a_mapped_artifact_with_a_wrong_byte_is_refused(artifact: Artifact, tmp_path: Any) -> None:
    artifact.save(tmp_path / "a")
    path = tmp_path / "a" / "arrays.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        Artifact.load(tmp_path / "a", mapped=True)


def test_saving_replaces_an_artifact_and_spares_anything_else(artifact: Artifact, tmp_path: Any) -> None:
    artifact.save(tmp_path / "a")
    replace(artifact, margin=0.5).save(tmp_path / "a")
    assert Artifact.load(tmp_path / "a").margin == 0.5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    (tmp_path / "precious").mkdir()
    with pytest.raises(ArtifactError, match="exists and is not an artifact"):
        artifact.save(tmp_path / "precious")


def test_an_artifact_of_another_embedder_is_refused(artifact: Artifact, tmp_path: Any) -> None:
    artifact.save(tmp_path / "a")
    with pytest.raises(ArtifactError, match="static tier was fitted on another embedder; `thalamus fit`"):
        Artifact.load(tmp_path / "a", WordExtractor(mark="2").fingerprints)
    assert Artifact.load(tmp_path / "a", WordExtractor(("static",)).fingerprints).experts == artifact.experts


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "manifest.json").unlink(), "no artifact there"),
        (lambda d: (d / "manifest.json").write_text("{"), "damaged manifest"),
        (lambda d: (d / "manifest.json").write_text('{"schema": 99}'), "schema 99, this version reads 1"),
        (lambda d: (d / "manifest.json").write_text('{"schema": 1}'), "damaged"),
        (lambda d: (d / "arrays.npz").write_bytes(b"junk"), "damaged"),
        (lambda d: (d / "arrays.npz").unlink(), "damaged"),
    ],
)
def test_a_damaged_artifact_is_refused_in_one_line(
    artifact: Artifact, tmp_path: Any, damage: Any, message: str
) -> None:
    artifact.save(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(ArtifactError, match=message) as caught:
        Artifact.load(tmp_path / "a")
    assert "`thalamus fit`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fitting_twice_gives_the_same_artifact(artifact: Artifact, tmp_path: Any) -> None:
    again = fit_artifact(table(), WordExtractor(), created="today")
    assert again.manifest() == artifact.manifest()
    for tier, head in artifact.tiers.items():
        for key, values in head.quality.arrays().items():
            assert values.tobytes() == again.tiers[tier].quality.arrays()[key].tobytes()


def test_adaptive_looks_twice_where_only_the_encoder_can_tell(artifact: Artifact) -> None:
    assert artifact.tiers["encoder"].metrics["accuracy"] > 0.9
    assert artifact.provenance["created"] == "today"


def test_fitting_needs_no_lengths_costs_or_latencies() -> None:
    nothing = np.full((240, 2), np.nan)
    bare = fit_artifact(
        table(cost_usd=nothing, output_tokens=nothing, latency_s=nothing),
        WordExtractor(("static",)),
        FitSettings("constant"),
    )
    assert (bare.margin, list(bare.margins), list(bare.tiers)) == (0.0, [], ["static"])
    prediction = Forecaster([BARD, replace(CALC, input_usd_per_token=None)], bare).predict(
        [query_of("x")], None
    )
    assert prediction.output_tokens.tolist() == [[256, 256]]
    assert np.isnan(prediction.latency_s).all()
    assert np.isnan(prediction.cost_usd[0, 1])


def test_what_is_learned_from_predictions_is_learned_out_of_fold() -> None:
    """Neighbours remember noise: asked for what they were fitted on, they would seem to know it."""
    right = np.random.default_rng(0).integers(2, size=200)
    noise = OutcomeTable.build(
        [f"question {n} of {n * 7919}" for n in range(200)],
        ["a", "b"],
        {"score": np.eye(2)[right]},
        bucket=np.arange(200) % 100,
    )
    fitted, quality = cross_fit(
        noise, FeatureExtractor(HashingEmbedder()), FitSettings("knn", {"k": 3}, tiers=("static",))
    )
    assert np.mean(quality["static"].argmax(axis=1) == right) < 0.65
    assert fitted.tiers["static"].metrics["accuracy"] < 0.65


@pytest.mark.parametrize(("mode", "n_lines"), [("paper", 1), ("improved", 2)])
def test_calibration_leaves_a_published_rule_its_order(mode: str, n_lines: int) -> None:
    noisy = table(score=np.random.default_rng(0).random((240, 2)) * [1.0, 0.5])
    fitted = fit_artifact(noisy, WordExtractor(("static",)), FitSettings("pilots", {"mode": mode}))
    calibration = fitted.tiers["static"].calibration
    lines = set(zip(calibration.slope.tolist(), calibration.intercept.tolist(), strict=True))
    assert len(lines) == n_lines


def test_fitting_on_too_little_says_what_is_missing() -> None:
    with pytest.raises(DataError, match="1 queries are too few"):
        fit_artifact(table().take(np.array([0])), WordExtractor())
    gap = table().score
    gap[:, 1] = np.nan
    with pytest.raises(DataError, match="no query has one for expert 'bard'"):
        fit_artifact(table(score=gap), WordExtractor())


def test_progress_ends_where_it_said_it_would() -> None:
    steps: list[tuple[str, int, int]] = []
    fit_artifact(table(), WordExtractor(), FitSettings("constant"), lambda *step: steps.append(step))
    assert {what for what, _, _ in steps} == {"embedding", "fitting"}
    assert [step for step in steps if step[0] == "fitting"] == [("fitting", n, 24) for n in range(25)]


def test_the_margin_is_the_smallest_that_keeps_the_asked_share_of_the_gain() -> None:
    score = np.tile([[1.0, 0.0], [0.0, 1.0]], (50, 1))
    sure = np.arange(100) < 60
    cheap = np.where(sure[:, None], np.where(score > 0, 0.9, 0.1), np.where(score > 0, 0.4, 0.5))
    margin, tried = choose_margin(score, {"static": cheap, "encoder": score}, kept=1.0)
    assert 0.09 < margin < 0.8
    assert tried[0]["accuracy"] == 0.6
    assert tried[-1] == {"margin": pytest.approx(0.8), "consulted": 1.0, "accuracy": 1.0}


def test_an_encoder_that_gains_nothing_is_never_consulted() -> None:
    score = np.tile([[1.0, 0.0], [0.0, 1.0]], (50, 1))
    assert choose_margin(score, {"static": score, "encoder": 1 - score}, kept=0.95)[0] == 0.0


def test_the_lambda_table_is_of_the_pool_that_is_there(artifact: Artifact) -> None:
    pool = [BARD, CALC]
    table = Forecaster(pool, artifact).sweep("encoder")
    assert table is not None
    assert table.quality[0] > 0.9
    assert table.cost_usd[-1] == 0.0
    dearer = replace(BARD, input_usd_per_token=1e-5, output_usd_per_token=2e-5)
    other = Forecaster([CALC, dearer], artifact).sweep("encoder")
    assert other is not None
    np.testing.assert_allclose(other.cost_usd, 10 * table.cost_usd)
    np.testing.assert_allclose(other.quality, table.quality)


def test_without_evidence_or_price_for_everybody_there_is_no_lambda_table(artifact: Artifact) -> None:
    assert Forecaster([CALC, ExpertProfile("new", "m")], artifact).sweep("encoder") is None
    assert Forecaster([CALC], None).sweep("prior") is None
    assert Forecaster([CALC], artifact).sweep("encoder") is not None


def test_a_prediction_from_means_alone_is_weighed_by_the_closest_table(artifact: Artifact) -> None:
    forecaster = Forecaster([BARD, CALC], artifact)
    assert forecaster.sweep("prior") is forecaster.sweep("encoder")
    assert forecaster.sweep("static") is not forecaster.sweep("encoder")


def test_the_manifest_tells_what_each_weight_buys_at_measured_costs(artifact: Artifact) -> None:
    sweeps = artifact.manifest()["sweeps"]
    assert sorted(sweeps) == ["encoder", "static"]
    first, last = sweeps["encoder"][0], sweeps["encoder"][-1]
    assert first["cost"] == 0
    assert last["usd_per_1k"] == pytest.approx(1.0)
    assert first["usd_per_1k"] > last["usd_per_1k"]
    assert first["quality"] > last["quality"]
    free = table(cost_usd=np.full((240, 2), np.nan))
    unmeasured = fit_artifact(free, WordExtractor(("static",)), FitSettings("knn"))
    assert unmeasured.sweeps == {}
    assert unmeasured.sample is not None


def test_the_lambda_table_survives_saving_and_an_older_artifact_is_read_without_it(
    artifact: Artifact, tmp_path: Any
) -> None:
    artifact.save(tmp_path / "a")
    loaded = Artifact.load(tmp_path / "a")
    before, after = (Forecaster([BARD, CALC], kept).sweep("encoder") for kept in (artifact, loaded))
    assert before is not None
    assert after is not None
    assert after.quality.tobytes() == before.quality.tobytes()
    assert loaded.sweeps == artifact.sweeps
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    for name in ("sweeps", "digest", "trial"):
        del manifest[name]
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({**manifest, "schema": 1}))
    with np.load(tmp_path / "a" / "arrays.npz") as file:
        kept = {name: file[name] for name in file if not name.startswith("sample.")}
    np.savez(tmp_path / "a" / "arrays.npz", **kept)
    older = Artifact.load(tmp_path / "a")
    assert (older.sample, older.sweeps) == (None, {})
    assert Forecaster([BARD, CALC], older).sweep("encoder") is None


def test_categories_are_told_where_the_predictor_or_a_part_of_it_tells_them(artifact: Artifact) -> None:
    tagged = replace(table(), tasks=tuple("sum" if n % 6 < 3 else "prose" for n in range(240)))
    coe = fit_artifact(tagged, WordExtractor(("static",)), FitSettings("coe"))
    query = query_of("a poem by the river")
    features = WordExtractor().extract([query], "static")
    plain = Forecaster([CALC, BARD], artifact)
    assert (plain.has_categories, plain.predict([query], features).categories) == (False, None)
    blend = Blend([("constant", {}), ("coe", {})])
    blend.members_ = [artifact.tiers["static"].quality, coe.tiers["static"].quality]
    for quality in (coe.tiers["static"].quality, blend):
        head = replace(coe.tiers["static"], quality=quality)
        forecaster = Forecaster([CALC, BARD], replace(coe, tiers={"static": head}))
        assert forecaster.has_categories
        assert forecaster._categories(features) == ("prose",)
        assert forecaster._categories(None) is None


def test_fitting_over_processes_learns_the_same() -> None:
    alone, beside = (
        fit_artifact(table(), WordExtractor()),
        fit_artifact(table(), WordExtractor(), n_workers=2),
    )
    queries = [query_of(f"{word} number z 7") for word in WORDS]
    for tier in ("static", "encoder"):
        features = WordExtractor().extract(queries, tier)
        one, other = (made.tiers[tier].quality.predict(features) for made in (alone, beside))
        np.testing.assert_allclose(one.mean, other.mean, atol=1e-12)
        assert alone.tiers[tier].metrics == pytest.approx(beside.tiers[tier].metrics)


def few_right(n: int) -> Artifact:
    """An expert that was right n times of n, and one that was wrong as often; no lengths but of the first."""
    texts = [f"sum number {'abcdefghij'[i % 10]} {i}" for i in range(n)]
    score = np.stack((np.ones(n), np.zeros(n)), axis=1)
    tokens = np.stack((np.full(n, 9.0), np.full(n, np.nan)), axis=1)
    outcomes = OutcomeTable.build(texts, ["calc", "bard"], {"score": score, "output_tokens": tokens})
    return fit_artifact(outcomes, WordExtractor(), FitSettings("linear", n_folds=2))


@pytest.mark.parametrize("with_features", [True, False])
def test_thirty_of_thirty_right_are_no_certainty(with_features: bool) -> None:
    forecaster = Forecaster([ExpertProfile("calc", "calc"), ExpertProfile("bard", "bard")], few_right(30))
    queries, features = make_queries("sum number c 1")
    prediction = forecaster.predict(queries, features if with_features else None)
    low, high = prediction_interval(prediction.quality[0, 0], prediction.quality_std[0, 0])
    assert low < 0.9
    assert high == pytest.approx(1.0)
    low, high = prediction_interval(prediction.quality[0, 1], prediction.quality_std[0, 1])
    assert low == pytest.approx(0.0)
    assert high > 0.1


@pytest.mark.parametrize("unsure", [0, 1])
def test_an_expert_whose_prediction_is_unsure_leaves_the_floor_of_the_others(
    monkeypatch: pytest.MonkeyPatch, unsure: int
) -> None:
    width = np.where(np.arange(2) == unsure, 0.5, 0.0)

    def widen(_: Calibration, estimate: Estimate) -> Estimate:
        return Estimate(estimate.mean, np.tile(width, (len(estimate.mean), 1)))

    monkeypatch.setattr(Calibration, "apply", widen)
    pool = [ExpertProfile("calc", "calc"), ExpertProfile("bard", "bard")]
    std = Forecaster(pool, few_right(30)).predict(*make_queries("sum number c 1")).quality_std[0]
    assert std[unsure] == 0.5
    assert std[1 - unsure] > 0.02


def test_an_interval_of_outcomes_alone_is_wilsons() -> None:
    assert rate_interval(1.0, 30) == pytest.approx((0.8865, 1.0), abs=1e-3)
    assert rate_interval(0.0, 30) == pytest.approx((0.0, 0.1135), abs=1e-3)
    assert rate_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert rate_interval(0.5, 0) == (0.0, 1.0)
    for mean, n in ((1.0, 30), (0.3, 12), (0.0, 4)):
        std = float(rate_std(np.float64(mean), np.float64(n)))
        assert prediction_interval(mean, std) == pytest.approx(rate_interval(mean, n), abs=1e-6)


@pytest.mark.parametrize("with_features", [True, False])
def test_a_price_never_rests_on_the_lengths_of_another_expert(with_features: bool) -> None:
    pool = [
        ExpertProfile("calc", "calc", 1e-6, 2e-6),
        ExpertProfile("bard", "bard", 1e-6, 2e-6),  # measured, without lengths
        ExpertProfile("new", "new", 1e-6, 2e-6),
        ExpertProfile("short", "short", 1e-6, 2e-6, max_output_tokens=50),
    ]
    queries, features = make_queries("sum number c 1", n_input_tokens=100)
    prediction = Forecaster(pool, few_right(30)).predict(queries, features if with_features else None)
    assert prediction.output_tokens[0] == pytest.approx([9, 256, 256, 50], rel=0.1)
    assert prediction.cost_usd[0, 1:] == pytest.approx([100e-6 + n * 2e-6 for n in (256, 256, 50)])
    assert prediction.assumed_length is not None
    assert prediction.assumed_length.tolist() == [False, True, True, True]
