"""vLLM's server, `vllm serve`: it can be sent to sleep, which frees its GPU and wakes in seconds.

Level 1 keeps the weights in main memory; level 2 drops them, and waking without loading them again gives
nonsense: weights are made room for, reloaded, and only then is there room for the cache.
"""

import shutil

from ..errors import RunnerSettingsError
from ..memory import device_bytes
from ..types import Launch, RunnerSettings, Step
from .command import build_supervised_launch

VLLM_DEVICE = "cuda:0"
VLLM_SLEEP_LEVEL = 1
VLLM_USUAL_SHARE = 0.9
"""What vLLM takes of a GPU where it is not told."""
VLLM_GRACE_S = 10.0
VLLM_WAKE_STEPS = {
    1: (Step("/wake_up"),),
    2: (
        Step("/wake_up?tags=weights"),
        Step("/collective_rpc", {"method": "reload_weights"}),
        Step("/wake_up?tags=kv_cache"),
        Step("/reset_prefix_cache"),
    ),
}


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
    argv += ["--max-model-len", str(settings.context_tokens), "--max-num-seqs", str(settings.n_parallel)]
    if total and settings.memory_bytes:
        argv += ["--gpu-memory-utilization", f"{settings.memory_bytes / total:.4f}"]
    if level:
        argv.append("--enable-sleep-mode")
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
        device=device,
        grace_s=VLLM_GRACE_S,
        completes=True,
        memory_bytes=int(VLLM_USUAL_SHARE * total) if total else None,
        sleep=(Step(f"/sleep?level={level}"),) if level else (),
        wake=VLLM_WAKE_STEPS.get(level, ()),
    )
