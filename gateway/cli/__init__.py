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
BUILTIN = ("init", "serve", "route", "batch", "profile", "runners", "config", "doctor")

EPILOG = """
\b
Start here:
  thalamus init        look for API keys and local models, write thalamus.yaml
  thalamus serve       serve on http://127.0.0.1:8080
"""


class CommandGroup(click.Group):
    """Sub-commands by entry point, loaded one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our own in the order of a first day, then what others add."""
        others = sorted(_find_commands().keys() - set(BUILTIN))
        return [*BUILTIN, *others]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or one that says why it cannot be loaded."""
        point = _find_commands().get(cmd_name)
        if point is None:
            return None
        try:
            command = point.load()
        except Exception as error:  # whatever a plug-in raises on import
            return _build_broken_command(cmd_name, point, error)
        if isinstance(command, click.Command):
            return command
        return _build_broken_command(cmd_name, point, TypeError(f"{point.value} is no click command"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name and summary of each."""
        with formatter.section("CommandGroup"):
            formatter.write_dl(list(_summarize_all(self.list_commands(ctx))))


def _summarize_all(names: list[str]) -> Iterator[tuple[str, str]]:
    found = _find_commands()
    for name in names:
        yield name, _summarize(found[name])


def _summarize(point: EntryPoint) -> str:
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


def _find_commands() -> dict[str, EntryPoint]:
    """Every command by name; ours cannot be replaced by another package's."""
    others = {point.name: point for point in entry_points(group=GROUP)}
    builtin = {name: EntryPoint(name, f"gateway.cli.{name}:command", GROUP) for name in BUILTIN}
    return {**others, **builtin}


def _build_broken_command(name: str, point: EntryPoint, error: Exception) -> click.Command:
    why = f"cannot be loaded from {point.value}: {type(error).__name__}: {error}".splitlines()[0]

    def explain(**_: Any) -> None:
        raise click.ClickException(f"the command '{name}' {why}")

    return click.Command(
        name,
        callback=explain,
        short_help=why,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


@click.command(cls=CommandGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="thalamus-gateway", prog_name="thalamus")
def main() -> None:
    """Learns which of your language models answers which prompt best, and sends each prompt there."""
