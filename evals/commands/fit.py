"""`thalamus fit`: train an artifact on an outcome table."""

import json
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml

from routers import (
    GENERAL,
    PREDICTORS,
    Artifact,
    ArtifactError,
    CategoryTexts,
    DataError,
    FeatureExtractor,
    FitSettings,
    OutcomeTable,
    StaticEmbedder,
    add_experts,
    add_outcomes,
    fit_artifact,
    keep_experts,
    load_embedder,
    name_head,
    parse_head,
    previous_path,
    rate_interval,
    show_rate,
    why_not_kept,
)
from routers.skills import KEYWORDS, LEXICON, TRIALS, NamedSkills, skills_path

from ..console import print_facts, progress_bar, report_errors
from ..datasets.category_texts import join_texts, read_pool, read_taxonomy, thin_pool
from ..probes.files import load_bundled_outcomes

BUNDLED = "bundled"
JOURNAL = "journal"
SERVED = Path(".thalamus/artifact")
"""Where `serve` looks without `routing: {artifact: …}`."""
USUAL = "blend"
"""The head that decides where a policy names none, unless another was asked for."""
TUNED = "encoder.json"
"""What `thalamus encoders fit` leaves in its folder: its base, and hashes of the texts it learned from."""
FEW = 10
"""Fewer outcomes than this say next to nothing: of nine right out of nine, one in three may be wrong."""
_WORTH_WORKERS = 1000
"""Queries with which fitting side by side saves more than starting processes costs."""

EXAMPLES = """
\b
Examples:
  thalamus fit                                      outcomes.jsonl.gz, where profile writes, into
                                                    .thalamus/artifact, where serve looks
  thalamus fit outcomes.jsonl.gz mine --predictor knn --settings '{"k": 50}'
  thalamus fit outcomes.jsonl.gz --encoder none     the cheap tier only
  thalamus fit more.jsonl.gz                        experts that only the artifact knows stay in it
  thalamus fit more.jsonl.gz --fresh --yes          forget them
  thalamus fit mine.jsonl.gz --with bundled         learn from both tables
  thalamus fit more.jsonl.gz --add-expert           only the new experts of this table; all others stay
  thalamus fit bundled                              what is known of the bundled experts
  thalamus fit --head coe                           add or renew one head of the artifact; the others stay
  thalamus fit --skills                             named skills too, and what `thalamus skills` measured
  thalamus fit --heads blend,tryage,coe             several, on features that are computed once
  thalamus fit --head coe --taxonomy kinds.yaml --pool journal
                                                    categories of your own, spread to your own prompts

\b
A taxonomy is a YAML or JSON file. Table tasks of the same names count as examples too:
  categories:
    - name: legal
      description: contracts, liability, statutes
      examples: [Is an oral contract binding?, What does force majeure cover?]
"""
CONFIG = Path("thalamus.yaml")


