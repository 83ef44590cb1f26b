"""`thalamus plan residency`: how local experts that share memory would have served a trace."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from policies import Loadable, ResidencyRule, TurnRule
from routers import DataError

from ...console import OnProgress, parse_numbers, progress_bar, report_errors
from ...simulation.serving import CountAnswered, Scheme, ServingFigures, SimulatedMachine, serve
from ...simulation.trace import SYNTHETIC, MeasuredForecast, OracleForecast, Synthetic, Trace, read_traffic

GB = 10**9
EXAMPLES = """
\b
Examples:
  thalamus plan residency --synthetic sessions --experts 8 --memory 2 --memory 4
  thalamus plan residency --trace .thalamus/journal.sqlite3 --size llama-8b=5.5 --size qwen-7b=4.8 \\
      --load-s 12 --memory 6 --memory 11
  thalamus plan residency --synthetic phases --requests 100000 --rate 0.5 --rule lookahead --json

\b
Rules: `in-order` serves requests strictly in order of arrival and evicts the least recently used expert;
`lru`, `lfu` and `lookahead` serve by turns as the gateway does and differ in which expert they evict;
`oracle` is look-ahead that knows the future.
"""
RULES = ("in-order", "lru", "lfu", "lookahead", "oracle")


@click.command("residency", epilog=EXAMPLES)
@click.option("--trace", "source", type=click.Path(path_type=Path), help="A gateway's journal (SQLite).")
@click.option("--synthetic", type=click.Choice(list(SYNTHETIC)), help="Requests drawn instead.")
@click.option(
    "--memory",
    "memories",
    multiple=True,
    type=click.FloatRange(0, min_open=True),
    help="GB that the experts share, one row of the table each; else a quarter, half, three quarters of all.",
)
@click.option("--size", "sizes", multiple=True, metavar="NAME=GB", help="Memory of an expert; drawn ones: 1.")
@click.option("--load", "loads", multiple=True, metavar="NAME=S", help="Seconds to load one expert.")
@click.option("--load-s", type=click.FloatRange(0), default=10.0, show_default=True, help="Of all others.")
@click.option(
    "--slots",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Answers an expert gives at once.",
)
@click.option("--rule", "rules", multiple=True, type=click.Choice(RULES), help="Only these rules.")
@click.option(
    "--max-wait-s",
    type=click.FloatRange(0),
    default=TurnRule().max_wait_s,
    show_default=True,
    help="A request that waits so long goes first.",
)
@click.option("--requests", "n_requests", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--experts", "n_experts", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=0.3,
    show_default=True,
    help="Requests a second.",
)
@click.option(
    "--service-s",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    show_default=True,
    help="Mean time of an answer.",
)
@click.option("--exponent", type=click.FloatRange(0), default=1.0, show_default=True, help="Of Zipf's law.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@report_errors
def residency(
    source: Path | None,
    synthetic: str | None,
    memories: Sequence[float],
    sizes: Sequence[str],
    loads: Sequence[str],
    load_s: float,
    slots: int,
    rules: Sequence[str],
    max_wait_s: float,
    n_requests: int,
    n_experts: int,
    rate: float,
    service_s: float,
    exponent: float,
    seed: int,
    as_json: bool,
) -> None:
    """Serve a trace on local experts that share memory, by each rule and for each amount of memory."""
    size_gb = parse_numbers(sizes, "--size", "NAME=GB")
    if (source is None) == (synthetic is None):
        raise click.UsageError("give either --trace JOURNAL or --synthetic KIND")
    if source is not None:
        trace = _read_recorded(source, size_gb)
    else:
        spec = Synthetic(n_requests, n_experts, exponent, rate, service_s, seed)
        trace = SYNTHETIC[synthetic or "zipf"](spec)
        size_gb = dict.fromkeys(trace.experts, 1.0) | size_gb
    loadable = _loadable(trace, size_gb, parse_numbers(loads, "--load", "NAME=SECONDS"), load_s)
    chosen = memories or _default_memories(loadable)
    rows: list[tuple[float, str, ServingFigures]] = []
    with progress_bar() as on_progress:
        for memory in chosen:
            machine = SimulatedMachine(round(memory * GB), loadable, slots)
            _check_fits(machine, memory)
            for scheme in build_schemes(rules or RULES, max_wait_s):
                what = f"{memory:g} GB, {scheme.name}"
                served = serve(trace, machine, scheme, count_requests(on_progress, what, len(trace)))
                rows.append((memory, scheme.name, ServingFigures.of(served)))
    if as_json:
        click.echo(json.dumps({"n_requests": len(trace), "experts": _mix(trace), "rows": _facts(rows)}))
    else:
        _print_table(trace, rows)


def build_schemes(names: Sequence[str], max_wait_s: float) -> list[Scheme]:
    """What the rules of the command are, in its order."""
    turns = TurnRule(max_wait_s=max_wait_s)
    known = {
        "in-order": Scheme("in-order", ResidencyRule("lru"), in_order=True),
        "lru": Scheme("lru", ResidencyRule("lru", turns)),
        "lfu": Scheme("lfu", ResidencyRule("lfu", turns)),
        "lookahead": Scheme("lookahead", ResidencyRule("lookahead", turns), forecast=MeasuredForecast),
        "oracle": Scheme("oracle", ResidencyRule("lookahead", turns), forecast=OracleForecast),
    }
    return [known[name] for name in RULES if name in names]


def count_requests(on_progress: OnProgress, what: str, total: int) -> CountAnswered:
    """A callback that reports how many requests of one row of the table are answered."""
    return lambda n: on_progress(what, n, total)


def _read_recorded(source: Path, size_gb: Mapping[str, float]) -> Trace:
    """The journal's requests for the experts whose size is given; the others are not on this machine."""
    trace = read_traffic(source, size_gb)
    if size_gb:
        return trace
    mix = _mix(trace)
    known = ", ".join(f"{name} ({mix[name]} requests)" for name in sorted(mix, key=lambda name: -mix[name]))
    raise DataError(f"{source}: give the memory of each local expert, --size NAME=GB each; there are {known}")


