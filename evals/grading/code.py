"""The `code` grader: unit tests run an answer's Python in a child process that can only compute.

The child is `python -I -S` in an empty directory, its own session, an empty environment and standard input
at its end. It limits its CPU time, memory, file size and descriptors, leaves the network namespace where the
kernel permits, imports the modules an answer may use, and then forbids by audit hook what reaches outside:
files, processes, sockets, signals, `ctypes`, further module loads. A pass needs a token that the answer's
code is not given, so that printing or exiting early is no pass.

This contains a careless model. It does not contain an attacker who knows CPython's internals.
"""

import ast
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .reading import ExpectedError, Grader, require_words

_FENCED = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_STARTS = re.compile(r"^(?:def |import |from \w+ import |@|class |\w+ ?= ?lambda)")


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
    while lines:
        text = "\n".join(lines)
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            # A token limit cuts an answer in mid-line; the whole lines before it may still be valid.
            lines.pop()
        else:
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
    return float(source is not None and run_tests(source, expected["tests"]).passed)


CODE = Grader("code", _check, _score)
"""`{name, tests: [statements]}`: the answer defines `name` and every test statement runs without raising."""


CPU_S = 2
# The CPU limit ends busy loops; wall time ends what sleeps or waits.
WALL_S = 6.0
MEMORY_BYTES = 256 * 2**20
OUTPUT_BYTES = 64 * 2**10

ALLOWED_MODULES = """
    array bisect calendar collections collections.abc copy dataclasses datetime decimal enum fractions
    functools heapq itertools json math operator random re statistics string textwrap time typing unicodedata
    _strptime
""".split()  # noqa: SIM905 - a list of 25 lines says less

_CHILD = r"""
import json, resource, sys

job = json.load(sys.stdin)
for limit, value in job["limits"].items():
    name = getattr(resource, limit)
    hard = resource.getrlimit(name)[1]
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(name, (soft, soft + (name == resource.RLIMIT_CPU)))  # SIGXCPU a second before SIGKILL
try:
    import ctypes
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET
except (ImportError, OSError, AttributeError):
    pass
else:
    del sys.modules["ctypes"], ctypes
for name in job["modules"]:
    __import__(name)


def make_hook():
    forbidden = (
        "open", "import", "os.", "subprocess.", "socket.", "ctypes.", "signal.", "shutil.", "pty.", "fcntl.",
        "mmap.", "resource.", "sys.addaudithook", "sys._getframe", "sys.settrace", "sys.setprofile", "gc.",
        "tempfile.", "glob.", "pathlib.", "syslog.", "code.__new__",
    )

    def forbid(event, args):
        looks_into_frames = event == "object.__getattr__" and args[1] in ("tb_frame", "__code__")
        if looks_into_frames or event.startswith(forbidden):
            raise PermissionError("not allowed in an answer: " + event)

    return forbid


def judge(answer, tests, token, out):
    space = {"__name__": "answer"}
    exec(compile(answer, "answer", "exec"), space)
    for test in tests:
        exec(compile(test, "test", "exec"), space)
    out.write(token)
    out.flush()


out = sys.stdout
nowhere = {"write": lambda self, text: len(text), "flush": lambda self: None}
sys.stdout = sys.stderr = type("Nowhere", (), nowhere)()
token, answer, tests = job.pop("token"), job.pop("code"), job.pop("tests")
sys.addaudithook(make_hook())
del make_hook
judge(answer, tests, token, out)
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of running an answer's code with its tests."""

    passed: bool
    timed_out: bool = False


def run_tests(code: str, tests: Sequence[str], wall_s: float = WALL_S) -> Verdict:
    """Define `code` in the sandbox and execute `tests` after it; passed if nothing raises.

    Raises:
        OSError: if no child process can be started.
    """
    # Only a run that reaches the end of the tests writes it: `exit(0)` and printed output are no pass.
    token = secrets.token_hex(16)
    job = {
        "code": code,
        "tests": list(tests),
        "token": token,
        "modules": ALLOWED_MODULES,
        "limits": _limits(),
    }
    with tempfile.TemporaryDirectory(prefix="answer-") as room, tempfile.TemporaryFile() as out:
        # -I ignores the environment and user site directory, -S skips site-packages: a bare interpreter.
        child = subprocess.Popen(  # noqa: S603 - the code to run goes over standard input, never into the command
            [sys.executable, "-I", "-S", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.DEVNULL,
            cwd=room,
            env={},
            start_new_session=True,
        )
        try:
            child.communicate(json.dumps(job).encode(), timeout=wall_s)
        except subprocess.TimeoutExpired:
            return Verdict(passed=False, timed_out=True)
        finally:
            _end(child)
        out.seek(0)
        output = out.read(OUTPUT_BYTES).decode(errors="replace")
    return Verdict(
        passed=child.returncode == 0 and output == token, timed_out=child.returncode == -signal.SIGXCPU
    )


def _limits() -> dict[str, int]:
    return {
        "RLIMIT_CPU": CPU_S,
        "RLIMIT_AS": MEMORY_BYTES,
        "RLIMIT_FSIZE": OUTPUT_BYTES,
        "RLIMIT_NOFILE": 32,
        "RLIMIT_CORE": 0,
    }


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's whole session and reap it."""
    if child.poll() is None:
        # The session, not the process: a grandchild would keep the machine busy.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
