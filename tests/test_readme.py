"""The README's commands are run, their output is compared, and the files it names exist.

A block is marked by a comment before it: `run`, or `not run:` with the reason. In expected output `...`
stands for any lines, and numbers that commands print may differ: fits depend on the processor.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import load_config

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "GLOSSARY.md") if (ROOT / name).exists()}
BLOCK = re.compile(r"(<!-- (?P<mark>(?:not )?run\b[^\n]*?) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```\n", re.S)
BLOCKS = list(BLOCK.finditer(PAGES.get("README.md", "")))
THALAMUS = [sys.executable, "-m", "gateway.cli"]
NUMBER = re.compile(r"\d[\d.,]*")

pytestmark = pytest.mark.source


def find_marked(kind: str) -> list[str]:
    return [block["text"] for block in BLOCKS if block["kind"] == kind and block["mark"] == "run"]


def find_output(code: str) -> str:
    """The text block after a block of code."""
    page = PAGES["README.md"]
    after = BLOCK.search(page, page.index(code) + len(code) + 3)
    assert after is not None
    assert after["kind"] == "text"
    return after["text"]


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Yields each command of a console block with the output below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command.partition("  #")[0], output


def environment(folder: Path) -> dict[str, str]:
    """No keys of the person who runs the tests: `init` would find them."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "OLLAMA_HOST": "127.0.0.1:9",
        "COLUMNS": "100",
        "PWD": str(folder),
    }


def matches(expected: str, output: str) -> bool:
    lines = [NUMBER.sub("#", re.sub(r"\s+", " ", line.strip())) for line in expected.strip().splitlines()]
    pattern = "\n".join(r"(?:.*\n?)*?" if line == "..." else re.escape(line) for line in lines)
    shown = "\n".join(
        NUMBER.sub("#", re.sub(r"\s+", " ", line.strip())) for line in output.strip().splitlines()
    )
    return re.fullmatch(pattern, shown) is not None


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all console blocks were run in their order; `transcript` holds what they printed."""
    folder = tmp_path_factory.mktemp("readme")
    for block in find_marked("console"):
        for command, output in commands(block):
            name, *arguments = shlex.split(command)
            assert name == "thalamus"
            done = subprocess.run(
                [*THALAMUS, *arguments], cwd=folder, env=environment(folder), capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert matches(output, done.stdout), f"{command} printed:\n{done.stdout}"
    return folder


@pytest.fixture(scope="module")
def address(workplace: Path) -> Iterator[str]:
    """The gateway of the README, on a free port."""
    with (workplace / "out").open("w") as out, (workplace / "err").open("w") as err:
        command = [*THALAMUS, "serve", "--port", "0"]
        process = subprocess.Popen(command, cwd=workplace, env=environment(workplace), stdout=out, stderr=err)
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"listens on (http://\S+)", (workplace / "out").read_text())):
                assert process.poll() is None, (workplace / "err").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield found[1]
        finally:
            process.terminate()
            process.wait(30)


def test_make_run_serves_on_the_port_that_it_is_given() -> None:
    def plan(*words: str) -> list[str]:
        # Under `make test` the outer make would speak through these.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        env.pop("PORT", None)
        command = ["make", "-n", "run", *words]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        return done.stdout.split("bin/thalamus serve")[-1].split()

    assert "make run PORT=18501" in PAGES["README.md"]
    assert plan("PORT=18501") == ["--port", "18501"]
    assert plan() == []


def test_every_block_is_marked() -> None:
    unmarked = [block["text"] for block in BLOCKS if block["kind"] != "text" and not block["mark"]]
    assert unmarked == []
    assert find_marked("console")
    assert find_marked("python")


def test_the_commands_print_what_the_readme_shows(workplace: Path) -> None:
    assert (workplace / ".thalamus" / "artifact").is_dir()


@pytest.mark.parametrize("code", find_marked("python"), ids=lambda code: code.split("\n")[0])
def test_the_code_prints_what_the_readme_shows(code: str, address: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.replace("http://127.0.0.1:8080", address), "README.md", "exec"), {})
    assert printed.getvalue() == find_output(code)


@pytest.mark.parametrize("text", find_marked("yaml"))
def test_the_configuration_is_accepted(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-0d9f1c7e5b2a48")
    (tmp_path / "thalamus.yaml").write_text(text)
    assert load_config(tmp_path / "thalamus.yaml").experts


@pytest.mark.source
@pytest.mark.parametrize(
    "page", [path.relative_to(ROOT) for path in sorted(ROOT.glob("docs/**/*.md"))], ids=str
)
def test_every_link_of_the_documents_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text())
    paths = [link for link in links if "://" not in link]
    assert [path for path in paths if not (ROOT / page.parent / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    tops = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    named = re.findall(r"`([\w./-]+/[\w./-]+|[\w-]+\.(?:md|py))`|\]\(([\w./-]+)(?:#[\w-]+)?\)", PAGES[page])
    paths = {a or b for a, b in named if (a or b).split("/")[0] in tops}
    missing = sorted(path for path in paths if not (ROOT / path).exists())
    assert missing == []
    assert paths


@pytest.mark.parametrize("page", PAGES)
def test_every_class_that_a_page_names_exists(page: str) -> None:
    sources = "\n".join(
        path.read_text()
        for top in ("gateway", "policies", "routers", "evals")
        for path in (ROOT / top).rglob("*.py")
    )
    named = {
        name
        for name in re.findall(r"`([A-Z][a-z]+[A-Za-z]*)`", PAGES[page])
        if name not in ("Host", "Origin")
    }
    assert sorted(name for name in named if not re.search(rf"class {name}\b", sources)) == []
