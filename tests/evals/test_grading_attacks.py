# ruff: noqa: E501 - a program stands on one line with its test
"""Answers that attack their judge: none is passed, and nothing reaches the machine. Right answers still pass."""

import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from evals.grading import code, sandbox
from evals.grading.code import LAYERS, code_of, run_tests
from evals.grading.sandbox import MODULES

ADD = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add(20, 22) == 42"]
OPEN = [*MODULES, "gc", "os", "socket", "signal", "subprocess", "ctypes", "shutil", "_thread", "struct"]
"""What an answer has that went around the hook: modules that reach outside, loaded before the filter is set."""

FORGERIES = {
    "prints the verdict": "print('passed filter', flush=True)\ndef add(a, b): return 0",
    "writes the verdict to every descriptor": """
import os
for fd in range(256):
    try: os.write(fd, b'passed filter')
    except OSError: pass
def add(a, b): return 0""",
    "exits well at once": "raise SystemExit(0)",
    "exits well without clean-up": "import os\nos._exit(0)",
    "exits well when called": "def add(a, b): raise SystemExit(0)",
    "is interrupted when called": "def add(a, b): raise KeyboardInterrupt",
    "exits at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): raise SystemExit(0)",
    "equals everything": """
class Any:
    def __eq__(self, other): return True
    def __hash__(self): return 0
def add(a, b): return Any()""",
    "is a number that equals everything": """
class Any(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
def add(a, b): return Any(7)""",
    "claims to be a number": """
class Any:
    __class__ = int
    def __eq__(self, other): return True
    def __getattribute__(self, name): return True
def add(a, b): return Any()""",
    "iterates until it is found": """
def add(a, b):
    while True: yield 3""",
    "reads the expected value from frames": """
import sys
def add(a, b):
    frame, found = sys._getframe(), []
    while frame:
        found += [v for v in frame.f_locals.values() if isinstance(v, str) and 'assert add' in v]
        found += [v for v in frame.f_globals.values() if isinstance(v, str) and 'assert add' in v]
        frame = frame.f_back
    return int(found[0].split('==')[1])""",
    "reads the tests from memory": """
import gc
def add(a, b):
    texts = [t for o in gc.get_objects() for t in gc.get_referents(o) if isinstance(t, str)]
    found = [t for t in texts if t.startswith('assert add(%d, %d)' % (a, b))]
    return int(found[0].split('==')[1])""",
    "reads the tests from the job": """
import sys, os
job = sys.stdin.read() if not sys.stdin.closed else ''
try: job += open('/proc/self/fd/0').read() + open('/proc/%d/cmdline' % os.getppid()).read()
except OSError: pass
def add(a, b): return int(job.split('add(%d, %d) == ' % (a, b))[1].split('"')[0])""",
    "replaces the judge": """
import __main__, operator, builtins, json
def yes(*a, **k): return True
__main__.run_tests = __main__.serve_answer = __main__.main = yes
operator.eq = builtins.AssertionError = builtins.exec = builtins.compile = json.dumps = yes
def add(a, b): return 0""",
    "sends frames of its own": """
import os, struct, json
def frame(*message):
    data = json.dumps(message).encode()
    return struct.pack('>I', len(data)) + data
for fd in range(3, 256):
    for message in (['value', None], ['value', ['class', 'os', 'system']], ['passed'], ['verdict', True]):
        try: os.write(fd, frame(*message))
        except OSError: pass
def add(a, b): return 0""",
    "sends a frame without an end": """
import os
def add(a, b):
    for fd in range(3, 256):
        try: os.write(fd, b'\\xff' * 64)
        except OSError: pass
    return 0""",
    "answers with brackets without an end": """
import os, struct
def add(a, b):
    for fd in range(3, 256):
        try: os.write(fd, struct.pack('>I', 100000) + b'[' * 100000)
        except OSError: pass
    return 0""",
    "asks the tests for what they did not pass": """
import os, struct, json
def add(a, b):
    for fd in range(3, 256):
        for message in (['ask', 'call', 0, ['tuple', []], ['dict', []]], ['ask', 'name', 'tests'], ['ask', 'define']):
            data = json.dumps(message).encode()
            try: os.write(fd, struct.pack('>I', len(data)) + data)
            except OSError: pass
    return 0""",
    "closes the channel": "import os\ndef add(a, b): os.closerange(0, 256)",
    "answers with gigabytes": "def add(a, b): return 'x' * 10**8",
    "answers with itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "stays for ever": "import time\ndef add(a, b):\n    while True: time.sleep(1)",
}


