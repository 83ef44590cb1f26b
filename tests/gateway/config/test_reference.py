"""Every configuration key is described once and read somewhere; every example configuration works."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.app import create_app
from gateway.batches.store import BatchStore
from gateway.config import parse_config
from gateway.config.expert_schema import LlamaCppConfig, ProviderSettings
from gateway.config.policy_schema import Weights
from gateway.config.reference import config_schema, describe_fields, find_struct, list_keys, list_structs
from gateway.config.schema import Config

ROOT = Path(__file__).parents[3]
STRUCTS = {kind.__name__: kind for kind in list_structs(Config)} | {"Weights": Weights}


def test_every_key_has_a_description_that_is_a_sentence() -> None:
    for key in list_keys():
        assert re.fullmatch(r"[A-Z`0-9].{10,}\.", key.description), key.path


def test_the_json_schema_says_what_the_reference_says() -> None:
    definitions = config_schema()["$defs"]
    for name, kind in STRUCTS.items():
        for key, text in describe_fields(kind).items():
            if name != "Weights":
                assert definitions[name]["properties"][key]["description"] == text


def test_the_schema_is_json() -> None:
    assert json.loads(json.dumps(config_schema()))["title"] == "thalamus.yaml"


class ReadsOfKeys(ast.NodeVisitor):
    """Collects (struct, field) of every attribute that is read from a value of a configuration struct.

    A small inference by annotations, assignments and loops; a list of structs counts as the struct.
    """

    def __init__(self, returns: dict[str, str]) -> None:
        self.returns = returns
        self.names: dict[str, str] = {}
        self.found: set[tuple[str, str]] = set()

    def infer(self, node: ast.AST | None) -> str | None:
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.infer(node.value)
            if owner in STRUCTS:
                fields = {field.name: field.type for field in msgspec.structs.fields(STRUCTS[owner])}
                if node.attr in fields:
                    self.found.update((base, node.attr) for base in (owner, "Weights"))
                    inner = find_struct(fields[node.attr])
                    return inner.__name__ if inner else None
            known = self.names.get("." + node.attr) or self.returns.get(node.attr) or owner
            return known or ("Config" if node.attr == "config" else None)  # `services.config`
        if isinstance(node, ast.Call):
            return self.infer(node.func) or self.first(*node.args, *(word.value for word in node.keywords))
        if isinstance(node, (ast.BoolOp, ast.IfExp, ast.Subscript, ast.Await, ast.NamedExpr, ast.Starred)):
            return self.first(*ast.iter_child_nodes(node))
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.Tuple, ast.List, ast.DictComp, ast.Dict)):
            return self.first(*ast.iter_child_nodes(node))
        return None

    def first(self, *nodes: ast.AST) -> str | None:
        return next((kind for node in nodes if (kind := self.infer(node))), None)

    def bind(self, target: ast.AST, kind: str | None) -> None:
        for node in ast.walk(target):
            if kind and isinstance(node, ast.Name):
                self.names[node.id] = kind
            elif kind and isinstance(node, ast.Attribute):
                self.names["." + node.attr] = kind

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.ClassDef) and node.name in STRUCTS:
            self.names["self"] = node.name
        if isinstance(node, ast.arg):
            self.bind(ast.Name(node.arg), struct_name(node.annotation))
        elif isinstance(node, ast.AnnAssign):
            self.bind(node.target, struct_name(node.annotation) or self.infer(node.value))
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self.bind(target, self.infer(node.value))
        elif isinstance(node, ast.NamedExpr):
            self.bind(node.target, self.infer(node.value))
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
            self.bind(node.target, self.infer(node.iter))
        elif isinstance(node, ast.Attribute):
            self.infer(node)
        self.generic_visit(node)


def struct_name(annotation: ast.AST | None) -> str | None:
    words = re.findall(r"\w+", ast.unparse(annotation)) if annotation else []
    return next((word for word in words if word in STRUCTS), None)


def find_returned_structs(trees: list[ast.Module]) -> Iterator[tuple[str, str]]:
    for tree in trees:
        functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        for node in functions:
            if kind := struct_name(node.returns):
                yield node.name, kind


@pytest.mark.source
def test_every_key_is_read_somewhere() -> None:
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "gateway").rglob("*.py"))]
    returns = dict(find_returned_structs(trees))
    found: set[tuple[str, str]] = set()
    for tree in trees:
        reads = ReadsOfKeys(returns)
        for _ in range(2):  # attributes of `self` that are bound below their use are known the second time
            reads.visit(tree)
        found |= reads.found
    # `Weights.objective` reads its goals by `getattr`, one for each of `policies.Goal`.
    found |= {(kind, name) for kind in ("Weights", "ObjectiveConfig") for name in describe_fields(Weights)}
    # `as_arguments` and `as_options` read all fields by name; `test_lite.py` sees the ones at LiteLLM, and
    # `test_runner_llamacpp.py` the others at llama.cpp.
    for struct in (ProviderSettings, LlamaCppConfig):
        found |= {(struct.__name__, name) for name in describe_fields(struct)}
    unread = {
        f"{kind.__name__}.{field.name}"
        for kind in STRUCTS.values()
        for field in msgspec.structs.fields(kind)
        if (kind.__name__, field.name) not in found
    }
    assert unread == set()


YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)


def example_configs() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "deploy" / "examples").glob("*.yaml")):
        yield path.name, path.read_text()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if page.is_file():
            for n, block in enumerate(YAML_BLOCK.findall(page.read_text())):
                yield f"{page.relative_to(ROOT)}[{n}]", block


EXAMPLES = list(example_configs())


@pytest.mark.source
@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_every_example_configuration_builds_a_gateway(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    variables = re.findall(r"os\.environ/(\w+)", text)
    config = parse_config(text, name, env={v: f"redis://{v}-7f3a9c1e5b2d8046" for v in variables})
    # A selection is a folder that training wrote; the example names one that is not here.
    embeddings = msgspec.structs.replace(config.embeddings, selection=None, experts={})
    journal = msgspec.structs.replace(config.journal, enabled=False)  # its thread would outlive the test
    stores: list[BatchStore] = []
    open_store = BatchStore.open

    def open_and_remember(path: Path, **options: Any) -> BatchStore:
        stores.append(open_store(path, **options))
        return stores[-1]

    monkeypatch.setattr(BatchStore, "open", open_and_remember)
    try:
        assert create_app(msgspec.structs.replace(config, embeddings=embeddings, journal=journal))
    finally:
        for store in stores:
            store.close()


@pytest.mark.source
def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5
