"""Measures of how easily a stranger finds the way in a checkout: `python tools/measure.py [CHECKOUT ...]`.

Several checkouts are shown side by side, for instance a worktree of an old commit and this one.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from source_tree import SourceTree

TRACE = Path(__file__).with_name("trace_request.py")

# name -> (what it is, target)
MEASURES = {
    "banned words": ("indefinite persons (tools/source_tree.py) in code, strings and documents", "0"),
    "banned identifiers": ("definitions under a banned name (tools/source_tree.py)", "0"),
    "participles": ("functions whose first word is a participle, context managers apart", "0"),
    "homonyms": ("class names defined more than once in the repository, tests included", "0"),
    "folder knots": ("sets of folders of the wheel that import each other", "0"),
    "largest knot": ("folders in the largest of them", "0"),
    "loose modules": ("modules directly in gateway/, without __init__", "≤ 6"),
    "modules": ("modules of the wheel, packages' __init__ apart", ""),
    "one importer %": ("of them, imported by exactly one module and by no entry point", "≤ 20"),
    "longest function": ("lines of the longest function, nested ones and docstrings included", "≤ 60"),
    "functions > 60": ("functions longer than that", "0"),
    "request: modules": ("modules that one warm `auto` request crosses", "≤ 25"),
    "request: functions": ("functions that one warm `auto` request crosses", "≤ 110"),
    "test functions": ("functions named test_… under tests/", ""),
}


def trace_request(root: Path) -> list[tuple[str, str]] | None:
    """Returns (path, function) in order of the first call, or None where the application fails to start."""
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(TRACE)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{root}: no request could be traced: {done.stderr.strip()[-600:]}", file=sys.stderr)
        return None
    return [(path, function) for path, function in json.loads(done.stdout.splitlines()[-1])["calls"]]


def measure(root: Path) -> dict[str, Any]:
    """Returns measure -> value, `lists` with what lies behind them, and `lines` by package."""
    tree = SourceTree(root)
    knots, single, long = tree.knots(), tree.single_importers(), tree.long_functions(0)
    modules = sum(not path.endswith("__init__.py") for path in tree.modules.values())
    calls = trace_request(tree.root)
    lists = {
        "banned words": [str(f) for f in tree.find_banned_words()],
        "banned identifiers": [str(f) for f in tree.find_banned_identifiers()],
        "participles": [str(f) for f in tree.participles()],
        "homonyms": [str(f) for f in tree.homonyms()],
        "folder knots": [" ".join(knot) for knot in knots],
        "loose modules": tree.loose_modules(),
        "one importer %": [f"{module} <- {importer}" for module, importer in single],
        "functions > 60": [str(f) for length, f in long if length > 60],
        "request: functions": [f"{path}: {function}" for path, function in calls or []],
    }
    values: dict[str, Any] = {name: len(found) for name, found in lists.items()}
    values["largest knot"] = max(map(len, knots), default=0)
    values["modules"] = modules
    values["one importer %"] = round(100 * len(single) / modules, 1)
    values["longest function"] = long[0][0]
    values["request: modules"] = None if calls is None else len({path for path, _ in calls})
    values["request: functions"] = None if calls is None else len(calls)
    values["test functions"] = tree.test_count()
    return {"values": values, "lists": lists, "lines": tree.lines()}


def print_table(roots: list[Path], results: list[dict[str, Any]]) -> None:
    names = [str(root) for root in roots]
    width = max(14, *map(len, names))
    print(f"{'measure':20}" + "".join(f"{name:>{width + 2}}" for name in names) + "  target  definition")
    for name, (definition, target) in MEASURES.items():
        cells = "".join(f"{result['values'][name]!s:>{width + 2}}" for result in results)
        print(f"{name:20}{cells}  {target:6}  {definition}")
    print("\nlines of code (no blanks, docstrings, comments); comments per 100 of them, target ≥ 3")
    for top in sorted({top for result in results for top in result["lines"]}):
        row = []
        for result in results:
            _, code, comments = result["lines"].get(top, (0, 0, 0))
            row.append(f"{code} | {100 * comments / code:.1f}" if code else "-")
        print(f"{top:20}" + "".join(f"{cell:>{width + 2}}" for cell in row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--trace", action="store_true", help="list the functions of a request in call order")
    parser.add_argument(
        "--list",
        metavar="MEASURE",
        help="what lies behind a measure: " + ", ".join(MEASURES).replace("%", "%%"),
    )
    arguments = parser.parse_args()
    results = [measure(root) for root in arguments.checkouts]
    shown = "request: functions" if arguments.trace else arguments.list
    if arguments.json:
        named = {str(root): result for root, result in zip(arguments.checkouts, results, strict=True)}
        print(json.dumps(named, indent=1, ensure_ascii=False))
    elif shown:
        for root, result in zip(arguments.checkouts, results, strict=True):
            print(f"{root}: {shown}", *result["lists"].get(shown, []), sep="\n  ")
    else:
        print_table(arguments.checkouts, results)


if __name__ == "__main__":
    main()
