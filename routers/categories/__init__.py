"""Categories of queries: a closed taxonomy, who tells them apart, and which expert answers which.

Importing this package loads numpy alone.
"""
