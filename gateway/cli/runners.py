"""`thalamus runners`: list, load and unload local engines of a running gateway, and read their logs."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click
import msgspec

from .options import CONFIG_OPTION, JSON_OPTION, read_config

if TYPE_CHECKING:
    from ..config import ServerConfig

EXAMPLES = """
\b
Examples:
  thalamus runners
  thalamus runners load house-llama
  thalamus runners unload house-llama
  thalamus runners logs house-llama --url http://127.0.0.1:9000
"""
URL_OPTION = click.option("--url", help="Address of the gateway. Default: server.host and server.port.")
TIMEOUT_S = 600.0


class RunnerRow(msgspec.Struct):
    """What a gateway says of one engine."""

    id: str
    state: str
    device: str
    pinned: bool
    memory_bytes: int | None
    load_s: float | None
    n_in_flight: int
    n_waiting: int
    n_loads: int
    n_restarts: int
    last_error: str | None


class MemoryRow(msgspec.Struct):
    """What a gateway says of one device."""

    name: str
    held_bytes: int
    capacity_bytes: int | None
    free_bytes: int | None


class RunnerPage(msgspec.Struct):
    """The answer to a list."""

    data: list[RunnerRow]
    memory: list[MemoryRow]


class RunnerLog(msgspec.Struct):
    """The answer to a request for a log."""

    lines: list[str]


class _RefusalText(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    error: _RefusalText


Answer = TypeVar("Answer", bound=msgspec.Struct)
COLUMNS = ("runner", "state", "device", "memory", "load s", "busy", "waiting", "loads", "restarts")


@click.group(epilog=EXAMPLES, invoke_without_command=True)
@CONFIG_OPTION
@URL_OPTION
@JSON_OPTION
@click.pass_context
def command(ctx: click.Context, config_path: Path, url: str | None, as_json: bool) -> None:
    """List the local engines of a running gateway; load one, unload one, read its log."""
    if ctx.invoked_subcommand is None:
        _show_runners(*_request(RunnerPage, "GET", "", config_path, url), as_json)


@command.command("list", epilog="\b\nExample:\n  thalamus runners list --json")
@CONFIG_OPTION
@URL_OPTION
@JSON_OPTION
def list_(config_path: Path, url: str | None, as_json: bool) -> None:
    """List the engines, their states and the memory they share."""
    _show_runners(*_request(RunnerPage, "GET", "", config_path, url), as_json)


@command.command(epilog="\b\nExample:\n  thalamus runners load house-llama")
@click.argument("expert")
@CONFIG_OPTION
@URL_OPTION
@JSON_OPTION
def load(expert: str, config_path: Path, url: str | None, as_json: bool) -> None:
    """Load an engine now; others are evicted to make room."""
    _show_runner(*_request(RunnerRow, "POST", f"/{quote(expert)}/load", config_path, url), as_json)


@command.command(epilog="\b\nExample:\n  thalamus runners unload house-llama")
@click.argument("expert")
@CONFIG_OPTION
@URL_OPTION
@JSON_OPTION
def unload(expert: str, config_path: Path, url: str | None, as_json: bool) -> None:
    """Unload an engine; the next request loads it again."""
    _show_runner(*_request(RunnerRow, "POST", f"/{quote(expert)}/unload", config_path, url), as_json)


@command.command(epilog="\b\nExample:\n  thalamus runners logs house-llama")
@click.argument("expert")
@CONFIG_OPTION
@URL_OPTION
@JSON_OPTION
def logs(expert: str, config_path: Path, url: str | None, as_json: bool) -> None:
    """Print the last lines of an engine's log."""
    log, raw = _request(RunnerLog, "GET", f"/{quote(expert)}/logs", config_path, url)
    click.echo(json.dumps(raw, indent=2) if as_json else "\n".join(log.lines))


def _request(
    kind: type[Answer], method: str, path: str, config_path: Path, url: str | None
) -> tuple[Answer, Any]:
    """Send a request to the running gateway; its answer, and the same as plain JSON values.

    Raises:
        ClickException: no gateway answers, or it refuses.
    """
    import httpx

    from ..config import ServerConfig

    # With an address the file is needed for its key alone, which THALAMUS_API_KEY may hold too.
    is_needed = url is None or config_path.exists()
    server = read_config(config_path, quiet=True).server if is_needed else ServerConfig()
    # A wildcard address can be listened on, not called. trust_env=False keeps proxies out of the call.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 (called, not bound)
    base = url or f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
    key = _find_key(server)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http:
            response = http.request(method, f"{base.rstrip('/')}/v1/runners{path}", headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise click.ClickException(
            f"no gateway answers at {base}: {error}; `thalamus serve` starts one, --url names another"
        ) from None
    try:
        if response.status_code != 200:
            raise click.ClickException(msgspec.json.decode(response.content, type=_Refusal).error.message)
        return msgspec.json.decode(response.content, type=kind), json.loads(response.content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise click.ClickException(
            f"the server at {base} is not a Thalamus gateway: {method} /v1/runners{path} gave status"
            f" {response.status_code} with another body; --url names the gateway"
        ) from None


def _find_key(server: "ServerConfig") -> str | None:
    """A key that the gateway accepts; where the configuration has hashes only, THALAMUS_API_KEY holds it.

    Raises:
        ClickException: it is not set.
    """
    from ..config.client_keys import is_hash

    keys = [key.reveal() for values in server.keys_by_name().values() for key in values]
    plain = (key for key in keys if not is_hash(key))
    found = next(plain, None) or os.environ.get("THALAMUS_API_KEY")
    if keys and found is None:
        raise click.ClickException(
            "the configuration has only hashes of keys: set THALAMUS_API_KEY to a key of this gateway"
        )
    return found


def _show_runners(page: RunnerPage, raw: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(raw, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    for runner in page.data:
        table.add_row(
            runner.id + (" (pinned)" if runner.pinned else ""),
            runner.state,
            runner.device,
            _format_size(runner.memory_bytes),
            "" if runner.load_s is None else f"{runner.load_s:.2f}",
            *map(str, (runner.n_in_flight, runner.n_waiting, runner.n_loads, runner.n_restarts)),
        )
    Console().print(table)
    for device in page.memory:
        free = f", {_format_size(device.free_bytes)} free on it" if device.free_bytes is not None else ""
        held, capacity = _format_size(device.held_bytes), _format_size(device.capacity_bytes)
        click.echo(f"{device.name}: {held} of {capacity or 'any amount'} held{free}")
    for runner in page.data:
        if runner.last_error:
            click.echo(f"{runner.id}: {runner.last_error}")


def _show_runner(runner: RunnerRow, raw: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(raw, indent=2))
    else:
        held = _format_size(runner.memory_bytes)
        click.echo(f"{runner.id} is {runner.state}" + (f" ({held})" if held else ""))


def _format_size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return ""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
