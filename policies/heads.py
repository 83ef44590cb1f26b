"""What decides for a policy: the head of the artifact that it names, and the engine that weighs by it.

The gateway and a replay build it here, so that both decide with the same objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from routers import Artifact, ExpertProfile, Forecaster, Scale

from .engine import Engine
from .types import Policy


class HeadNeeds(NamedTuple):
    """What a policy needs of an artifact; policies with the same needs share what decides.

    predictor: the head that predicts; None is the artifact's default
    categories: whether a mapping reads categories
    recruiter: the head that chooses the members of panels; None is the one that predicts
    """

    predictor: str | None = None
    categories: bool = False
    recruiter: str | None = None

    @classmethod
    def of(cls, policy: Policy) -> "HeadNeeds":
        """The needs of a policy."""
        return cls(policy.predictor, bool(policy.mapping), policy.panel.predictor if policy.panel else None)


@dataclass(frozen=True, slots=True)
class DecidingHead:
    """A head of an artifact at work for one pool."""

    engine: Engine
    forecaster: Forecaster

    @classmethod
    def of(cls, pool: Sequence[ExpertProfile], artifact: Artifact | None, needs: HeadNeeds) -> "DecidingHead":
        """What decides by the needs of a policy; heads that it does not name are not read.

        Raises:
            ArtifactError: the artifact lacks a head, or one is damaged.
        """
        forecaster = Forecaster(
            pool, artifact, needs.predictor, categories=needs.categories, recruiter=needs.recruiter
        )
        scale = Scale.of(forecaster.mean_cost_usd, forecaster.mean_latency_s)
        return cls(Engine(pool, scale, forecaster.sweep), forecaster)
