"""From a LiteLLM proxy configuration to ours. What has no counterpart is listed, never dropped in silence."""

from collections.abc import Iterator
from typing import Any

import yaml

from .loading import YamlError, load_with_lines
from .secrets import REFERENCE

DEPLOYMENT_KEYS = {
    "api_base": "api_base",
    "base_url": "api_base",
    "api_key": "api_key",
    "max_parallel_requests": "max_parallel",
}
EXPERT_KEYS = {
    "input_cost_per_token": "input_cost_per_token",
    "output_cost_per_token": "output_cost_per_token",
}
PARAM_KEYS = frozenset(
    {
        *("temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed"),
        *("frequency_penalty", "presence_penalty", "reasoning_effort", "response_format"),
    }
)
HEADER = "# Made from {source}, a LiteLLM configuration, by `thalamus config import-litellm`.\n"


class ImportFailedError(Exception):
    """The file is no LiteLLM configuration; `str()` begins with `:line: `."""


def import_litellm(text: str, source: str) -> tuple[str, list[str]]:
    """Our configuration as YAML text, and what could not be carried over, one line each.

    Raises:
        ImportFailedError: the text is not YAML, or has no `model_list`.
    """
    try:
        data, lines = load_with_lines(text)
    except YamlError as error:
        raise ImportFailedError(f":{error.line}: {error.message}") from None
    if not isinstance(data, dict) or not isinstance(data.get("model_list"), list):
        raise ImportFailedError(":1: no 'model_list': this is not a LiteLLM configuration")
    conversion = _LiteLLMImport()
    entry_lines = {n: lines.get(("model_list", n), 1) for n in range(len(data["model_list"]))}
    experts = conversion.convert_experts(data["model_list"], entry_lines)
    policies = conversion.convert_policies(data, [expert["name"] for expert in experts])
    server = conversion.convert_server(data.get("general_settings"))
    conversion.list_rest(data)
    converted = {"experts": experts, "policies": policies, "server": server}
    kept = {key: value for key, value in converted.items() if value or key == "experts"}
    notes = "".join(f"# not carried over: {note}\n" for note in conversion.dropped)
    body = yaml.safe_dump(kept, sort_keys=False, width=110)
    return HEADER.format(source=source) + notes + body, conversion.dropped


