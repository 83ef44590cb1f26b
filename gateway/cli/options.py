"""What several commands share: where the configuration is, and how its faults are told."""

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
    """An amount of money; `nan` is none, though it is a float, and would bound nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        usd = float(super().convert(value, param, ctx))
        if not math.isfinite(usd):
            self.fail(f"{value!r} is not a number of dollars", param, ctx)
        return usd


class ConfigProblemsError(click.ClickException):
    """Problems that come with their places, one a line; nothing in front of them."""

    def show(self, file: object = None) -> None:
        click.echo(self.message, err=True)


def read_config(path: Path, quiet: bool = False) -> "Config":
    """The configuration in a file; warnings go to standard error.

    Raises:
        SeveralProblemsError: it cannot be used.
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
