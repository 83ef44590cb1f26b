"""What the measures and the wording check know of a checkout: its files, modules, imports and names."""

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

BANNED_WORDS = (
    "nobody", "somebody", "anybody", "everybody", "whoever", "whatever", "someone", "anyone", "everyone",
)  # fmt: skip
_BANNED_WORD = re.compile(rf"\b({'|'.join(BANNED_WORDS)})\b", re.IGNORECASE)

# The left column of the table of words: names that meant something to their author alone.
BANNED_IDENTIFIERS = frozenset(
    [
        "told",
        "_told",
        "Gatherer",
        "Desk",
        "Foresight",
        "Ledger",
        "Purse",
        "Courtesy",
        "Outage",
        "Standing",
        "Elsewhere",
        "Notebook",
        "Subject",
        "Door",
        "Asked",
        "Asking",
        "Machine",
        "Gate",
        "Front",
        "Books",
        "Performer",
        "Dispatcher",
        "Story",
        "look_again",
        "sing",
        "_song",
        "_nights",
        "_bury",
        "doze",
        "rouse",
        "surroundings",
        "checkup",
        "greeting",
        "contend",
        "contenders",
        "strangeness",
        "familiarity",
        "gathered",
        "wished",
        "read_hints",
        "nobody_answered",
        "patiently",
    ]
)

# Participles that do not end in -ed or -ing. `read`, `put`, `set`, `cut`, `split` are verbs as well.
IRREGULAR_PARTICIPLES = frozenset(
    [
        "told",
        "given",
        "taken",
        "known",
        "seen",
        "found",
        "held",
        "kept",
        "lost",
        "made",
        "met",
        "paid",
        "said",
        "sent",
        "shown",
        "sold",
        "spent",
        "spoken",
        "understood",
        "won",
        "written",
        "worn",
        "woken",
        "bought",
        "brought",
        "built",
        "caught",
        "chosen",
        "done",
        "drawn",
        "driven",
        "eaten",
        "fallen",
        "felt",
        "fought",
        "forgotten",
        "frozen",
        "gone",
        "grown",
        "heard",
        "hidden",
        "laid",
        "led",
        "lent",
        "meant",
        "ridden",
        "risen",
        "sung",
        "swept",
        "taught",
        "thrown",
        "torn",
        "borne",
        "bound",
        "begun",
        "broken",
        "foretold",
        "got",
        "hung",
        "slept",
        "sought",
        "stolen",
        "struck",
        "sworn",
        "withdrawn",
        "thought",
    ]
)

# First words that end like a participle and are none, each with its reason.
NO_PARTICIPLES = {
    "bind": "a verb",
    "bring": "a verb",
    "ceiling": "a noun",
    "degraded": "the key of health answers, a term of operators",
    "embed": "a verb",
    "embedding": "a noun: a vector",
    "expected": "the key of a probe: what its grader compares with",
    "feed": "a verb",
    "mapping": "a noun: categories → experts",
    "missing": "`__missing__`, the name Python gives to what a dict does for an unknown key",
    "need": "a verb",
    "ping": "a verb",
    "pinned": "the configuration key: never evicted",
    "routing": "a noun: the section `routing` of the configuration",
    "seed": "a verb and a noun",
    "shed": "a verb: to refuse load",
    "speed": "a noun",
    "string": "a noun",
    "wing": "a noun",
}

# Paths whose words are data, or quote the words that are banned.
WORDS_EXEMPT = {
    "tools/source_tree.py": "the list itself",
    "evals/LOG.md": "a dated record of experiments, never rewritten",
    "evals/probes": "prompts that experts are asked: data",
    "studies/adapters/fields": "templates of lessons: data",
    "studies/probe_families": "templates of prompts: data",
    "routers/skills/keywords.py": "prompts whose very words decide what an expert answers",
    "tests/evals/data": "data",
    "LICENSE": "not ours",
}

# Class names that may be defined more than once, each with its reason.
HOMONYMS_ALLOWED = {
    "BadRequest": "an answer of the SDK and an error of the server, which the SDK does not import",
    "Usage": "tokens for users of the SDK, and their wire format in the server",
}

SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".html", ".js", ".css"}


