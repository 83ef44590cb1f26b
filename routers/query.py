"""From a bare prompt to a `Query`: offline rows and gateway requests are read by the same functions."""

import re

from .embedders.tokens import head_and_tail
from .language import guess_language
from .types import Query

SAMPLE_CHARS = 8000
"""How much of a long text is looked at for code."""

_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_CODE_LINE = re.compile(
    r"""^[ \t]*+(?:
        (?:def|class|async[ ]def|func|fn|interface|struct|enum)[ ]\w.*[:{(]
      | (?:import|package|using|\#include|\#define)[ ]\S+;?$
      | from[ ]\S+[ ]import[ ]
      | (?:for|if|elif|while|with|except|try|else)\b.*:$
      | (?:return|raise|print|echo|assert)\b.*[)\]};\w]$
      | (?:public|private|protected|static|const|let|var|function|void|int|double|float)\b.*[;{(=]
      | (?:SELECT|INSERT|UPDATE|DELETE|CREATE|FROM|WHERE|JOIN|GROUP[ ]BY|ORDER[ ]BY)\b
      | [\w.\[\]]+[ ]?[-+*/]?=[ ]?\S
      | @\w+ | >>>[ ] | \$[ ]\w | </?\w+[ >/]
      | .*[;{}]$
    ).*$""",
    re.MULTILINE | re.VERBOSE,
)


def query_of(text: str) -> Query:
    """The query that consists of this text alone."""
    return Query(
        text=text,
        n_input_tokens=estimate_tokens(text),
        language=guess_language(text),
        code_share=code_share(text),
    )


def estimate_tokens(text: str) -> int:
    """About how many tokens a language model reads: four ASCII bytes, or three others, each."""
    if text.isascii():
        return -(-len(text) // 4)
    n_bytes = len(text.encode("utf-8", "surrogatepass"))
    n_ascii = len(text.encode("ascii", "ignore"))
    return -(-n_ascii // 4) + -(-(n_bytes - n_ascii) // 3)


def code_share(text: str) -> float:
    """Share of the characters that stand in fenced blocks or in lines that look like code."""
    sample = head_and_tail(text, SAMPLE_CHARS)
    if not sample:
        return 0.0
    rest = _FENCED.sub("", sample) if "```" in sample else sample
    n_code = len(sample) - len(rest) + sum(len(line) for line in _CODE_LINE.findall(rest))
    return n_code / len(sample)
