"""The texts of an embedding request, and which of the gateway's own embedders may read them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from policies import Require
from routers import PilotRule, estimate_tokens

from ..config import BASE_EMBEDDER
from ..errors import InvalidField
from ..experts.types import Fields
from .bodies import INLINE_BYTES, Limits, check_limits
from .options import RoutingOptions

MAX_TEXTS = 2048
MAX_TEXT_TOKENS = 8192
MAX_TOKENS = 300_000
"""The limits of OpenAI's endpoint: items of a list, tokens of an item, tokens of a request."""

MAX_INPUT_BYTES = 8 * 1024 * 1024
"""More bytes are more tokens than `MAX_TOKENS`, even where all characters are escaped."""
INPUT_LIMITS: Limits = {
    1: (MAX_TEXTS, f"'input' has more than {{}} texts; {MAX_TEXTS} are the most at a time")
}

InputType = Literal["document", "query"]
RULES: tuple[PilotRule, ...] = get_args(PilotRule)

_input = msgspec.json.Decoder(str | list[str])
_word = msgspec.json.Decoder(str | None)
_whole = msgspec.json.Decoder(int | None)
_PLACE = re.compile(r"`\$(\[\d+\])`")
_N_PEEK = 64


@dataclass(frozen=True, slots=True)
class EmbeddingInput:
    """The texts and how to embed them.

    `embedder` is the one the client named, None for `auto`; `rule` chooses for `auto`, None takes the
    configured one. `input_type` and `dimensions` are None where the request leaves them out.
    """

    texts: list[str]
    as_base64: bool
    input_type: InputType | None
    embedder: str | None
    rule: PilotRule | None
    dimensions: int | None
    require: Require
    warnings: tuple[str, ...]

    def allows(self, name: str) -> bool:
        """Whether the request permits this embedder."""
        models = self.require.models
        return name not in self.require.exclude and (models is None or name in models)

    def check_dimensions(self, dim: int) -> None:
        """Check the vectors' length against what the embedders give.

        Raises:
            InvalidField: the request asks for another length.
        """
        if self.dimensions is not None and self.dimensions != dim:
            raise InvalidField(
                f"'{BASE_EMBEDDER}' and its experts give {dim} dimensions and cannot be shortened; "
                f"leave 'dimensions' out or send {dim}",
                param="dimensions",
            )


def is_embedder_name(model: str, names: Sequence[str]) -> bool:
    """Whether the model is `auto`, `auto:<rule>` or the name of an embedder."""
    return model in names or model == "auto" or model.removeprefix("auto:") in RULES


def parse_embedding_input(
    model: str, fields: Fields, options: RoutingOptions, names: Sequence[str]
) -> EmbeddingInput:
    """The texts and their options, checked. `names` are the embedders there are.

    Raises:
        InvalidField: a field has a value that cannot be served; `param` names it.
    """
    return EmbeddingInput(
        texts=_parse_texts(fields),
        as_base64=_parse_encoding(fields),
        input_type=_parse_input_type(fields),
        embedder=model if model in names else None,
        rule=_parse_rule(model, options),
        dimensions=_parse_dimensions(fields),
        require=_parse_require(options),
        warnings=tuple(_warnings(options)),
    )


def _parse_texts(fields: Fields) -> list[str]:
    raw = fields["input"]
    head = bytes(memoryview(raw)[:_N_PEEK]).translate(None, b" \t\r\n")
    # Refused by their first characters: hundreds of thousands of ids would be decoded for nothing.
    if head[:1] == b"[" and (head[1:2].isdigit() or head[1:2] in (b"[", b"-")):
        raise InvalidField(
            f"'{BASE_EMBEDDER}' and its experts take text, not token ids of another model's tokenizer; "
            "in LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False",
            param="input",
        )
    if len(memoryview(raw)) > MAX_INPUT_BYTES:
        raise InvalidField(
            f"'input' has more than {MAX_TOKENS} tokens, the most at a time; split the request", param="input"
        )
    if len(memoryview(raw)) > INLINE_BYTES:
        check_limits(raw, INPUT_LIMITS, "input")
    try:
        value = _input.decode(raw)
    except msgspec.ValidationError as error:
        found = _PLACE.search(str(error))
        where = (
            f"input{found[1]} must be a string" if found else "'input' must be a string or a list of strings"
        )
        raise InvalidField(where, param="input") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidField("'input' must be a string or a list of strings", param="input") from None
    texts = [value] if isinstance(value, str) else value
    if not texts or not value:
        raise InvalidField("'input' must be a non-empty string or a list of them", param="input")
    for place, text in enumerate(texts):
        if not text:
            raise InvalidField(
                f"input[{place}] is empty: an empty text has no vector; leave it out", param="input"
            )
    _check_size(texts)
    return texts


def _check_size(texts: list[str]) -> None:
    if len(texts) > MAX_TEXTS:
        raise InvalidField(
            f"'input' has {len(texts)} texts; {MAX_TEXTS} are the most at a time", param="input"
        )
    n_tokens = [estimate_tokens(text) for text in texts]
    for place, n in enumerate(n_tokens):
        if n > MAX_TEXT_TOKENS:
            raise InvalidField(
                f"input[{place}] has about {n} tokens; {MAX_TEXT_TOKENS} are the most: split it",
                param="input",
            )
    if sum(n_tokens) > MAX_TOKENS:
        raise InvalidField(
            f"'input' has about {sum(n_tokens)} tokens; {MAX_TOKENS} are the most at a time", param="input"
        )


def _parse_dimensions(fields: Fields) -> int | None:
    try:
        return _whole.decode(fields["dimensions"]) if "dimensions" in fields else None
    except msgspec.MsgspecError:
        raise InvalidField("'dimensions' must be a whole number", param="dimensions") from None


def _parse_encoding(fields: Fields) -> bool:
    form = _parse_word(fields, "encoding_format")
    if form not in (None, "float", "base64"):
        raise InvalidField("'encoding_format' must be 'float' or 'base64'", param="encoding_format")
    return form == "base64"


def _parse_input_type(fields: Fields) -> InputType | None:
    word = _parse_word(fields, "input_type")
    if word not in (None, "query", "document"):
        raise InvalidField("'input_type' must be 'query' or 'document'", param="input_type")
    return word  # type: ignore[return-value]


def _parse_word(fields: Fields, name: str) -> str | None:
    try:
        return _word.decode(fields[name]) if name in fields else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidField(f"'{name}' must be a string", param=name) from None


def _parse_rule(model: str, options: RoutingOptions) -> PilotRule | None:
    """The rule that `auto:<rule>` or the routing options name; None where they name none."""
    word = model.partition(":")[2] if model.startswith("auto:") else options.policy
    for rule in RULES:
        if word == rule:
            return rule
    if word in (None, "auto"):
        return None
    known = ", ".join(RULES)
    raise InvalidField(
        f"there is no policy '{word}' for embeddings; there are: {known}", param="router.policy"
    )


def _parse_require(options: RoutingOptions) -> Require:
    """Models and exclusions apply to embedders; their quality and latency are not predicted."""
    require = options.hints.require if options.hints is not None else Require()
    for name, bound in (("min_quality", require.min_quality), ("max_latency_ms", require.max_latency_s)):
        if bound is not None:
            raise InvalidField(
                f"router.{name} is not supported for embedding models; leave it out", param=f"router.{name}"
            )
    return require


def _warnings(options: RoutingOptions) -> Iterator[str]:
    if options.flags or (options.hints is not None and options.hints.objective is not None):
        yield "flags, weights, and targets of cost and quality are ignored for embedding models"
