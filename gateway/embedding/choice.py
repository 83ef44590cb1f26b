"""Which embedder reads each text of one request, and why; a value that the journal can tell."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from policies import Single


@dataclass(frozen=True, slots=True)
class TextChoice:
    """One request's embedders: `embedders` are all of them, `chosen` the name for each text.

    `rejections` gives for each embedder that could not be chosen the reason.
    """

    policy: str
    reason: str
    embedders: tuple[str, ...]
    chosen: tuple[str, ...]
    rejections: Mapping[str, str]
    tier: Literal["encoder"] = "encoder"
    propensity: float = 1.0

    @property
    def counts(self) -> dict[str, int]:
        """How many texts each reads, most first."""
        return dict(Counter(self.chosen).most_common())

    @property
    def expert(self) -> str:
        """Who reads most of them, of equals the first."""
        return next(iter(self.counts))

    @property
    def plan(self) -> Single:
        return Single(tuple(self.counts))

    def record(self) -> dict[str, Any]:
        """The choice in the format of a decision record. Its tier is the encoder; it has no random part."""
        counts = self.counts
        return {
            "policy": self.policy,
            "expert": self.expert,
            "plan": {"kind": self.plan.kind, "experts": list(counts)},
            "tier": self.tier,
            "reason": self.reason,
            "margin": None,
            "propensity": self.propensity,
            "candidates": [
                {
                    "expert": name,
                    "eligible": name not in self.rejections,
                    "texts": counts.get(name, 0),
                    "reason": self.rejections.get(name)
                    or f"{counts.get(name, 0)} of {len(self.chosen)} texts",
                }
                for name in (*counts, *(name for name in self.embedders if name not in counts))
            ],
        }


def format_counts(chosen: Sequence[str]) -> str:
    """`3 by law, 1 by minilm`."""
    return ", ".join(f"{n} by {name}" for name, n in Counter(chosen).most_common())
