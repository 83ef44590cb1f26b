"""The encoder fine-tuned end to end: needs torch, and is refused in one line without."""

import sys
from pathlib import Path

import numpy as np
import pytest

from routers import DataError, EmbedderError, EncoderTuning, TuneSettings, load_embedder
from routers.embedders.model_files import find_source

TEXTS = [
    *(f"What is {n} plus {n + 2}?" for n in range(24)),
    *(f"Who ruled Rome in the year {n}?" for n in range(24)),
]
SCORE = np.repeat([[1.0, 0.0], [0.0, 1.0]], 24, axis=0)
ROWS = np.arange(48)


def test_without_torch_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EmbedderError, match=r"thalamus-gateway\[train\]"):
        EncoderTuning(TEXTS)


@pytest.mark.train
@pytest.mark.filterwarnings("default")  # libraries' own deprecations
@pytest.mark.parametrize("score", [np.full((48, 2), np.nan), SCORE[:3]])
def test_nothing_to_learn_from_is_an_error(score: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    with pytest.raises(DataError, match="nothing to learn from"):
        EncoderTuning(TEXTS).tune(score, ROWS[: len(score)], tmp_path)


@pytest.mark.train
@pytest.mark.filterwarnings("default")  # libraries' own deprecations
@pytest.mark.parametrize("n_layers", [2, None])
def test_a_tuned_encoder_runs_without_torch_and_tells_losses_apart(
    tmp_path: Path, n_layers: int | None
) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    score = SCORE.copy()
    score[::5, 0] = np.nan
    steps: list[tuple[int, int]] = []
    tuning = EncoderTuning(TEXTS, settings=TuneSettings(n_layers, n_epochs=4, rate=1e-4, batch=16))
    folder = tuning.tune(score, ROWS, tmp_path / "tuned", lambda *step: steps.append(step))
    assert steps[-1] == (12, 12)
    before, after = (load_embedder(spec).embed(TEXTS) for spec in ("minilm", str(folder)))
    assert apart(after) > apart(before) + 0.1


@pytest.mark.train
@pytest.mark.filterwarnings("default")  # libraries' own deprecations
def test_each_tuning_begins_from_the_base(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    tuning = EncoderTuning(TEXTS, settings=TuneSettings(1, n_epochs=1, batch=16))
    first, again = (tuning.tune(SCORE, ROWS, tmp_path / name) for name in ("first", "again"))
    assert load_embedder(str(first)).embed(["x"]).tolist() == load_embedder(str(again)).embed(["x"]).tolist()


@pytest.mark.train
@pytest.mark.filterwarnings("default")  # libraries' own deprecations
def test_more_layers_than_there_are_is_an_error_that_says_so() -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    with pytest.raises(EmbedderError, match="has 6 layers"):
        EncoderTuning(TEXTS, settings=TuneSettings(7))


def apart(vectors: np.ndarray) -> float:
    """How much more alike texts of one kind are than texts of two."""
    cosine = vectors @ vectors.T
    same = np.arange(48)[:, None] // 24 == np.arange(48) // 24
    return float(cosine[same].mean() - cosine[~same].mean())


@pytest.mark.parametrize(
    ("pooling", "fine"),
    [
        ('{"pooling_mode": "mean"}', True),
        ('{"pooling_mode_mean_tokens": true}', True),
        ('{"pooling_mode": "cls"}', False),
        ('{"pooling_mode_mean_tokens": false, "pooling_mode_cls_token": true}', False),
    ],
)
def test_a_folder_tells_how_it_pools_in_the_older_way_or_the_newer(
    tmp_path: Path, pooling: str, fine: bool
) -> None:
    for name, text in (("config.json", "{}"), ("model.safetensors", ""), ("tokenizer.json", "")):
        (tmp_path / name).write_text(text)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(pooling)
    if fine:
        assert find_source(tmp_path).folder == tmp_path
    else:
        with pytest.raises(EmbedderError, match="does not pool by the mean"):
            find_source(tmp_path)
