import numpy as np

from evals.replay import RecordedExtractor
from routers import FeatureExtractor, HashingEmbedder, OutcomeTable
from studies.recruiting import recruit, render


def table(n: int = 200) -> OutcomeTable:
    kinds = ["add the numbers please", "name the river in the country"]
    texts = [f"{kinds[i % 2]} {'abcdefghij'[i % 10]} {i}" for i in range(n)]
    right = np.array([[i % 2 == 0, i % 2 == 1, i % 4 == 0, 0] for i in range(n)], np.float64)
    cost = np.ones((n, 4))
    buckets = np.arange(n) % 80
    return OutcomeTable.build(texts, "abcd", {"score": right, "cost_usd": cost}, bucket=buckets)


def test_every_rule_asks_as_many_as_it_says_and_improved_ones_nobody_twice() -> None:
    whole = table()
    read = RecordedExtractor.of(whole.texts, FeatureExtractor(HashingEmbedder()))
    votes = recruit(whole, whole.bucket // 20, read, HashingEmbedder(), "static", 3)
    for rule, counts in votes.items():
        k = {1, 2, 3} if "enough" in rule else {1 if "one" in rule or "single" in rule else 3}
        assert set(counts.sum(axis=1).tolist()) <= k
    assert all(counts.max() == 1 for rule, counts in votes.items() if "paper" not in rule)
    assert (votes["paper"].sum(axis=1) == 3).all()
    shown = render(whole, votes)
    assert shown.count("\n") == len(votes) + 1
    assert "| skills, best one | 1.0000 |" in shown
