"""Sub-commands of `thalamus` that work on outcome tables; found by entry point."""
