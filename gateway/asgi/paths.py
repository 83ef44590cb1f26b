"""Spellings of a path: `/v1` left out or said twice, slashes at the end, the addresses of other services."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_SLASHES = re.compile("/{2,}")
_VERSIONS = re.compile(r"^(?:/v1){2,}(?=/|$)")
_AZURE = re.compile(r"^/openai/deployments/[^/]+(?=/)")
PREFIXES = ("/openai/v1", "/api/v1")
"""Where other services keep what is `/v1` here: Azure, OpenRouter."""
MAX_PATH_CHARS = 512


class PathTable:
    """The paths that are served, as templates: `/v1/models/{name}`."""

    def __init__(self, templates: Iterable[str]) -> None:
        self._templates = tuple(dict.fromkeys(templates))
        self._exact = frozenset(template for template in self._templates if "{" not in template)
        self._patterns = [
            re.compile(re.sub(r"\\\{[^}]*\\\}", ".+", re.escape(template)))
            for template in self._templates
            if "{" in template
        ]

    def resolve(self, path: str) -> str:
        """The served path that another spelling means; the path itself where it means none."""
        if path in self._exact or len(path) > MAX_PATH_CHARS:
            return path
        plain = _SLASHES.sub("/", path).rstrip("/") or "/"
        plain = _VERSIONS.sub("/v1", plain)
        for prefix in PREFIXES:
            if plain.startswith(prefix + "/"):
                plain = plain.removeprefix(prefix)
                plain = f"/v1{plain}"
        # A path that is served as it stands is never taken for another.
        for candidate in (path, plain, f"/v1{plain}"):
            if self._is_served(candidate):
                return candidate
        return path

    def suggest(self, path: str) -> str | None:
        """The served path that is nearest to one that is not."""
        plain = _VERSIONS.sub("/v1", _SLASHES.sub("/", path[:MAX_PATH_CHARS]).rstrip("/"))
        plain = _AZURE.sub("/v1", plain)
        if plain in self._exact:
            return plain
        # The end of an address says what is asked for, its beginning where the client looks for it.
        ends = [t for t in self._exact if len(t) > 3 and plain.endswith(t.removeprefix("/v1"))]
        found = ends or get_close_matches(plain, sorted(self._exact), n=1, cutoff=0.6)
        return max(found, key=len) if found else None

    def _is_served(self, path: str) -> bool:
        # A slash at the end is no name: `/v1/models/` is the list.
        return path in self._exact or (
            not path.endswith("/") and any(pattern.fullmatch(path) for pattern in self._patterns)
        )
