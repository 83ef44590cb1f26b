"""Named skills: who has them, who weighs answers well where they are asked for; kept as a file of JSON.

The file stands beside an artifact. It is for people to read, and it recruits panels: by the keywords that a
language model tells of a query, or by those that are found in its text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import ArtifactError
from ..features import Embedder
from ..outcomes import OutcomeTable
from ..text_files import write_file
from ..types import Floats, Query
from .keywords import Catalogue, Tagger, keywords
from .profiles import Aggregators, Posteriors, code_probabilities, paper_probabilities

SCHEMA = 1
SUFFIX = ".skills.json"
KEYWORDS, TRIALS = ".keywords", ".trials"
"""Files beside a table: what a language model told of its texts, and what experts made of others' answers."""
LEXICON = "lexicon"
"""The source of keywords that are found in the text itself."""
PRIOR = 5.0
"""As many queries does an expert's accuracy on everything count for, beside those of a skill."""
MIN_TEXTS = 2
"""A keyword that fewer texts bear says nothing of others."""
MAX_SKILLS = 512
MAX_SAMPLE = 500
"""Queries whose recruiting values are kept: by them it is known whom panels hardly ever ask."""

SkillMode = Literal["improved", "paper", "code"]


def skills_path(artifact: Path | str) -> Path:
    """The file of named skills beside an artifact."""
    path = Path(artifact)
    return path.with_name(path.name + SUFFIX)


@dataclass(frozen=True, slots=True)
class NamedExpert:
    """Whose answers the profile is about; evidence belongs to name and model together."""

    name: str
    model: str


@dataclass(frozen=True, slots=True)
class Recruitment:
    """What the named skills of some queries say; arrays are (n_queries, n_experts) in the pool's order.

    names:  the skills of each query, those that fit most first; empty where it has none that is known
    value:  expected accuracy, or in a published mode the chance of being recruited; NaN without a skill and
        for experts that were not measured
    weighs: the chance of a right answer as aggregator of others' answers, NaN where it was not tried
    """

    names: tuple[tuple[str, ...], ...]
    value: Floats
    weighs: Floats


