"""Who may talk to the gateway: the key, which tells the client's name, and for web pages Host and Origin.

Without a key only this machine may ask, and no web page through a browser on it: a name that was rebound to
127.0.0.1 fails on its Host, a page of another site on its Origin.
"""

import asyncio
import hashlib
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from ..config import ServerConfig
from ..config.client_keys import digest_of, hash_key, is_same
from ..errors import Forbidden, Overloaded, Unauthenticated
from ..telemetry.logs import AUDIT

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
MAX_REMEMBERED = 64
"""Headers remembered as good, for each key: spellings (bearer, Bearer …) are the client's."""
_LOOPBACK_ADDRESS = re.compile(r"127(\.\d{1,3}){3}")
MAX_KEYS = 4
"""Values looked at in a request: hashing any number would let a client keep the gateway busy."""
KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key")
"""Where clients put the key: OpenAI's, Anthropic's and Azure's."""
MAX_ADDRESSES = 4096
MAX_HELD = 8
MAX_HELD_IN_ALL = 1024
N_FREE = 3
"""Wrong keys of an address whose answers are not held back: a mistyped key is no attack."""
N_LOGGED = 10
FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 4.0
FORGOTTEN_S = 600.0
_WATCHED = frozenset({*KEY_HEADERS, b"host", b"origin"})


