"""`thalamus batch`: answer a file of requests, grouped by the expert that answers them."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import CONFIG_OPTION, JSON_OPTION, Dollars, read_config

if TYPE_CHECKING:
    from ..batches.calling import BatchExecutor
    from ..batches.service import BatchService
    from ..batches.store import BatchStore
    from ..batches.types import Batch
    from ..config import Config

EXAMPLES = """
\b
Examples:
  thalamus batch run requests.jsonl answers.jsonl
  thalamus batch run requests.jsonl answers.jsonl --max-usd 5 --order finished
  make-requests | thalamus batch run - - | jq .response.body
  thalamus batch status
  thalamus batch resume batch_0123456789abcdef
\b
A line is as OpenAI's batches have it:
  {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
   "body": {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}}
"""
STANDARD = Path("-")
OUTPUTS = "outputs"
"""Folder of the store for results on their way to a stream."""
POLL_S = 0.25
CANCEL_TIMEOUT_S = 10.0
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def engine_options(command: Any) -> Any:
    """Add the options that choose where the calls are made."""
    for option in (
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            help="Copies of each local expert on Ray. Default: one for each node.",
        ),
        click.option("--ray-address", help="Address of the Ray cluster. Default: start Ray on this machine."),
        click.option(
            "--engine",
            type=click.Choice(["here", "ray"]),
            default="here",
            show_default=True,
            help="What makes the calls: this process, or actors on Ray (extra `ray`).",
        ),
    ):
        command = option(command)
    return command


@click.group(epilog=EXAMPLES)
def command() -> None:
    """Answer a file of requests: check and route all lines first, then let each expert answer its own.

    No server is needed. After a stop of any kind, `resume` continues where the batch stopped.
    """


@command.command(epilog=EXAMPLES)
@click.argument(
    "source",
    metavar="IN.jsonl",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.argument("out", metavar="OUT.jsonl", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@CONFIG_OPTION
@click.option(
    "--order",
    type=click.Choice(["input", "finished"]),
    default="input",
    show_default=True,
    help="`input`: in the order of the input, written at the end. `finished`: as answers arrive.",
)
@click.option("--max-usd", type=Dollars(min=0), help="Highest total cost in USD.")
@engine_options
@click.option(
    "--window",
    default="24h",
    show_default=True,
    help="Stop lines that are not answered after this time, such as 30m, 24h or 7d.",
)
@JSON_OPTION
def run(
    source: Path,
    out: Path,
    config_path: Path,
    order: Any,
    max_usd: float | None,
    window: str,
    as_json: bool,
    **engine_choice: Any,
) -> None:
    """Answer the requests of IN.jsonl into OUT.jsonl; those that fail go to OUT.errors.jsonl.

    IN.jsonl may be a pipe or - (standard input). With - (standard output) or a pipe for OUT.jsonl, all lines
    go there when the batch has ended, those that failed last.
    """
    from ..batches.lines import read_file_mark
    from ..batches.results import INPUTS
    from ..batches.service import parse_window
    from ..batches.store import new_id
    from ..batches.types import Batch

    config = read_config(config_path, quiet=as_json)
    seconds = parse_window(window)
    if seconds is None:
        raise click.BadParameter(f"'{window}' is not a duration; write 30m, 24h or 7d", param_hint="--window")
    batch_id, stream = new_id("batch"), out if _is_stream(out) else None
    with _open_store(config) as store:
        _check_output(store, out)
        if stream is not None:
            out = _open_folder(store, OUTPUTS) / f"{batch_id}.jsonl"
        if _is_stream(source):
            source = _keep_input(source, _open_folder(store, INPUTS) / f"{batch_id}.jsonl")
        batch = Batch(
            id=batch_id,
            input_path=str(source.absolute()),
            input_mark=read_file_mark(source),
            out_path=str(out.absolute()),
            line_order=order,
            window=window,
            window_s=seconds,
            max_usd=max_usd,
            times={"created_at": int(store.clock.stamp())},
        )
        store.add_batch(batch)
    _run_and_report(config, batch, as_json, stream, **engine_choice)


@command.command(epilog=EXAMPLES)
@click.argument("batch_id", metavar="ID")
@CONFIG_OPTION
@click.option(
    "--max-usd", type=Dollars(min=0), help="Highest total cost in USD, what was spent before included."
)
@engine_options
@JSON_OPTION
def resume(
    batch_id: str, config_path: Path, max_usd: float | None, as_json: bool, **engine_choice: Any
) -> None:
    """Continue a stopped batch where it stopped."""
    from ..batches.lines import read_file_mark

    config = read_config(config_path, quiet=as_json)
    with _open_store(config) as store:
        batch = _get_batch(store, batch_id)
        if batch.has_ended:
            raise click.ClickException(f"{batch_id} is {batch.status}; it cannot be resumed")
        path = Path(batch.input_path)
        if not path.exists() or read_file_mark(path) != batch.input_mark:
            raise click.ClickException(f"{path} has changed since {batch_id} began; start a new batch")
        if max_usd is not None:
            store.change(batch_id, max_usd=max_usd)
        is_streamed = Path(batch.out_path or "").parent == (store.directory / OUTPUTS).absolute()
    _run_and_report(config, batch, as_json, STANDARD if is_streamed else None, **engine_choice)


@command.command(epilog=EXAMPLES)
@click.argument("batch_id", metavar="[ID]", required=False)
@CONFIG_OPTION
@JSON_OPTION
def status(batch_id: str | None, config_path: Path, as_json: bool) -> None:
    """Show the progress of one batch, or of all."""
    from ..batches.results import explain_full_disk

    with _open_store(read_config(config_path, quiet=True)) as store:
        found = [_get_batch(store, batch_id)] if batch_id else store.list_all()
        waits = {batch.id: explain_full_disk(batch, store) for batch in found}
    if as_json:
        records = [_batch_json(batch, waits[batch.id]) for batch in found]
        click.echo(json.dumps(records[0] if batch_id else records, indent=2))
        return
    for batch in found:
        began = datetime.fromtimestamp(batch.times.get("created_at", 0))
        click.echo(f"{batch.id}  {began:%Y-%m-%d %H:%M}  {_format_batch(batch)}")
        if waits[batch.id] is not None:
            click.echo(f"  waits: {waits[batch.id]}")
        for error in batch.errors if batch_id else ():
            click.echo(f"  {_format_error(error)}")
    if not found:
        click.echo("no batches yet; `thalamus batch run IN.jsonl OUT.jsonl` starts one")


@command.command(epilog=EXAMPLES)
@click.argument("batch_id", metavar="ID")
@CONFIG_OPTION
@JSON_OPTION
def cancel(batch_id: str, config_path: Path, as_json: bool) -> None:
    """Cancel a batch. Its answers so far are kept; the process that works on it stops within a second."""
    from ..errors import GatewayError

    config = read_config(config_path, quiet=True)
    with _open_store(config) as store:
        _get_batch(store, batch_id)
    try:
        batch = asyncio.run(_cancel_batch(config, batch_id))
    except GatewayError as error:
        raise click.ClickException(error.message) from None
    click.echo(json.dumps(_batch_json(batch)) if as_json else _format_batch(batch))


async def _cancel_batch(config: "Config", batch_id: str) -> "Batch":
    from ..app import open_batches

    async with open_batches(config, calls=False) as jobs:
        batch = await jobs.cancel(batch_id, None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                while not batch.has_ended:
                    await asyncio.sleep(POLL_S)
                    batch = await jobs.find(batch_id, None)
        await jobs.stop()
        return batch


@contextlib.contextmanager
def _open_store(config: "Config") -> "Iterator[BatchStore]":
    from ..batches.store import BatchStore
    from ..storage.sqlite import StorageError

    try:
        store = BatchStore.open(config.batches_path)
    except StorageError as error:
        raise click.ClickException(str(error)) from None
    try:
        yield store
    finally:
        store.close()


def _get_batch(store: "BatchStore", batch_id: str) -> "Batch":
    batch = store.find_batch(batch_id)
    if batch is None:
        raise click.ClickException(f"there is no batch '{batch_id}'; `thalamus batch status` lists them")
    return batch


def _is_stream(path: Path) -> bool:
    """Whether it is standard input or output, a pipe or a device."""
    # /dev/stdout may lead to a file: it is one that the shell has opened, and meant to be written.
    return path == STANDARD or path.parts[:2] == ("/", "dev") or (os.path.exists(path) and not path.is_file())


def _open_folder(store: "BatchStore", name: str) -> Path:
    folder = store.directory / name
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder


def _keep_input(source: Path, target: Path) -> Path:
    """Copy what comes from a pipe to a file, because lines are read again as their turns come."""
    try:
        with (
            click.open_file(str(source), "rb") as read,
            open(target, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as write,
        ):
            shutil.copyfileobj(read, write)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise click.ClickException(f"{source} cannot be kept in {target.parent}: {error.strerror}") from None
    return target


def _check_output(store: "BatchStore", out: Path) -> None:
    """Refuse an output that would be overwritten, or cannot be written, before anything is paid.

    Raises:
        ClickException: it says what to do.
    """
    from ..batches.results import errors_path

    if _is_stream(out):
        return
    if not out.parent.is_dir():
        raise click.ClickException(f"the folder {out.parent} does not exist; create it first")
    for batch in store.list_all():
        if batch.out_path == str(out.absolute()) and not batch.has_ended:
            raise click.ClickException(
                f"{batch.id} writes to {out} and is not finished: thalamus batch resume {batch.id}"
            )
    for path in (out, errors_path(str(out))):
        if os.path.exists(path):
            raise click.ClickException(f"{path} already exists; remove it, or choose another name")
    # Written and taken away again: rights, quotas and file systems that are read-only show only so.
    partial = out.with_name(out.name + ".part")
    try:
        partial.write_bytes(b"\n")
        partial.unlink()
    except OSError as error:
        raise click.ClickException(
            f"{out} cannot be written: {error.strerror}; choose another place"
        ) from None


def _run_and_report(
    config: "Config",
    batch: "Batch",
    as_json: bool,
    stream: Path | None,
    engine: str,
    ray_address: str | None,
    workers: int | None,
) -> None:
    """Run a batch and print how it ended, beside a `stream` of its results that this is not mixed with.

    The exit status is 0 if every line was answered.
    """
    from routers import RoutersError

    from ..runners import RunnerError
    from ..storage.sqlite import StorageError

    began = time.monotonic()
    try:
        with _open_engine(config, engine, ray_address, workers) as batch_engine:
            done = asyncio.run(_run_batch(config, batch.id, batch_engine))
    except (OSError, sqlite3.Error, ValueError, StorageError, RoutersError, RunnerError) as error:
        raise click.ClickException(f"{error}; continue with: thalamus batch resume {batch.id}") from None
    if done is None:
        raise click.ClickException(
            f"another process already works on {batch.id}; see: thalamus batch status {batch.id}"
        )
    if stream is not None and done.has_ended:
        _send_results(done, stream)
        done = replace(done, out_path=None)
    click.echo(
        json.dumps(_batch_json(done))
        if as_json
        else f"{_format_batch(done)}, {time.monotonic() - began:.1f} s",
        err=stream is not None,
    )
    for fault in () if as_json else done.errors:
        click.echo(_format_error(fault), err=True)
    if not done.has_ended:
        click.echo(f"stopped; continue with: thalamus batch resume {done.id}", err=True)
        raise SystemExit(INTERRUPTED)
    if done.status != "completed" or done.n_failed:
        raise SystemExit(1)


def _send_results(batch: "Batch", stream: Path) -> None:
    """Copy the results to a stream and delete them.

    Raises:
        ClickException: it takes no more; the results are kept then.
    """
    from ..batches.results import errors_path

    kept = Path(batch.out_path or "")
    paths = [path for path in (kept, errors_path(str(kept))) if path.exists()]
    try:
        with click.open_file(str(stream), "wb") as write:
            for path in paths:
                with path.open("rb") as read:
                    shutil.copyfileobj(read, write)
            write.flush()
    except OSError as error:
        raise click.ClickException(f"{stream}: {error.strerror}; the answers are in {kept}") from None
    for path in paths:
        path.unlink()


@contextlib.contextmanager
def _open_engine(
    config: "Config", engine: str, address: str | None, n_workers: int | None
) -> "Iterator[BatchExecutor | None]":
    if engine == "here":
        yield None
        return
    from ..batches.ray_executor import ray_executor

    with ray_executor(config, address, n_workers) as batch_engine:
        yield batch_engine


async def _run_batch(config: "Config", batch_id: str, engine: "BatchExecutor | None") -> "Batch | None":
    from ..app import open_batches

    loop = asyncio.get_running_loop()
    async with open_batches(config, calls=engine is None, engine=engine) as jobs:
        # A signal stops the batch in order; cancelling the task would lose the answers of running calls.
        working = asyncio.ensure_future(jobs.run(batch_id))
        stopping: list[asyncio.Task[None]] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lambda: stopping.append(asyncio.ensure_future(jobs.stop())))
        try:
            await _show_progress(jobs, batch_id, working)
            return await working
        finally:
            working.cancel()
            await asyncio.gather(working, *stopping, return_exceptions=True)


async def _show_progress(jobs: "BatchService", batch_id: str, working: "asyncio.Task[Batch | None]") -> None:
    """Show a progress bar on a terminal until the batch ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[money]}"),
    )
    console = Console(stderr=True)
    if not console.is_terminal:
        await asyncio.wait({working})
        return
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("checking lines", total=None, money="")
        while not working.done():
            await asyncio.wait({working}, timeout=POLL_S)
            batch = await jobs.find(batch_id, None)
            progress.update(
                bar,
                description=jobs.describe_activity(batch_id)[:60],
                total=batch.n_total or None,
                completed=batch.n_completed + batch.n_failed,
                money=_format_spending(batch),
            )


