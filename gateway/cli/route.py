"""`thalamus route`: show which expert would answer a prompt, and why."""

import asyncio
import json
import shutil
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import CONFIG_OPTION, JSON_OPTION, read_config

if TYPE_CHECKING:
    from policies import Decision, Objective
    from routers import Query, Sweep

    from ..config import Config

MAX_ROWS = 8
N_NEAREST = 5
MAX_PROMPT_CHARS = 100
TABLE_GROUP = "thalamus.outcomes"
"""Entry points of the outcome tables that packages bring, by the name that `thalamus fit` gives them."""
EXAMPLES = """
\b
Examples:
  thalamus route "What is 17*23?"
  thalamus route "What is 17*23?" --policy best --json
  thalamus route "What is 17*23?" --explain         and the nearest measured prompts
  thalamus route "What is 17*23? [Flag: Smallest model]"
  cat prompt.txt | thalamus route -
"""


@click.command(epilog=EXAMPLES)
@click.argument("prompt")
@CONFIG_OPTION
@click.option("--policy", default="auto", show_default=True, help="The policy to decide by.")
@click.option(
    "--explain",
    "explains",
    is_flag=True,
    help="Show the nearest measured prompts and what each expert scored.",
)
@JSON_OPTION
def command(prompt: str, config_path: Path, policy: str, explains: bool, as_json: bool) -> None:
    """Show which expert would answer PROMPT and why: every candidate, its prediction and the reason.

    No expert is called. All experts count as available. `-` reads the prompt from standard input.

    --explain reads the outcome tables that the artifact was fitted on, where they lie; nothing leaves this
    machine.
    """
    config = read_config(config_path, quiet=True)
    text = sys.stdin.read() if prompt == "-" else prompt
    record = describe_decision(config, text, policy, explains)
    if as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        show_decision(record)


def describe_decision(
    config: "Config", text: str, policy_name: str, explains: bool = False
) -> dict[str, Any]:
    """Return the full record of the decision for a prompt; `explains`: with what was measured near it."""
    from policies import decision_record
    from routers import describe_query

    query, decision, tradeoff, notes = asyncio.run(_decide(config, text, policy_name))
    seen = {name: value for name, value in describe_query(query).items() if name != "text"}
    seen["needs"] = sorted(query.needs)
    record = {**decision_record(decision), "query": seen, "tradeoff": tradeoff, "notes": notes}
    if explains:
        from routers import RoutersError

        try:
            nearest, missing = find_nearest(config, query.text)
        except RoutersError as error:
            raise click.ClickException(str(error)) from None
        record |= {"nearest": nearest, "notes": [*notes, *missing]}
    return record


