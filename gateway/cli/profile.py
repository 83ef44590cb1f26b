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
from ..experts.openai_compatible import Transport
from ..experts.profiles import profile_of
from ..runners import RunnerError, Runners
from ..runners.build import build_pool_rule, build_runner_settings
from .options import CONFIG_OPTION, JSON_OPTION, Dollars, read_config
from .profiling import (
    AnswerStore,
    ExpertUnderTest,
    GradableProbe,
    GradedAnswer,
    ask_all,
    build_outcome_table,
    load_entry_point,
    upper_cost_usd,
)

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
    help="File of your own probes, JSON lines. Default: the bundled probes.",
)
@click.option("--experts", "names", help="Ask only these, comma-separated.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("outcomes.jsonl.gz"),
    show_default=True,
    help="Outcome table to write.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Calls at a time to each expert.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask only the first N probes.")
@click.option(
    "--max-usd",
    type=Dollars(min=0),
    help="Start without confirmation if the cost in USD cannot exceed this.",
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

    The highest possible price is shown before the first call. Every answer is kept in OUT.answers at once:
    after an interruption, the same command continues where it stopped.
    """
    config = read_config(config_path)
    experts = _select_experts(config, names)
    probes = _load_probes(probes_path)[:limit]
    _confirm_price(probes, experts, max_usd)
    try:
        store = AnswerStore(out.with_name(out.name + ".answers"))
        table = asyncio.run(_run_profile(config, experts, probes, store, parallel))
        table.save(out)
    except (RunnerError, RoutersError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    _show_report(table, store.errors(), out, as_json)


def _load_probes(path: Path | None) -> list[GradableProbe]:
    """Load the probes of a file, or the bundled ones.

    Raises:
        ClickException: a probe is not valid; the message names file, line and field.
    """
    try:
        probes: list[GradableProbe] = load_entry_point("thalamus.probes")(path)
    except (LookupError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    return probes


def _select_experts(config: Config, names: str | None) -> list[ExpertConfig]:
    """Return the experts to ask; embedding models have no answers to grade."""
    askable = {expert.name: expert for expert in config.experts if not expert.embeds}
    if not askable:
        raise click.ClickException("no experts are configured that can answer; `thalamus init` finds some")
    wanted = [name.strip() for name in names.split(",")] if names else list(askable)
    if unknown := [name for name in wanted if name not in askable]:
        raise click.UsageError(f"no expert {unknown[0]!r} in the configuration; it has {', '.join(askable)}")
    return [askable[name] for name in wanted]


def _confirm_price(
    probes: Sequence[GradableProbe], experts: Sequence[ExpertConfig], max_usd: float | None
) -> None:
    """Print the highest possible cost, and continue only with consent."""
    most = upper_cost_usd(probes, [profile_of(expert) for expert in experts])
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
    # Free experts need no consent. An unknown price always does: --max-usd cannot bound it.
    if (not unknown and total == 0) or (max_usd is not None and not unknown and total <= max_usd):
        return
    if max_usd is not None:
        raise click.ClickException(
            f"the cost may exceed --max-usd {max_usd:g}; reduce it with --limit or --experts"
        )
    click.confirm("Go ahead?", abort=True, err=True)


async def _run_profile(
    config: Config,
    experts: Sequence[ExpertConfig],
    probes: Sequence[GradableProbe],
    store: AnswerStore,
    parallel: int,
) -> OutcomeTable:
    wanted = {
        name: s for name, s in build_runner_settings(config).items() if name in {e.name for e in experts}
    }
    transport, runners = Transport(), Runners(wanted, rule=build_pool_rule(config))
    candidates = [
        ExpertUnderTest(
            build_expert(expert, config.timeouts, transport, runners),
            profile_of(expert).model,
            expert_price(expert),
            logprobs=expert.runner is not None,
            # Equal settings share one process, so that they also share a lane.
            lane=wanted.get(expert.name),
        )
        for expert in experts
    ]
    await transport.open()
    try:
        await runners.start()
        # The first question would otherwise measure the time of the load.
        await runners.wait_settled()
        await _ask_experts(probes, candidates, store, parallel)
    finally:
        await asyncio.gather(*(candidate.expert.close() for candidate in candidates))
        await runners.stop()
        await transport.close()
    where = Provenance(
        source="thalamus profile",
        cost_basis="measured tokens at configured prices",
        notes=f"asked {date.today():%Y-%m-%d}",
    )
    return build_outcome_table(probes, candidates, store, where)


async def _ask_experts(
    probes: Sequence[GradableProbe], candidates: Sequence[ExpertUnderTest], store: AnswerStore, parallel: int
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
        for candidate in candidates:
            name = candidate.expert.name
            scores[name] = [a.score or 0.0 for probe in probes if (a := store.find(probe, candidate))]
            bars[name] = progress.add_task(name, total=len(probes), completed=len(scores[name]), score="")

        def on_answer(answer: GradedAnswer) -> None:
            so_far = scores[answer.expert]
            so_far.append(answer.score or 0.0)
            progress.update(bars[answer.expert], advance=1, score=f"score {sum(so_far) / len(so_far):.2f}")

        await ask_all(
            probes,
            candidates,
            load_entry_point("thalamus.graders"),
            store,
            n_parallel=parallel,
            on_answer=on_answer,
        )


def _show_report(table: OutcomeTable, errors: Sequence[GradedAnswer], out: Path, as_json: bool) -> None:
    means = table.means()
    shown = Table("expert", "score", "seconds", "USD an answer")
    facts = []
    for e, name in enumerate(table.experts):
        score, latency_s, cost = (_round(means[m][e]) for m in ("score", "latency_s", "cost_usd"))
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
            f"{len(errors)} probes got no answer ({first} ...); run the command again to repeat them",
            err=True,
        )


def _round(value: float) -> float | None:
    return None if value != value else float(f"{value:.4g}")
