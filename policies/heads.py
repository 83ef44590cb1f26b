"""What decides for a policy: the head of the artifact that it names, and the engine that weighs by it.

The gateway and a replay build it here, so that both decide with the same objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from routers import Artifact, ExpertProfile, Forecaster, Scale
from routers.skills import NamedSkills, SkillMode

from .engine import Engine
from .recruiting import AUTO
from .types import Policy

SKILL_MODES: Mapping[str | None, SkillMode] = {
    None: "improved",
    "skills": "improved",
    "skills-paper": "paper",
    "skills-code": "code",
}
"""By the `predictor` of a panel that is recruited by named skills: the arithmetic over their profiles."""


class HeadNeeds(NamedTuple):
    """What a policy needs of an artifact; policies with the same needs share what decides.

    predictor: the head that predicts; None is the artifact's default
    categories: whether a mapping reads categories
    recruiter: the head that chooses the members of panels; None is the one that predicts
    skills: how named skills choose the members of panels, if they do
    aggregators: whether a panel asks who weighs answers best
    """

    predictor: str | None = None
    categories: bool = False
    recruiter: str | None = None
    skills: SkillMode | None = None
    aggregators: bool = False

    @classmethod
    def of(cls, policy: Policy) -> "HeadNeeds":
        """The needs of a policy."""
        panel, mapped = policy.panel, bool(policy.mapping)
        if panel is None:
            return cls(policy.predictor, mapped)
        return cls(
            policy.predictor,
            mapped,
            panel.head,
            SKILL_MODES[panel.predictor] if panel.keywords else None,
            panel.aggregator == AUTO,
        )


@dataclass(frozen=True, slots=True)
class DecidingHead:
    """A head of an artifact at work for one pool."""

    engine: Engine
    forecaster: Forecaster

    @classmethod
    def of(
        cls,
        pool: Sequence[ExpertProfile],
        artifact: Artifact | None,
        needs: HeadNeeds,
        skills: NamedSkills | None = None,
    ) -> "DecidingHead":
        """What decides by the needs of a policy; heads that it does not name are not read.

        skills: the named skills beside the artifact, where there are some

        Raises:
            ArtifactError: the artifact lacks a head, or one is damaged.
        """
        forecaster = Forecaster(
            pool,
            artifact,
            needs.predictor,
            categories=needs.categories,
            recruiter=needs.recruiter,
            skills=skills if needs.skills or needs.aggregators else None,
            skill_mode=needs.skills,
        )
        scale = Scale.of(forecaster.mean_cost_usd, forecaster.mean_latency_s)
        return cls(Engine(pool, scale, forecaster.sweep, forecaster.sample_recruiting), forecaster)
