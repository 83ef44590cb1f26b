"""What an embedding request asks of the embedders served here: its texts, how they are read, and by whom."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from policies import Require
from routers import PilotRule, estimate_tokens

from ..config import BASE_EMBEDDER
from ..embedding import EmbedderPool
from ..errors import InvalidField
from ..experts.types import Fields
from .options import RoutingOptions

MAX_TEXTS = 2048
MAX_TEXT_TOKENS = 8192
MAX_TOKENS = 300_000
InputType = Literal["document", "query"]
RULES: tuple[PilotRule, ...] = get_args(PilotRule)

_input = msgspec.json.Decoder(str | list[Any])
_word = msgspec.json.Decoder(str | None)
_whole = msgspec.json.Decoder(int | None)


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """`named` is the embedder a client named, None for `auto`.

    `input_type` is None where the request says nothing of it.
    """

    texts: list[str]
    as_base64: bool
    input_type: InputType | None
    named: str | None
    policy: PilotRule
    require: Require
    warnings: tuple[str, ...]

    def allows(self, name: str) -> bool:
        """Whether the request lets this embedder read."""
        models = self.require.models
        return name not in self.require.exclude and (models is None or name in models)


def is_embedder_name(model: str, pool: EmbedderPool) -> bool:
    """Whether the model is `auto`, `auto:<policy>` or an embedder's name."""
    return model in pool.names or model == "auto" or model.removeprefix("auto:") in RULES


def parse_embedding_request(
    model: str, fields: Fields, hints: RoutingOptions, pool: EmbedderPool
) -> EmbeddingRequest:
    """The request, checked; `pool` is loaded.

    Raises:
        InvalidField: a field says what cannot be.
    """
    texts = _texts(fields)
    _check_dimensions(fields, pool.base.dim)
    named = model if model in pool.names else None
    return EmbeddingRequest(
        texts=texts,
        as_base64=_as_base64(fields),
        input_type=_input_type(fields),
        named=named,
        policy=_policy(model, hints, pool),
        require=_require(hints),
        warnings=tuple(_warnings(hints)),
    )


def _texts(fields: Fields) -> list[str]:
    try:
        given = _input.decode(fields["input"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidField("'input' must be a string or a list of strings", param="input") from None
    texts = [given] if isinstance(given, str) else given
    if texts and all(isinstance(text, (int, list)) for text in texts):
        raise InvalidField(f"'{BASE_EMBEDDER}' and its experts take text, not token ids", param="input")
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidField("'input' must be a non-empty string or a list of them", param="input")
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
            said = f"input[{place}] has about {n} tokens; {MAX_TEXT_TOKENS} are the most: split it"
            raise InvalidField(said, param="input")
    if sum(n_tokens) > MAX_TOKENS:
        said = f"'input' has about {sum(n_tokens)} tokens; {MAX_TOKENS} are the most at a time"
        raise InvalidField(said, param="input")


def _check_dimensions(fields: Fields, dim: int) -> None:
    try:
        asked = _whole.decode(fields["dimensions"]) if "dimensions" in fields else None
    except msgspec.MsgspecError:
        raise InvalidField("'dimensions' must be a whole number", param="dimensions") from None
    if asked is not None and asked != dim:
        said = f"'{BASE_EMBEDDER}' and its experts give {dim} dimensions; leave 'dimensions' out"
        raise InvalidField(said, param="dimensions")


def _as_base64(fields: Fields) -> bool:
    form = _word_of(fields, "encoding_format")
    if form not in (None, "float", "base64"):
        raise InvalidField("'encoding_format' must be 'float' or 'base64'", param="encoding_format")
    return form == "base64"


def _input_type(fields: Fields) -> InputType | None:
    given = _word_of(fields, "input_type")
    if given not in (None, "query", "document"):
        raise InvalidField("'input_type' must be 'query' or 'document'", param="input_type")
    return given  # type: ignore[return-value]


def _word_of(fields: Fields, name: str) -> str | None:
    try:
        return _word.decode(fields[name]) if name in fields else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidField(f"'{name}' must be a string", param=name) from None


def _policy(model: str, hints: RoutingOptions, pool: EmbedderPool) -> PilotRule:
    """The rule that `auto:<policy>`, the hints or the configuration name."""
    word = model.partition(":")[2] if model.startswith("auto:") else hints.policy
    for rule in RULES:
        if word == rule:
            return rule
    if word in (None, "auto"):
        return pool.policy
    known = ", ".join(RULES)
    raise InvalidField(
        f"there is no policy '{word}' for embeddings; there are: {known}", param="router.policy"
    )


def _require(hints: RoutingOptions) -> Require:
    """What an embedder must meet; nothing is foretold of one that a floor could be held against."""
    require = hints.hints.require if hints.hints is not None else Require()
    for name, bound in (("min_quality", require.min_quality), ("max_latency_ms", require.max_latency_s)):
        if bound is not None:
            said = f"router.{name}: nothing is foretold of embedders; leave it out"
            raise InvalidField(said, param=f"router.{name}")
    return require


def _warnings(hints: RoutingOptions) -> Iterator[str]:
    if hints.flags or (hints.hints is not None and hints.hints.objective is not None):
        yield "flags, weights and dials of cost and quality choose no embedder: not followed"
