"""What each upstream answers to its cheapest question: whether it is there, takes the key, has the model."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

import msgspec
from yarl import URL

from ..config import Config, DeploymentConfig, ExpertConfig
from ..config.providers import api_base_of, api_key_of, passes_through
from ..errors import UpstreamError
from ..experts import build_expert
from ..experts.deployments import CLIENT_ERRORS, status_failure, transport_failure
from ..experts.http_client import Address, Transport
from ..experts.types import Call
from ..experts.upstreams import KEY_VARIABLES, UpstreamFacts, describe_upstream, explain_failure
from ..openai.failures import decode_leniently
from ..runners.build import build_runners

QUESTION_S = 6.0
CALL_S = 30.0
MAX_LIST_BYTES = 8 * 1024 * 1024
N_SHOWN = 4
REFUSED = (401, 403)
Outcome = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class UpstreamQuestion:
    """A GET that costs nothing.

    `has_models`: it answers with a list of models. `calls`: where calls go, for a provider whose list may be
    open to all (OpenRouter's and NVIDIA's are): a call without a model and a prompt costs nothing.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    has_models: bool = True
    calls: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamReply:
    """What came of a question: the models, where it lists them, or a failure.

    `checks_key`: it refuses to answer without the key, so an answer shows that it takes it.
    """

    models: tuple[str, ...] = ()
    failure: UpstreamError | None = None
    checks_key: bool = True


@dataclass(frozen=True, slots=True)
class UpstreamVerdict:
    """What is known of one upstream of an expert."""

    upstream: UpstreamFacts
    outcome: Outcome
    cause: str
    fix: str = ""


def build_question(expert: ExpertConfig, place: DeploymentConfig) -> UpstreamQuestion | None:
    """The cheapest question of an upstream; None where its provider has none that is free."""
    provider, base = expert.provider, place.api_base
    key = place.api_key.reveal() if place.api_key else None
    own = tuple((name.lower(), value.reveal()) for name, value in place.headers.items())
    if passes_through(provider):
        address = (api_base_of(provider, base) or "").rstrip("/")
        key = api_key_of(provider, key, base)
        bearer = (("authorization", f"Bearer {key}"),) if key else ()
        if URL(address).host == "openrouter.ai":
            return UpstreamQuestion(f"{address}/key", (*bearer, *own), has_models=False)
        return UpstreamQuestion(f"{address}/models", (*bearer, *own), calls=f"{address}/chat/completions")
    # LiteLLM takes the provider's variable, also where the address is another.
    key = key or os.environ.get(KEY_VARIABLES.get(provider, f"{provider.upper()}_API_KEY"))
    if key is None:
        return None
    root = (base or "").rstrip("/").removesuffix("/v1/messages").removesuffix("/v1").removesuffix("/v1beta")
    if provider == "anthropic":
        named = (("x-api-key", key), ("anthropic-version", "2023-06-01"))
        return UpstreamQuestion(f"{root or 'https://api.anthropic.com'}/v1/models?limit=1000", (*named, *own))
    if provider == "gemini":
        root = root or "https://generativelanguage.googleapis.com"
        return UpstreamQuestion(f"{root}/v1beta/models?pageSize=1000", (("x-goog-api-key", key), *own))
    if provider in ("cohere", "cohere_chat"):
        root = root or "https://api.cohere.com"
        return UpstreamQuestion(
            f"{root}/v1/models?page_size=1000", (("authorization", f"Bearer {key}"), *own)
        )
    if provider == "azure" and root:
        version = place.settings.api_version or "2024-10-21"
        # Calls name deployments, and this lists models.
        url = f"{root}/openai/models?api-version={version}"
        return UpstreamQuestion(url, (("api-key", key), *own), has_models=False)
    return None


