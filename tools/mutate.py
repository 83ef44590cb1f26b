"""Which small changes of the code no test notices: `python tools/mutate.py [--target NAME] [--sample N]`.

A mutant is the source with one change: another comparison, operator or constant, a condition turned round,
a result that is None, a statement left out. A mutant survives when every neighbouring test that runs the
changed function still passes. `tools/mutants.md` gives a reason for each known survivor.

Tests are collected once; one traced run finds which tests call which function; each mutant is a forked child
that runs those tests, the quickest first. Importing the application anew for each mutant would take longer
than most of these tests do.
"""

import argparse
import ast
import contextlib
import copy
import gc
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol  # nothing public runs one item and returns its reports

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".mutate_cache"
GOAL = 0.85  # share of mutants killed
MIN_TIMEOUT_S = 10  # for one test; a mutant that hangs is killed

# Imported before the first fork, so that children which import the project anew do not pay for these.
THIRD_PARTY = (
    "aiohttp",
    "httpx",
    "hypothesis",
    "msgspec",
    "numpy",
    "openai",
    "starlette.applications",
    "uvicorn",
)

GATEWAY_TESTS = [
    f"tests/gateway/test_{name}.py"
    for name in ("query", "flags", "hints", "chat", "endpoints", "embeddings", "panels", "promises")
]


@dataclass(frozen=True, slots=True)
class Target:
    """Files to change, and the tests that should notice."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


TARGETS = {
    "usage": Target(
        ("gateway/openai/answers.py",),
        ("tests/gateway/test_usage.py", "tests/gateway/test_panels.py", "tests/gateway/test_promises.py"),
    ),
    "circuit_breaker": Target(
        ("gateway/fleet/circuit_breaker.py",),
        (
            "tests/gateway/fleet/test_circuit_breaker.py",
            "tests/gateway/fleet/test_health.py",
            "tests/gateway/test_promises.py",
        ),
    ),
    "requests": Target(("gateway/requests/*.py",), tuple(GATEWAY_TESTS)),
    "policies": Target(("policies/*.py",), ("tests/policies", "tests/test_plan_seam.py")),
}

Function = tuple[str, int, str]
"""Path below the root, first line (a decorator's, where there is one), qualified name."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change. `slot` is the changed place: (number of the parent in `ast.walk`, field, index or -1)."""

    path: str
    line: int
    text: str
    slot: tuple[int, str, int]
    variant: int
    function: Function | None  # None: outside of every function, so the module must be imported anew

    @property
    def key(self) -> str:
        return f"{self.path}:{self.line} {'.'.join(map(str, self.slot))}.{self.variant}"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"

    def compile(self) -> CodeType:
        tree = ast.parse((ROOT / self.path).read_text())
        number, field, index = self.slot
        parent = list(ast.walk(tree))[number]
        held = getattr(parent, field)
        if index < 0:
            setattr(parent, field, _alternatives(held, field)[self.variant])
        else:
            held[index] = _alternatives(held[index], field)[self.variant]
        code: CodeType = compile(ast.fix_missing_locations(tree), str(ROOT / self.path), "exec")
        return code


# The first is the neighbour (an off-by-one), the second the opposite.
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip

SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "ctx", "type_comment"}
# Says how a class is stored, or asserts what always holds.
SKIPPED_KEYWORDS = {"frozen", "slots", "strict", "kw_only", "repr", "compare"}


