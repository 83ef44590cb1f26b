"""`thalamus skills`: measure what panels go by, the skills of prompts and who weighs answers well."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from routers import OutcomeTable, RoutersError, StaticEmbedder, rate_interval, show_rate, skills

from ..config import Config, ExpertConfig
from ..execution.panel import ask_for_synthesis
from ..experts import UpstreamError
from ..experts.profiles import profile_of
from ..routing.keywords import MAX_TOKENS, ask_for_keywords
from ..runners import RunnerError
from .options import CONFIG_OPTION, JSON_OPTION, Dollars, read_config
from .profile import ask_experts, confirm_cost, load_probes, open_experts, select_experts
from .profiling import AnswerStore, GradableProbe, load_entry_point, upper_cost_usd

TABLE = Path("outcomes.jsonl.gz")

EXAMPLES = """
\b
Examples:
  thalamus skills keywords --expert gpt-5-mini      name the skills of every prompt of outcomes.jsonl.gz
  thalamus skills aggregators                       who weighs answers well: every language model
  thalamus fit --skills                             then learn who has which skill
  thalamus skills show                              what was learned
"""


@click.group(epilog=EXAMPLES)
def command() -> None:
    """Name the skills of prompts, try experts as aggregators, and show what was learned of both."""


@dataclass(frozen=True, slots=True)
class TrialQuestion:
    """A recorded prompt with answers of others under it, graded as the prompt is."""

    id: str
    prompt: str
    max_tokens: int
    grader: str
    expected: Any
    kind: str
    family: str
    messages: Sequence[Mapping[str, Any]] = ()

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True, slots=True)
class TriedExpert:
    """What an expert made of its trials: the share that was right, with its interval."""

    expert: str
    n: int
    right: float | None
    interval: tuple[float, ...]


def build_trial_questions(
    table: OutcomeTable, probes: Sequence[GradableProbe], n: int, seed: int
) -> list[TrialQuestion]:
    """At most `n` trials of the table whose probes are known and have no conversation before them."""
    probe_of = {probe.id: probe for probe in probes if not probe.messages}
    part = table.take(np.array([key in probe_of for key in table.ids], bool))
    found = []
    for trial in skills.build_trials(part, n, seed=seed):
        probe = probe_of[part.ids[trial.row]]
        prompt = f"{probe.prompt}\n\n{ask_for_synthesis(trial.answers)}"
        graded = probe.grader, probe.expected, probe.kind, probe.family
        found.append(TrialQuestion(probe.id, prompt, probe.max_tokens, *graded))
    return found


def load_table(path: Path) -> OutcomeTable:
    """The table of a file.

    Raises:
        ClickException: there is none, or it cannot be read.
    """
    if not path.exists():
        raise click.ClickException(f"{path}: no such file; `thalamus profile` writes a table of outcomes")
    try:
        return OutcomeTable.load(path)
    except RoutersError as error:
        raise click.ClickException(str(error)) from None


def select_models(config: Config, names: str | None) -> list[ExpertConfig]:
    """The language models among the experts named; a tool weighs no answers and tells no keywords.

    Raises:
        ClickException: none is left.
    """
    found = [expert for expert in select_experts(config, names) if not expert.tool]
    if not found:
        raise click.ClickException("a language model is needed; `thalamus init` finds some")
    return found


@command.command("keywords", short_help="Ask an expert for the keywords of recorded prompts.")
@click.argument("table", type=click.Path(path_type=Path), default=TABLE)
@CONFIG_OPTION
@click.option("--expert", "name", required=True, help="The language model that tells keywords.")
@click.option("--limit", type=click.IntRange(1), help="Ask only for the first N prompts.")
@click.option(
    "--parallel", type=click.IntRange(1, 256), default=1, show_default=True, help="Prompts at a time."
)
@click.option("--max-usd", type=Dollars(min=0), help="Start without confirmation if it cannot cost more.")
def keywords(
    table: Path, config_path: Path, name: str, limit: int | None, parallel: int, max_usd: float | None
) -> None:
    """Ask a language model, five times each, what skills the prompts of TABLE need; keep what it says twice.

    What it tells is kept in TABLE.keywords at once; the same command goes on where it was stopped. `thalamus
    fit --skills` names skills by it; prompts of which it told nothing are searched for keywords.
    """
    config = read_config(config_path)
    expert, *others = select_models(config, name)
    if others:
        raise click.UsageError(f"--expert {name}: one expert tells keywords; name one")
    texts = list(dict.fromkeys(load_table(table).texts))[:limit]
    path, model = table.with_name(table.name + skills.KEYWORDS), profile_of(expert).model
    words_of = _read_keywords(path, model)
    left = [text for text in texts if text not in words_of]
    asked = [
        KeywordQuestion(skills.keyword_prompt(text), MAX_TOKENS)
        for text in left
        for _ in range(skills.N_SAMPLES)
    ]
    confirm_cost(
        f"{len(left)} prompts × {skills.N_SAMPLES} samples",
        upper_cost_usd(asked, [profile_of(expert)]),
        max_usd,
        "--limit",
    )
    try:
        asyncio.run(_ask_keywords(config, expert, left, path, model, parallel))
    except (RunnerError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except UpstreamError as error:
        raise click.ClickException(f"{name}: {error.message}; {path} keeps what was told") from None
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {path} keeps what was told; the same command goes on.", err=True)
        raise click.Abort from None
    words_of = _read_keywords(path, model)
    n_named = sum(bool(words_of.get(text)) for text in texts)
    often = Counter(word for text in texts for word in words_of.get(text, ())).most_common(10)
    click.echo(f"{name} told keywords of {n_named} of {len(texts)} prompts twice or more; {path} has them")
    if often:
        click.echo("most often: " + ", ".join(f"{word} ({n})" for word, n in often))
    click.echo("next: thalamus fit --skills")


@dataclass(frozen=True, slots=True)
class KeywordQuestion:
    """What is asked for keywords, as what its price is reckoned by."""

    prompt: str
    max_tokens: int
    id: str = ""
    kind: str = ""
    family: str = ""
    grader: str = ""
    expected: Any = None
    messages: Sequence[Mapping[str, Any]] = ()


def _read_keywords(path: Path, model: str) -> dict[str, list[str]]:
    """Keywords by text, as this model told them."""
    if not path.exists():
        return {}
    found: dict[str, list[str]] = {}
    for line in path.read_text("utf-8", "replace").split("\n"):
        try:
            entry = json.loads(line)
            if entry["model"] == model:
                found[str(entry["text"])] = [str(word) for word in entry["keywords"]]
        except (ValueError, KeyError, TypeError):
            continue  # a killed run may leave half a line at the end
    return found


async def _ask_keywords(
    config: Config, expert: ExpertConfig, texts: Sequence[str], path: Path, model: str, parallel: int
) -> None:
    """Ask, and keep each prompt's keywords at once.

    Raises:
        UpstreamError: the expert gave no answer.
    """
    todo = list(reversed(texts))
    async with open_experts(config, [expert]) as candidates:
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task(expert.name, total=len(texts))

            async def drain_texts() -> None:
                while todo:
                    text = todo.pop()
                    words = await ask_for_keywords(candidates[0].expert, text)
                    entry = {"text": text, "model": model, "keywords": list(words)}
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                    progress.update(bar, advance=1)

            try:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(parallel):
                        tasks.create_task(drain_texts())
            except* UpstreamError as errors:
                raise errors.exceptions[0] from None


@command.command("show", short_help="Show what was learned of skills.")
@click.argument("artifact", type=click.Path(path_type=Path), default=Path(".thalamus/artifact"))
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="So many skills.")
@JSON_OPTION
def show(artifact: Path, top: int, as_json: bool) -> None:
    """Show the named skills beside ARTIFACT: how good each expert is at those that most prompts asked for."""
    try:
        named = skills.NamedSkills.load(skills.skills_path(artifact), StaticEmbedder())
    except RoutersError as error:
        raise click.ClickException(str(error)) from None
    rows = named.describe()[:top]
    if as_json:
        click.echo(json.dumps(rows))
        return
    names = [expert.name for expert in named.experts]
    shown = Table("skill", "prompts", *names, title=f"accuracy by skill; keywords: {named.source}")
    for row in rows:
        shown.add_row(row["skill"], f"{row['n']:.0f}", *(f"{row['accuracy'][name]:.2f}" for name in names))
    Console().print(shown)
    if named.aggregators is not None:
        mean = named.aggregators.mean_over([])
        tried = {
            name: share
            for name, share in zip(names, mean.tolist(), strict=True)
            if name in named.list_tried()
        }
        click.echo("as aggregator: " + ", ".join(f"{name} {share:.2f}" for name, share in tried.items()))


@command.command("aggregators", short_help="Try experts as aggregators of recorded answers.")
@click.argument("table", type=click.Path(path_type=Path), default=TABLE)
@CONFIG_OPTION
@click.option(
    "--probes", "probes_path", type=click.Path(path_type=Path), help="The probes that TABLE's ids name."
)
@click.option("--experts", "names", help="Try only these, comma-separated. Default: every language model.")
@click.option(
    "--trials", "n", type=click.IntRange(1), default=60, show_default=True, help="Trials an expert."
)
@click.option(
    "--parallel", type=click.IntRange(1, 256), default=1, show_default=True, help="Calls at a time."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice and order of answers.")
@click.option("--max-usd", type=Dollars(min=0), help="Start without confirmation if it cannot cost more.")
@JSON_OPTION
def aggregators(
    table: Path,
    config_path: Path,
    probes_path: Path | None,
    names: str | None,
    n: int,
    parallel: int,
    seed: int,
    max_usd: float | None,
    as_json: bool,
) -> None:
    """Show each expert one right and two wrong recorded answers of TABLE, shuffled, and grade what it makes.

    What is measured is kept in TABLE.trials at once; the same command goes on where it was stopped. `thalamus
    fit --skills` learns from it, for each skill, whom panels should ask to weigh answers.
    """
    config = read_config(config_path)
    experts = select_models(config, names)
    recorded = load_table(table)
    questions = build_trial_questions(recorded, load_probes(probes_path), n, seed)
    if not questions:
        raise click.ClickException(
            f"{table}: no prompt of the probes has one right and two wrong answers on record; `thalamus"
            " profile` with more experts or probes records some"
        )
    store = AnswerStore(table.with_name(table.name + skills.TRIALS))
    most: dict[str, float | None] = {}
    for profile in map(profile_of, experts):
        left = [one for one in questions if store.find(one, profile.name, profile.model) is None]
        most |= upper_cost_usd(left, [profile]) if left else {profile.name: 0.0}
    confirm_cost(f"{len(questions)} trials × {len(experts)} experts", most, max_usd, "--trials or --experts")
    try:
        asyncio.run(_try_experts(config, experts, questions, store, parallel))
    except (RunnerError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo(
            f"\nInterrupted; {store.path} keeps what was answered; the same command goes on.", err=True
        )
        raise click.Abort from None
    _show_trials(experts, questions, store, as_json)


async def _try_experts(
    config: Config,
    experts: Sequence[ExpertConfig],
    questions: Sequence[TrialQuestion],
    store: AnswerStore,
    parallel: int,
) -> None:
    grade = load_entry_point("thalamus.graders")
    async with open_experts(config, experts) as candidates:
        plain = [replace(candidate, logprobs=False) for candidate in candidates]
        await ask_experts(questions, plain, store, grade, parallel, "right")
    for expert in experts:
        for failure in store.failures(expert.name)[-1:]:
            click.echo(f"{expert.name}: {failure.error}\n  fix: {failure.fix}", err=True)


def _show_trials(
    experts: Sequence[ExpertConfig], questions: Sequence[TrialQuestion], store: AnswerStore, as_json: bool
) -> None:
    facts = []
    for profile in map(profile_of, experts):
        found = [store.find(one, profile.name, profile.model) for one in questions]
        scores = [one.score for one in found if one is not None and one.score is not None]
        share = sum(scores) / len(scores) if scores else None
        interval = () if share is None else rate_interval(share, len(scores))
        facts.append(
            TriedExpert(profile.name, len(scores), share, tuple(round(bound, 4) for bound in interval))
        )
    if as_json:
        click.echo(json.dumps({"trials": str(store.path), "experts": [asdict(fact) for fact in facts]}))
        return
    for fact in facts:
        shown = "no answer" if fact.right is None else f"{show_rate(fact.right, fact.n)} right"
        click.echo(f"{fact.expert}: {shown}, {fact.n} trials")
    click.echo("choosing one of the three answers at random is right in 0.33; next: thalamus fit --skills")