@click.command(epilog=EXAMPLES)
@click.argument("table", type=click.Path(path_type=Path), default=Path("outcomes.jsonl.gz"))
@click.argument("out", type=click.Path(path_type=Path), default=SERVED)
@click.option("--predictor", type=click.Choice(sorted(PREDICTORS)), default="blend", show_default=True)
@click.option("--settings", default="{}", help="Settings of the predictor, a JSON object.")
@click.option(
    "--head",
    "--heads",
    "heads",
    multiple=True,
    metavar="NAMES",
    help="Fit these heads alone, comma-separated; other heads of OUT stay. Without it: --predictor, and each "
    "head that a policy of the configuration needs.",
)
@click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    default=CONFIG,
    envvar="THALAMUS_CONFIG",
    show_default=True,
    help="Whose policies say which heads are needed, if there is such a file.",
)
@click.option(
    "--encoder",
    default="minilm",
    show_default=True,
    help="minilm, none, an encoder's folder, ONNX file or hub id; else routing.encoder of --config.",
)
@click.option(
    "--taxonomy",
    type=click.Path(path_type=Path),
    help="Categories for the head coe, with descriptions and examples; without it, the table's tasks.",
)
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="FILE",
    help="Ungraded prompts that the head coe spreads categories to: text, JSON lines, or the word journal.",
)
@click.option("--folds", type=click.IntRange(2, 50), default=5, show_default=True, help="Cross-validation.")
@click.option("--experts", help="Only these experts, comma-separated.")
@click.option(
    "--add-expert", "add", is_flag=True, help="Add TABLE's new experts to the artifact OUT; others stay."
)
@click.option(
    "--with", "others", multiple=True, metavar="TABLE", help="Fit on this table too (or the word bundled)."
)
@click.option(
    "--skills",
    "named",
    is_flag=True,
    help="Learn named skills too, as where a panel of the configuration recruits by keywords.",
)
@click.option(
    "--fresh", is_flag=True, help="Forget what OUT knows beside: experts and, without --head, heads."
)
@click.option("--yes", is_flag=True, help="Drop what cannot be kept without asking.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's figures as JSON.")
@report_errors
@click.pass_context
def command(
    context: click.Context,
    table: Path,
    out: Path,
    predictor: str,
    settings: str,
    heads: Sequence[str],
    config: Path,
    encoder: str,
    taxonomy: Path | None,
    pools: Sequence[str],
    folds: int,
    experts: str | None,
    add: bool,
    others: Sequence[str],
    named: bool,
    fresh: bool,
    yes: bool,
    seed: int,
    jobs: int,
    as_json: bool,
) -> None:
    """Train on the outcome TABLE and write the artifact to the directory OUT.

    TABLE is a file that `profile` or `import` wrote, or the word `bundled`: the outcomes that come with the
    package, less the families held out. Without one, and without outcomes.jsonl.gz, it is what OUT rests on.

    Experts that only the artifact in OUT knows stay, and heads that this fit does not make; the bundled
    outcomes that it rests on count on. What is dropped is named, and asked for; OUT.previous keeps it.
    Figures rest on cross-validation, and flatter a little; `thalamus eval` asks about other queries.
    """
    _check_out(out)
    given = {name for name in context.params if _is_given(context, name)}
    wanted = _choose_heads(predictor, _object(settings), heads, config, given)
    earlier = None if add else _load_earlier(out)
    tables = _find_tables(table, others, out, None if "table" in given or fresh else earlier)
    outcomes, left_out = _leave_out(_read_outcomes(tables, None if fresh else earlier, experts))
    if "encoder" not in given:
        encoder = _find_usual_encoder(earlier if wanted.are_named else None, config) or encoder
    chosen = wanted.build_settings(folds, seed, _read_category_texts(taxonomy, pools, config, wanted))
    extractor, created = _make_extractor(encoder), datetime.now(UTC).isoformat(timespec="seconds")
    if earlier is not None:
        _confirm_drops(earlier, outcomes, extractor, out, fresh, yes)
    kept = () if earlier is None else _find_kept_heads(earlier, wanted, extractor, fresh)
    jobs = jobs if len(outcomes) >= _WORTH_WORKERS else 1
    with progress_bar(tells_always=True) as on_progress:
        if add:
            artifact = add_experts(Artifact.load(out), outcomes, extractor, chosen, on_progress, created)
        else:
            artifact = fit_artifact(outcomes, extractor, chosen, on_progress, created, jobs)
    if earlier is not None and not fresh and not why_not_kept(extractor, earlier):
        artifact = keep_experts(artifact, earlier, extractor)
    options = _options(wanted, encoder, taxonomy, pools)
    artifact = _note_origin(artifact, tables=tables, left_out=left_out, options=options)
    default = earlier.name if earlier and earlier.name in kept else artifact.name
    artifact.save(out, keep_previous=True, keep_heads=kept, default=default)
    _fit_skills(outcomes, tables, out, named, config)
    _tell_default(default, is_first=wanted.are_named and earlier is None)
    _tell_encoder(encoder, outcomes, config)
    _show_result(artifact, outcomes, earlier, out, kept, as_json)


