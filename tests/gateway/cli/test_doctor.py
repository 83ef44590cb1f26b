"""`thalamus doctor`: every fault has a line that mends it."""

import asyncio
import errno
import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from gateway.cli import doctor, main
from gateway.cli.doctor import Finding, check_packages, run_checks
from routers import FeatureExtractor, FitSettings, HashingEmbedder, OutcomeTable, fit_artifact
from tests.fakes.serving import gateway

GOOD = "experts:\n  - {name: calculator, tool: calculator}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THALAMUS_CONFIG", raising=False)
    monkeypatch.setenv("DOCTOR_KEY", "sk-0f3b6a91c47d2e85")
    monkeypatch.setattr(doctor, "_check_embedders", lambda *_: iter([Finding("encoder", "ok", "fine")]))
    return tmp_path


def run_check(here: Path, text: str, check: str) -> list[Finding]:
    (here / "thalamus.yaml").write_text(text)
    return [finding for finding in run_checks(Path("thalamus.yaml")) if finding.check == check]


def test_a_good_installation_has_no_failure(here: Path) -> None:
    (here / "thalamus.yaml").write_text(GOOD + "server: {port: 0}\n")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "FAILURE" not in result.output
    assert not (here / ".thalamus" / "journal.sqlite3").exists()


def test_no_configuration_is_a_failure_that_init_mends() -> None:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    message = json.loads(result.output)
    assert (result.exit_code, message["ok"]) == (1, False)
    (failure,) = [f for f in message["findings"] if f["outcome"] == "failure"]
    assert failure["fix"] == "thalamus init"


def test_a_package_that_another_distribution_overwrites_is_a_failure() -> None:
    distributions = {"gateway": ["thalamus-gateway"], "evals": ["thalamus-gateway", "evals"]}
    (failure,) = check_packages(distributions)
    assert failure.outcome == "failure"
    assert "'evals' also belongs to evals" in failure.message
    assert failure.fix.startswith("pip uninstall evals;")


def test_our_packages_are_ours_here() -> None:
    assert [f.outcome for f in check_packages({"gateway": ["thalamus-gateway"]})] == ["ok"]


def test_an_unknown_price_is_a_warning_with_the_keys_that_mend_it(here: Path) -> None:
    text = "experts:\n  - {name: house, model: openai/house-model, api_base: http://gpu-box:8000/v1}\n"
    (warning,) = run_check(here, text, "experts")
    assert (warning.outcome, "input_cost_per_token" in warning.fix) == ("warning", True)


def test_a_model_known_to_embed_that_is_no_embedding_expert_is_a_warning(here: Path) -> None:
    text = "experts:\n  - {name: v, model: openai/text-embedding-3-small, api_key: os.environ/HOME%s}\n"
    warning, *_ = run_check(here, text % "", "experts")
    assert (warning.outcome, warning.fix) == ("warning", "write `embeds: true` under v")
    assert [f for f in run_check(here, text % ", embeds: true", "experts") if "embeddings" in f.message] == []


