"""The two processes that grade code: one runs an answer, the other runs the tests and asks it for values.

Run as a script, `python -I -S sandbox.py`, with a job on standard input. It imports nothing of this package.

    parent --answer--> answer process <--calls, values--> test process <--tests-- parent
                                                          test process --verdict--> parent

The answer process never holds the tests, what they expect, or the pipe of the verdict. It gets the arguments
of a call and sends back a value. The test process compares: it reads data (`Peer`), never code, so that an
object that claims to equal everything is only an object that equals nothing. Both processes are confined
first: `confine` says by what.
"""

import builtins
import json
import operator
import os
import resource
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any, NoReturn

MODULES = """
    array bisect calendar collections collections.abc copy dataclasses datetime decimal enum fractions
    functools heapq itertools json math operator random re statistics string textwrap time typing unicodedata
    _strptime
""".split()  # noqa: SIM905 - a list of 25 lines says less
"""What an answer and a test may import. All are loaded before the process is confined."""

MAX_FRAME_BYTES = 4 * 2**20
PASSED = "passed"

# confinement

# System calls that compute: memory, time, random numbers, open descriptors, the end. The numbers are those
# of asm/unistd_64.h and asm-generic/unistd.h.
_CALLS = {
    "x86_64": (0xC000003E, (0, 1, 3, 5, 8, 9, 10, 11, 12, 15, 24, 25, 28, 35, 60, 96, 98, 131, 201, 202, 219,
                            228, 229, 230, 231, 318)),
    "aarch64": (0xC00000B7, (57, 62, 63, 64, 80, 93, 94, 98, 101, 113, 114, 115, 124, 128, 132, 139, 165,
                             169, 214, 215, 216, 222, 226, 233, 278)),
}  # fmt: skip
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_KILL, _DENY, _ALLOW = 0x80000000, 0x00050000 | 1, 0x7FFF0000  # deny answers EPERM
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000  # linux/sched.h


def set_limits(limits: dict[str, int]) -> None:
    """Set resource limits by name; none above what the parent has."""
    for limit, value in limits.items():
        name = getattr(resource, limit)
        hard = resource.getrlimit(name)[1]
        soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # SIGXCPU, which tells of the CPU limit, comes a second before SIGKILL.
        resource.setrlimit(name, (soft, soft + (name == resource.RLIMIT_CPU)))


def confine(layers: list[str]) -> str:
    """Close the process off from the machine; the name of the layer that holds, or "".

    `filter`: the kernel refuses every system call but those that compute (seccomp). No file, socket, process,
    signal or namespace can be had by any code. `namespaces`, where there is no filter: neither network
    nor rights over processes of the user. `hook`, always besides: Python refuses what reaches outside. A hook
    is no wall, since code that breaks CPython's memory goes around it.
    """
    held = ""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError):
        pass
    else:
        if "filter" in layers and _set_filter(ctypes, libc):
            held = "filter"
        elif "namespaces" in layers and _leave_namespaces(libc):
            held = "namespaces"
    if "hook" in layers:
        sys.addaudithook(_make_hook())
        for name in [name for name in sys.modules if name.partition(".")[0] in ("ctypes", "_ctypes")]:
            del sys.modules[name]
    return held


