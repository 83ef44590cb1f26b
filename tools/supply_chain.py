"""What the container installs, as a bill of materials and against known advisories.

    python tools/supply_chain.py sbom build/sbom.json
    python tools/supply_chain.py audit

Both read the hash-pinned requirements. `sbom` writes CycloneDX and fails where a package or a hash is missing
in it. `audit` fails where a pinned version has an advisory that an update would mend. Advisories lie in the
network: where they cannot be asked, it says what was not audited, and does not fail.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("requirements-serve.txt", "requirements-weights.txt")
AUDIT_S = 90
# Each tool runs in an environment of its own, which uv keeps: it needs forty packages that nothing else does.
RUN = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--constraints", str(ROOT / "constraints.txt")]


def normalize(name: str) -> str:
    """The name of a package as all its spellings have it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pinned(root: Path = ROOT) -> dict[str, tuple[str, set[str]]]:
    """Version and SHA-256 hashes of each package, by name."""
    pinned: dict[str, tuple[str, set[str]]] = {}
    name = ""
    for file in REQUIREMENTS:
        for line in (root / file).read_text().splitlines():
            if found := re.match(r"([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", line):
                name = normalize(found[1])
                pinned[name] = (found[2], set())
            elif found := re.match(r"\s+--hash=sha256:([0-9a-f]{64})", line):
                pinned[name][1].add(found[1])
    return pinned


def find_missing(sbom: Mapping[str, Any], pinned: Mapping[str, tuple[str, set[str]]]) -> list[str]:
    """What is pinned and not in the bill: packages, versions, hashes."""
    listed: dict[tuple[str, str], set[str]] = {}
    for component in sbom.get("components", []):
        files = component.get("externalReferences", [])
        hashes = {digest["content"] for file in files for digest in file.get("hashes", [])}
        listed[(normalize(component["name"]), component.get("version", ""))] = hashes
    return [
        f"{name} {version}"
        for name, (version, hashes) in pinned.items()
        if not hashes or not hashes <= listed.get((name, version), set())
    ]


def write_sbom(out: Path) -> int:
    """Write the bill of materials; 1 where it is not whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((ROOT / file).read_text() for file in REQUIREMENTS)
    subprocess.run(
        [*RUN, "--from", "cyclonedx-bom", "cyclonedx-py", "requirements", "--output-reproducible",
         "--pyproject", str(ROOT / "pyproject.toml"), "--output-file", str(out), "-"],
        input=text, text=True, check=True,
    )  # fmt: skip
    pinned = read_pinned()
    missing = find_missing(json.loads(out.read_text()), pinned)
    print(f"{out}: {len(pinned) - len(missing)} of {len(pinned)} packages with their hashes")
    for package in missing:
        print(f"missing: {package}")
    return int(bool(missing))


def audit() -> int:
    """Ask for advisories of every pinned version; 1 where an update would mend one."""
    files = [argument for file in REQUIREMENTS for argument in ("--requirement", str(ROOT / file))]
    options = ["--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*RUN, "pip-audit", *files, *options, "--timeout", "5"],
            capture_output=True, text=True, timeout=AUDIT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"not audited: {type(error).__name__}")
        return 0
    lines, failed = read_findings(done.stdout, done.stderr)
    print("\n".join(lines))
    return int(failed)


def read_findings(output: str, errors: str) -> tuple[list[str], bool]:
    """A line for each advisory and one for what was not audited; whether an update would mend any."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return [f"not audited: {(errors.strip().splitlines() or ['no answer'])[-1]}"], False
    found = [(package, advisory) for package in packages for advisory in package.get("vulns", ())]
    lines = []
    for package, advisory in found:
        fixes = " or ".join(advisory["fix_versions"])
        what = f"update to {fixes}" if fixes else "no version mends it yet"
        lines.append(f"{package['name']} {package['version']}: {advisory['id']}; {what}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    lines.append(
        f"{len(packages) - len(skipped)} of {len(packages)} packages audited, {len(found)} advisories"
    )
    if skipped:
        lines.append(f"not audited: {len(skipped)} packages, whose advisories cannot be reached from here")
    return lines, any(advisory["fix_versions"] for _, advisory in found)


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["sbom", out]:
            return write_sbom(Path(out))
        case ["audit"]:
            return audit()
    sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
