"""What is told of a trace that was served."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from .serving import Served

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Figures:
    """One scheme on one memory.

    hit_ratio:   requests that found their expert ready
    swaps_per_1k: loads for a thousand requests
    latency_s:   percentiles, by name
    longest_s:   the longest that a request waited before its answer began: starvation
    """

    hit_ratio: float
    swaps_per_1k: float
    mean_s: float
    latency_s: Mapping[str, float]
    longest_s: float

    @classmethod
    def of(cls, served: Served) -> "Figures":
        percentiles = np.percentile(served.latency_s, PERCENTILES).tolist()
        return cls(
            float(served.hit.mean()),
            1000.0 * served.n_loads / len(served.hit),
            float(served.latency_s.mean()),
            {f"p{p}": value for p, value in zip(PERCENTILES, percentiles, strict=True)},
            float(served.wait_s.max()),
        )

    def facts(self) -> dict[str, object]:
        """JSON-able, six significant digits."""

        def short(value: float) -> float:
            return float(f"{value:.6g}")

        told = asdict(self)
        told["latency_s"] = {name: short(value) for name, value in self.latency_s.items()}
        return {name: short(value) if isinstance(value, float) else value for name, value in told.items()}
