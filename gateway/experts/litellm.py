"""Experts of all other providers, through LiteLLM, which a thread imports when the gateway starts."""

import asyncio
import concurrent.futures
import importlib
import inspect
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..config import DEFAULT_LIMITS, AnswerLimits, DeploymentConfig, ExpertConfig, TimeoutConfig
from ..fleet.circuit_breaker import CircuitBreaker
from ..openai.answers import check_answer
from ..openai.events import EventStream
from ..openai.failures import (
    ErrorObject,
    build_failure,
    decode_leniently,
    find_error,
    one_line,
    read_failure,
)
from .deployments import KEPT_OF_LONGEST, DeployedExpert, build_limit, find_shortage, limit_silence_s
from .parameters import Parameters
from .prompt_preset import PromptPreset
from .types import Call, Expert, Fields, Reply, UpstreamError
from .upstreams import UpstreamTable

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

TRANSLATED = PARAMETERS - {
    *("dimensions", "encoding_format", "input", "max_completion_tokens", "max_tokens", "messages", "prompt"),
    *("safety_identifier", "stream_options", "suffix", "thinking", "top_k"),
}
"""Fields of which LiteLLM says for each model whether it translates them; it drops the others."""

FUNCTIONS = {"chat/completions": "acompletion", "completions": "atext_completion", "embeddings": "aembedding"}
decode = msgspec.json.decode

LOCAL_COPIES = (
    "LITELLM_LOCAL_MODEL_COST_MAP",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS",
    "LITELLM_LOCAL_BLOG_POSTS",
)
"""What LiteLLM would fetch from the web, at import or in a call that holds up the event loop."""
MCP_HANDLERS = (
    "litellm.responses.mcp.chat_completions_handler",
    "litellm.responses.mcp.litellm_proxy_mcp_handler",
)
"""What LiteLLM imports at the first call with tools: half a second that the event loop would stand still."""
NOT_CONNECTED = frozenset({"TransportError", "APIConnectionError", "ClientConnectionError", "OSError"})
SIGN_IN_ERRORS = frozenset(
    """
    RefreshError DefaultCredentialsError MalformedError
    NoCredentialsError PartialCredentialsError CredentialRetrievalError ProfileNotFound
    TokenRetrievalError UnauthorizedSSOTokenError SSOTokenLoadError
    ClientAuthenticationError CredentialUnavailableError
""".split()  # noqa: SIM905 (a list of words reads better)
)
"""What google-auth, botocore and azure-identity raise where there are no credentials, or none that serve."""
SIGN_IN_TEXT = re.compile(
    r"missing (?:\w+ )?(?:credentials|api[ _]key)|unable to load (?:vertex credentials|pem)"
    r"|could not resolve project_id",
    re.IGNORECASE,
)
"""The same of LiteLLM and of OpenAI's library, which raise plain errors before anything was sent."""
MALFORMED = (TypeError, AttributeError, KeyError, IndexError)
HTTP_CLIENTS = frozenset({"httpx", "httpcore", "aiohttp", "openai", "botocore", "requests"})
READS_ANSWER = re.compile(
    r"(?:transform|convert|parse|extract|process)\w*(?:response|chunk)|chunk_pars|__anext__"
)
"""Functions of LiteLLM that run once an answer is there."""
PACKAGES = {"google": "google-auth", "azure": "azure-identity"}
"""Packages whose names are not those of their modules."""
log = logging.getLogger("thalamus.litellm")


STREAMS = ("text/event-stream", "application/vnd.amazon.eventstream", "application/x-ndjson")


class LiteLLMRules:
    """Of all experts in the process that are called through LiteLLM; `local_hosts` are asked directly."""

    def __init__(self) -> None:
        self.limits: AnswerLimits = DEFAULT_LIMITS
        self.local_hosts: set[str] = set()

    def max_bytes(self, status: int, content_type: str, path: str) -> int:
        """How long an answer may be."""
        if status >= 300:
            return self.limits.max_error_bytes
        if content_type.startswith(STREAMS):
            return self.limits.max_stream_bytes
        return self.limits.max_embeddings_bytes if "embed" in path else self.limits.max_bytes


RULES = LiteLLMRules()


