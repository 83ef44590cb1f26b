"""Experts through the real LiteLLM, whose provider is played by the fake upstream."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from packaging.requirements import Requirement

from gateway.config import ConfigError, parse_config
from gateway.config.expert_schema import ProviderSettings
from gateway.config.reference import describe_fields
from gateway.experts.litellm import LibraryLoader, LiteLLMExpert, import_package, warm_litellm
from gateway.experts.types import Call, UpstreamError
from gateway.testing import WORDS, FakeUpstream
from tests.fakes.serving import LiveApp, gateway

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # LiteLLM and what it imports warn of much
]
NAMES = [
    "good",
    "status-400",
    "status-401",
    "status-429",
    "status-500",
    "toolong",
    "hang",
    "stall-2",
    "cut-2",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    place = {"api_base": upstream.base_url, "api_key": "sk-upstream-secret", "max_parallel": 1}
    experts = [{"name": name, "model": f"litellm_proxy/{name}", **place} for name in NAMES]
    experts.append({"name": "vectors", "model": "litellm_proxy/vectors", "embeds": True, **place})
    patience = {"first_token_s": 10, "between_tokens_s": 0.5, "total_s": 10}
    journal = str(tmp_path_factory.mktemp("lite") / "j.sqlite3")
    async with gateway({"experts": experts, "timeouts": patience}, journal, "good") as running:
        assert isinstance(running.services.experts["good"], LiteLLMExpert)
        await running.chat("good")  # the import takes its time once
        yield running


async def test_a_whole_answer(live: LiveApp) -> None:
    answer = await live.chat("good")
    assert (answer.status, answer.expert) == (200, "good")
    assert answer.json()["choices"][0]["message"]["content"] == "".join(WORDS)
    assert answer.json()["usage"]["prompt_tokens"] == 20


async def test_a_stream(live: LiveApp) -> None:
    answer = await live.chat("good", stream=True)
    chunks = [json.loads(event) for event in answer.events[:-1]]
    said = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert "".join(said) == "".join(WORDS)
    assert answer.events[-1] == b"[DONE]"


async def test_embeddings(live: LiveApp) -> None:
    answer = await live.post("embeddings", {"model": "vectors", "input": ["a", "b"]})
    assert [item["embedding"] for item in answer.json()["data"]] == [[0.5, 0.25]] * 2


async def test_only_known_parameters_are_handed_over(live: LiveApp, upstream: FakeUpstream) -> None:
    await live.chat("good", temperature=0.5, mock_response="stolen", callbacks=["x"], metadata={"a": 1})
    sent = upstream.calls[-1]
    assert sent["temperature"] == 0.5
    assert not {"mock_response", "callbacks", "metadata"} & set(sent)
    assert upstream.headers[-1]["authorization"] == "Bearer sk-upstream-secret"


@pytest.fixture(autouse=True)
def close_circuits(live: LiveApp) -> None:
    live.close_circuits()


@pytest.mark.parametrize(
    ("name", "status"),
    [("status-400", 400), ("status-401", 502), ("status-429", 429), ("status-500", 502), ("toolong", 400)],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_keep_their_status_and_no_secret(
    live: LiveApp, name: str, status: int, stream: bool
) -> None:
    answer = await live.chat(name, stream=stream)
    assert answer.status == status
    assert answer.error["message"]
    assert b"secret" not in answer.body or name not in ("status-401",)


@pytest.mark.parametrize("name", ["status-401", "status-429", "status-500", "toolong"])
async def test_another_expert_answers_where_it_may_do_better(live: LiveApp, name: str) -> None:
    assert (await live.chat(name, router={"fallbacks": ["good"]})).expert == "good"


@pytest.mark.parametrize("name", ["stall-2", "cut-2"])
async def test_a_stream_that_breaks_off_says_so(live: LiveApp, name: str) -> None:
    answer = await live.chat(name, stream=True)
    assert answer.status == 200
    assert b'"error"' in answer.events[-1]
    assert b"[DONE]" not in answer.body


@pytest.mark.parametrize(("name", "stream"), [("hang", False), ("stall-2", True)])
async def test_a_client_that_goes_away_is_seen_upstream(
    live: LiveApp, upstream: FakeUpstream, name: str, stream: bool
) -> None:
    before, n_calls = upstream.aborted.count(name), upstream.n_calls(name)
    asking = asyncio.ensure_future(live.chat(name, stream=stream))
    async with asyncio.timeout(5):
        while upstream.n_calls(name) == n_calls:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.08)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    async with asyncio.timeout(2):
        while upstream.aborted.count(name) == before:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)


async def until_called(upstream: FakeUpstream, name: str, n_calls: int) -> None:
    async with asyncio.timeout(5):
        while upstream.n_calls(name) < n_calls:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)


async def test_no_more_calls_run_at_a_time_than_allowed(live: LiveApp, upstream: FakeUpstream) -> None:
    before = upstream.n_calls("hang")
    asking = [asyncio.ensure_future(live.chat("hang", stream=stream)) for stream in (False, True)]
    for n in range(2):
        await until_called(upstream, "hang", before + n + 1)
        await asyncio.sleep(0.2)
        assert upstream.n_calls("hang") == before + n + 1
        asking[bool(upstream.calls[-1].get("stream"))].cancel()
    await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.parametrize("name", ["good", "status-500", "cut-2"])
async def test_a_slot_is_free_again_after_each_end(live: LiveApp, name: str) -> None:
    for stream in (True, False, True):
        await live.chat(name, stream=stream)
    expert = live.services.experts[name]
    assert isinstance(expert, LiteLLMExpert)
    assert expert.in_use == 0


class RecordingLiteLLM:
    """Stands for the imported module, and keeps what it is called with."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}

    async def acompletion(self, **arguments: Any) -> Any:
        self.arguments = arguments
        raise ValueError("no answer is needed")


