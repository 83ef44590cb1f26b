"""From a llama-swap configuration to ours: its models become experts whose engine is a command."""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..secrets import REFERENCE
from ..values import split_command
from .litellm_rules import KIND_WORDS
from .result import ExpertNames, ImportedConfig, ImportNotes, finish, is_reserved, read_mapping

COMMAND = "import-llama-swap"
MACRO = re.compile(r"\$\{([A-Za-z0-9_-]+)\}")
ENVIRONMENT = re.compile(r"\$\{env\.(\w+)\}")
PORT = "${PORT}"
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})  # noqa: S104 (compared, never bound)
MODEL_READ = frozenset(
    {
        *("cmd", "env", "proxy", "checkEndpoint", "ttl", "useModelName", "aliases", "filters", "macros"),
        *("concurrencyLimit", "timeouts"),
    }
)
READ = frozenset(
    {"models", "macros", "globalTTL", "healthCheckTimeout", "groups", "hooks", "peers", "apiKeys", "routing"}
)
WINDOW_FLAGS = ("-c", "--ctx-size", "--context-size", "--max-model-len", "--context-length")
SLOT_FLAGS = ("-np", "--parallel", "--max-num-seqs")
SHARED_WINDOW_FLAGS = ("-np", "--parallel")
"""With these llama.cpp divides its context among the requests that it serves at a time."""
KINDS = {
    "embedding": ((), frozenset({"--embedding", "--embeddings"})),
    "rerank": ((), frozenset({"--rerank", "--reranking"})),
    "audio_transcription": (("whisper",), frozenset[str]()),
    "image_generation": (("sd-server", "stable-diffusion"), frozenset[str]()),
}
"""Programs and flags of engines that answer no chat."""
MIN_LOAD_S = 15
"""The shortest `healthCheckTimeout` that llama-swap takes."""


def import_llama_swap(text: str, source: str) -> ImportedConfig:
    """Our configuration, made of a llama-swap configuration.

    Raises:
        ImportFailedError: the text is not YAML, or has no `models`.
    """
    data, lines = read_mapping(text, "models", "llama-swap")
    line_of = {str(name): lines.get(("models", name), 1) for name in _mapping(data["models"])}
    return _LlamaSwapImport(data, line_of, ImportNotes()).build(source)


class _CannotRunError(Exception):
    """A model of the file cannot be run here; `str()` says why."""


