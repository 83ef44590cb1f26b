from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers import Estimate, Features, fit_predictor, make_predictor
from routers.calibration import Calibration
from routers.embedding_selection import PilotLibrary, winner_shares
from routers.embedding_selection.pilots import PilotRule
from routers.types import Floats, Floats32

NAN = np.nan
S = np.sqrt(0.5)


def unit(*rows: tuple[float, ...]) -> Floats32:
    x = np.array(rows, np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def random_unit(n: int, seed: int, dim: int = 4) -> Floats32:
    return unit(*np.random.default_rng(seed).normal(size=(n, dim)).tolist())


def test_a_tie_goes_to_the_first_in_paper_and_is_shared_in_improved() -> None:
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.2, NAN, 0.7], [NAN, NAN, NAN]])
    np.testing.assert_array_equal(
        winner_shares(scores, "paper"), [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    )
    improved = np.array([[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(winner_shares(scores, "improved"), improved)


def test_nobody_wins_alone_unless_the_pool_is_one() -> None:
    alone = np.array([[0.0, NAN]])
    np.testing.assert_array_equal(winner_shares(alone, "improved"), [[0, 0]])
    np.testing.assert_array_equal(winner_shares(alone, "paper"), [[1, 0]])
    np.testing.assert_array_equal(winner_shares(np.array([[0.0]]), "improved"), [[1]])


def make_example(rule: PilotRule) -> PilotLibrary:
    """Two datasets, two experts; u wins both of d1, and one of d2, where v wins the other."""
    library = PilotLibrary.empty(["u", "v"], 2)
    library = library.add_dataset("d1", unit((1, 0), (0, 1)), np.array([[1.0, 0.0], [0.5, 0.0]]), rule)
    return library.add_dataset("d2", unit((-1, 0), (0, 1)), np.array([[0.0, 1.0], [1.0, 0.0]]), rule)


def test_the_papers_score_is_the_mean_cosine_over_an_experts_pilots() -> None:
    library = make_example("paper")
    # u: centroids (½, ½) of d1 and (0, 1) of d2; v: (−1, 0) of d2.
    scores = library.scores(unit((1, 0), (0, 1)), "paper")
    np.testing.assert_allclose(scores, [[S / 2, -1.0], [(S + 1) / 2, 0.0]], atol=1e-6)


def test_an_expert_without_a_pilot_is_never_the_papers_choice() -> None:
    library = PilotLibrary.empty(["u", "v"], 2).add_dataset(
        "d", unit((1, 0)), np.array([[1.0, 1.0]]), "paper"
    )
    np.testing.assert_allclose(library.scores(unit((-1, 0.1)), "paper")[0, 1], -1.0)


def test_improved_shares_the_pull_by_mass_and_nearness_around_the_mean() -> None:
    library = make_example("improved")
    # μ = (0, ½). Centred: u (½, 0) with mass 2 and (0, ½) with mass 1; v (−1, −½) with mass 1.
    q = unit((1, 0))  # centred (1, −½)
    cosines = np.array([1 / np.sqrt(1.25), -0.5 / np.sqrt(1.25), -0.75 / 1.25])
    pull = np.array([2, 1, 1]) * np.exp(10 * cosines)
    expected = [pull[:2].sum() / pull.sum(), pull[2] / pull.sum()]
    np.testing.assert_allclose(library.scores(q)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(library.index().pull(q)[0], pull / pull.sum(), rtol=1e-5)


def test_a_cap_keeps_the_heaviest_pilots_of_each_expert() -> None:
    library = make_example("paper")
    capped = library.scores(unit((0, 1)), "paper", max_pilots=1)
    np.testing.assert_allclose(
        capped, [[S, 0.0]], atol=1e-6
    )  # of u only (½, ½), which stands for two queries


def test_an_expert_asked_less_often_wins_no_less() -> None:
    scores = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, NAN]])
    library = PilotLibrary.empty(["u", "v", "w"], 2).add_dataset("d", unit((1, 0), (1, 0)), scores)
    np.testing.assert_allclose(
        library.mass, [[1.5, 0.0, 1.0]]
    )  # w won half of the one it took part in, of two


def library_of(seed: int, rule: PilotRule = "improved") -> PilotLibrary:
    rng = np.random.default_rng(seed)
    library = PilotLibrary.empty(["u", "v", "w"], 4)
    for name, n in (("d1", 7), ("d2", 4)):
        library = library.add_dataset(name, random_unit(n, seed), rng.integers(0, 3, (n, 3)) / 2.0, rule)
    return library


def same(a: PilotLibrary, b: PilotLibrary) -> bool:
    return all(
        np.array_equal(np.asarray(getattr(a, f.name)), np.asarray(getattr(b, f.name))) for f in fields(a)
    )


@given(seed=st.integers(0, 999), n=st.integers(1, 9), rule=st.sampled_from(["paper", "improved"]))
def test_adding_then_removing_is_identity_and_touches_no_other(seed: int, n: int, rule: PilotRule) -> None:
    library, rng = library_of(seed, rule), np.random.default_rng(seed + 1)
    more = library.add_dataset("d3", random_unit(n, seed + 2), rng.random((n, 3)), rule)
    assert np.array_equal(more.sums[:2], library.sums)
    assert same(more.remove_dataset("d3"), library)
    evidence = {"d2": (random_unit(n, seed + 3), rng.random(n), rng.random((n, 3)))}
    joined = library.add_expert("x", evidence, rule)
    assert np.array_equal(joined.sums[:, :3], library.sums)
    assert same(joined.remove_expert("x"), library)
    swapped = library.add_dataset("d3", random_unit(n, seed), rng.random((n, 3)), rule)
    assert same(swapped.remove_dataset("d1").remove_dataset("d3"), library.remove_dataset("d1"))


def test_a_newcomer_counts_as_if_all_of_the_dataset_had_been_asked() -> None:
    x = unit((1, 0), (0, 1), (1, 0), (0, 1))
    library = PilotLibrary.empty(["u"], 2).add_dataset("d", x, np.array([[0.0], [0.0], [1.0], [0.0]]))
    joined = library.add_expert("x", {"d": (x[:2], np.array([1.0, 0.0]), np.array([[0.0], [0.0]]))})
    # Of the two asked: won one alone, tied on the other. The dataset has four.
    np.testing.assert_allclose(joined.mass[:, 1], [3.0])
    np.testing.assert_allclose(joined.sums[0, 1], [2.0, 1.0])


def test_feedback_moves_a_centroid_as_a_running_mean() -> None:
    library = make_example("improved")
    shares: Floats = np.array([0.0, 1.0])
    moved = library.update("d2", unit((0, -1))[0], shares)
    np.testing.assert_allclose(moved.sums[1, 1] / moved.mass[1, 1], [-0.5, -0.5])
    assert moved.counts[1] == 3
    assert np.array_equal(moved.sums[0], library.sums[0])
    assert library.counts[1] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.remove_expert("z"), "no expert 'z'; there are u, v, w"),
        (lambda p: p.remove_dataset("z"), "no dataset 'z'; there are d1, d2"),
        (lambda p: p.add_expert("u", {}), "'u' is in the library"),
        (lambda p: p.add_dataset("d1", random_unit(1, 0), np.ones((1, 3))), "'d1' is in the library"),
    ],
)
def test_what_is_not_there_or_there_already_is_named(
    change: Callable[[PilotLibrary], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        change(library_of(0))


def test_the_predictor_keeps_the_papers_order_of_experts() -> None:
    rng = np.random.default_rng(0)
    x = Features("encoder", random_unit(60, 1), np.zeros((60, 0), np.int64), rng.random((60, 3)))
    targets = rng.integers(0, 2, (60, 4)).astype(float)
    tags = ["d1", "d2", "d3"] * 20
    fitted = fit_predictor(make_predictor("pilots", {"mode": "paper"}), x, targets, tags)
    library = PilotLibrary.empty(list("0123"), 4)
    for tag in ("d1", "d2", "d3"):
        rows = np.array([own == tag for own in tags])
        library = library.add_dataset(tag, x.dense[rows], targets[rows], "paper")
    expected = np.argsort(library.scores(x.dense, "paper"), axis=1)
    assert np.array_equal(np.argsort(fitted.predict(x).mean, axis=1), expected)


def test_calibration_by_one_line_keeps_the_order_of_a_published_rule() -> None:
    rng = np.random.default_rng(0)
    raw = Estimate(rng.uniform(0.3, 0.7, (200, 3)), np.full((200, 3), 0.1))
    targets = np.clip(raw.mean + np.array([0.3, 0.0, -0.3]) + 0.1 * rng.normal(size=(200, 3)), 0, 1)
    groups = np.repeat(np.arange(5), 40)
    one = Calibration.fit(raw, targets, groups, keeps_order=True).apply(raw).mean
    each = Calibration.fit(raw, targets, groups).apply(raw).mean
    assert np.array_equal(np.argsort(one, axis=1), np.argsort(raw.mean, axis=1))
    assert not np.array_equal(np.argsort(each, axis=1), np.argsort(raw.mean, axis=1))
    assert one.mean() == pytest.approx(targets.mean())