async def ask_recorder(text: str) -> dict[str, Any]:
    config = parse_config(text, env={"SECRET": "hush-hush-hush"})
    recorder = RecordingLiteLLM()
    expert = LiteLLMExpert(config.experts[0], config.timeouts, load=lambda: recorder)
    with pytest.raises(UpstreamError):
        await expert.call(Call("chat/completions", {"messages": msgspec.Raw(b"[]")}, False))
    return recorder.arguments


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        *(("azure/x", name) for name in ("api_version", "azure_ad_token", "azure_scope", "tenant_id")),
        *(("azure/x", name) for name in ("client_id", "client_secret")),
        *(("vertex_ai/x", f"vertex_{name}") for name in ("project", "location", "credentials")),
        *(("bedrock/x", name) for name in describe_fields(ProviderSettings) if name.startswith("aws_")),
        *(("watsonx/x", name) for name in ("project_id", "space_id")),
    ],
)
async def test_each_setting_of_a_provider_reaches_litellm(model: str, setting: str) -> None:
    text = f"experts: [{{name: a, model: {model}, settings: {{{setting}: os.environ/SECRET}}}}]"
    assert (await ask_recorder(text))[setting] == "hush-hush-hush"


async def test_settings_that_have_no_key_of_their_own_reach_litellm_too() -> None:
    text = "experts: [{name: a, model: oci/x, settings: {other: {oci_key: os.environ/SECRET}}}]"
    assert (await ask_recorder(text))["oci_key"] == "hush-hush-hush"


async def test_settings_of_a_deployment_extend_those_of_its_expert() -> None:
    place = "{api_base: 'https://west.example', settings: {api_version: v2}}"
    sent = await ask_recorder(
        "experts:\n  - name: a\n    model: azure/x\n    settings: {api_version: v1, tenant_id: t}\n"
        f"    deployments: [{place}]\n"
    )
    assert (sent["api_version"], sent["tenant_id"], sent["api_base"]) == ("v2", "t", "https://west.example")


