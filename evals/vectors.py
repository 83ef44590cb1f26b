"""Vectors kept between runs: reports on one table read its texts once."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from routers import DataError, Embedder, Floats32


class VectorCache:
    """An embedder before a file of vectors it has given; texts are known there by their hashes alone."""

    def __init__(self, inner: Embedder, path: Path) -> None:
        """Raises: DataError: the file is no file of vectors, or of another embedder's."""
        self._inner = inner
        self._path = path
        self._known: dict[bytes, Floats32] = {}
        self._n_saved = 0
        if path.exists():
            self._load()

    @property
    def fingerprint(self) -> str:
        return self._inner.fingerprint

    @property
    def dim(self) -> int:
        return self._inner.dim

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order."""
        # The file holds hashes, not texts, so that a cache can be shared without the prompts. With 16 bytes a
        # collision is out of question; surrogatepass admits texts with lone surrogates, as JSON may hold.
        keys = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if missing:
            self._known.update(zip(missing, self._inner.embed(list(missing.values())), strict=True))
        rows = [self._known[key] for key in keys]
        return np.array(rows, np.float32).reshape(len(rows), self.dim)

    def save(self) -> None:
        """Write what is new, if anything is."""
        if len(self._known) == self._n_saved:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed: a run that is interrupted leaves the old file whole.
        fresh = self._path.with_name(self._path.name + ".new")
        with fresh.open("wb") as file:
            np.savez(
                file,
                fingerprint=np.array(self.fingerprint),
                keys=np.frombuffer(b"".join(self._known), np.uint8).reshape(-1, 16),
                vectors=np.array(list(self._known.values()), np.float32),
            )
        fresh.replace(self._path)
        self._n_saved = len(self._known)

    def _load(self) -> None:
        try:
            # A cache may come from elsewhere; a pickle in it could run code.
            with np.load(self._path, allow_pickle=False) as file:
                fingerprint, keys, vectors = str(file["fingerprint"]), file["keys"], file["vectors"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            raise DataError(f"{self._path}: not a file of vectors; choose another name") from None
        if fingerprint != self.fingerprint or vectors.shape[1:] != (self.dim,):
            raise DataError(f"{self._path}: vectors of another embedder; choose another name")
        self._known = {key.tobytes(): vector for key, vector in zip(keys, vectors, strict=True)}
        self._n_saved = len(self._known)
