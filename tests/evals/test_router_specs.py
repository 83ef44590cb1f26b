import pytest

from evals.evaluate import parse_router_specs
from routers import DataError, Tier

TIERS: list[Tier] = ["static", "encoder"]


def test_a_router_is_named_with_settings_and_a_tier() -> None:
    blend, knn = parse_router_specs("blend, knn:k=50:form=0.5@static", TIERS)
    assert (blend.predictor, dict(blend.settings), blend.tier) == ("blend", {}, "encoder")
    assert (knn.name, knn.predictor, knn.tier) == ("knn:k=50:form=0.5@static", "knn", "static")
    assert dict(knn.settings) == {"k": 50, "form": 0.5}


@pytest.mark.parametrize("name", ["tryage", "coe", "pilots", "skills", "factorization"])
def test_a_bare_word_is_the_mode_of_a_system(name: str) -> None:
    (paper,) = parse_router_specs(f"{name}:paper", TIERS)
    assert (paper.name, dict(paper.settings)) == (f"{name}:paper", {"mode": "paper"})


def test_without_an_encoder_the_cheap_tier_is_the_best_there_is() -> None:
    assert parse_router_specs("constant", ["static"])[0].tier == "static"


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("zed", "no predictor 'zed'; there are"),
        ("knn:", "'' is neither a mode nor KEY=VALUE"),
        ("knn:paper", "predictor 'knn'"),
        ("coe:zed", "no mode 'zed'; there are paper, improved"),
        ("knn:z=1", "predictor 'knn'"),
        ("knn@mars", "no tier 'mars'; there are static, encoder"),
        ("knn,knn", "'knn' is named twice"),
        (" , ", "name one at least"),
    ],
)
def test_a_router_that_cannot_be_is_refused_by_name(printed: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_router_specs(printed, TIERS)
