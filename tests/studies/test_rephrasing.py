import json
from pathlib import Path

import numpy as np
import pytest

from evals.probes.files import load_bundled_outcomes
from evals.replay import RecordedExtractor
from routers import (
    DataError,
    FeatureExtractor,
    FitSettings,
    HashingEmbedder,
    OutcomeTable,
    fit_artifact,
)
from studies.rephrasing import REWORDINGS, KeptExpert, compare_choices, make_query, read_rewordings, render


def table(n: int = 120) -> OutcomeTable:
    """`poet` is right on poems, `mathy` on sums; `calculator` was never asked."""
    sums = np.arange(n) % 2 == 0
    texts = [
        f"tell how many {i} and {i + 1} make" if s else f"a poem of {i} roses" for i, s in enumerate(sums)
    ]
    return OutcomeTable.build(
        texts,
        ["mathy", "poet"],
        {"score": np.stack([sums, ~sums], 1).astype(float)},
        ids=[f"p{n}" for n in range(n)],
        tasks=["sum" if s else "poem" for s in sums],
    )


def test_every_rewording_is_of_a_probe_that_is_fitted_on_and_is_there_once() -> None:
    fitted, held_out = load_bundled_outcomes()
    found = read_rewordings(fitted)
    texts = [text for rewordings in found.values() for text in rewordings]
    assert len(found) == len(REWORDINGS.read_text("utf-8").splitlines()) > 50
    assert len(texts) == len(set(texts)) == 3 * len(found)
    assert not set(texts) & set(held_out.texts)


def test_what_is_asked_in_the_same_words_goes_where_its_probe_goes_and_other_words_elsewhere() -> None:
    known = table()
    asked = {0: ["tell how many 0 and 1 make now", "a poem of many roses"], 1: ["a poem of 1 roses, please"]}
    texts = [*known.texts, *(text for rewordings in asked.values() for text in rewordings)]
    read = RecordedExtractor.of(texts, FeatureExtractor(HashingEmbedder()))
    found = compare_choices(known, asked, fit_artifact(known, read, FitSettings("knn")), read)
    assert [(one.before, one.after) for one in found] == [
        ("mathy", "mathy"),
        ("mathy", "poet"),
        ("poet", "poet"),
    ]
    shown = render(known, found)
    assert "| sum | 2 | 0.50 (0.09–0.91) | 1.00 | 0.50 |" in shown
    assert "| all | 3 | 0.67 (0.21–0.94) | 1.00 | 0.67 |" in shown


def test_the_calculator_is_asked_before_anything_is_decided() -> None:
    assert "calculator" in make_query("Name a bird.", ["calculator", "a"]).declined
    assert not make_query("What is 3 + 5?", ["calculator", "a"]).declined
    assert not make_query("Name a bird.", ["a"]).declined


def test_a_rewording_of_no_probe_or_in_the_same_words_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"probe": "unknown", "texts": ["x"]}) + "\n")
    with pytest.raises(DataError, match="line 1: probe 'unknown' is not in the table"):
        read_rewordings(table(), path)
    path.write_text(json.dumps({"probe": "p1", "texts": ["a poem of 1 roses"]}) + "\n")
    with pytest.raises(DataError, match="line 1: a rewording of 'p1' is its own text"):
        read_rewordings(table(), path)


def test_what_declined_counts_as_wrong() -> None:
    known = table(4)
    known.score[0, 0] = np.nan
    shown = render(known, [KeptExpert(0, "x", "mathy", "poet")])
    assert "| sum | 1 | 0.00 (0.00–0.79) | 0.00 | 0.00 |" in shown