def load_litellm() -> Any:
    """LiteLLM, quiet and without calls home. Takes seconds: never on the event loop."""
    from .litellm_http import guard_litellm_http  # aiohttp takes 250 ms to import, and LiteLLM alone needs it

    for name in LOCAL_COPIES:
        os.environ.setdefault(name, "True")
    litellm = import_package("litellm")
    logging.getLogger("LiteLLM").setLevel(logging.WARNING)
    logging.getLogger("LiteLLM").addFilter(_leave_out_traceback)
    guard_litellm_http(RULES)
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.drop_params = True
    litellm.disable_stop_sequence_limit = True  # it would cut lists to four without a word
    try:
        for name in MCP_HANDLERS:
            importlib.import_module(name)
    except ImportError as error:
        # An older LiteLLM has no such modules and needs none; a missing package stops every call with tools.
        if not str(error.name).startswith("litellm"):
            log.error("LiteLLM cannot be called with tools: %s; pip install 'litellm[mcp]'", error)
    return litellm


def import_package(name: str) -> Any:
    """The package; one that cannot be imported leaves no module behind, so that it can be imported later."""
    try:
        return importlib.import_module(name)
    except BaseException:
        # Python drops only the module that failed. A new import would find the package's other modules there,
        # but without the attributes that importing them gives to their package.
        for module in [module for module in sys.modules if f"{module}.".startswith(f"{name}.")]:
            del sys.modules[module]
        raise


def _leave_out_traceback(record: logging.LogRecord) -> bool:
    """LiteLLM logs what it raises with its whole stack; the failure's own line says what to do."""
    record.exc_info = record.exc_text = None
    return True