@dataclass(frozen=True, slots=True)
class NamingFault:
    """A place in the checkout and what is wrong there."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and any(
        (isinstance(part, ast.Name) and part.id == "TYPE_CHECKING")
        or (isinstance(part, ast.Attribute) and part.attr == "TYPE_CHECKING")
        for part in [node.test]
    )


def _imports(node: ast.AST, with_typing: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yields the imports under `node`, inside functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_type_checking(child) and not with_typing:
            for other in child.orelse:
                yield from _imports_of(other, with_typing)
            continue
        yield from _imports_of(child, with_typing)


def _imports_of(node: ast.AST, with_typing: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    else:
        yield from _imports(node, with_typing)


class SourceTree:
    """A checkout at `root`: every fact about its source that is measured or checked."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.project = tomllib.loads((self.root / "pyproject.toml").read_text())
        self.packages: list[str] = self.project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    @cached_property
    def files(self) -> list[str]:
        """Paths under version control, and new ones that are not ignored."""
        command = ["git", "ls-files", "-co", "--exclude-standard"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True)
        return sorted(path for path in set(done.stdout.splitlines()) if (self.root / path).is_file())

    @cached_property
    def python(self) -> list[str]:
        return [path for path in self.files if path.endswith(".py")]

    @cached_property
    def texts(self) -> dict[str, str]:
        return {path: (self.root / path).read_text() for path in self.files if Path(path).suffix in SUFFIXES}

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        return {path: ast.parse(self.texts[path], path) for path in self.python}

    def in_packages(self, path: str) -> bool:
        return path.split("/")[0] in self.packages

    @cached_property
    def modules(self) -> dict[str, str]:
        """Dotted name of every module of the wheel's packages -> its path."""
        names = {}
        for path in self.python:
            if self.in_packages(path):
                parts = Path(path).with_suffix("").parts
                names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return names

    def find_banned_words(self) -> list[NamingFault]:
        return [
            NamingFault(path, number, f"banned word {match[0]!r}")
            for path, text in self.texts.items()
            if not any(path == exempt or path.startswith(f"{exempt}/") for exempt in WORDS_EXEMPT)
            for number, line in enumerate(text.splitlines(), 1)
            for match in _BANNED_WORD.finditer(line)
        ]

    def find_banned_identifiers(self) -> list[NamingFault]:
        """Definitions (functions, classes, attributes, arguments, variables) under a banned name."""
        found = []
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                name = None
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    name = node.name
                elif isinstance(node, ast.arg):
                    name = node.arg
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    name = node.id
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    name = node.attr
                if name in BANNED_IDENTIFIERS:
                    found.append(NamingFault(path, node.lineno, f"banned identifier {name!r}"))  # type: ignore[attr-defined]
        return found

    def functions(self) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield path, node

    def participles(self) -> list[NamingFault]:
        return [
            NamingFault(path, node.lineno, f"function named by a participle: {node.name!r}")
            for path, node in self.functions()
            if is_participle(node.name) and not _is_context_manager(node) and not _is_noun(node)
        ]

    def homonyms(self) -> list[NamingFault]:
        places: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append((path, node.lineno))
        return [
            NamingFault(
                *defined[0],
                f"class {name!r} is also defined in {', '.join(f'{p}:{n}' for p, n in defined[1:])}",
            )
            for name, defined in sorted(places.items())
            if len(defined) > 1 and name not in HOMONYMS_ALLOWED
        ]

    def imports(self, path: str, with_typing: bool = False) -> Iterator[tuple[str, str | None]]:
        """Yields (module, name) for each name that a file imports; name is None for `import module`."""
        package = list(Path(path).parent.parts)
        for node in _imports(self.trees[path], with_typing):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, None
                continue
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield target, alias.name

    def _resolve(self, module: str, name: str | None) -> str | None:
        """The module of this checkout that `from module import name` loads."""
        if name is not None and f"{module}.{name}" in self.modules:
            return f"{module}.{name}"
        return module if module in self.modules else None

    @cached_property
    def _faces(self) -> dict[tuple[str, str], str]:
        """(package, name) -> the module that defines a name which the package's __init__ exports."""
        faces = {}
        for package, path in self.modules.items():
            if path.endswith("__init__.py"):
                for module, name in self.imports(path, with_typing=True):
                    target = self._resolve(module, name)
                    if name is not None and target is not None and target != package:
                        faces[package, name] = target
        return faces

    def _folder(self, module: str) -> str:
        """A module's folder. One that lies directly in a package stands for itself: a package's root has
        the lowest (errors) and the highest (the application) side by side."""
        parent = str(Path(self.modules[module]).parent)
        return module if "/" not in parent else parent

    @cached_property
    def folder_arrows(self) -> dict[str, dict[str, str]]:
        """Folder -> folder it imports -> one import that shows it."""
        arrows: dict[str, dict[str, str]] = defaultdict(dict)
        for module, path in self.modules.items():
            for target, name in self.imports(path):
                loaded = self._resolve(target, name)
                if loaded is not None and self._folder(loaded) != self._folder(module):
                    arrows[self._folder(module)].setdefault(self._folder(loaded), f"{path} imports {loaded}")
        return arrows

    def knots(self) -> list[list[str]]:
        """Sets of folders that import each other, directly or around a corner."""
        return [sorted(part) for part in strongly_connected(self.folder_arrows) if len(part) > 1]

    def loose_modules(self) -> list[str]:
        return [p for p in self.python if Path(p).parent == Path("gateway") and Path(p).name != "__init__.py"]

    def single_importers(self) -> list[tuple[str, str]]:
        """(module, the one module that imports it); entry points and `python -m` count as importers."""
        importers: dict[str, set[str]] = defaultdict(set)
        for module, path in self.modules.items():
            for target, name in self.imports(path, with_typing=path.endswith("__init__.py")):
                loaded = self._resolve(target, name)
                if loaded is None:
                    continue
                importers[loaded].add(module)
                defined = self._faces.get((loaded, name or ""))
                if defined is not None:
                    importers[defined].add(module)
        project = self.project["project"]
        entry_points = dict(project.get("scripts", {}))
        for group in project.get("entry-points", {}).values():
            entry_points.update(group)
        entered = {value.partition(":")[0] for value in entry_points.values()}
        entered |= {name for name, path in self.modules.items() if "__main__" in self.texts[path]}
        return sorted(
            (module, next(iter(importers[module] - {module})))
            for module in self.modules
            if len(importers[module] - {module}) == 1
            and module not in entered
            and not self.modules[module].endswith("__init__.py")
        )

    def lines(self) -> dict[str, tuple[int, int, int]]:
        """Package (or `tests`) -> (all lines, lines of code, comments)."""
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for path in self.python:
            top = path.split("/")[0]
            text = self.texts[path]
            code, comments = count_lines(text, self.trees[path])
            for at, count in enumerate((text.count("\n"), code, comments)):
                sums[top][at] += count
        return {top: (a, b, c) for top, (a, b, c) in sorted(sums.items())}

    def long_functions(self, limit: int = 60) -> list[tuple[int, NamingFault]]:
        found = []
        for path, node in self.functions():
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > limit:
                found.append((length, NamingFault(path, node.lineno, f"{node.name} has {length} lines")))
        return sorted(found, key=lambda pair: -pair[0])

    def test_count(self) -> int:
        return sum(
            path.startswith("tests/") and node.name.startswith("test_") for path, node in self.functions()
        )


