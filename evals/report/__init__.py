"""Reports: facts, and the pages that show them."""

from .exports import export_files
from .facts import SCHEMA, Facts, ReportRequest, facts_of
from .markdown import markdown_of
from .page import page_of

__all__ = ["SCHEMA", "Facts", "ReportRequest", "export_files", "facts_of", "markdown_of", "page_of"]
