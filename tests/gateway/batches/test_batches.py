"""`/v1/batches` through OpenAI's own client: from the upload to one line of output for each of input."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.batches import execution as running
from gateway.batches.calling import RetryingCaller
from gateway.batches.outcomes import CallOutcome
from gateway.batches.results import BYTES_PER_RESULT
from gateway.batches.service import MAX_RUNNING_BATCHES
from gateway.experts.types import Call
from gateway.testing import FakeUpstream
from tests.fakes.batches import CHAT, BatchTestGateway, jsonl, line, open_batch_gateway, read_content
from tests.fakes.serving import KEY

PRICE = 1e-3
PRICED = {"input_cost_per_token": PRICE, "output_cost_per_token": PRICE}


async def test_every_line_is_answered_once_in_the_order_of_the_input(tmp_path: Path) -> None:
    names = ["says-a", "says-b", "says-c"]
    async with open_batch_gateway(tmp_path, names) as at:
        lines = [line(f"c{n}", names[n % 3]) for n in range(30)]
        batch, output, errors = await at.run(*lines, project="x")
        assert (batch.status, batch.object, batch.endpoint, batch.metadata) == (
            "completed",
            "batch",
            CHAT,
            {"project": "x"},
        )
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed, errors) == (30, 30, 0, [])
        assert [row["custom_id"] for row in output] == [one["custom_id"] for one in lines]
        assert [read_content(row) for row in output] == ["a", "b", "c"] * 10
        assert {row["response"]["status_code"] for row in output} == {200}
        assert len({row["id"] for row in output}) == 30
        assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
        assert batch.error_file_id is None
        assert (await at.ai.files.retrieve(batch.output_file_id)).purpose == "batch_output"
        assert len(at.upstream.calls) == 30


async def test_auto_is_routed_by_policy_and_journalled(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["says-a", "says-b"], ["says-b"]) as at:
        _, output, _ = await at.run(line("1", "auto"), line("2", "says-a"))
        assert [row["thalamus"]["expert"] for row in output] == ["says-b", "says-a"]
        record = await at.live.services.journal.get(output[0]["thalamus"]["decision_id"])
        assert record is not None
        assert (record["policy"], record["expert_answered"], record["status"]) == ("auto", "says-b", 200)


async def test_batches_are_listed_newest_first_and_belong_to_the_name_of_their_key(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        async with open_batch_gateway(tmp_path, ["good"], upstream=upstream) as at:
            made = [(await at.run(line("1", "good")))[0].id for _ in range(3)]
            first = await at.ai.batches.list(limit=2)
            assert ([batch.id for batch in first.data], first.has_more) == (made[:0:-1], True)
            assert [batch.id async for batch in first] == made[::-1]
        named = {"keys": {"other": [KEY + "2"]}}
        async with open_batch_gateway(
            tmp_path, ["good"], key=KEY + "2", upstream=upstream, server=named
        ) as at:
            assert [batch.id async for batch in at.ai.batches.list()] == []
            for act in (at.ai.batches.retrieve, at.ai.batches.cancel):
                with pytest.raises(openai.NotFoundError):
                    await act(made[0])


async def test_everything_wrong_with_a_file_is_told_by_line(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["good"]) as at:
        wrong: list[tuple[Any, str]] = [
            (b"{not json", "invalid_json_line"),
            (b"[1]", "invalid_json_line"),
            ({"custom_id": 7}, "invalid_json_line"),
            ({**line("4", "good"), "custom_id": ""}, "missing_required_parameter"),
            ({**line("5", "good"), "method": "GET"}, "invalid_method"),
            ({**line("6", "good"), "url": "/v1/nothing"}, "invalid_url"),
            ({**line("7", "good"), "url": "/v1/completions"}, "invalid_url"),
            ({**line("8", "good"), "body": None}, "missing_required_parameter"),
            (line("9", "missing"), "model_not_found"),
            (line("10", "good", stream=True), "invalid_value"),
            (line("11", "good", api_base="http://evil"), "forbidden_field"),
            (line("12", "auto", router={"polcy": "x"}), "invalid_value"),
            ({**line("13", "auto"), "body": {"model": "auto", "messages": []}}, "invalid_value"),
        ]
        lines = [one for one, _ in wrong]
        batch, _, _ = await at.run(*lines, b"", line("twice", "good"), line("twice", "good"))
        assert batch.status == "failed"
        record = [(error.line, error.code) for error in batch.errors.data]
        expected = [(n, code) for n, (_, code) in enumerate(wrong, start=1)]
        assert record == [*expected, (len(wrong) + 3, "duplicate_custom_id")]
        assert all(error.message for error in batch.errors.data)
        assert (at.upstream.calls, batch.output_file_id, batch.error_file_id) == ([], None, None)
        empty, _, _ = await at.run(b"")
        assert [error.code for error in empty.errors.data] == ["empty_file"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/nothing"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"metadata": {"max_usd": "much"}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"input_file_id": "file-none"}, "file_id"),
    ],
)
async def test_a_batch_that_cannot_be_is_refused(tmp_path: Path, change: Any, param: str) -> None:
    async with open_batch_gateway(tmp_path, ["good"]) as at:
        file = await at.ai.files.create(file=("in.jsonl", b"{}"), purpose="batch")
        wanted = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **change}
        with pytest.raises(openai.APIStatusError) as refused:
            await at.ai.batches.create(**wanted)
        assert str(refused.value.param).startswith(param), refused.value.param


async def test_failures_go_to_the_error_file_as_a_live_client_would_see_them(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["good", "status-400", "status-401"]) as at:
        names = ["status-400", "good", "status-401"]
        batch, output, errors = await at.run(*(line(name, name) for name in names))
        assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == (
            "completed",
            1,
            2,
        )
        assert [row["custom_id"] for row in output] == ["good"]
        bad, denied = errors
        assert (bad["response"]["status_code"], bad["error"]) == (400, None)
        assert bad["response"]["body"]["error"]["message"].startswith("mock 400")
        assert denied["response"]["status_code"] == 502
        assert "sk-secret" not in json.dumps(denied)


async def test_who_fails_is_stood_in_for_by_the_next_of_the_plan(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["status-401", "says-b"], ["status-401", "says-b"]) as at:
        _, output, errors = await at.run(line("1", "auto"))
        assert ([read_content(row) for row in output], errors) == (["b"], [])
        record = await at.live.services.journal.get(output[0]["thalamus"]["decision_id"])
        assert record is not None
        assert [one["expert"] for one in record["attempts"]] == ["status-401", "says-b"]


async def test_what_an_upstream_asks_to_wait_is_waited(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["rated-1"]) as at:
        batch = await at.begin(line("1", "rated-1"))
        async with asyncio.timeout(5):
            while not at.upstream.calls:  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.01)
        at.upstream.healthy = True
        _, output, errors = (batch, *await at.results(await at.wait_for_end(batch)))
        assert (len(output), errors, len(at.upstream.calls)) == (1, [], 2)


async def test_an_expert_that_stays_out_is_given_up(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["rated-0.05"], batches={"patience_s": 0.2}) as at:
        lines = [line(str(n), "rated-0.05") for n in range(40)]
        batch, output, errors = await at.run(*lines)
        assert (batch.status, output, len(errors)) == ("completed", [], 40)
        assert len(at.upstream.calls) < 80


async def test_calls_under_way_keep_to_the_experts_own_limit(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["slow-50"], experts={"max_parallel": 3}) as at:
        most = 0
        batch = await at.begin(*(line(str(n), "slow-50") for n in range(12)))
        state = at.live.services.fleet.state
        while (await at.ai.batches.retrieve(batch.id)).status != "completed":
            most = max(most, int(str(state("slow-50")["in_flight"])))
        assert most in (2, 3)


async def n_completed(at: BatchTestGateway, batch_id: str) -> int:
    counts = (await at.ai.batches.retrieve(batch_id)).request_counts
    return counts.completed if counts else 0


async def test_a_cancelled_batch_keeps_what_it_has(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["says-a", "hang"]) as at:
        batch = await at.begin(*(line(f"{name}{n}", name) for n in range(4) for name in ("says-a", "hang")))
        async with asyncio.timeout(5):
            while await n_completed(at, batch.id) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await at.ai.batches.cancel(batch.id)).status == "cancelling"
        batch = await at.wait_for_end(batch)
        output, errors = await at.results(batch)
        assert batch.status == "cancelled"
        assert batch.cancelling_at <= batch.cancelled_at
        assert {row["custom_id"] for row in output} == {f"says-a{n}" for n in range(4)}
        assert {row["custom_id"] for row in errors} == {f"hang{n}" for n in range(4)}
        assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}
        assert sorted(set(at.upstream.aborted)) == ["hang"]
        with pytest.raises(openai.ConflictError):
            await at.ai.batches.cancel(batch.id)


async def test_a_batch_expires_at_the_end_of_its_window(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["says-a", "hang"]) as at:
        batch, output, errors = await at.run(line("1", "says-a"), line("2", "hang"), window="1s")
        assert batch.status == "expired"
        assert batch.expired_at >= batch.expires_at
        assert [read_content(row) for row in output] == ["a"]
        assert [row["error"]["code"] for row in errors] == ["batch_expired"]


async def test_no_more_is_spent_than_a_batch_may(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["good"], experts=PRICED) as at:
        lines = [line(str(n), "good", "Hi" * 30, max_tokens=5) for n in range(20)]
        batch, output, errors = await at.run(*lines, max_usd="0.1")
        spent = batch.model_extra["thalamus"]["cost_usd"]
        assert spent == pytest.approx(25 * PRICE * len(output))
        assert 0.05 < spent <= 0.1
        assert {row["error"]["code"] for row in errors} == {"cost_cap_reached"}
        assert len(output) + len(errors) == 20


@pytest.mark.parametrize(
    "more",
    [
        {"max_tokens": int("9" * 400)},
        {"max_tokens": 5e9},
        {"max_completion_tokens": None, "max_tokens": "many"},
        {"max_tokens": 5, "n": 1000},
        {"max_tokens": 5, "n": int("9" * 400)},
    ],
)
async def test_what_a_line_may_cost_at_most_is_what_it_asks_for(tmp_path: Path, more: dict[str, Any]) -> None:
    async with open_batch_gateway(tmp_path, ["good"], experts=PRICED) as at:
        cheap = line("2", "good", max_tokens=5)
        _, output, errors = await at.run(line("1", "good", **more), cheap, max_usd="1.5")
        assert [row["error"]["code"] for row in errors] == ["cost_cap_reached"]
        assert [row["custom_id"] for row in output] == ["2"]


async def test_a_line_that_trips_the_gateway_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    called = RetryingCaller.call

    async def trip(self: RetryingCaller, name: str, call: Call) -> CallOutcome:
        if b"trip" in bytes(call.fields["messages"]):
            raise ValueError("a fault of ours")
        return await called(self, name, call)

    monkeypatch.setattr(RetryingCaller, "call", trip)
    async with open_batch_gateway(tmp_path, ["good"]) as at:
        lines = [line(str(n), "good", "trip" if n == 3 else "Hi") for n in range(6)]
        batch, output, errors = await at.run(*lines)
        assert batch.status == "completed"
        assert [row["custom_id"] for row in output] == ["0", "1", "2", "4", "5"]
        assert [(row["custom_id"], row["response"]["status_code"]) for row in errors] == [("3", 500)]
        assert "a fault of ours" in caplog.text
        assert at.upstream.n_calls("good") == 5


async def test_an_expert_without_a_price_is_not_called_under_a_cap(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["good"]) as at:
        _, output, errors = await at.run(line("1", "good"), max_usd="1")
        assert (output, [row["error"]["code"] for row in errors]) == ([], ["cost_cap_reached"])
        assert "unknown" in errors[0]["error"]["message"]


async def test_a_file_that_is_being_read_is_not_deleted(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["hang"]) as at:
        batch = await at.begin(line("1", "hang"))
        with pytest.raises(openai.ConflictError, match=batch.id):
            await at.ai.files.delete(batch.input_file_id)
        await at.ai.batches.cancel(batch.id)
        await at.wait_for_end(batch)
        assert (await at.ai.files.delete(batch.input_file_id)).deleted


async def test_a_restart_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        async with open_batch_gateway(
            tmp_path, ["slow-30"], upstream=upstream, experts={"max_parallel": 4}
        ) as at:
            batch = await at.begin(*(line(str(n), "slow-30") for n in range(60)))
            async with asyncio.timeout(10):
                while not await n_completed(at, batch.id):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        n_before = len(upstream.calls)
        assert 0 < n_before < 60
        async with open_batch_gateway(tmp_path, ["slow-30"], upstream=upstream) as at:
            batch = await at.wait_for_end(batch)
            output, errors = await at.results(batch)
            assert [row["custom_id"] for row in output] == [str(n) for n in range(60)]
            assert errors == []
            assert not upstream.aborted
        assert len(upstream.calls) == 60
        left = sorted(path.name for path in (tmp_path / "batches").rglob("*") if path.is_file())
        assert left == sorted(["batches.sqlite3", batch.input_file_id, batch.output_file_id])


async def test_an_expert_that_is_gone_after_a_restart_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "GRACE_S", 0.1)
    async with FakeUpstream() as upstream:
        async with open_batch_gateway(
            tmp_path, ["hang", "says-b"], ["hang", "says-b"], upstream=upstream
        ) as at:
            batch = await at.begin(line("named", "hang"), line("chosen", "auto"))
            async with asyncio.timeout(5):
                while len(upstream.calls) < 2:  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(0.01)
            services = at.live.services
            assert services.store.find_batch(batch.id) is not None
        async with open_batch_gateway(tmp_path, ["says-b"], ["says-b"], upstream=upstream) as at:
            output, errors = await at.results(await at.wait_for_end(batch))
            assert [row["custom_id"] for row in output] == ["chosen"]
            assert [row["response"]["body"]["error"]["code"] for row in errors] == ["model_not_found"]


async def test_texts_are_embedded_here_or_by_an_expert_as_live(tmp_path: Path) -> None:
    def text(custom_id: str, model: str, **more: Any) -> dict[str, Any]:
        body = {"model": model, "input": f"text {custom_id}", **more}
        return {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body}

    async with open_batch_gateway(tmp_path, ["embedder", "good"], experts={"embeds": True}) as at:
        url = "/v1/embeddings"
        lines = [text("1", "minilm"), text("2", "embedder"), text("3", "minilm")]
        _, output, errors = await at.run(*lines, endpoint=url)
        assert errors == []
        live = await at.ai.embeddings.create(model="minilm", input="text 3", encoding_format="float")
        assert output[2]["response"]["body"]["data"][0]["embedding"] == live.data[0].embedding
        assert output[1]["response"]["body"]["data"][0]["embedding"] == [0.5, 0.25]
        assert [row["thalamus"]["cost_usd"] for row in output] == [0, None, 0]
        wrong = [text("1", "missing"), text("2", "minilm", input=7), text("3", "minilm", dimensions=3)]
        batch, _, _ = await at.run(*wrong, endpoint=url)
        assert [(error.line, error.param) for error in batch.errors.data] == [
            (1, "body.model"),
            (2, "body.input"),
            (3, "body.dimensions"),
        ]


async def test_plain_completions_are_answered_too(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["good"]) as at:
        url = "/v1/completions"
        one = {"custom_id": "1", "method": "POST", "url": url, "body": {"model": "good", "prompt": "x"}}
        _, output, _ = await at.run(one, endpoint=url)
        assert output[0]["response"]["body"]["choices"][0]["text"].startswith("Grüße")


async def test_lines_wait_until_the_embedders_have_room(tmp_path: Path) -> None:
    def texts(n: int) -> dict[str, Any]:
        body = {"model": "minilm", "input": [f"text {n}", "another"]}
        return {"custom_id": str(n), "method": "POST", "url": "/v1/embeddings", "body": body}

    async with open_batch_gateway(tmp_path, ["good"], embeddings={"max_waiting": 3}) as at:
        _, output, errors = await at.run(*(texts(n) for n in range(6)), endpoint="/v1/embeddings")
        assert (len(output), errors) == (6, [])


async def test_a_disk_too_full_for_the_results_is_told_before_a_line_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * BYTES_PER_RESULT)
    monkeypatch.setattr("gateway.batches.results.shutil.disk_usage", lambda _: usage)
    async with open_batch_gateway(tmp_path, ["says-a"]) as at:
        batch, _, _ = await at.run(line("1", "says-a"))
        assert batch.status == "completed"
        batch, _, _ = await at.run(line("1", "says-a"), line("2", "says-a"))
        assert batch.status == "failed"
        assert (batch.errors.data[0].code, len(at.upstream.calls)) == ("no_space", 1)
        assert "make room" in batch.errors.data[0].message


async def test_a_batch_whose_window_ended_in_line_calls_nothing_and_waits_for_no_other(
    tmp_path: Path,
) -> None:
    async with open_batch_gateway(tmp_path, ["says-a", "hang"]) as at:
        others = [await at.begin(line("1", "hang")) for _ in range(MAX_RUNNING_BATCHES)]
        late = await at.wait_for_end(await at.begin(line("1", "says-a"), window="1s"))
        assert late.status == "expired"
        assert [call["model"] for call in at.upstream.calls if call["model"] == "says-a"] == []
        for other in others:
            await at.ai.batches.cancel(other.id)


async def test_results_are_kept_for_the_time_that_the_client_gave_them(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["says-a", "status-400"]) as at:
        lines = jsonl(line("1", "says-a"), line("2", "status-400"))
        file = await at.ai.files.create(file=("in.jsonl", lines), purpose="batch")
        asked: Any = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
        expiry: Any = {"anchor": "created_at", "seconds": 3600}
        batch = await at.wait_for_end(await at.ai.batches.create(**asked, output_expires_after=expiry))
        for file_id in (batch.output_file_id, batch.error_file_id):
            made = await at.ai.files.retrieve(file_id)
            assert made.expires_at == made.created_at + 3600
        batch = await at.wait_for_end(await at.ai.batches.create(**asked))
        made = await at.ai.files.retrieve(batch.output_file_id)
        assert made.expires_at == made.created_at + 30 * 86_400
        refused: list[Any] = [{"anchor": "created_at", "seconds": 60}, {"anchor": "now", "seconds": 3600}]
        for wrong in refused:
            with pytest.raises(openai.BadRequestError, match="output_expires_after"):
                await at.ai.batches.create(**asked, output_expires_after=wrong)
