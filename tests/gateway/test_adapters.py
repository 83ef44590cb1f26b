"""Experts that are adapters of one base model: from the configuration to answers, on real llama.cpp."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from gateway.app import build_accounting, build_services, open_services
from gateway.batches.lines import read_file_mark
from gateway.batches.service import BatchService
from gateway.batches.store import new_id
from gateway.batches.types import Batch
from gateway.cli import main
from gateway.config import Config, ConfigError, parse_config
from gateway.experts.build import read_parallel_limits
from gateway.experts.http_client import Transport
from gateway.experts.profiles import profiles
from gateway.experts.types import Call
from gateway.runners import Adapter, Patience, RunnerFailed, Runners, RunnerSettings, RunnerSettingsError
from gateway.runners.build import build_runner_settings
from gateway.runners.checks import ASKED
from gateway.runners.pool import ServingPool
from gateway.runners.weights import find_gguf_adapter, find_weights, read_gguf_header
from gateway.services import Services
from tests.fakes.adapters import ADAPTER, write_adapter
from tests.fakes.batches import jsonl, line, read_content, rows

NAMES = ("legal", "medical", "poet", "coder", "clerk")
STORY = [{"role": "user", "content": "Write a long story about a fox."}]
BASE = RunnerSettings("llama.cpp", "bundled/smollm2-135m", context_tokens=512, n_parallel=1)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, env={})
    return [line.removeprefix("thalamus.yaml:") for line in str(caught.value).splitlines()]


def house(runner: str, rest: str = "") -> str:
    return f"experts:\n  - name: house\n    runner: {runner}\n{rest}"


def test_each_adapter_is_an_expert_after_its_base_with_what_is_its_own() -> None:
    config = parse_config(
        "experts:\n  - name: house\n    system: Be brief.\n    labels: {at: home}\n    quality: 0.4\n"
        "    runner: {model: b/base-7b.gguf, adapters: {legal: l.gguf, medical: {path: m.gguf, scale: 0.5, "
        "system: You are a nurse., quality: 0.8, labels: {field: medicine}}}}\n"
        "  - {name: far, model: openai/x}\n",
        env={},
    )
    facts = [(one.name, one.model, one.system, one.quality, one.labels) for one in config.experts[:3]]
    assert facts == [
        ("house", "b/base-7b.gguf", "Be brief.", 0.4, {"at": "home"}),
        ("legal", "b/base-7b.gguf+l.gguf", "Be brief.", 0.4, {"at": "home"}),
        (
            "medical",
            "b/base-7b.gguf+m.gguf*0.5",
            "You are a nurse.",
            0.8,
            {"at": "home", "field": "medicine"},
        ),
    ]
    assert [profile.name for profile in profiles(config)] == ["house", "legal", "medical", "far"]
    assert [profile.parameters_b for profile in profiles(config)][:3] == [7.0] * 3


def test_an_adapter_has_examples_and_parameters_of_its_own_or_those_of_its_base() -> None:
    config = parse_config(
        "experts:\n  - name: house\n    examples: [{user: Hi, assistant: Hello}]\n"
        "    params: {temperature: 0.5}\n    runner: {model: b.gguf, adapters: {same: l.gguf, "
        "bare: {path: m.gguf, examples: [], params: {}}, "
        "own: {path: n.gguf, examples: [{user: A, assistant: B}], params: {temperature: 0}}}}\n",
        env={},
    )
    found = {one.name: ([turn.user for turn in one.examples], one.params) for one in config.experts}
    assert found == {
        "house": (["Hi"], {"temperature": 0.5}),
        "same": (["Hi"], {"temperature": 0.5}),
        "bare": ([], {}),
        "own": (["A"], {"temperature": 0}),
    }


def test_bundled_adapters_are_found_by_name_and_unknown_ones_are_named() -> None:
    weights = find_weights("bundled/smollm2-135m")
    found = find_gguf_adapter("bundled/smollm2-sort", weights, "runner.adapters.sort")
    assert read_gguf_header(found).values["adapter.type"] == "lora"
    with pytest.raises(
        RunnerSettingsError, match=r'"bundled/none" is not bundled; known: .*bundled/smollm2-sort'
    ):
        find_gguf_adapter("bundled/none", weights, "runner.adapters.none")


def test_policies_and_aliases_may_name_an_adapter() -> None:
    config = parse_config(
        house(
            "{model: b.gguf, adapters: {legal: l.gguf}}",
            "policies: {auto: {default: legal}}\naliases: {law: legal}\n",
        ),
        env={},
    )
    assert config.aliases == {"law": "legal"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            house("{engine: transformers, model: m, adapters: {x: y}}"),
            "3: experts[0].runner.adapters: are only for engines 'llama.cpp' and 'vllm'; "
            "this runner has engine 'transformers'",
        ),
        (
            house("{model: b.gguf, adapters: {house: y}}"),
            "3: experts[0].runner.adapters.house: 'house' is already the name of experts[0]; "
            "names are unique, rename one",
        ),
        (
            house("{model: b.gguf, adapters: {x: y}}", "  - {name: x, model: openai/x}\n"),
            "4: experts[1].name: 'x' is already the name of an adapter of experts[0]; "
            "names are unique, rename one",
        ),
        (
            house("{model: b.gguf, adapters: {auto: y}}"),
            "3: experts[0].runner.adapters.auto: 'auto' is reserved for policies; choose another name",
        ),
        (
            house("{model: b.gguf, adapters: {minilm: y}}"),
            "3: experts[0].runner.adapters.minilm: 'minilm' is the built-in embedder; "
            "rename it, or set embeddings.enabled: false",
        ),
        (
            house("{model: b.gguf, adapters: {x: y}}", "    embeds: true\n"),
            "3: experts[0].runner.adapters: are not supported for embedding models; delete them",
        ),
        (
            house("{engine: vllm, model: m, adapters: {x: {path: y, scale: 2}}}"),
            "3: experts[0].runner.adapters.x.scale: is only for engine 'llama.cpp'; "
            "vLLM applies adapters as trained",
        ),
        (
            house("{engine: vllm, model: m, sleep: 2, adapters: {x: y}}"),
            "3: experts[0].runner.sleep: 2 does not restore adapters; write 1, or 0 to end the process",
        ),
        (
            house("{model: b.gguf, adapters: {x: }}"),
            "3: experts[0].runner.adapters.x: expected text or a mapping, got nothing",
        ),
        (
            house("{model: b.gguf, adapters: {x: {pfad: y}}}"),
            "3: experts[0].runner.adapters.x: unknown key 'pfad'; did you mean 'path'?",
        ),
        (
            house("{model: b.gguf, adapters: {x y: z}}"),
            "3: experts[0].runner.adapters.x y: 'x y' cannot be a name; "
            "allowed: letters, digits and . _ : @ / + -",
        ),
        (
            house("{model: b.gguf, adapters: {x: y}}", "policies: {auto: {default: z}}\n"),
            "4: policies.auto.default: there is no expert 'z'; experts: house, x",
        ),
    ],
)
def test_a_fault_of_an_adapter_is_one_line_with_its_place(text: str, said: str) -> None:
    assert said in problems(text)


def test_all_experts_of_one_base_have_one_runner_and_one_booking(tmp_path: Path) -> None:
    adapters = {name: str(write_adapter(tmp_path / f"{name}.gguf", n)) for n, name in enumerate(NAMES)}
    runners = Runners(build_runner_settings(configuration(tmp_path, adapters)))
    assert len({runners[name] for name in ("house", *NAMES)}) == len(runners.runners) == 1
    assert runners["legal"].name == "house"
    (loadable,) = runners.look().loadable
    alone = Runners({"house": BASE}).look().loadable[0]
    n_bytes = sum(Path(path).stat().st_size for path in adapters.values())
    assert loadable.size_bytes - alone.size_bytes == n_bytes
    assert {runners.loads_in_s(name) for name in NAMES} == {runners.loads_in_s("house")}


def test_the_base_process_never_has_the_name_of_an_adapter() -> None:
    adapters = (Adapter("weights", "x"), Adapter("legal", "y"))
    settings = RunnerSettings("vllm", "org/weights", adapters=adapters)
    assert Runners({"legal": settings})["legal"].name == "legal.base"
    assert Runners({"weights": settings, "house": settings})["weights"].name == "house"
    plain = RunnerSettings("vllm", "org/other", adapters=adapters)
    assert Runners({"legal": plain})["legal"].name == "other"


def gguf_of(path: Path, **changes: str) -> Path:
    header = {key.replace("__", "."): value for key, value in changes.items()}
    return write_adapter(path, 0, header={**ADAPTER, **header})


def spoil(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def list_bad_files(folder: Path) -> Iterator[tuple[Path, str]]:
    yield folder / "none.gguf", "there is no file"
    yield spoil(folder / "text.gguf", b"not weights"), "is not a GGUF file; make one with"
    yield spoil(folder / "empty.gguf", b""), "is not a GGUF file"
    yield spoil(folder / "old.gguf", struct.pack("<4sIQQ", b"GGUF", 1, 0, 0)), "of an unknown version"
    yield spoil(folder / "cut.gguf", b"GGUF\x03"), "holds a model, not an adapter"
    endless = struct.pack("<4sIQQQ", b"GGUF", 3, 2**64 - 1, 2**64 - 1, 2**64 - 1)
    yield spoil(folder / "endless.gguf", endless), "holds a model, not an adapter"
    yield gguf_of(folder / "model.gguf", general__type="model"), "holds a model, not an adapter"
    yield gguf_of(folder / "vector.gguf", adapter__type="control"), 'of type "control"; only "lora"'
    yield (
        gguf_of(folder / "qwen.gguf", general__architecture="qwen2"),
        'is for models of architecture "qwen2", and this is "llama"; name an adapter that was trained on',
    )
    yield (
        gguf_of(folder / "alora.gguf", adapter__alora__invocation_tokens="1"),
        "is an activated LoRA, which would share prompts with others",
    )
    yield gguf_of(folder / "lines.gguf", adapter__type="a\nb"), 'of type ""; only "lora"'
    whole = gguf_of(folder / "whole.gguf").read_bytes()
    for n_bytes in (100_000, len(whole) - 1):
        said = f"is cut off: {n_bytes} bytes, its header needs {len(whole)}; copy the whole file again"
        yield spoil(folder / f"{n_bytes}.gguf", whole[:n_bytes]), said
    yield spoil(folder / "head.gguf", whole[:1000]), "is cut off: 1000 bytes, its header needs more"
    advice = "; name an adapter that was trained on this model"
    for name, width, n_layers, said in (
        ("narrow", 512, 30, 'the input of "blk.0.attn_output.weight" is 512 wide, and here 576'),
        ("deep", 576, 31, 'this one has no tensor "blk.30.attn_output.weight"'),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.fakes.adapters.WIDTH", width)
            patch.setattr("tests.fakes.adapters.N_LAYERS", n_layers)
            yield gguf_of(folder / f"{name}.gguf"), f"is made for another size of model: {said}{advice}"
    (folder / "peft").mkdir()
    (folder / "peft" / "adapter_config.json").write_text("{}")
    yield folder / "peft", "is a PEFT adapter; make a GGUF file of it with convert_lora_to_gguf.py"


def test_a_file_that_is_no_adapter_of_this_model_is_one_line(tmp_path: Path) -> None:
    for path, said in list_bad_files(tmp_path):
        settings = dataclasses.replace(BASE, adapters=(Adapter("legal", str(path)),))
        with pytest.raises(RunnerSettingsError) as caught:
            Runners({"house": settings, "legal": settings}).check()
        assert str(caught.value).startswith("experts.house.runner.adapters.legal: "), said
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


async def test_a_reload_with_a_bad_adapter_is_refused_and_the_engine_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp")
    file = write_adapter(tmp_path / "legal.gguf", 0)
    settings = {"house": dataclasses.replace(BASE, adapters=(Adapter("legal", str(file)),))}
    serving = ServingPool()
    runners = Runners(settings, serving=serving)
    await runners.start()
    try:
        await runners.load("house", wait_s=60)
        pid = runners["house"].pid
        whole = file.read_bytes()
        monkeypatch.setattr("tests.fakes.adapters.WIDTH", 512)
        narrow = write_adapter(tmp_path / "narrow.gguf", 0).read_bytes()
        for data, said in ((whole[:100_000], "is cut off: 100000 bytes"), (narrow, "another size of model")):
            spoil(file, data)
            with pytest.raises(RunnerSettingsError, match=said):
                await Runners(settings, serving=serving).start()
            assert (runners["house"].state, runners["house"].pid) == ("ready", pid)
        spoil(file, whole)
        runners.check()
    finally:
        await runners.stop()


async def test_an_adapter_of_another_size_of_model_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr("tests.fakes.adapters.WIDTH", 512)
    # Such as where the header of the model says things that are not known here.
    monkeypatch.setattr("gateway.runners.weights._compare_shapes", lambda adapter, base: "")
    adapter = Adapter("legal", str(write_adapter(tmp_path / "legal.gguf", 0)))
    runners = Runners({"house": dataclasses.replace(BASE, adapters=(adapter,))}, Patience(n_failed_starts=1))
    await runners.start()
    try:
        with pytest.raises(RunnerFailed, match=r"first error: .*incorrect shape .*maybe wrong base model"):
            await runners.load("house", wait_s=60)
    finally:
        await runners.stop()


def test_the_model_itself_is_no_adapter() -> None:
    base = str(find_weights(BASE.model))
    with pytest.raises(RunnerSettingsError, match="holds a model, not an adapter; name a LoRA adapter"):
        Runners({"a": dataclasses.replace(BASE, adapters=(Adapter("x", base),))}).check()


@pytest.mark.parametrize("command", [["config", "check"], ["doctor", "--offline", "-c"]])
def test_check_and_doctor_name_an_adapter_that_is_missing(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(house("{model: bundled/smollm2-135m, adapters: {legal: /none/l.gguf}}"))
    said = CliRunner().invoke(main, [*command, str(file)]).output
    assert 'there is no file "/none/l.gguf"' in said
    assert "edit runner.adapters.legal of house\n" in said


@pytest.mark.parametrize("command", [["config", "check"], ["doctor", "--offline", "-c"]])
def test_check_and_doctor_say_the_advice_last(tmp_path: Path, command: list[str]) -> None:
    file, peft = tmp_path / "t.yaml", tmp_path / "peft"
    peft.mkdir()
    (peft / "adapter_config.json").write_text("{}")
    file.write_text(house(f"{{model: bundled/smollm2-135m, adapters: {{legal: {peft}}}}}"))
    said = CliRunner().invoke(main, [*command, str(file)]).output
    assert "is a PEFT adapter; make" not in said
    cause, advice = said.index("is a PEFT adapter"), said.index("make a GGUF file of it with")
    assert cause < advice
    assert "convert_lora_to_gguf.py (runner.adapters.legal of house)\n" in said
    if command[0] == "config":
        assert "is a PEFT adapter, so the gateway does not start on this machine; make" in said


def pack_gguf(n_values: int, values: bytes, n_tensors: int = 0, tensors: bytes = b"") -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, n_values) + values + tensors


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        (pack_gguf(2**64 - 1, b""), None),
        (pack_gguf(0, b"", 2**64 - 1), None),
        (pack_gguf(1, struct.pack("<QcIIQQ", 1, b"k", 9, 8, 2**64 - 1, 2**64 - 1)), "more"),
        (pack_gguf(1, struct.pack("<QcIIQ", 1, b"k", 9, 6, 2**64 - 1)), "more"),
        (pack_gguf(1, struct.pack("<QcI", 1, b"k", 99)), None),
        (pack_gguf(0, b"", 1, struct.pack("<QcI", 1, b"t", 2**32 - 1)), None),
        (pack_gguf(0, b"", 1, struct.pack("<QcIQIQ", 1, b"t", 1, 8, 99, 0)), None),
        (pack_gguf(0, b"", 1, struct.pack("<QcIQIQ", 1, b"t", 1, 8, 0, 32)), "needs 128"),
        (pack_gguf(0, b"", 1, struct.pack("<QcIQIQ", 1, b"t", 1, 2**64 - 1, 0, 2**64 - 1)), "needs "),
    ],
)
def test_a_header_that_claims_too_much_is_read_to_its_end(
    tmp_path: Path, data: bytes, cut: str | None
) -> None:
    header = read_gguf_header(spoil(tmp_path / "a.gguf", data + bytes(64 - len(data) % 32)))
    assert (header.cut is None) == (cut is None)
    assert cut is None or cut in str(header.cut)


def test_a_model_that_is_cut_off_is_one_line(tmp_path: Path) -> None:
    bundled = find_weights(BASE.model)
    with bundled.open("rb") as file:
        head = file.read(4_000_000)
    for n_bytes, needed in ((4_000_000, str(bundled.stat().st_size)), (500_000, "more")):
        model = str(spoil(tmp_path / f"{n_bytes}.gguf", head[:n_bytes]))
        with pytest.raises(RunnerSettingsError) as caught:
            Runners({"a": RunnerSettings("llama.cpp", model)}).check()
        said = f'"{model}" is cut off: {n_bytes} bytes, its header needs {needed}; copy the whole file again'
        assert str(caught.value) == f"experts.a.runner.model: {said}"


def configuration(tmp_path: Path, adapters: dict[str, Any], **runner: Any) -> Config:
    text = json.dumps(
        {
            "experts": [
                {
                    "name": "house",
                    "params": {"temperature": 0},
                    "runner": {
                        "model": BASE.model,
                        "context_tokens": 512,
                        "n_parallel": 1,
                        "adapters": adapters,
                        **runner,
                    },
                }
            ],
            "runners": {"logs": str(tmp_path / "logs")},
            "routing": {"artifact": str(tmp_path / "none")},
            "embeddings": {"enabled": False},
            "journal": {"path": str(tmp_path / "j.sqlite3")},
        }
    )
    return parse_config(text, env={})


@contextlib.asynccontextmanager
async def open_house(config: Config) -> AsyncIterator[Services]:
    transport = Transport()
    services = build_services(config, transport)
    async with open_services(services, transport):
        yield services


async def tell(services: Services, expert: str, **fields: Any) -> str:
    """The whole answer of an expert, with the log probability of its first token."""
    asked = {"messages": STORY, "max_tokens": 12, "logprobs": True, **fields}
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in asked.items()}
    reply = await services.experts[expert].call(Call("chat/completions", raw))
    choice = json.loads(reply.body or b"")["choices"][0]
    first = choice["logprobs"]["content"][0]["logprob"]
    return f"{first:.4f} {choice['message']['content']}"


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, str]:
    return {name: str(write_adapter(tmp_path / f"{name}.gguf", n, 0.2)) for n, name in enumerate(NAMES)}


async def test_no_answer_depends_on_who_was_asked_before(tmp_path: Path, adapters: dict[str, str]) -> None:
    pytest.importorskip("xllamacpp")
    experts = ("house", *NAMES[:2])
    async with open_house(configuration(tmp_path, adapters)) as services:
        runner = services.runners["house"]
        alone = {}
        for expert in experts:
            if runner.state == "ready":
                await services.runners.unload(expert)
            alone[expert] = await tell(services, expert)
        assert len(set(alone.values())) == len(experts)  # each adapter changes the answer
        n_loads, pid = runner.n_loads, runner.pid
        # Every expert once after every other, and after itself: one slot, one prompt, whose cache is there.
        for first, second in itertools.product(experts, experts):
            await tell(services, first)
            assert await tell(services, second) == alone[second], f"{second} after {first}"
        assert (runner.n_loads, runner.pid) == (n_loads, pid)


async def test_answers_at_the_same_time_are_each_of_their_adapter(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    names = NAMES[:3]
    files = {name: str(write_adapter(tmp_path / f"{name}.gguf", n, 0.4)) for n, name in enumerate(names)}

    async def ask_first(services: Services, expert: str) -> dict[str, float]:
        """The log probabilities of the likeliest first tokens."""
        fields = {"messages": STORY, "max_tokens": 6, "logprobs": True, "top_logprobs": 8}
        raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
        reply = await services.experts[expert].call(Call("chat/completions", raw))
        first = json.loads(reply.body or b"")["choices"][0]["logprobs"]["content"][0]
        return {one["token"]: one["logprob"] for one in first["top_logprobs"]}

    def distance(some: dict[str, float], others: dict[str, float]) -> float:
        return sum(abs(some.get(token, -12.0) - others.get(token, -12.0)) for token in {*some, *others})

    async with open_house(configuration(tmp_path, files, n_parallel=3)) as services:
        alone = {name: await ask_first(services, name) for name in names}
        together = await asyncio.gather(*(ask_first(services, name) for name in (*names, *names)))
    # Computed in one batch the last digits differ, so that equality would ask too much.
    nearest = [min(names, key=lambda name: distance(alone[name], one)) for one in together]
    assert nearest == [*names, *names]


async def test_a_client_cannot_choose_another_adapter_nor_spoil_the_cache(
    tmp_path: Path, adapters: dict[str, str]
) -> None:
    pytest.importorskip("xllamacpp")
    async with open_house(configuration(tmp_path, adapters)) as services:
        expected = {name: await tell(services, name) for name in ("house", "legal")}
        for lora in ([{"id": 1, "scale": 3.0}], [], "x"):
            for name, answer in expected.items():
                assert await tell(services, name, lora=lora) == answer, f"{name} with {lora}"


async def test_loras_of_the_model_stay_on_under_adapters(tmp_path: Path, adapters: dict[str, str]) -> None:
    pytest.importorskip("xllamacpp")
    fixed = {"loras": [adapters["coder"]]}
    legal = {"legal": adapters["legal"]}
    async with open_house(configuration(tmp_path, legal, llama_cpp=fixed)) as services:
        with_fixed = [await tell(services, name) for name in ("house", "legal")]
        # What a client says of them would stay in the prompt cache for the next one.
        assert await tell(services, "house", lora=[{"id": 0, "scale": 0.0}]) == with_fixed[0]
    async with open_house(configuration(tmp_path, legal)) as services:
        without = [await tell(services, name) for name in ("house", "legal")]
    assert len({*with_fixed, *without}) == 4


async def test_the_watchdogs_question_leaves_no_cache_of_another_adapter(
    tmp_path: Path, adapters: dict[str, str]
) -> None:
    pytest.importorskip("xllamacpp")
    # The prompt begins as the question does, so that all of the cache could be used again.
    prompt = ASKED["text"][1]["prompt"]

    async def complete(services: Services, expert: str) -> str:
        fields = {"prompt": msgspec.json.encode(prompt), "max_tokens": b"16", "n_probs": b"1"}
        call = Call("completions", {name: msgspec.Raw(value) for name, value in fields.items()})
        reply = await services.experts[expert].call(call)
        return json.dumps(json.loads(reply.body or b"")["choices"][0])

    async with open_house(configuration(tmp_path, adapters)) as services:
        house = await complete(services, "house")
        assert await complete(services, "legal") != house
        runner = services.runners["house"]
        launch, address = runner.plan(), (runner.base_url or "").removesuffix("/v1")
        await runner._smoke_test(launch, address, runner.settings.choose_model())
        assert await complete(services, "house") == house


async def test_a_scale_says_how_strongly_an_adapter_works(tmp_path: Path, adapters: dict[str, str]) -> None:
    pytest.importorskip("xllamacpp")
    given = {
        "whole": adapters["legal"],
        "faint": {"path": adapters["legal"], "scale": 1e-6},
        "half": {"path": adapters["legal"], "scale": 0.5},
    }
    async with open_house(configuration(tmp_path, given)) as services:
        base, whole, faint, half = [await tell(services, name) for name in ("house", *given)]
    assert faint.partition(" ")[2] == base.partition(" ")[2]  # the last digits of the probability may differ
    assert len({base, whole, half}) == 3


async def test_a_batch_over_five_adapters_loads_their_model_once(
    tmp_path: Path, adapters: dict[str, str]
) -> None:
    pytest.importorskip("xllamacpp")
    config, source = configuration(tmp_path, adapters), tmp_path / "in.jsonl"
    lines = [line(str(n), NAMES[n % 5], STORY[0]["content"], max_tokens=16) for n in range(15)]
    source.write_bytes(jsonl(*lines))
    batch = Batch(
        id=new_id("batch"),
        input_path=str(source),
        input_mark=read_file_mark(source),
        out_path=str(tmp_path / "out"),
        times={"created_at": int(time.time())},
    )
    async with open_house(config) as services:
        jobs = BatchService(services, build_accounting(services), read_parallel_limits(config))
        services.store.add_batch(batch)
        done = await jobs.run(batch.id)
        assert services.runners["house"].n_loads == 1
        assert services.runners.n_evictions == 0
    assert done is not None
    assert (done.status, done.n_completed) == ("completed", 15)
    output = rows(await asyncio.to_thread((tmp_path / "out").read_bytes))
    assert [row["thalamus"]["expert"] for row in output] == [*NAMES] * 3
    answers = {name: {read_content(row) for row in output[n::5]} for n, name in enumerate(NAMES)}
    assert all(len(said) == 1 for said in answers.values())
    assert len(set.union(*answers.values())) > 1