async def ask_upstreams(config: Config, paid: bool = False) -> list[UpstreamVerdict]:
    """What all upstreams answer, all asked at once, each for a few seconds."""
    places = [
        (expert, place)
        for expert in config.experts
        if expert.runner is None and expert.tool is None
        for place in expert.effective_deployments()
    ]
    transport = Transport()
    await transport.open()
    try:
        questions = [build_question(expert, place) for expert, place in places]
        # Forty models of one provider are one question.
        asked = list(dict.fromkeys(question for question in questions if question is not None))
        limit_s = min(QUESTION_S, max(config.timeouts.connect_s, 1.0) + 1.0)
        readings = await asyncio.gather(*(ask_with_key(transport, question, limit_s) for question in asked))
        known = dict(zip(asked, readings, strict=True))
        verdicts = [
            judge(expert, place, question, known[question] if question else None)
            for (expert, place), question in zip(places, questions, strict=True)
        ]
        if not paid:
            return verdicts
        return await _add_paid(config, transport, places, questions, known, verdicts)
    finally:
        await transport.close()


async def ask_with_key(transport: Transport, question: UpstreamQuestion, limit_s: float) -> UpstreamReply:
    """Ask one question; where its answer needs no key, find out otherwise whether the key is taken."""
    reply = await ask(transport, question, limit_s)
    if reply.failure is not None or not question.calls or not question.headers:
        return reply
    anonymous = replace(question, headers=())
    if _is_refused(await ask(transport, anonymous, limit_s)):
        return reply
    known, unknown = await asyncio.gather(
        ask(transport, question, limit_s, calls=True), ask(transport, anonymous, limit_s, calls=True)
    )
    if _is_refused(known):
        return known
    return replace(reply, checks_key=_is_refused(unknown))


def _is_refused(reply: UpstreamReply) -> bool:
    return reply.failure is not None and reply.failure.status in REFUSED


async def ask(
    transport: Transport, question: UpstreamQuestion, limit_s: float, calls: bool = False
) -> UpstreamReply:
    """Ask one question; with `calls` an empty call in its place, which is always refused."""
    url, method = (question.calls, "POST") if calls else (question.url, "GET")
    deadline = asyncio.get_running_loop().time() + limit_s
    try:
        address = Address(transport, url, dict(question.headers), 2 * limit_s, method=method)
        response = await address.send(b"{}" if calls else b"", deadline, deadline)
        try:
            body = b""
            while len(body) < MAX_LIST_BYTES and (data := await response.readany()):
                body += data
        finally:
            response.close()
    except (*CLIENT_ERRORS, ValueError) as error:
        return UpstreamReply(failure=transport_failure(error))
    if response.status != 200:
        return UpstreamReply(failure=status_failure(response, body))
    if calls or not question.has_models:
        return UpstreamReply()
    models = read_models(body)
    if models is None:
        said = "answered 200 with what is no list of models"
        return UpstreamReply(failure=UpstreamError("garbage", said, status=404))
    return UpstreamReply(models)


def read_models(body: bytes) -> tuple[str, ...] | None:
    """The names in a list of models, of any provider; None where it is none."""
    value = decode_leniently(body)
    items: Any = value
    if isinstance(value, dict):
        items = value["data"] if "data" in value else value.get("models")
    if not isinstance(items, list):
        return None
    names = (item.get("id") or item.get("name") for item in items if isinstance(item, dict))
    return tuple(name for name in names if isinstance(name, str))


def judge(
    expert: ExpertConfig,
    place: DeploymentConfig,
    question: UpstreamQuestion | None,
    reading: UpstreamReply | None,
) -> UpstreamVerdict:
    """What an answer means for one upstream of an expert."""
    upstream = describe_upstream(expert, place)
    needs_key = not place.api_base and KEY_VARIABLES.get(expert.provider, "").endswith("_API_KEY")
    if needs_key and not upstream.has_key:
        return UpstreamVerdict(upstream, "failure", "no key is set", f"set {upstream.key}")
    if question is None or reading is None:
        cause = "was not asked: it has no question that is free (--paid asks it for one token)"
        return UpstreamVerdict(upstream, "ok", cause)
    if (failure := reading.failure) is not None:
        return judge_failure(upstream, failure)
    if not question.has_models:
        return UpstreamVerdict(upstream, "ok", "answers, and takes the key")
    if not has_model(upstream.model, reading.models):
        return judge_missing(expert, upstream, reading.models)
    cause = f"answers, and has {upstream.model}"
    if not reading.checks_key:
        cause += (
            "; it asks for no key" if upstream.is_near else "; only --paid tells whether it takes the key"
        )
    return UpstreamVerdict(upstream, "ok", cause)


