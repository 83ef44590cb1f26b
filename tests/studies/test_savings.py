import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from evals.replay import RecordedExtractor
from routers import DataError, FeatureExtractor, HashingEmbedder, OutcomeTable
from studies import savings
from studies.savings import DrawResult, draw_rows, draw_tasks, main, measure_draw, render, render_changes


def table(n: int = 600) -> OutcomeTable:
    """`calc` is right on sums, `bard`, ten times dearer, on poems and on every third sum."""
    sums = np.arange(n) % 2 == 0
    texts = [f"add {i} and {i + 1} now" if s else f"write a poem on {i} roses" for i, s in enumerate(sums)]
    return OutcomeTable.build(
        texts,
        ["calc", "bard"],
        {
            "score": np.stack([sums, ~sums | (np.arange(n) % 3 == 0)], 1).astype(float),
            "cost_usd": np.tile([0.001, 0.01], (n, 1)),
        },
        tasks=["sum" if s else "poem" for s in sums],
        bucket=np.arange(n) // 2 % 100,
    )


def test_the_same_draw_comes_again_and_shares_no_bucket_with_its_test_part() -> None:
    held = table()
    train, test = draw_rows(held, 200, 3)
    assert len(train) == 200
    assert not set(held.bucket[train]) & set(held.bucket[test])
    for first, second in zip(draw_rows(held, 200, 3), (train, test), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (draw_rows(held, 200, 4)[0] != train).any()


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="too few to draw 1000"):
        draw_rows(table(), 1000, 0)


def test_each_task_is_left_out_in_turn() -> None:
    held = table()
    tested = []
    for seed in range(2):
        train, test = draw_tasks(held, seed)
        (left_out,) = {held.tasks[row] for row in test}
        assert left_out not in {held.tasks[row] for row in train}
        tested.append(left_out)
    assert set(tested) == {"sum", "poem"}


def test_a_router_that_reads_saves_against_a_blind_mix_and_does_no_harm() -> None:
    held = table()
    read = RecordedExtractor.of(held.texts, FeatureExtractor(HashingEmbedder()))
    result = measure_draw(held, read, "knn", "static", "200", 0, *draw_rows(held, 200, 0))
    assert result.over_blind > 0.1
    assert result.harm > 0.3  # the best expert alone is right on two thirds
    assert result.slope == pytest.approx(1, abs=0.1)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_rows_of_the_last_buckets_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = table()
    held.save(tmp_path / "t.jsonl.gz")
    monkeypatch.setattr(savings, "SIZES", (100,))
    monkeypatch.setattr(savings, "StaticEmbedder", HashingEmbedder)
    seen: list[str] = []
    of = RecordedExtractor.of

    def watch(texts: Sequence[str], *more: Any) -> RecordedExtractor:
        seen.extend(texts)
        return of(texts, *more)

    monkeypatch.setattr(RecordedExtractor, "of", watch)
    options = ["--quick", "--predictor", "knn", "--out", str(tmp_path / "out.json")]
    result = CliRunner().invoke(main, [str(tmp_path / "t.jsonl.gz"), *options])
    assert result.exit_code == 0, result.output
    assert set(seen) == {text for text, bucket in zip(held.texts, held.bucket, strict=True) if bucket < 80}
    (rows,) = json.loads((tmp_path / "out.json").read_text()).values()
    assert [row["layout"] for row in rows] == ["100"] * 5 + ["tasks"] * 5
    again = CliRunner().invoke(
        main, [str(tmp_path / "t.jsonl.gz"), *options, "--before", str(tmp_path / "out.json")]
    )
    assert "| t.jsonl.gz | 100 | 5 | +0.00 [+0.00, +0.00] | +0.00 [+0.00, +0.00] |" in again.output


def result_of(seed: int, area: float) -> DrawResult:
    return DrawResult("200", seed, area, 0.01, 0.02, -0.003, 0.5, 0.4)


def test_changes_are_paired_by_draw() -> None:
    before, now = (
        [result_of(0, 0.5), result_of(1, 0.6)],
        [result_of(1, 0.61), result_of(0, 0.51), result_of(2, 0.0)],
    )
    assert "| t | 200 | 2 | +1.00 [+1.00, +1.00] |" in render_changes({"t": now}, {"t": before})


def test_without_costs_there_is_no_area() -> None:
    bare = DrawResult("200", 0, np.nan, np.nan, np.nan, -0.003, 0.5, 0.4)
    assert "| t | 200 | – | – | – | -0.30 [-0.30, -0.30] | 0.50 | 0.40 |" in render({"t": [bare]})
