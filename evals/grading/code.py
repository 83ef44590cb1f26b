"""The `code` grader: tests of an answer's Python, in two processes that can only compute.

One process runs the answer, the other runs the tests and compares what the first sends (`sandbox.py`). Each
is `python -I -S` in an empty directory, a session of its own, an empty environment, with limits on CPU time,
memory, file size, processes and descriptors, behind a filter of system calls. Where the kernel has no such
filter (another system than Linux, another processor than x86-64 or ARM64) an audit hook of Python and the
limits are all that is left: `Verdict.layer` says so, and a warning.
"""

import ast
import functools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from . import sandbox
from .reading import ExpectedError, Grader, require_words
from .sandbox import MODULES, PASSED

_FENCED = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_STARTS = re.compile(r"^(?:def |import |from \w+ import |@|class |\w+ ?= ?lambda)")


MAX_LINES_LOST = 200


def code_of(answer: str, name: str) -> str | None:
    """The Python source in an answer that defines `name`, or None.

    The first fenced block that defines it; otherwise the unfenced lines from the first definition on.
    A text cut off at the token limit is shortened to what still parses.
    """
    # A first block often shows a call or a shell command, so only one that defines the name counts.
    blocks = [block for block in _FENCED.findall(answer) if _defines(block, name)]
    source = blocks[0] if blocks else _strip_fence(answer)
    return _longest_valid(source) if source and _defines(source, name) else None


def _defines(source: str, name: str) -> bool:
    return (
        re.search(rf"^\s*(?:def {re.escape(name)}\b|{re.escape(name)}\s*=)", source, re.MULTILINE) is not None
    )


def _strip_fence(answer: str) -> str | None:
    lines = answer.replace("```", "").splitlines()
    start = next((i for i, line in enumerate(lines) if _STARTS.match(line.strip("` "))), None)
    return None if start is None else "\n".join(lines[start:])


def _longest_valid(source: str) -> str | None:
    """The longest run of whole leading lines that is valid Python."""
    lines = source.rstrip().splitlines()
    # A bound, since every try reads the whole text: thousands of lines behind a bracket would take seconds.
    for end in range(len(lines), max(len(lines) - MAX_LINES_LOST, 0), -1):
        text = "\n".join(lines[:end])
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            # A token limit cuts an answer in mid-line; the whole lines before it may still be valid.
            continue
        return text
    return None


def _check(expected: Any) -> None:
    require_words(expected, "tests")
    if not isinstance(expected.get("name"), str) or not expected["name"].isidentifier():
        raise ExpectedError("expected.name must be the identifier of the function")
    for test in expected["tests"]:
        try:
            ast.parse(test)
        except SyntaxError as error:
            raise ExpectedError(f"expected.tests has invalid Python: {error.msg}") from None


def _score(answer: str, expected: Any) -> float:
    source = code_of(answer, expected["name"])
    return float(source is not None and run_tests(source, expected["tests"], name=expected["name"]).passed)


CODE = Grader("code", _check, _score)
"""`{name, tests: [statements]}`: the answer defines `name` and every test statement runs without raising."""


CPU_S = 2
# The CPU limit ends busy loops; wall time ends what sleeps or waits.
WALL_S = 6.0
MEMORY_BYTES = 256 * 2**20
OUTPUT_BYTES = 64 * 2**10
LAYERS = ("filter", "namespaces", "hook")
"""What closes the processes off: the first of the first two that the kernel permits, and the third."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of running an answer's code with its tests; `layer` is what closed it off in the kernel."""

    passed: bool
    timed_out: bool = False
    layer: str = ""


def run_tests(
    code: str,
    tests: Sequence[str],
    wall_s: float = WALL_S,
    *,
    name: str = "",
    layers: Sequence[str] = LAYERS,
    modules: Sequence[str] = MODULES,
) -> Verdict:
    """Define `code` in one process and execute `tests` in another; passed if nothing raises.

    `name` is what `code` is to define: it is the answer's, also where a builtin has the same name.

    Raises:
        OSError: if no child process can be started.
        SyntaxError: if a test is not Python.
    """
    shared = {"limits": _limits(), "layers": list(layers), "modules": list(modules)}
    asked = {"tests": list(tests), "names": sorted(_names_read(tests)), "name": name}
    ends = socket.socketpair()
    children: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="answer-") as room, ends[0], ends[1]:
        try:
            answer = _start({**shared, "code": code}, ends[0], room, children)
            judge = _start({**shared, **asked}, ends[1], room, children)
            # An end that stays open here would keep each of them from seeing that the other is gone.
            ends[0].close()
            ends[1].close()
            output, _ = judge.communicate(timeout=wall_s)
            answer.wait(timeout=wall_s)
        except subprocess.TimeoutExpired:
            return Verdict(passed=False, timed_out=True)
        finally:
            for child in children:
                _end(child)
    word, _, layer = output[:OUTPUT_BYTES].decode(errors="replace").partition(" ")
    if "filter" in layers and word == PASSED and layer != "filter":
        _warn_once(layer)
    out_of_time = -signal.SIGXCPU in (answer.returncode, judge.returncode)
    return Verdict(judge.returncode == 0 and word == PASSED, out_of_time, layer)


def _start(
    job: dict[str, object], channel: socket.socket, room: str, children: list[subprocess.Popen[bytes]]
) -> subprocess.Popen[bytes]:
    # -I ignores the environment and user site directory, -S skips site-packages: a bare interpreter.
    child = subprocess.Popen(  # noqa: S603 - the code to run goes over standard input, never into the command
        [sys.executable, "-I", "-S", sandbox.__file__],
        stdin=subprocess.PIPE,
        # Only the process of the tests has a pipe to here; what the answer prints goes nowhere.
        stdout=subprocess.DEVNULL if "code" in job else subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=room,
        env={},
        start_new_session=True,
        pass_fds=[channel.fileno()],
    )
    children.append(child)
    assert child.stdin is not None  # noqa: S101 - for the type checker
    with suppress(BrokenPipeError), child.stdin as stdin:
        stdin.write(json.dumps({**job, "channel": channel.fileno()}).encode())
    child.stdin = None
    return child


def _names_read(tests: Sequence[str]) -> set[str]:
    nodes = (node for test in tests for node in ast.walk(ast.parse(test)))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


@functools.cache
def _warn_once(layer: str) -> None:
    what = "only namespaces close" if layer else "nothing but limits and a hook in Python closes"
    logging.getLogger(__name__).warning(
        "no filter of system calls here: %s the code of an answer off; grade answers of models you trust",
        what,
    )


def _limits() -> dict[str, int]:
    return {
        "RLIMIT_CPU": CPU_S,
        "RLIMIT_AS": MEMORY_BYTES,
        "RLIMIT_FSIZE": OUTPUT_BYTES,
        "RLIMIT_NOFILE": 32,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CORE": 0,
    }


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's whole session and reap it."""
    # The session, not the process: where no filter forbids it, a grandchild would keep the machine busy.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