def _alternatives(node: ast.AST, field: str) -> list[ast.AST]:
    """What may stand in the place of `node`, which its parent holds in `field`."""
    found: list[ast.AST] = []

    def record_change(**fields: Any) -> None:
        other = copy.deepcopy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        found.append(other)

    match node:
        case ast.Compare(ops=ops):
            for n, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    record_change(ops=[*ops[:n], other(), *ops[n + 1 :]])
        case ast.BoolOp(op=op):
            record_change(op=ast.And() if isinstance(op, ast.Or) else ast.Or())
        case ast.BinOp(op=op, right=right) if type(op) in OPERATORS:
            # `X | None` is a type; so is a text that is formatted or repeated, but that fails at once
            if not (isinstance(right, ast.Constant) and right.value is None):
                record_change(op=OPERATORS[type(op)]())
        case ast.AugAssign(op=op) if type(op) in OPERATORS:
            record_change(op=OPERATORS[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            found.append(operand)
        case ast.Constant(value=bool(value)):
            record_change(value=not value)
        case ast.Constant(value=int(value) | float(value)):
            record_change(value=value + 1)
            record_change(value=value - 1)
        case ast.Return(value=value) if value is not None and not _is_none(value):
            record_change(value=ast.Constant(None))
    if field == "test" and isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr):
        found.append(ast.UnaryOp(ast.Not(), node))
    if _is_removable(node):
        found.append(ast.Pass())
    return [ast.copy_location(other, node) for other in found]


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_removable(node: ast.AST) -> bool:
    """A name that is never bound would fail at once and prove little, so plain assignments stay."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call | ast.Await) and "log." not in ast.unparse(node)
    if isinstance(node, ast.Assign):
        return all(isinstance(at, ast.Attribute | ast.Subscript) for at in node.targets)
    return isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break)


def find_mutants(path: str) -> Iterator[Mutant]:
    """Every mutant of the file at `path`, in the order of `ast.walk`."""
    tree = ast.parse((ROOT / path).read_text())
    owner: dict[ast.AST, Function | None] = {}
    skipped: set[ast.AST] = set()
    _find_owners(tree, path, (), None, owner)
    for number, parent in enumerate(ast.walk(tree)):
        if isinstance(parent, ast.keyword) and parent.arg in SKIPPED_KEYWORDS:
            skipped.add(parent)
        for field, held in ast.iter_fields(parent):
            for index, node in enumerate(held) if isinstance(held, list) else [(-1, held)]:
                if not isinstance(node, ast.AST):
                    continue
                if parent in skipped or field in SKIPPED_FIELDS:
                    skipped.add(node)
                    continue
                if isinstance(node, ast.expr | ast.stmt):
                    # A default is evaluated where the function is defined, not when it is called.
                    function = owner[parent]
                    for variant, other in enumerate(_alternatives(node, field)):
                        text = f"{_shorten(node)} -> {_shorten(other)}"
                        yield Mutant(path, node.lineno, text, (number, field, index), variant, function)


def _shorten(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) < 90 else text[:87] + "..."


def _find_owners(
    node: ast.AST,
    path: str,
    names: tuple[str, ...],
    inside: Function | None,
    owner: dict[ast.AST, Function | None],
) -> None:
    """Write to `owner` the outermost function that each node belongs to."""
    owner[node] = inside
    for field, held in ast.iter_fields(node):
        for child in held if isinstance(held, list) else [held]:
            if not isinstance(child, ast.AST):
                continue
            function, scope = inside, names
            if isinstance(node, ast.ClassDef):
                scope = (*names, node.name)
            elif (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and inside is None
                and field == "body"
            ):
                line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                function = (path, line, ".".join((*names, node.name)))
            _find_owners(child, path, scope, function, owner)


# --- running -----------------------------------------------------------------------------------------------


def fork(run: Callable[[], bool]) -> int:
    """Start a child that exits 0 where `run` returns True; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()  # what the child starts is killed with it
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        status = 0 if run() else 1
    finally:
        os._exit(status)


def collect_one(running: dict[int, Mutant], results: "Results") -> None:
    """Wait for the first child to end, kill what it left running, and record the fate of its mutant."""
    pid, status = os.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    results.record(running.pop(pid), status != 0)


class Results:
    """What became of each mutant, in one file a target; forgotten when a source or a test changes."""

    def __init__(self, name: str, target: Target) -> None:
        self.path = CACHE / f"{name}.jsonl"
        tests = [ROOT / path for path in target.tests]
        paths = [p for path in tests for p in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
        self._tests = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]
        self._known: dict[str, bool] = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                key, killed = json.loads(line)
                self._known[key] = killed

    def _key(self, mutant: Mutant) -> str:
        source = hashlib.sha256((ROOT / mutant.path).read_bytes()).hexdigest()[:16]
        return f"{source} {self._tests} {mutant.key}"

    def get(self, mutant: Mutant) -> bool | None:
        return self._known.get(self._key(mutant))

    def record(self, mutant: Mutant, killed: bool) -> None:
        CACHE.mkdir(exist_ok=True)
        with self.path.open("a") as file:  # by the children of several processes: one short line at a time
            file.write(json.dumps([self._key(mutant), killed]) + "\n")
        self._known[self._key(mutant)] = killed
        print("." if killed else "S", end="", file=sys.stderr, flush=True)


@dataclass
class WarmRun:
    """A pytest plugin: instead of running the tests once, runs some of them for every mutant.

    What tests compute while they are collected (parameters) comes from the source unchanged.
    """

    mutants: Sequence[Mutant]
    results: Results
    n_jobs: int
    cold: Path  # takes the keys of mutants that no test calls

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        calls, seconds = self._trace(session.items)
        held = find_functions({mutant.path for mutant in self.mutants})
        running: dict[int, Mutant] = {}
        by_name = {item.nodeid: item for item in session.items}
        cold = []
        for mutant in self.mutants:
            names = sorted(
                calls.get(mutant.function, ()) if mutant.function else (), key=lambda name: seconds[name]
            )
            if not names:
                cold.append(mutant.key)
                continue
            items = [by_name[name] for name in names]
            while len(running) >= self.n_jobs:
                collect_one(running, self.results)
            pid = fork(lambda m=mutant, i=items: swap_code(m, held) and run_items(i, seconds))  # type: ignore[misc]
            running[pid] = mutant
        while running:
            collect_one(running, self.results)
        self.cold.write_text("\n".join(cold))
        return True

    def _trace(self, items: list[pytest.Item]) -> tuple[dict[Function, set[str]], dict[str, float]]:
        """Which passing tests call each function of the targets, and how many seconds each test takes."""
        out = self.cold.with_suffix(".trace")
        pid = fork(lambda: trace_items(items, {m.path for m in self.mutants}, out))
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("the tests could not be traced; run them with pytest first")
        calls: dict[Function, set[str]] = defaultdict(set)
        seconds: dict[str, float] = {}
        for name, passed, spent_s, functions in json.loads(out.read_text()):
            if not passed:
                print(f"left out, fails without a mutant: {name}", file=sys.stderr)
                continue
            seconds[name] = spent_s
            for path, line, qualified in functions:
                calls[path, line, qualified].add(name)
        return calls, seconds


def trace_items(items: list[pytest.Item], paths: set[str], out: Path) -> bool:
    """Run every test and write what it called; threads that a test starts are traced too."""
    wanted = {str(ROOT / path): path for path in paths}
    seen: set[Function] = set()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (path := wanted.get(frame.f_code.co_filename)) is not None:
            seen.add((path, frame.f_code.co_firstlineno, frame.f_code.co_qualname))

    rows = []
    threading.setprofile(profile)
    for n, item in enumerate(items):
        seen.clear()
        began = time.monotonic()
        sys.setprofile(profile)
        passed = run_items([item], after=items[n + 1] if n + 1 < len(items) else None)
        sys.setprofile(None)
        rows.append((item.nodeid, passed, time.monotonic() - began, sorted(seen)))
    out.write_text(json.dumps(rows))
    return True


def run_items(
    items: list[pytest.Item], seconds: Mapping[str, float] | None = None, after: pytest.Item | None = None
) -> bool:
    """Whether all pass; stops at the first that fails. `seconds`: what each takes, to end one that hangs."""

    for n, item in enumerate(items):
        follows = items[n + 1] if n + 1 < len(items) else after
        if seconds is not None:
            signal.alarm(MIN_TIMEOUT_S + int(5 * seconds[item.nodeid]))  # ends the process: unhandled
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=follows)):
            item.session._setupstate.teardown_exact(None)  # stops servers that fixtures hold
            return False
    return True


