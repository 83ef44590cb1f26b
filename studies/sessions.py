"""What sessions are billed, by who is asked for each turn: `python -m studies.sessions DATA/llmrouter9`.

Conversations are drawn from the prompts of an outcome table: turns of one task, as a rule, some of another,
seconds to minutes apart. Each turn is billed with all that was said before it. Every expert is given a
provider whose prompt cache is simulated (OpenAI's, Anthropic's, DeepSeek's, and one without), with its price
for reading and writing, its least size, its steps, and a lifetime that is drawn anew for each use: what is
published is the least of it. Some caches are lost early.

    fixed      the best single expert of the training rows, for every turn
    alone      each turn routed by itself (`affinity: false`)
    pinned     the first turn routed, the others with its expert
    sessions   routed by the gateway's own table of sessions and engine

An artifact is fitted on buckets 0–59. On sessions of buckets 60–79 each way of routing takes its λ: the
cheapest whose mean score is not below that of `fixed`. Sessions of buckets 80–99 are then billed once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import numpy as np
from msgspec.structs import replace

from evals.console import report_errors
from evals.datasets import read_outcomes
from evals.measures.bootstrap import interval
from gateway.config.expert_schema import PromptCacheConfig
from gateway.openai.answers import InputDetails, Price, Usage, cost_usd
from gateway.requests.query import Conversation
from gateway.routing.sessions import AUTOMATIC, SessionAnswer, SessionTable
from policies import DecidingHead, Decision, Fleet, HeadNeeds, Objective, Policy, RoutingHints, Session
from routers import (
    ExpertProfile,
    FeatureExtractor,
    Features,
    Floats,
    Ints,
    OutcomeTable,
    Query,
    StaticEmbedder,
    fit_artifact,
    query_of,
)

N_FITTED, N_CHOSEN = 60, 80
ANSWER_TOKENS = 200
"""llmrouter9 does not store answers: its costs are prices times the input and so many tokens."""
TOOL_TOKENS = (0, 1200)
"""What tools or pasted text add to a turn, beside its prompt."""
FIRST_TOKENS = (300, 4000)
"""System prompt and tools."""
N_TURNS = (3, 14)
SAME_TASK = 0.7
GAP_S, LONG_GAP_SHARE, LONG_GAP_S = 40.0, 0.1, (600.0, 3600.0)
LOST_SHARE = 0.01
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
Way = Literal["fixed", "alone", "pinned", "sessions"]
WAYS: tuple[Way, ...] = ("fixed", "alone", "pinned", "sessions")


@dataclass(frozen=True, slots=True)
class SimulatedProvider:
    """A provider's prompt cache.

    rule: what it promises, None where there is no cache
    read, write: price of a token that is read from it or written to it, as a share of that of another
    longest_s: longest time that it really keeps one
    """

    rule: PromptCacheConfig | None
    read: float = 1.0
    write: float = 1.0
    longest_s: float = 0.0


PROVIDERS = (
    SimulatedProvider(AUTOMATIC, 0.5, 1.0, 900.0),
    SimulatedProvider(PromptCacheConfig(lifetime_s=300.0, least_tokens=1024), 0.1, 1.25, 330.0),
    SimulatedProvider(
        PromptCacheConfig(lifetime_s=3600.0, least_tokens=64, step_tokens=64), 0.1, 1.0, 14400.0
    ),
    SimulatedProvider(None),
)


@dataclass(frozen=True, slots=True)
class SimulatedTurn:
    """One turn: which prompt is asked, when, and how many input tokens it has with all before it."""

    row: int
    at_s: float
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Bill:
    """What sessions cost and scored, (n_sessions,) each; how many reads of a cache were expected and came."""

    usd: Floats
    score: Floats
    n_expected: int = 0
    n_read: int = 0


class ProviderCaches:
    """The prompt caches of all providers for one session."""

    def __init__(self, providers: Sequence[SimulatedProvider], seed: int) -> None:
        self._providers = providers
        self._random = np.random.default_rng(seed)
        self._kept: dict[int, tuple[int, float]] = {}

    def call(self, expert: int, n_tokens: int, at_s: float) -> Usage:
        """The usage of a call: what was read from the cache, and what was written to it."""
        provider, rule = self._providers[expert], self._providers[expert].rule
        n_kept, until_s = self._kept.get(expert, (0, 0.0))
        n_read = 0
        if rule is not None:
            is_lost = self._random.random() < LOST_SHARE
            if n_kept >= rule.least_tokens and at_s < until_s and not is_lost:
                n_read = n_kept - n_kept % rule.step_tokens
            self._kept[expert] = n_tokens, at_s + self._random.uniform(rule.lifetime_s, provider.longest_s)
        n_written = n_tokens - n_read if provider.write > 1 and rule and n_tokens >= rule.least_tokens else 0
        details = InputDetails(n_read, cache_creation_tokens=n_written)
        return Usage(n_tokens, ANSWER_TOKENS, n_tokens + ANSWER_TOKENS, details)


class SessionSimulation:
    """Sessions of one table, an artifact, and who answers them."""

    def __init__(self, table: OutcomeTable, fitted: OutcomeTable, seed: int) -> None:
        self.table = table
        self.best = fitted.best_single()
        price = np.nanmedian(
            fitted.cost_usd / (_tokens(fitted) + ANSWER_TOKENS)[:, None], axis=0
        )  # (n_experts,)
        order = np.random.default_rng(seed).permutation(table.n_experts)
        self.providers = [PROVIDERS[place % len(PROVIDERS)] for place in np.argsort(order).tolist()]
        pairs = list(zip(price.tolist(), self.providers, strict=True))
        self.prices = [Price(usd, usd, usd * its.read, None, usd * its.write) for usd, its in pairs]
        names = zip(table.experts, table.models, pairs, strict=True)
        pool = [
            ExpertProfile(name, model, usd, usd, cached_input_usd_per_token=usd * its.read)
            for name, model, (usd, its) in names
        ]
        extractor = FeatureExtractor(StaticEmbedder())
        self.head = DecidingHead.of(pool, fit_artifact(fitted, extractor), HeadNeeds())
        self.queries = [query_of(text) for text in table.texts]
        self.features: Features = extractor.extract(self.queries, "static")
        self._tokens: Ints = _tokens(table).astype(np.int64)

    def draw_sessions(self, rows: Ints, n: int, seed: int) -> list[list[SimulatedTurn]]:
        """Sessions over some rows of the table."""
        random = np.random.default_rng(seed)
        tasks = np.array(self.table.tasks)
        sessions = []
        for _ in range(n):
            own = rows[tasks[rows] == tasks[random.choice(rows)]]
            n_tokens, at_s, turns = int(random.integers(*FIRST_TOKENS)), 0.0, []
            for _ in range(int(random.integers(*N_TURNS))):
                row = int(random.choice(own if random.random() < SAME_TASK else rows))
                n_tokens += int(self._tokens[row]) + int(random.integers(*TOOL_TOKENS))
                turns.append(SimulatedTurn(row, at_s, n_tokens))
                n_tokens += ANSWER_TOKENS
                is_long = random.random() < LONG_GAP_SHARE
                at_s += float(random.uniform(*LONG_GAP_S) if is_long else GAP_S * random.lognormal(0.0, 0.7))
            sessions.append(turns)
        return sessions

    def bill(self, sessions: Sequence[Sequence[SimulatedTurn]], way: Way, weight: float) -> Bill:
        """What the sessions cost and score where each turn is answered in one way."""
        clock = [0.0]
        rules = {name: its.rule for name, its in zip(self.table.experts, self.providers, strict=True)}
        marking = frozenset(
            name for name, its in zip(self.table.experts, self.providers, strict=True) if its.write > 1
        )
        known = SessionTable(rules, marking, clock=lambda: clock[0])
        caches = [ProviderCaches(self.providers, n) for n in range(len(sessions))]
        usd, score = np.zeros(len(sessions)), np.zeros(len(sessions))
        firsts: dict[int, int] = {}
        # All sessions go side by side, turn by turn, an hour and more apart: none meets another's time.
        for turn in range(max(map(len, sessions))):
            there = [n for n, session in enumerate(sessions) if turn < len(session)]
            asked = [sessions[n][turn] for n in there]
            looked_up: list[Session | None] = []
            for n, one in zip(there, asked, strict=True):
                clock[0] = one.at_s
                looked_up.append(known.find(f"{n}", _conversation(turn), None) if way == "sessions" else None)
            picks = self._pick(asked, looked_up, weight, way, [firsts.get(n) for n in there])
            for n, one, session, expert in zip(there, asked, looked_up, picks, strict=True):
                firsts.setdefault(n, expert)
                usage = caches[n].call(expert, one.n_tokens, one.at_s)
                name = self.table.experts[expert]
                known.answers.append(
                    SessionAnswer(f"{n}", _conversation(turn), None, session, name, usage, one.at_s)
                )
                usd[n] += cost_usd(usage, self.prices[expert]) or 0.0
                score[n] += self.table.score[one.row, expert] / len(sessions[n])
        known.remember_answers()
        return Bill(usd, score, sum(known.n_expected.values()), sum(known.n_read.values()))

    def _pick(
        self,
        asked: Sequence[SimulatedTurn],
        sessions: Sequence[Session | None],
        weight: float,
        way: Way,
        firsts: Sequence[int | None],
    ) -> list[int]:
        """The expert of each turn, as a column."""
        if way == "fixed":
            return [self.best] * len(asked)
        queries: list[Query] = [replace(self.queries[one.row], n_input_tokens=one.n_tokens) for one in asked]
        prediction = self.head.forecaster.predict(
            queries, self.features.take(np.array([one.row for one in asked]))
        )
        policy = Policy("auto", Objective(cost=weight), encoder="never")
        hints = [RoutingHints(session=session) if session else None for session in sessions]
        fleet = Fleet.idle(self.table.n_experts)
        decisions: list[Decision] = self.head.engine.decide(policy, queries, prediction, fleet, hints)
        picks = [self.table.experts.index(decision.chosen) for decision in decisions]
        if way != "pinned":
            return picks
        return [pick if first is None else first for pick, first in zip(picks, firsts, strict=True)]


def _conversation(turn: int) -> Conversation:
    """The digests of a conversation that only grows."""
    before = tuple(b"%d" % number for number in range(turn))
    return Conversation(b"%d" % turn, before)


def _tokens(table: OutcomeTable) -> Floats:
    return np.array([query_of(text).n_input_tokens for text in table.texts], np.float64)


def choose_weight(bills: Mapping[float, Bill], least: float) -> float:
    """The weight of the cheapest bill whose score reaches `least`; the best scored, where none does."""
    enough = {weight: bill for weight, bill in bills.items() if bill.score.mean() >= least}
    if enough:
        return min(enough, key=lambda weight: float(enough[weight].usd.sum()))
    return max(bills, key=lambda weight: float(bills[weight].score.mean()))


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--sessions", "n_sessions", default=600, show_default=True, help="Sessions to bill.")
@click.option("--seed", default=11, show_default=True, help="Of sessions, and of who is whose provider.")
@click.option("--develop", is_flag=True, help="Bill other sessions of buckets 60–79 in place of 80–99.")
@report_errors
def main(data: Path, n_sessions: int, seed: int, develop: bool) -> None:
    """Bill sessions in four ways."""
    table = read_outcomes(data)
    simulation = SessionSimulation(table, table.take(table.bucket < N_FITTED), seed)
    rows = np.arange(len(table))
    chosen = rows[(table.bucket >= N_FITTED) & (table.bucket < N_CHOSEN)]
    read = chosen if develop else rows[table.bucket >= N_CHOSEN]
    dry = simulation.draw_sessions(chosen, n_sessions, seed)
    billed = simulation.draw_sessions(read, n_sessions, seed + 1)
    least = float(simulation.bill(dry, "fixed", 0.0).score.mean())
    results: dict[Way, tuple[float, Bill]] = {}
    for way in WAYS:
        weights = (0.0,) if way == "fixed" else WEIGHTS
        weight = choose_weight({weight: simulation.bill(dry, way, weight) for weight in weights}, least)
        results[way] = weight, simulation.bill(billed, way, weight)
    fixed = results["fixed"][1]
    click.echo(f"{len(billed)} sessions, {sum(map(len, billed))} turns; λ from sessions of other buckets")
    for way, (weight, bill) in results.items():
        ratio = bill.usd.sum() / fixed.usd.sum()
        gain = interval(100 * (bill.score - fixed.score))
        hits = f", {bill.n_read} of {bill.n_expected} expected reads came true" if bill.n_expected else ""
        change = f"{gain.value:+.1f} points [{gain.low:+.1f}, {gain.high:+.1f}]"
        said = f"bill {ratio:.3f} of fixed, score {bill.score.mean():.4f} ({change}){hits}"
        click.echo(f"{way:9s} λ {weight:<5g} {said}")
    alone = simulation.bill(billed, "alone", results["sessions"][0])
    change = results["sessions"][1].usd.sum() / alone.usd.sum()
    click.echo(f"sessions, at their λ, cost {change:.3f} of what turns routed alone at that λ cost")


if __name__ == "__main__":
    main()
