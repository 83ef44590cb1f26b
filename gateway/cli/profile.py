"""`thalamus profile`: ask the experts gradable probes, grade the answers, write an outcome table."""

import asyncio
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from routers import OutcomeTable, Provenance, RoutersError

from ..app import expert_price
from ..config import Config, ExpertConfig
from ..experts import build_expert
from ..experts.profiles import profile_of
from ..experts.transport import Transport
from ..runner_build import pool_rule, runner_settings
from ..runners import RunnerError, Runners
from .options import CONFIG_OPTION, JSON_OPTION, Dollars, configuration
from .profiling import Answer, Notebook, Probe, Subject, ask_all, door, outcome_table, price_usd

EXAMPLES = """
\b
Examples:
  thalamus profile                                  the bundled probes, every expert
  thalamus profile --probes mine.jsonl --experts gpt-5-mini,house-llama --max-usd 2
  thalamus fit outcomes.jsonl.gz                    then learn from what was measured
"""


@click.command(epilog=EXAMPLES)
@CONFIG_OPTION
@click.option(
    "--probes",
    "probes_path",
    type=click.Path(path_type=Path),
    help="Your own probes, JSON lines; else the bundled ones.",
)
@click.option("--experts", "names", help="Ask only these, comma-separated.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("outcomes.jsonl.gz"),
    show_default=True,
    help="The outcome table.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Questions at a time per expert.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask only the first N probes.")
@click.option(
    "--max-usd",
    type=Dollars(min=0),
    help="Ask without confirmation if it can cost no more than this.",
)
@JSON_OPTION
def command(
    config_path: Path,
    probes_path: Path | None,
    names: str | None,
    out: Path,
    parallel: int,
    limit: int | None,
    max_usd: float | None,
    as_json: bool,
) -> None:
    """Ask the experts gradable probes, grade what they answer, and write an outcome table to learn from.

    The price is shown before anything is asked. Every answer is kept as it comes in OUT.answers: interrupt it
    whenever you like, run the same command again and it goes on where it stopped.
    """
    config = configuration(config_path)
    experts = _chosen(config, names)
    probes = _probes(probes_path)[:limit]
    _agree_on_price(probes, experts, max_usd)
    try:
        notebook = Notebook(out.with_name(out.name + ".answers"))
        table = asyncio.run(_profile(config, experts, probes, notebook, parallel))
        table.save(out)
    except (RunnerError, RoutersError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    _report(table, notebook.errors(), out, as_json)


def _probes(path: Path | None) -> list[Probe]:
    """Those of a file, or the bundled ones.

    Raises:
        ClickException: they cannot be used; names file, line and field.
    """
    try:
        probes: list[Probe] = door("thalamus.probes")(path)
    except (LookupError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    return probes


def _chosen(config: Config, names: str | None) -> list[ExpertConfig]:
    """The experts to ask; embedding models have no answers to grade."""
    askable = {expert.name: expert for expert in config.experts if not expert.embeds}
    if not askable:
        raise click.ClickException(
            "no experts are configured that can be asked; `thalamus init` looks for some"
        )
    wanted = [name.strip() for name in names.split(",")] if names else list(askable)
    if unknown := [name for name in wanted if name not in askable]:
        raise click.UsageError(f"no expert {unknown[0]!r} in the configuration; it has {', '.join(askable)}")
    return [askable[name] for name in wanted]


def _agree_on_price(probes: Sequence[Probe], experts: Sequence[ExpertConfig], max_usd: float | None) -> None:
    """Say what it can cost at most, and go on only with consent."""
    most = price_usd(probes, [profile_of(expert) for expert in experts])
    unknown = [name for name, usd in most.items() if usd is None]
    total = sum(usd or 0.0 for usd in most.values())
    paid = ", ".join(f"{name} ${usd:.4f}" for name, usd in most.items() if usd)
    click.echo(
        f"{len(probes)} probes × {len(experts)} experts; at most ${total:.4f}{f' ({paid})' if paid else ''}",
        err=True,
    )
    if unknown:
        click.echo(
            f"price unknown: {', '.join(unknown)} (set input_cost_per_token and output_cost_per_token)",
            err=True,
        )
    if (not unknown and total == 0) or (max_usd is not None and not unknown and total <= max_usd):
        return
    if max_usd is not None:
        raise click.ClickException(
            f"it may cost more than --max-usd {max_usd:g}; ask fewer with --limit or --experts"
        )
    click.confirm("Go ahead?", abort=True, err=True)


async def _profile(
    config: Config,
    experts: Sequence[ExpertConfig],
    probes: Sequence[Probe],
    notebook: Notebook,
    parallel: int,
) -> OutcomeTable:
    wanted = {name: s for name, s in runner_settings(config).items() if name in {e.name for e in experts}}
    transport, runners = Transport(), Runners(wanted, rule=pool_rule(config))
    subjects = [
        Subject(
            build_expert(expert, config.timeouts, transport, runners),
            profile_of(expert).model,
            expert_price(expert),
            logprobs=expert.runner is not None,
            lane=wanted.get(expert.name),
        )
        for expert in experts
    ]
    await transport.open()
    try:
        await runners.start()
        await runners.settled()
        await _ask(probes, subjects, notebook, parallel)
    finally:
        await asyncio.gather(*(subject.expert.close() for subject in subjects))
        await runners.stop()
        await transport.close()
    where = Provenance(
        source="thalamus profile",
        cost_basis="measured tokens at configured prices",
        notes=f"asked {date.today():%Y-%m-%d}",
    )
    return outcome_table(probes, subjects, notebook, where)


async def _ask(
    probes: Sequence[Probe], subjects: Sequence[Subject], notebook: Notebook, parallel: int
) -> None:
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[score]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars: dict[str, TaskID] = {}
        scores: dict[str, list[float]] = {}
        for subject in subjects:
            name = subject.expert.name
            scores[name] = [a.score or 0.0 for probe in probes if (a := notebook.of(probe, subject))]
            bars[name] = progress.add_task(name, total=len(probes), completed=len(scores[name]), score="")

        def told(answer: Answer) -> None:
            so_far = scores[answer.expert]
            so_far.append(answer.score or 0.0)
            progress.update(bars[answer.expert], advance=1, score=f"score {sum(so_far) / len(so_far):.2f}")

        await ask_all(probes, subjects, door("thalamus.graders"), notebook, n_parallel=parallel, told=told)


def _report(table: OutcomeTable, errors: Sequence[Answer], out: Path, as_json: bool) -> None:
    means = table.means()
    shown = Table("expert", "score", "seconds", "USD an answer")
    facts = []
    for e, name in enumerate(table.experts):
        score, latency_s, cost = (_known(means[m][e]) for m in ("score", "latency_s", "cost_usd"))
        facts.append({"expert": name, "score": score, "latency_s": latency_s, "cost_usd": cost})
        shown.add_row(
            name, *("unknown" if value is None else f"{value:g}" for value in (score, latency_s, cost))
        )
    if as_json:
        found = {"out": str(out), "queries": len(table), "experts": facts, "errors": len(errors)}
        click.echo(json.dumps(found))
    else:
        Console().print(shown)
        click.echo(f"Wrote {out}. Next: thalamus fit {out}")
    if errors:
        first = f"{errors[0].expert}: {errors[0].error}"
        click.echo(
            f"{len(errors)} questions got no answer ({first} ...); run again to ask them again", err=True
        )


def _known(value: float) -> float | None:
    return None if value != value else float(f"{value:.4g}")
