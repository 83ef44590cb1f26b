"""The command line: `thalamus COMMAND`. A command is loaded when it is used.

A command is an entry point of the group `thalamus.commands`; built-in commands need none. The list in
`thalamus --help` is read from the first lines of the modules, "`thalamus NAME`: what it does", and imports
none of them. A command that cannot be loaded says so in a line.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

GROUP = "thalamus.commands"
FIRST_LINE = re.compile(r'^"""`thalamus [\w-]+`: (.+?)\.?(?:""")?$')
UNKNOWN_COMMAND = re.compile(r"No such command '(.+?)'")
BUILTIN = ("init", "serve", "route", "batch", "profile", "skills", "runners", "config", "doctor")

EPILOG = """
\b
Start here:
  thalamus init        find API keys and local models, write thalamus.yaml
  thalamus serve       serve on http://127.0.0.1:8080
"""


class CommandGroup(click.Group):
    """Sub-commands by entry point, loaded one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the built-in commands in the order of first use, then those of other packages."""
        others = sorted(_find_commands().keys() - set(BUILTIN))
        return [*BUILTIN, *others]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, or one that prints why the command cannot be loaded."""
        point = _find_commands().get(cmd_name)
        if point is None:
            return None
        try:
            command = point.load()
        except Exception as error:  # a plug-in may raise anything on import
            return _build_broken_command(cmd_name, point, error)
        if isinstance(command, click.Command):
            return command
        return _build_broken_command(cmd_name, point, TypeError(f"{point.value} is no click command"))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a mistyped one, of this group or of one in it, gets the nearest name."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            within = error.ctx.command if error.ctx else None
            found = UNKNOWN_COMMAND.match(error.message)
            if error.ctx is None or not isinstance(within, click.Group) or found is None:
                raise
            near = get_close_matches(found[1], within.list_commands(error.ctx), n=1, cutoff=0.5)
            if not near or "did you mean" in error.message.lower():
                raise
            message = f"{error.message.rstrip('.')}; did you mean '{near[0]}'?"
            raise click.UsageError(message, error.ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the name and summary of each command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_summarize_all(self.list_commands(ctx))))


def _summarize_all(names: list[str]) -> Iterator[tuple[str, str]]:
    found = _find_commands()
    for name in names:
        yield name, _summarize(found[name])


def _summarize(point: EntryPoint) -> str:
    """Return the summary in the first line of the module, else the short help of the command."""
    try:
        spec = find_spec(point.module)
        if spec is None:
            return f"cannot be loaded: there is no module {point.module}"
        with Path(spec.origin or "").open(encoding="utf-8") as source:
            # Importing every command for a list would load numpy, starlette and aiohttp.
            match = FIRST_LINE.match(source.readline().rstrip())
        text: str = match[1] if match else point.load().get_short_help_str(limit=80)
    except Exception as error:  # a plug-in may raise anything on import
        return f"cannot be loaded: {type(error).__name__}: {error}".splitlines()[0]
    return text[0].upper() + text[1:]


def _find_commands() -> dict[str, EntryPoint]:
    """Return every command by name. Another package cannot replace a built-in command."""
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
    """Learns which language model answers which prompt best, and sends each prompt there."""