def _find_usual_encoder(earlier: Artifact | None, config: Path) -> str | None:
    """The embedder of the artifact that is renewed, or else the configured one."""
    if earlier is not None:
        return _find_encoder(earlier.provenance)
    return _find_configured_encoder(config)


def _check_out(out: Path) -> None:
    if out.exists() and not (out / "manifest.json").is_file():
        raise ArtifactError(f"{out}: exists and is not an artifact; choose another name")


def _read_category_texts(
    taxonomy: Path | None, pools: Sequence[str], config: Path, wanted: "_Wanted"
) -> CategoryTexts | None:
    """What teaches categories beside the table; None where the options name nothing.

    Raises:
        UsageError: no head that is fitted tells categories.
    """
    if taxonomy is None and not pools:
        return None
    if not any(name.startswith("coe") for name in (wanted.name, *wanted.others)):
        raise click.UsageError("--taxonomy and --pool teach the head coe: add --head coe")
    prompts = [text for pool in pools for text in _read_prompts(pool, config)]
    kept = thin_pool(prompts)
    if len(kept) < len(prompts):
        click.echo(f"of {len(prompts)} prompts without a grade {len(kept)} are used", err=True)
    return join_texts(read_taxonomy(taxonomy) if taxonomy else None, kept)


def _read_prompts(pool: str, config: Path) -> list[str]:
    if pool != JOURNAL:
        return read_pool(Path(pool))
    # By entry point, because evals import nothing of the gateway.
    point = next(iter(entry_points(group="thalamus.traffic", name="journal-prompts")), None)
    if point is None:
        raise click.ClickException("the gateway is not installed here: pip install thalamus-gateway")
    prompts: list[str] = point.load()(config)
    return prompts


def _tell_default(head: str, is_first: bool) -> None:
    """Say that another head than usual decides where a policy names none."""
    if is_first and head != USUAL:
        click.echo(
            f"head {head} decides for `auto` too, and for every policy that names no head: it is the first"
            f" one; `thalamus fit --heads {USUAL},{head}` with the same table has {USUAL} decide there",
            err=True,
        )


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What to fit: the first head by its predictor, and further ones by name.

    are_named: whether the command names them, so that the other heads of an artifact are none of its business
    """

    predictor: str
    settings: Mapping[str, Any]
    others: tuple[str, ...] = ()
    are_named: bool = False

    @property
    def name(self) -> str:
        return name_head(self.predictor, self.settings)

    def build_settings(self, n_folds: int, seed: int, categories: CategoryTexts | None) -> FitSettings:
        """How to fit them."""
        first = FitSettings(self.predictor, self.settings, n_folds, seed=seed)
        return replace(first, heads=self.others, categories=categories)


def _choose_heads(
    predictor: str, settings: Mapping[str, Any], heads: Sequence[str], config: Path, given: Collection[str]
) -> _Wanted:
    """The heads that the options name, or else the predictor and the heads that policies need.

    Raises:
        ArtifactError: there is no head of a name.
    """
    names = list(dict.fromkeys(name.strip() for text in heads for name in text.split(",") if name.strip()))
    if not names:
        if "config" in given and not config.is_file():
            raise DataError(f"{config}: no such file")
        first = name_head(predictor, settings)
        needed = [name for name in _find_needed_heads(config, first) if name != first]
        return _Wanted(predictor, settings, tuple(needed))
    for name in names:
        parse_head(name)
    if "predictor" in given:
        raise click.UsageError("--predictor and --head both name what to fit; keep one")
    first = "blend" if "blend" in names else names[0]
    predictor, usual = parse_head(first)
    others = tuple(name for name in names if name != first)
    if others and "settings" in given:
        raise click.UsageError("--settings are those of one head; name one with --head")
    return _Wanted(predictor, {**usual, **settings}, others, are_named=True)


def _find_needed_heads(config: Path, first: str) -> list[str]:
    """The heads that the policies of a configuration name, and one that tells categories where they map some.

    What else is wrong with the file, `thalamus config check` says.
    """
    found = _read_policies(config)
    # Named skills need no head.
    naming = [*found, *(panel for panel in _read_panels(config) if not panel.get("keywords"))]
    needed = [str(one["predictor"]) for one in naming if one.get("predictor")]
    for name in needed:
        try:
            parse_head(name)
        except ArtifactError as error:
            raise ArtifactError(f"{config}: policies: {error}") from None
    maps = any(isinstance(one.get("mapping"), dict) and set(one["mapping"]) - {GENERAL} for one in found)
    if maps and not any(name.startswith("coe") for name in (first, *needed)):
        needed.append("coe")
    return list(dict.fromkeys(needed))


def read_config(config: Path) -> dict[str, Any]:
    """The content of a configuration; empty where there is none that can be read."""
    try:
        content = yaml.safe_load(config.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_policies(config: Path) -> list[dict[str, Any]]:
    """The policies of a configuration; none where it cannot be read."""
    policies = read_config(config).get("policies")
    return [one for one in policies.values() if isinstance(one, dict)] if isinstance(policies, dict) else []


def _read_panels(config: Path) -> list[dict[str, Any]]:
    """The panels of a configuration's policies."""
    panels = [
        plan.get("panel") for one in _read_policies(config) if isinstance(plan := one.get("plan"), dict)
    ]
    return [panel for panel in panels if isinstance(panel, dict)]


