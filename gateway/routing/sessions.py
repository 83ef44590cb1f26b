"""Sessions: which conversation a request goes on with, and what prompt caches hold of it.

A conversation is known by hashes of its turns, so that every client has sessions, and two agents that work
under one id have two. What is kept says who answered, when, and how many tokens were counted: no text.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from policies import RoutingHints, Session

from ..config import Config, ExpertConfig
from ..config.expert_schema import PromptCacheConfig
from ..config.schema import SessionsConfig
from ..openai.answers import Usage
from ..requests.parsing import ToPolicy
from ..requests.query import Conversation

AUTOMATIC = PromptCacheConfig(lifetime_s=300.0, least_tokens=1024, step_tokens=128)
PROMPT_CACHES: Mapping[str, PromptCacheConfig] = {
    # https://platform.openai.com/docs/guides/prompt-caching
    "openai": AUTOMATIC,
    "azure": AUTOMATIC,
    # https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching
    "anthropic": PromptCacheConfig(lifetime_s=300.0, least_tokens=1024),
    # https://api-docs.deepseek.com/guides/kv_cache: kept for hours, in units of 64 tokens
    "deepseek": PromptCacheConfig(lifetime_s=3600.0, least_tokens=64, step_tokens=64),
    # https://ai.google.dev/gemini-api/docs/caching
    "gemini": PromptCacheConfig(lifetime_s=180.0, least_tokens=2048),
}
"""What providers publish, without the margins that they do not promise."""
MARKING = frozenset({"anthropic"})
"""Providers that keep what a request marks, and count what they kept."""
MIN_READ = 0.5
"""A read of fewer of the expected tokens is a miss."""
MAX_MISSES = 2
"""So many misses in a row, and an expert's cache is not counted on until it is seen to be read again."""
MAX_WAITING = 4096

Key = tuple[str | None, bytes | str]
"""Whose conversation it is (the name of a key), and a digest of its turns or the client's own id."""


class SessionTurn(msgspec.Struct, frozen=True):
    """A conversation after one of its answers.

    n_tokens: of all turns with the answer, as its expert counted; 0 where it did not
    caches: by expert, how many tokens its prompt cache holds, and since when in seconds
    """

    id: str
    n_answers: int
    previous: str
    answered_at: float
    n_tokens: int
    caches: Mapping[str, tuple[int, float]]


class SessionAnswer(NamedTuple):
    """An answer that a conversation has had, to be remembered when it goes on."""

    owner: str | None
    conversation: Conversation
    client_id: str | None
    session: Session | None
    expert: str
    usage: Usage | None
    at_s: float


