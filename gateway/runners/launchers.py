"""Engine name → how to launch it; the small programs around engines are `engines/*_child.py`.

- llama.cpp: its own server, from the wheels of `xllamacpp`.
- transformers: any model that the library loads, in a process of ours that answers in batches.
- vllm: `vllm serve`. Sleep level 1 keeps the weights in main memory. Level 2 drops them: a model that wakes
  without loading them again generates garbage, so they are reloaded before the cache gets its room.
- ollama: a model of an Ollama daemon that runs already; a process of ours loads and unloads it.
- command: any server with a command line; `${PORT}` in it becomes a free port.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .device_memory import device_bytes
from .types import Launch, RunnerSettings, RunnerSettingsError, Step
from .weights import find_gguf_adapter, find_peft_adapter, find_weights

HEALTH_PATH = "/health"
AFTERWARDS_S = 2.0
"""What the supervisor needs for whom the server left behind."""
VLLM_SLOTS = 256
"""Requests sent to vLLM at a time where its own limit (`--max-num-seqs`) is its default."""
USUAL_SLOTS, LLAMACPP_GPU_SLOTS, TRANSFORMERS_GPU_SLOTS = 4, 8, 16
"""Requests that other engines answer at a time where nothing is configured: on a CPU, on a GPU."""
SLOT_FLAG = re.compile(r"(?:^|\s)(?:--max-num-seqs|--parallel|-np)[= ](\d+)(?=\s|$)")
KV_BYTES = {"f32": 4.0, "q8_0": 1.06, "q5_1": 0.75, "q5_0": 0.69, "q4_1": 0.63, "q4_0": 0.56, "iq4_nl": 0.56}
"""Bytes of a number in the context, by llama.cpp's type; 2 with 16 bits."""
OVERHEAD_BYTES = 100 * 1000**2
KV_BYTES_PER_WEIGHT_BYTE = 1 / 16384
"""What a token of context holds against the weights' size, roughly, until a load is measured."""
LIBRARY_BYTES = 600 * 1000**2
"""What the libraries hold in main memory before there is a model."""
VLLM_DEVICE = "cuda:0"
VLLM_SLEEP_LEVEL = 1
VLLM_USUAL_SHARE = 0.9
"""What vLLM takes of a GPU by default."""
VLLM_GRACE_S = 10.0
VLLM_MAX_LORAS = 8
"""Adapters kept on the GPU at a time; further ones wait in main memory."""
VLLM_LORA_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""Highest ranks that vLLM reserves memory for; the first is its default."""
VLLM_WAKE_STEPS = {
    1: (Step("/wake_up"),),
    2: (
        Step("/wake_up?tags=weights"),
        Step("/collective_rpc", {"method": "reload_weights"}),
        Step("/wake_up?tags=kv_cache"),
        Step("/reset_prefix_cache"),
    ),
}
OLLAMA_URL = "http://127.0.0.1:11434"
OLLAMA_GRACE_S = 10.0


def child_argv(name: str) -> tuple[str, ...]:
    """The command line of one of them.

    A script, not `-m`: the child then imports nothing of the gateway. -P, because the script's folder must
    not shadow modules of the standard library.
    """
    return (sys.executable, "-P", str(Path(__file__).parent / "engines" / name))


def build_command_launch(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    """A supervisor around the command; requests name the model as the settings do.

    Raises:
        RunnerSettingsError: there is no command, or its program is not here.
    """
    if not settings.command:
        raise RunnerSettingsError("runner.cmd", 'the engine "command" needs one, with ${PORT} in it')
    if not any("${PORT}" in word for word in (*settings.command, *(value for _, value in settings.env))):
        raise RunnerSettingsError("runner.cmd", "has no ${PORT}: the server must listen where it is told to")
    # As written: `${PORT}` and the like hold no flags.
    said = SLOT_FLAG.search(" ".join(settings.command))
    n_slots = settings.n_parallel or (int(said[1]) if said else 0) or USUAL_SLOTS
    return build_supervised_launch(
        settings, settings.command, dict(settings.env), api_key, n_slots=n_slots, serves=settings.model
    )


def build_supervised_launch(
    settings: RunnerSettings,
    argv: tuple[str, ...],
    env: dict[str, str],
    api_key: str,
    *,
    n_slots: int,
    serves: str | None = None,
    device: str = "cpu",
    memory_bytes: int | None = None,
    grace_s: float = 3.0,
    completes: bool = False,
    sleep: tuple[Step, ...] = (),
    wake: tuple[Step, ...] = (),
) -> Launch:
    """A command line behind the script that gives it a port, waits until it is healthy, and ends it.

    Raises:
        RunnerSettingsError: its program is not here.
    """
    if shutil.which(argv[0]) is None:
        raise RunnerSettingsError("runner.cmd", f'there is no program "{argv[0]}"')
    health_path = settings.health_path or HEALTH_PATH
    message = {"argv": argv, "env": env, "health_path": health_path, "api_key": api_key, "grace_s": grace_s}
    return Launch(
        child_argv("supervisor_child.py"),
        message,
        health_path=health_path,
        device=settings.device or device,
        memory_bytes=memory_bytes,
        sleep=sleep,
        wake=wake,
        serves=serves,
        completes=completes,
        grace_s=grace_s + AFTERWARDS_S,
        n_slots=n_slots,
    )


def build_llamacpp_launch(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    """A process around its server.

    Raises:
        RunnerSettingsError: package or weights are missing.
    """
    if find_spec("xllamacpp") is None:
        raise RunnerSettingsError("runner.engine", '"llama.cpp" needs a package: pip install xllamacpp')
    weights = find_weights(settings.model)
    options = _resolve_options(dict(settings.options), weights)
    adapters = [
        find_gguf_adapter(one.path, weights, f"runner.adapters.{one.name}") for one in settings.adapters
    ]
    # Not applied by default: each request says which it is for.
    loras = [(path, 1.0) for path in options.get("loras", ())] + [(str(path), 0.0) for path in adapters]
    if loras:
        options["loras"] = loras
    files = [weights, *(Path(options[key]) for key in ("draft_model", "mmproj") if key in options)]
    files += [Path(path) for path, _ in loras]
    fixed_bytes = sum(file.stat().st_size for file in files) + OVERHEAD_BYTES
    slot_bytes = _estimate_slot_bytes(weights, settings.context_tokens, options.get("kv_type"))
    n_slots = settings.n_parallel or _choose_slots(settings, fixed_bytes, slot_bytes)
    message = {
        "model": str(weights),
        "alias": alias,
        "api_key": api_key,
        "context_tokens": settings.context_tokens,
        "n_parallel": n_slots,
        "n_threads": settings.n_threads or default_threads(),
        "n_gpu_layers": settings.n_gpu_layers,
        "gpu": settings.device.partition(":")[2] if settings.device else "",
        "embeds": settings.embeds,
        "options": options,
    }
    return Launch(
        child_argv("llamacpp_child.py"),
        message,
        completes=not settings.embeds,
        device=settings.device or "cpu",
        memory_bytes=fixed_bytes + n_slots * slot_bytes,
        n_slots=n_slots,
    )


def _estimate_slot_bytes(weights: Path, context_tokens: int, kv_type: str | None) -> int:
    """What the context of one request takes, roughly."""
    share = KV_BYTES.get(kv_type or "", 2.0) / 2.0
    return int(weights.stat().st_size * context_tokens * KV_BYTES_PER_WEIGHT_BYTE * share)


def _choose_slots(settings: RunnerSettings, fixed_bytes: int, slot_bytes: int) -> int:
    """As many slots as the declared memory holds; without one, contexts take no more than the weights do."""
    room_bytes = (settings.memory_bytes or 2 * fixed_bytes) - fixed_bytes
    most = USUAL_SLOTS if settings.device in (None, "cpu") else LLAMACPP_GPU_SLOTS
    return max(1, min(most, room_bytes // max(1, slot_bytes)))


def _resolve_options(options: dict[str, Any], weights: Path) -> dict[str, Any]:
    """llama.cpp's own settings, with files found and texts read.

    Raises:
        RunnerSettingsError: a file is missing.
    """
    for key, value in options.items():
        field = f"runner.llama_cpp.{key}"
        if key == "draft_model":
            options[key] = str(find_weights(value, field))
        elif key == "mmproj":
            options[key] = str(_find_file(value, field))
        elif key == "loras":
            options[key] = [str(find_gguf_adapter(path, weights, field)) for path in value]
        elif key in ("grammar", "chat_template") and value.endswith((".gbnf", ".jinja")):
            options[key] = _find_file(value, field).read_text(encoding="utf-8")
    if "draft_tokens" in options and "draft_model" not in options:
        raise RunnerSettingsError("runner.llama_cpp.draft_tokens", "is of no use without a draft_model")
    return options


def _find_file(path: str, field: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise RunnerSettingsError(field, f'there is no file "{found}"')
    return found


def default_threads() -> int:
    """Half the cores this process may use: the other half serves, embeds and streams."""
    return max(1, count_usable_cores() // 2)


def count_usable_cores() -> int:
    # The affinity follows the cpuset of a container; `cpu_count` counts all cores of the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build_transformers_launch(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    """A process around a model of the hub, of a folder, or of a GGUF file.

    Raises:
        RunnerSettingsError: packages or weights are missing.
    """
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        problem = f'"transformers" needs packages: pip install torch transformers ({missing[0]} is not here)'
        raise RunnerSettingsError("runner.engine", problem)
    model, weights_file = settings.model, None
    if model.startswith("bundled/") or model.lower().endswith(".gguf"):
        if find_spec("gguf") is None or find_spec("accelerate") is None:
            raise RunnerSettingsError(
                "runner.model", "a GGUF file needs packages: pip install gguf accelerate"
            )
        weights = find_weights(model)
        model, weights_file = str(weights.parent), weights.name
    device = settings.device or "cpu"
    n_slots = settings.n_parallel or (USUAL_SLOTS if device == "cpu" else TRANSFORMERS_GPU_SLOTS)
    message = {
        "model": model,
        "weights_file": weights_file,
        "alias": alias,
        "api_key": api_key,
        "context_tokens": settings.context_tokens,
        "n_parallel": n_slots,
        "n_threads": settings.n_threads or default_threads(),
        "device": device,
    }
    return Launch(
        child_argv("transformers_child.py"),
        message,
        completes=True,
        device=device,
        memory_bytes=_estimate_transformers_bytes(Path(model)) if weights_file is None else None,
        n_slots=n_slots,
    )


def _estimate_transformers_bytes(folder: Path) -> int | None:
    if not folder.is_dir():
        return None
    return LIBRARY_BYTES + sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def build_vllm_launch(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    """A supervisor around `vllm serve`.

    Raises:
        RunnerSettingsError: it is not installed.
    """
    if shutil.which("vllm") is None:
        raise RunnerSettingsError("runner.engine", '"vllm" needs its program: pip install vllm')
    level = VLLM_SLEEP_LEVEL if settings.sleep_level is None else settings.sleep_level
    device = settings.device or VLLM_DEVICE
    total = device_bytes(device)
    argv = ["vllm", "serve", settings.model, "--served-model-name", alias]
    argv += ["--host", "127.0.0.1", "--port", "${PORT}"]
    argv += ["--max-model-len", str(settings.context_tokens)]
    if settings.n_parallel:
        argv += ["--max-num-seqs", str(settings.n_parallel)]
    argv += _list_adapter_flags(settings)
    said = SLOT_FLAG.search(" ".join(settings.args))
    # vLLM takes a share of the whole device, not a size.
    if total and settings.memory_bytes:
        argv += ["--gpu-memory-utilization", f"{settings.memory_bytes / total:.4f}"]
    if level:
        argv.append("--enable-sleep-mode")
    # In the environment: command lines can be read by every user of the machine.
    env = {"VLLM_API_KEY": "${API_KEY}", **dict(settings.env)}
    if level:
        env["VLLM_SERVER_DEV_MODE"] = "1"  # else there are no routes to sleep and wake
    if device.startswith("cuda:"):
        env.setdefault("CUDA_VISIBLE_DEVICES", device.removeprefix("cuda:"))
    return build_supervised_launch(
        settings,
        (*argv, *settings.args),
        env,
        api_key,
        n_slots=settings.n_parallel or (int(said[1]) if said else VLLM_SLOTS),
        device=device,
        grace_s=VLLM_GRACE_S,
        completes=True,
        memory_bytes=int(VLLM_USUAL_SHARE * total) if total else None,
        sleep=(Step(f"/sleep?level={level}"),) if level else (),
        wake=VLLM_WAKE_STEPS.get(level, ()),
    )


def _list_adapter_flags(settings: RunnerSettings) -> list[str]:
    """What tells vLLM of adapters: it reserves memory for so many of such a rank.

    Raises:
        RunnerSettingsError: one of them is missing.
    """
    if not settings.adapters:
        return []
    found = {
        one.name: find_peft_adapter(one.path, f"runner.adapters.{one.name}") for one in settings.adapters
    }
    rank = max((rank for _, rank in found.values() if rank is not None), default=VLLM_LORA_RANKS[0])
    # With fewer places than adapters requests of some wait for those of others (the default is one place).
    flags = ["--enable-lora", "--max-loras", str(min(len(found), VLLM_MAX_LORAS))]
    flags += ["--max-cpu-loras", str(len(found))]
    flags += ["--max-lora-rank", str(next((most for most in VLLM_LORA_RANKS if most >= rank), rank))]
    return [*flags, "--lora-modules", *(f"{name}={path}" for name, (path, _) in found.items())]


def build_ollama_launch(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    """A process that has the model loaded as long as it lives; requests go to the daemon itself.

    Raises:
        RunnerSettingsError: the address is none.
    """
    url = (settings.url or OLLAMA_URL).rstrip("/")
    place = urlsplit(url)
    if place.scheme != "http" or not place.hostname or place.path:
        raise RunnerSettingsError("runner.url", f'must be as "{OLLAMA_URL}", not "{url}"')
    return Launch(
        child_argv("ollama_child.py"),
        {"url": url, "model": settings.model},
        health_path="/api/version",
        device=settings.device or "cpu",
        serves=settings.model,
        completes=True,
        grace_s=OLLAMA_GRACE_S,
        n_slots=settings.n_parallel or _read_ollama_slots(),
    )


def _read_ollama_slots() -> int:
    """What the daemon is told by the same environment; no route of its API tells."""
    said = os.environ.get("OLLAMA_NUM_PARALLEL", "")
    return (int(said) if said.isdecimal() else 0) or USUAL_SLOTS


LaunchBuilder = Callable[[RunnerSettings, str, str], Launch]
"""(settings, alias, api_key) → how to start the process that serves them."""

ENGINES: Mapping[str, LaunchBuilder] = {
    "llama.cpp": build_llamacpp_launch,
    "transformers": build_transformers_launch,
    "vllm": build_vllm_launch,
    "ollama": build_ollama_launch,
    "command": build_command_launch,
}


def build_launch(
    settings: RunnerSettings, alias: str, api_key: str, engines: Mapping[str, LaunchBuilder] | None = None
) -> Launch:
    """How to start what `settings` ask for; `alias` is the model name its responses bear.

    Raises:
        RunnerSettingsError: unknown engine, missing package or weights, impossible numbers.
    """
    known = ENGINES if engines is None else engines
    if settings.engine not in known:
        problem = f'"{settings.engine}" is unknown; known: {", ".join(known)}'
        raise RunnerSettingsError("runner.engine", problem)
    settings.check()
    return known[settings.engine](settings, alias, api_key)