def _recruits_by_keywords(config: Path) -> bool:
    return any(panel.get("keywords") for panel in _read_panels(config))


def _fit_skills(outcomes: OutcomeTable, tables: Sequence[str], out: Path, named: bool, config: Path) -> None:
    """Learn who has which named skill, and who weighs answers well, beside the artifact; renew what is there.

    What `thalamus skills` measured lies beside the tables; without it keywords are found in the texts.
    """
    if not (named or _recruits_by_keywords(config) or skills_path(out).exists()):
        return
    words_of: dict[str, list[str]] = {}
    trials: dict[tuple[str, str], float] = {}
    sources: list[str] = []
    for table in map(Path, tables):
        for line in _read_lines(table.with_name(table.name + KEYWORDS)):
            if isinstance(line.get("text"), str) and isinstance(line.get("keywords"), list):
                words_of[line["text"]] = [str(word) for word in line["keywords"]]
                sources.append(str(line.get("model", "")))
        trials |= read_trials(table, outcomes)
    source = max(set(sources), key=sources.count) if sources else LEXICON
    found = NamedSkills.fit(outcomes, StaticEmbedder(), words_of, trials, source)
    found.save(skills_path(out))
    n_told = sum(text in words_of for text in outcomes.texts)
    click.echo(
        f"named skills: {len(found.catalogue.skills)}; a model told keywords of {n_told} prompts, those of "
        f"{len(outcomes) - n_told} were found in the text; {len(trials)} trials of aggregators",
        err=True,
    )


