"""Rows grouped around centroids, so that a search looks into the near groups alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..protocols import Arrays
from ..types import Floats32, Ints
from .clusters import spherical_kmeans

_SAMPLE = 8192
_N_STEPS = 6
_DENSITY = 0.5
"""Cells, over the root of how many rows there are."""
_REACH = 0.25
"""How much less near than the nearest a cell may be, by the cosine of its centroid, to be looked into."""
_LEAST, _MOST = 0.12, 0.2
"""Of all rows that a search looks at, about; between these it is the reach that tells."""


class Cells:
    """rows: (n_rows, dim), those of one cell together; start: (n_cells + 1,); centroids: (dim, n_cells)"""

    def __init__(self, rows: Floats32, start: Ints, centroids: Floats32) -> None:
        self.rows = rows
        self.start = start
        self.centroids = centroids
        self._blocks = np.split(rows, start[1:-1])
        self._places = np.split(np.arange(len(rows)), start[1:-1])
        self._sizes: list[int] = np.diff(start).tolist()
        self._largest = 1 + max(self._sizes)
        self._least, self._most = _LEAST * len(rows), _MOST * len(rows)

    @classmethod
    def of(cls, rows: Floats32) -> tuple["Cells", Ints]:
        """The cells, and where each of their rows stands in `rows`."""
        n_cells = max(1, int(_DENSITY * np.sqrt(len(rows))))
        sample = rows[np.lexsort(rows.T)][:: max(1, len(rows) // _SAMPLE)]
        centroids = np.ascontiguousarray(spherical_kmeans(sample, n_cells, _N_STEPS, 0).T)
        cell = np.argmax(rows @ centroids, axis=1)
        order = np.argsort(cell, kind="stable")
        start = np.searchsorted(cell[order], np.arange(n_cells + 1))
        return cls(np.ascontiguousarray(rows[order]), start, centroids), order

    def near(self, row: Floats32, n_least: int = 0) -> tuple[Floats32, Ints]:
        """Cosines with the rows of the nearest cells, at least `n_least`, and which rows those are."""
        closeness = row.dot(self.centroids)
        order, close = closeness.argsort()[::-1].tolist(), closeness.tolist()
        least, most = max(n_least, self._least), max(n_least, self._most)
        far = close[order[0]] - _REACH
        similarity = np.empty(int(most) + self._largest, np.float32)
        places, n_rows = [], 0
        for cell in order:
            if n_rows >= (least if close[cell] < far else most):
                break
            end = n_rows + self._sizes[cell]
            self._blocks[cell].dot(row, similarity[n_rows:end])
            places.append(self._places[cell])
            n_rows = end
        return similarity[:n_rows], np.concatenate(places)

    def arrays(self) -> Arrays:
        return {"cell_rows": self.rows, "cell_start": self.start, "cell_centroids": self.centroids}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "Cells":
        return cls(arrays["cell_rows"], arrays["cell_start"], arrays["cell_centroids"])
