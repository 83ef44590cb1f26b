"""`thalamus batch`: without a server, through Ctrl-C and `kill -9`, one line of output for each of input."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.batches.store import BatchStore
from gateway.batches.types import Batch
from gateway.testing import FakeUpstream
from tests.fakes.batches import jsonl, line, rows

SEED = 20


def configure(tmp_path: Path, upstream: FakeUpstream, *models: str, **expert: Any) -> None:
    experts = [
        {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url, **expert} for name in models
    ]
    journal = {"path": str(tmp_path / "state" / "j.sqlite3")}
    config = {"experts": experts, "journal": journal, "embeddings": {"enabled": False}}
    (tmp_path / "thalamus.yaml").write_text(json.dumps(config))


async def begin(tmp_path: Path, *args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "batch", *args),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "COLUMNS": "100"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def thalamus(tmp_path: Path, *args: str) -> tuple[int, str, str]:
    """Exit status, output, complaints."""
    process = await begin(tmp_path, *args)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


def write(tmp_path: Path, *lines: Any) -> None:
    (tmp_path / "in.jsonl").write_bytes(jsonl(*lines))


def ids(path: Path) -> list[str]:
    return [row["custom_id"] for row in rows(path.read_bytes())]


async def test_a_file_is_answered_without_a_server(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        configure(tmp_path, upstream, "says-a", "status-400", input_cost_per_token=1, output_cost_per_token=1)
        write(tmp_path, *(line(str(n), "says-a") for n in range(20)), line("bad", "status-400"))
        status, out, err = await thalamus(tmp_path, "run", "in.jsonl", "out.jsonl", "--json")
        assert (status, err) == (1, "")
        response = json.loads(out)
        assert (response["status"], response["request_counts"]["completed"]) == ("completed", 20)
        assert response["thalamus"]["cost_usd"] == 500
        assert ids(tmp_path / "out.jsonl") == [str(n) for n in range(20)]
        assert ids(tmp_path / "out.errors.jsonl") == ["bad"]
        status, out, err = await thalamus(tmp_path, "status")
        assert "completed: 20 of 21 lines answered, 1 failed, $500.0000" in out
        for there in ("out.jsonl", "out.errors.jsonl"):
            status, _, err = await thalamus(tmp_path, "run", "in.jsonl", "out.jsonl")
            assert (status, f"{there} already exists" in err) == (1, True)
            (tmp_path / there).unlink()


async def test_what_is_wrong_with_a_file_is_told_by_line(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        configure(tmp_path, upstream, "good")
        write(tmp_path, line("1", "good"), line("2", "missing"), b"{")
        status, out, err = await thalamus(tmp_path, "run", "in.jsonl", "out.jsonl")
        assert status == 1
        assert out.startswith("failed: 2 of 3 lines are wrong, so none was sent; correct them"), out
        assert "out.jsonl" not in out
        complaints = err.splitlines()
        assert complaints[0].startswith("line 2: there is no model 'missing'")
        assert complaints[1].startswith("line 3: not valid JSON")
        assert not (tmp_path / "out.jsonl").exists()
        write(
            tmp_path,
            *(line(str(n), "good") for n in range(1, 5)),
            line("5", "missing"),
            b"",
            line("6", "good"),
        )
        status, out, err = await thalamus(tmp_path, "run", "in.jsonl", "out.jsonl")
        assert (status, out.partition(",")[0]) == (1, "failed: 1 of 6 lines is wrong (line 5)")
        assert err.startswith("line 5: there is no model 'missing'")
        write(tmp_path, b"")
        status, out, err = await thalamus(tmp_path, "run", "in.jsonl", "out.jsonl")
        assert out.startswith("failed: no line was sent, and nothing is written")
        assert err == "the file has no lines (empty_file)\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "in.jsonl", "nowhere/out.jsonl"), "the folder nowhere does not exist"),
        (("run", "in.jsonl", "out.jsonl", "--window", "soon"), "is not a duration; write 30m"),
        (("run", "in.jsonl", "out.jsonl", "--max-usd", "nan"), "'nan' is not an amount in USD"),
        (("run", "in.jsonl", "out.jsonl", "--max-usd", "inf"), "'inf' is not an amount in USD"),
        (("resume", "batch_x"), "no batch 'batch_x'"),
        (("cancel", "batch_x"), "no batch 'batch_x'"),
        (("status", "batch_x"), "no batch 'batch_x'"),
    ],
)
async def test_a_mistake_is_one_clear_line(tmp_path: Path, args: Sequence[str], message: str) -> None:
    async with FakeUpstream() as upstream:
        configure(tmp_path, upstream, "good")
        write(tmp_path, line("1", "good"))
        status, _, err = await thalamus(tmp_path, *args)
        assert (status != 0, message in err.splitlines()[-1], "Traceback" in err) == (
            True,
            True,
            False,
        ), err


async def until(tmp_path: Path, n_answered: int) -> None:
    """Until so many lines stand in the output, and the store has them.

    The output is written first: a process that is killed between the two has not answered the line.
    """
    async with asyncio.timeout(30):
        while len(ids_so_far(tmp_path)) < n_answered:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.02)
        while last_batch(tmp_path).n_completed < n_answered:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def last_batch(tmp_path: Path) -> Batch:
    """The last batch of the store."""
    store = BatchStore.open(tmp_path / "state" / "batches")
    last = store.list_all()[-1]
    store.close()
    return last


def batch_in(tmp_path: Path) -> str:
    """The id of the last batch of the store."""
    return last_batch(tmp_path).id


def ids_so_far(tmp_path: Path) -> list[str]:
    out = tmp_path / "out.jsonl"
    whole = out.read_bytes().rpartition(b"\n")[0] if out.exists() else b""
    return [row["custom_id"] for row in rows(whole)]


async def test_ctrl_c_leaves_a_batch_that_can_be_resumed(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        configure(tmp_path, upstream, "slow-50", max_parallel=2)
        write(tmp_path, *(line(str(n), "slow-50") for n in range(30)))
        process = await begin(tmp_path, "run", "in.jsonl", "out.jsonl", "--order", "finished")
        await until(tmp_path, 3)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 10)
        message = err.decode().splitlines()[-1]
        assert (
            process.returncode,
            message.startswith("stopped; continue with: thalamus batch resume"),
        ) == (
            130,
            True,
        )
        assert not upstream.aborted
        status, _, err_ = await thalamus(tmp_path, "run", "in.jsonl", "out.jsonl")
        assert (status, "is not finished: thalamus batch resume" in err_) == (1, True)
        with (tmp_path / "out.jsonl").open("ab") as out:
            out.write(b'{"what a crash may leave behind": ' * 1000)
        status, _, err_ = await thalamus(tmp_path, "resume", message.split()[-1])
        assert (status, err_) == (0, "")
        assert sorted(ids(tmp_path / "out.jsonl"), key=int) == [str(n) for n in range(30)]
        assert len(upstream.calls) == 30


async def test_a_batch_is_cancelled_from_another_process_or_after_its_own_has_died(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        configure(tmp_path, upstream, "says-a", "hang")
        write(tmp_path, line("1", "says-a"), line("2", "hang"))
        for kill in (False, True):
            process = await begin(tmp_path, "run", "in.jsonl", "out.jsonl", "--order", "finished")
            await until(tmp_path, 1)
            batch_id = batch_in(tmp_path)
            if kill:
                process.kill()
                await process.wait()
            status, out, err = await thalamus(tmp_path, "cancel", batch_id)
            assert (status, err) == (0, "")
            assert out.startswith("cancelled: 1 of 2 lines answered, 1 failed")
            await asyncio.wait_for(process.communicate(), 10)
            assert ids(tmp_path / "out.jsonl") == ["1"]
            assert ids(tmp_path / "out.errors.jsonl") == ["2"]
            (tmp_path / "out.jsonl").unlink()
            (tmp_path / "out.errors.jsonl").unlink()


async def test_kill_9_costs_no_line_and_doubles_none(tmp_path: Path) -> None:
    n, n_kills, draw = 120, 3, random.Random(SEED)
    async with FakeUpstream() as upstream:
        configure(tmp_path, upstream, "slow-30", "says-b", "status-400", max_parallel=4)
        models = ["slow-30", "says-b", "slow-30", "status-400"]
        write(tmp_path, *(line(str(k), models[k % 4]) for k in range(n)))
        process = await begin(tmp_path, "run", "in.jsonl", "out.jsonl")
        for _ in range(n_kills):
            await wait_for_call(upstream)
            await asyncio.sleep(draw.uniform(0, 0.2))
            assert process.returncode is None
            process.kill()
            await process.wait()
            process = await begin(tmp_path, "resume", batch_in(tmp_path))
        await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 1
        assert ids(tmp_path / "out.jsonl") == [str(k) for k in range(n) if k % 4 != 3]
        assert ids(tmp_path / "out.errors.jsonl") == [str(k) for k in range(n) if k % 4 == 3]


async def wait_for_call(upstream: FakeUpstream) -> None:
    """Wait until the upstream receives a request."""
    n_seen = len(upstream.calls)
    async with asyncio.timeout(30):
        while len(upstream.calls) == n_seen:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)


async def test_an_input_that_has_changed_is_not_resumed(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        configure(tmp_path, upstream, "hang")
        write(tmp_path, line("1", "hang"))
        process = await begin(tmp_path, "run", "in.jsonl", "out.jsonl")
        await wait_for_call(upstream)
        process.kill()
        await process.wait()
        write(tmp_path, line("1", "hang"), line("2", "hang"))
        status, _, err = await thalamus(tmp_path, "resume", batch_in(tmp_path))
        assert (status, "has changed since" in err) == (1, True)


async def pipe(tmp_path: Path, script: str) -> tuple[int, str, str]:
    """A shell's line in which `thalamus` is the command: exit status, output, complaints."""
    command = f'thalamus() {{ "{sys.executable}" -m gateway.cli "$@"; }}; {script}'
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "COLUMNS": "100"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