class FailedLogins:
    """Wrong keys by the address they came from: logged by fingerprint, and slowed more with each.

    An address is forgotten once it has shown none for a while, or when too many others have. At most
    `MAX_HELD` answers of an address are held back at a time: while they are, keys that were never accepted
    are not looked at, so that guesses at the same time are no faster. Keys known as good are never slowed.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._held: Counter[str] = Counter()

    def check(self, address: str) -> None:
        """Check that another key of this address may be tried now.

        Raises:
            Overloaded: as many answers as may be are held back.
        """
        if self._held and self._held[address] >= MAX_HELD:
            raise Overloaded("too many wrong API keys from this address", retry_after_s=LONGEST_DELAY_S)

    def note(self, address: str, fingerprint: str) -> float:
        """A wrong key was shown; gives the seconds to hold its answer back."""
        now = self._clock()
        n, last = self._failures.pop(address, (0, now))
        n = n + 1 if now - last < FORGOTTEN_S else 1
        if len(self._failures) >= MAX_ADDRESSES:
            self._failures.popitem(last=False)
        self._failures[address] = n, now
        # Each of the first, then at powers of two: a flood of guesses must not become one of lines.
        if n <= N_LOGGED or n & (n - 1) == 0:
            AUDIT.warning("login failed: %s, key %s…, %d in a row", address, fingerprint, n)
        return (
            0.0
            if n <= N_FREE
            else float(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(n - N_FREE - 1, 10)))
        )

    async def hold(self, address: str, delay_s: float) -> None:
        """Wait, so that its client waits; the event loop serves others."""
        if delay_s <= 0 or self._held.total() >= MAX_HELD_IN_ALL:
            return
        self._held[address] += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._held[address] -= 1
            if not self._held[address]:
                del self._held[address]


class Authenticator:
    """Admits a request or says why not. Wrong keys are logged by a hash with `salt`, so that the same one is
    known again as long as that is kept.
    """

    def __init__(self, config: ServerConfig, salt: bytes | None = None) -> None:
        self._salt = salt or os.urandom(16)
        keys = config.keys_by_name()
        self._digests = tuple((name, digest_of(key.reveal())) for name in keys for key in keys[name])
        self._max_known = MAX_REMEMBERED * max(1, len(self._digests))
        self._hosts = frozenset(host.lower() for host in config.allowed_hosts) | LOOPBACK_HOSTS
        self._own_host = config.host.lower()
        self._origins = frozenset(origin.rstrip("/").lower() for origin in config.cors_origins)
        self._known: dict[tuple[tuple[bytes, ...], bytes, bytes], str | None] = {}
        self.failed_logins = FailedLogins()

    def authenticate(
        self, headers: Iterable[tuple[bytes, bytes]], client: Sequence[Any] | None = None
    ) -> str | None:
        """The name of the key that was shown, or None where none is needed.

        Raises:
            Unauthenticated: no key, or a wrong one.
            Overloaded: too many wrong ones came from this address.
            Forbidden: no key is configured and the Host or the Origin is not of this machine.
        """
        host = origin = b""
        keys: tuple[bytes, ...] = ()
        for name, value in headers:
            if name in _WATCHED:
                if name == b"host":
                    host = value
                elif name == b"origin":
                    origin = value
                else:
                    keys += (value,)
        # Hashing per request would cost more than the rest of the check; only triples that passed are
        # remembered.
        seen = (keys, host, origin)
        if (known := self._known.get(seen, "")) != "":
            return known
        if keys and self._digests:
            self.failed_logins.check(name_address(client))
        try:
            client_name = self._check(keys, host, origin)
        except Unauthenticated as error:
            if keys:
                wrong = hashlib.blake2b(_without_scheme(keys[0]), key=self._salt).hexdigest()[:12]
                error.delay_s = self.failed_logins.note(name_address(client), wrong)
            raise
        # A client can vary Host and Origin at will: the set is bounded, and starts again.
        if len(self._known) >= self._max_known:
            self._known.clear()
        self._known[seen] = client_name
        return client_name

    def _check(self, keys: tuple[bytes, ...], host: bytes, origin: bytes) -> str | None:
        name = None
        if self._digests:
            name = self._find_name(keys)
        else:
            self._check_host(host.decode("latin-1"))
        if origin:
            self._check_origin(origin.decode("latin-1"), host.decode("latin-1"))
        return name

    def _find_name(self, shown: tuple[bytes, ...]) -> str:
        """The name of the right one of the keys: some libraries send a placeholder beside the real one."""
        how = "send it as 'Authorization: Bearer …', 'x-api-key' or 'api-key'"
        keys = [key for value in shown[:MAX_KEYS] if (key := _without_scheme(value))]
        if not keys:
            raise Unauthenticated(f"no API key: {how}")
        # Constant time over digests, and all of them: neither a common prefix, nor the key's length or place
        # can be measured.
        digests = [hash_key(key) for key in keys]
        found = [name for name, known in self._digests for digest in digests if is_same(digest, known)]
        if not found:
            scheme = shown[0].partition(b" ")[0].lower()
            is_basic = scheme == b"basic"
            hint = f": the scheme Basic is not read; {how}" if is_basic else ""
            raise Unauthenticated(f"this API key is not accepted here{hint}")
        return found[0]

    def _check_host(self, host: str) -> None:
        # DNS rebinding: a web page may resolve its own name to 127.0.0.1, but cannot change the Host it
        # sends.
        name = _without_port(host)
        if not self._is_ours(name):
            raise Forbidden(
                "this gateway has no key and answers only to this machine's own names; "
                f"the request's Host is {name[:80]!r} (server.allowed_hosts in the configuration adds names)"
            )

    def _check_origin(self, origin: str, host: str) -> None:
        if origin.rstrip("/").lower() in self._origins:
            return
        try:
            page = urlsplit(origin)
            same = page.hostname is not None and page.netloc.lower() == host.lower()
        except ValueError:
            same = False
        if not same:
            raise Forbidden(
                f"a web page of {origin[:80]!r} may not use this gateway "
                "(server.cors_origins in the configuration allows it)"
            )

    def _is_ours(self, name: str) -> bool:
        """A name we go by. Listening beyond loopback, any bare address is: only names can be rebound."""
        if name in self._hosts or name == self._own_host or _LOOPBACK_ADDRESS.fullmatch(name):
            return True
        return not is_loopback(self._own_host) and _is_address(name.strip("[]"))


def name_address(client: Sequence[Any] | None) -> str:
    """Where a request came from: the host of ASGI's `client`."""
    return str(client[0]) if client else "local"


def _without_scheme(shown: bytes) -> bytes:
    """The key itself."""
    # RFC 9110, section 11.1: the scheme's name is case-insensitive.
    scheme, _, token = shown.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else shown.strip()


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reachable from this machine only."""
    return host.lower() in LOOPBACK_HOSTS or bool(_LOOPBACK_ADDRESS.fullmatch(host))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _without_port(host: str) -> str:
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0] if name.count(":") == 1 else name