def read_trials(path: Path, table: OutcomeTable) -> dict[tuple[str, str], float]:
    """Scores as aggregator by (id of the query, expert), as `thalamus skills aggregators` keeps them."""
    models = dict(zip(table.experts, table.models, strict=True))
    found: dict[tuple[str, str], float] = {}
    for line in _read_lines(path.with_name(path.name + TRIALS)):
        score, name = line.get("score"), str(line.get("expert"))
        # What another model made of answers under this name says nothing of this one.
        if isinstance(score, (int, float)) and models.get(name) == line.get("model"):
            found[str(line.get("probe")), name] = float(score)
    return found


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; half a line at its end, of a run that was stopped, is left out."""
    if not path.is_file():
        return
    for line in path.read_text("utf-8", "replace").split("\n"):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _find_encoder(provenance: Mapping[str, Any]) -> str | None:
    """The embedder that an artifact was fitted with, where it is not the usual one."""
    options = list(provenance.get("options", ()))
    return options[options.index("--encoder") + 1] if "--encoder" in options else None


def _find_configured_encoder(config: Path) -> str | None:
    """The encoder that the configuration names, if it does."""
    routing = read_config(config).get("routing")
    encoder = routing.get("encoder") if isinstance(routing, dict) else None
    return encoder if isinstance(encoder, str) else None


def _tell_encoder(encoder: str, outcomes: OutcomeTable, config: Path) -> None:
    """Say which setting serves an encoder, and whether it has learned from what it is now measured on."""
    if encoder in ("minilm", "none"):
        return
    if _find_configured_encoder(config) != encoder:
        click.echo(f"to serve this artifact, {config} needs routing: {{encoder: {encoder}}}", err=True)
    tuned = Path(encoder) / TUNED
    if not tuned.is_file():
        return
    seen = set(json.loads(tuned.read_text("utf-8")).get("texts", ()))
    n_seen = sum(digest_text(text) in seen for text in outcomes.texts)
    if n_seen:
        click.echo(
            f"the encoder has learned from {n_seen} of these {len(outcomes)} queries: figures out of fold "
            "flatter; `thalamus encoders fit --buckets 0-49` leaves some to fit and measure on",
            err=True,
        )


def digest_text(text: str) -> str:
    """Sixteen hex digits for a text, by which an encoder says what it has learned from."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _find_kept_heads(
    earlier: Artifact, wanted: _Wanted, extractor: FeatureExtractor, fresh: bool
) -> tuple[str, ...]:
    """The heads of the artifact before that this fit does not make and that can stay beside what it makes.

    Raises:
        ClickException: the default head is one of them, and of another embedder.
    """
    kept = []
    for name in earlier.head_names:
        # Another --predictor takes the default's place, unless the command names the heads to renew.
        replaced = fresh or name == earlier.name
        if name in (wanted.name, *wanted.others) or (replaced and not wanted.are_named):
            continue
        try:
            tiers = earlier.head(name).tiers
        except ArtifactError as error:
            click.echo(f"head {name} is dropped: {error}", err=True)
            continue
        prints = extractor.fingerprints
        if all(prints.get(tier, model.fingerprint) == model.fingerprint for tier, model in tiers.items()):
            kept.append(name)
        elif name == earlier.name:
            raise click.ClickException(
                f"head {name} was fitted on another embedder: give its --encoder, or fit all with --heads"
            )
        else:
            click.echo(f"head {name} is dropped: it was fitted on another embedder", err=True)
    return tuple(kept)


def _note_origin(artifact: Artifact, **facts: Sequence[Any]) -> Artifact:
    """The artifact with further facts in the provenance of each head."""
    others = {name: _note_origin(artifact.head(name), **facts) for name in artifact.others}
    return replace(artifact, provenance={**artifact.provenance, **facts}, others=others)


def _options(wanted: _Wanted, encoder: str, taxonomy: Path | None, pools: Sequence[str]) -> list[str]:
    """The options that differ from the defaults and shape the heads: what repeats this fit."""
    settings = json.dumps(wanted.settings)
    chosen = {"--predictor": wanted.predictor, "--settings": settings, "--encoder": encoder}
    usual = {"--predictor": "blend", "--settings": "{}", "--encoder": "minilm"}
    given = [(name, value) for name, value in chosen.items() if value != usual[name]]
    given += [("--taxonomy", str(taxonomy))] if taxonomy else []
    return [word for pair in (*given, *(("--pool", pool) for pool in pools)) for word in pair]


def _make_extractor(encoder: str) -> FeatureExtractor:
    closer = None if encoder == "none" else load_embedder(encoder, n_threads=2)
    return FeatureExtractor(StaticEmbedder(), closer)


def _read_outcomes(tables: list[str], earlier: Artifact | None, experts: str | None) -> OutcomeTable:
    """The tables as one, and the bundled one that the artifact before rests on, which is named with them."""
    outcomes = _load_table(tables[0])
    for name in tables[1:]:
        outcomes = add_outcomes(_load_table(name), outcomes)
    if earlier is not None and BUNDLED not in tables and _rests_on_bundled(earlier.provenance):
        outcomes = _add_bundled(outcomes, tables)
    return outcomes.only([name.strip() for name in experts.split(",")]) if experts else outcomes