class SessionTable:
    """The conversations of all clients, bounded in number and age.

    answers: what has been answered since a conversation was looked up last; at most `MAX_WAITING`
    n_expected, n_read: by expert, how many calls were expected to read its prompt cache, and did
    """

    def __init__(
        self,
        rules: Mapping[str, PromptCacheConfig | None],
        marking: frozenset[str] = frozenset(),
        limits: SessionsConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        rules: by expert, what its prompt cache keeps; None where only counts of cached tokens tell.
        marking: the experts that keep what a request marks.
        """
        self._rules = rules
        self._marking = marking
        self._limits = limits or SessionsConfig()
        self.clock = clock
        self.turns: OrderedDict[Key, SessionTurn] = OrderedDict()
        # Most requests are the first and last of their conversation: their answers only join this line.
        self.answers: deque[SessionAnswer] = deque(maxlen=MAX_WAITING)
        self._misses: dict[str, int] = {}
        self.n_expected: dict[str, int] = {}
        self.n_read: dict[str, int] = {}

    def attach(self, parsed: ToPolicy, owner: str | None) -> ToPolicy:
        """The request with the session that it goes on with, if one is known."""
        conversation = parsed.conversation
        if conversation is None:
            return parsed
        session = self.find(owner, conversation, parsed.options.session_id)
        if session is None:
            return parsed
        hints = parsed.hints or RoutingHints()
        # What was counted is more than what is estimated, as a rule: a session moves before a window ends.
        n_tokens = max(parsed.query.n_input_tokens, session.n_tokens)
        return replace(
            parsed,
            query=replace(parsed.query, n_input_tokens=n_tokens),
            hints=RoutingHints(hints.require, hints.objective, session),
        )

    def find(self, owner: str | None, conversation: Conversation, client_id: str | None) -> Session | None:
        """The session that a conversation of a client goes on with; None for a first turn, or an unknown one.

        client_id: the client's own id of it, if it has one
        """
        if not conversation.before:
            return None
        self.remember_answers()
        turn = self._find_turn(owner, conversation)
        # A client that rewrites its history still names its conversation: who answered is known, no cache.
        known = turn or (self._get((owner, client_id)) if client_id is not None else None)
        if known is None:
            return None
        return Session(
            known.id,
            known.n_answers,
            known.previous,
            turn.n_tokens if turn is not None else 0,
            self._count_cached(turn) if turn is not None else {},
            conversation.is_tool_loop,
            conversation.is_stalled,
        )

    def go_on_from(self, former: "SessionTable") -> None:
        """Take over what another table knows; it goes on to write there until its requests have ended."""
        self.turns, self.answers = former.turns, former.answers

    def _get(self, key: Key) -> SessionTurn | None:
        turn = self.turns.get(key)
        is_fresh = turn is not None and self.clock() - turn.answered_at < self._limits.ttl_s
        return turn if is_fresh else None

    def _find_turn(self, owner: str | None, conversation: Conversation) -> SessionTurn | None:
        """The last answer that is known of a conversation."""
        for digest in reversed(conversation.before):
            if (turn := self._get((owner, digest))) is not None:
                return turn
        return None

    def _count_cached(self, turn: SessionTurn) -> dict[str, int]:
        """By expert, how many tokens its prompt cache is expected to hold now, where it holds any."""
        now = self.clock()
        counts: dict[str, int] = {}
        for expert, (n_tokens, at_s) in turn.caches.items():
            rule = self._rules.get(expert) or AUTOMATIC
            if n_tokens >= rule.least_tokens and now - at_s < rule.lifetime_s and self._is_trusted(expert):
                counts[expert] = n_tokens - n_tokens % rule.step_tokens
        return counts

    def _is_trusted(self, expert: str) -> bool:
        if self._rules.get(expert) is None and expert not in self.n_read:
            return False
        return self._misses.get(expert, 0) < MAX_MISSES

    def remember_answers(self) -> None:
        """Take in what has been answered since."""
        while self.answers:
            self._remember(self.answers.popleft())

    def _remember(self, answer: SessionAnswer) -> None:
        owner, conversation, expert = answer.owner, answer.conversation, answer.expert
        self._judge(answer)
        before = self._find_turn(owner, conversation)
        caches = dict(before.caches) if before is not None else {}
        caches.pop(expert, None)
        usage = answer.usage
        if usage is not None and usage.prompt_tokens:
            # One that keeps what is marked says how much that is; others keep all that they read.
            kept = usage.cached_tokens + usage.written_tokens
            caches[expert] = (kept if expert in self._marking else usage.prompt_tokens, answer.at_s)
        turn = SessionTurn(
            before.id if before is not None else answer.client_id or conversation.whole.hex(),
            before.n_answers + 1 if before is not None else len(conversation.before) + 1,
            expert,
            answer.at_s,
            (usage.prompt_tokens or 0) + (usage.output_tokens or 0) if usage is not None else 0,
            caches,
        )
        self._put((owner, conversation.whole), turn)
        if answer.client_id is not None:
            self._put((owner, answer.client_id), turn)

    def _put(self, key: Key, turn: SessionTurn) -> None:
        self.turns[key] = turn
        self.turns.move_to_end(key)
        while len(self.turns) > self._limits.max_turns:
            self.turns.popitem(last=False)

    def _judge(self, answer: SessionAnswer) -> None:
        """Compare what was read from a prompt cache with what was expected."""
        expert, usage = answer.expert, answer.usage
        if usage is None or usage.prompt_tokens is None:
            return
        expected = answer.session.cached_tokens.get(expert, 0) if answer.session is not None else 0
        is_read = usage.cached_tokens > 0 and usage.cached_tokens >= MIN_READ * expected
        if expected:
            self.n_expected[expert] = self.n_expected.get(expert, 0) + 1
        if is_read:
            self.n_read[expert] = self.n_read.get(expert, 0) + bool(expected)
            self._misses[expert] = 0
        elif expected:
            self._misses[expert] = self._misses.get(expert, 0) + 1


def find_rule(expert: ExpertConfig) -> PromptCacheConfig | None:
    """What the prompt cache of an expert keeps; None where it is not known."""
    published = None if expert.is_local else PROMPT_CACHES.get(expert.provider)
    return expert.prompt_cache or published


def build_sessions(config: Config) -> SessionTable:
    """The table of a configuration."""
    rules = {expert.name: find_rule(expert) for expert in config.experts}
    marking = frozenset(expert.name for expert in config.experts if expert.provider in MARKING)
    return SessionTable(rules, marking, config.routing.sessions)
