"""What an adapter gains on families that it was not taught: `python -m studies.adapters.gains FIELD FILE`."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import yaml

from evals.measures.bootstrap import interval_of_difference
from evals.probes import Probe
from gateway.config.discovery import BUNDLED
from routers import OutcomeTable

from .bundled import FIELDS
from .probes import as_jsonl, as_probe, draw_lessons
from .shapes import Field


def draw_probes(field: Field, n_items: int) -> Iterator[Probe]:
    """Probes of the families that are not taught, other ones than those among the bundled."""
    for name, draw in field.tests.items():
        for number, lesson in enumerate(draw_lessons(f"more of {name}", draw, n_items), 1):
            yield as_probe(name, number, lesson)


def write_config(field: Field, adapter: Path) -> str:
    """The bundled experts with this adapter in place of the bundled ones."""
    experts = yaml.safe_load(f"experts:\n{BUNDLED}")["experts"]
    own = {
        "path": str(adapter.resolve()),
        "system": field.system,
        "examples": [],
        "params": {"temperature": 0},
    }
    for expert in experts:
        if "runner" in expert:
            expert["runner"].pop("adapters", None)
    experts[0]["runner"]["adapters"] = {"new": own}
    return json.dumps({"experts": [expert for expert in experts if "runner" in expert]})


def measure(field: Field, adapter: Path, n_items: int) -> OutcomeTable:
    with tempfile.TemporaryDirectory() as folder:
        probes, config, out = (
            Path(folder, name) for name in ("probes.jsonl", "thalamus.yaml", "out.jsonl.gz")
        )
        probes.write_text(as_jsonl(draw_probes(field, n_items)), "utf-8")
        config.write_text(write_config(field, adapter), "utf-8")
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "gateway.cli",
            "profile",
            "-c",
            config,
            "--probes",
            probes,
            "--out",
            out,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        return OutcomeTable.load(out)


@click.command()
@click.argument("field", type=click.Choice(sorted(FIELDS)))
@click.argument("adapter", type=click.Path(exists=True, path_type=Path))
@click.option("--items", default=20, show_default=True, help="Prompts of each family.")
def main(field: str, adapter: Path, items: int) -> None:
    """Accuracy of the model alone, and with ADAPTER, on families of FIELD that are not taught."""
    table = measure(FIELDS[field], adapter, items)
    print_table(table)


def print_table(table: OutcomeTable) -> None:
    click.echo("family | " + " | ".join(table.experts))
    for family in dict.fromkeys(table.families):
        rows = [n for n, name in enumerate(table.families) if name == family]
        click.echo(
            f"{family} | " + " | ".join(f"{100 * score:.0f}" for score in table.score[rows].mean(axis=0))
        )
    means = table.score.mean(axis=0)
    click.echo("all | " + " | ".join(f"{100 * score:.1f}" for score in means))
    new = table.experts.index("new")
    best = max((n for n in range(len(means)) if n != new), key=lambda n: means[n])
    gain = interval_of_difference(table.score[:, new], table.score[:, best])
    click.echo(
        f"over {table.experts[best]}: {100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    )


if __name__ == "__main__":
    main()