class NamedSkills:
    """Profiles of experts by named skill: counts, the posteriors from them, and trials as aggregators."""

    def __init__(
        self,
        experts: Sequence[NamedExpert],
        catalogue: Catalogue,
        right: Floats,
        wrong: Floats,
        idf: Floats,
        overall: Floats,
        trials: Floats,
        embedder: Embedder,
        sample: Sequence[Sequence[str]] = (),
        source: str = LEXICON,
    ) -> None:
        """Args:
        right, wrong: (n_skills, n_experts) sums of score and of 1 − score over the queries with a skill.
        idf: (n_skills,) how rare a skill is.
        overall: (n_experts,) accuracy on everything.
        trials: (1 + n_skills, n_experts, 2) right and wrong answers as aggregator, on everything first.
        sample: the keywords of some queries that were fitted on.
        source: who told the keywords: a model, or `lexicon`.
        """
        self.experts = tuple(experts)
        self.source = source
        self.catalogue = catalogue
        self.right, self.wrong, self.idf, self.overall, self.trials = right, wrong, idf, overall, trials
        self.sample = tuple(map(tuple, sample))
        self._tagger = Tagger(catalogue, embedder)
        self._posteriors = Posteriors(
            np.maximum(right + PRIOR * overall, 1e-9),
            np.maximum(wrong + PRIOR * (1 - overall), 1e-9),
            overall,
        )
        self._signed = right - wrong
        tried = trials[0].sum(axis=1) > 0
        self.aggregators: Aggregators | None = None
        if tried.any():
            self.aggregators = Aggregators.from_counts(
                [*catalogue.skills], [e.name for e in self.experts], trials, overall
            )
        self._tried = tried

    @classmethod
    def fit(
        cls,
        table: OutcomeTable,
        embedder: Embedder,
        words_of: Mapping[str, Sequence[str]] | None = None,
        trials: Mapping[tuple[str, str], float] | None = None,
        source: str = LEXICON,
    ) -> "NamedSkills":
        """Profiles from a table.

        words_of: keywords by text, of a language model; texts without are searched for keywords
        trials:   score as aggregator by (id of the query, expert)

        Reference: Symbolic-MoE (arXiv 2503.05641), section 3.1.
        Differs: accuracies with a prior beside the counts; a skill has to occur in two texts.

        Raises:
            ArtifactError: no keyword occurs in two texts, so that there is no skill to name.
        """
        words = [list((words_of or {}).get(text) or keywords(text)) for text in table.texts]
        catalogue = Catalogue.from_bearers(words, MIN_TEXTS, MAX_SKILLS)
        if not catalogue.skills:
            raise ArtifactError("skills: no keyword occurs in two texts; more or longer texts have some")
        tags = Tagger(catalogue, embedder).tag(words)  # (n_queries, n_skills)
        score = table.mask_declined()
        known = ~np.isnan(score)
        value = np.where(known, score, 0.0)
        n = known.sum(axis=0)
        overall = np.where(n > 0, value.sum(axis=0) / np.maximum(n, 1), 0.5)
        tried = np.zeros((1 + tags.shape[1], table.n_experts, 2))
        row_of = {key: row for row, key in enumerate(table.ids)}
        column_of = {name: e for e, name in enumerate(table.experts)}
        for (key, name), right in (trials or {}).items():
            if key in row_of and name in column_of:
                weights = np.concatenate(([1.0], tags[row_of[key]]))[:, None]  # (1 + n_skills, 1)
                tried[:, column_of[name]] += weights * np.array([right, 1 - right])
        picked = np.unique(np.linspace(0, len(table) - 1, min(len(table), MAX_SAMPLE)).astype(np.int64))
        return cls(
            [NamedExpert(*pair) for pair in zip(table.experts, table.models, strict=True)],
            catalogue,
            tags.T @ value,
            tags.T @ np.where(known, 1 - value, 0.0),
            np.log((1 + len(table)) / (1 + (tags > 0).sum(axis=0))),
            overall,
            tried,
            embedder,
            [words[row] for row in picked.tolist()],
            source,
        )

    def recruit(
        self, words: Sequence[Sequence[str]], columns: Sequence[int | None], mode: SkillMode = "improved"
    ) -> Recruitment:
        """What some queries' keywords say of a pool whose experts have these columns, None where unknown.

        `improved`: the mean of the expert's accuracies on the query's skills, the rare and near ones
        weighing most. `paper`, `code`: the chance of being recruited, by the skills nearest to the keywords.
        """
        tags = self._tagger.tag(words)
        found = tags > 0
        names = tuple(
            tuple(self._tagger.names[k] for k in np.argsort(-row, kind="stable")[: int(n)].tolist())
            for row, n in zip(tags, found.sum(axis=1), strict=True)
        )
        here = [n for n, column in enumerate(columns) if column is not None]
        there = [column for column in columns if column is not None]
        value, weighs = np.full((2, len(words), len(columns)), np.nan)
        if not there:
            return Recruitment(names, value, weighs)
        value[:, here] = self._value(words, tags, mode)[:, there]
        value[~found.any(axis=1)] = np.nan
        if self.aggregators is not None:
            mean = np.stack([self.aggregators.mean_over(of) for of in names])  # (n_queries, n_experts)
            weighs[:, here] = np.where(self._tried, mean, np.nan)[:, there]
        return Recruitment(names, value, weighs)

    def _value(self, words: Sequence[Sequence[str]], tags: Floats, mode: SkillMode) -> Floats:
        """(n_queries, n_experts), of no meaning where a query has no skill."""
        if mode != "improved":
            chance = paper_probabilities if mode == "paper" else code_probabilities
            shares: Floats = chance(self._tagger.tag_nearest(words), self._signed)
            return shares
        weights = tags * self.idf
        total = weights.sum(axis=1, keepdims=True)
        mean: Floats = weights @ self._posteriors.mean / np.where(total > 0, total, 1.0)
        return mean

    def list_tried(self) -> tuple[str, ...]:
        """The experts that were tried as aggregators."""
        return tuple(e.name for e, tried in zip(self.experts, self._tried.tolist(), strict=True) if tried)

    def describe(self) -> list[dict[str, Any]]:
        """Every skill: how many queries of the most measured expert asked for it, and each one's accuracy."""
        n = (self.right + self.wrong).max(axis=1)
        names = [expert.name for expert in self.experts]
        mean = self._posteriors.mean.round(4).tolist()
        return [
            {"skill": skill, "n": round(float(n[k]), 1), "accuracy": dict(zip(names, mean[k], strict=True))}
            for k, skill in enumerate(self.catalogue.skills)
        ]

    def align(self, experts: Sequence[tuple[str, str]]) -> list[int | None]:
        """The column of each expert, by name and model; None where it is not known."""
        place = {expert.name: n for n, expert in enumerate(self.experts)}
        found: list[int | None] = []
        for name, model in experts:
            n = place.get(name)
            same = n is not None and self.experts[n].model in (model, model.partition("/")[2])
            found.append(n if same else None)
        return found

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        skills = [
            {
                "name": name,
                "idf": round(float(self.idf[k]), 4),
                "right": self.right[k].round(3).tolist(),
                "wrong": self.wrong[k].round(3).tolist(),
                "aggregated": self.trials[1 + k].round(3).tolist(),
            }
            for k, name in enumerate(self.catalogue.skills)
        ]
        content = {
            "schema": SCHEMA,
            "keywords": self.source,
            "experts": [{"name": e.name, "model": e.model} for e in self.experts],
            "overall": self.overall.round(6).tolist(),
            "aggregated": self.trials[0].round(3).tolist(),
            "skills": skills,
            "sample": [list(words) for words in self.sample],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path, embedder: Embedder) -> "NamedSkills":
        """Read the file.

        Raises:
            ArtifactError: it is missing, damaged or newer than this version.
        """
        fix = "`thalamus fit --skills` makes a new one"
        try:
            content: dict[str, Any] = json.loads(path.read_text("utf-8"))
            if content["schema"] != SCHEMA:
                raise ArtifactError(f"{path}: schema {content['schema']}, this version reads {SCHEMA}; {fix}")
            skills = content["skills"]
            right, wrong, idf = (
                np.array([one[key] for one in skills], np.float64) for key in ("right", "wrong", "idf")
            )
            return cls(
                [NamedExpert(str(e["name"]), str(e["model"])) for e in content["experts"]],
                Catalogue({str(one["name"]): (str(one["name"]),) for one in skills}),
                right,
                wrong,
                idf,
                np.array(content["overall"], np.float64),
                np.array([content["aggregated"], *(one["aggregated"] for one in skills)], np.float64),
                embedder,
                content["sample"],
                str(content["keywords"]),
            )
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no named skills there; {fix}") from None
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ArtifactError(f"{path}: damaged ({error}); {fix}") from None


def find_keywords(query: Query) -> Sequence[str]:
    """The keywords that were told of a query, else those that stand in its text."""
    return keywords(query.text) if query.keywords is None else query.keywords