def is_participle(name: str) -> bool:
    first = name.strip("_").split("_")[0].lower()
    if first in NO_PARTICIPLES:
        return False
    return first in IRREGULAR_PARTICIPLES or (len(first) > 3 and first.endswith(("ed", "ing")))


def _is_context_manager(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """`with running_server():` names the state inside the block, as contextlib's own `closing` does."""
    return any("contextmanager" in ast.unparse(decorator) for decorator in node.decorator_list)


def _is_noun(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A property is a value: `cached_tokens` is an adjective and its noun. `told` alone is neither."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return "_" in node.name.strip("_") and any(name.endswith("property") for name in decorators)


def count_lines(text: str, tree: ast.Module) -> tuple[int, int]:
    """Returns (lines of code, comments); blanks and docstrings are no code, a `noqa` is no comment."""
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    comments = 0
    code: set[int] = set()
    skip = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments += not re.match(r"#\s*(noqa|type:\s*ignore|pragma|fmt:|!)", token.string)
        elif token.type not in skip:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings), comments


def strongly_connected(arrows: dict[str, dict[str, str]]) -> list[list[str]]:
    """Tarjan's algorithm: the sets of nodes that reach each other."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    parts: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in arrows.get(node, {}):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            at = stack.index(node)
            parts.append(stack[at:])
            del stack[at:]

    for node in list(arrows):
        if node not in order:
            visit(node)
    return parts
