"""Code from answers: found, and run apart; `test_grading_attacks.py` has answers that mean harm."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evals.grading import grade
from evals.grading.code import code_of, run_tests


@dataclass(frozen=True)
class CodePrompt:
    expected: Any
    grader: str = "code"
    prompt: str = "Write add."


ADD = CodePrompt({"name": "add", "tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]})


@pytest.mark.parametrize(
    "answer",
    [
        "```python\ndef add(a, b):\n    return a + b\n```",
        "Sure!\n\n```\ndef add(a, b):\n    return a + b\n```\nIt adds.",
        "def add(a, b):\n    return a + b\n\nThis function adds.",
        "Here:\ndef add(a, b): return a + b",
        "add = lambda a, b: a + b",
        "```python\nprint('hi')\n```\n```python\ndef add(a, b):\n    return a + b\n```",
        "```python\ndef add(a, b):\n    return a + b\n\ndef unfinished(a, b",
        "```python\nimport math\ndef add(a: int, b: int) -> int:\n    return int(math.fsum([a, b]))\n```",
    ],
)
def test_a_right_function_is_found_and_passes(answer: str) -> None:
    assert grade(answer, ADD) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "add the numbers",
        "```python\ndef add(a, b):\n    return a - b\n```",
        "```python\ndef plus(a, b):\n    return a + b\n```",
        "```python\ndef add(a, b):\n",
        "```python\ndef add(a, b):\n    return 3\n```",
        "```python\ndef add(a, b):\n    return a + b\nraise SystemExit(0)\n```",
        "```python\ndef add(a, b):\n    import os\n    os._exit(0)\n```",
    ],
)
def test_a_wrong_or_missing_function_scores_zero(answer: str) -> None:
    assert grade(answer, ADD) == 0.0


def test_the_block_that_defines_the_name_is_taken() -> None:
    assert code_of("```\nx = 1\n```\n```\ndef f():\n    pass\n```", "f") == "def f():\n    pass"


def test_an_endless_loop_is_ended_by_its_cpu_limit() -> None:
    verdict = run_tests("while True:\n    pass", ["pass"], wall_s=30)
    assert verdict.timed_out
    assert not verdict.passed


def test_a_sleeper_is_ended_by_the_clock() -> None:
    verdict = run_tests("import time\ntime.sleep(600)", ["pass"], wall_s=0.5)
    assert verdict.timed_out


@pytest.mark.parametrize(
    "bomb",
    [
        "x = [0] * 10**10",
        "x = bytearray(10**9)",
        "x = '9' * 10**9 * 9",
        "def f(n):\n    return f(n + 1)\nf(0)",
    ],
)
def test_memory_and_stack_bombs_only_fail(bomb: str) -> None:
    assert not run_tests(bomb, ["pass"]).passed


@pytest.mark.parametrize(
    "deed",
    [
        "import os; os.system('touch {mark}')",
        "import os; os.fork()",
        "import os; os.posix_spawn('/bin/sh', ['sh'], {{}})",
        "import os; os.kill(os.getppid(), 15)",
        "import os; os.remove('{mark}')",
        "import subprocess",
        "import socket",
        "import ctypes",
        "import numpy",
        "__import__('subprocess')",
        "open('{mark}', 'w')",
        "open('/etc/passwd')",
        "input()",
    ],
)
def test_whatever_reaches_outside_fails_and_does_nothing(deed: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    assert not run_tests(deed.format(mark=mark), ["pass"]).passed
    assert not mark.exists()


def test_printing_much_is_neither_a_pass_nor_a_flood() -> None:
    assert run_tests("for _ in range(10_000):\n    print('x' * 100)", ["pass"]).passed
    assert not run_tests("import os\nwhile True:\n    os.write(1, b'x' * 1000)", ["pass"]).passed


def test_modules_for_computing_are_there() -> None:
    modules = "import collections, datetime, functools, itertools, json, math, random, re, string"
    assert run_tests(modules, ["datetime.datetime.strptime('2024', '%Y')", "re.compile('a+')"]).passed


def test_no_child_outlives_its_run() -> None:
    before = _children()
    run_tests("import time\ntime.sleep(600)", ["pass"], wall_s=0.3)
    assert _children() <= before


def _children() -> set[str]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}
