"""What runs on this machine took, and what got slower: `python benchmarks/history.py` shows the last ones.

Figures go into `benchmarks/history/`, a file of JSON lines for each machine. They are kept out of git: a
figure means nothing beside one of another machine.
"""

import json
import platform
import re
import statistics
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

FOLDER = Path(__file__).with_name("history")
N_BEFORE = 5
"""Runs that a figure is compared with: the median of so many hides one on a busy machine."""
SLOWER = 1.25
LEAST_US = 1.0
"""Smaller differences are noise at any ratio."""


def name_machine() -> str:
    """Processor, cores and Python, as a file name."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    processor = found[1] if found else platform.processor() or platform.machine()
    cores = len(re.findall(r"^processor", Path("/proc/cpuinfo").read_text(), re.MULTILINE)) if found else 0
    text = f"{processor} {cores} cores Python {platform.python_version()}"
    return re.sub(r"[^\w.]+", "-", text).strip("-").lower()


def name_commit() -> str:
    """The commit of the checkout, with a + where files differ from it; "" outside git."""
    root = Path(__file__).parent.parent
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=root, capture_output=True, text=True, check=False
    )
    return described.stdout.strip()


def read_runs(benchmark: str | None = None, folder: Path = FOLDER) -> list[dict[str, object]]:
    """Runs on this machine, oldest first, of all benchmarks or one; what is no JSON is passed over."""
    path = folder / f"{name_machine()}.jsonl"
    runs = list(_decode_lines(path.read_text())) if path.exists() else []
    return [run for run in runs if benchmark is None or run.get("benchmark") == benchmark]


def _decode_lines(text: str) -> Iterator[dict[str, object]]:
    for line in text.splitlines():
        try:
            run = json.loads(line)
        except ValueError:  # the disk was full, or two runs wrote at once
            continue
        if isinstance(run, dict) and isinstance(run.get("us"), dict):
            yield run


def record(benchmark: str, us: Mapping[str, float], folder: Path = FOLDER) -> list[str]:
    """Keep the microseconds of each part of a benchmark; returns what got slower, a line each."""
    before = read_runs(benchmark, folder)
    run = {
        "benchmark": benchmark,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": name_commit(),
        "us": {name: round(value, 2) for name, value in us.items()},
    }
    folder.mkdir(exist_ok=True)
    with (folder / f"{name_machine()}.jsonl").open("a") as file:
        file.write(json.dumps(run) + "\n")
    return find_slower(run, before)


def find_slower(run: Mapping[str, object], before: list[dict[str, object]]) -> list[str]:
    """Parts that took longer than the median of the runs before, by more than noise."""
    lines = []
    for name, now in _figures(run).items():
        past = [figures[name] for one in before[-N_BEFORE:] if name in (figures := _figures(one))]
        usual = statistics.median(past) if past else now
        if now > SLOWER * usual and now - usual > LEAST_US:
            lines.append(
                f"{run['benchmark']}: {name.strip()} takes {now:.1f} µs, {now / usual:.2f} × the usual"
                f" {usual:.1f} µs of {len(past)} runs before"
            )
    return lines


def _figures(run: Mapping[str, object]) -> Mapping[str, float]:
    found = run["us"]
    return found if isinstance(found, dict) else {}


def main() -> None:
    runs = read_runs()
    if not runs:
        print("no run was recorded on this machine")
        return
    slower = []
    for benchmark in dict.fromkeys(str(run["benchmark"]) for run in runs):
        *before, last = [run for run in runs if run["benchmark"] == benchmark]
        slower += find_slower(last, before)
        print(f"{benchmark}: {len(before) + 1} runs, the last at {last['at']} of {last['commit']}")
    print(*(slower or ["nothing got slower"]), sep="\n")


if __name__ == "__main__":
    main()
