"""What an expert says of a request is for its client alone; keys are for none."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.config.secrets import hide_secrets
from tests.fakes.odd_upstream import OddUpstream, RawUpstream, Script, http_bytes, json_answer
from tests.fakes.serving import gateway

PROMPT = "my diagnosis is cholera, write to jane@example.org"
ECHO = f"invalid request. Received Messages=[{{'role': 'user', 'content': '{PROMPT}'}}]"
KEYS = (
    "sk-ant-api03-abcdef123456",
    "AKIAABCDEFGHIJKLMNOP",
    "Bearer abcd.efgh-1234",
    "ghp_abcdefghij1234567890",
    "AIzaSyA1234567890abc",
    "xoxb-123456789012-abc",
    "ya29.a0AfH6SMBx-1234",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
    "https://user:pa55word@host/v1",
    "x-api-key: 0123456789abcdef",
    '"api_key": "0123456789abcdef"',
    "authorization: Token 0123456789abcdef",
    "Incorrect API key provided: abcd1234efgh",
    "?access_token=abc123def456&x",
)
SECRETS = (
    *(
        "abcdef123456",
        "AKIAABC",
        "efgh-1234",
        "ghp_abc",
        "AIzaSyA",
        "xoxb-123",
        "ya29.a0",
        "eyJhbG",
        "pa55word",
    ),
    *("0123456789abcdef", "abcd1234efgh", "abc123def456"),
)


def list_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("journal*"))


def errors() -> dict[str, Script]:
    """Experts that quote the prompt, each in another way."""
    said: dict[str, Any] = {"message": ECHO, "type": "invalid_request_error", "code": "invalid_value"}
    overloaded = {"error": {**said, "type": "overloaded_error", "code": None}}
    return {
        "refuses": json_answer({"error": said}, 400),
        "overloaded": json_answer(overloaded, 503),
        "fails": json_answer({"error": {"message": ECHO, "code": PROMPT}}, 500),
        "inside": json_answer({"error": {**said, "type": "server_error"}}),
        "text": Script([ECHO.encode()], 500, "text/plain"),
        "garbage": Script([ECHO.encode()], 200, "text/plain"),
        "moved": json_answer({}, 307, location=f"http://127.0.0.1:1/{PROMPT.replace(' ', '-')}"),
        "stream": Script(
            [
                b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
                b"data: " + json.dumps(overloaded).encode() + b"\n\n",
            ]
        ),
    }


async def test_only_the_client_reads_what_an_expert_says_of_its_prompt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scripts = errors()
    async with (
        OddUpstream(scripts).serve() as upstream,
        gateway({"experts": upstream.experts()}, str(tmp_path / "journal"), *scripts) as live,
    ):
        answers = {}
        for name in scripts:
            for n in range(4):  # different ones: the same request would be held off after a while
                answer = await live.post(
                    "chat/completions",
                    {
                        "model": name,
                        "stream": name == "stream",
                        "messages": [{"role": "user", "content": f"{PROMPT} ({n})"}],
                    },
                )
                answers[name] = answer.body.decode()
                record = json.dumps(await live.read_record(answer))
                assert (name, "cholera" in record, "jane@" in record) == (name, False, False)
                # The next is not refused for a cooldown: each of them is to be answers.
                health = live.services.fleet._health[name]
                assert "cholera" not in str(live.services.fleet.state(name))
                health.breaker.until = 0.0
        # Its own client reads it.
        own = ("refuses", "overloaded", "fails", "inside", "text", "garbage", "stream")
        assert [name for name in own if "cholera" not in answers[name]] == []
        for path in ("models", "models?type=all"):
            async with live.http.get(f"{live.base}/{path}") as response:
                assert "cholera" not in await response.text()
        other = await live.post("route", {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]})
        assert b"cholera" not in other.body
        refused = await live.chat("auto")
        assert b"cholera" not in refused.body or refused.status != 503
    assert b"cholera" not in b"".join(file.read_bytes() for file in list_files(tmp_path))
    assert "cholera" not in caplog.text


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_hidden_in_any_common_form(key: str) -> None:
    for text in (f"the key {key} is wrong", json.dumps({"error": {"message": f"said: {key}."}})):
        hidden = hide_secrets(text)
        assert [secret for secret in SECRETS if secret in hidden] == []


@pytest.mark.parametrize("key", KEYS)
async def test_keys_are_hidden_in_a_refusal_that_goes_back(tmp_path: Path, key: str) -> None:
    body = {
        "error": {"message": f'bad "{key}", \\ see', "type": "invalid_request_error", "headers": {"x": key}}
    }
    async with (
        OddUpstream({"x": json_answer(body, 400)}).serve() as upstream,
        gateway(
            {"experts": upstream.experts(), "embeddings": {"enabled": False}}, str(tmp_path / "j"), "x"
        ) as live,
    ):
        answer = await live.chat("x")
        assert answer.status == 400
        assert answer.error["message"].startswith("bad ")  # JSON stays JSON
        assert [secret for secret in SECRETS if secret.encode() in answer.body] == []


def test_words_stay_words() -> None:
    for text in (
        "the key 'temperature' is unknown",
        "max_tokens: 12345678",
        "version: 2024-10-21",
        "token: missing",
    ):
        assert hide_secrets(text) == text


@pytest.mark.parametrize("is_local", [True, False])
async def test_local_experts_are_not_asked_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_local: bool
) -> None:
    good = http_bytes(b'{"id":"direct","choices":[]}')
    proxied = http_bytes(b'{"id":"proxied","choices":[]}')
    async with (
        RawUpstream(lambda _: [good]).serve() as upstream,
        RawUpstream(lambda _: [proxied]).serve() as proxy,
    ):
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))
        expert = {"name": "x", "model": "openai/x", "api_base": upstream.base_url, "local": is_local}
        async with gateway({"experts": [expert]}, str(tmp_path / "j"), "x") as live:
            answer = await live.chat("x")
            assert answer.json()["id"] == ("direct" if is_local else "proxied")
            assert bool(proxy.heads) is not is_local
    await asyncio.sleep(0)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


KEYED: dict[str, dict[str, Any]] = {
    "anthropic": {"model": "anthropic/claude-3-5-haiku-latest", "api_key": "sk-ant-0123456789abcdef"},
    "gemini": {"model": "gemini/gemini-2.0-flash", "api_key": "AIza0123456789abcdef"},
    "azure": {
        "model": "azure/gpt-4o",
        "api_key": "azure0123456789abcdef",
        "settings": {"api_version": "2024-10-21"},
    },
    "openai": {"model": "openai/gpt-4o", "api_key": "sk-0123456789abcdef"},
}


@pytest.mark.filterwarnings("ignore")
async def test_no_key_follows_a_redirect_to_another_host(
    tmp_path: Path, no_proxies: pytest.MonkeyPatch
) -> None:
    async with RawUpstream(lambda _: [http_bytes(b"{}")]).serve() as elsewhere:
        away = elsewhere.base_url.replace("127.0.0.1", "localhost")
        moved = http_bytes(b"{}", status=307, location=f"{away}/stolen")
        async with RawUpstream(lambda _: [moved]).serve() as upstream:
            base = upstream.base_url.removesuffix("/v1")
            experts = [{"name": name, "api_base": base, **settings} for name, settings in KEYED.items()]
            config = {"experts": experts, "embeddings": {"enabled": False}}
            async with gateway(config, str(tmp_path / "j"), *KEYED) as live:
                for name in KEYED:
                    for stream in (False, True):
                        answer = await live.chat(name, stream=stream)
                        assert (name, answer.status) == (name, 502)
            assert len(upstream.heads) == 2 * len(KEYED)
            assert elsewhere.heads == []


@pytest.mark.filterwarnings("ignore")
async def test_local_experts_of_litellm_are_not_asked_through_a_proxy(
    tmp_path: Path, no_proxies: pytest.MonkeyPatch
) -> None:
    async with (
        RawUpstream(lambda _: [http_bytes(b"{}", status=500)]).serve() as upstream,
        RawUpstream(lambda _: [http_bytes(b"{}", status=500)]).serve() as proxy,
    ):
        no_proxies.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))
        near = {"model": "anthropic/near", "api_key": "k", "api_base": upstream.base_url, "local": True}
        far = {"model": "anthropic/far", "api_key": "k", "api_base": "http://far.example.com/v1"}
        config = {
            "experts": [{"name": "near", **near}, {"name": "far", **far}],
            "embeddings": {"enabled": False},
        }
        async with gateway(config, str(tmp_path / "j"), "near") as live:
            await live.chat("near")
            assert (len(upstream.heads), len(proxy.heads)) == (1, 0)
            await live.chat("far")
            assert (len(upstream.heads), len(proxy.heads)) == (1, 1)