def _set_filter(ctypes: Any, libc: Any) -> bool:
    machine, calls = _CALLS.get(os.uname().machine, (0, ()))
    if sys.platform != "linux" or not calls or sys.maxsize < 2**32:
        return False
    # At 0 lies the number of the system call, at 4 the machine. Another machine's numbers mean other calls.
    rules = [(_LOAD, 0, 0, 4), (_IF_EQUAL, 1, 0, machine), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    rules += [(_IF_EQUAL, len(calls) - i, 0, call) for i, call in enumerate(calls)]
    rules += [(_RETURN, 0, 0, _DENY), (_RETURN, 0, 0, _ALLOW)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    whole = ctypes.create_string_buffer(struct.pack("HP", len(rules), ctypes.addressof(program)))
    zero = ctypes.c_ulong(0)
    if libc.prctl(_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) != 0:
        return False
    return bool(libc.prctl(_SET_SECCOMP, ctypes.c_ulong(_FILTER), ctypes.byref(whole), zero, zero) == 0)


def _leave_namespaces(libc: Any) -> bool:
    try:
        return bool(libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC) == 0)
    except AttributeError:
        return False


def _make_hook() -> Callable[[str, tuple[Any, ...]], None]:
    forbidden = (
        "open", "import", "os.", "subprocess.", "socket.", "ctypes.", "signal.", "shutil.", "pty.", "fcntl.",
        "mmap.", "resource.", "sys.addaudithook", "tempfile.", "glob.", "pathlib.", "syslog.", "code.__new__",
    )  # fmt: skip

    def forbid(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(forbidden):
            raise PermissionError("not allowed in an answer: " + event)

    return forbid


# values


class Abort(BaseException):
    """The answer process ended, broke the protocol, or left by an exception that is no error."""


class AnswerError(Exception):
    """An error of a class that only the answer knows."""


_PLAIN = {"Decimal": Decimal, "Fraction": Fraction}
_TIMES: dict[str, Any] = {"date": date, "datetime": datetime, "time": time}
_SEQUENCES: dict[str, type] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
_MAPPINGS: dict[str, type] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
_BASES = (int, str, float, bytes, list, tuple, dict, set, frozenset)
_MUTABLE = (list, dict, set, bytearray, deque)


class Peer:
    """One end of the channel between the two processes: what is sent is data, an object stays where it is.

    A value is JSON: a number, text, truth value, null or `[kind, ...]`. What is no plain value gets a handle.
    """

    def __init__(
        self, channel: int, serve: Callable[["Peer", list[Any]], list[Any]], has_objects: bool
    ) -> None:
        self.channel, self._serve, self.has_objects = channel, serve, has_objects
        self.objects: list[Any] = []
        self._handles: dict[int, int] = {}
        self.errors: dict[str, type[Exception]] = {}

    def ask(self, *request: Any) -> Any:
        """Send a request and return the other's value, serving what it asks meanwhile.

        Raises:
            Exception: what the other raised, as the nearest class that is known here.
            Abort: if it ended or did not keep to the protocol.
        """
        self.send(["ask", *request])
        while True:
            kind, *rest = self.receive()
            if kind == "ask":
                self.answer(rest)
            elif kind == "value":
                return rest
            else:
                classes, text = rest
                raise self._error(classes, text, request[0] == "operate" and request[2] == "next")

    def answer(self, request: list[Any]) -> None:
        """Do what the other asks and send the value, or the error."""
        try:
            reply = ["value", *self._serve(self, request)]
        except Abort:
            raise
        except BaseException as error:
            classes = [base.__name__ for base in type(error).__mro__]
            text = "" if isinstance(error, MemoryError) else str(error)[:1000]
            reply = ["error", classes, text]
        self.send(reply)

    def send(self, message: list[Any]) -> None:
        frame = json.dumps(message, check_circular=False).encode()
        if len(frame) > MAX_FRAME_BYTES:
            raise ValueError("the value is too large to compare")
        data = memoryview(struct.pack(">I", len(frame)) + frame)
        while data:
            data = data[os.write(self.channel, data) :]

    def receive(self) -> list[Any]:
        size = struct.unpack(">I", self._read(4))[0]
        if size > MAX_FRAME_BYTES:
            raise Abort("the frame is too large")
        message = json.loads(self._read(size))
        if not isinstance(message, list) or not message:
            raise Abort("the frame has no kind")
        return message

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = os.read(self.channel, size - len(data))
            if not part:
                raise Abort("the channel is closed")
            data += part
        return bytes(data)

    def _error(self, classes: list[str], text: str, may_stop: bool) -> BaseException:
        if "Exception" not in classes:
            return Abort(text)
        for name in classes:
            known = self.errors.get(name) or getattr(builtins, name, None)
            if not (isinstance(known, type) and issubclass(known, Exception)):
                continue
            # Raised inside `all(map(f, cases))` it would end the test's own loop early: no case, no failure.
            if issubclass(known, StopIteration | StopAsyncIteration) and not may_stop:
                return RuntimeError(text)
            try:
                return known(text)
            except TypeError:  # a class such as UnicodeDecodeError takes more than a text
                continue
        return AnswerError(text)

    def encode(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str, float):
            return value
        if kind is int:
            # Digits in base 16: those in base 10 are limited, and slow to read.
            return value if -(2**53) < value < 2**53 else ["int", hex(value)]
        if isinstance(value, Remote):
            return ["yours", value._handle]
        if kind is defaultdict:
            return self.encode(dict(value))
        if _MAPPINGS.get(kind.__name__) is kind:
            return [kind.__name__, [[self.encode(k), self.encode(v)] for k, v in value.items()]]
        if _SEQUENCES.get(kind.__name__) is kind:
            return [kind.__name__, [self.encode(item) for item in value]]
        if kind in (bytes, bytearray):
            return [kind.__name__, value.hex()]
        if kind is complex:
            return ["complex", value.real, value.imag]
        if kind is range:
            return ["range", *map(self.encode, (value.start, value.stop, value.step))]
        if kind is timedelta:
            return ["timedelta", value.days, value.seconds, value.microseconds]
        if _PLAIN.get(kind.__name__) is kind:
            return [kind.__name__, str(value)]
        if _TIMES.get(kind.__name__) is kind and getattr(value, "tzinfo", None) is None:
            return [kind.__name__, value.isoformat()]
        return self._encode_other(value, kind)

    def _encode_other(self, value: Any, kind: type) -> Any:
        if isinstance(value, type):
            if value.__module__ in (*MODULES, "builtins"):
                return ["class", value.__module__, value.__qualname__]
            if issubclass(value, Exception):
                return ["exception", value.__name__, [base.__name__ for base in value.__mro__[1:]]]
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return ["namedtuple", kind.__name__, list(kind._fields), [self.encode(item) for item in value]]
        for base in _BASES:
            # A subclass, such as an IntEnum, goes as the plain value it holds.
            if isinstance(value, base):
                copies: dict[type, Callable[[Any], Any]] = {
                    int: int.__index__,
                    str: str.__str__,
                    float: float.__float__,
                }
                return self.encode(copies.get(base, base)(value))
        handle = self._handles.setdefault(id(value), len(self.objects))
        if handle == len(self.objects):
            self.objects.append(value)  # kept, so that its id stays its own
        return ["mine", handle]

    def decode(self, data: Any) -> Any:
        """The value in `data`.

        Raises:
            Abort: if it is no value.
        """
        if not isinstance(data, list):
            return data
        try:
            return self._decode(data[0], data[1:])
        except (IndexError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise Abort(f"no value: {error}") from None

    def _decode(self, kind: str, rest: list[Any]) -> Any:
        if kind == "int":
            return int(rest[0], 16)
        if kind == "mine":
            remote = Remote(self, int(rest[0]))
            # A function of the tests is a function in the answer, and nothing more.
            return remote if self.has_objects else partial(Remote.__call__, remote)
        if kind == "yours":
            return self.objects[rest[0]]
        if kind in _SEQUENCES:
            return _SEQUENCES[kind]([self.decode(item) for item in rest[0]])
        if kind in _MAPPINGS:
            return _MAPPINGS[kind]({self.decode(key): self.decode(value) for key, value in rest[0]})
        if kind in ("bytes", "bytearray"):
            return (bytes if kind == "bytes" else bytearray).fromhex(rest[0])
        if kind == "complex":
            return complex(*rest)
        if kind == "range":
            return range(*map(self.decode, rest))
        if kind == "timedelta":
            return timedelta(*rest)
        if kind in _PLAIN:
            return _PLAIN[kind](rest[0])
        if kind in _TIMES:
            return _TIMES[kind].fromisoformat(rest[0])
        if kind == "namedtuple":
            return namedtuple(rest[0], rest[1])(*(_check_plain(self.decode(item)) for item in rest[2]))
        if kind == "class":
            return self._find_class(*rest)
        if kind == "exception":
            known = self._error(rest[1], "", may_stop=False)
            return self.errors.setdefault(rest[0], type(rest[0], (type(known),), {}))
        raise Abort(f"unknown kind {kind!r}")

    def _find_class(self, module: str, name: str) -> type:
        found = getattr(sys.modules[module], name) if module in (*MODULES, "builtins") else None
        if not isinstance(found, type):
            raise Abort(f"unknown class {name!r}")
        return found


# Operations of one object. None of them hands a value of the tests to the answer, but for the key of an item.
_ALONE = ("iter", "next", "len", "bool", "str", "repr", "int", "float", "abs", "round", "index", "neg",
          "getitem")  # fmt: skip
# Comparisons. They are carried over only where both are objects of the answer.
_OF_TWO = ("eq", "ne", "lt", "le", "gt", "ge")


class Remote:
    """An object of the other process: it can be called, iterated, indexed, and asked for plain attributes.

    A comparison with a value of this process is not carried over: it would hand what the test expects to the
    answer, whose word would be the verdict. Nor is a method, which gets values too: in
    `greet("Bob").startswith("Hello")` an object of the answer could agree to anything.
    """

    def __init__(self, peer: Peer, handle: int) -> None:
        self._peer, self._handle = peer, handle

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        sent = [self._peer.encode(arguments), self._peer.encode(named)]
        value, *after = self._peer.ask("call", self._handle, *sent)
        for argument, state in zip(arguments, after, strict=False):
            if state is not None:
                _replace(argument, self._peer.decode(state))
        return self._peer.decode(value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _check_plain(self._ask("getattr", name))

    def __hash__(self) -> int:
        return hash(self._handle)

    def _ask(self, name: str, *arguments: Any) -> Any:
        request = [self._peer.encode(argument) for argument in arguments]
        return self._peer.decode(self._peer.ask("operate", self._handle, name, request)[0])


def _check_plain(value: Any) -> Any:
    """The value of an attribute. None is called: a method gets what the test expects, and may say yes to it.

    Raises:
        AttributeError: if it can be called.
    """
    if callable(value):
        raise AttributeError("methods are not carried over")
    return value


def _forward(name: str, of_two: bool) -> Callable[..., Any]:
    def operation(self: Remote, *others: Any) -> Any:
        if of_two and not isinstance(others[0], Remote):
            return NotImplemented
        return self._ask(name, *others)

    return operation


for _name in _ALONE + _OF_TWO:
    setattr(Remote, f"__{_name}__", _forward(_name, _name in _OF_TWO))


def _replace(argument: Any, state: Any) -> None:
    """Give a value that the answer changed in place its new contents."""
    if isinstance(argument, list | bytearray):
        argument[:] = state
    else:
        argument.clear()
        (argument.extend if isinstance(argument, deque) else argument.update)(state)


def _call(peer: Peer, function: Callable[..., Any], sent: list[Any]) -> list[Any]:
    """The encoded result, then the new state of each argument, or None where it did not change."""
    arguments, named = (peer.decode(item) for item in sent)
    result = peer.encode(function(*arguments, **named))
    after = []
    for argument, before in zip(arguments, sent[0][1], strict=True):
        state = peer.encode(argument) if isinstance(argument, _MUTABLE) else before
        after.append(None if state == before else state)
    return [result, *after]


# the two processes


def serve_test(peer: Peer, request: list[Any]) -> list[Any]:
    """What the answer may ask of the tests: to call a function that they passed to it."""
    kind, handle, *rest = request
    if kind != "call":
        raise Abort(f"unknown request {kind!r}")
    return _call(peer, peer.objects[handle], rest)


def serve_answer(code: str, space: dict[str, Any], peer: Peer, request: list[Any]) -> list[Any]:
    """What the tests may ask of the answer: to be defined, then a name, a call, an operation."""
    kind, *rest = request
    if kind == "define":
        exec(compile(code, "answer", "exec"), space)  # noqa: S102 - confined
        return [None]
    if kind == "name":
        return [peer.encode(space[rest[0]])]
    subject = peer.objects[rest[0]]
    if kind == "call":
        return _call(peer, subject, rest[1:])
    name, arguments = rest[1], [peer.decode(item) for item in rest[2]]
    function = getattr(operator if name in (*_OF_TWO, "index", "neg", "getitem") else builtins, name)
    return [peer.encode(function(subject, *arguments))]


def run_answer(channel: int, code: str) -> None:
    """Do what the tests ask until they end."""
    peer = Peer(channel, partial(serve_answer, code, {"__name__": "answer"}), has_objects=False)
    while True:
        peer.answer(peer.receive()[1:])


def run_tests(channel: int, name: str, tests: list[str], names: list[str]) -> None:
    """Run the tests, where the names that they read and do not have are objects of the answer.

    Raises:
        BaseException: where a test fails.
    """
    peer = Peer(channel, serve_test, has_objects=True)
    peer.ask("define")
    space: dict[str, Any] = {"__name__": "test"}
    for read in names:
        if read != name and hasattr(builtins, read):
            # Never the answer's: with `abs` or `math` of its own it would compare for itself.
            continue
        if read != name and read in MODULES:
            space[read] = sys.modules[read]
            continue
        with suppress(Exception):  # a name that the tests set themselves
            space[read] = peer.decode(peer.ask("name", read)[0])
    for test in tests:
        exec(compile(test, "test", "exec"), space)  # noqa: S102 - confined, by the author of the probe


def main() -> NoReturn:
    job = json.load(sys.stdin)
    set_limits(job["limits"])
    out = sys.stdout.fileno()
    for name in job["modules"]:
        __import__(name)
    # Read now: the file of the time zone cannot be opened later.
    sys.modules["time"].localtime()
    held = confine(job["layers"])
    sys.stdout = sys.stderr = type(
        "Nowhere", (), {"write": lambda self, text: len(text), "flush": lambda self: None}
    )()
    if "code" in job:
        run_answer(job["channel"], job["code"])
    else:
        run_tests(job["channel"], job["name"], job["tests"], job["names"])
        os.write(out, f"{PASSED} {held}".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