class _LlamaSwapImport:
    def __init__(self, data: dict[str, Any], line_of: Mapping[str, int], notes: ImportNotes) -> None:
        self.data = data
        self.line_of = line_of
        self.notes = notes
        self.lost = notes.lost
        self.changed = notes.changed
        self.macros = {str(name): value for name, value in _mapping(data.get("macros")).items()}
        self.aliases: dict[str, str] = {}

    def build(self, source: str) -> ImportedConfig:
        models, peers = _mapping(self.data["models"]), list(self._list_peer_models())
        names = ExpertNames(self.notes, [*map(str, models), *(model for _, model, _ in peers)])
        experts: dict[str, dict[str, Any]] = {}
        for model_id, value in models.items():
            try:
                experts[model_id] = self._convert_model(model_id, _mapping(value), names)
            except _CannotRunError as error:
                self.lost.append(f"{model_id} (line {self.line_of.get(model_id, 1)}): {error}")
        for _, model, peer in peers:
            experts.setdefault(model, self._convert_peer_model(model, peer, names))
        self._convert_groups(experts)
        if any("runner" in expert for expert in experts.values()):
            self.changed.append(
                "models are loaded at the start as far as memory allows, not when first asked"
            )
        server = self._convert_api_keys()
        self._list_rest()
        load_s = _whole(self.data.get("healthCheckTimeout"))
        sections = {
            "experts": list(experts.values()),
            "aliases": {**names.aliases, **self.aliases},
            "timeouts": {"load_s": max(load_s, MIN_LOAD_S)} if load_s is not None else {},
            "server": server,
        }
        return finish(sections, self.notes, source, COMMAND)

    def _convert_model(self, model_id: str, model: dict[str, Any], names: ExpertNames) -> dict[str, Any]:
        """The expert of one model.

        Raises:
            _CannotRunError: its command cannot be run by this gateway.
        """
        macros = self._merge_macros(model_id, model)
        words = self._split(_strip_comments(str(model.get("cmd") or "")), macros)
        env = dict(self._convert_env(model_id, model.get("env"), macros))
        kind = _find_kind(model_id, words)
        if kind not in ("chat", "embedding"):
            raise _CannotRunError(f"it is for {kind} and answers no chat")
        words = self._place_port(model_id, words, self._expand(str(model.get("proxy") or ""), macros))
        used = str(model.get("useModelName") or "")
        runner: dict[str, Any] = {"engine": "command", "model": used or model_id, "cmd": list(words)}
        if env:
            runner["env"] = env
        if (device := _find_device(env)) is not None:
            runner["device"] = device
        if path := self._find_health_path(model_id, model, macros):
            runner["health_path"] = path
        ttl = _whole(model.get("ttl"))
        ttl = _whole(self.data.get("globalTTL")) if ttl is None or ttl < 0 else ttl
        if ttl:
            runner["ttl"] = ttl
        runner |= self._find_capacity(model_id, model, words)
        name = names.claim(model_id)
        expert: dict[str, Any] = {"name": name, "runner": runner}
        if kind == "embedding":
            expert["embeds"] = True
            self.changed.append(f"{model_id}: an embedding model: it is called by name, never by `auto`")
        expert |= self._convert_filters(model_id, model.get("filters"), macros)
        expert |= self._convert_timeouts(model_id, model.get("timeouts"))
        self._convert_aliases(model_id, name, model.get("aliases"))
        self.lost += [f"{model_id}: {key}{WHY_LOST.get(key, '')}" for key in model if key not in MODEL_READ]
        return expert

    def _merge_macros(self, model_id: str, model: dict[str, Any]) -> dict[str, Any]:
        """The macros of a model in their order; its own replace those of the file in place."""
        own = {str(name): value for name, value in _mapping(model.get("macros")).items()}
        return {"MODEL_ID": model_id, **self.macros, **own}

    def _expand(self, text: str, macros: Mapping[str, Any]) -> str:
        """The text without macros; variables of the environment become our references.

        Raises:
            _CannotRunError: a macro is not defined.
        """
        # The last first, because a macro may use those before it.
        for name, value in reversed(list(macros.items())):
            said = str(value).lower() if isinstance(value, bool) else str(value)
            text = text.replace("${" + name + "}", said)
        unknown = [name for name in MACRO.findall(text) if name != "PORT"]
        if unknown:
            raise _CannotRunError(f"the macro '${{{unknown[0]}}}' is not defined")
        return ENVIRONMENT.sub(r"${\1}", text)

    def _split(self, cmd: str, macros: Mapping[str, Any]) -> tuple[str, ...]:
        try:
            words = split_command(self._expand(cmd, macros))
        except ValueError:
            raise _CannotRunError("a quotation mark in its cmd has no partner") from None
        if not words:
            raise _CannotRunError("it has no cmd")
        return words

    def _place_port(self, model_id: str, words: tuple[str, ...], proxy: str) -> tuple[str, ...]:
        """The command with `${PORT}` in it, where the server listens on a port of its own.

        Raises:
            _CannotRunError: the server is elsewhere, or no word of the command is its port.
        """
        parts = urlsplit(proxy.replace(PORT, "1"))
        if proxy and parts.hostname not in LOOPBACK_HOSTS:
            raise _CannotRunError(
                f"its server runs elsewhere ({parts.hostname}); write an expert with api_base"
            )
        if parts.path.strip("/"):
            self.lost.append(f"{model_id}: the path in proxy; the server is asked at /v1")
        if any(PORT in word for word in words):
            return words
        try:
            port = urlsplit(proxy).port
        except ValueError:
            port = None
        if port is None:
            raise _CannotRunError("its cmd has no ${PORT}, and its proxy names no port")
        pattern = re.compile(rf"(?<![\w.]){port}(?![\w.])")
        places = [n for n, word in enumerate(words) if pattern.search(word)]
        if len(places) != 1:
            raise _CannotRunError(f"its cmd does not say once where port {port} is; write ${{PORT}} there")
        self.changed.append(
            f"{model_id}: the port {port} in its cmd is ${{PORT}} now, and a free one is taken"
        )
        return tuple(
            pattern.sub(PORT, word, count=1) if n in places else word for n, word in enumerate(words)
        )

    def _convert_env(self, model_id: str, env: Any, macros: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        items = [f"{name}={value}" for name, value in env.items()] if isinstance(env, dict) else _texts(env)
        for item in items:
            name, equals, value = item.partition("=")
            if equals and name:
                yield name, self._expand(value, macros)
            else:
                self.lost.append(f"{model_id}: env '{name}' has no value")

    def _find_health_path(
        self, model_id: str, model: dict[str, Any], macros: Mapping[str, Any]
    ) -> str | None:
        path = self._expand(str(model.get("checkEndpoint") or ""), macros).strip()
        if path == "none":
            self.changed.append(
                f"{model_id}: checkEndpoint none: the server is ready when /v1/models answers"
            )
            return "/v1/models"
        return None if path in ("", "/health") else "/" + path.lstrip("/")

    def _find_capacity(self, model_id: str, model: dict[str, Any], words: tuple[str, ...]) -> dict[str, int]:
        """Requests at a time, and the window of each, as the file or the command says them."""
        slots = _whole(model.get("concurrencyLimit")) or _find_flag(words, SLOT_FLAGS)
        window = _find_flag(words, WINDOW_FLAGS)
        if window:
            window = max(1, window // (_find_flag(words, SHARED_WINDOW_FLAGS) or 1))
        else:
            self.changed.append(
                f"{model_id}: its cmd sets no context size, so 4096 tokens are assumed: set context_tokens"
            )
        found = {"n_parallel": slots, "context_tokens": window}
        return {key: value for key, value in found.items() if value}

    def _convert_filters(self, model_id: str, value: Any, macros: Mapping[str, Any]) -> dict[str, Any]:
        filters = _mapping(value)
        for key in filters:
            if key in ("stripParams", "strip_params"):
                self.lost.append(f"{model_id}: filters.{key}: {filters[key]}: clients' values are passed on")
            elif key != "setParams":
                self.lost.append(f"{model_id}: filters.{key}")
        fields = self._expand_values(_mapping(filters.get("setParams")), macros)
        fields.pop("model", None)  # llama-swap does not let a filter change the model either
        return {"override_params": fields} if fields else {}

    def _expand_values(self, value: Any, macros: Mapping[str, Any]) -> Any:
        if isinstance(value, dict):
            return {key: self._expand_values(item, macros) for key, item in value.items()}
        if isinstance(value, list):
            return [self._expand_values(item, macros) for item in value]
        if not isinstance(value, str):
            return value
        whole = MACRO.fullmatch(value)
        # A macro alone keeps its type: `${temp}` is a number where `temp` is one.
        return macros[whole[1]] if whole and whole[1] in macros else self._expand(value, macros)

    def _convert_timeouts(self, model_id: str, value: Any) -> dict[str, Any]:
        given = _mapping(value)
        limits = {
            "connect_s": _whole(given.get("connect")),
            "first_token_s": _whole(given.get("responseHeader")),
        }
        self.lost += [
            f"{model_id}: timeouts.{key}" for key in given if key not in ("connect", "responseHeader")
        ]
        found = {key: seconds for key, seconds in limits.items() if seconds}
        load_s = _whole(self.data.get("healthCheckTimeout"))
        # An expert's own limits replace those of the file, so that of loading is repeated.
        if found and load_s is not None:
            found["load_s"] = max(load_s, MIN_LOAD_S)
        return {"timeouts": found} if found else {}

    def _convert_aliases(self, model_id: str, name: str, aliases: Any) -> None:
        for item in aliases if isinstance(aliases, list) else _texts(aliases):
            alias = str(item.get("id") or "") if isinstance(item, dict) else str(item)
            models = _mapping(self.data["models"])
            if alias in self.aliases or alias in models:
                self.lost.append(f"{model_id}: the alias '{alias}', which another model has")
            elif is_reserved(alias):
                self.lost.append(f"{model_id}: the alias '{alias}', which has a meaning of its own here")
            else:
                self.aliases[alias] = name

    def _list_peer_models(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for peer_id, value in _mapping(self.data.get("peers")).items():
            peer = _mapping(value)
            for model in _texts(peer.get("models")):
                yield str(peer_id), model, peer
            self.lost += [
                f"peers.{peer_id}.{key}"
                for key in peer
                if key not in ("proxy", "models", "apiKey", "filters")
            ]

    def _convert_peer_model(self, model: str, peer: dict[str, Any], names: ExpertNames) -> dict[str, Any]:
        """A model of another server, which is called with OpenAI's protocol."""
        expert: dict[str, Any] = {"name": names.claim(model), "model": f"openai/{model}"}
        expert["api_base"] = self._expand(str(peer.get("proxy") or ""), self.macros).rstrip("/") + "/v1"
        if key := self._expand(str(peer.get("apiKey") or ""), self.macros):
            expert["api_key"] = key
        return {**expert, **self._convert_filters(model, peer.get("filters"), self.macros)}

    def _convert_groups(self, experts: dict[str, dict[str, Any]]) -> None:
        """Groups have no counterpart: engines share memory by its size. What stays loaded is pinned."""
        router = _mapping(_mapping(_mapping(self.data.get("routing")).get("router")).get("settings"))
        groups = _mapping(self.data.get("groups")) or _mapping(router.get("groups"))
        hooks = _mapping(_mapping(self.data.get("hooks")).get("on_startup"))
        preload = _texts(hooks.get("preload"))
        kept: set[str] = set()
        for group_id, value in groups.items():
            group = _mapping(value)
            members = _texts(group.get("members"))
            if group.get("persistent") is True:
                kept.update(members)
            settings = (
                ", ".join(key for key in ("swap", "exclusive", "persistent") if key in group) or "members"
            )
            self.lost.append(
                f"groups.{group_id} ({settings}) of {', '.join(members)}: engines share memory by its size: "
                "set runners.memory, and device and memory of each runner"
            )
        for name in preload:
            expert = experts.get(name) or experts.get(self._find_model_of_alias(name))
            if expert is None or "runner" not in expert:
                self.lost.append(f"hooks.on_startup.preload: there is no model '{name}'")
            elif name in kept:
                expert["runner"]["pinned"] = True
                self.changed.append(
                    f"{name}: preloaded and persistent, it is pinned: loaded at the start, and kept"
                )
            else:
                self.lost.append(
                    f"hooks.on_startup.preload: {name}: `pinned: true` loads at the start, and keeps loaded"
                )

    def _find_model_of_alias(self, alias: str) -> str:
        for model_id, model in _mapping(self.data["models"]).items():
            listed = _mapping(model).get("aliases")
            if alias in (listed if isinstance(listed, list) else ()):
                return model_id
        return ""

    def _convert_api_keys(self) -> dict[str, Any]:
        keys = self.data.get("apiKeys")
        if not isinstance(keys, list) or not keys:
            return {}
        key = ENVIRONMENT.sub(r"os.environ/\1", str(keys[0]))
        if len(keys) == 1 and REFERENCE.fullmatch(key):
            return {"master_key": key}
        # Keys that are written out must not be copied into a second file.
        self.lost.append(
            "apiKeys: here keys have names: put each into a variable and write "
            "`server: {keys: {NAME: os.environ/VARIABLE}}`; until then only this machine is admitted"
        )
        return {}

    def _list_rest(self) -> None:
        self.lost += [key for key in self.data if key not in READ]
        hooks = _mapping(self.data.get("hooks"))
        self.lost += [f"hooks.{key}" for key in hooks if key != "on_startup"]
        routing = _mapping(self.data.get("routing"))
        self.lost += [f"routing.{key}" for key in routing if key != "router"]
        router = _mapping(routing.get("router"))
        if "matrix" in _mapping(router.get("settings")):
            self.lost.append("routing.router.settings.matrix")


WHY_LOST = {
    "cmdStop": ": the process gets SIGTERM, and SIGKILL when it does not end",
    "unlisted": ": every expert is listed",
}
"""What happens instead, where that is worth a word."""


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[str]:
    """The items of a list as text; a lone value counts as a list of one."""
    if value is None or isinstance(value, dict):
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _whole(value: Any) -> int | None:
    """A whole number, quoted or not; None where there is none."""
    try:
        return None if isinstance(value, bool) or value is None else int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None


def _strip_comments(cmd: str) -> str:
    """The command without lines that are comments: macros in them need not exist."""
    return "\n".join(line for line in cmd.split("\n") if not line.lstrip().startswith("#"))


def _find_kind(model_id: str, words: tuple[str, ...]) -> str:
    """What a command serves, by its program and flags, else by the name of the model."""
    program = words[0].rpartition("/")[2]
    for kind, (programs, flags) in KINDS.items():
        if any(word in program for word in programs) or not flags.isdisjoint(words):
            return kind
    return next((kind for pattern, kind in KIND_WORDS if pattern.search(model_id)), "chat")


def _find_flag(words: tuple[str, ...], flags: tuple[str, ...]) -> int | None:
    for n, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in flags:
            return _whole(value if equals else words[n + 1] if n + 1 < len(words) else None)
    return None


def _find_device(env: Mapping[str, str]) -> str | None:
    """The one GPU that the command may use, so that its memory is counted there."""
    visible = env.get("CUDA_VISIBLE_DEVICES", "").strip()
    return f"cuda:{visible}" if visible.isdecimal() else None
