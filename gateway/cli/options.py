"""Options and helpers of several commands: `--config`, `--json`, amounts of money."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..config import Config

CONFIG_OPTION = click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("thalamus.yaml"),
    envvar="THALAMUS_CONFIG",
    show_default=True,
    help="The configuration to read.",
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Dollars(click.FloatRange):
    """An amount in USD. `nan` is refused: it is a float, and as a limit it would bound nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        usd = float(super().convert(value, param, ctx))
        # FloatRange lets nan pass, because every comparison with nan is false.
        if not math.isfinite(usd):
            self.fail(f"{value!r} is not an amount in USD", param, ctx)
        return usd


class ConfigProblemsError(click.ClickException):
    """Configuration errors, one a line, printed without a prefix: each begins with its file and line."""

    def show(self, file: object = None) -> None:
        click.echo(self.message, err=True)


def read_config(path: Path, quiet: bool = False) -> "Config":
    """Read the configuration; warnings go to standard error.

    Raises:
        ConfigProblemsError: the file has errors.
    """
    from ..config import ConfigError, config_warnings, load_config

    try:
        config = load_config(path)
    except ConfigError as error:
        raise ConfigProblemsError(str(error)) from None
    if not quiet:
        for warning in config_warnings(config):
            click.echo(f"warning: {warning}", err=True)
    return config
