"""Reports: facts, and the pages that show them."""

from .facts import SCHEMA, Asked, Facts, facts_of
from .markdown import markdown_of
from .page import page_of

__all__ = ["SCHEMA", "Asked", "Facts", "facts_of", "markdown_of", "page_of"]