def find_functions(paths: set[str]) -> dict[Function, list[FunctionType]]:
    """Every function that was imported from the files at `paths`."""
    wanted = {str(ROOT / path): path for path in paths}
    found: dict[Function, list[FunctionType]] = defaultdict(list)
    for held in gc.get_objects():
        if isinstance(held, FunctionType) and (path := wanted.get(held.__code__.co_filename)) is not None:
            found[path, held.__code__.co_firstlineno, held.__code__.co_qualname].append(held)
    return found


def swap_code(mutant: Mutant, held: Mapping[Function, list[FunctionType]]) -> bool:
    """Give the function its changed code where it lies: names imported from the module refer to it too."""
    assert mutant.function is not None
    for code in _codes(mutant.compile()):
        if (code.co_firstlineno, code.co_qualname) == mutant.function[1:]:
            for function in held[mutant.function]:
                function.__code__ = code
            return True
    raise LookupError(mutant.function)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for held in code.co_consts:
        if isinstance(held, CodeType):
            yield held
            yield from _codes(held)


class MutantImporter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module with its changed code; every other as usual."""

    def __init__(self, mutant: Mutant) -> None:
        parts = Path(mutant.path).with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.mutant = mutant

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, ROOT / self.mutant.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self.mutant.compile(), module.__dict__)


def run_cold(mutant: Mutant, target: Target) -> bool:
    """Import the project with the mutant and run all of the target's tests."""
    sys.meta_path.insert(0, MutantImporter(mutant))
    signal.alarm(180)
    return pytest.main([*PYTEST, "-x", *target.tests]) == 0


