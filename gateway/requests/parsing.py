"""A request body, parsed: which expert, policy or embedder is asked, and how.

`RequestParser.parse` is the one place where a body becomes a request. Endpoints, the dry run, batches and the
command line all call it.
"""

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec

from policies import Policy, RoutingHints
from routers import Query

from ..anthropic.requests import translate_count, translate_request
from ..config import Config
from ..config.providers import find_maker
from ..embedding import EmbedderPool
from ..errors import ForbiddenField, InvalidField, InvalidJson, ModelNotFound, suggest
from ..experts import Call, Expert, Fields, ToolExpert
from ..experts.types import Endpoint
from ..openai.translation import Translation
from ..prompts.wrappings import WrappingGrammar
from .bodies import (
    BODY_LIMITS,
    INLINE_BYTES,
    MAX_FIELDS,
    MAX_TEXT_BYTES,
    ShortJson,
    check_surrogates,
    check_utf8,
    shorten,
)
from .embedding import EmbeddingInput, is_embedder_name, parse_embedding_input
from .options import RoutingOptions, extract_prompt_flags, list_ignored, parse_routing_options
from .query import (
    Conversation,
    ReadRequest,
    parse_chat_query,
    parse_completion_query,
    read_conversation,
)

OWN_FIELDS = ("model", "router")
"""Fields for Thalamus itself: no expert receives them."""

FORBIDDEN = frozenset(
    {
        "api_base",
        "base_url",
        "api_key",
        "api_version",
        "api_type",
        "azure_ad_token",
        "azure_ad_token_provider",
        "azure_endpoint",
        "custom_llm_provider",
        "default_headers",
        "extra_headers",
        "aws_access_key_id",
        "aws_bedrock_runtime_endpoint",
        "aws_profile_name",
        "aws_region_name",
        "aws_role_name",
        "aws_secret_access_key",
        "aws_session_name",
        "aws_session_token",
        "aws_sts_endpoint",
        "aws_web_identity_token",
        "litellm_credential_name",
        "litellm_params",
        "vertex_ai_credentials",
        "vertex_ai_location",
        "vertex_ai_project",
        "vertex_credentials",
        "vertex_location",
        "vertex_project",
    }
)
"""Fields by which a client would choose where its request goes, or with whose key (LiteLLM reads them)."""

MAX_NAMED = 5
"""So many parts of a request are named in its refusal."""
_fields = msgspec.json.Decoder(Fields)
_text = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One inference endpoint: its path, the upstream path of its calls, and how its body is read.

    `translate` makes a chat request of a body in another wire format; the rest reads that.
    """

    path: str
    endpoint: Endpoint
    check: Callable[[Fields], None]
    query: Callable[[Fields, WrappingGrammar, ShortJson | None], ReadRequest] | None
    translate: Callable[[Fields], Translation] | None = None


class ToExpert(msgspec.Struct, frozen=True):
    """A request for an expert that the client named.

    `call` goes to the expert, `options` is what was asked beside it, `fallbacks` are experts to try after it,
    `warnings` name the options that only a policy reads.
    """

    call: Call
    options: RoutingOptions
    expert: str
    fallbacks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class ToPolicy(msgspec.Struct, frozen=True):
    """A request whose expert a policy chooses, by `query` and under `hints`.

    `conversation` is None where there is none, or the policy does not look at it.
    """

    call: Call
    options: RoutingOptions
    policy: Policy
    query: Query
    hints: RoutingHints | None = None
    warnings: tuple[str, ...] = ()
    conversation: Conversation | None = None


class ToEmbedder(msgspec.Struct, frozen=True):
    """A request for the gateway's own embedders."""

    call: Call
    options: RoutingOptions
    input: EmbeddingInput


ParsedRequest = ToExpert | ToPolicy | ToEmbedder