class LibraryLoader:
    """Imports a library once, in a thread that holds up neither the event loop nor the end of the process."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._users: set[int] = set()
        self._loading: concurrent.futures.Future[Any] | None = None

    def start(self) -> "concurrent.futures.Future[Any]":
        """Begin, if that has not been done; an import that failed is tried again."""
        with self._lock:
            loading = self._loading
            if loading is None or (loading.done() and loading.exception() is not None):
                self._loading = loading = concurrent.futures.Future()
                threading.Thread(target=self._run, args=(loading,), daemon=True, name="import").start()
        return loading

    def _run(self, loading: "concurrent.futures.Future[Any]") -> None:
        try:
            loading.set_result(self._load())
        except BaseException as error:
            log.error("LiteLLM cannot be imported: %s: %s", type(error).__name__, error)
            loading.set_exception(error)

    async def module(self) -> Any:
        """The library, once it is there.

        Raises:
            UpstreamError: it cannot be imported.
        """
        loading = self.start()
        try:
            # Shielded: a client that leaves must not cancel what others wait for.
            return loading.result() if loading.done() else await asyncio.shield(asyncio.wrap_future(loading))
        except Exception as error:
            raise library_failure(error) from error

    def hold(self, user: int) -> None:
        """Keep its connections open until this user lets go of them."""
        self._users.add(user)

    async def let_go(self, user: int) -> None:
        """End the connections that the library keeps, with its last user."""
        self._users.discard(user)
        # They are the process's: after a reload, or beside another gateway, they still serve others.
        if self._users or (library := self.library) is None:
            return
        if (end := getattr(library, "close_litellm_async_clients", None)) is not None:
            await end()
        # It closes what it caches and would go on to use it.
        if (clients := getattr(library, "in_memory_llm_clients_cache", None)) is not None:
            clients.flush_cache()

    @property
    def library(self) -> Any:
        """The library, None where it is not there yet."""
        loading = self._loading
        return loading.result() if loading and loading.done() and not loading.exception() else None


LITELLM = LibraryLoader(load_litellm)


def warm_litellm(experts: Iterable[Expert]) -> None:
    """Begin to import LiteLLM in the background, where an expert will need it."""
    for loader in {expert.loader for expert in experts if isinstance(expert, LiteLLMExpert)}:
        loader.start()


class LiteLLMDeployment:
    """One address of an expert that is called through LiteLLM."""

    def __init__(
        self,
        name: str,
        model: str,
        config: DeploymentConfig,
        timeouts: TimeoutConfig,
        loader: LibraryLoader,
        parameters: Parameters,
    ) -> None:
        """`model` is `provider/model`."""
        self.name = name
        self.breaker = CircuitBreaker()
        self.slots = build_limit(config)
        self._timeouts = timeouts
        self._loader = loader
        self._parameters = parameters
        self._own = _own_arguments(model, config, timeouts)
        self._known: frozenset[str] | None = None
        self._longest_s = 0.0

    async def call(self, call: Call, fields: Fields) -> Reply:
        litellm = await self._loader.module()
        fields, warnings = await self._leave_out(litellm, call, fields)
        await self.slots.acquire(self._timeouts.first_token_s)
        reply: Reply | None = None
        try:
            reply = await self._ask(litellm, call, fields)
        finally:
            if reply is None or reply.events is None:
                self.slots.release()
        if self.slots.rate is not None:
            reply.when_counted(self.slots.rate.charge, call)
        reply.warnings = warnings
        return reply

    async def _leave_out(self, litellm: Any, call: Call, fields: Fields) -> tuple[Fields, tuple[str, ...]]:
        """The fields without those that LiteLLM would drop without a word.

        Raises:
            UpstreamError: the answer depends on one of them.
        """
        if call.endpoint != "chat/completions":
            return fields, ()
        if self._known is None:
            # The first question for a provider imports its module: a tenth of a second.
            self._known = await asyncio.to_thread(_list_translated, litellm, self._own)
        unknown = fields.keys() & TRANSLATED - self._known
        return self._parameters.leave_out(fields, unknown) if unknown else (fields, ())

    async def _ask(self, litellm: Any, call: Call, fields: Fields) -> Reply:
        """Ask; the end of a stream gives its slot back."""
        ask = getattr(litellm, FUNCTIONS[call.endpoint])
        arguments = {name: decode(value) for name, value in fields.items() if name in PARAMETERS}
        arguments |= self._own
        if call.stream:
            arguments["stream"] = True
        clock = asyncio.get_running_loop().time
        start, limit_s = clock(), self._timeouts.first_token_s
        if not call.stream:
            limit_s = limit_silence_s(call, self._timeouts, self._longest_s)
        try:
            async with asyncio.timeout(limit_s):
                answer = await ask(**arguments)
        except TimeoutError as error:
            raise UpstreamError("timeout", "took longer than its time-out allows") from error
        except Exception as error:
            raise failure_of(error) from error
        if not call.stream:
            self._longest_s = max(clock() - start, KEPT_OF_LONGEST * self._longest_s)
            body = answer.model_dump_json(exclude_none=True).encode()
            usage = check_answer(body, call.endpoint == "embeddings")
            return Reply(body=body, usage=usage, deployment=self.name)
        return Reply(events=await self._open(answer, start, call.hides_usage), deployment=self.name)

    async def _open(self, answer: Any, start: float, hides_usage: bool) -> EventStream:
        stop = _closer(answer)

        def close() -> None:
            stop()
            self.slots.release()

        events = EventStream(
            _reader(answer),
            close,
            first_token_s=self._timeouts.first_token_s,
            between_s=self._timeouts.between_tokens_s,
            end_at=start + self._timeouts.total_s,
            hides_usage=hides_usage,
            limits=RULES.limits,
        )
        try:
            await events.open()
        except BaseException:
            stop()
            raise
        return events


def _list_translated(litellm: Any, own: Mapping[str, Any]) -> frozenset[str]:
    """Which fields LiteLLM translates for a model; all, where it does not say."""
    try:
        model, provider, _, _ = litellm.get_llm_provider(model=own["model"], api_base=own.get("api_base"))
        known = litellm.get_supported_openai_params(model=model, custom_llm_provider=provider)
    except Exception:  # the call itself says better what is wrong with the model
        return TRANSLATED
    return frozenset(known) if known else TRANSLATED


def _own_arguments(model: str, config: DeploymentConfig, timeouts: TimeoutConfig) -> dict[str, Any]:
    """What is the same for every call of a deployment, and not the client's to say."""
    own: dict[str, Any] = {
        "model": model,
        "timeout": timeouts.total_s,
        # LiteLLM's own retries would hide failures from the fleet and multiply ours.
        "num_retries": 0,
        "max_retries": 0,
        "drop_params": True,
    }
    if config.api_base:
        own["api_base"] = config.api_base
        if model.startswith("anthropic/"):
            # LiteLLM appends `/v1/messages` to every address.
            own["api_base"] = config.api_base.rstrip("/").removesuffix("/v1")
    if config.api_key:
        own["api_key"] = config.api_key.reveal()
    own |= config.settings.as_arguments()
    if config.headers:
        own["extra_headers"] = {name: value.reveal() for name, value in config.headers.items()}
    return own


