"""The keys that clients show: how hard one is to guess, and the hash by which it is known."""

import base64
import contextlib
import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Iterator
from functools import partial
from itertools import pairwise, product

MASTER = "master"
"""The name of the client that shows `server.master_key`."""
MIN_KEY_CHARS = 16
MIN_BITS = 50.0
"""A random key of 16 hexadecimal digits has 64, less what looks like a run by chance."""
N_FIRST_CHARS, MAX_READ_CHARS = 24, 64
HASH_PREFIX = "sha256:"
FORMER_ID = re.compile(r"[0-9a-f]{12}")
"""What files, batches and decisions had as owner before keys had names: an id made of the one key."""
_HASH = re.compile(r"sha256:[0-9a-f]{64}", re.IGNORECASE)

# What keys of examples are made of.
_WORDS_TEXT = """
abc access account admin administrator amet and api app are auth backend bar battery baz bearer beef brown
but cafe called change changeme chat client cluster company config contrasena copy corp correct dead demo
deploy dev development do docker dog dolor dummy example face fake feed foo for fox from gateway geheim
global gpt guest haslo hello here horse hunter iloveyou in insert internal ipsum is it jump jumps key keys
lazy letmein litellm live llm local login lorem main master me mock model monkey motdepasse my name new
none not nothing of on one only openai or parola pass passphrase password passwort placeholder please prod
production project proxy public quick qwerty qwertz random read real replace root router sample secret
secure senha server service setme share sit sk some staging staple super supersecret sys system team temp
test testing thalamus that the this tmp to todo token unsafe use user username v1 v2 v3 version very
wachtwoord welcome with world write you your
"""
WORDS = frozenset(_WORDS_TEXT.split())
WELL_KNOWN = ("1234", "12345", "123456", "12345678", "1234567890", *sorted(WORDS))
PREFIXES = ("", "sk-", "key-", "my-", "test-")
LEET = str.maketrans("0134578@$!|", "oleastbasil")
"""Letters that digits and signs stand for."""
KEYBOARDS = (
    ("1234567890-=", "qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./"),
    ("1234567890ß´", "qwertzuiopü", "asdfghjklöä", "yxcvbnm,.-"),
    ("&é\"'(-è_çà)=", "azertyuiop^$", "qsdfghjklmù", "wxcvbn,;:!"),
)
Place = tuple[int, int]
"""Column and row of a key on a keyboard."""
SHIFTED = "!@#$%^&*()_+"
"""The first row of the first keyboard with the shift key."""
PLACES: tuple[dict[str, Place], ...] = tuple(
    {char: (x, y) for y, row in enumerate(rows) for x, char in enumerate(row)}
    for rows in (*KEYBOARDS, (SHIFTED,))
)
_PREFIX = re.compile(r"^(?:(?:sk|pk|rk|key|proj)[-_])+", re.IGNORECASE)
EXAMPLES = frozenset({"123e4567e89b12d3a456426614174000", "550e8400e29b41d4a716446655440000"})
"""Random once, printed in every manual since."""
HEX_BITS = 4.0
MAX_STEP = 2
MIN_RUN, MIN_COPY = 3, 3
# The pairs of letters that make up most of English text: a letter that follows so is half guessed.
_USUAL_PAIRS_TEXT = """
th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de se le sa si ar
ve ra ld ur ll ch me ne el ro ca li la ri ta co ho om ic io ma ce us wa ec be em pe un no so no wo ot ut
ss oo tr lo ow di ac ge ag ad ee ni ly wh sh ly mo fo ke pr op ai il ir ul ay ie po pa am id ns rs ts ct
ev su sp im ia bo fe ov ab do na ep mi oc iv bl tu cl ep av ap ob ig ck ff gh pl ex ry ei rt rd rk ry up
"""
USUAL_PAIRS = frozenset(_USUAL_PAIRS_TEXT.split())
USUAL_LETTER_BITS = 2.5
CAPITAL_BITS = 1.0
# Less than the logarithm of their number: most keys of words begin with the same few.
WORD_BITS = 5.5
RUN_BITS, COPY_BITS = 7.0, 7.0


def find_weakness(key: str) -> str | None:
    """Return why the key is easy to guess, or None; the text says nothing of the key."""
    if len(key) < MIN_KEY_CHARS:
        return f"is shorter than {MIN_KEY_CHARS} characters"
    if re.sub(r"[-_. ]", "", _PREFIX.sub("", key).lower()) in EXAMPLES:
        return "is an example of manuals"
    # A key whose beginning is strong is strong; that is read in a fraction of the time.
    n_bits = estimate_bits(key[:N_FIRST_CHARS])
    if n_bits < MIN_BITS or any(_decode(key)):
        n_bits = estimate_bits(key)
    if n_bits < MIN_BITS:
        return f"is easy to guess: words, runs and repeats leave about {n_bits:.0f} bits of {MIN_BITS:.0f}"
    return None


def estimate_bits(key: str) -> float:
    """How many bits it takes to guess a key that is told in the shortest way: by words, runs, repeats, else
    character by character.
    """
    text = _PREFIX.sub("", key)[:MAX_READ_CHARS]
    # Every second character first: `a1b2c3d4` is two runs, one woven into the other.
    texts = [text, text[::2] + text[1::2], *_decode(key)]
    return min(map(_estimate, texts))


def _decode(key: str) -> Iterator[str]:
    """The text that a key is in hexadecimal or in base64, where it is one."""
    text = _PREFIX.sub("", key)
    padded = text + "=" * (-len(text) % 4)
    for coded, decode in ((text, bytes.fromhex), (padded, partial(base64.b64decode, validate=True))):
        with contextlib.suppress(ValueError):
            if (text := decode(coded).decode("ascii")).isprintable() and text:
                yield text[:MAX_READ_CHARS]