class RequestParser:
    """Parses bodies against one configuration; it decides and calls nothing."""

    def __init__(
        self,
        config: Config,
        policies: Mapping[str, Policy],
        experts: Mapping[str, Expert],
        embedders: EmbedderPool | None,
        grammar: WrappingGrammar | None = None,
    ) -> None:
        self._policies = policies
        self._embedders = embedders
        self._grammar = grammar or WrappingGrammar()
        self._tools = tuple(expert for expert in experts.values() if isinstance(expert, ToolExpert))
        self._experts = tuple(experts)
        # Experts of installed packages need not say that they speak chat alone.
        self._formats: dict[str, frozenset[str]] = {
            name: getattr(expert, "formats", frozenset()) for name, expert in experts.items()
        }
        # An expert answers to its name, and to `provider/model`: the first in the file that has it.
        models: dict[str, str] = {}
        for expert in config.experts:
            models.setdefault(expert.model, expert.name)
        models.pop("", None)
        self._names: dict[str, str] = models | {name: name for name in experts}
        self._aliases = config.aliases
        self._embedding_experts = {expert.name for expert in config.experts if expert.embeds}

    def parse(self, spec: EndpointSpec, fields: Fields, headers: Mapping[bytes, bytes]) -> ParsedRequest:
        """The request in a body's fields and its headers (names in lower case).

        Raises:
            BadRequest: the body or a header is at fault; `param` names the field.
        """
        translation: Translation | None = None
        if spec.translate is not None:
            translation = replace(spec.translate(fields), headers=headers)
            fields = translation.fields
        model = text_field(fields, "model")
        model = self._aliases.get(model, model)
        stream = "stream" in fields and spec.query is not None and flag_field(fields, "stream")
        spec.check(fields)
        options = parse_routing_options(fields, headers)
        # Fields keep the client's order and bytes: what is not read is not decoded either.
        sent = fields.copy()
        for name in OWN_FIELDS:
            sent.pop(name, None)
        call = Call(spec.endpoint, sent, stream, translation=translation)
        if spec.query is None:
            return self._parse_embedding(model, call, options)
        # For a named expert the messages are never decoded: what is not read cannot be refused by mistake.
        expert = self._names.get(model)
        if expert is not None:
            if expert in self._embedding_experts:
                raise self._no_chat_model(model)
            fallbacks = self._fallbacks(options)
            if translation is not None:
                self._check_named(translation, (expert, *fallbacks))
            return ToExpert(call, options, expert, fallbacks, list_ignored(options))
        policy = self._policy(model, options)
        flags = extract_prompt_flags(sent, options, policy, self._grammar)
        if flags.fields is not sent:
            original = translation and replace(translation, original=None)
            call = Call(spec.endpoint, flags.fields, stream, translation=original)
        read = spec.query(flags.fields, self._grammar, flags.short)
        query = read.query
        # A tool is asked before routing: that it has no answer is a fact, not a prediction.
        if self._tools or translation is not None:
            declined = self._list_unable(translation)
            declined |= {tool.name: why for tool in self._tools if (why := tool.decline(call, read.question))}
            query = msgspec.structs.replace(query, declined=declined) if declined else query
        # As the client sent them: a flag that is taken out of this turn stands in the next one's history.
        is_chat = policy.affinity and "messages" in sent
        conversation = read_conversation(sent["messages"]) if is_chat else None
        return ToPolicy(call, options, policy, query, flags.hints, flags.warnings, conversation)

    def _list_unable(self, translation: Translation | None) -> dict[str, str]:
        """Experts that cannot do all of a request, as they do not speak its format, with the reason.

        Raises:
            InvalidField: no expert can.
        """
        if translation is None or not translation.native_only:
            return {}
        what = ", ".join(translation.native_only[:MAX_NAMED])
        why = f"cannot be asked for {what}: only experts that speak '{translation.format}' themselves can"
        unable = {name: why for name in self._experts if translation.format not in self._formats[name]}
        if len(unable) == len(self._experts):
            param = translation.native_only[0].partition(" ")[0]
            raise InvalidField(f"no expert here can be asked for {what}", param=param)
        return unable

    def _check_named(self, translation: Translation, names: tuple[str, ...]) -> None:
        unable = self._list_unable(translation)
        for name in names:
            if name in unable:
                param = translation.native_only[0].partition(" ")[0]
                raise InvalidField(f"expert '{name}' {unable[name]}", param=param)

    def unknown_model(self, model: str) -> ModelNotFound:
        """The refusal of a model that is not configured; it lists the names that are."""
        if self._embedders is not None and model in self._embedders.names:
            return self._no_chat_model(model)
        policies = (f"auto:{name}" for name in self._policies if name != "auto")
        known = ["auto", *policies, *self._experts, *self._aliases]
        said = f"there is no model '{model[:128]}'; {suggest(model, known)}there are: {', '.join(known)}"
        if find_maker(model) is not None:
            # Clients of one maker often know its names alone, as Claude Code does.
            said += "; `aliases` in the configuration gives one of them a client's name"
        return ModelNotFound(said, param="model")

    def _no_chat_model(self, model: str) -> ModelNotFound:
        # 404 and this code are what OpenAI answers to a model at the wrong endpoint.
        hint = "send it to /v1/embeddings, or name another model"
        return ModelNotFound(f"'{model[:128]}' makes embeddings and answers no prompt; {hint}", param="model")

    def _parse_embedding(self, model: str, call: Call, options: RoutingOptions) -> ToExpert | ToEmbedder:
        expert = self._names.get(model)
        if expert in self._embedding_experts:
            return ToExpert(call, options, str(expert), warnings=list_ignored(options))
        pool = self._embedders
        if pool is None or not is_embedder_name(model, pool.names):
            raise self._unknown_embedder(model)
        return ToEmbedder(call, options, parse_embedding_input(model, call.fields, options, pool.names))

    def _unknown_embedder(self, model: str) -> ModelNotFound:
        if model in self._experts and model not in self._embedding_experts:
            hint = "use an expert with `embeds: true`"
            return ModelNotFound(f"'{model}' is not an embedding model; {hint}", param="model")
        own = ("auto", *self._embedders.names) if self._embedders else ()
        known = [*own, *sorted(self._embedding_experts)]
        listed = f"{suggest(model, known)}there are: {', '.join(known) or 'none'}"
        return ModelNotFound(f"there is no embedding model '{model[:128]}'; {listed}", param="model")

    def _policy(self, model: str, options: RoutingOptions) -> Policy:
        """The policy that `auto`, `auto:<policy>` or the routing options name."""
        # Model names may contain colons themselves (ollama's `llama3:8b`): only the prefix `auto` is ours.
        prefix, _, named = model.partition(":")
        if prefix != "auto" or model == "auto:" or (named and named not in self._policies):
            raise self.unknown_model(model)
        name = named or options.policy or "auto"
        if name not in self._policies:
            known = ", ".join(self._policies)
            raise InvalidField(f"there is no policy '{name}'; there are: {known}", param="router.policy")
        policy = self._policies[name]
        if options.panel is None:
            return policy
        tools = {tool.name for tool in self._tools}
        return options.panel.apply(policy, [one for one in self._experts if one not in tools])

    def _fallbacks(self, options: RoutingOptions) -> tuple[str, ...]:
        if not options.fallbacks:
            return ()
        fallbacks = [self._aliases.get(name, name) for name in options.fallbacks]
        for name in fallbacks:
            if name not in self._names:
                known = ", ".join(self._experts)
                raise InvalidField(
                    f"there is no expert '{name}'; there are: {known}", param="router.fallbacks"
                )
            if self._names[name] in self._embedding_experts:
                raise InvalidField(str(self._no_chat_model(name)), param="router.fallbacks")
        return tuple(dict.fromkeys(self._names[name] for name in fallbacks))