@pytest.mark.parametrize("program", FORGERIES.values(), ids=FORGERIES)
def test_no_program_forges_a_verdict(program: str) -> None:
    # Without the hook: an answer that went around it has more to try.
    assert not run_tests(program, ADD, wall_s=2, layers=["filter"], modules=OPEN).passed


@pytest.mark.parametrize(
    ("program", "test"),
    [
        # The test's own words would decide if they were the answer's.
        ("def near(x): return 9\ndef abs(x): return 0", "assert abs(near(1) - 1.5) < 0.1"),
        ("class math:\n    isclose = lambda *a: True\ndef near(x): return 9", "assert math.isclose(near(1), 1.5)"),
        # StopIteration within `map` is the end of the cases, without a failure.
        ("def near(x): raise StopIteration", "assert all(map(lambda x: near(x) == 1, [1, 2]))"),
        ("class T:\n    startswith = lambda s, x: True\ndef near(x): return T()", "assert near(1).startswith('a')"),
        ("class T:\n    __sub__ = lambda s, x: 0\ndef near(x): return T()", "assert abs(near(1) - 1.5) < 0.1"),
        ("class T:\n    __contains__ = lambda s, x: True\ndef near(x): return T()", "assert 5 in near(1)"),
        ("class T:\n    __gt__ = lambda s, x: True\ndef near(x): return T()", "assert near(1) > 4"),
        ("class T:\n    __rsub__ = lambda s, x: 0\ndef near(x): return T()", "assert 4 - near(1) == 0"),
        ("class T:\n    __ne__ = lambda s, x: False\ndef near(x): return T()", "assert not near(1) != 4"),
        ("class T:\n    startswith = str\ndef near(x): return T()", "assert near(1).startswith('a')"),
        ("from collections import namedtuple\nT = namedtuple('T', 'startswith')\ndef near(x): return T(str)",
         "assert near(1).startswith('a')"),
        ("from collections import namedtuple\nT = namedtuple('T', 'startswith')\ndef near(x): return T(print)",
         "assert near(1).startswith('a') is None"),
        # A function that the tests pass is a function to the answer, not a way to their names.
        ("def near(f): return f.__globals__['SECRET']", "SECRET = 7\nassert near(lambda x: x) == SECRET"),
        ("def near(f): return f.func._peer.objects", "assert near(lambda x: x) == 7"),
    ],
)  # fmt: skip
def test_an_object_of_the_answer_decides_nothing(program: str, test: str) -> None:
    assert not run_tests(program, [test], name="near").passed


DEEDS = r"""
import os, sys

def refused(deed):
    try:
        return repr(deed())
    except (PermissionError, ImportError):
        return "refused"
    except (RuntimeError, ValueError) as error:  # of a thread, and of limits
        return "refused" if "start new thread" in str(error) or "raise maximum" in str(error) else repr(error)

def deeds(mark, port, parent):
    def module(name):
        return __import__(name)

    def kernel(name, *arguments):
        ctypes = module("ctypes")
        libc = ctypes.CDLL(None, use_errno=True)
        if getattr(libc, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)

    def connect(family, address):
        with module("socket").socket(family, 1) as end:
            end.connect(address)

    def run_shell(line):
        # It gives the status of a shell: not 0, where none could be started.
        if os.system(line) != 0:
            raise PermissionError
        return line

    tried = {
        "environment of the parent": lambda: open(f"/proc/{parent}/environ").read(),
        "memory of the parent": lambda: open(f"/proc/{parent}/mem", "rb").read(1),
        "descriptors of the parent": lambda: os.listdir(f"/proc/{parent}/fd"),
        "file": lambda: open("/etc/passwd").read(),
        "own folder": lambda: open("here", "w"),
        "temporary file": lambda: os.open(mark, os.O_CREAT | os.O_WRONLY),
        "folder": lambda: os.mkdir(mark),
        "link": lambda: os.symlink("/", mark),
        "delete": lambda: os.remove(mark + ".kept"),
        "fork": lambda: os.fork(),
        "spawn": lambda: os.posix_spawn("/bin/touch", ["touch", mark], {}),
        "exec": lambda: os.execv("/bin/touch", ["touch", mark]),
        "system": lambda: run_shell("touch " + mark),
        "subprocess": lambda: module("subprocess").run(["touch", mark]),
        "thread": lambda: module("_thread").start_new_thread(print, ()),
        "kill the parent": lambda: os.kill(parent, 15),
        "stop the parent": lambda: os.kill(parent, 19),
        "kill the group": lambda: os.killpg(0, 15),
        "kill the group of the parent": lambda: os.killpg(os.getpgid(parent), 15),
        "session": lambda: os.setsid(),
        "ignore a signal": lambda: module("signal").signal(24, 1),
        "limits": lambda: module("resource").setrlimit(0, (1000, 1000)),
        "network": lambda: connect(2, ("127.0.0.1", port)),
        "local socket": lambda: connect(1, "/run/nothing"),
        "pair of sockets": lambda: module("socket").socketpair(),
        "ptrace": lambda: kernel("ptrace", 16, parent, 0, 0),
        "namespaces": lambda: kernel("unshare", 0x10000000),
        "mount": lambda: kernel("mount", None, b"/", None, 0x5000, None),
        "memory file": lambda: kernel("memfd_create", b"x", 0),
        "a filter of its own": lambda: kernel("prctl", 22, 0, 0, 0, 0),
    }
    return {name: refused(deed) for name, deed in tried.items()}
"""


