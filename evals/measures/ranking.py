"""How well documents are ranked by the cosine of their vectors with a query's."""

import numpy as np
import scipy.sparse

from routers import Floats, Floats32

DEPTH = 10


def ndcg(queries: Floats32, documents: Floats32, relevance: scipy.sparse.csr_array) -> Floats:
    """(n_queries,) nDCG@10: Σ gain_i / log2(i + 1) over the first ten, by the same of the best order.

    queries (n_queries, dim) and documents (n_documents, dim) unit rows; relevance (n_queries, n_documents)
    gains; documents as near as each other keep their order.
    """
    found = np.zeros(len(queries))
    for row in range(len(queries)):
        gains = relevance[[row]].toarray()[0]
        order = np.argsort(-(documents @ queries[row]), kind="stable")[:DEPTH]
        best = _discounted(np.sort(gains)[::-1][:DEPTH])
        found[row] = _discounted(gains[order]) / best if best > 0 else 0.0
    return found


def _discounted(gains: Floats) -> float:
    return float((gains / np.log2(np.arange(len(gains)) + 2)).sum())