def parse_body(body: bytes, max_text_bytes: int = MAX_TEXT_BYTES) -> Fields:
    """The fields of a JSON object, each as its own bytes: a field that is not read travels unchanged.

    Raises:
        InvalidJson: the body is not a JSON object, or not UTF-8.
        InvalidField: the body has more fields, or longer lists, than any request.
        BodyTooLarge: there are more than `max_text_bytes` beside pictures and other attachments.
        ForbiddenField: the body names an upstream address or a key.
    """
    # RFC 8259, section 8.1: a mark may be passed over. PowerShell writes one.
    body = body.removeprefix(BOM_UTF8)
    if body.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise InvalidJson("the body is UTF-16, by its byte order mark; send it as UTF-8")
    short: ShortJson | None = None
    try:
        if len(body) > INLINE_BYTES:
            short = shorten(body, BODY_LIMITS, most=max_text_bytes)
            found = _fields.decode(short.data)
            fields = {name: short.restore(value) for name, value in found.items()} if short.cuts else found
        else:
            if not body.isascii():
                check_utf8(body)
            # Most bodies hold no such escape: one byte is found far more quickly than several, or a pattern.
            if b"\\" in body and (b"\\ud" in body or b"\\uD" in body):
                check_surrogates(body)
            fields = _fields.decode(body)
    except msgspec.ValidationError:
        raise InvalidJson("the body must be a JSON object") from None
    except msgspec.DecodeError as error:
        what = short.correct_places(str(error)) if short else str(error)
        raise InvalidJson(f"the body is not valid JSON: {what}" if body else "the body is empty") from None
    except RecursionError:
        raise InvalidJson("the body is nested too deeply") from None
    if len(fields) > MAX_FIELDS:
        raise InvalidField(f"the body has {len(fields)} fields; {MAX_FIELDS} are the most")
    # Server-side request forgery: with `api_base` a client could have the operator's key sent elsewhere.
    for name in FORBIDDEN.intersection(fields):
        raise ForbiddenField(
            f"'{name}' is not for clients to choose: the operator sets upstreams and keys; leave it out",
            param=name,
        )
    return fields


