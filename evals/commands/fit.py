"""`thalamus fit`: train an artifact on an outcome table."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from routers import (
    PREDICTORS,
    Artifact,
    ArtifactError,
    FeatureExtractor,
    FitSettings,
    OutcomeTable,
    StaticEmbedder,
    add_experts,
    fit_artifact,
    load_embedder,
)

from ..console import print_facts, progress_bar, report_errors
from ..probes.files import load_bundled_outcomes

BUNDLED = "bundled"
_WORTH_WORKERS = 1000
"""Queries with which fitting side by side saves more than starting processes costs."""

EXAMPLES = """
\b
Examples:
  thalamus fit                                      outcomes.jsonl.gz, where profile writes, into
                                                    .thalamus/artifact, where serve looks
  thalamus fit outcomes.jsonl.gz mine --predictor knn --settings '{"k": 50}'
  thalamus fit outcomes.jsonl.gz --encoder none     the cheap tier only
  thalamus fit more.jsonl.gz --add-expert           the experts of this table, added to .thalamus/artifact
  thalamus fit bundled                              what is known of the bundled experts
"""


@click.command(epilog=EXAMPLES)
@click.argument("table", type=click.Path(path_type=Path), default=Path("outcomes.jsonl.gz"))
@click.argument("out", type=click.Path(path_type=Path), default=Path(".thalamus/artifact"))
@click.option("--predictor", type=click.Choice(sorted(PREDICTORS)), default="blend", show_default=True)
@click.option("--settings", default="{}", help="Settings of the predictor, a JSON object.")
@click.option(
    "--encoder",
    default="minilm",
    show_default=True,
    help="The embedder of the encoder tier, or none.",
)
@click.option("--folds", type=click.IntRange(2, 50), default=5, show_default=True, help="Cross-validation.")
@click.option("--experts", help="Only these experts, comma-separated.")
@click.option(
    "--add-expert", "add", is_flag=True, help="Add TABLE's new experts to the artifact OUT; others stay."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's figures as JSON.")
@report_errors
def command(
    table: Path,
    out: Path,
    predictor: str,
    settings: str,
    encoder: str,
    folds: int,
    experts: str | None,
    add: bool,
    seed: int,
    jobs: int,
    as_json: bool,
) -> None:
    """Train on the outcome TABLE and write the artifact to the directory OUT.

    TABLE is a file that `profile` or `import` wrote, or the word `bundled`: the measured outcomes that come
    with the package, less the template families held out for the report.

    Everything is chosen by cross-validation in which near-twins stay together. Figures rest on predictions
    out of fold, but what calibrates these is learned from the same rows: accuracy and calibration_error
    flatter a little; `thalamus eval` measures on queries never fitted on.
    """
    outcomes = load_bundled_outcomes()[0] if str(table) == BUNDLED else OutcomeTable.load(table)
    if experts:
        outcomes = outcomes.only([name.strip() for name in experts.split(",")])
    if out.exists() and not (out / "manifest.json").is_file():
        raise ArtifactError(f"{out}: exists and is not an artifact; choose another name")
    chosen = FitSettings(predictor, _object(settings), folds, seed=seed)
    extractor = FeatureExtractor(
        StaticEmbedder(), None if encoder == "none" else load_embedder(encoder, n_threads=2)
    )
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with progress_bar() as on_progress:
        if add:
            artifact = add_experts(Artifact.load(out), outcomes, extractor, chosen, on_progress, created)
        else:
            n_workers = jobs if len(outcomes) >= _WORTH_WORKERS else 1
            artifact = fit_artifact(outcomes, extractor, chosen, on_progress, created, n_workers)
    artifact.save(out)
    facts = _facts(artifact, out)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        print_facts(facts)
        click.echo(f"next: thalamus serve, with `routing: {{artifact: {out}}}` in thalamus.yaml")


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--settings") from None
    if not isinstance(value, dict):
        raise click.BadParameter("a JSON object is needed", param_hint="--settings")
    return value


def _facts(artifact: Artifact, out: Path) -> dict[str, Any]:
    consulted = [row for row in artifact.margins if row["margin"] <= artifact.margin]
    return {
        "artifact": str(out),
        "n_queries": artifact.provenance["n_queries"],
        "experts": {
            e.name: {"model": e.model, "n": e.n, "score": round(e.score, 4)} for e in artifact.experts
        },
        "heads": {
            tier: {key: round(value, 4) for key, value in head.metrics.items()}
            for tier, head in artifact.heads.items()
        },
        "margin": round(artifact.margin, 4),
        "share_consulted": round(consulted[-1]["consulted"], 4) if consulted else None,
    }
