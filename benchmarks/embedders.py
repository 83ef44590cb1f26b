"""What embedding costs: microseconds a prompt for every step of both tiers, side by side in one run.

    python benchmarks/embedders.py [--rounds 7]

Steps take turns round by round, so that other load on the machine falls on all of them alike; the median of
the rounds is shown. Everything runs on one thread, and that thread's CPU time is what counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

from routers import FeatureExtractor, StaticEmbedder, query_of
from routers.embedders import OnnxEmbedder
from routers.features import form_features, lexical_slots

PROMPTS = {
    "one line": "Which planet of the solar system has the most moons, and how many are known?",
    "word problem": (
        "A baker fills trays with 24 rolls each. On Monday she fills 17 trays, on Tuesday five fewer, and on "
        "Wednesday twice as many as on Tuesday. A roll costs 0.35 dollars to make and sells for 0.90. "
        "If one roll in twelve is left over and given away, what does she earn in the three days?"
    ),
    "code": (
        "Explain what goes wrong here and write a corrected version with two tests.\n\n```python\n"
        "def merge(left, right):\n    merged = []\n    while left and right:\n"
        "        if left[0] < right[0]:\n            merged.append(left.pop())\n        else:\n"
        "            merged.append(right.pop())\n    return merged + left\n```\n\nThe inputs are sorted "
        "lists of numbers; the output should be sorted, and the inputs must not change. Mention the cost of "
        "`pop(0)` and how `heapq.merge` avoids it, and say which of the two you would ship and why."
    ),
    "page": "The harbour office logs every vessel by name, length, draught and hour of arrival. " * 24
    + "Summarise the log in three sentences.",
    "beyond Latin": "请用一句话概括下面这段文字的主要内容，并说明作者的态度是赞成还是反对。" * 3,
}

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of which the median is shown")
    rounds = parser.parse_args().rounds
    static = StaticEmbedder()
    int8, fp32 = OnnxEmbedder(), OnnxEmbedder(precision="fp32")
    header = ["prompt", "tokens", *steps(static, int8, fp32, "").keys(), "int8 / static"]
    print("CPU microseconds a prompt on one thread, median of", rounds, "rounds\n")
    print(" | ".join(header))
    print(" | ".join("---" for _ in header))
    for name, text in PROMPTS.items():
        cost = measure(steps(static, int8, fp32, text), rounds)
        ratio = cost["int8"] / cost["static"]
        cells = [
            name,
            str(len(static.ids(text))),
            *(f"{value:.0f}" for value in cost.values()),
            f"{ratio:.0f}",
        ]
        print(" | ".join(cells))


def steps(
    static: StaticEmbedder, int8: OnnxEmbedder, fp32: OnnxEmbedder, text: str
) -> dict[str, tuple[Callable[[], object], int]]:
    """Each step as a call, and how many prompts the call takes."""
    ids = static.ids(text)
    batch = [text] * BATCH
    query = query_of(text)
    extractor = FeatureExtractor(static)
    return {
        "query": (lambda: query_of(text), 1),
        "tokens": (lambda: static.ids(text), 1),
        "static": (lambda: static.embed([text]), 1),
        f"static, {BATCH} at once": (lambda: static.embed(batch), BATCH),
        "words": (lambda: lexical_slots([ids], [text]), 1),
        "form": (lambda: form_features([text]), 1),
        "all features": (lambda: extractor.extract([query], "static"), 1),
        "int8": (lambda: int8.embed([text]), 1),
        "fp32": (lambda: fp32.embed([text]), 1),
    }


def measure(calls: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, float]:
    """Microseconds a prompt of each call, median of rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, n_prompts) in calls.items():
            times[name].append(time_call(call, repeats=4 if name in ("int8", "fp32") else 200) / n_prompts)
    return {name: median_us(found) for name, found in times.items()}


def time_call(call: Callable[[], object], repeats: int) -> float:
    """CPU seconds a call takes on average."""
    call()
    started = time.thread_time()
    for _ in range(repeats):
        call()
    return (time.thread_time() - started) / repeats


def median_us(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e6


if __name__ == "__main__":
    main()