PYTEST = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--no-header", f"--rootdir={ROOT}"]


def run_target(name: str, target: Target, mutants: Sequence[Mutant], n_jobs: int) -> Results:
    """Run every mutant that the cache does not know."""
    results = Results(name, target)
    pending = [mutant for mutant in mutants if results.get(mutant) is None]
    if not pending:
        return results
    CACHE.mkdir(exist_ok=True)
    cold = CACHE / f"{name}.cold"
    cold.unlink(missing_ok=True)

    pid = os.fork()
    if not pid:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        plugin = WarmRun(pending, results, n_jobs, cold)
        os._exit(pytest.main([*PYTEST, *target.tests], plugins=[plugin]))
    os.waitpid(pid, 0)
    if not cold.exists():
        raise SystemExit(f"{name}: the tests could not be collected; run them with pytest first")
    left = set(cold.read_text().splitlines())
    running: dict[int, Mutant] = {}
    for mutant in pending:
        if mutant.key in left:
            if len(running) >= n_jobs:
                collect_one(running, results)
            running[fork(lambda m=mutant: run_cold(m, target))] = mutant  # type: ignore[misc]
    while running:
        collect_one(running, results)
    return Results(name, target)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one (may be repeated)")
    parser.add_argument("--sample", type=int, default=60, help="mutants a target; 0 for all (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="which mutants the sample draws")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    options = parser.parse_args()

    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a fork copies no threads
    for module in THIRD_PARTY:
        importlib.import_module(module)
    worst = 1.0
    for name in options.target or TARGETS:
        target = TARGETS[name]
        paths = sorted(
            str(path.relative_to(ROOT))
            for pattern in target.files
            for path in ROOT.glob(pattern)
            if path.name != "__init__.py"  # names only
        )
        mutants = [mutant for path in paths for mutant in find_mutants(path)]
        n_all = len(mutants)
        if 0 < options.sample < n_all:
            mutants = random.Random(options.seed).sample(mutants, options.sample)
        results = run_target(name, target, mutants, options.jobs)
        killed = Counter(results.get(mutant) for mutant in mutants)
        share = killed[True] / max(len(mutants), 1)
        worst = min(worst, share)
        print(f"\n{name}: {killed[True]} of {len(mutants)} killed ({share:.0%}); {n_all} mutants in all")
        for mutant in sorted(mutants, key=lambda m: (m.path, m.line)):
            if not results.get(mutant):
                print(f"  {mutant}")
        sys.stdout.flush()
    return 0 if worst >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