def test_an_engine_that_is_not_installed_is_a_failure(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    (failure,) = run_check(
        here, "experts:\n  - {name: s, runner: {model: bundled/smollm2-135m}}\n", "runners"
    )
    assert (failure.outcome, failure.fix) == ("failure", "pip install xllamacpp")


def test_an_engine_that_never_fits_is_a_failure(here: Path) -> None:
    text = (
        "experts:\n  - {name: s, runner: {engine: command, model: m, cmd: 'sleep ${PORT}', memory: 2GiB}}\n"
    )
    fine, failure = run_check(here, text + "runners: {memory: 1GiB}\n", "runners")
    assert (fine.outcome, failure.outcome, "s needs 2147483648 bytes" in failure.message) == (
        "ok",
        "failure",
        True,
    )


def test_a_missing_artifact_is_a_warning_that_says_how_to_learn(here: Path) -> None:
    (warning,) = run_check(here, GOOD, "artifact")
    assert (warning.outcome, "thalamus fit" in warning.fix) == ("warning", True)


def test_a_damaged_artifact_is_a_failure(here: Path) -> None:
    (here / "art").mkdir()
    (here / "art" / "manifest.json").write_text("{")
    (failure,) = run_check(here, GOOD + "routing: {artifact: art}\n", "artifact")
    assert failure.outcome == "failure"
    assert failure.fix == "thalamus profile && thalamus fit outcomes.jsonl.gz art"


def test_the_fit_that_is_named_reads_the_file_that_doctor_read(here: Path) -> None:
    (here / "other.yaml").write_text(GOOD)
    (finding,) = [one for one in run_checks(Path("other.yaml")) if one.check == "artifact"]
    assert finding.fix == "thalamus profile -c other.yaml && thalamus fit -c other.yaml"


def test_a_mapping_without_an_artifact_that_tells_categories_is_a_warning(here: Path) -> None:
    texts = [f"question {n}" for n in range(20)]
    outcomes = OutcomeTable.build(
        texts, ["calculator"], {"score": np.ones((20, 1))}, models=["tool/calculator"]
    )
    constant = FitSettings("constant", n_folds=2)
    fit_artifact(outcomes, FeatureExtractor(HashingEmbedder()), constant).save(here / "art")
    policy = "policies: {coe: {mapping: {sum: [calculator]}}}\nrouting: {artifact: art}\n"
    warning, *_ = run_check(here, GOOD + policy, "artifact")
    assert warning.outcome == "warning"
    assert warning.fix.endswith("thalamus fit outcomes.jsonl.gz art --head coe")
    assert "the mapping of coe sends all prompts to `general`" in warning.message


def test_a_mapping_that_is_an_order_for_all_prompts_asks_for_no_categories(here: Path) -> None:
    policy = "policies: {auto: {mapping: {general: [calculator]}}}\n"
    (finding,) = run_check(here, GOOD + policy, "artifact")
    assert "thalamus fit" in finding.fix
    assert "coe" not in finding.fix


def test_a_selection_that_cannot_be_served_is_a_failure(here: Path) -> None:
    (failure,) = run_check(here, GOOD + "embeddings: {selection: nowhere}\n", "embeddings")
    assert (failure.outcome, "nowhere: no embedding selection" in failure.message) == ("failure", True)
    (fine,) = run_check(here, GOOD, "embeddings")
    assert (fine.outcome, fine.message) == ("ok", "minilm reads documents and queries")


def test_a_port_that_is_taken_is_a_warning(here: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (warning,) = run_check(here, GOOD + f"server: {{port: {taken.getsockname()[1]}}}\n", "address")
    assert (warning.outcome, "--port" in warning.fix) == ("warning", True)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_gateway_that_runs_on_its_address_is_fine(here: Path, host: str) -> None:
    async with gateway(
        {"experts": [{"name": "calculator", "tool": "calculator"}]}, str(here / "j.sqlite3")
    ) as live:
        port = httpx.URL(live.base).port
        text = GOOD + f"server: {{host: {host}, port: {port}, master_key: os.environ/DOCTOR_KEY}}\n"
        (finding,) = await asyncio.to_thread(run_check, here, text, "address")
    assert (finding.outcome, finding.message) == ("ok", f"a gateway answers at http://{host}:{port}")


@pytest.mark.parametrize(
    "answer",
    [b'{"status": "live"}', b"[]", b"not json", b'{"status": "live", "name": "thalamus"}', b"[" * 5000, None],
)
def test_another_server_on_its_address_is_a_warning(here: Path, answer: bytes | None) -> None:
    class StrangeServer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if answer is None:
                ended.wait(10)
                return
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    ended = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), StrangeServer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        began = time.monotonic()
        (finding,) = run_check(here, GOOD + f"server: {{port: {server.server_port}}}\n", "address")
        took = time.monotonic() - began
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert (finding.outcome, "--port" in finding.fix) == ("warning", True)
    assert took < 30  # not as long as the server stays silent


def test_a_journal_that_cannot_be_written_is_a_failure(here: Path) -> None:
    (here / "file").write_text("")
    (failure,) = run_check(here, GOOD + "journal: {path: file/j.sqlite3}\n", "journal")
    assert failure.outcome == "failure"


def test_a_journal_on_a_full_disk_is_a_failure_that_room_mends(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = GOOD + "journal: {path: j.sqlite3}\n"
    (found,) = run_check(here, text, "journal")
    assert found.outcome == "ok"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (failure,) = run_check(here, text, "journal")
    assert (failure.outcome, failure.message) == (
        "failure",
        "j.sqlite3: the journal cannot be written: No space left on device",
    )
    assert "make room" in failure.fix
    assert not (here / "j.sqlite3").exists()


def test_a_check_that_breaks_is_a_finding_and_not_a_traceback(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_check(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(doctor, "_check_embedders", break_check)
    (failure,) = run_check(here, GOOD, "encoder")
    assert (failure.outcome, failure.message) == ("failure", "the check itself failed: RuntimeError: boom")