class LiteLLMExpert(DeployedExpert[LiteLLMDeployment]):
    """An expert of a provider whose protocol is not OpenAI's."""

    def __init__(
        self, config: ExpertConfig, timeouts: TimeoutConfig, load: Callable[[], Any] | None = None
    ) -> None:
        self.loader = LITELLM if load is None else LibraryLoader(load)
        parameters = Parameters(config)
        if config.is_local:
            RULES.local_hosts |= list_hosts(config)
        deployments = [
            self.build_deployment(n, place, config, timeouts, parameters)
            for n, place in enumerate(config.effective_deployments(), start=1)
        ]
        upstreams = UpstreamTable.of([config])
        super().__init__(
            config.name, PromptPreset(config), deployments, parameters, upstreams, timeouts.total_s
        )

    def build_deployment(
        self,
        n: int,
        place: DeploymentConfig,
        config: ExpertConfig,
        timeouts: TimeoutConfig,
        parameters: Parameters,
    ) -> LiteLLMDeployment:
        """The deployment with this number."""
        model = f"{config.provider}/{place.model}" if place.model else config.model
        return LiteLLMDeployment(f"{config.name}#{n}", model, place, timeouts, self.loader, parameters)

    @property
    def in_use(self) -> int:
        """Calls running now."""
        return sum(deployment.slots.in_use for deployment in self.deployments)

    async def call(self, call: Call) -> Reply:
        self.loader.hold(id(self))
        return await super().call(call)

    async def close(self) -> None:
        await self.loader.let_go(id(self))


def list_hosts(config: ExpertConfig) -> set[str]:
    """The hosts of an expert's deployments; this machine's own names where none is given."""
    addresses = [place.api_base for place in config.effective_deployments() if place.api_base]
    return {urlsplit(address).hostname or "" for address in addresses} or {"localhost", "127.0.0.1", "::1"}


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


LITELLM_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w+Error: )*(?:\w+Exception(?: \w+)? - )?")


def failure_of(error: Exception) -> UpstreamError:
    """The failure that an exception of LiteLLM stands for."""
    causes = list(_causes(error))
    if (shortage := find_shortage(causes)) is not None:
        return shortage
    failure = _read_failure(error, causes)
    # What a client sent must not tell on an expert that was never asked.
    is_known = failure.status == 401 or not failure.faults_expert
    return failure if is_known or not _is_unsent(causes) else library_failure(causes[-1])


def _is_unsent(causes: Sequence[BaseException]) -> bool:
    """Whether an exception came before a call; LiteLLM may give it any status."""
    root = causes[-1]
    if not _is_malformed(root) or any(map(_is_of_http, _own_causes(causes))):
        return False
    frames = [frame.name for frame in traceback.extract_tb(root.__traceback__)]
    return not any(map(READS_ANSWER.search, frames))


def _is_malformed(error: BaseException) -> bool:
    """Whether it is what a field of an unexpected shape ends in."""
    return isinstance(error, MALFORMED) or type(error).__name__ in ("ValidationError", "JSONDecodeError")


def _is_of_http(cause: BaseException) -> bool:
    return _is_of_connection(cause) or type(cause).__module__.partition(".")[0] in HTTP_CLIENTS


def _read_failure(error: Exception, causes: Sequence[BaseException]) -> UpstreamError:
    """The failure by status and class."""
    # LiteLLM changes statuses and drops headers: what the provider sent says it better.
    if (answer := _find_answer(error)) is not None:
        return read_failure(*answer)
    if (own := next((cause for cause in causes if isinstance(cause, UpstreamError)), None)) is not None:
        return own  # of an answer that is too long
    if (failure := _find_sign_in_failure(causes)) is not None:
        return failure
    kind = type(error).__name__
    status = getattr(error, "status_code", None)
    status = status if isinstance(status, int) else None
    if kind == "Timeout":
        return UpstreamError("timeout", "took longer than its time-out allows", status=408)
    unsent = any(isinstance(cause, ImportError) or _is_of_connection(cause) for cause in causes[1:])
    if kind == "APIConnectionError" or status is None or unsent:
        return _unsent_failure(causes)
    code = getattr(error, "code", None)
    words = (code, kind) if isinstance(code, str) else (kind,)
    headers = getattr(getattr(error, "response", None), "headers", None)
    text = LITELLM_PREFIX.sub("", str(error), count=1)
    # What the provider itself answered tells more exactly what was wrong than LiteLLM's class does.
    said = (
        find_error(decode_leniently(text.removeprefix("b'").rstrip("'").encode()))
        if "{" in text[:3]
        else None
    )
    if said is None:
        said = ErrorObject(text, words, code=code if isinstance(code, str) else None)
    return build_failure(replace(said, words=(*said.words, kind)), status, headers=headers or {})


