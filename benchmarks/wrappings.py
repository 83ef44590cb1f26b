"""Whether wrapped prompts are routed as bare ones: `python -m benchmarks.wrappings DATA`.

An artifact is fitted on buckets 0-79 of DATA, or taken from `--artifact` where it is there. Prompts of
buckets 80-99 are wrapped as editors, agents and templates wrap them, parsed as the gateway parses a request,
and decided by its router. Printed per wrapping: the score of the chosen experts, the difference to the bare
prompts, and the share of prompts that went to the same expert. The exit status is 1 where a wrapping costs
more than half a point or changes more than 5 % of the choices.

The grammar is held to `KNOWN`. `OTHERS` are wrappings that it does not read: words of a program that look
like words of a user.
"""

import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.parity import build_extractor, fit_training_buckets, parse_arguments
from evals.console import progress_bar
from evals.datasets import read_outcomes
from gateway.config import Config
from gateway.experts.profiles import profiles
from gateway.prompts.wrappings import build_grammar
from gateway.requests.parsing import CHAT, RequestParser, ToPolicy
from gateway.routing.router import build_router
from policies import Decision, Fleet
from routers import OutcomeTable

MAX_LOSS, MIN_SAME = 0.005, 0.95

KNOWN: dict[str, str] = {
    "reminder before": "<system-reminder>\nThe todo list is empty. Do not mention this.\n"
    "</system-reminder>\n{}",
    "reminder after": "{}\n<system-reminder>\nPlan mode is on: edit nothing.\n</system-reminder>",
    "reminder, upper case, attributes": '<SYSTEM_REMINDER level="2">\nBranch main.\n</SYSTEM_REMINDER>\n{}',
    "reminder, nested": "<system-reminder>\na <system-reminder>b</system-reminder> c\n</system-reminder>\n{}",
    "reminder, never closed": "<system-reminder>\nBranch main, three files changed.\n\n{}",
    "editor: query": "<open_files>\nsrc/a.py\n</open_files>\n<user_query>\n{}\n</user_query>",
    "agent: task": "<task>\n{}\n</task>\n\n<environment_details>\n# Open tabs\nsrc/a.ts\n"
    "</environment_details>",
    "agent: feedback": "<feedback>\n{}\n</feedback>\n<environment_details>\n# Time\n12:00\n"
    "</environment_details>",
    "editor: request": "<context>\nIt is Monday.\n</context>\n<editorContext>\na.py 1-9\n</editorContext>\n"
    "<reminderInstructions>\nUse the tools.\n</reminderInstructions>\n<userRequest>\n{}\n</userRequest>",
    "agent instructions": "# AGENTS.md instructions for /srv/app\n\n<INSTRUCTIONS>\n"
    "Run the linter before a commit.\n</INSTRUCTIONS>\n\n{}",
    "environment": "<environment_context>\n  <cwd>/srv/app</cwd>\n  <shell>bash</shell>\n"
    "</environment_context>\n{}",
    "permissions": "<permissions instructions>\nRead only; no network.\n</permissions instructions>\n{}",
    "interrupted": "[Request interrupted by user]\n{}",
    "hook": "SessionStart hook: 12 plugins loaded, all green.\n{}",
    "summary": "This session is being continued from a previous conversation that ran out of context. It is "
    "summarized below:\nAnalysis: the tests pass.\n\nSummary:\n1. The parser was rewritten.\n\n{}",
    "editor: sections": "# Context from my IDE setup:\n\n## Active file: a.py\n\n"
    "## Open tabs:\n- a.py: src/a.py\n\n"
    "## My request for Codex:\n{}",
    "retrieval: labels": "U"
    "se the following pieces of context to answer the question at the end.\n\nIron is a metal. "
    "It rusts in wet air.\n\nQuestion: {}\nHelpful Answer:",
    "retrieval: rules": "Context information is below.\n---------------------\nIron is a metal.\n"
    "---------------------\nGiven the context information, answer the query.\nQuery: {}\nAnswer: ",
    "retrieval: elements": "<documents>\n<document>Iron is a metal.</document>\n</documents>\n\n"
    "<question>\n{}\n</question>",
    "files added": "I have *added these files to the chat* so you can edit them.\n\na.py\n"
    "```\nx = 1\n```\n\n{}",
    "metadata and request": "<additional_metadata>\nActive document: /srv/a.py\nCursor is on line 4\n"
    "</additional_metadata>\n<USER_REQUEST>\n{}\n</USER_REQUEST>",
    "runtime information": "<RUNTIME_INFORMATION>\nWorking directory /srv, port 8011 is free.\n"
    "</RUNTIME_INFORMATION>\n<REPOSITORY_INFO>\nmain\n</REPOSITORY_INFO>\n{}",
    "chat message": "[Message from Alice in #general at 10:32]\n{}",
    "attached documents": 'Attached document(s):\n```md\n# "notes.txt"\nIron is a metal.\n```\n\n{}',
    "task, guidelines, context": "### Task:\nRespond to the user query using the provided context.\n\n"
    '### Guidelines:\n- Cite sources.\n\n<context>\n<source id="1">Iron.</source>\n</context>\n\n'
    "<user_query>\n{}\n</user_query>",
    "information and question": "Given the following information, answer the question.\n\nContext:\n"
    "  Iron is a metal.\n\nQuestion: {}\nAnswer:",
    "roles as labels": "System: You are a helpful assistant.\nUser: {}\nAssistant:",
    "thread and latest message": "<available_tools>[grep, ls]</available_tools>\n<thread>\nA: hi\n</thread>\n"
    "<latest_message>\n{}\n</latest_message>",
    "explicit instructions": '<explicit_instructions type="new_task">\nAsk first.\n</explicit_instructions>\n'
    "<task>\n{}\n</task>",
    "note in brackets": "(System reminder: three tasks are left in the list.)\n\n{}",
    "front matter": "---\nsession: 12\nmode: ask\nbranch: main\n---\n\n{}",
    "facts above": "Current workspace: /srv/app\nOpen files: a.py, b.py\nCursor: line 3\n\n{}",
    "facts below": "{}\n\n# Environment\n- Platform: linux\n- Working directory: /srv/app\n- Date: Monday",
    "signature": "{}\n\n--\nSent from the side panel of the editor",
    "double brackets": "[[workspace]]\nbranch: main\n[[/workspace]]\n{}",
    "double braces": "{{context}}\nIron is a metal.\n{{/context}}\n{}",
    "bars": "<|context|>\nIron is a metal.\n<|/context|>\n{}",
    "instruction and response": "Below is an instruction. Write a response that completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:",
    "chat template, brackets": "<s>[INST] {} [/INST]",
    "chat template, bars": "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "tool results and request": "Tool results:\n- grep: 3 matches\n- ls: 12 files\n\nUser request: {}",
    "history and latest message": "<conversation_history>\nA: hi\n</conversation_history>\n\n"
    "Latest user message: {}",
    "code block of context": "```context\nbranch: main\n```\n\n{}",
    "note below": "{}\n\n(Sent by the CI bot; do not reply.)",
    "name with a colon": "{}\n\n<budget:token_budget>199000</budget:token_budget>",
    "message with a head": "Date: 2026-05-04\nUser: alice@example.org\nChannel: #help\nMessage: {}",
    "attributes of JSON": "<invoke_context name='editor' data='[1]'>\n[\"a.py\"]\n</invoke_context>\n{}",
    "lines of files": "--- Start of files ---\na.py\nx = 1\n--- End of files ---\n\n{}",
    "hook in words": "Hook `pre-prompt` said: all green\n\n{}",
    "hook element": "<session_start_hook>\nok\n</session_start_hook>\n{}",
    "instructions file": '<CLAUDE_MD path="/srv">\nUse tabs.\n</CLAUDE_MD>\n\n{}',
    "rules and request": "# Project rules\n- use tabs\n- no prints\n\n# Request\n{}",
    "summary list": "Session summary:\n- rewrote the parser\n- tests pass\n\n{}",
    "hook line": "PreToolUse hook (lint) output: ok\n\n{}",
    "prompt with an id": '<user_prompt id="7">{}</user_prompt>',
    "conversation of one message": '<conversation><message role="user">{}</message></conversation>',
    "search results": "Answer using the search results below.\n\n[1] Iron is a metal.\n"
    "[2] It rusts.\n\nQuestion: {}",
    "editor and prompt": "<ide_context>\n<active_file>a.py</active_file>\n</ide_context>\n"
    "<prompt>\n{}\n</prompt>",
    "short reminder": "<reminder>\nTodo list empty\n</reminder>\n{}",
    "hook output below": '{}\n\n<hook_output name="stop">\nfine\n</hook_output>',
    "files and task": "Here are the files:\n\n```python\n# src/a.py\nx = 1\n```\n\nTask: {}",
    "role, goal, constraints": "<role>assistant</role>\n<goal>\n{}\n</goal>\n<constraints>\nno code\n"
    "</constraints>",
    "angles": "<<<CONTEXT>>>\nIron.\n<<<END CONTEXT>>>\n{}",
    "roles in brackets": "[system]\nBe nice.\n[/system]\n[user]\n{}\n[/user]",
}
"""How a prompt is wrapped; it stands where the braces are."""

