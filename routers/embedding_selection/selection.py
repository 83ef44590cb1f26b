"""Selects the embedding expert of a query by pilots in the base embedder's space.

All experts search one index: only their query side differs from the base embedder, so a document's vector is
the same for every expert that embeds the query.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np

from ..errors import ArtifactError
from ..folders import replace_folder
from ..types import Floats, Floats32, Ints
from .pilots import PilotLibrary, PilotRule

SCHEMA = 1
_TIE = 1e-12


@dataclass(frozen=True, slots=True)
class EmbeddingSelection:
    """A base embedder, embedding experts by name, and the pilots that choose among them.

    fingerprint: of the base embedder, in whose space the pilots lie
    sources:     by expert the specification `load_embedder` takes, in the library's order

    Reference: RouterRetriever (arXiv 2409.02685), Algorithm 1 and §3.2: argmax over experts of the mean
    similarity between the query and the expert's pilots.
    Differs (improved): as `PilotLibrary` says; experts that score alike share the query.
    """

    fingerprint: str
    sources: Mapping[str, str]
    library: PilotLibrary

    @classmethod
    def empty(cls, fingerprint: str, sources: Mapping[str, str], dim: int) -> Self:
        """A selection that knows no dataset yet."""
        return cls(fingerprint, dict(sources), PilotLibrary.empty(tuple(sources), dim))

    @property
    def experts(self) -> tuple[str, ...]:
        return self.library.experts

    def add_dataset(
        self, name: str, embeddings: Floats32, performance: Floats, rule: PilotRule = "improved"
    ) -> Self:
        """With one dataset more: base embeddings (n, dim) and nDCG@10 (n, n_experts) of its queries."""
        return replace(self, library=self.library.add_dataset(name, embeddings, performance, rule))

    def remove_dataset(self, name: str) -> Self:
        """Without a dataset."""
        return replace(self, library=self.library.remove_dataset(name))

    def add_expert(
        self,
        name: str,
        source: str,
        evidence: Mapping[str, tuple[Floats32, Floats, Floats]],
        rule: PilotRule = "improved",
    ) -> Self:
        """With one embedder more, last; nothing is trained (`PilotLibrary.add_expert`)."""
        library = self.library.add_expert(name, evidence, rule)
        return replace(self, sources={**self.sources, name: source}, library=library)

    def remove_expert(self, name: str) -> Self:
        """Without an embedder; nothing is trained."""
        library = self.library.remove_expert(name)
        return replace(self, sources={key: self.sources[key] for key in library.experts}, library=library)

    def shares(
        self, embeddings: Floats32, rule: PilotRule = "improved", among: Collection[str] | None = None
    ) -> Floats:
        """(n_queries, n_experts) of base embeddings (n_queries, dim): who reads the query; rows sum to 1.

        paper: all to the first of the best; improved: evenly to all of the best. `among`: only these.
        """
        scores = self.library.scores(embeddings, rule)
        if among is not None:
            scores[:, [name not in among for name in self.experts]] = -np.inf
        tied = scores >= scores.max(axis=1, keepdims=True, initial=-np.inf) - _TIE
        if rule == "paper":
            tied &= np.cumsum(tied, axis=1) == 1
        share: Floats = tied / np.maximum(tied.sum(axis=1, keepdims=True), 1)
        return share

    def choose(
        self, embeddings: Floats32, rule: PilotRule = "improved", among: Collection[str] | None = None
    ) -> Ints:
        """(n_queries,) places in `experts`: one that has the largest share, the first of them."""
        chosen: Ints = self.shares(embeddings, rule, among).argmax(axis=1)
        return chosen

    def save(self, path: Path | str) -> None:
        """Write a directory, `manifest.json` and `arrays.npz`, whole or not at all; over a selection that is
        there.

        Raises:
            ArtifactError: something else is in the way, or the disk refuses.
        """
        target = Path(path)
        if target.exists() and not (target / "manifest.json").is_file():
            raise ArtifactError(f"{target}: exists and is no embedding selection; choose another name")
        manifest = {"schema": SCHEMA, "fingerprint": self.fingerprint, "sources": dict(self.sources)}
        try:
            with replace_folder(target) as fresh:
                with (fresh / "arrays.npz").open("wb") as file:
                    np.savez(file, allow_pickle=False, **self.library.arrays())
                (fresh / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        except OSError as error:
            raise ArtifactError(f"{target}: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: Path | str, fingerprint: str | None = None) -> Self:
        """Read what `save` wrote; with `fingerprint`, only if its base embedder is that one.

        Raises:
            ArtifactError: missing, damaged, newer than this version, or of another base embedder.
        """
        directory = Path(path)
        try:
            manifest = json.loads((directory / "manifest.json").read_text("utf-8"))
            if manifest["schema"] != SCHEMA:
                raise ArtifactError(f"{directory}: schema {manifest['schema']}, this version reads {SCHEMA}")
            with np.load(directory / "arrays.npz", allow_pickle=False) as file:
                library = PilotLibrary.from_arrays(dict(file))
            sources = {name: str(manifest["sources"][name]) for name in library.experts}
            found = cls(str(manifest["fingerprint"]), sources, library)
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{directory}: no embedding selection ({error.filename} is missing)"
            ) from None
        except (OSError, BadZipFile, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{directory}: damaged ({error})") from None
        if fingerprint is not None and found.fingerprint != fingerprint:
            raise ArtifactError(f"{directory}: made for {found.fingerprint}, the embedder is {fingerprint}")
        return found


def dataset_oracle(performance: Floats) -> Floats:
    """(n_queries,) of one dataset what the expert reaches that is best on it in the mean.

    performance: (n_queries, n_experts); of equally good experts the mean of all.
    """
    means = performance.mean(axis=0)
    reached: Floats = performance[:, means >= means.max() - _TIE].mean(axis=1)
    return reached


def instance_oracle(performance: Floats) -> Floats:
    """(n_queries,) what the best expert of each query reaches; performance (n_queries, n_experts)."""
    reached: Floats = performance.max(axis=1)
    return reached
