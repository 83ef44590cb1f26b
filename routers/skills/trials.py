"""Trials of aggregators on recorded answers: one right among wrong ones, in any order."""

from dataclasses import dataclass

import numpy as np

from ..outcomes import OutcomeTable

RIGHT = 0.5
"""A score from here on counts as a right answer."""


@dataclass(frozen=True, slots=True)
class AggregatorTrial:
    """A recorded query and the answers to show of it; exactly one of them is right."""

    row: int
    answers: tuple[str, ...]


def build_trials(table: OutcomeTable, n: int, n_wrong: int = 2, seed: int = 0) -> list[AggregatorTrial]:
    """At most `n` trials, of all tasks alike, from queries with a right answer and enough wrong ones.

    An answer that declined or is empty is not shown, nor one twice.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.1: one correct and two incorrect answers, shuffled.
    Differs: no trial is made where an answer is missing (the released code shows an empty one).
    """
    rng = np.random.default_rng(seed)
    if table.answers is None:
        return []
    found: dict[str, list[AggregatorTrial]] = {}
    for row in rng.permutation(len(table)).tolist():
        score = table.score[row]
        shown: dict[str, bool] = {}
        for e in rng.permutation(table.n_experts).tolist():
            text = (table.answers[row][e] or "").strip()
            if text and score[e] == score[e] and table.declined[row, e] != 1:
                shown.setdefault(text, bool(score[e] >= RIGHT))
        right = [text for text, is_right in shown.items() if is_right][:1]
        wrong = [text for text, is_right in shown.items() if not is_right][:n_wrong]
        if right and len(wrong) == n_wrong:
            answers = [*right, *wrong]
            order = rng.permutation(len(answers)).tolist()
            trial = AggregatorTrial(row, tuple(answers[place] for place in order))
            found.setdefault(table.tasks[row], []).append(trial)
    # In turns, so that rare tasks are tried as often as frequent ones.
    rounds = max(map(len, found.values()), default=0)
    return [trials[turn] for turn in range(rounds) for trials in found.values() if turn < len(trials)][:n]
