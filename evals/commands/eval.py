"""`thalamus eval`: routers compared on an outcome table, as a report."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from routers import (
    Bools,
    DataError,
    FeatureExtractor,
    OutcomeTable,
    StaticEmbedder,
    load_embedder,
    merge_outcomes,
)
from routers.text_files import write_file

from ..alternatives import read_tiers
from ..console import OnProgress, progress_bar, report_errors
from ..datasets import FORMATS, read_outcomes, source_splits
from ..evaluate import RouterSpec, parse_router_specs
from ..plans import PlanResult, add_ablations, evaluate_plans, parse_plan_specs, render_plans, summarize_plans
from ..probes.files import load_bundled_outcomes
from ..replay import RecordedExtractor
from ..report import Facts, ReportRequest, export_files, facts_of, markdown_of, page_of
from ..report.facts import explain_left_out
from ..report.markdown import format_value, label_measure
from ..run_all import aggregate_runs, build_context, list_jobs, run_jobs
from ..splits import EvalProtocol, holdout, keep_complete, kfold, routellm, routerdc
from ..vectors import VectorCache
from .fit import BUNDLED, CONFIG, read_config, read_trials
from .import_ import bucket_set

EXAMPLES = """
\b
Examples:
  thalamus eval bundled --out report/            the bundled experts, as they were measured
  thalamus eval outcomes.jsonl.gz --out report/
  thalamus eval mydata/ --routers blend,knn:k=50,constant --seeds 0,1,2 --out report/
  thalamus eval mydata/ --routers blend,tryage,tryage:paper,coe,coe:paper --buckets 0-79
  thalamus eval mydata/ --plans single,panel:k=3,panel:k=3:keywords=text:size=mass
  thalamus eval mydata/ --protocol holdout --test 80-99 --out report/

\b
A router is a predictor's name, its mode and settings behind colons, its tier
behind @: coe:paper:alpha=0.05@static.
kfold     five folds of buckets, each tested once a seed
A plan is single, or panel with its keys behind colons: panel:k=3:draw=random.
holdout   the buckets of --test are tested
routerdc  RouterDC's split: five training tasks, three tasks out of domain (needs a folder with source_split)
routellm  two experts on MMLU, --labels labels a seed
"""


@click.command("eval", epilog=EXAMPLES)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--protocol",
    type=click.Choice(["kfold", "routerdc", "routellm", "holdout"]),
    default="kfold",
    show_default=True,
)
@click.option("--routers", default="blend", show_default=True, help="Routers to compare, comma-separated.")
@click.option(
    "--plans",
    help="Compare plans instead of routers, such as single,panel:k=3, with the ablations of Symbolic-MoE.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("report"), show_default=True)
@click.option("--seeds", default="0", show_default=True, help="Seeds, such as 0,1,2.")
@click.option("--buckets", help="Use these buckets only, such as 0-79.")
@click.option("--test", "held_out", help="holdout: the buckets to test.")
@click.option(
    "--labels", type=click.IntRange(10), default=1500, show_default=True, help="routellm: labels a seed."
)
@click.option("--experts", help="Only these experts, comma-separated.")
@click.option("--format", "form", type=click.Choice(["auto", *sorted(FORMATS)]), default="auto")
@click.option("--encoder", default="minilm", show_default=True, help="Embedder of the encoder tier, or none.")
@click.option(
    "--vectors",
    type=click.Path(path_type=Path),
    help="Keep the encoder's vectors in this file for next time.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes.")
@click.option("--draws", type=click.IntRange(100, 100000), default=1000, show_default=True, help="Bootstrap.")
@click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    default=CONFIG,
    envvar="THALAMUS_CONFIG",
    show_default=True,
    help="Whose experts' parameters_b and released the fronts show, if there is such a file.",
)
@click.option("--title", help="Of the report.")
@click.option("--prompts/--no-prompts", default=True, show_default=True, help="Show prompts with regrets.")
@click.option("--json", "as_json", is_flag=True, help="Print the headline figures as JSON.")
@report_errors
def command(
    data: Path,
    protocol: str,
    routers: str,
    plans: str | None,
    out: Path,
    seeds: str,
    buckets: str | None,
    held_out: str | None,
    labels: int,
    experts: str | None,
    form: str,
    encoder: str,
    vectors: Path | None,
    jobs: int,
    draws: int,
    config: Path,
    title: str | None,
    prompts: bool,
    as_json: bool,
) -> None:
    """Compare routers on the outcomes in DATA and write report.json, report.md and report.html to --out.

    Tables as CSV and LaTeX, charts as SVG and a citation lie beside them. --plans compares plans instead.
    The engine that serves decides every test query; every choice is made on the training part. Queries on
    which an expert was not measured train, but enter no figure.
    """
    bundled = str(data) == BUNDLED
    table = merge_outcomes(*load_bundled_outcomes()) if bundled else read_outcomes(data, form)
    table = table if experts else _leave_out(table)
    chosen = np.isin(table.bucket, list(bucket_set(buckets))) if buckets else np.ones(len(table), bool)
    slow = None if encoder == "none" else load_embedder(encoder, n_threads=2)
    kept = VectorCache(slow, vectors) if slow is not None and vectors is not None else None
    extractor = FeatureExtractor(StaticEmbedder(), kept or slow)
    router_specs = parse_router_specs(routers, list(extractor.fingerprints))
    plan_specs = add_ablations(parse_plan_specs(plans)) if plans else []
    laid_out = _layout(protocol, table, chosen, seeds_of(seeds), data, held_out, labels, experts)
    eval_protocol = keep_complete(laid_out, data)
    _check_folder(out)
    request = ReportRequest(
        title=title or f"Routing on {'the bundled experts' if bundled else data.resolve().name}",
        command=shlex.join(["thalamus", "eval", *sys.argv[2:]]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        encoder=encoder,
        with_prompts=prompts,
        n_draws=draws,
        experts=_read_expert_facts(config),
        settings={one.name: one.describe() for one in router_specs},
    )
    with progress_bar() as on_progress:
        read = RecordedExtractor.of(eval_protocol.texts(), extractor, on_progress)
        if kept is not None:
            kept.save()
        if plan_specs:
            trials = read_trials(data, table)
            _tell_plans(evaluate_plans(eval_protocol, plan_specs, read, on_progress, trials), out, as_json)
            return
        facts = evaluate(eval_protocol, router_specs, read, request, on_progress, jobs)
    _write(out, facts)
    _say(facts, out, as_json)


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; --out names a folder")


def _read_expert_facts(config: Path) -> dict[str, dict[str, Any]]:
    """By name what a configuration says of its experts; what else is wrong there, `config check` says."""
    listed = read_config(config).get("experts")
    return {
        str(one["name"]): one
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and "name" in one
    }


def _tell_plans(found: Mapping[str, PlanResult], out: Path, as_json: bool) -> None:
    figures = summarize_plans(found)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "plans.json", json.dumps(figures, indent=1) + "\n")
    write_file(out / "plans.md", render_plans(figures) + "\n")
    click.echo(json.dumps(figures) if as_json else render_plans(figures))
    click.echo(f"plans: {out / 'plans.md'}", err=True)


def _leave_out(table: OutcomeTable) -> OutcomeTable:
    """The table without the experts that `fit` leaves out, too."""
    unusable, former = table.explain_unusable(), table.former_experts()
    for name, (why, _) in unusable.items():
        if name not in former:  # a model that is asked no more is no rival
            click.echo(f"{name} is left out of this comparison: {why}", err=True)
    return table.only([name for name in table.experts if name not in unusable])


def evaluate(
    eval_protocol: EvalProtocol,
    router_specs: Sequence[RouterSpec],
    read: RecordedExtractor,
    request: ReportRequest,
    on_progress: OnProgress,
    n_workers: int,
) -> Facts:
    """From a laid-out protocol to the facts of its report."""
    tiers = read_tiers(eval_protocol.texts())
    jobs = list_jobs(eval_protocol, router_specs, tiers)
    done = list(run_jobs(eval_protocol, read, jobs, on_progress, n_workers, tiers))
    on_progress("drawing intervals", 0, 1)
    context = build_context(eval_protocol)
    if tiers.missing:
        request = replace(request, unavailable={"heuristic_v2": tiers.missing})
    return facts_of(eval_protocol, context, aggregate_runs(eval_protocol, jobs, done), request)


def seeds_of(text: str) -> list[int]:
    """The seeds that `0,1,2` names.

    Raises:
        BadParameter: the text is not of this form.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not numbers and commas", param_hint="--seeds") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise click.BadParameter(f"{text!r}: each once, none negative", param_hint="--seeds")
    return seeds