def find_nearest(config: "Config", text: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Measured prompts that are most like a text, each with its outcomes, and what kept some from being read.

    Near is by the cosine of the static embedder, which reads thousands of prompts in a second.

    Raises:
        RoutersError: the artifact or a table is damaged.
    """
    from routers import Artifact, OutcomeTable, StaticEmbedder

    path = Path(config.routing.artifact)
    if not path.exists():
        return [], [f"nothing was measured: there is no artifact {path}; `thalamus fit` writes one"]
    found: list[tuple[float, str, dict[str, float]]] = []
    notes, embedder, pool = [], StaticEmbedder(), {expert.name for expert in config.experts}
    at = embedder.embed([text])[0]
    tables = Artifact.load(path).provenance.get("tables", ())
    if not tables:
        notes.append(f"{path} does not say which tables it was fitted on; fit it again to see them here")
    for name in tables:
        bundled = {one.name: one for one in entry_points(group=TABLE_GROUP)}.get(name)
        if bundled is None and not Path(name).exists():
            notes.append(f"{name} is not here: what it measured near this prompt cannot be shown")
            continue
        table = bundled.load()()[0] if bundled is not None else OutcomeTable.load(name)
        near = embedder.embed(table.texts) @ at  # (n_queries,)
        for row in near.argsort()[::-1][: 4 * N_NEAREST].tolist():
            scores = zip(table.experts, table.score[row].tolist(), strict=True)
            known = {expert: score for expert, score in scores if score == score and expert in pool}
            if known:
                found.append((float(near[row]), table.texts[row], known))
    # Tables may share prompts, and repeat them; each is shown once.
    best = {prompt: (near, known) for near, prompt, known in sorted(found, key=lambda one: one[0])}
    ranked = sorted(best.items(), key=lambda one: -one[1][0])[:N_NEAREST]
    nearest = [
        {"similarity": round(near, 4), "prompt": prompt, "scores": known} for prompt, (near, known) in ranked
    ]
    return nearest, notes


async def _decide(
    config: "Config", text: str, policy_name: str
) -> "tuple[Query, Decision, dict[str, Any] | None, list[str]]":
    import msgspec

    from policies import Fleet
    from routers import RoutersError

    from ..errors import GatewayError
    from ..experts import ToolExpert, load_tool
    from ..experts.profiles import profiles
    from ..prompts.wrappings import build_grammar
    from ..requests.parsing import CHAT, RequestParser, ToPolicy
    from ..routing.router import build_router

    policies = config.policies_by_name()
    if policy_name not in policies:
        raise click.ClickException(f"there is no policy '{policy_name}'; policies: {', '.join(policies)}")
    pool = profiles(config)
    if not pool:
        raise click.ClickException("no experts are configured; `thalamus init` finds some")
    fields = {
        "model": msgspec.Raw(msgspec.json.encode(f"auto:{policy_name}")),
        "messages": msgspec.Raw(msgspec.json.encode([{"role": "user", "content": text}])),
    }
    grammar = build_grammar(config)
    tools = {
        expert.name: ToolExpert(expert.name, load_tool(expert.tool), grammar)
        for expert in config.experts
        if expert.tool
    }
    try:
        parsed = RequestParser(config, policies, tools, None, grammar).parse(CHAT, fields, {})
        assert isinstance(parsed, ToPolicy), "auto:<policy> names no expert"  # noqa: S101
        router = build_router(config, pool)
        decision = await router.decide(parsed, Fleet.idle(len(pool)))
    except (GatewayError, RoutersError) as error:
        raise click.ClickException(str(error)) from None
    router.close()
    query, policy = parsed.query, parsed.policy
    objective = (parsed.hints and parsed.hints.objective) or policy.objective
    forecaster = router.find_head(policy).forecaster
    tradeoff = _describe_tradeoff(objective, forecaster.sweep(decision.tier))
    notes = [*parsed.warnings, *forecaster.warnings]
    return query, decision, tradeoff, notes


def _describe_tradeoff(objective: "Objective", sweep: "Sweep | None") -> dict[str, Any] | None:
    """Return the weight on cost in use, and what every other weight would buy."""
    from policies import resolve_target

    if sweep is None:
        return None
    cost = resolve_target(objective, sweep).cost
    return {"cost": cost, "table": sweep.rows(cost)}


def show_decision(record: dict[str, Any]) -> None:
    """Print the decision; a reason that does not fit on the line goes below its expert."""
    by = f"policy {record['policy']}" + (f", head {record['head']}" if record["head"] else "")
    click.echo(f"{click.style(record['expert'], bold=True)}: {record['reason']}  ({by})")
    plan = record["plan"]
    if "members" in plan:
        joint = f"aggregator {plan['aggregator']}" if plan["aggregator"] else "a vote, no aggregator"
        click.echo(f"panel of {', '.join(plan['members'])}; {joint}")
    if "skills" in record:
        click.echo(f"skills: {', '.join(record['skills']) or 'none that is known; members by quality'}")
    candidates = record["candidates"]
    width = max(len("expert"), *(len(candidate["expert"]) for candidate in candidates))
    # On a narrow terminal the table stays readable if a long reason moves to its own line.
    room = shutil.get_terminal_size().columns
    click.echo(
        click.style(
            _format_row(width, ("expert", "quality", "cost", "latency", "utility")) + "  reason", dim=True
        )
    )
    for candidate in candidates:
        line = _format_row(width, _format_figures(candidate))
        fits = len(line) + len(candidate["reason"]) + 2 <= room
        text = line + ("  " if fits else "\n" + " " * 4) + candidate["reason"]
        click.echo(text if candidate["eligible"] else click.style(text, dim=True))
    answering = [candidate for candidate in candidates if not _has_declined(candidate)]
    assumed = [c for c in answering if "output_tokens_assumed" in c and c["cost_usd"] is not None]
    if assumed:
        lengths = ", ".join(f"{c['expert']} {c['output_tokens']:.0f}" for c in assumed)
        click.echo(f"~ assumes an answer of so many tokens, as none was measured: {lengths}")
    if record["tradeoff"] is not None:
        _show_tradeoff(**record["tradeoff"])
    _show_nearest(record.get("nearest", []))
    for note in record["notes"]:
        click.echo(f"note: {note}", err=True)


def _show_nearest(nearest: list[dict[str, Any]]) -> None:
    """Print measured prompts that are like this one, and what each expert scored on them."""
    if not nearest:
        return
    click.echo(click.style("\nalike  nearest measured prompts, and what each expert scored", dim=True))
    for one in nearest:
        prompt = " ".join(one["prompt"].split())
        shown = prompt if len(prompt) <= MAX_PROMPT_CHARS else prompt[: MAX_PROMPT_CHARS - 1] + "…"
        scores = ", ".join(f"{expert} {score:.2f}" for expert, score in one["scores"].items())
        click.echo(f"{one['similarity']:5.2f}  {shown}\n       {scores}")


def _show_tradeoff(cost: float, table: list[dict[str, float]]) -> None:
    """Print some rows of the λ table, from best to cheapest, with the row in use."""
    # A weight that passed through JSON or arithmetic differs in its last digits: hence the tolerance.
    used = max(n for n, row in enumerate(table) if row["cost"] <= 1.00001 * cost)
    step = max(1, -(-len(table) // MAX_ROWS))
    head = f"{'cost weight':>13}{'$ per 1,000':>14}{'quality':>10}"
    click.echo(click.style(f"\n{head}  expected over queries like those fitted on", dim=True))
    for n in sorted({*range(0, len(table), step), used, len(table) - 1}):
        row = table[n]
        line = f"{row['cost']:13.3g}{row['usd_per_1k']:14.4g}{row['quality']:10.3f}"
        click.echo(f"{line}  this policy: {cost:.3g}" if n == used else line)


def _has_declined(candidate: dict[str, Any]) -> bool:
    """Whether it is a tool that cannot answer: what is predicted of its answers holds for other prompts."""
    from policies.types import TOOL_DECLINED

    return bool(candidate["reason"].endswith(TOOL_DECLINED))


def _format_figures(candidate: dict[str, Any]) -> tuple[str, ...]:
    if _has_declined(candidate):
        return (candidate["expert"], *("–" * 4))
    spread = candidate["quality_std"]
    return (
        candidate["expert"],
        _format_quality(candidate["quality"], spread),
        # `~` marks a price whose number of tokens is assumed.
        _format_number(
            candidate["cost_usd"], "~${:.6f}" if "output_tokens_assumed" in candidate else "${:.6f}"
        ),
        _format_number(candidate["latency_s"], "{:.2f} s"),
        _format_number(candidate["utility"], "{:.3f}"),
    )


def _format_quality(mean: float | None, std: float | None) -> str:
    """The predicted score with its interval, within 0 and 1."""
    from routers import prediction_interval

    if mean is None or std is None:
        return _format_number(mean, "{:.2f}")
    low, high = prediction_interval(mean, std)
    return f"{mean:.2f} ({low:.2f}–{high:.2f})"


def _format_row(width: int, cells: tuple[str, ...]) -> str:
    name, *figures = cells
    return f"{name:{width}}" + "".join(
        f"{cell:>{n}}" for cell, n in zip(figures, (18, 12, 10, 9), strict=True)
    )


def _format_number(value: float | None, form: str) -> str:
    return "?" if value is None else form.format(value)
