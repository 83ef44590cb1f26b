"""One entry of LiteLLM's `model_list`: the model that it calls, how, and what it says of the expert."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..expert_schema import ProviderSettings
from ..providers import PROVIDERS, find_receiver, passes_through
from ..secrets import REFERENCE, UnresolvedReferenceError, check_references, list_variables
from ..validation import PROVIDERS_OF_SETTINGS, find_address_fault
from .litellm_rules import AZURE, INFERENCE_PROFILE, KIND_WORDS, ModelRules
from .result import ImportNotes

SETTINGS = frozenset(ProviderSettings.__struct_fields__)
PRICES = ("input_cost_per_token", "output_cost_per_token")
OTHER_NAMES = {f"vertex_ai_{name}": f"vertex_{name}" for name in ("project", "location", "credentials")}
"""Settings that LiteLLM takes by a second name."""
LIMITS = {"max_parallel_requests": "max_parallel", "rpm": "rpm", "tpm": "tpm"}
TIMEOUTS = ("timeout", "stream_timeout")
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
READ = frozenset(
    {
        *("model", "custom_llm_provider", "litellm_credential_name", "api_base", "base_url", "api_key"),
        *("extra_headers", "headers", "organization", "region_name", "extra_body"),
        *PRICES,
        *LIMITS,
        *TIMEOUTS,
    }
)
PARAMETERS = frozenset(
    {
        *(
            "temperature",
            "top_p",
            "top_k",
            "max_tokens",
            "max_completion_tokens",
            "stop",
            "seed",
            "n",
            "user",
        ),
        *("frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "verbosity"),
        *("reasoning_effort", "response_format", "thinking", "service_tier", "modalities"),
        *("tools", "tool_choice", "parallel_tool_calls"),
    }
)
"""Fields of a chat request: LiteLLM uses them where a request does not set them, as `params` does."""
DIRECT_PARAMETERS = frozenset(
    {"min_p", "repetition_penalty", "chat_template_kwargs", "keep_alive", "provider", "transforms"}
)
"""Fields of single servers: only an expert that is called directly is sent them."""
ABILITIES = {
    "supports_vision": "vision",
    "supports_function_calling": "tools",
    "supports_response_schema": "json",
}
INFO_READ = frozenset({"mode", "base_model", "max_input_tokens", *PRICES, *ABILITIES})
KINDS = {None: "chat", "chat": "chat", "embedding": "embedding"}
"""Modes that have a place here. `completion` and the rest answer no chat."""


@dataclass(frozen=True, slots=True)
class ModelListItem:
    """One item of `model_list` as it stands in the file."""

    value: Any
    line: int
    place: str

    @property
    def params(self) -> dict[str, Any] | None:
        params = self.value.get("litellm_params") if isinstance(self.value, dict) else None
        return params if isinstance(params, dict) else None

    @property
    def info(self) -> dict[str, Any]:
        info = self.value.get("model_info")
        return info if isinstance(info, dict) else {}

    @property
    def name(self) -> str:
        return str(self.value.get("model_name") or "")


@dataclass(slots=True)
class Upstream:
    """One entry, understood: the model it calls, how, and what it says of the expert."""

    entry: ModelListItem
    model: str
    kind: str
    deployment: dict[str, Any] = field(default_factory=dict)
    expert: dict[str, Any] = field(default_factory=dict)
    base_model: str = ""

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]

    @property
    def name(self) -> str:
        return self.model.partition("/")[2]

    def identity(self, rules: ModelRules) -> tuple[str, str, str]:
        """Equal for upstreams of one model: they are deployments of one expert."""
        name = INFERENCE_PROFILE.sub("", self.name) if self.provider == "bedrock" else self.name
        if self.provider in AZURE:
            # Azure's names are of the operator's choice: only the base model, or the table, tells them apart.
            name = self.base_model.rpartition("/")[2] or (name if rules.facts(self.model) else "")
        return self.kind, self.provider, name


class EntryReader:
    """Reads the entries of a file."""

    def __init__(self, rules: ModelRules, notes: ImportNotes, timeouts: dict[str, float]) -> None:
        """`timeouts` are those of the whole file; an expert with its own repeats them."""
        self.rules = rules
        self.timeouts = timeouts
        self.lost = notes.lost
        self.changed = notes.changed

    def read(self, entry: ModelListItem, params: dict[str, Any]) -> Upstream | None:
        """What an entry calls and says, or None with a note where it cannot be used."""
        n_changed = len(self.changed)
        upstream = self._read(entry, params)
        if upstream is None:
            # Of what is not carried over nothing has changed.
            del self.changed[n_changed:]
        return upstream

    def _read(self, entry: ModelListItem, params: dict[str, Any]) -> Upstream | None:
        written, model = str(params.get("model") or ""), self.rules.find_model(params)
        if model is None:
            self.lost.append(
                f"{entry.name} (line {entry.line}): LiteLLM knows no provider for '{written}'; "
                "write openai/… and api_base if its server speaks OpenAI's protocol"
            )
            return None
        # A wildcard names no model that could be measured or priced.
        if "*" in model:
            self.lost.append(f"{entry.name} (line {entry.line}): '{written}' names no model; write one out")
            return None
        if model != written and not params.get("custom_llm_provider"):
            self.changed.append(f"{entry.name}: '{written}' is '{model}' by its name, as LiteLLM reads it")
        kind = self._find_kind(entry, model)
        if kind is None:
            return None
        base_model = str(entry.info.get("base_model") or "")
        upstream = Upstream(entry, model, kind, base_model=base_model)
        if not self._convert_address(upstream, params):
            return None
        self._convert_key(upstream, params)
        self._convert_deployment(upstream, params)
        self._convert_expert(upstream, params)
        self._list_unread(upstream, params)
        return upstream

    def _find_kind(self, entry: ModelListItem, model: str) -> str | None:
        """`chat` or `embedding`; None with a note for what is neither."""
        provider, _, name = model.partition("/")
        facts = self.rules.facts(*(str(entry.info.get("base_model") or ""), model))
        mode, why = entry.info.get("mode") or facts.get("mode"), ""
        if provider.startswith("text-completion-"):
            mode = "completion"
        # LiteLLM's table says `completion` of some models of Ollama, which answers chats with all of them.
        elif provider in ("ollama", "ollama_chat") and mode == "completion" and "mode" not in entry.info:
            mode = "chat"
        elif name.startswith("responses/"):
            mode = "responses"
        # LiteLLM has no mode for models outside of its table: the name is all there is.
        elif mode is None:
            mode = next((kind for pattern, kind in KIND_WORDS if pattern.search(name)), None)
            why = " by its name"
        # LiteLLM turns a chat into a call of the Responses API; what is called directly has no such bridge.
        if mode == "responses" and not passes_through(provider):
            mode = "chat"
        if mode not in KINDS:
            self.lost.append(
                f"{entry.name} (line {entry.line}): '{model}' is for {mode}{why} and answers no chat"
            )
            return None
        if mode == "embedding":
            self.changed.append(
                f"{entry.name}: '{model}' is an embedding model{why}: it is called by name, never by `auto`"
            )
        return KINDS[mode]

    def _convert_address(self, upstream: Upstream, params: dict[str, Any]) -> bool:
        """Whether the upstream can be called where the entry says. Elsewhere its key must not go."""
        base = params.get("api_base") or params.get("base_url")
        name = upstream.entry.name
        if base:
            text = str(base).strip()
            fault = _find_reference_fault(text)
            if fault is None and not REFERENCE.search(text):
                fault = find_address_fault(text)
            if fault:
                self.lost.append(f"{name} (line {upstream.entry.line}): its api_base {fault}")
                return False
            upstream.deployment["api_base"] = text
        elif passes_through(upstream.provider) and PROVIDERS[upstream.provider].api_base is None:
            variable = f"{upstream.provider.upper()}_API_BASE"
            upstream.deployment["api_base"] = f"os.environ/{variable}"
            self.changed.append(f"{name}: its address is taken from {variable}, as LiteLLM takes it")
        return True

    def _convert_key(self, upstream: Upstream, params: dict[str, Any]) -> None:
        key = params.get("api_key")
        if key is None:
            return
        text, name = str(key).strip(), upstream.entry.name
        if _find_reference_fault(text, is_secret=True):
            self.lost.append(
                f"{name}: its api_key looks like a reference of another tool; write os.environ/NAME"
            )
            return
        # A key that reaches another provider is a leak, and no error would ever show it.
        for variable in list_variables(text):
            receiver = find_receiver(variable, upstream.provider, upstream.deployment.get("api_base"))
            if receiver:
                self.lost.append(
                    f"{name}: its api_key {variable} is not {receiver}'s, and would be sent to {receiver}; "
                    f"give it a key of {receiver}"
                )
                return
        upstream.deployment["api_key"] = text

    def _convert_deployment(self, upstream: Upstream, params: dict[str, Any]) -> None:
        name, deployment = upstream.entry.name, upstream.deployment
        headers: dict[str, str] = {}
        for key in ("headers", "extra_headers"):
            given = params.get(key)
            headers |= {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {}
        if (organization := params.get("organization")) is not None:
            # LiteLLM sends the organisation to OpenAI alone; elsewhere it means nothing.
            if upstream.provider == "openai":
                headers["OpenAI-Organization"] = str(organization)
            else:
                self.lost.append(f"{name}: litellm_params.organization")
        for header in [key for key, value in headers.items() if _find_reference_fault(value, is_secret=True)]:
            del headers[header]
            self.lost.append(f"{name}: the header {header} has a reference that is not understood")
        if headers:
            deployment["headers"] = headers
        if settings := dict(self._convert_settings(upstream, params)):
            deployment["settings"] = settings
        if (region := params.get("region_name")) is not None:
            deployment["region"] = str(region)
        for theirs, ours in LIMITS.items():
            limit = params.get(theirs)
            if (count := _read_number(limit)) is not None and count >= 1:
                deployment[ours] = int(count)
            elif limit is not None:
                self.lost.append(f"{name}: {theirs} is not a number ≥ 1")

    def _convert_settings(self, upstream: Upstream, params: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        given = {OTHER_NAMES.get(key, key): value for key, value in params.items() if value is not None}
        other: dict[str, str] = {}
        for key in sorted(given):
            if key not in SETTINGS and not _is_setting(key, upstream.provider):
                continue
            value = given[key]
            # `aws_…` on an Azure entry is left over from copying: LiteLLM ignores it too.
            misplaced = any(
                key.startswith(prefix) and upstream.provider not in providers
                for prefix, providers in PROVIDERS_OF_SETTINGS.items()
            )
            text = msgspec.json.encode(value).decode() if isinstance(value, (dict, list)) else str(value)
            if misplaced or passes_through(upstream.provider):
                self.lost.append(
                    f"{upstream.entry.name}: litellm_params.{key} says nothing to {upstream.provider}"
                )
            elif _find_reference_fault(text):
                self.lost.append(f"{upstream.entry.name}: {key} has a reference that is not understood")
            elif key in SETTINGS:
                yield key, text
            else:
                other[key] = text
        if other:
            yield "other", other

    def _convert_expert(self, upstream: Upstream, params: dict[str, Any]) -> None:
        name, info, expert = upstream.entry.name, upstream.entry.info, upstream.expert
        if upstream.kind == "embedding":
            expert["embeds"] = True
        base = urlsplit(str(upstream.deployment.get("api_base", "http://localhost")))
        if upstream.provider in ("ollama", "ollama_chat") and base.hostname in LOOPBACK_HOSTS:
            expert["local"] = True  # as `init` writes it: its price is known to be nothing
        facts = self.rules.facts(upstream.base_model) if upstream.base_model else {}
        for key in PRICES:
            given = params[key] if params.get(key) is not None else info.get(key)
            price = _read_number(given)
            if given is not None and (price is None or price < 0):
                self.lost.append(f"{name}: {key} is not a number ≥ 0")
            elif (price := price if given is not None else _read_number(facts.get(key))) is not None:
                expert[key] = price
        window = _read_number(info.get("max_input_tokens") or facts.get("max_input_tokens"))
        if window is not None and window >= 1:
            expert["context_window"] = int(window)
        # Without a word of the file the table at run time decides: it may know more than this version.
        if upstream.base_model or not ABILITIES.keys().isdisjoint(info):
            known = {**(facts or self.rules.facts(upstream.model)), **info}
            if not ABILITIES.keys().isdisjoint(known):
                expert["abilities"] = sorted(
                    word for key, word in ABILITIES.items() if known.get(key) is True
                )
        allowed = PARAMETERS | DIRECT_PARAMETERS if passes_through(upstream.provider) else PARAMETERS
        fields = {key: params[key] for key in sorted(allowed & params.keys()) if params[key] is not None}
        if (extra := params.get("extra_body")) is not None:
            if isinstance(extra, dict) and passes_through(upstream.provider):
                fields |= extra
            else:
                self.lost.append(f"{name}: litellm_params.extra_body")
        if fields:
            expert["params"] = {key: _as_number(value) for key, value in fields.items()}
        # An embedding has no first token: its time-outs are the general ones.
        if upstream.kind == "chat":
            own = convert_timeouts(*(self._read_seconds(name, key, params.get(key)) for key in TIMEOUTS))
            if own:
                expert["timeouts"] = {**self.timeouts, **own}

    def _read_seconds(self, name: str, key: str, value: Any) -> float | None:
        seconds = _read_number(value)
        if value is not None and (seconds is None or seconds <= 0):
            self.lost.append(f"{name}: {key} is not a number > 0")
            return None
        return seconds

    def _list_unread(self, upstream: Upstream, params: dict[str, Any]) -> None:
        name, info = upstream.entry.name, upstream.entry.info
        known = READ | SETTINGS | PARAMETERS | OTHER_NAMES.keys()
        known |= DIRECT_PARAMETERS if passes_through(upstream.provider) else frozenset()
        self.lost += [
            f"{name}: litellm_params.{key}"
            for key, value in params.items()
            if not (key in known or value is None or _is_setting(key, upstream.provider))
        ]
        if upstream.kind != "chat":
            self.lost += [f"{name}: litellm_params.{key}" for key in TIMEOUTS if params.get(key) is not None]
        self.lost += [f"{name}: model_info.{key}" for key in info if key not in INFO_READ]


def _is_setting(key: str, provider: str) -> bool:
    """Whether a key is named after the provider, as LiteLLM names the settings of most."""
    return key not in READ and key.startswith((f"{provider}_", f"{provider.partition('_')[0]}_"))


def _find_reference_fault(text: str, *, is_secret: bool = False) -> str | None:
    try:
        check_references(text, is_secret=is_secret)
    except UnresolvedReferenceError as error:
        return str(error)
    return None


def _read_number(value: Any) -> float | None:
    """The number in a value, quoted or not; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _as_number(value: Any) -> Any:
    """A quoted number as the number: a provider refuses `"0.2"` as a temperature."""
    number = _read_number(value) if isinstance(value, str) else None
    if number is None:
        return value
    return int(number) if number.is_integer() and "." not in value else number


def first_number(*values: Any) -> float | None:
    numbers = (_read_number(value) for value in values)
    return next((number for number in numbers if number is not None and number > 0), None)


def convert_timeouts(timeout: float | None, stream_timeout: float | None) -> dict[str, float]:
    """LiteLLM's `timeout` bounds a whole answer and each silence of a stream, `stream_timeout` the latter."""
    silence = stream_timeout or timeout
    if silence is None:
        return {}
    limits = {"first_token_s": silence, "between_tokens_s": silence}
    return {**limits, "total_s": max(timeout, silence)} if timeout is not None else limits
