"""`thalamus config`: check the configuration, print its schema, import one of LiteLLM or llama-swap."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import CONFIG_OPTION, JSON_OPTION, ConfigProblemsError

if TYPE_CHECKING:
    from ..config.importers import ImportedConfig

OUT_OPTION = click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Write here instead of to standard output."
)
EXAMPLES = """
\b
Examples:
  thalamus config check
  thalamus config schema > thalamus.schema.json
  thalamus config new-key laptop
  thalamus config import-litellm proxy_config.yaml > thalamus.yaml
  thalamus config import-llama-swap config.yaml > thalamus.yaml
"""


@click.group(epilog=EXAMPLES)
def command() -> None:
    """Check the configuration, print its schema, make a client's key, or import another's configuration."""


@command.command(
    epilog="\b\nExamples:\n  thalamus config check\n  thalamus config check deploy/thalamus.yaml"
)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@CONFIG_OPTION
@JSON_OPTION
@click.pass_context
def check(context: click.Context, file: Path | None, config_path: Path, as_json: bool) -> None:
    """Read the configuration as the gateway does, and print every error with its line.

    FILE is the same as --config FILE. An engine that is not installed here is a warning: the file may be
    meant for another machine.
    """
    from ..config import ConfigError, config_warnings, load_config
    from ..config.loading import check_heads, read_config_text
    from .doctor import list_runner_faults
    from .serve import explain_open_address

    if file is not None:
        if context.get_parameter_source("config_path") is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError("the configuration is given twice: as FILE and with --config; keep one")
        config_path = file
    try:
        config = load_config(config_path)
        check_heads(read_config_text(config_path), config, str(config_path))
    except ConfigError as error:
        if not as_json:
            raise ConfigProblemsError(str(error)) from None
        problems = [{"line": p.line, "field": p.field, "message": p.message} for p in error.problems]
        click.echo(json.dumps({"ok": False, "problems": problems, "warnings": []}, indent=2))
        # The exit status is that of the plain output, so that scripts can use either.
        raise SystemExit(1) from None
    warnings = config_warnings(config)
    for fault, fix in list_runner_faults(config):
        warnings.append(f"experts {fault}, so the gateway does not start on this machine; {fix}")
    if why := explain_open_address(config.server):
        warnings.append(f"server.host: {why}; until then `thalamus serve` does not start")
    if as_json:
        # Without an expert the gateway starts and answers no chat: that is not what a check may call good.
        click.echo(json.dumps({"ok": bool(config.experts), "problems": [], "warnings": warnings}, indent=2))
        raise SystemExit(0 if config.experts else 1)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if not config.experts:
        raise click.ClickException(f"{config_path}: no expert is configured, so no chat can be answered")
    policies = ", ".join(config.policies_by_name())
    click.echo(f"{config_path}: good. {len(config.experts)} experts; policies: {policies}")


@command.command(epilog="\b\nExample:\n  thalamus config schema > thalamus.schema.json")
def schema() -> None:
    """Print the JSON schema of thalamus.yaml: it describes every key, for editors."""
    from ..config.reference import config_schema

    click.echo(json.dumps(config_schema(), indent=2))


@command.command("new-key", epilog="\b\nExample:\n  thalamus config new-key laptop")
@click.argument("name", required=False)
def new_key(name: str | None) -> None:
    """Make a key for a client: prints the key, which is shown once, and its hash for server.keys."""
    from ..config.client_keys import format_hash, make_key

    key = make_key()
    click.echo(f"{key}\n\nserver:\n  keys:\n    {name or 'NAME'}: {format_hash(key)}")


@command.command(
    "import-litellm",
    epilog="\b\nExample:\n  thalamus config import-litellm proxy_config.yaml --out thalamus.yaml",
)
@click.argument("file", type=click.Path(path_type=Path))
@OUT_OPTION
def import_litellm(file: Path, out: Path | None) -> None:
    """Turn a LiteLLM proxy configuration into thalamus.yaml.

    Entries of one name and model become deployments of one expert. A name with several models becomes a
    policy that chooses between them. Names without a provider get theirs by LiteLLM's own rules. References
    to the environment stay references. What has no counterpart is listed in comments at the top.
    """
    from ..config.importers import import_litellm
    from ..experts.litellm import load_litellm
    from ..experts.profiles import price_table

    _import(file, out, lambda text: import_litellm(text, file.name, price_table(), load_litellm))


@command.command(
    "import-llama-swap",
    epilog="\b\nExample:\n  thalamus config import-llama-swap config.yaml --out thalamus.yaml",
)
@click.argument("file", type=click.Path(path_type=Path))
@OUT_OPTION
def import_llama_swap(file: Path, out: Path | None) -> None:
    """Turn a llama-swap configuration into thalamus.yaml.

    Each model becomes an expert whose engine is its command: macros are filled in, comments and line ends are
    read as a shell reads them, `${PORT}` stays. Aliases, environment, ttl and health path are kept. Models of
    peers become remote experts. What has no counterpart is listed in comments at the top.
    """
    from ..config.importers import import_llama_swap

    _import(file, out, lambda text: import_llama_swap(text, file.name))


def _import(file: Path, out: Path | None, convert: "Callable[[str], ImportedConfig]") -> None:
    """Read, convert, write, and say what was kept and what was not."""
    from routers.text_files import decode_text, write_file

    from ..config.importers import ImportFailedError

    if out is not None and out.exists():
        raise click.ClickException(f"{out} already exists; choose another name")
    if out is not None and not out.parent.is_dir():
        raise click.ClickException(f"{out}: there is no folder {out.parent}; make it, or choose another name")
    try:
        made = convert(decode_text(file.read_bytes()))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.ClickException(f"{file}: cannot be read: {reason}") from None
    except ImportFailedError as error:
        raise click.ClickException(f"{file}{error}") from None
    for line in made.notes.changed:
        click.echo(f"changed: {line}", err=True)
    for line in made.notes.lost:
        click.echo(f"not carried over: {line}", err=True)
    if not made.n_experts:
        raise click.ClickException(f"{file}: no expert can be made of it, so nothing is written")
    if out is None:
        click.echo(made.text, nl=False)
    else:
        try:
            write_file(out, made.text)
        except OSError as error:
            raise click.ClickException(f"{out}: cannot be written: {error.strerror}") from None
        click.echo(f"wrote {out}; `thalamus config check --config {out}` checks it")
    kept = f"kept: experts {made.n_experts}, aliases {made.n_aliases}"
    click.echo(f"{kept}; not carried over: lines {len(made.notes.lost)}", err=True)
