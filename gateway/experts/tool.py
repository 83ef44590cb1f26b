"""Experts that call no language model: the last question goes in, the tool's answer comes out."""

from importlib.metadata import entry_points

from policies.types import TOOL_DECLINED
from routers import estimate_tokens

from ..config.validation import TOOL_GROUP
from ..errors import UpstreamError
from ..openai.answers import Usage, build_answer
from ..openai.messages import BAD_JSON, decode_raw_content, decode_raw_messages, text_parts
from ..prompts.demands import Solve, find_demand
from ..prompts.lists import CleanText
from ..prompts.wrappings import WrappingGrammar
from .types import Call, Reply


class ToolExpert:
    """`solve` answers a question, or gives None where it has no answer; then the next expert is called."""

    def __init__(self, name: str, solve: Solve, grammar: WrappingGrammar | None = None) -> None:
        self.name = name
        self._solve = solve
        self._grammar = grammar or WrappingGrammar()

    async def call(self, call: Call) -> Reply:
        answer = self._solve(read_question(call, self._grammar).text)
        if answer is None:
            raise UpstreamError("declined", TOOL_DECLINED)
        is_chat = call.endpoint == "chat/completions"
        return Reply(body=build_answer(self.name, answer, is_chat), usage=Usage(0, 0, 0))

    def decline(self, call: Call, question: CleanText) -> str | None:
        """Why the tool does not answer this request, None where it does; a fraction of a millisecond.

        It answers where the last turn is a question that it can answer, and nothing else in the request asks
        for more than the bare result.
        """
        if call.endpoint not in ("chat/completions", "completions"):
            return TOOL_DECLINED
        answer = self._solve(question.text)
        if answer is None:
            return TOOL_DECLINED
        more = find_demand(
            call.endpoint,
            call.fields,
            question,
            answer,
            estimate_tokens(answer),
            self._solve,
            self._grammar,
        )
        return f"is a tool that gives a bare result: {more}" if more else None

    def share(self, n_replicas: int) -> None:
        """A tool has no upstream whose limits could be shared."""

    async def close(self) -> None:
        """A tool holds nothing."""


def read_question(call: Call, grammar: WrappingGrammar) -> CleanText:
    """The last user turn without wrappings, or the prompt; empty where there is none.

    Raises:
        UpstreamError: a tool cannot answer at this endpoint, or in this conversation.
    """
    try:
        if call.endpoint == "completions":
            prompt = decode_raw_content(call.fields["prompt"])
            if isinstance(prompt, str):
                return grammar.clean(prompt)
        elif call.endpoint == "chat/completions":
            turns = [m for m in decode_raw_messages(call.fields["messages"]) if m.role == "user"]
            return grammar.join(text_parts(turns[-1].content)[0] or [""]) if turns else CleanText("")
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