@pytest.mark.parametrize(
    ("layers", "possible"),
    [
        (LAYERS, set()),
        (["filter"], set()),
        # What Python has no hook for is refused by the filter alone. None of these reaches another process.
        (["namespaces", "hook"], {"thread", "session", "ignore a signal"}),
    ],
    ids=["closed", "past the hook", "without a filter"],
)
def test_no_deed_reaches_the_machine(layers: Sequence[str], possible: set[str], tmp_path: Path) -> None:
    mark, kept = tmp_path / "mark", tmp_path / "mark.kept"
    kept.touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        modules = MODULES if "hook" in layers else OPEN
        call = f"deeds({str(mark)!r}, {server.getsockname()[1]}, {os.getpid()})"
        tests = [f"done = {{deed for deed, result in {call}.items() if result != 'refused'}}"]
        tests += [f"assert done <= {possible!r}" if possible else "assert not done"]
        assert run_tests(DEEDS, tests, layers=layers, modules=modules).passed
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert sorted(tmp_path.iterdir()) == [kept]


def test_namespaces_alone_keep_network_parent_and_processes_away() -> None:
    if run_tests("", ["pass"], layers=["namespaces"]).layer != "namespaces":
        pytest.skip("no user namespaces here")
    program = """
import os, socket
def failure(deed, *arguments):
    try:
        deed(*arguments)
    except OSError as error:
        return type(error).__name__
def deeds(parent, port, is_root):
    fork = "BlockingIOError" if is_root else failure(os.fork)  # the limit on processes is not root's
    connect = failure(socket.socket().connect, ("127.0.0.1", port))
    return [failure(open, f"/proc/{parent}/environ"), fork, connect]"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = f"deeds({os.getpid()}, {server.getsockname()[1]}, {os.geteuid() == 0})"
        expected = ["PermissionError", "BlockingIOError", "OSError"]
        verdict = run_tests(program, [f"assert {call} == {expected}"], layers=["namespaces"], modules=OPEN)
    assert verdict.passed


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_every_system_call_that_does_not_compute_is_refused() -> None:
    program = """
