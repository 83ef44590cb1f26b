"""Experts of all other providers, through LiteLLM: imported when the first is called, in a thread."""

import asyncio
import importlib
import inspect
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ..config import DeploymentConfig, ExpertConfig, TimeoutConfig
from ..openai.answers import check_answer
from ..openai.events import EventStream
from ..openai.failures import ErrorObject, build_failure
from ..waiting import ConcurrencyLimit
from .openai_compatible import build_limit
from .prompt_preset import PromptPreset
from .types import Call, Reply, UpstreamError

PARAMETERS = frozenset(
    {
        "audio",
        "dimensions",
        "encoding_format",
        "frequency_penalty",
        "function_call",
        "functions",
        "input",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "stream_options",
        "suffix",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
"""What LiteLLM is given of a client's fields: it takes addresses, keys and callbacks by keyword too."""

FUNCTIONS = {"chat/completions": "acompletion", "completions": "atext_completion", "embeddings": "aembedding"}


def load_litellm() -> Any:
    """LiteLLM, quiet and without calls home. Takes seconds: never on the event loop."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm: Any = importlib.import_module("litellm")
    logging.getLogger("LiteLLM").setLevel(logging.WARNING)
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.drop_params = True
    return litellm


class LiteLLMExpert:
    """One expert of a provider whose protocol is not OpenAI's; its least loaded deployment is asked."""

    def __init__(
        self, config: ExpertConfig, timeouts: TimeoutConfig, load: Callable[[], Any] = load_litellm
    ) -> None:
        self.name = config.name
        self._model = config.model
        self._provider = config.provider
        self._deployments = [
            (deployment, build_limit(deployment)) for deployment in config.effective_deployments()
        ]
        self._preset = PromptPreset(config)
        self._timeouts = timeouts
        self._load = load
        self._litellm: Any = None
        self._turn = 0

    @property
    def in_use(self) -> int:
        """Calls running now."""
        return sum(slots.in_use for _, slots in self._deployments)

    async def call(self, call: Call) -> Reply:
        litellm = await self._module()
        deployment, slots = self._next_deployment()
        await slots.acquire(self._timeouts.first_token_s)
        reply: Reply | None = None
        try:
            reply = await self._ask(litellm, call, deployment, slots)
        finally:
            if reply is None or reply.events is None:
                slots.release()
        if slots.rate is not None:
            reply.when_counted(slots.rate.charge, call)
        return reply

    async def _ask(
        self, litellm: Any, call: Call, deployment: DeploymentConfig, slots: ConcurrencyLimit
    ) -> Reply:
        """Ask one deployment; the end of a stream gives its slot back."""
        ask = getattr(litellm, FUNCTIONS[call.endpoint])
        arguments = self._arguments(call, deployment)
        start = asyncio.get_running_loop().time()
        limit_s = self._timeouts.first_token_s if call.stream else self._timeouts.total_s
        try:
            async with asyncio.timeout(limit_s):
                answer = await ask(**arguments)
        except TimeoutError as error:
            raise UpstreamError("timeout", "took longer than its time-out allows") from error
        except Exception as error:
            raise failure_of(error) from error
        if not call.stream:
            body = answer.model_dump_json(exclude_none=True).encode()
            return Reply(body=body, usage=check_answer(body, call.endpoint == "embeddings"))
        return Reply(events=await self._open(answer, start, slots))

    async def _module(self) -> Any:
        if self._litellm is None:
            # The import takes ten seconds of CPU: never at start-up, never on the event loop.
            self._litellm = await asyncio.to_thread(self._load)
        return self._litellm

    def _arguments(self, call: Call, deployment: DeploymentConfig) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            name: msgspec.json.decode(value)
            for name, value in self._preset.apply(call).items()
            if name in PARAMETERS
        }
        arguments |= {
            "model": f"{self._provider}/{deployment.model}" if deployment.model else self._model,
            "timeout": self._timeouts.total_s,
            # LiteLLM's own retries would hide failures from the fleet and multiply ours.
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
        }
        if call.stream:
            arguments["stream"] = True
        if deployment.api_base:
            arguments["api_base"] = deployment.api_base
        if deployment.api_key:
            arguments["api_key"] = deployment.api_key.reveal()
        arguments |= deployment.settings.as_arguments()
        if deployment.headers:
            arguments["extra_headers"] = {name: value.reveal() for name, value in deployment.headers.items()}
        return arguments

    def _next_deployment(self) -> tuple[DeploymentConfig, ConcurrencyLimit]:
        """The least loaded, in turn among equals."""
        self._turn = (self._turn + 1) % len(self._deployments)
        return min(
            [*self._deployments[self._turn :], *self._deployments[: self._turn]], key=lambda p: p[1].load
        )

    async def _open(self, answer: Any, start: float, slots: ConcurrencyLimit) -> EventStream:
        stop = _closer(answer)

        def close() -> None:
            stop()
            slots.release()

        events = EventStream(
            _reader(answer),
            close,
            first_token_s=self._timeouts.first_token_s,
            between_s=self._timeouts.between_tokens_s,
            end_at=start + self._timeouts.total_s,
        )
        try:
            await events.open()
        except BaseException:
            stop()
            raise
        return events

    def share(self, n_replicas: int) -> None:
        for _, slots in self._deployments:
            slots.share(n_replicas)

    async def close(self) -> None:
        """End the connections that LiteLLM keeps, for all its experts."""
        end = getattr(self._litellm, "close_litellm_async_clients", None)
        if end is not None:
            await end()


def _reader(answer: Any) -> Callable[[], Awaitable[bytes]]:
    """Chunks as the events OpenAI would send."""
    chunks = answer.__aiter__()
    ended = False

    async def read() -> bytes:
        nonlocal ended
        if ended:
            return b""
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration:
            ended = True
            return b"data: [DONE]\n\n"
        except Exception as error:
            raise failure_of(error) from error
        text: str = chunk.model_dump_json(exclude_none=True, exclude_unset=True)
        return b"data: " + text.encode() + b"\n\n"

    return read


def _closer(answer: Any) -> Callable[[], None]:
    closing: set[asyncio.Future[Any]] = set()

    def close() -> None:
        end = getattr(answer, "aclose", None)
        ended = end() if end is not None else None
        if inspect.isawaitable(ended):
            task = asyncio.ensure_future(_quietly(ended))
            closing.add(task)
            task.add_done_callback(closing.discard)

    return close


async def _quietly(ended: Awaitable[Any]) -> None:
    """A stream that is given up may end as badly as it likes."""
    await asyncio.gather(ended, return_exceptions=True)


def failure_of(error: Exception) -> UpstreamError:
    """The failure that an exception of LiteLLM stands for, by its status and class."""
    kind = type(error).__name__
    status = getattr(error, "status_code", None)
    status = status if isinstance(status, int) else None
    if kind == "Timeout":
        return UpstreamError("timeout", "took longer than its time-out allows", status=408)
    if kind == "APIConnectionError" or status is None:
        return UpstreamError("connect", "could not be reached through LiteLLM")
    code = getattr(error, "code", None)
    words = (code, kind) if isinstance(code, str) else (kind,)
    headers = getattr(getattr(error, "response", None), "headers", None)
    said = ErrorObject(str(error), words, code=code if isinstance(code, str) else None)
    return build_failure(said, status, headers=headers or {})
