"""Skills named by a language model: what to ask it and what to keep of its replies; others call it."""

import re
from collections import Counter
from collections.abc import Sequence

N_SAMPLES = 5
SAMPLING_TEMPERATURE = 0.7
MAX_KEYWORD_CHARS = 20
MAX_QUESTION_CHARS = 6000

_PROMPT = """\
Name the knowledge, subjects and skills that somebody needs in order to answer the question below. Do not \
answer it. Give two to five keywords of at most three words each, separated by commas, in one line that \
begins with "Keywords:".

Question:
{question}"""

_LINE = re.compile(r"keywords?\s*\**\s*:\s*\**\s*(.+)", re.IGNORECASE)
_EDGES = " \t\r\n.;:*`'\"<>[]()-"


def keyword_prompt(question: str) -> str:
    """What to ask a language model, `N_SAMPLES` times at `SAMPLING_TEMPERATURE`."""
    return _PROMPT.format(question=question[:MAX_QUESTION_CHARS])


def parse_keywords(reply: str) -> list[str]:
    """Keywords of one reply, in lower case, each once, in order; none where its form is another."""
    found = _LINE.findall(reply)
    if not found:
        return []
    words = (" ".join(word.strip(_EDGES).lower().split()) for word in found[-1].split(","))
    return [word for word in dict.fromkeys(words) if 0 < len(word) <= MAX_KEYWORD_CHARS]


def consistent_keywords(replies: Sequence[str]) -> list[str]:
    """Keywords that more than one reply names, most often named first; of equals in order of first mention.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.1: five samples, T 0.7, what occurs more than once.
    Differs: a keyword that one reply repeats counts once.
    """
    named = Counter(word for reply in replies for word in parse_keywords(reply))
    return [word for word, n in named.most_common() if n > 1]
