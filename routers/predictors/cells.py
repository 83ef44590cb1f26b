"""Rows grouped around centroids, so that a search looks into the near groups alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..protocols import Arrays
from ..types import Floats32, Ints
from .clusters import spherical_kmeans

_SAMPLE = 8192
_N_STEPS = 6
_SHARE = 0.18
"""Of all rows that a search looks at, about."""


@dataclass(frozen=True, slots=True)
class Cells:
    """rows: (n_rows, dim), those of one cell together; start: (n_cells + 1,); centroids: (dim, n_cells)"""

    rows: Floats32
    start: Ints
    centroids: Floats32

    @classmethod
    def of(cls, rows: Floats32) -> tuple["Cells", Ints]:
        """The cells, and where each of their rows stands in `rows`."""
        n_cells = max(1, int(np.sqrt(len(rows))))
        sample = rows[np.lexsort(rows.T)][:: max(1, len(rows) // _SAMPLE)]
        centroids = np.ascontiguousarray(spherical_kmeans(sample, n_cells, _N_STEPS, 0).T)
        cell = np.argmax(rows @ centroids, axis=1)
        order = np.argsort(cell, kind="stable")
        start = np.searchsorted(cell[order], np.arange(n_cells + 1))
        return cls(np.ascontiguousarray(rows[order]), start, centroids), order

    def near(self, row: Floats32) -> tuple[Floats32, Ints]:
        """Cosines with the rows of the nearest cells, and which rows those are."""
        nearest = np.argsort(row @ self.centroids)[::-1]
        end = np.cumsum((self.start[1:] - self.start[:-1])[nearest])
        n_probed = int(np.searchsorted(end, _SHARE * len(self.rows))) + 1
        similarity, first, shift = np.empty(int(end[n_probed - 1]), np.float32), 0, []
        for cell, last in zip(nearest[:n_probed].tolist(), end[:n_probed].tolist(), strict=True):
            begin = int(self.start[cell])
            np.dot(self.rows[begin : begin + last - first], row, out=similarity[first:last])
            shift.append(begin - first)
            first = last
        places = np.arange(len(similarity))
        places += np.repeat(shift, np.diff(end[:n_probed], prepend=0))
        return similarity, places

    def arrays(self) -> Arrays:
        return {"cell_rows": self.rows, "cell_start": self.start, "cell_centroids": self.centroids}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "Cells":
        return cls(arrays["cell_rows"], arrays["cell_start"], arrays["cell_centroids"])
