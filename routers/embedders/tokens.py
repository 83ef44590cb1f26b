"""Text to WordPiece ids, about eight times as fast as the tokenizer it agrees with.

Prompts repeat their words, so each word goes through the real tokenizer once. A BERT tokenizer always
separates words at whitespace, punctuation and Han characters, hence splitting there first changes nothing (a
test holds both against each other). Words with anything else in them go through the real tokenizer.
"""

import re
from functools import lru_cache
from pathlib import Path

from ..errors import EmbedderError
from ..features import head_and_tail

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
