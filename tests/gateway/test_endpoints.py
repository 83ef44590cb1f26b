"""The quiet endpoints of a real gateway whose only experts are a tool and a fake upstream."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.app import ROUTES
from gateway.config import parse_config
from gateway.requests.parsing import CHAT, COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, MESSAGES
from gateway.server import application
from tests.fakes.serving import live

CONFIG = """
experts:
  - {{name: calculator, tool: calculator}}
  - {{name: remote, model: openai/gpt-4o-mini, api_base: "http://127.0.0.1:1/v1", api_key: sk-nothing-there}}
policies:
  auto: {{default: calculator, n_fallbacks: 0}}
  private: {{require: {{local: true}}}}
journal: {{path: "{folder}/journal.sqlite3"}}
routing: {{artifact: "{folder}/artifact"}}
server: {{max_body_bytes: 10000}}
"""


@dataclass
class Site:
    address: str
    http: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.http.get(self.address + path, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        async with self.http.post(self.address + path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)


@contextlib.asynccontextmanager
async def site_of(text: str) -> AsyncIterator[Site]:
    async with (
        live(application(parse_config(text, env={}))) as address,
        aiohttp.ClientSession() as http,
    ):
        yield Site(address, http)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_of(CONFIG.format(folder=tmp_path)) as site:
        yield site


def ask(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}


async def test_models_lists_policies_and_experts_with_what_is_known_of_them(site: Site) -> None:
    status, record = await site.get("/v1/models?type=all")
    assert (status, record["object"]) == (200, "list")
    by_name = {model["id"]: model for model in record["data"]}
    assert list(by_name) == ["auto", "auto:private", "calculator", "remote", "minilm"]
    assert all({"id", "object", "created", "owned_by"} <= model.keys() for model in record["data"])
    calculator, remote = by_name["calculator"]["thalamus"], by_name["remote"]["thalamus"]
    assert calculator["labels"] == {"local": "true", "tool": "true"}
    assert remote["input_usd_per_token"] > 0
    assert (remote["state"], remote["in_flight"]) == ("closed", 0)
    assert "sk-nothing-there" not in str(record)


async def test_chat_clients_are_offered_nothing_that_does_not_chat(site: Site) -> None:
    async def names(query: str) -> list[str]:
        return [model["id"] for model in (await site.get(f"/v1/models{query}"))[1]["data"]]

    assert await names("") == await names("?type=chat") == ["auto", "auto:private", "remote"]
    assert await names("?type=embedding") == ["minilm"]
    assert await names("?type=tool") == ["calculator"]
    assert (await site.get("/v1/models/calculator"))[1]["type"] == "tool"
    status, record = await site.get("/v1/models?type=x")
    assert (status, record["error"]["param"]) == (400, "type")


async def test_one_model_is_told_by_name(site: Site) -> None:
    assert (await site.get("/v1/models/auto:private"))[1]["id"] == "auto:private"
    status, record = await site.get("/v1/models/openai/none")
    assert (status, record["error"]["code"]) == (404, "model_not_found")
    assert "calculator" in record["error"]["message"]


async def test_a_dry_run_tells_every_candidate_and_calls_nobody(site: Site) -> None:
    status, record = await site.post("/v1/route", {"prompt": "What is 17*23?"})
    assert status == 200
    assert record["expert"] == "calculator"
    assert [c["expert"] for c in record["candidates"]] == ["calculator", "remote"]
    assert record["query"]["text"] == "What is 17*23?"
    assert (await site.get(f"/v1/decisions/{record['id']}"))[0] == 404


async def test_a_prompt_and_a_lone_message_are_routed_alike(site: Site) -> None:
    _, plain = await site.post("/v1/route", {"prompt": "What is 17*23?"})
    _, chat = await site.post("/v1/route", ask("What is 17*23?"))
    assert {**plain, "id": None} == {**chat, "id": None}


async def test_a_tool_without_an_answer_is_no_candidate(site: Site) -> None:
    _, record = await site.post("/v1/route", {"prompt": "Who was Ada Lovelace?"})
    assert record["expert"] == "remote"
    assert record["candidates"][-1]["reason"] == "is a tool that cannot answer this query"


async def test_a_call_is_not_sent_to_a_tool_without_an_answer_either(site: Site) -> None:
    status, record = await site.post("/v1/chat/completions", ask("Who was Ada Lovelace?"))
    assert status == 502
    assert record["error"]["message"].startswith("expert 'remote' (127.0.0.1:1) cannot be connected to")


async def test_hints_bind_a_dry_run_as_they_bind_a_call(site: Site) -> None:
    _, record = await site.post("/v1/route", {"prompt": "hi", "router": {"exclude": ["calculator"]}})
    assert record["expert"] == "remote"
    _, record = await site.post("/v1/route", {"prompt": "2+2"}, **{"x-thalamus-policy": "private"})
    assert (record["policy"], record["candidates"][-1]["reason"]) == ("private", "lacks label local=true")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "messages"),
        ({"prompt": 3}, 400, "prompt"),
        ({"prompt": "hi", "model": "remote"}, 400, "model"),
        ({"prompt": "hi", "model": "missing"}, 404, "model"),
        ({"prompt": "hi", "router": {"policy": "none"}}, 400, "router.policy"),
        ({"prompt": "hi", "router": {"exclude": ["calculator", "remote"]}}, 400, "router"),
        ({"prompt": "hi", "api_base": "http://evil"}, 400, "api_base"),
        ({"prompt": "h" * 10_000}, 413, None),
        ([], 400, None),
    ],
)
async def test_a_dry_run_is_refused_like_a_call(
    site: Site, body: Any, status: int, param: str | None
) -> None:
    got, record = await site.post("/v1/route", body)
    assert (got, record["error"]["param"]) == (status, param)


async def test_a_decision_can_be_looked_up_by_the_id_its_answer_bore(site: Site) -> None:
    url = f"{site.address}/v1/chat/completions"
    async with site.http.post(url, json=ask("What is 17*23?")) as response:
        assert response.headers["x-thalamus-expert"] == "calculator"
        decision_id = response.headers["x-thalamus-decision-id"]
    status, record = await site.get(f"/v1/decisions/{decision_id}")
    assert (status, record["id"], record["expert_answered"]) == (200, decision_id, "calculator")
    assert record["decision"]["propensity"] == 1.0
    assert len(record["decision"]["candidates"]) == 2
    assert "17*23" not in str(record)


@pytest.mark.parametrize("decision_id", ["dec_none", "x" * 4000, "%00", "..%2F.."])
async def test_an_unknown_decision_is_a_404_in_the_envelope(site: Site, decision_id: str) -> None:
    status, record = await site.get(f"/v1/decisions/{decision_id}")
    assert status == 404
    assert record["error"]["type"] == "invalid_request_error"


async def test_health_is_told_to_anybody(tmp_path: Path) -> None:
    text = CONFIG.format(folder=tmp_path).replace("server: {", "server: {master_key: sk-7f3a9c1e5b2d8046, ")
    async with site_of(text) as site:
        assert await site.get("/health/live") == (200, {"status": "live"})
        status, record = await site.get("/health/ready")
        assert (status, record["status"], record["degraded"]) == (200, "ready", [])
        assert (await site.get("/v1/models"))[0] == 401
        assert (await site.get("/v1/models", **{"x-api-key": "sk-7f3a9c1e5b2d8046"}))[0] == 200


async def test_without_experts_nobody_is_ready(tmp_path: Path) -> None:
    async with site_of(f'journal: {{path: "{tmp_path}/j"}}') as site:
        status, record = await site.get("/health/ready")
        assert (status, record["status"]) == (503, "unavailable")


async def test_an_expert_that_cools_down_is_seen_in_readiness_and_models(site: Site) -> None:
    for n in range(10):
        status, record = await site.post("/v1/chat/completions", ask(f"hi {n}", model="remote"))
    assert (status, record["error"]["code"]) == (503, "experts_unavailable")
    status, record = await site.get("/health/ready")
    assert (status, record["status"], record["experts"]["remote"]) == (200, "degraded", "open")
    assert record["degraded"] == ["expert remote: open"]
    _, model = await site.get("/v1/models/remote")
    assert model["thalamus"]["state"] == "open"
    assert model["thalamus"]["cooldown_s"] > 0


async def test_openapi_lists_every_endpoint_there_is(site: Site) -> None:
    status, document = await site.get("/openapi.json")
    assert status == 200
    for path, operations in document["paths"].items():
        for method in operations:
            async with site.http.request(method, site.address + path, json={}) as response:
                assert response.status in (200, 400, 404), path
    refs = [part.split('"')[0] for part in str(document).replace("'", '"').split("#/components/schemas/")[1:]]
    assert set(refs) <= document["components"]["schemas"].keys()
    listed = {
        (path, method.upper()) for path, operations in document["paths"].items() for method in operations
    }
    routes = {
        (route.path.replace(":path", ""), method)
        for route in ROUTES
        for method in (route.methods or set()) - {"HEAD"}
        if route.path not in ("/", "/health")  # the same as others, for those who type them
    }
    hot = {(spec.path, "POST") for spec in (CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, COUNT_TOKENS)}
    assert listed == routes | hot | {("/v1/responses", "POST")}


async def test_openapi_tells_the_content_type_of_what_is_no_json(site: Site) -> None:
    _, document = await site.get("/openapi.json")
    for path in ("/metrics", "/v1/models"):
        async with site.http.get(site.address + path) as response:
            types = document["paths"][path]["get"]["responses"]["200"]["content"]
            assert response.content_type in types
    chat = document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert chat.keys() == {"application/json", "text/event-stream"}


async def test_what_is_not_there_is_a_404_in_the_envelope_that_says_where_to_look(site: Site) -> None:
    status, record = await site.get("/v1/nothing")
    assert (status, record["error"]["code"]) == (404, "unknown_url")
    assert "/openapi.json" in record["error"]["message"]
    assert (await site.post("/v1/models", {}))[0] == 405


async def test_a_web_page_of_another_site_is_turned_away(site: Site) -> None:
    status, record = await site.get("/v1/models", host="rebound.example")
    assert (status, record["error"]["type"]) == (403, "permission_error")
    assert (await site.get("/v1/models", origin="https://evil.example"))[0] == 403


async def test_a_web_page_that_the_configuration_allows_may_ask(tmp_path: Path) -> None:
    text = CONFIG.format(folder=tmp_path).replace(
        "server: {", 'server: {cors_origins: ["https://app.example"], '
    )
    async with site_of(text) as site:
        asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
        async with site.http.options(f"{site.address}/v1/chat/completions", headers=asked) as preflight:
            assert preflight.status == 200
            assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        async with site.http.get(
            f"{site.address}/v1/models", headers={"origin": "https://app.example"}
        ) as record:
            assert record.status == 200
            assert "x-thalamus-expert" in record.headers["access-control-expose-headers"]
        assert (await site.get("/v1/models", origin="https://evil.example"))[0] == 403
