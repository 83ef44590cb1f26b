"""`/v1/models`: every name a request may use as its model, with the state of each expert."""

import time
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from routers import ExpertProfile

from ..anthropic.answers import build_model_info, build_model_page
from ..config import BASE_EMBEDDER, ExpertConfig
from ..embedding import EmbedderPool
from ..errors import InvalidField
from ..experts.profiles import profile_of
from ..services import Services
from .answers import get_services, json_response

# OpenAI's model object needs a creation time. Names have none, so it is the start of the process.
STARTED_AT = int(time.time())


TYPES = ("chat", "embedding", "tool")


async def list_models(request: Request) -> Response:
    """The models that chat, policies first; `?type=` lists `embedding`, `tool` or `all`.

    Raises:
        InvalidField: there is no such type.
    """
    wanted = request.query_params.get("type", "chat")
    if wanted not in (*TYPES, "all"):
        raise InvalidField(f"'type' must be {', '.join(TYPES)} or all", param="type")
    # Chat clients offer every model of this list to their users and read no field that says otherwise.
    models = [model for model in describe_models(get_services(request)) if wanted in (model["type"], "all")]
    if speaks_anthropic(request):
        return json_response(build_model_page(models))
    return json_response({"object": "list", "data": models})


async def get_model(request: Request) -> Response:
    """One model, by name.

    Raises:
        ModelNotFound: nothing has that name.
    """
    services = get_services(request)
    name = request.path_params["name"]
    found = next((model for model in describe_models(services) if model["id"] == name), None)
    if found is None:
        raise services.parser.unknown_model(name)
    return json_response(build_model_info(found) if speaks_anthropic(request) else found)


def speaks_anthropic(request: Request) -> bool:
    """Whether a client of Anthropic's asks: the header is required there."""
    return "anthropic-version" in request.headers


def describe_models(services: Services) -> Iterator[dict[str, Any]]:
    """Policies as `auto` and `auto:<name>`, the experts, the embedders served here, and the aliases."""
    types: dict[str, str] = {}
    for name, policy in services.policies.items():
        facts = {"kind": "policy", "policy": name, "encoder": policy.encoder, "default": policy.default}
        yield _to_openai("auto" if name == "auto" else f"auto:{name}", "chat", "thalamus", facts)
    for expert in services.config.experts:
        types[expert.name] = "embedding" if expert.embeds else "tool" if expert.tool else "chat"
        described = _describe_expert(services, expert, profile_of(expert))
        yield _to_openai(expert.name, types[expert.name], _name_owner(expert), described)
    if services.embedders is not None:
        for name in services.embedders.names:
            types[name] = "embedding"
            yield _to_openai(name, "embedding", "local", _describe_embedder(services.embedders, name))
    for alias, target in services.config.aliases.items():
        facts = {"kind": "alias", "stands_for": target}
        yield _to_openai(alias, types.get(target, "chat"), "thalamus", facts)


def _to_openai(name: str, model_type: str, owner: str, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": STARTED_AT,
        "owned_by": owner,
        "type": model_type,
        "thalamus": facts,
    }


def _name_owner(expert: ExpertConfig) -> str:
    return "local" if expert.is_local else expert.provider


def _describe_expert(services: Services, expert: ExpertConfig, profile: ExpertProfile) -> dict[str, Any]:
    return {
        "kind": "embedding expert" if expert.embeds else "expert",
        "model": expert.model,
        "labels": dict(sorted(profile.labels)),
        "input_usd_per_token": profile.input_usd_per_token,
        "output_usd_per_token": profile.output_usd_per_token,
        "context_tokens": profile.context_tokens,
        "abilities": None if profile.abilities is None else sorted(profile.abilities),
        **services.fleet.state(expert.name),
        **_describe_runner(services, expert.name),
    }


def _describe_embedder(pool: EmbedderPool, name: str) -> dict[str, Any]:
    """What it reads, and its index: vectors of the same index may be compared."""
    return {
        "kind": "embedder",
        "reads": ["document", "query"] if name == BASE_EMBEDDER else ["query"],
        "chosen_by_auto": name in pool.readers,
        "index": pool.base.fingerprint if pool.has_base else None,
        "dimensions": pool.base.dim if pool.has_base else None,
        "max_tokens": pool.base.max_tokens if pool.has_base else None,
        "input_usd_per_token": 0.0,
    }


def _describe_runner(services: Services, name: str) -> dict[str, Any]:
    """The state of a local expert's runner, and the seconds until it could answer; empty for others."""
    runner = services.runners.get(name)
    if runner is None:
        return {}
    return {"runner": {"state": runner.state, "away_s": round(services.runners.loads_in_s(name), 3)}}


ROUTES = [
    Route("/v1/models", list_models, methods=["GET"]),
    # `:path`, because names may contain slashes, as in openai/gpt-4o.
    Route("/v1/models/{name:path}", get_model, methods=["GET"]),
]
