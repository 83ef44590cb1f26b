"""What a router is compared with: simple rules, a simple ensemble, and upper references."""

import numpy as np

from routers import Features, Floats, Ints, OutcomeTable

_CHUNK = 512  # queries whose similarities are held at once, to bound memory


def cheapest(train: OutcomeTable, n_queries: int) -> Ints:
    """The expert with the lowest mean training cost, always; the best single where no cost is known."""
    cost = train.means()["cost_usd"]
    pick = train.best_single() if np.isnan(cost).all() else int(np.nanargmin(cost))
    return np.full(n_queries, pick, np.int64)


def task_table(train: OutcomeTable, test: OutcomeTable) -> Floats:
    """(n_test, n_experts) mean training score on the true task: an upper reference, not a baseline."""
    overall = train.means()["score"]
    # A task's mean may be NaN for an expert it was never measured on; the overall mean fills in.
    known = {task: train.take(np.array(train.tasks) == task).means()["score"] for task in set(train.tasks)}
    means = {task: np.where(np.isnan(mean), overall, mean) for task, mean in known.items()}
    return np.array([means.get(task, overall) for task in test.tasks]).reshape(len(test), train.n_experts)


def mean_of_four(train: OutcomeTable, train_x: Features, texts: tuple[str, ...], x: Features) -> Floats:
    """(n_queries, n_experts) mean of TF-IDF ridge, dense ridge, 200 neighbours and 64 k-means clusters.

    The features are those of the encoder tier. Gaps count as the expert's mean.
    """
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    y = fill_gaps(train)  # (n_train, n_experts)
    # min_df=2 drops words of a single query, which a linear model would only memorise.
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    lexical = Ridge(alpha=3.0).fit(words.fit_transform(train.texts), y).predict(words.transform(texts))
    dense = Ridge(alpha=1.0).fit(train_x.dense, y).predict(x.dense)
    clusters = KMeans(min(64, len(train)), n_init=4, random_state=0).fit(train_x.dense)
    members = np.eye(clusters.n_clusters)[clusters.labels_]  # (n_train, n_clusters) one-hot
    # KMeans can leave a cluster empty when texts repeat; the maximum avoids 0 / 0.
    by_cluster = (members.T @ y) / np.maximum(members.sum(axis=0), 1)[:, None]
    four = (lexical, dense, _neighbours(train_x, y, x, 200), by_cluster[clusters.predict(x.dense)])
    mean: Floats = np.mean([part.reshape(len(x), -1) for part in four], axis=0)
    return mean


def _neighbours(train_x: Features, y: Floats, x: Features, k: int) -> Floats:
    k = min(k, len(train_x))
    mean = np.empty((len(x), y.shape[1]))
    for start in range(0, len(x), _CHUNK):
        block = slice(start, start + _CHUNK)
        # (n_block, k), in no order
        nearest = np.argpartition(-(x.dense[block] @ train_x.dense.T), k - 1, axis=1)[:, :k]
        mean[block] = y[nearest].mean(axis=1)
    return mean


def naive_ridge(train: OutcomeTable, train_x: Features, texts: tuple[str, ...], x: Features) -> Floats:
    """(n_queries, n_experts) one ridge over TF-IDF and the vector side by side: the first thing to try."""
    from scipy.sparse import csr_array, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    seen_x = hstack((words.fit_transform(train.texts), csr_array(train_x.dense.astype(np.float64)))).tocsr()
    test_x = hstack((words.transform(texts), csr_array(x.dense.astype(np.float64)))).tocsr()
    predicted: Floats = Ridge(alpha=3.0).fit(seen_x, fill_gaps(train)).predict(test_x)
    return predicted.reshape(len(x), -1)


def fill_gaps(train: OutcomeTable) -> Floats:
    """(n_queries, n_experts) scores, the expert's mean where unmeasured."""
    means = train.means()["score"]
    return np.where(np.isnan(train.score), np.where(np.isnan(means), 0.0, means), train.score)