def _estimate(text: str) -> float:
    lowered = text.lower()
    bits_per_char = _measure_alphabet(text)
    # costs[i] is the cheapest way to tell the first i characters.
    costs = [0.0, *([math.inf] * len(text))]
    for start in range(len(text)):
        cost = costs[start] + _cost_of_char(text, lowered, start, bits_per_char)
        costs[start + 1] = min(costs[start + 1], cost)
        for end, bits in _list_segments(text, lowered, start):
            costs[end] = min(costs[end], costs[start] + bits)
    return costs[-1]


def _measure_alphabet(text: str) -> float:
    """Bits of a random character of the smallest usual alphabet that has all characters of a text."""
    # Separators are of no alphabet: a UUID is hexadecimal.
    chars = {char for char in text if char not in "-_. "}
    lowered = {char.lower() for char in chars}
    if lowered <= set("0123456789"):
        return math.log2(10)
    if lowered <= set("0123456789abcdef"):
        return HEX_BITS
    kinds = ((str.islower, 26), (str.isupper, 26), (str.isdigit, 10))
    size = sum(n for has, n in kinds if any(map(has, chars)))
    if not all(char.isalnum() for char in chars):
        size += 32
    return math.log2(size or 26)  # scripts without case


def _cost_of_char(text: str, lowered: str, at: int, bits_per_char: float) -> float:
    char = lowered[at]
    if char in "-_. ":
        return 1.0
    # Hexadecimal digits are no words: there a usual pair is chance.
    is_usual = bits_per_char > HEX_BITS and lowered[at - 1 : at + 1] in USUAL_PAIRS
    if is_usual:
        return USUAL_LETTER_BITS
    capital_bits = CAPITAL_BITS if text[at].isupper() else 0.0
    return min(bits_per_char, math.log2(26) + capital_bits) if char.isalpha() else bits_per_char


def _list_segments(text: str, lowered: str, start: int) -> Iterator[tuple[int, float]]:
    """What can be told at once from a place on: its end, and the bits it takes."""
    yield from _list_words(text, lowered, start)
    if (n := _measure_run(lowered, start)) >= MIN_RUN:
        for length in range(MIN_RUN, n + 1):
            yield start + length, RUN_BITS + math.log2(length)
    if re.match(r"(?:19|20)\d\d", lowered[start : start + 4]):
        yield start + 4, math.log2(200)
    for length in range(MIN_COPY, len(text) - start + 1):
        if lowered.find(lowered[start : start + length], 0, start + length - 1) < 0:
            break
        yield start + length, COPY_BITS + math.log2(length)


def _list_words(text: str, lowered: str, start: int) -> Iterator[tuple[int, float]]:
    for length in range(2, min(MAX_WORD_CHARS, len(text) - start) + 1):
        part = lowered[start : start + length]
        plain = part if part in WORDS else part.translate(LEET)
        if (plain in WORDS or plain[::-1] in WORDS) and any(char.isalpha() for char in part):
            is_spelled = text[start : start + length] == plain
            yield start + length, WORD_BITS + (0.0 if is_spelled else 2.0)


MAX_WORD_CHARS = max(map(len, WORDS))


def _measure_run(lowered: str, start: int) -> int:
    """How many characters from a place on follow each other by one step: in the alphabet, on a keyboard."""
    most = 1
    alphabet: list[Place | None] = [(ord(char), 0) for char in lowered[start:]]
    keyboards = ([places.get(char) for char in lowered[start:]] for places in PLACES)
    for points in (alphabet, *keyboards):
        n, step = 1, None
        for one, other in pairwise(points):
            if one is None or other is None:
                break
            found = (other[0] - one[0], other[1] - one[1])
            if max(map(abs, found)) > MAX_STEP or found != (step or found):
                break
            n, step = n + 1, found
        most = max(most, n)
    return most


def find_owner(stored: str | None) -> str | None:
    """The name of the key that something stored belongs to; what was stored by id belongs to `master`."""
    return MASTER if stored and FORMER_ID.fullmatch(stored) else stored


def is_former_id(column: str) -> str:
    """The condition in SQL that a column holds such an id."""
    return f"length({column}) = 12 AND {column} NOT GLOB '*[^0-9a-f]*'"


def make_former_id(key: str, salt: bytes) -> str:
    """The id that a key had in a store of this salt before keys had names."""
    return hashlib.blake2b(key.encode(), key=salt).hexdigest()[:12]


def make_key() -> str:
    """A new key: 192 random bits."""
    return f"sk-{secrets.token_hex(24)}"


def is_hash(text: str) -> bool:
    """Whether a value of the configuration is the hash of a key, and not a key."""
    return text.lower().startswith(HASH_PREFIX)


def find_hash_fault(text: str) -> str | None:
    """Return why a hash cannot be used, or None."""
    if not _HASH.fullmatch(text):
        return f"is no hash: write {HASH_PREFIX} and 64 hexadecimal digits"
    known = (prefix + word for prefix, word in product(PREFIXES, WELL_KNOWN))
    return "is the hash of a well-known key" if digest_of(text) in map(hash_key, known) else None


def hash_key(key: str | bytes) -> bytes:
    """The hash by which a key is known; of a random key no salt is needed."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def format_hash(key: str) -> str:
    """The hash of a key as the configuration takes it."""
    return HASH_PREFIX + hash_key(key).hex()


def digest_of(value: str) -> bytes:
    """The hash of the key that a value of the configuration is, or is the hash of."""
    return bytes.fromhex(value[len(HASH_PREFIX) :]) if is_hash(value) else hash_key(value)


def is_same(digest: bytes, other: bytes) -> bool:
    """Whether two hashes are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(digest, other)
