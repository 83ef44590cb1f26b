"""Terminal output of the commands: one line on failure, facts as a list, a progress bar on a terminal."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, ParamSpec, TypeVar

import click
import numpy as np

from routers import OutcomeTable, RoutersError

P = ParamSpec("P")
R = TypeVar("R")
TELL_EVERY_S = 5.0
OnProgress = Callable[[str, int, int], None]


def report_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn expected errors and failed writes into one line and exit status 1."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except RoutersError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'output'}: {error.strerror or error}") from None

    return run


@contextmanager
def progress_bar(tells_always: bool = False) -> Iterator[OnProgress]:
    """A bar on standard error if that is a terminal; else a silent one, or a line every few seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    # Standard output stays free for figures and JSON; a pipe or a log file gets no bar.
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}
        told_s = monotonic()

        def on_progress(what: str, done: int, total: int) -> None:
            nonlocal told_s
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, completed=bar.tasks[task].total)
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)
            if tells_always and not console.is_terminal and monotonic() - told_s >= TELL_EVERY_S:
                told_s = monotonic()
                click.echo(f"{what}: {done} of {total}", err=True)

        yield on_progress
        for task in tasks.values():
            bar.update(task, completed=bar.tasks[task].total)


def table_facts(table: OutcomeTable) -> dict[str, Any]:
    """A summary of an outcome table: size, coverage, best single expert, means per expert, provenance."""
    means = table.means()
    oracle = table.oracle()
    return {
        "n_queries": len(table),
        "n_tasks": len(set(table.tasks)),
        "measured": round(float((~np.isnan(table.score)).mean()), 4) if len(table) else 0.0,
        "best_single": table.experts[table.best_single()],
        "oracle": round(float(np.nanmean(oracle)), 4) if not np.isnan(oracle).all() else None,
        "experts": {
            name: {
                "model": table.models[e],
                **{
                    key: float(f"{values[e]:.4g}") for key, values in means.items() if not np.isnan(values[e])
                },
            }
            for e, name in enumerate(table.experts)
        },
        "source": table.provenance.source,
        "licence": table.provenance.licence,
        "cost_basis": table.provenance.cost_basis,
        "fingerprint": table.fingerprint,
    }


def print_facts(facts: Mapping[str, Any]) -> None:
    """One fact a line; nested facts indented."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            click.echo(f"{key}:")
            for name, values in value.items():
                shown = (
                    ", ".join(f"{k} {v}" for k, v in values.items())
                    if isinstance(values, Mapping)
                    else values
                )
                click.echo(f"  {name}: {shown}")
        elif value not in ("", None):
            click.echo(f"{key}: {value}")


def parse_numbers(values: Sequence[str], option: str, shape: str = "NAME=NUMBER") -> dict[str, float]:
    """The number of each name.

    Raises:
        click.BadParameter: one is not of this shape.
    """
    found = {}
    for name, value in (_split(pair, option, shape) for pair in values):
        try:
            found[name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{value!r} is no number", param_hint=option) from None
    return found


def parse_pairs(values: Sequence[str], option: str, shape: str) -> list[tuple[str, str]]:
    """Name and value of each, the name as long as it can be.

    Raises:
        click.BadParameter: one is not of this shape.
    """
    return [_split(pair, option, shape) for pair in values]


def _split(pair: str, option: str, shape: str) -> tuple[str, str]:
    # From the right: names may contain `=`.
    left, equals, right = pair.rpartition("=")
    if not equals or not left or not right:
        raise click.BadParameter(f"{pair!r} is not {shape}", param_hint=option)
    return left, right
