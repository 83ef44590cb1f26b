"""Text to WordPiece ids, and to the mean of a static table of token vectors.

The tokenizer is about eight times as fast as the one it agrees with.

Prompts repeat their words, so each word goes through the real tokenizer once, and what stands between
blanks, a word with the signs around it, is put together once. A BERT tokenizer always separates words at
whitespace, punctuation and Han characters, hence splitting there first changes nothing (a test holds both
against each other). Words with anything else in them go through the real tokenizer.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import EmbedderError
from ..features import head_and_tail
from ..types import Floats32
from .model_files import content_hash, find_source

MAX_WORDS = 1 << 15
"""Words and chunks remembered; a few megabytes. Beyond it the memory is emptied and fills again."""

CHARS_PER_TOKEN = 16
"""Longer texts are cut before they are tokenised, so that a megabyte of text costs no more than a page."""

_SIGNS = "‐-‧、。〈-】！（），．：；？"
"""Punctuation beyond ASCII that is common in prompts: each sign separates words and is one."""

_WORDS = re.compile(rf"[a-z0-9]+|[!-/:-@\[-`{{-~{_SIGNS}一-鿿]")
_PLAIN = re.compile(f"[!-~{_SIGNS}一-鿿]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f]")
_CONTROL_BYTES = bytes([*range(9), 11, 12, *range(14, 32), 127])
_BEFORE_CONTROL = b"\xc2"
"""What controls beyond ASCII begin with in UTF-8."""
_MAX_REMEMBERED_CHARS = 40

Ids = NDArray[np.uint32]


class _KnownChunks(dict[str, bytes]):
    """Ids of what stands between blanks, as the bytes of a `uint32` array; an unknown chunk is learned.

    Bytes, because joining them gives the array of a text without an object for each id.
    """

    def __init__(self, encode: Callable[[str], Ids]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, chunk: str) -> bytes:
        words = _WORDS.findall(chunk.lower()) if _PLAIN.fullmatch(chunk) else [chunk]
        ids = self._encode(chunk).tobytes() if len(words) < 2 else b"".join([self[word] for word in words])
        if len(chunk) <= _MAX_REMEMBERED_CHARS:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[chunk] = ids
        return ids


class Tokenizer:
    """WordPiece ids of a text without special tokens; text that spells a special token is only text."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Slow

        try:
            self._slow = Slow.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise EmbedderError(f"{path} is not a tokenizer: {error}") from error
        self._slow.no_padding()
        self._slow.no_truncation()
        self._slow.encode_special_tokens = True
        self._known = _KnownChunks(self._encode)

    def vocabulary(self) -> list[str]:
        """Every token, by id."""
        vocabulary = self._slow.get_vocab()
        return sorted(vocabulary, key=vocabulary.__getitem__)

    def id_of(self, token: str) -> int:
        """Raises: EmbedderError: the vocabulary has no such token."""
        found = self._slow.token_to_id(token)
        if found is None:
            raise EmbedderError(f"the tokenizer has no token {token}: not a BERT vocabulary")
        return int(found)

    def ids(self, text: str, max_tokens: int) -> Ids:
        """(n_ids,) at most `max_tokens`: three quarters of the budget from the head, the rest from the tail.

        The head states the task and the tail asks the question; what lies between is usually material.
        """
        if len(text) > max_tokens * CHARS_PER_TOKEN:
            text = head_and_tail(text, max_tokens * CHARS_PER_TOKEN)
        ids = self._all_ids(text)
        if len(ids) <= max_tokens:
            return ids
        n_tail = max_tokens // 4
        return np.concatenate((ids[: max_tokens - n_tail], ids[len(ids) - n_tail :]))

    def count(self, text: str) -> int:
        """How many ids the whole text has."""
        return len(self._all_ids(text))

    def _all_ids(self, text: str) -> Ids:
        try:
            data = text.encode()
        except UnicodeEncodeError:  # half a character: JSON can carry it, UTF-8 cannot
            data = text.encode("utf-8", "replace")
            text = data.decode()
        # Deleting bytes in C is quicker than any search for them.
        has_control = len(data.translate(None, _CONTROL_BYTES)) < len(data)
        if has_control or (_BEFORE_CONTROL in data and _CONTROL.search(text)):
            return self._encode(text)
        chunks = (text.lower() if text.isascii() else text).split()
        return np.frombuffer(b"".join(map(self._known.__getitem__, chunks)), np.uint32)

    def _encode(self, text: str) -> Ids:
        return np.array(self._slow.encode(text, add_special_tokens=False).ids, np.uint32)


def get_tokenizer(path: Path) -> Tokenizer:
    """One tokenizer per file and process, so that both tiers learn words once.

    Raises:
        EmbedderError: the file is not a tokenizer.
    """
    stat = path.stat()
    return _tokenizer(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _tokenizer(path: Path, _size_bytes: int, _mtime_ns: int) -> Tokenizer:
    return Tokenizer(path)


class StaticEmbedder:
    """Mean of distilled token vectors: microseconds a text, and routing nearly as good as the encoder's.

    Distilling takes some seconds the first time (`progress` hears tokens done and in all); the table is
    cached by content and mapped into memory. Texts above `max_tokens` keep head and tail. `embed` may be
    called from many threads.

    Reference: model2vec (Minish Lab): token vectors, principal components, rarity weights, mean.
    Differs: rarity follows Zipf's law by vocabulary rank; signs of directions are fixed for equal bits.
    """

    def __init__(
        self,
        source: str | Path = "minilm",
        dim: int = 256,
        max_tokens: int = 512,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Raises: EmbedderError: no such model, another architecture, or a setting out of bounds."""
        # Imported here: distilling reads this module's tokens.
        from .distillation import DISTILLER_VERSION, table_path

        found = find_source(source)
        most = found.config["hidden_size"]
        if not 1 <= dim <= most:
            raise EmbedderError(f"dim is {dim}; a table of this encoder has 1 to {most}")
        if max_tokens < 1:
            raise EmbedderError(f"max_tokens is {max_tokens}; it is at least 1")
        self.dim = dim
        self.fingerprint: str = (
            f"static-{content_hash(found.weights, found.tokenizer)}-d{dim}-b{DISTILLER_VERSION}-t{max_tokens}"
        )
        self.tokenizer = get_tokenizer(found.tokenizer)
        self._max_tokens = max_tokens
        self._unknown = np.array([self.tokenizer.id_of("[UNK]")], np.uint32)
        self._table = np.asarray(np.load(table_path(found, dim, progress), mmap_mode="r"))
        self._ones = np.ones(max_tokens, np.float32)

    def ids(self, text: str) -> Ids:
        """Token ids of a text, as `embed_ids` takes them: what lexical features can be made of as well."""
        return self.tokenizer.ids(text, self._max_tokens)

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order; (0, dim) for no text."""
        return self.embed_ids([self.ids(text) for text in texts])

    def embed_ids(self, ids: Sequence[Ids]) -> Floats32:
        """(n_texts, dim) unit rows of texts as `ids` gives them; no token at all counts as an unknown one."""
        vectors = np.empty((len(ids), self.dim), np.float32)
        for row, tokens in enumerate(ids):
            parts = self._table.take(tokens if len(tokens) else self._unknown, axis=0)  # (n_tokens, dim)
            # A product with ones sums faster than sum(axis=0); the unit vector of a sum is that of its mean.
            total: Floats32 = self._ones[: len(parts)].dot(parts)  # (dim,)
            np.divide(total, sqrt(float(total.dot(total))), out=vectors[row])
        return vectors
