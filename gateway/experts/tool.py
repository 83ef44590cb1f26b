"""Experts that call no language model: the last question goes in, the tool's answer comes out."""

from collections.abc import Callable
from importlib.metadata import entry_points

from ..config.validation import TOOL_GROUP
from ..errors import UpstreamError
from ..openai.answers import Usage, build_answer
from ..openai.messages import BAD_JSON, decode_raw_content, decode_raw_messages, text_of
from .types import Call, Reply

Solve = Callable[[str], str | None]


class ToolExpert:
    """`solve` answers a question, or gives None where it has no answer; then the next expert is called."""

    def __init__(self, name: str, solve: Solve) -> None:
        self.name = name
        self._solve = solve

    async def call(self, call: Call) -> Reply:
        answer = self._solve(question_of(call))
        if answer is None:
            raise UpstreamError("declined", "is a tool that cannot answer this query")
        is_chat = call.endpoint == "chat/completions"
        return Reply(body=build_answer(self.name, answer, is_chat), usage=Usage(0, 0, 0))

    def declines(self, call: Call) -> bool:
        """Whether the tool has no answer to this; finding out costs a fraction of a millisecond."""
        try:
            return self._solve(question_of(call)) is None
        except UpstreamError:
            return True

    def share(self, n_replicas: int) -> None:
        """A tool has no upstream whose limits could be shared."""

    async def close(self) -> None:
        """A tool holds nothing."""


def question_of(call: Call) -> str:
    """The text of the last user turn, or the prompt; empty where there is none.

    Raises:
        UpstreamError: a tool cannot answer at this endpoint, or in this conversation.
    """
    try:
        if call.endpoint == "completions":
            prompt = decode_raw_content(call.fields["prompt"])
            if isinstance(prompt, str):
                return prompt
        elif call.endpoint == "chat/completions":
            turns = [m for m in decode_raw_messages(call.fields["messages"]) if m.role == "user"]
            return text_of(turns[-1].content) if turns else ""
    except BAD_JSON as error:
        raise UpstreamError("declined", "is a tool and reads text only") from error
    raise UpstreamError("declined", "is a tool and reads one text")


def load_tool(tool: str) -> Solve:
    """Load the installed tool of that name.

    Raises:
        ValueError: no installed distribution offers it in the entry-point group `thalamus.tools`.
    """
    for point in entry_points(group=TOOL_GROUP, name=tool):
        solve: Solve = point.load()
        return solve
    raise ValueError(f"tool {tool!r} is not installed; install a package that offers it in {TOOL_GROUP!r}")