import ctypes, errno
def reached(numbers):
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    for number in numbers:
        ctypes.set_errno(0)
        if libc.syscall(number, -1, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM:
            found.append(number)
    return found"""
    # Two calls of x86-64, for probes of a tracer, pass no filter; without a tracer they kill who calls them.
    numbers = set(range(480)) - set(sandbox._CALLS[os.uname().machine][1]) - {335, 336}
    test = f"assert reached({sorted(numbers)}) == []"
    verdict = run_tests(program, [test], layers=["filter"], modules=OPEN)
    assert verdict.passed
    assert verdict.layer == "filter"


def test_descriptors_of_the_parent_are_not_inherited(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        os.set_inheritable(log.fileno(), True)
        program = "import os\nfor fd in range(256):\n    try: os.write(fd, b'x')\n    except OSError: pass"
        run_tests(program, ["pass"], layers=["filter"], modules=OPEN)
    assert (tmp_path / "log").read_bytes() == b""


def test_neither_process_nor_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(Path("/proc/self/task").glob("*/children"))
    children = {child for task in before for child in task.read_text().split()}
    run_tests("import time\ntime.sleep(9)", ["pass"], wall_s=0.3)
    run_tests("def add(a, b): return a + b", ADD)
    left = {
        child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()
    }
    assert left <= children
    assert list(tmp_path.iterdir()) == []


def test_without_a_filter_a_warning_says_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    code._warn_once.cache_clear()
    code._warn_once("")
    code._warn_once("")
    assert [record.message for record in caplog.records] == [
        "no filter of system calls here: nothing but limits and a hook in Python closes the code of an answer "
        "off; grade answers of models you trust"
    ]


def test_a_flood_of_lines_costs_the_judge_little() -> None:
    start = time.perf_counter()
    assert code_of("def add(a, b):\n x=(\n" + "b\n" * 9000, "add") is None
    assert time.perf_counter() - start < 2


def test_several_answers_are_graded_at_once() -> None:
    passed = []
    right = "def add(a, b): return a + b"
    threads = [threading.Thread(target=lambda: passed.append(run_tests(right, ADD).passed)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed == [True] * 4


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(n):\n    for i in range(n): yield i * i", "assert list(f(4)) == [0, 1, 4, 9]\nassert next(f(1)) == 0"),
        ("def f(n): return lambda x: x + n", "assert f(3)(4) == 7"),
        ("def f(g, xs): return [g(x) for x in xs] if g else xs", "assert f(lambda x: x * 2, [1, 2]) == [2, 4]"),
        ("def f(xs): return sorted(xs, key=len)", "assert f({'aaa', 'b'}) == ['b', 'aaa']"),
        ("def f(xs): xs.sort()", "xs = [[3], [1]]\nassert f(xs) is None\nassert xs == [[1], [3]]"),
        ("def f(d): d['a'] += 1", "d = {'a': 1}\nf(d)\nassert d == {'a': 2}"),
        ("def f(x): raise ValueError('bad')",
         "try:\n    f(1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'bad'"),
        ("class Empty(LookupError): pass\ndef f(x): raise Empty('none')",
         "try:\n    f(1)\n    raise SystemExit\nexcept Empty:\n    pass"),
        ("from collections import Counter\ndef f(s): return Counter(s)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("from collections import defaultdict\ndef f(s):\n    d = defaultdict(list)\n    d[s].append(1)\n    return d",
         "assert f('a') == {'a': [1]}"),
        ("from decimal import Decimal\ndef f(x): return Decimal(x) * 3", "assert f('0.1') == datetime and 0 or f('1') == 3"),
        ("def f(n): return 7 ** n", "assert f(9000) == 7 ** 9000"),
        ("def f(b): return b[::-1]", "assert f(b'ab') == b'ba'\nassert f('\\ud800é') == 'é\\ud800'"),
        ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, 1)",
         "assert f(2).x == 2\nassert f(2) == (2, 1)"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(p): return P(p.x + 1)",
         "assert f(P(1)).x == 2\nassert f(P(1)) == P(2)\nassert f(P(1)) != P(1)"),
        ("import enum\nclass E(enum.IntEnum):\n    A = 1\ndef f(): return E.A", "assert f() == 1"),
        ("def g(s): return s[::-1]\ndef f(s): return g(s) + '!'", "assert g(f('ab')) == '!ab'"),
        ("def f(x): return type(x)", "assert f(1) is int"),
        ("def f(s, to): return to(s)", "assert f('3', int) == 3"),
        ("def f(a, *, b=1): return a, b", "assert f(1, b=2) == (1, 2)\nassert f(1) == (1, 1)"),
        ("def f(): return {1: {(2, 3): frozenset([4])}, None: 1j}",
         "assert f() == {1: {(2, 3): frozenset([4])}, None: 1j}"),
        ("import datetime\ndef f(s): return datetime.date.fromisoformat(s)", "assert f('2024-02-29').month == 2"),
        ("def f(d): return d.keys()", "assert set(f({'a': 1})) == {'a'}\nassert len(f({'a': 1})) == 1"),
        ("def f(): return float('nan'), float('inf')", "a, b = f()\nassert a != a and b == math.inf"),
        ("def f(n): return 1 if n < 2 else n * f(n - 1)", "assert f(300) == math.factorial(300)"),
        ("def f(n): return map(str, range(n))", "assert ''.join(f(3)) == '012'"),
    ],
)  # fmt: skip
def test_values_of_every_kind_reach_the_tests(program: str, test: str) -> None:
    assert run_tests(program, [test], name="f").passed


@pytest.mark.parametrize("name", ["sum", "calendar", "abs", "reversed"])
def test_an_answer_may_have_the_name_of_a_builtin_or_a_module(name: str) -> None:
    verdict = run_tests(f"def {name}(x): return x + 1", [f"assert {name}(1) == 2"], name=name)
    assert verdict.passed
