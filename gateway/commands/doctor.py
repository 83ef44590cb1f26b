"""`thalamus doctor`: look the installation over, and say how to mend what is wrong."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from .options import CONFIG_OPTION, JSON_OPTION

EXAMPLES = """
\b
Examples:
  thalamus doctor
  thalamus doctor --json
"""
MARKS = {"ok": ("ok      ", "green"), "warning": ("warning ", "yellow"), "failure": ("FAILURE ", "red")}


@click.command(epilog=EXAMPLES)
@CONFIG_OPTION
@JSON_OPTION
def command(config_path: Path, as_json: bool) -> None:
    """Check Python, packages, configuration, embedders, artifact, local models, address and journal.

    Exits with 1 if anything fails; warnings do not count.
    """
    from ..checkup import examine

    findings = examine(config_path)
    failed = any(finding.outcome == "failure" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [asdict(f) for f in findings]}, indent=2))
    else:
        for finding in findings:
            mark, colour = MARKS[finding.outcome]
            click.echo(click.style(mark, fg=colour) + f"{finding.check:14} {finding.message}")
            if finding.fix:
                click.echo(" " * 23 + f"fix: {finding.fix}")
    if failed:
        raise SystemExit(1)
