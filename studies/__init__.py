"""Research scripts, run from a checkout as `python -m studies.NAME`; the wheel leaves them out."""