def _layout(
    protocol: str,
    table: OutcomeTable,
    chosen: Bools,
    seeds: Sequence[int],
    data: Path,
    held_out: str | None,
    labels: int,
    experts: str | None,
) -> EvalProtocol:
    if (held_out is not None) != (protocol == "holdout"):
        raise DataError("--test goes with --protocol holdout, and it needs it")
    split = source_splits(data, table) if protocol == "routerdc" else ()
    table = table.take(chosen)
    if experts:
        table = table.only([name.strip() for name in experts.split(",")])
    if len(table) < 2 or table.n_experts < 2:
        raise DataError(
            f"{data}: {len(table)} queries and {table.n_experts} experts are too few to compare on"
        )
    if protocol == "holdout":
        return holdout(table, seeds, sorted(bucket_set(held_out or "")))
    if protocol == "routerdc":
        return routerdc(table, seeds, [part for part, used in zip(split, chosen, strict=True) if used])
    return routellm(table, seeds, labels) if protocol == "routellm" else kfold(table, seeds)


def _write(out: Path, facts: Facts) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "report.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    write_file(out / "report.md", markdown_of(facts))
    write_file(out / "report.html", page_of(facts))
    for name, text in export_files(facts).items():
        write_file(out / name, text)


def _say(facts: Facts, out: Path, as_json: bool) -> None:
    all_routers = {**facts["routers"], **facts["baselines"]}
    if left_out := explain_left_out(facts["data"]["n_left_out"]):
        click.echo(left_out, err=as_json)
    if as_json:
        click.echo(
            json.dumps({"report": str(out), "routers": facts["routers"], "baselines": facts["baselines"]})
        )
        return
    for name, figures in all_routers.items():
        if reason := facts["unavailable"].get(name):
            click.echo(f"{name}: not measured, as {reason}")
            continue
        shown = [key for key in ("accuracy", "area", "cost_saved", "apgr") if figures[key] is not None]
        units = {key: facts["measures"][key]["unit"] for key in shown}
        cells = [
            f"{label_measure(facts, key)} {format_value(units[key], figures[key]['value'])}" for key in shown
        ]
        click.echo(f"{name}: {', '.join(cells)}")
    click.echo(f"report: {out / 'report.html'}")