def text_field(fields: Fields, name: str) -> str:
    """A required field that must be a non-empty string.

    Raises:
        InvalidField: the field is missing, empty or of another type.
    """
    raw = fields.get(name)
    if raw is None:
        raise InvalidField(f"'{name}' is missing; it must be a string", param=name)
    try:
        text = _text.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidField(f"'{name}' must be a string", param=name) from None
    if not text:
        raise InvalidField(f"'{name}' must not be empty", param=name)
    return text


def flag_field(fields: Fields, name: str) -> bool:
    """An optional boolean; missing and null are False.

    Raises:
        InvalidField: the field is something else.
    """
    raw = fields.get(name)
    if raw is None:
        return False
    word = bytes(memoryview(raw)[:6])
    if word == b"true":
        return True
    if word in (b"false", b"null"):
        return False
    raise InvalidField(f"'{name}' must be true or false", param=name)


def check_chat(fields: Fields) -> None:
    """Check that `messages` is a non-empty list; its items are left to the query and the expert."""
    raw = fields.get("messages")
    if raw is None:
        raise InvalidField("'messages' is missing; it must be a list", param="messages")
    # A conversation may be megabytes long: its first bytes tell whether it is a list, and an empty one.
    head = bytes(memoryview(raw)[:32])
    if head[:1] != b"[":
        raise InvalidField("'messages' must be a list", param="messages")
    if head[1:2] != b"{" and head[1:].lstrip().startswith(b"]"):
        raise InvalidField("'messages' must not be empty", param="messages")


def check_completion(fields: Fields) -> None:
    """Check that `prompt` is a text or a list: of texts, or of token ids."""
    raw = fields.get("prompt")
    if raw is None:
        raise InvalidField("'prompt' is missing; it must be a string or a list", param="prompt")
    if bytes(memoryview(raw)[:1]) not in (b'"', b"["):
        raise InvalidField("'prompt' must be a string or a list", param="prompt")


def check_embedding(fields: Fields) -> None:
    """Check that there is an `input`."""
    if "input" not in fields:
        raise InvalidField("'input' is missing; it must be a string or a list of strings", param="input")


CHAT = EndpointSpec("/v1/chat/completions", "chat/completions", check_chat, parse_chat_query)
COMPLETIONS = EndpointSpec("/v1/completions", "completions", check_completion, parse_completion_query)
EMBEDDINGS = EndpointSpec("/v1/embeddings", "embeddings", check_embedding, None)
MESSAGES = EndpointSpec("/v1/messages", "chat/completions", check_chat, parse_chat_query, translate_request)
COUNT_TOKENS = EndpointSpec(
    "/v1/messages/count_tokens", "chat/completions", check_chat, parse_chat_query, translate_count
)
SPECS = {spec.path: spec for spec in (CHAT, COMPLETIONS, EMBEDDINGS)}
