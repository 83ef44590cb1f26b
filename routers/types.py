"""The vocabulary of prediction: what a query is, what an expert is, what is predicted of both.

Arrays are named by their axes, queries first, then experts. Units are suffixes; a bare number is a ratio
in [0, 1] or a count.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

Tier = Literal["prior", "static", "encoder"]
"""What a prediction rests on: no look at the text, the cheap embedder, or the encoder."""

HeadName = Literal[
    "blend",
    "clusters",
    "coe",
    "coe-paper",
    "constant",
    "factorization",
    "factorization-paper",
    "kernel",
    "knn",
    "linear",
    "mlp",
    "pilots",
    "pilots-paper",
    "skills",
    "skills-code",
    "skills-paper",
    "trees",
    "tryage",
    "tryage-paper",
]
"""What a policy can name as `predictor`: a predictor, or a published mode of one."""


class Query(msgspec.Struct, frozen=True):
    """One request reduced to what routing may see.

    `text` is what is embedded; `n_input_tokens` estimates the whole request, not `text` alone. `needs` are
    the abilities without which an expert cannot read the request, or answer it in the form asked for.
    `declined` says of the tools that have looked at it and do not answer why not. `keywords` are what a
    language model told of it; None where none was asked, or none answered in time.
    """

    text: str
    n_input_tokens: int
    max_output_tokens: int | None = None
    needs: frozenset[str] = frozenset()
    has_tools: bool = False
    wants_json: bool = False
    declined: Mapping[str, str] = {}
    keywords: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ExpertProfile:
    """What is known of an expert before any query: name, price, window, abilities, labels.

    `model` says whose answers the evidence is about: evidence belongs to name and model together.
    An unknown price or window is None, never 0, and so are unknown abilities; `content_parts` are read for
    certain. `labels` are what a policy can require (region, local …).
    `quality` is the operator's own guess in [0, 1], used only where there is no evidence. `parameters_b` are
    billions, `released` is an ISO date, `ratings` the operator's own (security, readability): more is better.
    `prefix_tokens` are put before every conversation, `max_output_tokens` are the longest answer it may give.
    `cached_input_usd_per_token` is the price of an input token that the prompt cache of the expert holds.
    """

    name: str
    model: str
    input_usd_per_token: float | None = None
    output_usd_per_token: float | None = None
    context_tokens: int | None = None
    abilities: frozenset[str] | None = None
    content_parts: frozenset[str] = frozenset()
    labels: frozenset[tuple[str, str]] = frozenset()
    quality: float | None = None
    latency_s: float | None = None
    parameters_b: float | None = None
    released: str | None = None
    ratings: frozenset[tuple[str, float]] = frozenset()
    prefix_tokens: int = 0
    max_output_tokens: int | None = None
    cached_input_usd_per_token: float | None = None


class Estimate(NamedTuple):
    """A predicted value and its standard deviation, both (n_queries, n_experts).

    novelty: (n_queries,) distance from all that was learned, below 1 for 95 % of queries like it; None where
        the predictor does not tell
    """

    mean: Floats
    std: Floats
    novelty: Floats | None = None


class Prediction(msgspec.Struct, frozen=True):
    """What each expert is expected to make of each query; every array is (n_queries, n_experts).

    quality:       expected score in [0, 1]
    quality_std:   standard deviation of the expected score, not of single outcomes
    output_tokens: expected answer length
    cost_usd:      expected price of the call; NaN where the price is unknown (unknown is not zero)
    latency_s:     expected seconds to the last token; NaN where unknown
    evidence:      (n_experts,) whether the quality rests on measured outcomes of that expert
    categories:    one a query, where the predictor tells them
    assumed_length: (n_experts,) whether output_tokens, and the cost by them, are assumed: none was measured
    head: the head of the artifact that predicted; None where none did, as at the tier "prior"
    recruiting: quality by what chooses the members of panels, None where that is the head that predicted
    shares: whether `recruiting` are chances of being recruited, as published rules have them
    skills: the named skills of each query, None where no panel reads them
    weighs: the chance of a right answer as aggregator, NaN where it was not tried; None where none was
    """

    experts: tuple[str, ...]
    tier: Tier
    quality: Floats
    quality_std: Floats
    output_tokens: Floats
    cost_usd: Floats
    latency_s: Floats
    evidence: Bools
    categories: tuple[str, ...] | None = None
    assumed_length: Bools | None = None
    head: str | None = None
    recruiting: Floats | None = None
    shares: bool = False
    skills: tuple[tuple[str, ...], ...] | None = None
    weighs: Floats | None = None

    def __len__(self) -> int:
        return len(self.quality)

    def take_one(self, row: int) -> "Prediction":
        """The prediction for one of the queries; its arrays are views."""
        one = slice(row, row + 1)
        return Prediction(
            self.experts,
            self.tier,
            self.quality[one],
            self.quality_std[one],
            self.output_tokens[one],
            self.cost_usd[one],
            self.latency_s[one],
            self.evidence,
            None if self.categories is None else self.categories[one],
            self.assumed_length,
            self.head,
            None if self.recruiting is None else self.recruiting[one],
            self.shares,
            None if self.skills is None else self.skills[one],
            None if self.weighs is None else self.weighs[one],
        )


_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])")


def parameters_b(model: str) -> float | None:
    """Billions of parameters in all; None where the name does not say."""
    found = _SIZE.search(model.lower())
    if found is None:
        return None
    unit = 1.0 if found[3] == "b" else 1e-3
    return float(f"{int(found[1] or 1) * float(found[2]) * unit:.6g}")
