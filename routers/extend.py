"""Experts added to an artifact that was fitted without them: what it says of the others stays, to the bit."""

from dataclasses import replace

import numpy as np

from .artifacts import Artifact, Head
from .errors import ArtifactError, DataError
from .fit import FitSettings, Progress, fit_artifact
from .outcomes import OutcomeTable
from .predictors.constant import Constant
from .predictors.joined import Joined
from .protocols import Extractor, Predictor

Named = tuple[str, Predictor]


def add_experts(
    artifact: Artifact,
    table: OutcomeTable,
    extractor: Extractor,
    settings: FitSettings | None = None,
    progress: Progress | None = None,
    created: str = "",
) -> Artifact:
    """The artifact with the experts of the table that it does not know yet, fitted on their outcomes alone.

    A subset of the queries the others were measured on is enough, or other queries. The λ tables, which need
    queries all experts were asked, are of the pool before and are left out.

    Raises:
        DataError: the table has no expert that is new, or fewer than two outcomes of the new ones.
        ArtifactError: a head is of another embedder, or of one the extractor lacks.
    """
    known = {expert.name for expert in artifact.experts}
    new = [name for name in table.experts if name not in known]
    if not new:
        raise DataError(
            f"experts: the artifact knows {', '.join(table.experts)} already; fit anew to change that"
        )
    for tier, head in artifact.heads.items():
        if extractor.fingerprints.get(tier) != head.fingerprint:
            raise ArtifactError(
                f"the {tier} head was fitted on another embedder: add experts with the same one"
            )
    part = table.only(new)
    part = part.take(np.flatnonzero(~np.isnan(part.score).all(axis=1)))
    chosen = replace(settings or FitSettings(), tiers=tuple(artifact.heads))
    fresh = fit_artifact(part, extractor, chosen, progress, created)
    added = {"experts": new, "created": created, "table": part.fingerprint, "n_queries": len(part)}
    return replace(
        artifact,
        experts=(*artifact.experts, *fresh.experts),
        heads={tier: _joined(head, fresh.heads[tier]) for tier, head in artifact.heads.items()},
        latency=np.concatenate((artifact.latency, fresh.latency)),
        provenance={**artifact.provenance, "added": [*artifact.provenance.get("added", []), added]},
        sample=None,
        sweeps={},
    )


def _joined(old: Head, new: Head) -> Head:
    """One head of both; its figures stay those of the experts it was first fitted on."""
    lengths = None
    if old.tokens is not None or new.tokens is not None:
        lengths = Joined.of([*_lengths(old), *_lengths(new)])
    return replace(
        old,
        predictor="joined",
        quality=Joined.of([*_parts(old.predictor, old.quality), *_parts(new.predictor, new.quality)]),
        calibration=old.calibration.joined(new.calibration),
        advantage=old.advantage.joined(new.advantage),
        tokens=lengths,
        tokens_predictor="joined",
        smear=np.concatenate((old.smear, new.smear)),
    )


def _parts(name: str, predictor: Predictor) -> list[Named]:
    return predictor.named if isinstance(predictor, Joined) else [(name, predictor)]


def _lengths(head: Head) -> list[Named]:
    """What predicts lengths; where none was measured, nobody reads what stands in for it."""
    if head.tokens is not None:
        return _parts(head.tokens_predictor, head.tokens)
    blank = Constant()
    blank.mean_, blank.std_ = np.zeros_like(head.smear), np.zeros_like(head.smear)
    return [("constant", blank)]
