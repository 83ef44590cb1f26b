"""The error tree of `routers`.

RoutersError
├── DataError        an outcome table or a file that cannot be read as one: names file, row and field
├── ArtifactError    an artifact that is missing, damaged, too new, or made for another embedder
└── EmbedderError    weights that cannot be found or loaded: says what to install
"""


class RoutersError(Exception):
    """Anything `routers` raises on purpose."""


class DataError(RoutersError):
    """The data is at fault; the message names file, row and field."""


class ArtifactError(RoutersError):
    """The artifact cannot be used; the message says which command makes a new one."""


class EmbedderError(RoutersError):
    """The embedder cannot be loaded; the message says what to install."""
