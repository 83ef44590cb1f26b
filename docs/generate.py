"""Makes the reference pages from the code when the site is built, so that they cannot differ from it."""

import ast
import html
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from gateway.cli import main
from gateway.config.reference import ConfigKey, list_keys
from gateway.endpoints.openapi import build_document

ROOT = Path(__file__).parents[1]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leaves the glossary out of the navigation where the checkout has none; MkDocs calls this hook."""
    if not (ROOT / "GLOSSARY.md").exists():
        config.nav = [entry for entry in config.nav or [] if entry != {"Glossary": "glossary.md"}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages; MkDocs calls this hook."""
    pages = {
        "reference/configuration.md": configuration_page(),
        "reference/commands.md": commands_page(),
        "reference/endpoints.md": endpoints_page(),
        "changelog.md": copy_page("CHANGELOG.md"),
    }
    if (ROOT / "GLOSSARY.md").exists():
        pages["glossary.md"] = copy_page("GLOSSARY.md")
    for path, text in pages.items():
        # The file of this name says where the page is to who reads the folder without the site.
        if (pointer := files.get_file_from_path(path)) is not None:
            files.remove(pointer)
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Writes the table of rooms into the architecture page; MkDocs calls this hook."""
    return re.sub(r"<!-- rooms:.*?-->", lambda _: rooms_table(), markdown)


def rooms_table() -> str:
    """The packages of `gateway` with the first sentence of their docstrings."""
    lines = ["| room | holds |", "|---|---|"]
    for path in sorted((ROOT / "gateway").glob("*/__init__.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = " ".join(docstring.split("\n\n")[0].split())
        lines.append(f"| `{path.parent.name}` | {first} |")
    return "\n".join(lines)


def copy_page(name: str) -> str:
    """A page of the repository; links to its files become plain text, because the site has none."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)[^)]*\)", r"\1", text)


def configuration_page() -> str:
    """Every key of `thalamus.yaml`, a heading for each section."""
    lines = [
        "# Configuration",
        "",
        "Every key of `thalamus.yaml`. `[]` stands for an item of a list, `<name>` for a name you choose.",
        "Write a secret as a reference to the environment: `os.environ/NAME` or `${NAME}`.",
        "",
        "`thalamus config check` checks a file. `thalamus config schema > thalamus.schema.json` writes",
        "the same descriptions for your editor; put this line at the top of the file:",
        "`# yaml-language-server: $schema=thalamus.schema.json`",
        "",
    ]
    keys = list_keys()
    sections = {key.path: key for key in keys if key.is_section}
    for parent, members in groupby(sorted(keys, key=lambda key: order_of(key, keys)), key=parent_of):
        if parent:
            section = find_section(parent, sections)
            lines += [f"## `{parent}`", "", section.description, ""]
        lines += [line for key in members for line in describe_key(key)]
    return "\n".join(lines)


def order_of(key: ConfigKey, keys: list[ConfigKey]) -> tuple[int, int]:
    """Keys of one section together, the sections in the order of their first key."""
    first = next(n for n, other in enumerate(keys) if parent_of(other) == parent_of(key))
    return first, keys.index(key)


def parent_of(key: ConfigKey) -> str:
    return key.path.rpartition(".")[0]


def find_section(parent: str, sections: dict[str, ConfigKey]) -> ConfigKey:
    return sections[re.sub(r"(\[\]|\.<name>)$", "", parent)]


def describe_key(key: ConfigKey) -> Iterator[str]:
    name = key.path.rpartition(".")[2]
    facts = [key.type]
    if key.default is None:
        facts.append("required")
    elif key.default and f"Default: {key.default}" not in key.description:
        facts.append(f"default `{key.default}`")
    anchor = re.sub(r"[^a-z0-9_.]", "", key.path.lower())
    kind = inline_code("; ".join(facts))
    yield f'<strong id="{anchor}"><code>{name}</code></strong> <span class="type">{kind}</span>'
    yield from ("", f": {key.description}", "")


def inline_code(text: str) -> str:
    """Backticks as HTML, because Markdown inside a raw HTML element is not read."""
    return re.sub(r"`([^`]*)`", lambda match: f"<code>{html.escape(match[1])}</code>", text)


def commands_page() -> str:
    """The help of every command and sub-command."""
    lines = ["# Commands", "", "Each command prints the same with `--help`.", ""]
    context = click.Context(main, info_name="thalamus")
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if command is None:
            raise LookupError(f"the command {name} is listed and cannot be found")
        lines += describe_command(command, context, name, level=2)
    return "\n".join(lines)


def describe_command(command: click.Command, parent: click.Context, name: str, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100)
    path = context.command_path
    yield from (f"{'#' * level} `{path}`", "", "```text", command.get_help(context).rstrip(), "```", "")
    if isinstance(command, click.Group):
        for inner_name in command.list_commands(context):
            inner = command.get_command(context, inner_name)
            if inner is not None:
                yield from describe_command(inner, context, inner_name, level + 1)


def endpoints_page() -> str:
    """Every endpoint with its body, from the document that `/openapi.json` serves."""
    spec = build_document()
    lines = [
        "# Endpoints",
        "",
        "The gateway serves the same facts at `/openapi.json`. Errors have OpenAI's form:",
        '`{"error": {"message": …, "type": …, "param": …, "code": …}}`, those of `/v1/messages` '
        "[Anthropic's](../how-to/anthropic.md).",
        "",
        "| endpoint | does |",
        "|---|---|",
    ]
    for path, operations in sorted(spec["paths"].items(), key=lambda item: next(iter(item[1])) != "post"):
        for method, operation in operations.items():
            breakable = path.replace("/", "/<wbr>")  # a narrow screen may break the path there
            summary = html.escape(operation["summary"])
            lines.append(f"| <code>{method.upper()} {breakable}</code> | {summary} |")
    schemas = spec["components"]["schemas"]
    lines += ["", "## The object `router` in a request", ""]
    lines += [
        " ".join(schemas["RouterField"].get("description", "").split()),
        "",
        "| field | type | means |",
        "|---|---|---|",
    ]
    for field, schema in schemas["RouterField"]["properties"].items():
        lines.append(f"| `{field}` | {type_of(schema)} | {schema.get('description', '')} |")
    return "\n".join([*lines, ""])


def type_of(schema: dict[str, Any]) -> str:
    """A type of a JSON schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(t for part in schema["anyOf"] if (t := type_of(part)) != "null"))
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if schema.get("type") == "array":
        return f"list of {type_of(schema['items'])}"
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if key in schema
    ]
    return " ".join([str(schema.get("type", "any value")), *bounds])
