"""Fails where a wheel does not hold the files of its packages, byte for byte; what is compiled is extra.

    python tools/compare_wheel.py WHEEL

What git tracks is the truth: a module or a data file that the build leaves out is named here, and not by the
first user who needs it.
"""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPILED = re.compile(r"routers/_compiled\.[\w.-]*(?:so|pyd)")
"""What `hatch_build.py` adds where there is a compiler."""


def main() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", *packages], cwd=ROOT, check=True, capture_output=True, text=True
    )
    tracked = set(listed.stdout.split("\0")) - {""}
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        compiled = {name for name in held if COMPILED.fullmatch(name)}
        held -= compiled
        faults = [f"missing: {name}" for name in sorted(tracked - held)]
        faults += [f"not tracked by git: {name}" for name in sorted(held - tracked)]
        faults += [
            f"differs: {name}"
            for name in sorted(held & tracked)
            if wheel.read(name) != (ROOT / name).read_bytes()
        ]
    if faults:
        sys.exit("\n".join(faults))
    print(f"wheel: {len(held)} files, as in the checkout, and {len(compiled)} compiled")


if __name__ == "__main__":
    main()
