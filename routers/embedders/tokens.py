"""Text to WordPiece ids, and to the mean of a static table of token vectors.

The tokenizer is about eight times as fast as the one it agrees with.

Prompts repeat their words, so each word goes through the real tokenizer once. A BERT tokenizer always
separates words at whitespace, punctuation and Han characters, hence splitting there first changes nothing (a
test holds both against each other). Words with anything else in them go through the real tokenizer.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import EmbedderError
from ..features import head_and_tail
from ..types import Floats32
from .model_files import content_hash, find_source

MAX_WORDS = 1 << 15
"""Words remembered; a few megabytes. Beyond it the memory is emptied and fills again."""

CHARS_PER_TOKEN = 16
"""Longer texts are cut before they are tokenised, so that a megabyte of text costs no more than a page."""

_SIGNS = "‐-‧、。〈-】！（），．：；？"
"""Punctuation beyond ASCII that is common in prompts: each sign separates words and is one."""

_WORDS = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
_WIDE_WORDS = re.compile(rf"[a-z0-9]+|[!-/:-@\[-`{{-~{_SIGNS}一-鿿]")
_PLAIN = re.compile(f"[!-~{_SIGNS}一-鿿]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character: JSON can carry it, UTF-8 cannot
_MAX_REMEMBERED_CHARS = 40


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
        self._known: dict[str, tuple[int, ...]] = {}

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

    def ids(self, text: str, max_tokens: int) -> list[int]:
        """At most `max_tokens` ids: three quarters of the budget from the head, the rest from the tail.

        The head states the task and the tail asks the question; what lies between is usually material.
        """
        ids = self._all_ids(head_and_tail(text, max_tokens * CHARS_PER_TOKEN))
        if len(ids) <= max_tokens:
            return ids
        n_tail = max_tokens // 4
        return ids[: max_tokens - n_tail] + ids[len(ids) - n_tail :]

    def count(self, text: str) -> int:
        """How many ids the whole text has."""
        return len(self._all_ids(text))

    def _all_ids(self, text: str) -> list[int]:
        if _SURROGATE.search(text):
            text = text.encode("utf-8", "replace").decode()
        if _CONTROL.search(text):
            return list(self._slow.encode(text, add_special_tokens=False).ids)
        words: list[str] = _WORDS.findall(text.lower()) if text.isascii() else []
        if not words:
            for chunk in text.split():
                words += _WIDE_WORDS.findall(chunk.lower()) if _PLAIN.fullmatch(chunk) else (chunk,)
        known = self._known
        ids: list[int] = []
        for word in words:
            ids += known.get(word) or self._learn(word)
        return ids

    def _learn(self, word: str) -> tuple[int, ...]:
        ids = tuple(self._slow.encode(word, add_special_tokens=False).ids)
        if len(word) <= _MAX_REMEMBERED_CHARS:
            if len(self._known) >= MAX_WORDS:
                self._known.clear()
            self._known[word] = ids
        return ids


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
        self._unknown = [self.tokenizer.id_of("[UNK]")]
        self._table = np.asarray(np.load(table_path(found, dim, progress), mmap_mode="r"))
        self._ones = np.ones(max_tokens, np.float32)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, as `embed_ids` takes them: what lexical features can be made of as well."""
        return self.tokenizer.ids(text, self._max_tokens)

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order; (0, dim) for no text."""
        return self.embed_ids([self.ids(text) for text in texts])

    def embed_ids(self, ids: Sequence[Sequence[int]]) -> Floats32:
        """(n_texts, dim) unit rows of texts as `ids` gives them; no token at all counts as an unknown one."""
        vectors = np.empty((len(ids), self.dim), np.float32)
        for row, tokens in enumerate(ids):
            parts = self._table.take(np.array(tokens or self._unknown), axis=0)  # (n_tokens, dim)
            # A product with ones sums faster than sum(axis=0); the unit vector of a sum is that of its mean.
            total: Floats32 = self._ones[: len(parts)] @ parts  # (dim,)
            np.divide(total, np.sqrt(total @ total), out=vectors[row])
        return vectors