def _find_answer(error: Exception) -> tuple[int, bytes, Mapping[str, str]] | None:
    """Status, body and headers of the provider's own response, where an exception still has them."""
    status, body, headers = None, b"", dict[str, str]()
    for cause in list(_causes(error))[1:]:
        response = getattr(cause, "response", None)
        code = getattr(response, "status_code", None) or getattr(cause, "status_code", None)
        if isinstance(code, int) and code >= 400:
            status = code
        body = _find_body(cause, response) or body
        sent = getattr(response, "headers", None) or getattr(cause, "headers", None)
        if isinstance(sent, Mapping):
            headers |= {str(name).lower(): str(value) for name, value in sent.items()}
    return (status, body, headers) if status is not None and body else None


def _find_body(cause: BaseException, response: Any) -> bytes:
    """The body of a response as it came; empty where it was not read, or is told in other words."""
    try:
        content = getattr(response, "content", b"")
    except RuntimeError:  # httpx: the body of a stream that was not read
        content = b""
    message = getattr(cause, "message", b"")
    for text in (content, message):
        raw = text.encode() if isinstance(text, str) else text
        if isinstance(raw, bytes) and raw.lstrip()[:1] in (b"{", b"["):
            return raw
    return b""


def _find_sign_in_failure(causes: Sequence[BaseException]) -> UpstreamError | None:
    """The failure where nothing was sent, as there were no credentials or they were refused; else None."""
    for cause in causes:
        is_named = type(cause).__name__ in SIGN_IN_ERRORS
        # A token service that is down asks for patience, not for another key.
        if is_named and getattr(cause, "retryable", False):
            return UpstreamError("connect", "could not be reached through LiteLLM")
        text = str(cause.args[0] if cause.args else cause).partition("\n")[0]
        if is_named or SIGN_IN_TEXT.search(text):
            said = one_line(LITELLM_PREFIX.sub("", text, count=1)).partition(". ")[0].rstrip(".")
            return UpstreamError("status", f"could not sign in ({said})", status=401)
    return None


def _unsent_failure(causes: Sequence[BaseException]) -> UpstreamError:
    """The failure where no answer came: LiteLLM calls a fault of its own a lost connection too."""
    if missing := [cause for cause in causes if isinstance(cause, ImportError)]:
        # LiteLLM puts words of its own over the error that names the module.
        return library_failure(next((cause for cause in missing if cause.name), missing[0]))
    own = _own_causes(causes)
    if own and not any(map(_is_of_connection, own)):
        # Of an answer that it cannot read, LiteLLM says the same as of a request.
        if _is_malformed(causes[-1]) and not _is_unsent(causes):
            return UpstreamError("garbage", "gave an answer that LiteLLM cannot read")
        return library_failure(causes[-1])
    return UpstreamError("connect", "could not be reached through LiteLLM")


def _own_causes(causes: Sequence[BaseException]) -> Sequence[BaseException]:
    """What happened, without the exception that LiteLLM made of it: its class says little."""
    return causes[1:] if hasattr(causes[0], "status_code") else causes


def _is_of_connection(cause: BaseException) -> bool:
    """By name: neither of the HTTP clients that LiteLLM uses is imported here."""
    return not NOT_CONNECTED.isdisjoint(kind.__name__ for kind in type(cause).__mro__)


def library_failure(error: BaseException) -> UpstreamError:
    """The failure that lies in the library, or in what it was given: no call was made."""
    kind = type(error).__name__
    if isinstance(error, ImportError):
        log.error("LiteLLM needs what is not installed: %s", error)
        module = (error.name or "").partition(".")[0]
        fix = f": pip install {PACKAGES.get(module, module)}" if module else ""
        return UpstreamError("library", f"cannot be called, as LiteLLM misses a package ({error}){fix}")
    log.debug("LiteLLM failed", exc_info=error)
    if _is_malformed(error):
        said = f"was not called: LiteLLM could not translate the request ({kind})"
        return UpstreamError("unsupported", said, status=400, body=_build_refusal(said))
    # Its text may hold an address or a key: the whole is for those who ask for it.
    log.error("LiteLLM failed with %s", kind)
    return UpstreamError("unsent", f"could not be called: LiteLLM failed with {kind}")


def _build_refusal(said: str) -> bytes:
    error = {"message": f"the expert {said}", "type": "invalid_request_error", "param": None, "code": None}
    return msgspec.json.encode({"error": error})


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and those it was raised from or while handling."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
