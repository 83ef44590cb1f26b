"""Fails on names and words that a stranger cannot guess: `make wording`, part of `make lint`.

Banned words and identifiers, functions named by participles, class names defined twice, and folders that
import each other. The rules and their exceptions stand in source_tree.py.
"""

import argparse
import sys
from pathlib import Path

from source_tree import SourceTree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--report", action="store_true", help="list what is found, but do not fail")
    arguments = parser.parse_args()
    tree = SourceTree(arguments.checkout)
    found = [
        *map(str, tree.find_banned_words()),
        *map(str, tree.find_banned_identifiers()),
        *map(str, tree.participles()),
        *map(str, tree.homonyms()),
    ]
    for knot in tree.knots():
        found.append(f"folders that import each other: {', '.join(knot)}")
        for folder in knot:
            for target, example in tree.folder_arrows[folder].items():
                if target in knot:
                    found.append(f"  {folder} -> {target}: {example}")
    print(*found, sep="\n", end="\n" if found else "")
    print(f"wording: {len(found)} found")
    sys.exit(bool(found) and not arguments.report)


if __name__ == "__main__":
    main()
