"""Who has the skills that a query asks for: Symbolic-MoE's profiles as expected quality per expert."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np

from ..features import N_SLOTS, Features
from ..protocols import Arrays
from ..skills.profiles import code_probabilities, counts, paper_probabilities
from ..types import Bools, Estimate, Floats, Floats32, Ints
from .neighbours import Space
from .targets import centre_targets

Phrase = Sequence[int]
_BLOCK = 512
_MIN_QUERIES = 3
_MENTION = 1e-3
"""Weight of a skill that is mentioned and not near."""
_BACKOFF = 0.01
"""Weight of no skill at all."""


class Skills:
    """Profiles per expert and skill, read for the skills a query mentions and those it is near to.

    A skill is mentioned where all n-grams of one of its phrases stand in the query; it is near where the
    query lies close to the mean of the training queries that mention it. Skills are `catalogue`'s, or without
    one the n-grams that tell the experts apart most.

    `improved`: each expert's accuracy on each skill, shrunk to its accuracy on everything (the mean of a Beta
    posterior); the estimate is the mean over the query's skills, those weighing most that are rare, near and
    mentioned; a query without a skill gets the expert's accuracy on everything. `paper` and `code` give
    recruiting probabilities instead, which rank experts as the paper and its released code do.

    Reference: Symbolic-MoE (arXiv 2503.05641), sections 3.1 and 3.2.
    Differs: keywords are found without a language model; `improved` has no counts but posterior means, no
    nearest keyword without a floor, and no global competency but a prior.
    """

    space_: Space
    phrases_: Ints
    skill_: Ints
    idf_: Floats
    centre_: Floats32
    profile_: Floats
    spread_: Floats
    mean_: Floats
    std_: Floats

    def __init__(
        self,
        mode: Literal["improved", "paper", "code"] = "improved",
        catalogue: Sequence[tuple[str, Sequence[Phrase]]] | None = None,
        n_skills: int = 2048,
        prior: float = 5.0,
        floor: float = 0.45,
        n_near: int = 16,
        form: float = 1.0,
    ) -> None:
        """Args:
        mode: improved, paper, or code.
        catalogue: names of skills, each with phrases as hashed n-grams; see `routers.skills.hashed`.
        n_skills: how many are found where there is no catalogue.
        prior: how many queries the expert's accuracy on everything counts for.
        floor: cosine below which a skill is not near.
        n_near: how many skills a query can be near to.
        form: weight of the form features beside the dense ones.
        """
        self.mode: Literal["improved", "paper", "code"] = mode
        self.catalogue = catalogue
        self.n_skills = n_skills
        self.prior = prior
        self.floor = floor
        self.n_near = n_near
        self.form = form

    def fit(self, features: Features, targets: Floats) -> Self:
        parts = centre_targets(targets)
        self.mean_, self.std_ = parts.mean, parts.std
        self.space_ = Space.of(features, self.form, None)
        self.phrases_, self.skill_ = (
            _select_ngrams(features.lexical, parts.residual, parts.known, self.n_skills, self.prior)
            if self.catalogue is None
            else _pad_phrases([phrases for _, phrases in self.catalogue])
        )
        n, shape = np.zeros(self._width), (self._width, targets.shape[1])
        centre = np.zeros((len(n), features.dense.shape[1] + features.form.shape[1]))
        weight, pull, signed = np.full(shape, self.prior), np.zeros(shape), np.zeros(shape)
        for block in _blocks(len(features)):
            mentioned = self._find_mentions(features.lexical[block])
            n += mentioned.sum(axis=0)
            centre += mentioned.T @ self.space_.unit(features.take(block))
            weight += mentioned.T @ parts.known[block]
            pull += mentioned.T @ parts.residual[block]
            signed += counts(mentioned, targets[block])
        # (n_skills,), above 0 even for a skill in every query
        self.idf_ = np.log((2 + len(features)) / (1 + n))
        norm = np.linalg.norm(centre, axis=1, keepdims=True)
        self.centre_ = (centre / np.where(norm > 0, norm, 1)).astype(np.float32)
        self.profile_ = pull / weight if self.mode == "improved" else signed
        self.spread_ = parts.std / np.sqrt(weight)
        return self

    @property
    def _width(self) -> int:
        return int(self.skill_[-1]) + 1 if len(self.skill_) else 0

    def predict(self, features: Features) -> Estimate:
        parts = [self._predict(features.take(block)) for block in _blocks(len(features))]
        if not parts:
            return Estimate(np.zeros((0, len(self.mean_))), np.zeros((0, len(self.mean_))))
        return Estimate(np.concatenate([p.mean for p in parts]), np.concatenate([p.std for p in parts]))

    def _predict(self, features: Features) -> Estimate:
        tags = self.tags(features)
        if self.mode == "improved":
            weights = tags * self.idf_
            # sums to less than 1: the rest falls to the mean
            share = weights / (weights.sum(axis=1, keepdims=True) + _BACKOFF)
            rest = 1 - share.sum(axis=1, keepdims=True)
            variance = share**2 @ self.spread_**2 + (rest * self.std_) ** 2  # (n_queries, n_experts)
            return Estimate(self.mean_ + share @ self.profile_, np.sqrt(variance))
        chance = (paper_probabilities if self.mode == "paper" else code_probabilities)(tags, self.profile_)
        return Estimate(chance, np.sqrt(chance * (1 - chance)))

    def tags(self, features: Features) -> Floats:
        """(n_queries, n_skills) in [0, 1]: the nearer the more, twice as much where the skill is mentioned.

        What is mentioned but not near hardly counts, except where nothing is near. In paper and code mode 1
        for those mentioned, else for the one that is nearest, however far.
        """
        mentioned = self._find_mentions(features.lexical)
        if not mentioned.shape[1]:
            return mentioned
        cosine = (self.space_.unit(features) @ self.centre_.T).astype(np.float64)  # (n_queries, n_skills)
        if self.mode != "improved":
            nearest = np.arange(cosine.shape[1]) == cosine.argmax(axis=1)[:, None]
            return np.where(mentioned.any(axis=1, keepdims=True), mentioned, nearest).astype(np.float64)
        near = _soft(cosine, self.floor, self.n_near)
        return np.maximum(near * (1 + mentioned) / 2, _MENTION * mentioned)

    def _find_mentions(self, lexical: Ints) -> Floats:
        """(n_queries, n_skills) 1 where a phrase of the skill stands in the query."""
        found = np.zeros((len(lexical), self._width))
        there = np.zeros(N_SLOTS + 1, bool)
        for row, slots in enumerate(lexical):
            there[:] = False
            there[slots] = True  # padding, −1, marks the last place
            there[-1] = True  # padding, of queries and of phrases
            found[row, self.skill_[there[self.phrases_].all(axis=1)]] = 1.0
        return found

    def settings(self) -> dict[str, Any]:
        listed = None if self.catalogue is None else [[n, [list(p) for p in ps]] for n, ps in self.catalogue]
        return {
            "mode": self.mode,
            "catalogue": listed,
            "n_skills": self.n_skills,
            "prior": self.prior,
            "floor": self.floor,
            "n_near": self.n_near,
            "form": self.form,
        }

    def arrays(self) -> Arrays:
        return {
            **self.space_.arrays(),
            "phrases": self.phrases_,
            "skill": self.skill_,
            "idf": self.idf_,
            "centre": self.centre_,
            "profile": self.profile_,
            "spread": self.spread_,
            "mean": self.mean_,
            "std": self.std_,
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.space_ = Space.from_arrays(arrays, self.form)
        self.phrases_, self.skill_ = arrays["phrases"], arrays["skill"]
        self.idf_, self.centre_ = arrays["idf"], arrays["centre"]
        self.profile_, self.spread_ = arrays["profile"], arrays["spread"]
        self.mean_, self.std_ = arrays["mean"], arrays["std"]
        return self


def _soft(cosine: Floats, floor: float, n_near: int) -> Floats:
    """In [0, 1], what a cosine exceeds the floor by, and the best that is not among the `n_near` nearest.

    Smooth where the nearest change: ties need no rule.
    """
    edge = np.full((len(cosine), 1), floor)
    if cosine.shape[1] > n_near:
        edge = np.maximum(edge, -np.partition(-cosine, n_near, axis=1)[:, n_near : n_near + 1])
    share: Floats = np.maximum(cosine - edge, 0.0) / np.maximum(1 - edge, 1e-6)
    return share


def _pad_phrases(catalogue: Sequence[Sequence[Phrase]]) -> tuple[Ints, Ints]:
    """Phrases (n_phrases, n_slots) padded with -1, and the skill of each, ascending."""
    pairs = [(n, phrase) for n, phrases in enumerate(catalogue) for phrase in phrases if len(phrase)]
    padded = np.full((len(pairs), max((len(phrase) for _, phrase in pairs), default=0)), -1, np.int64)
    for row, (_, phrase) in enumerate(pairs):
        padded[row, : len(phrase)] = phrase
    return padded, np.array([n for n, _ in pairs], np.int64)


def _select_ngrams(
    lexical: Ints, residual: Floats, known: Bools, n_skills: int, prior: float
) -> tuple[Ints, Ints]:
    """The n-grams whose queries tell the experts apart most, by id; each a skill of one phrase."""
    rows, columns = np.nonzero(lexical >= 0)
    slots = lexical[rows, columns]
    explained = np.zeros(N_SLOTS)
    for e in range(residual.shape[1]):
        total = np.bincount(slots, residual[rows, e], minlength=N_SLOTS)  # (N_SLOTS,)
        explained += total**2 / (np.bincount(slots, known[rows, e], minlength=N_SLOTS) + prior)
    explained[np.bincount(slots, minlength=N_SLOTS) < _MIN_QUERIES] = -1.0
    chosen = np.sort(np.argsort(-explained, kind="stable")[:n_skills])
    chosen = chosen[explained[chosen] >= 0].astype(np.int64)
    return chosen[:, None], np.arange(len(chosen), dtype=np.int64)


def _blocks(n: int) -> list[slice]:
    """All rows, some at a time: tags are wide."""
    return [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]