def _mix(trace: Trace) -> dict[str, int]:
    """How many requests each expert has."""
    counts = np.bincount(trace.expert, minlength=len(trace.experts)).tolist()
    return dict(zip(trace.experts, counts, strict=True))


def _loadable(
    trace: Trace, size_gb: Mapping[str, float], load_s: Mapping[str, float], usual_s: float
) -> tuple[Loadable, ...]:
    for name, size in size_gb.items():
        if size <= 0:
            raise DataError(f"--size: {name} takes {size:g} GB, which is not more than nothing")
    unknown = (size_gb.keys() | load_s.keys()) - set(trace.experts)
    if unknown:
        raise DataError(f"no request for {min(unknown)}; there are: {', '.join(trace.experts)}")
    return tuple(
        Loadable(name, round(size_gb[name] * GB), load_s.get(name, usual_s)) for name in trace.experts
    )


def _default_memories(loadable: Sequence[Loadable]) -> list[float]:
    """A quarter, half and three quarters of what all take, where the largest fits."""
    sizes = [one.size_bytes / GB for one in loadable]
    return sorted({max(max(sizes), round(share * sum(sizes), 1)) for share in (0.25, 0.5, 0.75)})


def _check_fits(machine: SimulatedMachine, memory: float) -> None:
    largest = max(machine.loadable, key=lambda one: one.size_bytes)
    if largest.size_bytes > machine.capacity_bytes:
        raise DataError(f"--memory {memory:g}: {largest.expert} alone takes {largest.size_bytes / GB:g} GB")


def _facts(rows: Sequence[tuple[float, str, ServingFigures]]) -> list[dict[str, object]]:
    return [{"memory_gb": memory, "rule": rule, **figures.facts()} for memory, rule, figures in rows]


def _print_table(trace: Trace, rows: Sequence[tuple[float, str, ServingFigures]]) -> None:
    span_s = float(trace.time_s[-1])
    click.echo(
        f"{len(trace)} requests for {len(trace.experts)} experts in {span_s / 3600:.2g} hours; times in s"
    )
    heads = ("hits", "swaps/1k", "mean", "p50", "p95", "p99", "longest wait")
    click.echo(f"{'GB':>6} {'rule':10}" + "".join(f" {head:>{_width(head)}}" for head in heads))
    for memory, rule, figures in rows:
        values = (f"{figures.hit_ratio:.1%}", f"{figures.swaps_per_1k:.0f}", *map(_seconds, _times(figures)))
        cells = "".join(f" {value:>{_width(head)}}" for head, value in zip(heads, values, strict=True))
        click.echo(f"{memory:>6g} {rule:10}{cells}")


def _times(figures: ServingFigures) -> tuple[float, ...]:
    return (figures.mean_s, *figures.latency_s.values(), figures.longest_s)


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _width(head: str) -> int:
    return max(8, len(head))
