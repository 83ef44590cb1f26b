"""The command line: `thalamus COMMAND`, each command found by name when it is called for.

A command is an entry point of the group `thalamus.commands`; those of this package are known without being
installed. Only the one that is called is imported: the list of all is made from the first lines of their
modules, which read "`thalamus NAME`: what it does". One that cannot be loaded says so in a line.
"""

import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

GROUP = "thalamus.commands"
FIRST_LINE = re.compile(r'^"""`thalamus [\w-]+`: (.+?)\.?(?:""")?$')
OWN = ("init", "serve", "route", "batch", "profile", "runners", "config", "doctor")

EPILOG = """
\b
Start here:
  thalamus init        look for API keys and local models, write thalamus.yaml
  thalamus serve       serve on http://127.0.0.1:8080
"""


class Commands(click.Group):
    """Sub-commands by entry point, loaded one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our own in the order of a first day, then what others add."""
        others = sorted(_found().keys() - set(OWN))
        return [*OWN, *others]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or one that says why it cannot be loaded."""
        point = _found().get(cmd_name)
        if point is None:
            return None
        try:
            command = point.load()
        except Exception as error:  # whatever a plug-in raises on import
            return _broken(cmd_name, point, error)
        if isinstance(command, click.Command):
            return command
        return _broken(cmd_name, point, TypeError(f"{point.value} is no click command"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name and summary of each."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_summaries(self.list_commands(ctx))))


def _summaries(names: list[str]) -> Iterator[tuple[str, str]]:
    found = _found()
    for name in names:
        yield name, _summary(found[name])


def _summary(point: EntryPoint) -> str:
    """What the first line of the module says; where it says nothing, the command itself is asked."""
    try:
        spec = find_spec(point.module)
        if spec is None:
            return f"cannot be loaded: there is no module {point.module}"
        with Path(spec.origin or "").open(encoding="utf-8") as source:
            match = FIRST_LINE.match(source.readline().rstrip())
        text: str = match[1] if match else point.load().get_short_help_str(limit=80)
    except Exception as error:  # whatever a plug-in raises on import
        return f"cannot be loaded: {type(error).__name__}: {error}".splitlines()[0]
    return text[0].upper() + text[1:]


def _found() -> dict[str, EntryPoint]:
    """Every command by name; ours cannot be replaced by another package's."""
    others = {point.name: point for point in entry_points(group=GROUP)}
    own = {name: EntryPoint(name, f"gateway.cli.{name}:command", GROUP) for name in OWN}
    return {**others, **own}


def _broken(name: str, point: EntryPoint, error: Exception) -> click.Command:
    why = f"cannot be loaded from {point.value}: {type(error).__name__}: {error}".splitlines()[0]

    def say_why(**_: Any) -> None:
        raise click.ClickException(f"the command '{name}' {why}")

    return click.Command(
        name,
        callback=say_why,
        short_help=why,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


@click.command(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="thalamus-gateway", prog_name="thalamus")
def main() -> None:
    """Learns which of your language models answers which prompt best, and sends each prompt there."""