def _format_spending(batch: "Batch") -> str:
    """Return the cost so far and the expected total cost."""
    done = batch.n_completed + batch.n_failed
    if not batch.cost_usd or not done:
        return f"{batch.n_failed} failed" if batch.n_failed else ""
    return f"${batch.cost_usd:.4f} of about ${batch.cost_usd / done * batch.n_total:.4f}"


def _format_batch(batch: "Batch") -> str:
    """Return a batch as one line."""
    from ..batches.results import errors_path

    if batch.status == "failed" and not batch.n_completed + batch.n_failed:
        return f"failed: {_explain_refusal(batch)}"
    said = f"{batch.status}: {batch.n_completed} of {batch.n_total} lines answered"
    if batch.n_failed:
        said += f", {batch.n_failed} failed"
    said += f", ${batch.cost_usd:.4f}"
    if batch.n_unpriced:
        said += f" and {batch.n_unpriced} answers of unknown price"
    if batch.out_path is None:
        return said
    written = [Path(batch.out_path)]
    if batch.has_ended:  # where every line failed, there is only the file of errors
        written = [path for path in (*written, errors_path(batch.out_path)) if path.exists()]
    return f"{said} → {' and '.join(map(str, written))}" if written else said


def _explain_refusal(batch: "Batch") -> str:
    """Why no line of a batch was sent; the errors themselves are told below."""
    from ..batches.lines import MAX_ERRORS

    lines = sorted({error.line for error in batch.errors if error.line is not None})
    if not lines:
        return "no line was sent, and nothing is written"
    of_all = f"of {batch.n_total} lines"
    if len(lines) == 1:
        return f"1 {of_all} is wrong (line {lines[0]}), so none was sent; correct it and start again"
    more = " or more" if len(batch.errors) >= MAX_ERRORS else ""
    return f"{len(lines)}{more} {of_all} are wrong, so none was sent; correct them and start again"


def _format_error(error: Any) -> str:
    engine_choice = f"line {error.line}: " if error.line is not None else ""
    return f"{engine_choice}{error.message} ({error.code})"


def _batch_json(batch: "Batch", waiting_for: str | None = None) -> dict[str, Any]:
    return {**batch.to_openai(waiting_for), "input_path": batch.input_path, "out_path": batch.out_path}
