"""What a person said in a conversation, without what the software around them put there.

Agent harnesses paste reminders, command outputs and tool results into user turns; routed as they stand they
would be taken for the request. What is stripped is listed here, by tag and by opening words.
"""

import re
from collections.abc import Sequence

NOISE_TAGS = (
    "system-reminder",
    "system_reminder",
    "environment_details",
    "environment_context",
    "user_instructions",
    "user_info",
    "project_layout",
    "git_status",
    "open_and_recently_viewed_files",
    "attached_files",
    "current_file",
    "additional_data",
    "rules",
    "tool_result",
    "tool_response",
    "tool_output",
    "function_results",
    "function_result",
    "command-name",
    "command-message",
    "command-args",
    "command-output",
    "local-command-stdout",
    "local-command-stderr",
    "local-command-caveat",
    "bash-input",
    "bash-stdout",
    "bash-stderr",
    "ide_opened_file",
    "ide_selection",
    "new-diagnostics",
)
_OPENING = re.compile(rf"<({'|'.join(map(re.escape, NOISE_TAGS))})(?:\s[^<>]{{0,200}})?>")
_TOOL_OUTPUT = re.compile(
    r"\[[\w-]{1,60}(?: for '[^\n]{0,300}')?\] Result:|EXECUTION RESULT of \[|OBSERVATION:\n"
)

CONTEXT_CHARS = 480
"""At most so much of the earlier turns stands beside the last one."""
SHORT_TURN_CHARS = 80
"""A last turn below this ("commit it") says little by itself and gets the whole context."""
GAP = "\n\n"


def strip_noise(text: str) -> str:
    """The turn without pasted noise; a turn without noise comes back as it is, a tool's output as nothing."""
    if _TOOL_OUTPUT.match(text):
        return ""
    return _without_tags(text) if "<" in text else text


def build_routing_text(turns: Sequence[str]) -> str:
    """The text to route by, from the user's turns, oldest first.

    The last turn leads and weighs most; what was asked before follows, newest first: for a short last turn up
    to `CONTEXT_CHARS`, for a longer one at most half its length. A lone turn is its own text.
    """
    if not turns:
        return ""
    last = turns[-1]
    room = CONTEXT_CHARS if len(last) < SHORT_TURN_CHARS else min(CONTEXT_CHARS, len(last) // 2)
    parts = [last]
    for turn in reversed(turns[:-1]):
        if room <= 0:
            break
        if turn not in parts:
            parts.append(turn[:room])
            room -= len(turn)
    return GAP.join(parts)


def _without_tags(text: str) -> str:
    """Drop each element of `NOISE_TAGS`; one that is never closed stays. Linear in the text's length."""
    kept: list[str] = []
    end = 0
    unclosed: set[str] = set()
    for opening in _OPENING.finditer(text):
        tag = opening[1]
        if opening.start() < end or tag in unclosed:
            continue
        closing = text.find(f"</{tag}>", opening.end())
        if closing < 0:
            unclosed.add(tag)
            continue
        kept.append(text[end : opening.start()])
        end = closing + len(tag) + 3
    return "".join((*kept, text[end:])).strip() if end else text