class _LiteLLMImport:
    def __init__(self) -> None:
        self.dropped: list[str] = []

    def convert_experts(self, model_list: list[Any], lines: dict[int, int]) -> list[dict[str, Any]]:
        """Entries of one name become one expert with several deployments."""
        grouped: dict[str, list[dict[str, Any]]] = {}
        for n, entry in enumerate(model_list):
            if not isinstance(entry, dict) or not isinstance(entry.get("litellm_params"), dict):
                self.dropped.append(f"line {lines[n]}: model_list[{n}] has no litellm_params")
            # LiteLLM routes `openai/*` to any model; a router needs a closed set to learn about.
            elif "*" in str(entry.get("model_name", "*")):
                self.dropped.append(
                    f"line {lines[n]}: the wildcard {entry.get('model_name')!s}; name each model"
                )
            else:
                grouped.setdefault(str(entry["model_name"]), []).append(entry)
        return [self._convert_expert(name, entries) for name, entries in grouped.items()]

    def _convert_expert(self, name: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
        params = [entry["litellm_params"] for entry in entries]
        model = str(params[0].get("model", ""))
        model = model if "/" in model else f"openai/{model}"
        expert: dict[str, Any] = {"name": name, "model": model}
        info = entries[0].get("model_info")
        known = {**(info if isinstance(info, dict) else {}), **params[0]}
        expert |= {
            ours: float(known[theirs])
            for theirs, ours in EXPERT_KEYS.items()
            if _is_number(known.get(theirs))
        }
        if isinstance(info, dict) and info.get("mode") == "embedding":
            expert["embeds"] = True
        defaults = {key: params[0][key] for key in sorted(PARAM_KEYS & params[0].keys())}
        if defaults:
            expert["params"] = defaults
        for n, deployment in enumerate(params):
            self.dropped += [f"{name}: litellm_params.{key}" for key in _unknown_keys(deployment, n)]
        deployments = [self._convert_deployment(deployment, model) for deployment in params]
        if len(deployments) == 1 and "model" not in deployments[0]:
            return {**expert, **deployments[0]}
        return {**expert, "deployments": deployments}

    def _convert_deployment(self, params: dict[str, Any], model: str) -> dict[str, Any]:
        deployment = {
            ours: _as_text(params[theirs])
            for theirs, ours in DEPLOYMENT_KEYS.items()
            if params.get(theirs) is not None
        }
        if "max_parallel" in deployment:
            deployment["max_parallel"] = int(params["max_parallel_requests"])
        own = str(params.get("model", model))
        # Deployments of one name may serve different snapshots: keep the name that differs.
        if own not in (model, model.partition("/")[2]):
            deployment["model"] = own.partition("/")[2] or own
            if "/" in own and own.partition("/")[0] != model.partition("/")[0]:
                self.dropped.append(
                    f"a deployment of {model} is served by another provider ({own}): make it an expert"
                )
        headers = params.get("extra_headers")
        if isinstance(headers, dict):
            deployment["headers"] = {str(key): str(value) for key, value in headers.items()}
        return deployment

    def convert_server(self, general: Any) -> dict[str, Any]:
        """The master key, by reference where it was one."""
        if not isinstance(general, dict):
            return {}
        self.dropped += [f"general_settings.{key}" for key in general if key != "master_key"]
        key = general.get("master_key")
        if not isinstance(key, str):
            return {}
        # A key that is written out must not be copied into a second file.
        if REFERENCE.search(key):
            return {"master_key": key}
        self.dropped.append(
            "general_settings.master_key is written out: set THALAMUS_MASTER_KEY to it, or to a new one"
        )
        return {"master_key": "os.environ/THALAMUS_MASTER_KEY"}

    def convert_policies(self, data: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """Fallback lists become the number of fallbacks; which expert follows is decided per prompt."""
        settings = [data.get(key) for key in ("router_settings", "litellm_settings")]
        chains = [
            chain
            for part in settings
            if isinstance(part, dict)
            for chain in part.get("fallbacks") or ()
            if isinstance(chain, dict)
        ]
        for chain in chains:
            for first, rest in chain.items():
                follow = ", ".join(map(str, rest)) if isinstance(rest, list) else str(rest)
                self.dropped.append(
                    f"fallback {first} -> {follow}: `auto` ranks the fallbacks of each prompt anew"
                )
        longest = max(
            (len(rest) for c in chains for rest in c.values() if isinstance(rest, list)),
            default=0,
        )
        # Two is our default already; 16 is the most that the schema allows.
        auto = {"n_fallbacks": min(longest, 16)} if longest > 2 else {}
        first = next((name for c in chains for name in c if name in names), None)
        return {"auto": {"default": first, **auto}} if first else {}

    def list_rest(self, data: dict[str, Any]) -> None:
        """Everything else at the top."""
        known = {"model_list", "general_settings"}
        for key, value in data.items():
            if key in ("router_settings", "litellm_settings") and isinstance(value, dict):
                self.dropped += [f"{key}.{name}" for name in value if name != "fallbacks"]
            elif key not in known:
                self.dropped.append(key)


def _unknown_keys(params: dict[str, Any], n: int) -> Iterator[str]:
    known = {"model", "extra_headers", *DEPLOYMENT_KEYS, *EXPERT_KEYS, *PARAM_KEYS}
    yield from (key for key in params if key not in known)
    if n:
        yield from (f"{key} of a further deployment" for key in params if key in PARAM_KEYS)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_text(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else str(value)
