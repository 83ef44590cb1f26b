"""`thalamus config`: check the configuration, print its schema, import one from LiteLLM."""

import json
from pathlib import Path

import click

from .options import CONFIG_OPTION, JSON_OPTION, ConfigProblemsError

EXAMPLES = """
\b
Examples:
  thalamus config check
  thalamus config schema > thalamus.schema.json
  thalamus config import-litellm proxy_config.yaml > thalamus.yaml
"""


@click.group(epilog=EXAMPLES)
def command() -> None:
    """Check the configuration, print its schema, or import one from LiteLLM."""


@command.command(epilog="\b\nExample:\n  thalamus config check --config deploy/thalamus.yaml")
@CONFIG_OPTION
@JSON_OPTION
def check(config_path: Path, as_json: bool) -> None:
    """Read the configuration as the gateway does, and print every error with its line."""
    from ..config import ConfigError, config_warnings, load_config

    try:
        config = load_config(config_path)
    except ConfigError as error:
        if not as_json:
            raise ConfigProblemsError(str(error)) from None
        problems = [{"line": p.line, "field": p.field, "message": p.message} for p in error.problems]
        click.echo(json.dumps({"ok": False, "problems": problems, "warnings": []}, indent=2))
        # The exit status is that of the plain output, so that scripts can use either.
        raise SystemExit(1) from None
    warnings = config_warnings(config)
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


@command.command(
    "import-litellm",
    epilog="\b\nExample:\n  thalamus config import-litellm proxy_config.yaml > thalamus.yaml",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Write here instead of to standard output."
)
def import_litellm(file: Path, out: Path | None) -> None:
    """Turn a LiteLLM proxy configuration into thalamus.yaml.

    Entries of one name become deployments of one expert. References to the environment stay references. What
    has no counterpart is listed in comments at the top.
    """
    from routers.text_files import decode_text

    from ..config.importers import ImportFailedError, import_litellm

    try:
        text, lost = import_litellm(decode_text(file.read_bytes()), file.name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.ClickException(f"{file}: cannot be read: {reason}") from None
    except ImportFailedError as error:
        raise click.ClickException(f"{file}{error}") from None
    if out is None:
        click.echo(text, nl=False)
    elif out.exists():
        raise click.ClickException(f"{out} already exists; choose another name")
    else:
        out.write_text(text, encoding="utf-8")
        click.echo(f"wrote {out}; `thalamus config check --config {out}` checks it")
    for line in lost:
        click.echo(f"not carried over: {line}", err=True)
