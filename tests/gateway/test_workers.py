"""`thalamus serve --workers 2`, as real processes: what is shared, what survives a death, what is left."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.config.client_keys import format_hash
from gateway.testing import FakeUpstream

TINY = Path(__file__).parents[1] / "fakes" / "tiny_engine.py"
WITHIN_S = 60.0
CONFIG = """
experts:
  - {{name: good, model: openai/good, api_base: "{base}", api_key: sk-x}}
  - {{name: one, model: openai/slow-300, api_base: "{base}", api_key: sk-x, max_parallel: 1}}
  - {{name: rated, model: openai/good, api_base: "{base}", api_key: sk-x, rpm: 3}}
  - {{name: waits, model: openai/rated-30, api_base: "{base}", api_key: sk-x}}
  - {{name: stream, model: openai/stall-2, api_base: "{base}", api_key: sk-x}}
  - {{name: own, runner: {{engine: command, model: a, cmd: "{engine}", memory: 100MB}}}}
runners: {{logs: "{folder}/logs"}}
journal: {{path: "{folder}/journal.sqlite3"}}
routing: {{artifact: "{folder}/artifact"}}
embeddings: {{enabled: false}}
policies: {{auto: {{default: good}}}}
server: {{port: 0, workers: 2, drain_s: 1, log_level: warning}}
"""


class WorkerSite:
    """A running gateway of two workers."""

    def __init__(self, folder: Path, upstream: FakeUpstream, **changes: str) -> None:
        self.folder, self.upstream = folder, upstream
        self.config = folder / "thalamus.yaml"
        self.write_config(**changes)
        command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(self.config)]
        self.log_file = folder / "log.txt"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, cwd=folder, text=True, process_group=0
            )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert "listens on" in first, self.log
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.base = first.split()[-1]

    def write_config(self, **changes: str) -> None:
        engine = f"{sys.executable} -S {TINY} --port ${{PORT}} --say Own."
        text = CONFIG.format(folder=self.folder, base=self.upstream.base_url, engine=engine)
        for old, new in changes.items():
            text = text.replace(old, new)
        self.config.write_text(text)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def parent(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    @property
    def workers(self) -> list[psutil.Process]:
        return [child for child in self.parent.children() if "gateway.workers.worker" in child.cmdline()[2]]

    def post(self, path: str, body: Any) -> httpx.Response:
        # A connection of its own, so that both workers get some.
        return httpx.post(f"{self.base}/{path}", json=body, timeout=WITHIN_S)

    def chat(self, model: str, prompt: str = "Hi", **more: Any) -> httpx.Response:
        messages = [{"role": "user", "content": prompt}]
        return self.post("v1/chat/completions", {"model": model, "messages": messages, **more})

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.base}/{path}", timeout=WITHIN_S)

    def read_metrics(self) -> dict[str, float]:
        families = text_string_to_metric_families(self.get("metrics").text)
        return {
            f"{sample.name}/{'/'.join(sample.labels.values())}".rstrip("/"): sample.value
            for family in families
            for sample in family.samples
        }

    def at_once(self, n: int, call: Callable[[], httpx.Response]) -> list[httpx.Response]:
        """`n` calls at the same time: both workers get some of them."""
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(call())) for _ in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers


def wait_until(is_so: Callable[[], Any], within_s: float = WITHIN_S) -> None:
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


@contextlib.contextmanager
def serve(folder: Path, upstream: FakeUpstream, **changes: str) -> Iterator[WorkerSite]:
    site = WorkerSite(folder, upstream, **changes)
    try:
        yield site
    finally:
        if site.process.poll() is None:
            site.process.terminate()
            site.process.wait(WITHIN_S)
        if site.process.stdout is not None:
            site.process.stdout.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream().in_thread() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, upstream: FakeUpstream) -> Iterator[WorkerSite]:
    with serve(tmp_path_factory.mktemp("workers"), upstream) as site:
        wait_until(lambda: site.get("health/ready").json()["degraded"] == [])
        yield site


def test_both_workers_take_connections_and_metrics_add_them_up(site: WorkerSite) -> None:
    before = site.read_metrics()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(timeout=WITHIN_S)) for _ in range(8)]
        for client in clients:
            body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
            assert client.post(f"{site.base}/v1/chat/completions", json=body).status_code == 200
        busy = [sum(c.status == "ESTABLISHED" for c in worker.net_connections()) for worker in site.workers]
        assert min(busy) >= 2
        after = site.read_metrics()
    name = "thalamus_calls_answered_total/good"
    assert after[name] - before[name] == 8
    assert after["thalamus_decisions_total"] - before["thalamus_decisions_total"] == 8
    assert after["thalamus_workers"] == 2


def test_refusals_of_all_workers_are_added_up_by_reason(site: WorkerSite) -> None:
    name = "thalamus_refused_total/head_too_large"
    before = site.read_metrics().get(name, 0.0)
    headers = {f"x-{n}": "1" for n in range(200)}
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(timeout=WITHIN_S)) for _ in range(8)]
        statuses = [client.get(f"{site.base}/v1/models", headers=headers).status_code for client in clients]
    assert statuses == [431] * 8
    assert site.read_metrics()[name] - before == 8


def test_an_engine_is_loaded_once_for_all_workers(site: WorkerSite) -> None:
    answers = site.at_once(6, lambda: site.chat("own"))
    assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {"Own."}
    assert site.read_metrics()["thalamus_runner_loads_total/own"] == 1
    assert site.get("v1/runners").json()["data"][0]["n_in_flight"] == 0


def test_limits_hold_over_all_workers(site: WorkerSite) -> None:
    begun = time.monotonic()
    assert [answer.status_code for answer in site.at_once(4, lambda: site.chat("one"))] == [200] * 4
    assert time.monotonic() - begun >= 4 * 0.3
    answers = site.at_once(6, lambda: site.chat("rated"))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 3
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers if answer.status_code == 429)


def test_readiness_and_metrics_count_the_records_that_wait_in_workers(site: WorkerSite) -> None:
    with contextlib.closing(sqlite3.connect(site.folder / "journal.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert {answer.status_code for answer in site.at_once(6, lambda: site.chat("good"))} == {200}
        wait_until(lambda: site.get("health/ready").json()["journal"]["waiting"] >= 6)
        assert site.read_metrics()["thalamus_journal_waiting"] >= 6
        wait_until(lambda: any("journal" in line for line in site.get("health/ready").json()["degraded"]))
    wait_until(lambda: site.get("health/ready").json()["journal"] == {"waiting": 0, "lost": 0})
    wait_until(lambda: site.get("health/ready").json()["degraded"] == [])


def test_a_wait_that_one_worker_was_asked_for_holds_for_all(site: WorkerSite) -> None:
    # Two different requests at one of both: a limit that only one meets may be about that one.
    for n in range(3):
        assert site.chat("waits", f"number {n}").status_code in (429, 503)
    wait_until(lambda: site.get("v1/models/waits").json()["thalamus"]["state"] == "open")
    n_calls = site.upstream.n_calls("rated-30")
    time.sleep(0.2)  # the exchange's own pace
    assert {answer.status_code for answer in site.at_once(6, lambda: site.chat("waits"))} <= {429, 503}
    assert site.upstream.n_calls("rated-30") == n_calls


def test_a_decision_is_found_through_any_worker_at_once(site: WorkerSite) -> None:
    for _ in range(4):
        made = site.chat("auto").headers["x-thalamus-decision-id"]
        assert site.get(f"v1/decisions/{made}").json()["expert_answered"] == "good"
        assert site.post("v1/feedback", {"decision_id": made, "score": 1}).status_code == 200


def test_a_response_is_gone_on_from_in_any_worker_at_once(site: WorkerSite) -> None:
    made = site.post("v1/responses", {"model": "auto", "input": "1"}).json()
    for n in range(2, 9):
        body = {"model": "auto", "input": str(n), "previous_response_id": made["id"]}
        made = site.post("v1/responses", body).json()
        assert site.get(f"v1/responses/{made['id']}").json() == made
    messages = site.upstream.calls[-1]["messages"]
    assert [one["content"] for one in messages if one["role"] == "user"] == [*map(str, range(1, 9))]
    page = site.get(f"v1/responses/{made['id']}/input_items").json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["8"]
    assert httpx.delete(f"{site.base}/v1/responses/{made['id']}", timeout=WITHIN_S).json()["deleted"]
    assert site.get(f"v1/responses/{made['id']}").status_code == 404


def test_a_batch_is_known_to_all_workers(site: WorkerSite) -> None:
    body = {"model": "good", "messages": [{"role": "user", "content": "Hi"}]}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    sent = httpx.post(
        f"{site.base}/v1/files",
        files={"file": ("in.jsonl", json.dumps(line).encode() + b"\n")},
        data={"purpose": "batch"},
        timeout=WITHIN_S,
    ).json()
    order = {"input_file_id": sent["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = site.post("v1/batches", order).json()
    wait_until(lambda: site.get(f"v1/batches/{batch['id']}").json()["status"] == "completed")
    output = site.get(f"v1/batches/{batch['id']}").json()["output_file_id"]
    assert site.get(f"v1/files/{output}/content").json()["response"]["status_code"] == 200


def test_a_reload_changes_all_workers_or_none(site: WorkerSite) -> None:
    site.write_config(**{"name: good": "name: fine", "default: good": "default: fine"})
    site.parent.send_signal(signal.SIGHUP)
    wait_until(lambda: site.chat("fine").status_code == 200)
    assert {answer.status_code for answer in site.at_once(8, lambda: site.chat("good"))} == {404}
    counted = site.read_metrics()["thalamus_calls_answered_total/good"]
    assert counted > 0
    site.write_config(**{"name: good": "nome: fine"})
    site.parent.send_signal(signal.SIGHUP)
    wait_until(lambda: "the old one stays" in site.log)
    assert {answer.status_code for answer in site.at_once(8, lambda: site.chat("fine"))} == {200}
    site.write_config()
    site.parent.send_signal(signal.SIGHUP)
    wait_until(lambda: site.chat("good").status_code == 200)
    assert site.read_metrics()["thalamus_calls_answered_total/good"] > counted


def test_a_killed_worker_costs_its_own_calls_alone(site: WorkerSite) -> None:
    journal = site.folder / "journal.sqlite3"
    victim, answered, failed, stop = site.workers[0], [], [], threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                answer = site.chat("good")
            except httpx.HTTPError:
                failed.append(time.monotonic())
            else:
                answered.append((time.monotonic(), answer.headers["x-thalamus-decision-id"]))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) > 40)
    killed_s = time.monotonic()
    victim.kill()
    wait_until(lambda: len(answered) > 80)
    wait_until(lambda: len(site.workers) == 2 and not site.get("health/ready").json()["degraded"])
    stop.set()
    for thread in threads:
        thread.join()
    assert len(failed) <= 4  # those that it was answering
    assert min(at for at, _ in answered if at > killed_s) - killed_s < 5.0
    assert not psutil.pid_exists(victim.pid)
    metrics = site.read_metrics()
    assert metrics["thalamus_worker_restarts_total"] == 1
    assert metrics["thalamus_calls_in_flight/good"] == 0

    def count_lost() -> list[float]:
        with contextlib.closing(sqlite3.connect(journal)) as database:
            kept = {row[0] for row in database.execute("SELECT id FROM decisions")}
        return [at for at, made in answered if made not in kept]

    # What it had answered in its last moments was not sent yet; all else is there.
    wait_until(lambda: all(killed_s - 1.0 < at < killed_s + 0.1 for at in count_lost()))


def test_requests_at_once_are_bounded_over_all_workers(tmp_path: Path, upstream: FakeUpstream) -> None:
    limits = "log_level: warning, limits: {max_running: 2, max_waiting: 2}"
    with serve(tmp_path, upstream, **{"log_level: warning": limits, ", max_parallel: 1": ""}) as site:
        wait_until(lambda: site.get("health/ready").json()["degraded"] == [])
        with contextlib.ExitStack() as stack:
            # Connections that are open at a time: each worker has half of them.
            clients = [stack.enter_context(httpx.Client(timeout=WITHIN_S)) for _ in range(8)]
            for client in clients:
                assert client.get(f"{site.base}/health/live").status_code == 200
            body = {"model": "one", "messages": [{"role": "user", "content": "Hi"}]}
            waiting = iter(clients)
            url = f"{site.base}/v1/chat/completions"
            answers = site.at_once(8, lambda: next(waiting).post(url, json=body))
    # Each has one at a time and one that waits.
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 4


def send_file(site: WorkerSite, key: str) -> httpx.Response:
    body = {"model": "good", "messages": [{"role": "user", "content": "Hi"}]}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return httpx.post(
        f"{site.base}/v1/files",
        files={"file": ("in.jsonl", json.dumps(line).encode() + b"\n")},
        data={"purpose": "batch"},
        headers={"authorization": f"Bearer {key}"},
        timeout=WITHIN_S,
    )


def test_named_keys_hold_for_all_workers_and_change_by_a_reload(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    former, fresh, other = "sk-51c0e6d1f9a84b27", "sk-e17b3f0a92d65c84", "sk-9d24a7c3b8e05f16"
    # Of a site of its own: with a key, no other test could ask.
    with serve(
        tmp_path, upstream, **{"log_level: warning": f"log_level: info, keys: {{app: {former}}}"}
    ) as site:

        def ask(key: str) -> set[int]:
            headers = {"authorization": f"Bearer {key}"}
            url = f"{site.base}/v1/files"
            return {
                a.status_code for a in site.at_once(6, lambda: httpx.get(url, headers=headers, timeout=60))
            }

        sent = send_file(site, former).json()
        assert ask(other) == {401}
        keys = f"{{app: '{format_hash(fresh)}', other: {other}}}"
        site.write_config(**{"log_level: warning": f"log_level: info, keys: {keys}"})
        site.parent.send_signal(signal.SIGHUP)
        wait_until(lambda: ask(fresh) == {200})
        assert (ask(former), ask(other)) == ({401}, {200})
        with httpx.Client(headers={"authorization": f"Bearer {fresh}"}, timeout=WITHIN_S) as client:
            assert client.get(f"{site.base}/v1/files/{sent['id']}").status_code == 200
            order = {
                "input_file_id": sent["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            }
            url = f"{site.base}/v1/batches"
            batch = client.post(url, json=order).json()["id"]
            wait_until(lambda: client.get(f"{url}/{batch}").json()["status"] == "completed")
        assert httpx.get(f"{url}/{batch}", headers={"authorization": f"Bearer {other}"}).status_code == 404
        changes = [
            row for row in site.log.splitlines() if "POST /v1/batches 200 by key app from 127.0" in row
        ]
        assert len(changes) == 1  # by the worker, and not by the parent that answered
        assert all(key not in site.log for key in (former, fresh, other))


def list_family(site: WorkerSite) -> list[psutil.Process]:
    return list(site.parent.children(recursive=True))


@pytest.mark.parametrize("end", [os.kill, os.killpg], ids=["SIGTERM", "Ctrl-C"])
def test_a_stop_ends_streams_with_an_error_event_and_leaves_nothing(
    tmp_path: Path, upstream: FakeUpstream, end: Callable[[int, int], None]
) -> None:
    with serve(tmp_path, upstream) as site:
        family = list_family(site)
        body = {"model": "stream", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        url = f"{site.base}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=WITHIN_S) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            # A terminal sends its signal to the whole group; workers are no part of it.
            end(site.process.pid, signal.SIGTERM if end is os.kill else signal.SIGINT)
            rest = [line for line in lines if line.startswith("data: ")]
        assert '"error"' in rest[-1]
        assert site.process.wait(WITHIN_S) == 0
        assert not [process for process in family if process.is_running()]
        assert "Traceback" not in site.log
        with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite3")) as database:
            ((status, error),) = database.execute("SELECT status, error FROM decisions").fetchall()
        assert status == 503
        assert "the gateway was stopped" in error


def test_the_death_of_the_parent_ends_all(site: WorkerSite) -> None:
    # The last test: it ends the site of all others.
    assert site.chat("own").status_code == 200
    family = list_family(site)
    assert len(family) >= 4
    os.kill(site.process.pid, signal.SIGKILL)
    wait_until(lambda: not [process for process in family if process.is_running()])