def judge_failure(upstream: UpstreamFacts, failure: UpstreamError) -> UpstreamVerdict:
    """What a failure of a question means; some servers answer prompts and list no models."""
    explanation = explain_failure(upstream, failure)
    cause = f"{failure.cause}: {explanation.why}" if explanation.why else failure.cause
    if failure.status in (404, 405, 501) and failure.kind != "connect":
        fix = f"where calls fail too, correct api_base of expert '{upstream.expert}': most end in /v1"
        return UpstreamVerdict(upstream, "warning", f"{failure.cause} to the question for its models", fix)
    # A key may be restricted to calls; 429 and 503 pass.
    is_passing = failure.status in (403, 429, 503, 529)
    return UpstreamVerdict(upstream, "warning" if is_passing else "failure", cause, explanation.fix)


def has_model(model: str, listed: Sequence[str]) -> bool:
    """Whether a list has a model; Ollama leaves out `:latest`, Google writes `models/` before the name."""
    names = {name.lower().removeprefix("models/").removesuffix(":latest") for name in listed}
    return model.lower().removesuffix(":latest") in names


def judge_missing(expert: ExpertConfig, upstream: UpstreamFacts, listed: Sequence[str]) -> UpstreamVerdict:
    """A list without the model. Ollama's is complete; others may leave out what they serve."""
    if expert.provider in ("ollama", "ollama_chat"):
        fix = f"ollama pull {upstream.model}"
        return UpstreamVerdict(upstream, "failure", f"has no {upstream.model}", fix)
    names = [name.removeprefix("models/") for name in listed]
    near = get_close_matches(upstream.model, names, n=N_SHOWN, cutoff=0.5) or names[:N_SHOWN]
    shown = f"; it lists {', '.join(near)}" if near else ""
    fix = f"correct the model of expert '{upstream.expert}' where calls fail too"
    return UpstreamVerdict(upstream, "warning", f"does not list {upstream.model}{shown}", fix)


async def _add_paid(
    config: Config,
    transport: Transport,
    places: Sequence[tuple[ExpertConfig, DeploymentConfig]],
    questions: Sequence[UpstreamQuestion | None],
    replies: Mapping[UpstreamQuestion, UpstreamReply],
    verdicts: Sequence[UpstreamVerdict],
) -> list[UpstreamVerdict]:
    """The verdicts, those that a free question does not settle replaced by what a call of one token shows."""
    open_ones = {
        n
        for n, (question, verdict) in enumerate(zip(questions, verdicts, strict=True))
        if verdict.outcome != "failure" and (question is None or not replies[question].checks_key)
    }
    calls = {n: _call_once(config, places[n][0], places[n][1], transport) for n in sorted(open_ones)}
    answers = dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))
    return [answers.get(n, verdict) for n, verdict in enumerate(verdicts)]


async def _call_once(
    config: Config, expert: ExpertConfig, place: DeploymentConfig, transport: Transport
) -> UpstreamVerdict:
    upstream = describe_upstream(expert, place)
    alone = msgspec.structs.replace(expert, deployments=(place,))
    asked = build_expert(alone, config.timeouts, transport, build_runners(config))
    message = {"messages": [{"role": "user", "content": "1"}], "max_tokens": 1}
    fields: Mapping[str, Any] = {"input": "1"} if expert.embeds else message
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    call = Call("embeddings" if expert.embeds else "chat/completions", raw)
    try:
        async with asyncio.timeout(CALL_S):
            await asked.call(call)
    except TimeoutError:
        return judge_failure(upstream, UpstreamError("timeout", f"gave no answer within {CALL_S:g} s"))
    except UpstreamError as error:
        return judge_failure(upstream, error)
    finally:
        await asked.close()
    return UpstreamVerdict(upstream, "ok", "answered a call of one token")