OTHERS: dict[str, str] = {
    "slash command": "@workspace /explain {}",
    "line of a parent": "Sub-agent task (depth 1 of 3), parent session 81f2:\n\n{}",
    "quoted log": "> Reading AGENTS.md\n> Loaded 3 skills\n\n{}",
    "former session": "Your previous session ended. What was done:\n1. a\n2. b\n\nNow: {}",
}
"""Further ones."""


def config_of(table: OutcomeTable, artifact: Path) -> Config:
    """A configuration with the table's experts; none is called."""
    experts = [
        {"name": name, "model": f"openai/{model}", "api_base": "http://127.0.0.1:9/v1"}
        for name, model in zip(table.experts, table.models, strict=True)
    ]
    settings = {"experts": experts, "routing": {"artifact": str(artifact)}, "policies": {"auto": {}}}
    return msgspec.convert(settings, Config)


class WrappingBenchmark:
    """Decides prompts as the gateway does, from the body of a request on."""

    def __init__(self, table: OutcomeTable, artifact: Path) -> None:
        config = config_of(table, artifact)
        self.table = table
        self._parser = RequestParser(config, config.policies_by_name(), {}, None, build_grammar(config))
        self._router = build_router(config, profiles(config))
        self._column = {name: n for n, name in enumerate(table.experts)}

    def choose(self, wrap: Callable[[str], str]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(n_queries,) the expert of each prompt, by its column."""
        requests = [self._parse(wrap(text)) for text in self.table.texts]
        decisions = asyncio.run(self._router.decide_many(requests, Fleet.idle(len(self.table.experts))))
        chosen = [one.chosen for one in decisions if isinstance(one, Decision)]
        return np.array([self._column[name] for name in chosen], np.int64)

    def _parse(self, text: str) -> ToPolicy:
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
        parsed = self._parser.parse(CHAT, fields, {})
        if not isinstance(parsed, ToPolicy):
            raise TypeError(f"auto went to {parsed}")
        return parsed

    def score(self, chosen: np.ndarray[Any, np.dtype[np.int64]]) -> float:
        """The mean score of the chosen experts."""
        return float(self.table.score[np.arange(len(chosen)), chosen].mean())


def compare(benchmark: WrappingBenchmark) -> bool:
    """Print the comparison of all wrappings with the bare prompts; whether all of `KNOWN` keep the limits."""
    bare = benchmark.choose(str)
    base = benchmark.score(bare)
    best = benchmark.table.score.mean(axis=0).max()
    print(f"{len(bare)} prompts, bare {base:.4f}, best single {best:.4f}")
    good = True
    for title, wrappings in (("known", KNOWN), ("others", OTHERS)):
        print(f"\n{title:36}{'score':>8}{'difference':>12}{'same choice':>13}")
        for name, template in wrappings.items():
            before, after = template.split("{}")
            chosen = benchmark.choose(lambda text, before=before, after=after: f"{before}{text}{after}")  # type: ignore[misc]
            loss, same = base - benchmark.score(chosen), float((chosen == bare).mean())
            passes = loss <= MAX_LOSS and same >= MIN_SAME
            good &= passes or title != "known"
            mark = "" if passes else "  beyond the limits"
            print(f"{name:36}{base - loss:8.4f}{0.0 - loss:+12.4f}{same:12.1%}{mark}")
    return good


def main() -> None:
    arguments = parse_arguments(__doc__, 400)
    if arguments.data is None:
        print("give DATA; nothing was compared")
        return
    table = read_outcomes(arguments.data)
    with tempfile.TemporaryDirectory() as scratch, progress_bar() as on_progress:
        path = arguments.artifact or Path(scratch, "artifact")
        fit_training_buckets(table, build_extractor(arguments.vectors), path, on_progress)
        held_out = np.flatnonzero(table.bucket >= 80)
        drawn = np.sort(np.random.default_rng(0).permutation(held_out)[: arguments.n])
        good = compare(WrappingBenchmark(table.take(drawn), path))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