def _find_tables(table: Path, others: Sequence[str], out: Path, former: Artifact | None) -> list[str]:
    """The tables to fit on; where `table` is no file, those of the `former` artifact in its place."""
    known = former.provenance.get("tables", ()) if former is not None and not table.exists() else ()
    if not known or not all(name == BUNDLED or Path(name).exists() for name in known):
        return [str(table), *others]
    click.echo(f"no {table} here: fitting on {', '.join(known)}, as {out} was", err=True)
    return list(dict.fromkeys([*known, *others]))


def _load_table(name: str) -> OutcomeTable:
    if name != BUNDLED and not Path(name).exists():
        raise DataError(f"{name}: no such file; `thalamus profile` writes a table of outcomes")
    return load_bundled_outcomes()[0] if name == BUNDLED else OutcomeTable.load(name)


def _rests_on_bundled(provenance: Mapping[str, Any]) -> bool:
    """Whether the bundled outcomes were fitted on, for this artifact or for experts that it kept."""
    tables = provenance.get("tables", ())
    kept = provenance.get("kept", {}).get("of")
    return BUNDLED in tables or (kept is not None and _rests_on_bundled(kept))


def _add_bundled(outcomes: OutcomeTable, tables: list[str]) -> OutcomeTable:
    """The table with the bundled outcomes of its experts, which a few new ones must not take the place of."""
    bundled = _load_table(BUNDLED)
    models = dict(zip(outcomes.experts, outcomes.models, strict=True))
    pairs = zip(bundled.experts, bundled.models, strict=True)
    common = [name for name, model in pairs if models.get(name) == model]
    if not common:
        return outcomes
    tables.append(BUNDLED)
    click.echo(f"the bundled outcomes of {', '.join(common)} count on; --fresh leaves them out", err=True)
    return add_outcomes(bundled.only(common), outcomes)


def _leave_out(outcomes: OutcomeTable) -> tuple[OutcomeTable, list[dict[str, Any]]]:
    """The table without experts that nothing can be learned of, and who they are and why.

    Raises:
        DataError: no expert is left.
    """
    usable = (~np.isnan(outcomes.mask_declined())).sum(axis=0).tolist()
    reasons = outcomes.explain_unusable()
    left_out: list[dict[str, Any]] = []
    for name, model in zip(outcomes.experts, outcomes.models, strict=True):
        if name in reasons:
            why, declined = reasons[name]
            left_out.append({"name": name, "model": model, "why": why, "declined": declined})
            click.echo(f"{name} is left out of this fit: {why}", err=True)
    gone = {expert["name"] for expert in left_out}
    kept = [name for name in outcomes.experts if name not in gone]
    if not kept:
        raise DataError("no expert is left to fit; `thalamus profile` measures some")
    for name, n_usable in zip(outcomes.experts, usable, strict=True):
        if name not in gone and n_usable < FEW:
            click.echo(
                f"warning: {name} has {n_usable} outcomes, fewer than {FEW}: what is learned of it is"
                " little more than a guess",
                err=True,
            )
    return outcomes.only(kept), left_out


def _load_earlier(out: Path) -> Artifact | None:
    """The artifact to be replaced; None where there is none, or none that can be read."""
    if not out.exists():
        return None
    try:
        return Artifact.load(out)
    except ArtifactError as error:
        click.echo(f"nothing can be kept of the artifact before: {error}", err=True)
        return None