def list_kept(tmp_path: Path) -> list[Path]:
    """What the store has of pipes."""
    return [path for name in ("inputs", "outputs") for path in tmp_path.glob(f"state/**/{name}/*")]


@pytest.mark.parametrize(
    "script",
    [
        "cat in.jsonl | thalamus batch run - -",
        "thalamus batch run - - < in.jsonl",
        "thalamus batch run /dev/stdin /dev/stdout < in.jsonl | cat",
        "thalamus batch run <(cat in.jsonl) - --order finished",
        "mkfifo pipe; cat in.jsonl > pipe & thalamus batch run pipe - --json",
        "thalamus batch run in.jsonl >(cat > piped.jsonl); wait; cat piped.jsonl",
        "thalamus batch run in.jsonl /dev/stdout > kept.jsonl; cat kept.jsonl",
    ],
)
async def test_lines_come_from_pipes_and_go_into_pipes(tmp_path: Path, script: str) -> None:
    async with FakeUpstream() as upstream:
        configure(tmp_path, upstream, "says-a", "status-400")
        write(tmp_path, line("1", "says-a"), line("2", "status-400"), line("3", "says-a"))
        _, out, err = await pipe(tmp_path, script)
        # Nothing but results is in the output: what is said of the batch goes beside it.
        assert sorted(row["custom_id"] for row in rows(out.encode())) == ["1", "2", "3"], err
        assert rows(out.encode())[-1]["custom_id"] == "2"
        assert "2 of 3 lines answered" in err or '"completed": 2' in err
        assert list_kept(tmp_path) == []


async def test_a_stream_that_takes_no_more_loses_no_answer(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        configure(tmp_path, upstream, "says-a")
        write(tmp_path, *(line(str(n), "says-a") for n in range(3)))
        status, _, err = await pipe(tmp_path, "thalamus batch run in.jsonl /dev/full")
        assert status == 1
        assert "No space left on device; the answers are in" in " ".join(err.split())
        (kept,) = list_kept(tmp_path)
        assert ids(kept) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("none/out.jsonl", "does not exist; create it first"),
        ("x" * 252 + ".jsonl", "cannot be written: File name too long"),
        ("/proc/out.jsonl", "cannot be written"),
    ],
)
async def test_an_output_that_cannot_be_written_is_told_before_a_line_is_paid(
    tmp_path: Path, out: str, said: str
) -> None:
    async with FakeUpstream() as upstream:
        configure(tmp_path, upstream, "says-a")
        write(tmp_path, line("1", "says-a"))
        status, _, err = await thalamus(tmp_path, "run", "in.jsonl", out)
        assert status == 1
        assert said in " ".join(err.split())
        assert upstream.calls == []
