"""`thalamus profile`: ask the experts gradable probes, grade the answers, add to an outcome table."""

import asyncio
import json
import math
import os
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from routers import OutcomeTable, Provenance, RoutersError, add_outcomes, rate_interval, show_rate
from routers.text_files import decode_text

from ..app import expert_price
from ..config import Config, ExpertConfig
from ..errors import suggest
from ..experts import UpstreamError, build_expert
from ..experts.http_client import Transport
from ..experts.litellm import LiteLLMExpert
from ..experts.profiles import profile_of
from ..runners import RunnerError, Runners
from ..runners.build import build_pool_rule, build_runner_settings
from .judging import (
    RUBRIC,
    Judge,
    JudgeReport,
    apply_verdicts,
    build_questions,
    find_verdicts,
    price_questions,
    read_verdict,
    report_judge,
)
from .options import CONFIG_OPTION, JSON_OPTION, Dollars, read_config
from .profiling import (
    JUDGE,
    AnswerStore,
    ExpertUnderTest,
    GradableProbe,
    GradedAnswer,
    GradeFunction,
    ask_all,
    build_outcome_table,
    load_entry_point,
    mask_answered,
    upper_cost_usd,
)

EXAMPLES = """
\b
Examples:
  thalamus profile                                  the bundled probes, every expert
  thalamus profile --probes mine.jsonl --experts gpt-5-mini,house-llama --max-usd 2
  thalamus profile --probes mine.jsonl --judge gpt-5        open-ended prompts too
  thalamus fit outcomes.jsonl.gz                    then learn from what was measured
"""