def _confirm_drops(
    earlier: Artifact, outcomes: OutcomeTable, extractor: FeatureExtractor, out: Path, fresh: bool, yes: bool
) -> None:
    """Say which experts the new artifact would no longer know, and go on with consent only."""
    lost = [f"{e.name} ({e.n} outcomes)" for e in earlier.experts if e.name not in outcomes.experts]
    why = "--fresh" if fresh else why_not_kept(extractor, earlier)
    if not lost or not why:
        return
    click.echo(f"this fit drops {', '.join(lost)} from {out}: {why}", err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        options = earlier.provenance.get("options")
        as_before = f"; {shlex.join(options)} fits as before and keeps them" if options and not fresh else ""
        raise click.ClickException(
            f"nothing was written; --yes drops them, --with TABLE fits them too, and another OUT than {out}"
            f" leaves them where they are{as_before}"
        )
    click.confirm("Go ahead?", abort=True, err=True)


def _show_result(
    artifact: Artifact,
    outcomes: OutcomeTable,
    earlier: Artifact | None,
    out: Path,
    kept_heads: Sequence[str],
    as_json: bool,
) -> None:
    facts = _facts(artifact, outcomes, out)
    if as_json:
        click.echo(json.dumps(facts))
        return
    certainty = {expert.name: expert.certainty for expert in artifact.experts}
    shown = {
        name: {**f, "score": show_rate(f["score"], certainty[name])} for name, f in facts["experts"].items()
    }
    for values in shown.values():
        values.pop("interval")
        if n_declined := values.pop("n_declined", 0):
            values["n"] = f"{values['n']} (declined {n_declined} of {values['n'] + n_declined})"
    if not facts["left_out"]:
        facts.pop("left_out")
    heads = {
        f"{name}, {tier}": _show_figures(figures)
        for name, tiers in facts["heads"].items()
        for tier, figures in tiers.items()
    }
    print_facts({**facts, "experts": shown, "heads": heads})
    if kept_heads:
        click.echo(f"heads that stay as they were: {', '.join(kept_heads)}")
    if earlier is not None:
        kept = [e.name for e in earlier.experts if e.name not in outcomes.experts]
        if kept and {e.name for e in artifact.experts}.issuperset(kept):
            click.echo(f"kept from the artifact before: {', '.join(kept)}")
        for before, now in ((b, n) for b in earlier.experts for n in artifact.experts if b.name == n.name):
            if now.n < before.n:
                click.echo(
                    f"note: {now.name} rests on {now.n} outcomes, before on {before.n} of another table"
                    f" ({earlier.provenance.get('source') or 'source unknown'}); --with TABLE fits on both"
                )
        click.echo(f"the artifact before is kept in {previous_path(out)}")
    where = (
        ""
        if out.absolute() == SERVED.absolute()
        else f", with `routing: {{artifact: {out}}}` in thalamus.yaml"
    )
    click.echo(f"next: thalamus serve{where}")
    click.echo("a gateway that runs reads the new artifact on SIGHUP: kill -HUP PID")


def _show_figures(metrics: Mapping[str, float]) -> dict[str, Any]:
    """The figures of a head, what is a rate over the fully scored queries with its interval."""
    n = metrics.get("n_complete", 0)
    rates = ("accuracy", "best_single", "oracle")
    return {name: show_rate(value, n) if name in rates else value for name, value in metrics.items()}


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--settings") from None
    if not isinstance(value, dict):
        raise click.BadParameter("a JSON object is needed", param_hint="--settings")
    return value


def _facts(artifact: Artifact, outcomes: OutcomeTable, out: Path) -> dict[str, Any]:
    n_declined = dict(zip(outcomes.experts, outcomes.count_declined().tolist(), strict=True))
    consulted = [row for row in artifact.margins if row["margin"] <= artifact.margin]
    return {
        "artifact": str(out),
        "n_queries": artifact.provenance["n_queries"],
        "experts": {
            e.name: {
                "model": e.model,
                "n": e.n,
                **({"n_declined": n_declined[e.name]} if n_declined.get(e.name) else {}),
                "score": round(e.score, 4),
                "interval": [round(bound, 4) for bound in rate_interval(e.score, e.certainty)],
            }
            for e in artifact.experts
        },
        "left_out": {expert["name"]: expert["why"] for expert in artifact.provenance.get("left_out", [])},
        "heads": {
            name: {
                tier: {key: round(value, 4) for key, value in model.metrics.items()}
                for tier, model in artifact.head(name).tiers.items()
            }
            for name in artifact.head_names
        },
        "margin": round(artifact.margin, 4),
        "share_consulted": round(consulted[-1]["consulted"], 4) if consulted else None,
    }
