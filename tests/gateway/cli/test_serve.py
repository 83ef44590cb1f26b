"""`thalamus serve` as a process: greets, serves, reads its configuration again, drains, ends well."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import httpx
import numpy as np
import pytest

from gateway.cli.serve import build_banner
from gateway.config import parse_config
from gateway.config.client_keys import format_hash
from routers import FeatureExtractor, FitSettings, HashingEmbedder, OutcomeTable, StaticEmbedder, fit_artifact

ROOT = Path(__file__).parents[3]
CONFIG = "experts:\n  - {name: calculator, tool: calculator}\nserver: {port: 0}\n"
COMMAND = [sys.executable, "-c", "from gateway.cli import main; main()", "serve"]


class ServeProcess:
    """The gateway in a folder of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        self.out: IO[str] = (folder / "out").open("w")
        self.err: IO[str] = (folder / "err").open("w")
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [*COMMAND, *args], cwd=folder, stdout=self.out, stderr=self.err, env=env
        )
        self.until(
            lambda: (
                "OpenAI clients" in self.output
                or '"event":"start"' in self.log
                or self.process.poll() is not None
            )
        )

    @property
    def output(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def log(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def address(self) -> str:
        match = re.search(r"listens on (http://\S+)", self.output)
        assert match, self.log
        return match[1]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.output + self.log
            time.sleep(0.02)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self.out.close()
        self.err.close()
        return code


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[ServeProcess]:
    (tmp_path / "thalamus.yaml").write_text(CONFIG)
    process = ServeProcess(tmp_path)
    yield process
    process.end()


def models(gateway: ServeProcess) -> list[str]:
    return [m["id"] for m in httpx.get(f"{gateway.address}/v1/models?type=all").json()["data"]]


def test_it_greets_with_experts_a_call_to_try_and_what_to_do_next(gateway: ServeProcess) -> None:
    assert "calculator  tool: calculator" in gateway.output
    assert "embeddings: minilm" in gateway.output
    assert f"curl -i {gateway.address}/v1/chat/completions" in gateway.output
    assert "thalamus profile" in gateway.output
    body = {"model": "auto", "messages": [{"role": "user", "content": "What is 4817*392?"}]}
    answer = httpx.post(f"{gateway.address}/v1/chat/completions", json=body)
    assert "1888264" in answer.json()["choices"][0]["message"]["content"].replace(",", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well_when_told_to(gateway: ServeProcess, number: signal.Signals) -> None:
    assert gateway.end(number) == 0
    assert "Traceback" not in gateway.log


def test_it_reads_its_configuration_again_and_keeps_the_old_one_if_that_is_at_fault(
    gateway: ServeProcess,
) -> None:
    file = gateway.folder / "thalamus.yaml"
    file.write_text(CONFIG + "policies: {best: {}}\n")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: "configuration reloaded" in gateway.log)
    assert "thalamus.yaml: 1 experts; experts as before; no artifact" in gateway.log
    assert models(gateway) == ["auto", "auto:best", "calculator", "minilm"]
    file.write_text(CONFIG + "exprets: []\n")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: "the old one stays" in gateway.log)
    assert "thalamus.yaml:4: unknown key 'exprets'" in gateway.log
    assert models(gateway) == ["auto", "auto:best", "calculator", "minilm"]
    assert "Traceback" not in gateway.log


KEYED = """experts:
  - {name: calculator, tool: calculator}
  - {name: second, tool: calculator}
policies: {best: {}}
server: {port: 0, log_level: warning, master_key: sk-a7d1c0f5be2a94c6688aa, drain_s: 20}
"""


NO_PROGRAM = "  - {name: gone, runner: {engine: command, model: a, cmd: 'nosuchcmd ${PORT}', memory: 1MB}}\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_is_empty_or_cut_off_changes_nothing(tmp_path: Path, workers: int) -> None:
    file = tmp_path / "thalamus.yaml"
    file.write_text(KEYED)
    gateway = ServeProcess(tmp_path, "--workers", str(workers))
    headers = {"authorization": "Bearer sk-a7d1c0f5be2a94c6688aa"}
    try:
        lines = KEYED.splitlines(keepends=True)
        cases = {
            "": "no experts any more",
            "\n# nothing\n": "no experts any more",
            "experts: []\n": "no experts any more",
            KEYED[: len(KEYED) // 2]: "the old one stays",  # no YAML
            "".join(lines[:2]): "beginning of the file",
            "".join(lines[:4]): "beginning of the file",
            KEYED.replace("best", "rest")[:-2]: "the old one stays",  # no YAML
            KEYED.replace("drain_s: 20}\n", "drain_s: 2}"): "does not end",
            KEYED.replace("master_key: sk-a7d1c0f5be2a94c6688aa, ", ""): "master_key is gone",
            KEYED.replace("policies:", f"{NO_PROGRAM}policies:"): "stays: experts.gone.runner.cmd: there",
        }
        for n, (text, said) in enumerate(cases.items(), 1):
            before = len(gateway.log)
            file.write_text(text)
            gateway.process.send_signal(signal.SIGHUP)
            gateway.until(partial(lambda n: gateway.log.count("the old one stays") == n, n))
            assert said in gateway.log[before:]
            lines_said = gateway.log[before:].splitlines()
            assert len([line for line in lines_said if " WARNING " not in line]) == 1
            listed = httpx.get(f"{gateway.address}/v1/models?type=all", headers=headers).json()["data"]
            assert {"second", "auto:best"} <= {model["id"] for model in listed}
            assert httpx.get(f"{gateway.address}/v1/models").status_code == 401
        file.write_text("".join(lines[:2]) + lines[-1] + "# end\n")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.until(lambda: "second" not in httpx.get(f"{gateway.address}/v1/models", headers=headers).text)
    finally:
        assert gateway.end() == 0


ENGINES = """experts:
  - {{name: same, runner: {{engine: command, model: a, cmd: "{engine} --say Same.", memory: 1MB}}}}
  - {{name: other, runner: {{engine: command, model: b, cmd: "{engine} --say {said}", memory: 1MB}}}}
embeddings: {{enabled: false}}
server: {{port: 0, workers: {workers}}}
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_an_engine_that_is_configured_as_before_runs_on(tmp_path: Path, workers: int) -> None:
    engine = f"{sys.executable} -S {ROOT / 'tests' / 'fakes' / 'tiny_engine.py'} --port ${{PORT}}"

    def write(said: str) -> None:
        (tmp_path / "thalamus.yaml").write_text(ENGINES.format(engine=engine, said=said, workers=workers))

    def ask(model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
        answer = httpx.post(f"{site.address}/v1/chat/completions", json=body, timeout=60)
        return str(answer.json()["choices"][0]["message"]["content"])

    def read_pids() -> dict[str, int]:
        listed = httpx.get(f"{site.address}/v1/runners").json()["data"]
        return {runner["id"]: runner["pid"] for runner in listed}

    write("Old.")
    site = ServeProcess(tmp_path)
    try:
        assert (ask("same"), ask("other")) == ("Same.", "Old.")
        before = read_pids()
        write("New.")
        site.process.send_signal(signal.SIGHUP)
        site.until(lambda: "configuration reloaded" in site.log)
        assert (ask("same"), ask("other")) == ("Same.", "New.")
        after = read_pids()
        assert after["same"] == before["same"]
        assert after["other"] != before["other"]
    finally:
        assert site.end() == 0


def test_an_artifact_that_is_gone_leaves_the_old_one_in_place(gateway: ServeProcess) -> None:
    table = OutcomeTable.build(["a", "b"], ["calculator"], {"score": np.ones((2, 1))})
    artifact = fit_artifact(table, FeatureExtractor(StaticEmbedder()), FitSettings("constant", n_folds=2))
    folder = gateway.folder / ".thalamus" / "artifact"
    artifact.save(folder)
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: "configuration reloaded" in gateway.log)
    folder.rename(folder.with_name("elsewhere"))
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: "the old one stays: thalamus.yaml: .thalamus/artifact is gone" in gateway.log)


def test_a_head_that_is_not_there_leaves_the_old_configuration_in_place(gateway: ServeProcess) -> None:
    table = OutcomeTable.build(["a", "b"], ["calculator"], {"score": np.ones((2, 1))})
    extractor, folder = FeatureExtractor(StaticEmbedder()), gateway.folder / ".thalamus" / "artifact"
    fit_artifact(table, extractor, FitSettings("constant", n_folds=2)).save(folder)
    file = gateway.folder / "thalamus.yaml"
    file.write_text(CONFIG + "policies: {kinds: {predictor: knn}}\n")
    gateway.process.send_signal(signal.SIGHUP)
    fix = "has no head 'knn', there is constant; `thalamus fit --head knn` adds it"
    gateway.until(
        lambda: f"the old one stays: policies.kinds.predictor: .thalamus/artifact {fix}" in gateway.log
    )
    assert "kinds" not in httpx.get(f"{gateway.address}/v1/models").text
    fit_artifact(table, extractor, FitSettings("knn", n_folds=2)).save(
        folder, keep_heads=["constant"], default="constant"
    )
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: "configuration reloaded" in gateway.log)
    assert "auto:kinds" in httpx.get(f"{gateway.address}/v1/models").text


def test_keys_are_added_and_removed_when_told_to_and_a_weak_one_changes_nothing(
    gateway: ServeProcess,
) -> None:
    file, one, two = gateway.folder / "thalamus.yaml", "sk-51c0e6d1f9a84b27", "sk-e17b3f0a92d65c84"

    def reload(keys: str, said: str) -> list[int]:
        file.write_text(CONFIG.replace("{port: 0", f"{{keys: {keys}, port: 0"))
        n_lines = len(gateway.log.splitlines())
        gateway.process.send_signal(signal.SIGHUP)
        gateway.until(lambda: any(said in line for line in gateway.log.splitlines()[n_lines:]))
        return ask()

    def ask() -> list[int]:
        # One connection for all: a key that is removed is refused on those that are open, too.
        return [client.get("/v1/models", headers={"x-api-key": key}).status_code for key in (one, two)]

    with httpx.Client(base_url=gateway.address) as client:
        assert ask() == [200, 200]  # no key is needed
        assert reload(f"{{a: {one}}}", "configuration reloaded") == [200, 401]
        assert reload(f"{{a: [{one}, '{format_hash(two)}']}}", "configuration reloaded") == [200, 200]
        assert reload(f"{{a: {two}, b: changeme}}", "server.keys.b: this key is shorter") == [200, 200]
        assert reload(f"{{b: {two}}}", "configuration reloaded") == [401, 200]
    assert one not in gateway.log
    assert two not in gateway.log


def test_a_new_artifact_is_read_when_told_to(gateway: ServeProcess) -> None:
    def knows() -> bool:
        body = {"model": "auto", "messages": [{"role": "user", "content": "What is 2+2?"}]}
        (candidate,) = httpx.post(f"{gateway.address}/v1/route", json=body).json()["candidates"]
        return bool(candidate["evidence"])

    table = OutcomeTable.build(
        [f"q{n}" for n in range(20)],
        ["calculator"],
        {"score": np.ones((20, 1))},
        models=["tool/calculator"],
    )
    constant = FitSettings("constant", n_folds=2)
    extractor = FeatureExtractor(StaticEmbedder())
    artifact = fit_artifact(table, extractor, constant, created="2026-11-29T16:12:04+00:00")
    artifact.save(gateway.folder / ".thalamus" / "artifact")
    assert not knows()
    for n, said in enumerate(("is new, fitted 2026-11-29T16:12:04+00:00", "as before"), 1):
        gateway.process.send_signal(signal.SIGHUP)
        gateway.until(partial(lambda n: gateway.log.count("configuration reloaded") == n, n))
        assert f"experts as before; artifact .thalamus/artifact {said}\n" in gateway.log
        assert knows()


def counts(gateway: ServeProcess) -> dict[str, float]:
    lines = httpx.get(f"{gateway.address}/metrics").text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs if "_total" in name}


def test_counters_do_not_fall_when_the_configuration_is_read_again(gateway: ServeProcess) -> None:
    answered = 'thalamus_calls_answered_total{expert="calculator"}'

    def ask(n: int) -> None:
        for _ in range(n):
            body = {"model": "auto", "messages": [{"role": "user", "content": "What is 2+2?"}]}
            assert httpx.post(f"{gateway.address}/v1/chat/completions", json=body).status_code == 200

    def reload(text: str, n: int) -> None:
        (gateway.folder / "thalamus.yaml").write_text(text)
        gateway.process.send_signal(signal.SIGHUP)
        gateway.until(lambda: gateway.log.count("configuration reloaded") == n)

    ask(3)
    before = counts(gateway)
    assert (before[answered], before["thalamus_decisions_total"]) == (3, 3)
    reload(CONFIG, 1)
    assert counts(gateway) == before
    ask(2)
    reload(CONFIG, 2)
    after = counts(gateway)
    assert (after[answered], after["thalamus_decisions_total"]) == (5, 5)
    reload("experts: [{name: other, tool: calculator}]\n", 3)
    last = counts(gateway)
    assert (last[answered], last["thalamus_decisions_total"]) == (5, 5)
    assert last['thalamus_calls_answered_total{expert="other"}'] == 0


def test_a_selection_that_cannot_be_served_leaves_the_old_one_in_place(gateway: ServeProcess) -> None:
    (gateway.folder / "thalamus.yaml").write_text(CONFIG + "embeddings: {selection: nowhere}\n")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: "the old one stays" in gateway.log)
    assert "nowhere: no embedding selection" in gateway.log
    assert models(gateway) == ["auto", "calculator", "minilm"]
    (gateway.folder / "thalamus.yaml").write_text(CONFIG + "embeddings: {enabled: false}\n")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: "configuration reloaded" in gateway.log)
    assert models(gateway) == ["auto", "calculator"]


def test_serving_loads_no_torch_and_no_litellm() -> None:
    code = (
        "import sys, gateway.server; from gateway.app import create_app; "
        "from gateway.config import Config, JournalConfig; "
        "create_app(Config(journal=JournalConfig(enabled=False))); "
        "assert not {'torch', 'litellm', 'aiohttp', 'sklearn', 'sentence_transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_port_that_is_taken_is_one_line(gateway: ServeProcess, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "thalamus.yaml").write_text(CONFIG)
    second = ServeProcess(tmp_path / "second", "--port", gateway.address.rpartition(":")[2])
    assert second.end() == 1
    assert second.log.startswith("Error: cannot listen on 127.0.0.1:")
    assert second.log.count("\n") == 1


def banner_of(folder: Path, experts: str, learned: dict[str, str]) -> str:
    """The banner of a configuration whose artifact knows these experts."""
    table = OutcomeTable.build(
        [f"q{n}" for n in range(20)],
        list(learned),
        {"score": np.ones((20, len(learned)))},
        models=list(learned.values()),
    )
    constant = FitSettings("constant", n_folds=2)
    fit_artifact(table, FeatureExtractor(HashingEmbedder()), constant).save(folder / "art")
    config = parse_config(f"experts: [{experts}]\nrouting: {{artifact: {folder / 'art'}}}\n")
    return build_banner(config, "http://127.0.0.1:1")


GPT, LLAMA = "{name: gpt4, model: openai/gpt-4}", "{name: llama, model: openai/llama-3.1-8b}"


def test_it_says_whose_outcomes_match_no_expert_and_what_to_type(tmp_path: Path) -> None:
    said = banner_of(tmp_path, f"{GPT}, {LLAMA}", {"gpt-4": "gpt-4", "llama": "llama-3.1-8b", "zed": "z"})
    assert "art has outcomes of experts that are not configured here:\n  gpt-4\n" in said
    assert "if it is gpt4:  --model gpt-4=openai/gpt-4 --rename gpt-4=gpt4" in said
    assert "  zed (model z)\n  without outcomes: gpt4\n" in said
    assert "thalamus import T.jsonl T.jsonl --model NAME=provider/model" in said


def test_it_says_which_model_the_outcomes_of_a_name_are_of(tmp_path: Path) -> None:
    said = banner_of(tmp_path, GPT, {"gpt4": "openai/gpt-4-0314"})
    assert "  gpt4 (model openai/gpt-4-0314)\n    if it is gpt4:  --model gpt4=openai/gpt-4\n" in said


def test_it_says_nothing_where_every_expert_has_outcomes(tmp_path: Path) -> None:
    said = banner_of(tmp_path, GPT, {"gpt4": "gpt-4", "old": "old"})
    assert "outcomes" not in said


def test_log_format_json_has_a_line_for_the_start_and_for_each_request(tmp_path: Path) -> None:
    (tmp_path / "thalamus.yaml").write_text(CONFIG)
    gateway = ServeProcess(tmp_path, "--log-format", "json")
    (start,) = map(json.loads, gateway.log.splitlines())
    httpx.get(f"{start['address']}/v1/models")
    assert gateway.end() == 0
    _, request = map(json.loads, gateway.log.splitlines())
    assert (start["event"], start["experts"], gateway.output) == ("start", ["calculator"], "")
    assert (request["event"], request["path"], request["status"]) == ("request", "/v1/models", 200)


def test_log_level_of_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "thalamus.yaml").write_text(CONFIG.replace("{port: 0}", "{port: 0, log_level: debug}"))
    gateway = ServeProcess(tmp_path, "--log-level", "warning")
    listed = models(gateway)
    assert (gateway.end(), gateway.log, "calculator" in listed) == (0, "", True)


def test_sighup_changes_level_and_format(gateway: ServeProcess) -> None:
    models(gateway)
    gateway.until(lambda: "GET /v1/models 200" in gateway.log)
    quiet = CONFIG.replace("{port: 0}", "{port: 0, log_level: warning, log_format: json}")
    (gateway.folder / "thalamus.yaml").write_text(quiet)
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: not _logs_requests(gateway))
    (gateway.folder / "thalamus.yaml").write_text("nonsense: 1\n")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: "the old one stays" in gateway.log)
    assert json.loads(gateway.log.splitlines()[-1])["level"] == "error"


def _logs_requests(gateway: ServeProcess) -> bool:
    before = len(gateway.log)
    models(gateway)
    time.sleep(0.2)
    return len(gateway.log) > before
