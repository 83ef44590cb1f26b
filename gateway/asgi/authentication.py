"""Who may talk to the gateway: the key, and for web pages the Host and Origin they come with.

Without a key only this machine may ask, and no web page through a browser on it: a name that was rebound to
127.0.0.1 fails on its Host, a page of another site on its Origin.
"""

import asyncio
import hashlib
import hmac
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from ..config import ServerConfig
from ..errors import Forbidden, Overloaded, Unauthenticated
from ..telemetry.logs import AUDIT

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
MAX_REMEMBERED = 64
"""Headers remembered as good. There is one key, but spellings (bearer, Bearer …) are the client's."""
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
    """Admits a request or says why not. Ids of keys hang on `salt`: the same as long as that is kept."""

    def __init__(self, config: ServerConfig, salt: bytes | None = None) -> None:
        # Ids of keys must survive a restart, so that files and batches keep their owner: the store keeps
        # the salt.
        self._salt = salt or os.urandom(16)
        self._digest = self._hash(config.master_key.reveal().encode()) if config.master_key else None
        self._hosts = frozenset(host.lower() for host in config.allowed_hosts) | LOOPBACK_HOSTS
        self._own_host = config.host.lower()
        self._origins = frozenset(origin.rstrip("/").lower() for origin in config.cors_origins)
        self._key_id = None if self._digest is None else self._digest.hex()[:12]
        self._known: set[tuple[tuple[bytes, ...], bytes, bytes]] = set()
        self.failed_logins = FailedLogins()

    def authenticate(
        self, headers: Iterable[tuple[bytes, bytes]], client: Sequence[Any] | None = None
    ) -> str | None:
        """The id of the key that was shown (a salted hash), or None where none is needed.

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
        if seen in self._known:
            return self._key_id
        if keys and self._digest is not None:
            self.failed_logins.check(name_address(client))
        try:
            self._check(keys, host, origin)
        except Unauthenticated as error:
            if keys:
                wrong = self._hash(_without_scheme(keys[0])).hex()[:12]
                error.delay_s = self.failed_logins.note(name_address(client), wrong)
            raise
        # A client can vary Host and Origin at will: the set is bounded, and starts again.
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known.add(seen)
        return self._key_id

    def _check(self, keys: tuple[bytes, ...], host: bytes, origin: bytes) -> None:
        if self._digest is not None:
            self._check_keys(keys)
        else:
            self._check_host(host.decode("latin-1"))
        if origin:
            self._check_origin(origin.decode("latin-1"), host.decode("latin-1"))

    def _check_keys(self, shown: tuple[bytes, ...]) -> None:
        """Check that one of the keys is right: some libraries send a placeholder beside the real one."""
        how = "send it as 'Authorization: Bearer …', 'x-api-key' or 'api-key'"
        keys = [key for value in shown[:MAX_KEYS] if (key := _without_scheme(value))]
        if not keys:
            raise Unauthenticated(f"no API key: {how}")
        # Constant time over digests: neither a common prefix nor the key's length can be measured.
        if not any(hmac.compare_digest(self._hash(key), self._digest or b"") for key in keys):
            scheme = shown[0].partition(b" ")[0].lower()
            is_basic = scheme == b"basic"
            hint = f": the scheme Basic is not read; {how}" if is_basic else ""
            raise Unauthenticated(f"this API key is not accepted here{hint}")

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

    def _hash(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._salt).digest()


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
