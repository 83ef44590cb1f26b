"""One short question before traffic: a server that listens, and even one that answers, may speak nonsense.

After a load the answer must be text: not empty, no unprintable or replacement characters, not one character
over and over (what weights that were never put back give), and no log probability that is not a number. After
waking it must also be the answer given after the load: it is asked for without randomness. A server that
fails is started anew.
"""

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

from .errors import RunnerError
from .local_http import ask
from .types import Launch, Probe

LENGTH: dict[str, Any] = {"max_tokens": 4, "temperature": 0}
ASKED: dict[Probe, tuple[str, dict[str, Any]]] = {
    "text": ("/completions", {"prompt": "The capital of France is", **LENGTH}),
    "chat": (
        "/chat/completions",
        {"messages": [{"role": "user", "content": "What is the capital of France?"}], **LENGTH},
    ),
    "embeddings": ("/embeddings", {"input": "Paris"}),
}


async def smoke_test(
    address: str, api_path: str, model: str, headers: dict[str, str], probe: Probe, timeout_s: float
) -> str | None:
    """What the server answers, None where nothing is to be asked.

    Raises:
        RunnerError: no answer within `timeout_s` seconds, or no sensible one.
    """
    if probe == "none":
        return None
    path, question = ASKED[probe]
    try:
        async with asyncio.timeout(timeout_s):
            status, answer = await ask(address, api_path + path, {"model": model, **question}, headers)
    except TimeoutError:
        raise RunnerError(f"the canary got no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise RunnerError(f"the canary got no answer: {error}") from None
    if status != 200:
        said = answer[:200].decode(errors="replace").replace("\n", " ")
        raise RunnerError(f"the canary was answered {status}: {said}")
    return _vector(answer) if probe == "embeddings" else _text(answer)


def _text(answer: bytes) -> str:
    try:
        choice = json.loads(answer)["choices"][0]
        said = choice.get("message") or {"content": choice["text"]}
        text = said.get("content") or said.get("reasoning_content") or said.get("reasoning") or ""
    except (ValueError, LookupError, TypeError, AttributeError):
        raise RunnerError("the canary's answer is no completion") from None
    if fault := _fault(text, choice.get("logprobs")):
        raise RunnerError(f"the canary's answer is garbage: {fault}")
    return str(text)


def _fault(text: Any, logprobs: Any) -> str | None:
    if not isinstance(text, str) or not (letters := text.strip()):
        return "it is empty"
    if "�" in text or any(not (c.isprintable() or c.isspace()) for c in text):
        return f"{text[:40]!r} is no text"
    if len(letters) > 3 and len(set(letters)) == 1:
        return f"{text[:40]!r} says one thing over and over"
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    if any(not math.isfinite(entry.get("logprob") or 0.0) for entry in entries or ()):
        return "a log probability is not a number"
    return None


def _vector(answer: bytes) -> str:
    try:
        vector = json.loads(answer)["data"][0]["embedding"]
        good = len(vector) > 0 and all(math.isfinite(value) for value in vector)
    except (ValueError, LookupError, TypeError):
        raise RunnerError("the canary's answer is not an embedding") from None
    if not good or not any(vector):
        raise RunnerError("the canary's embedding is empty, zero or not a number")
    return ",".join(f"{value:.2g}" for value in vector[:8])


async def transition(
    address: str, launch: Launch, headers: Mapping[str, str], timeout_s: float, *, asleep: bool
) -> None:
    """Have it fall asleep, or wake up.

    Raises:
        RunnerError: a step is refused, all take longer than `timeout_s` seconds, or it did not get there.
    """
    what = "fall asleep" if asleep else "wake up"
    try:
        async with asyncio.timeout(timeout_s):
            for step in launch.sleep if asleep else launch.wake:
                status, _ = await ask(address, step.path, step.body or {}, headers)
                if status != 200:
                    raise RunnerError(f"did not {what}: {step.path} was answered {status}")
            _, answer = await ask(address, launch.asleep_path, headers=headers)
    except TimeoutError:
        raise RunnerError(f"did not {what} within {timeout_s:g} s") from None
    except OSError as error:
        raise RunnerError(f"did not {what}: {error}") from None
    if (b"true" in answer) is not asleep:
        raise RunnerError(f"did not {what}, though it said so")