@click.command(epilog=EXAMPLES)
@CONFIG_OPTION
@click.option(
    "--probes",
    "probes_path",
    type=click.Path(path_type=Path),
    help="File of your own probes (JSON lines, JSON or CSV). Default: the bundled probes.",
)
@click.option("--experts", "names", help="Ask only these, comma-separated.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("outcomes.jsonl.gz"),
    show_default=True,
    help="Outcome table to add to.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Calls at a time to each expert.",
)
@click.option("--judge", "judge_name", help="Expert that compares answers which no code can grade.")
@click.option(
    "--rubric",
    type=click.Path(path_type=Path),
    help="File that tells the judge what a good answer is.",
)
@click.option(
    "--judge-checks",
    "n_checks",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Pairs graded by code that the judge compares too, to tell how far it can be trusted.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask only the first N probes.")
@click.option(
    "--max-usd",
    type=Dollars(min=0),
    help="Start without confirmation if the cost in USD cannot exceed this.",
)
@click.option(
    "--fresh", is_flag=True, help="Start anew; what OUT and OUT.answers hold is kept as OUT.DATE.bak."
)
@JSON_OPTION
def command(
    config_path: Path,
    probes_path: Path | None,
    names: str | None,
    out: Path,
    parallel: int,
    judge_name: str | None,
    rubric: Path | None,
    n_checks: int,
    limit: int | None,
    max_usd: float | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Ask the experts gradable probes, grade what they answer, and add it to an outcome table to learn from.

    What OUT holds already stays: other experts, other probes, earlier models. The highest possible price is
    shown before the first call. Every answer is kept in OUT.answers at once: after an interruption, the same
    command continues where it stopped, and what was answered is not asked again.

    With --judge, an expert compares the answers to open-ended probes in pairs, in both orders. An answer's
    score is the share of the comparisons it wins, ties counting half; OUT.verdicts keeps the verdicts.
    """
    config = read_config(config_path)
    experts = select_experts(config, names)
    probes = load_probes(probes_path)[:limit]
    judge = _select_judge(config, judge_name, rubric, n_checks)
    _check_graders(probes, judge)
    files = [out, *(out.with_name(f"{out.name}.{part}") for part in ("answers", "verdicts"))]
    try:
        # Read before anything is paid for: a table that cannot be added to would cost all answers.
        earlier = OutcomeTable.load(out) if out.exists() and not fresh else None
        store = AnswerStore(Path(os.devnull) if fresh else files[1], earlier)
        _confirm_price(probes, experts, store, judge, earlier, max_usd)
        if fresh:
            _back_up(*files)
            store = AnswerStore(files[1])
        table = asyncio.run(_run_profile(config, experts, probes, store, parallel))
        measured = _keep_measured(table)
        n_failed = _report_failures(table, store)
        if measured is None:
            raise click.ClickException(f"no expert gave an answer; {out} stays as it was")
        # Read again: another command may have added to it in the meantime.
        whole = add_outcomes(OutcomeTable.load(out), measured) if out.exists() else measured
        whole.save(out)
        judged = None
        if judge:
            verdicts = AnswerStore(files[2])
            whole, report = asyncio.run(_run_judge(config, judge, whole, probes, verdicts, parallel))
            whole.save(out)
            judged = (judge.expert.name, report)
            measured = whole.only(measured.experts).take(np.isin(whole.ids, measured.ids))
    except (RunnerError, RoutersError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {files[1]} keeps what was answered; the same command goes on.", err=True)
        raise click.Abort from None
    _show_report(measured, whole, n_failed, out, as_json, judged)


def _back_up(*paths: Path) -> None:
    """Move files aside under a name with the date, and say where they are."""
    stamp = f"{datetime.now():%Y-%m-%dT%H-%M-%S}"
    for path in paths:
        if path.exists():
            kept = path.with_name(f"{path.name}.{stamp}.bak")
            path.rename(kept)
            click.echo(f"kept {path} as {kept}", err=True)


def _keep_measured(table: OutcomeTable) -> OutcomeTable | None:
    """The experts and probes with at least one answer; None where there is none at all."""
    answered = mask_answered(table)  # (n_queries, n_experts)
    names = [name for name, column in zip(table.experts, answered.T, strict=True) if column.any()]
    return table.only(names).take(np.flatnonzero(answered.any(axis=1))) if names else None


def _report_failures(table: OutcomeTable, store: AnswerStore) -> int:
    """Say of each expert how many probes got no answer, what it did, and the fix; return how many in all."""
    n_failed = 0
    for name, column in zip(table.experts, mask_answered(table).T, strict=True):
        failures = store.failures(name)
        if not failures:
            continue
        last = failures[-1]
        missing = len(column) - int(column.sum())
        n_failed += missing
        click.echo(f"{name}: {missing} of {len(column)} probes without an answer: it {last.error}", err=True)
        click.echo(f"  fix: {last.fix}", err=True)
    return n_failed


def load_probes(path: Path | None) -> list[GradableProbe]:
    """Load the probes of a file, or the bundled ones.

    Raises:
        ClickException: a probe is not valid; the message names file, line and field.
    """
    try:
        probes: list[GradableProbe] = load_entry_point("thalamus.probes")(path)
    except (LookupError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    return probes


def _check_graders(probes: Sequence[GradableProbe], judge: Judge | None) -> None:
    """Refuse probes that neither code nor a judge can grade, before anything is asked.

    Raises:
        ClickException: names the first.
    """
    open_ended = [probe for probe in probes if probe.grader == JUDGE]
    if open_ended and judge is None:
        raise click.ClickException(
            f"{len(open_ended)} of {len(probes)} probes have no answer that code can compare"
            f" ({open_ended[0].prompt[:60]!r} ...); give them an `answer`, or a judge: --judge EXPERT"
        )


def _select_judge(config: Config, name: str | None, rubric: Path | None, n_checks: int) -> Judge | None:
    """The judge with its rubric; None where none is asked for.

    Raises:
        UsageError: no such expert, or one that judges nothing; a rubric without a judge.
        ClickException: the rubric cannot be read.
    """
    if name is None:
        if rubric is not None:
            raise click.UsageError("--rubric is what a judge goes by; name one with --judge")
        return None
    expert, *others = select_experts(config, name)
    if others:
        raise click.UsageError(f"--judge {name}: one expert judges; name one")
    if expert.tool:
        raise click.UsageError(f"--judge {name}: a tool compares nothing; name a language model")
    try:
        text = RUBRIC if rubric is None else decode_text(rubric.read_bytes()).strip()
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{rubric}: cannot be read: {error}") from None
    if not text:
        raise click.ClickException(f"{rubric}: is empty; write what a good answer is")
    return Judge(expert, text, n_checks)


def select_experts(config: Config, names: str | None) -> list[ExpertConfig]:
    """Return the experts to ask; embedding models have no answers to grade."""
    askable = {expert.name: expert for expert in config.experts if not expert.embeds}
    if not askable:
        raise click.ClickException("no experts are configured that can answer; `thalamus init` finds some")
    wanted = [name.strip() for name in names.split(",")] if names else list(askable)
    if unknown := [name for name in wanted if name not in askable]:
        hint = suggest(unknown[0], askable)
        raise click.UsageError(
            f"no expert {unknown[0]!r} in the configuration; {hint}it has {', '.join(askable)}"
        )
    return [askable[name] for name in wanted]


def _confirm_price(
    probes: Sequence[GradableProbe],
    experts: Sequence[ExpertConfig],
    store: AnswerStore,
    judge: Judge | None,
    earlier: OutcomeTable | None,
    max_usd: float | None,
) -> None:
    """Print the highest possible cost of what is still to be asked, and continue only with consent."""
    most: dict[str, float | None] = {}
    n_open = 0
    for profile in map(profile_of, experts):
        left = [probe for probe in probes if store.find(probe, profile.name, profile.model) is None]
        n_open += len(left)
        most |= upper_cost_usd(left, [profile]) if left else {profile.name: 0.0}
    text = f"{len(probes)} probes × {len(experts)} experts, {n_open} answers to ask for"
    if judge:
        answering = {e.name for e in experts if not e.tool} | {*(earlier.experts if earlier else ())}
        questions = price_questions(probes, len(answering), judge.n_checks, judge.rubric, judge.max_tokens)
        label = f"{judge.expert.name} as judge"
        most[label] = upper_cost_usd(questions, [profile_of(judge.expert)])[judge.expert.name]
        text += f", at most {len(questions)} comparisons by {judge.expert.name}"
        if judge.expert.name in answering:
            click.echo(f"note: {judge.expert.name} judges answers of its own; models favour these", err=True)
    confirm_cost(text, most, max_usd, "--limit or --experts")


def confirm_cost(text: str, most: Mapping[str, float | None], max_usd: float | None, fewer: str) -> None:
    """Print the highest possible cost in USD of each, None where unknown, and continue only with consent.

    Raises:
        ClickException: there is no consent, or the cost may exceed `max_usd`; `fewer` names what reduces it.
    """
    unknown = [name for name, usd in most.items() if usd is None]
    total = sum(usd or 0.0 for usd in most.values())
    paid = ", ".join(f"{name} ${usd:.4f}" for name, usd in most.items() if usd)
    click.echo(f"{text}; at most ${total:.4f}{f' ({paid})' if paid else ''}", err=True)
    if unknown:
        click.echo(
            f"price unknown: {', '.join(unknown)} (set input_cost_per_token and output_cost_per_token)",
            err=True,
        )
    # Free experts need no consent. An unknown price always does: --max-usd cannot bound it.
    if (not unknown and total == 0) or (max_usd is not None and not unknown and total <= max_usd):
        return
    if max_usd is not None:
        raise click.ClickException(f"the cost may exceed --max-usd {max_usd:g}; reduce it with {fewer}")
    try:
        agreed = click.confirm("Go ahead?", err=True)
    except click.Abort:  # no terminal, or an end of input
        agreed = False
    if not agreed:
        how = "set the prices" if unknown else f"--max-usd {math.ceil(100 * total) / 100:.2f}"
        raise click.ClickException(f"nothing was asked; to start without this question: {how}")


@asynccontextmanager
async def open_experts(
    config: Config, experts: Sequence[ExpertConfig]
) -> AsyncIterator[list[ExpertUnderTest]]:
    """The experts, ready to answer; local engines are loaded, and end with the context."""
    names = {expert.name for expert in experts}
    wanted = {name: s for name, s in build_runner_settings(config).items() if name in names}
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
        # The first question would otherwise measure the time of the load, or of LiteLLM's import.
        await runners.wait_settled()
        for expert in (candidate.expert for candidate in candidates):
            if isinstance(expert, LiteLLMExpert):
                with suppress(UpstreamError):  # the first question will say why it cannot be imported
                    await expert.loader.module()
        yield candidates
    finally:
        await asyncio.gather(*(candidate.expert.close() for candidate in candidates))
        await runners.stop()
        await transport.close()


async def _run_profile(
    config: Config,
    experts: Sequence[ExpertConfig],
    probes: Sequence[GradableProbe],
    store: AnswerStore,
    parallel: int,
) -> OutcomeTable:
    grade = load_entry_point("thalamus.graders")
    async with open_experts(config, experts) as candidates:
        await ask_experts(probes, candidates, store, grade, parallel)
    where = Provenance(
        source="thalamus profile",
        cost_basis="measured tokens at configured prices",
        notes=f"asked {date.today():%Y-%m-%d}",
    )
    return build_outcome_table(probes, candidates, store, where)


async def _run_judge(
    config: Config,
    judge: Judge,
    table: OutcomeTable,
    probes: Sequence[GradableProbe],
    verdicts: AnswerStore,
    parallel: int,
) -> tuple[OutcomeTable, JudgeReport]:
    """Compare the answers of the table; the table with the scores of open-ended prompts."""
    questions = build_questions(table, probes, judge.rubric, judge.n_checks, judge.max_tokens)
    name, model = judge.expert.name, profile_of(judge.expert).model
    if any(verdicts.find(question, name, model) is None for question in questions):
        async with open_experts(config, [judge.expert]) as candidates:
            plain = [replace(candidate, logprobs=False) for candidate in candidates]
            await ask_experts(questions, plain, verdicts, read_verdict, parallel, "first answer wins")
    for failure in verdicts.failures(name)[-1:]:
        click.echo(f"{name} as judge: {failure.error}\n  fix: {failure.fix}", err=True)
    points, cost_usd = find_verdicts(questions, verdicts, name, model)
    report = report_judge(table, probes, questions, points, cost_usd)
    return apply_verdicts(table, probes, questions, points), report


async def ask_experts(
    probes: Sequence[GradableProbe],
    candidates: Sequence[ExpertUnderTest],
    store: AnswerStore,
    grade: GradeFunction,
    parallel: int,
    mean_of: str = "score",
) -> None:
    """Ask, and show how far each expert is; `mean_of` says what the mean of the grades is."""
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
            kept = (store.find(probe, name, candidate.model) for probe in probes)
            scores[name] = [answer.score or 0.0 for answer in kept if answer]
            bars[name] = progress.add_task(name, total=len(probes), completed=len(scores[name]), score="")

        def on_answer(answer: GradedAnswer) -> None:
            so_far = scores[answer.expert]
            if answer.score is not None:
                so_far.append(answer.score)
            mean = f"{mean_of} {sum(so_far) / len(so_far):.2f}" if so_far else ""
            progress.update(bars[answer.expert], advance=1, score=mean)

        await ask_all(probes, candidates, grade, store, n_parallel=parallel, on_answer=on_answer)


def _show_report(
    measured: OutcomeTable,
    whole: OutcomeTable,
    n_failed: int,
    out: Path,
    as_json: bool,
    judged: tuple[str, JudgeReport] | None,
) -> None:
    means = measured.means()
    counts, certain = (~np.isnan(measured.score)).sum(axis=0), measured.effective_counts()
    declined = measured.count_declined().tolist()
    shown = Table("expert", "score (95 % interval)", "outcomes", "seconds", "USD an answer")
    facts: list[dict[str, Any]] = []
    for e, name in enumerate(measured.experts):
        mean, n = means["score"][e], int(counts[e])
        score, latency_s, cost = (_round(means[m][e]) for m in ("score", "latency_s", "cost_usd"))
        interval = [round(bound, 4) for bound in rate_interval(mean, certain[e])] if n else None
        facts.append({"expert": name, "score": score, "interval": interval, "n": n})
        facts[-1] |= {"n_declined": declined[e], "latency_s": latency_s, "cost_usd": cost}
        rest = ("unknown" if value is None else f"{value:g}" for value in (latency_s, cost))
        outcomes = f"{n}, declined {declined[e]}" if declined[e] else str(n)
        shown.add_row(name, show_rate(mean, certain[e]) if n else "none yet", outcomes, *rest)
    if as_json:
        found = {"out": str(out), "queries": len(whole), "experts": facts, "errors": n_failed}
        found |= {"all_experts": list(whole.experts)}
        click.echo(
            json.dumps(found | ({"judge": {"expert": judged[0], **judged[1].facts()}} if judged else {}))
        )
        return
    Console().print(shown)
    for line in judged[1].lines(judged[0]) if judged else ():
        click.echo(line)
    rest_of_it = [name for name in whole.experts if name not in measured.experts]
    earlier = f", with what it held of {', '.join(rest_of_it)}" if rest_of_it else ""
    click.echo(f"Wrote {out}: {len(whole)} queries × {whole.n_experts} experts{earlier}.")
    click.echo(f"Next: thalamus fit {shlex.quote(str(out))}")


def _round(value: float) -> float | None:
    return None if value != value else float(f"{value:.4g}")