@pytest.mark.parametrize(
    ("expert", "said"),
    [
        ("model: openai/x, settings: {api_version: v1}", "is called without LiteLLM"),
        ("model: azure/x, settings: {vertex_project: p}", "is a setting of vertex_ai; 'a' is of azure"),
        ("model: oci/x, settings: {other: {api_key: k}}", "has a key of its own"),
        ("model: azure/x, settings: {other: {api_version: v}}", "has a key of its own"),
        ("model: openai/x, settings: {other: {a: b}}", "is called without LiteLLM"),
        ("model: azure/x, settings: {api_versoin: v}", "did you mean 'api_version'?"),
        ("model: azure/x, deployments: [{settings: {aws_region_name: r}}]", "is a setting of bedrock"),
    ],
)
async def test_a_setting_that_would_do_nothing_is_refused(expert: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_config(f"experts: [{{name: a, {expert}}}]")


async def test_a_rate_holds_through_litellm_too() -> None:
    config = parse_config("experts: [{name: a, model: azure/x, rpm: 1}]")
    expert = LiteLLMExpert(config.experts[0], config.timeouts, load=RecordingLiteLLM)
    kinds = []
    for _ in range(2):
        with pytest.raises(UpstreamError) as caught:
            await expert.call(Call("chat/completions", {"messages": msgspec.Raw(b"[]")}, False))
        kinds.append((caught.value.kind, caught.value.status))
    assert kinds == [("unsent", None), ("busy", 429)]


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


async def test_tools_reach_the_provider(live: LiveApp, upstream: FakeUpstream) -> None:
    answer = await live.chat("good", tools=[TOOL], tool_choice="auto")
    assert (answer.status, upstream.calls[-1]["tools"]) == (200, [TOOL])


def test_what_litellm_needs_for_tools_is_a_declared_dependency() -> None:
    needed = [line for line in requires("thalamus-gateway") or () if line.startswith("litellm")]
    assert [Requirement(line).extras for line in needed] == [{"mcp"}]
    assert Requirement("mcp>=2").specifier.contains(version("mcp"))


def test_what_litellm_needs_for_vertex_ai_is_a_declared_dependency() -> None:
    needed = [line for line in requires("thalamus-gateway") or () if line.startswith("google-auth")]
    assert [Requirement(line).extras for line in needed] == [{"requests"}]


class BrokenLiteLLM:
    """Stands for a module whose calls fail in a way of its own."""

    def __init__(self, error: BaseException, wrap: bool = True) -> None:
        self._error, self._wrap = error, wrap

    async def acompletion(self, **arguments: Any) -> Any:
        try:
            raise self._error
        except Exception as error:
            if not self._wrap:
                raise
            # LiteLLM turns every exception that it does not know into this one.
            raise APIConnectionError(str(error))  # noqa: B904 (as LiteLLM does)


class APIConnectionError(Exception):
    status_code = 500


def build_import_error() -> ImportError:
    return ModuleNotFoundError("No module named 'mcp'", name="mcp")


async def fail_with(error: Exception, wrap: bool) -> UpstreamError:
    config = parse_config("experts: [{name: a, model: azure/x}]")
    expert = LiteLLMExpert(config.experts[0], config.timeouts, load=lambda: BrokenLiteLLM(error, wrap))
    with pytest.raises(UpstreamError) as caught:
        await expert.call(Call("chat/completions", {"messages": msgspec.Raw(b"[]")}))
    return caught.value


@pytest.mark.parametrize("wrap", [False, True])
async def test_a_build_import_error_is_named_and_logged(wrap: bool, caplog: pytest.LogCaptureFixture) -> None:
    failure = await fail_with(build_import_error(), wrap)
    assert "No module named 'mcp'" in failure.message
    assert failure.message.endswith("pip install mcp")
    assert "No module named 'mcp'" in caplog.text
    assert failure.client_status == 502


async def test_a_fault_of_litellm_is_not_called_a_lost_connection(caplog: pytest.LogCaptureFixture) -> None:
    failure = await fail_with(KeyError("sk-secret"), wrap=True)
    assert failure.message == "was not called: LiteLLM could not translate the request (KeyError)"
    assert "secret" not in caplog.text


async def test_a_lost_connection_is_called_so() -> None:
    failure = await fail_with(ConnectionRefusedError("10.0.0.1"), wrap=True)
    assert (failure.kind, failure.message) == ("connect", "could not be reached through LiteLLM")


async def test_an_import_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    results: list[Any] = [build_import_error(), RecordingLiteLLM()]

    def load() -> Any:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    loader = LibraryLoader(load)
    with pytest.raises(UpstreamError, match="pip install mcp"):
        await loader.module()
    assert "No module named 'mcp'" in caplog.text
    assert isinstance(await loader.module(), RecordingLiteLLM)
    assert isinstance(await loader.module(), RecordingLiteLLM)


def test_a_package_that_failed_half_way_is_imported_whole_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "halfway"
    package.mkdir()
    (package / "__init__.py").write_text("import halfway.early\nimport halfway.late\n")
    (package / "early.py").write_text("import os\n")
    (package / "late.py").write_text("import halfway\nfound = halfway.early.os.environ['HALFWAY']\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyError, match="HALFWAY"):
        import_package("halfway")
    monkeypatch.setenv("HALFWAY", "there")
    assert import_package("halfway").late.found == "there"


async def test_litellm_is_imported_in_the_background_at_start() -> None:
    go, config = threading.Event(), parse_config("experts: [{name: a, model: azure/x}]")
    recorder = RecordingLiteLLM()

    def load() -> Any:
        go.wait(5)
        return recorder

    expert = LiteLLMExpert(config.experts[0], config.timeouts, load=load)
    warm_litellm([expert])
    waiting = asyncio.ensure_future(expert.loader.module())
    leaving = asyncio.ensure_future(expert.loader.module())
    await asyncio.sleep(0)
    leaving.cancel()  # a client that leaves does not stop the import for others
    assert expert.loader.library is None
    go.set()
    assert await waiting is recorder
    assert expert.loader.library is recorder


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("bad", ["status-500", "status-401", "status-429"])
async def test_where_one_deployment_fails_the_other_answers(
    upstream: FakeUpstream, tmp_path: Path, bad: str, stream: bool
) -> None:
    places = [{"model": model, "api_base": upstream.base_url, "api_key": "k"} for model in (bad, "good")]
    experts = [{"name": "x", "model": "litellm_proxy/x", "deployments": places}]
    async with gateway({"experts": experts}, str(tmp_path / "j"), "x") as live:
        answers = [await live.chat("x", stream=stream) for _ in range(4)]
        assert {answer.status for answer in answers} == {200}
        assert live.services.fleet.state("x")["n_failed"] == 0
        record = await live.read_record(answers[0])
        assert record["attempts"][-1]["deployment"] == "x#2"


async def test_a_refused_request_is_not_tried_at_another_deployment(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    place = {"model": "status-400", "api_base": upstream.base_url, "api_key": "k"}
    experts = [{"name": "x", "model": "litellm_proxy/x", "deployments": [place, place]}]
    before = upstream.n_calls("status-400")
    async with gateway({"experts": experts}, str(tmp_path / "j"), "x") as live:
        assert (await live.chat("x")).status == 400
    assert upstream.n_calls("status-400") == before + 1


async def test_a_gateway_that_closes_leaves_the_connections_of_another_alone(
    live: LiveApp, upstream: FakeUpstream, tmp_path: Path
) -> None:
    place = {"api_base": upstream.base_url, "api_key": "k"}
    experts = [{"name": "good", "model": "litellm_proxy/good", **place}]
    async with gateway({"experts": experts}, str(tmp_path / "j"), "good") as other:
        assert (await other.chat("good")).status == 200
    assert (await live.chat("good")).status == 200


@pytest.mark.parametrize(("module", "package"), [("google.auth", "google-auth"), ("azure", "azure-identity")])
async def test_a_package_of_another_name_is_named(module: str, package: str) -> None:
    failure = await fail_with(ModuleNotFoundError(f"No module named '{module}'", name=module), wrap=True)
    assert failure.message.endswith(f"pip install {package}")


async def test_a_module_that_is_missing_is_named_behind_litellms_own_words() -> None:
    inner = ModuleNotFoundError("No module named 'google'", name="google")
    error = ImportError("Google Cloud SDK not found. Install it with: pip install 'litellm[google]'")
    error.__context__ = inner
    assert (await fail_with(error, wrap=False)).message.endswith("pip install google-auth")


OFFLINE = """
import socket, sys
asked = []
def refuse(host, *more, **options):
    asked.append(host)
    raise OSError("no network")
socket.getaddrinfo = refuse
socket.socket.connect = lambda self, address: refuse(address)
from gateway.experts.litellm import load_litellm
litellm = load_litellm()
litellm.get_supported_openai_params(model="claude-sonnet-4-5", custom_llm_provider="anthropic")
litellm.token_counter(model="gpt-4o", text="one two three")
sys.exit(f"asked for {asked}" if asked else 0)
"""


def test_nothing_is_fetched_from_the_web_when_litellm_is_imported() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", OFFLINE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
