"""Where the packages come from: lower bounds, hashes, the bill of materials, advisories."""

import json
import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement

pytest.importorskip("tools.supply_chain")  # the wheel has no tools

from tools.supply_chain import REQUIREMENTS, ROOT, find_missing, normalize, read_findings, read_pinned

pytestmark = pytest.mark.source

TESTED = dict(
    line.split(";")[0].strip().split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if re.match(r"[\w.-]+==", line)
)
DECLARED = {
    requirement.name: requirement
    for requirement in map(
        Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    )
}


@pytest.mark.parametrize("name", ["aiohttp", "httptools", "litellm"])
def test_the_lower_bound_is_the_tested_version(name: str) -> None:
    assert f">={TESTED[name]}" in str(DECLARED[name].specifier).split(",")


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8"])
def test_malicious_releases_of_litellm_are_excluded_also_where_the_bound_is_lowered(version: str) -> None:
    exclusions = {str(part) for part in DECLARED["litellm"].specifier}
    assert f"!={version}" in exclusions
    assert not DECLARED["litellm"].specifier.contains(version)


def test_what_the_container_installs_is_tested_and_has_hashes() -> None:
    pinned = read_pinned()
    tested = {normalize(name): version for name, version in TESTED.items()}
    assert len(pinned) > 50
    assert {
        name: version for name, (version, _) in pinned.items() if tested.get(name, version) != version
    } == {}
    assert [name for name, (_, hashes) in pinned.items() if not hashes] == []
    assert set(map(normalize, DECLARED)) <= pinned.keys()


def component(name: str, version: str, *hashes: str) -> dict[str, Any]:
    files = [{"hashes": [{"alg": "SHA-256", "content": digest} for digest in hashes]}]
    return {"name": name, "version": version, "externalReferences": files}


def test_a_bill_that_lacks_a_package_a_version_or_a_hash_is_refused() -> None:
    pinned = {"a-b": ("1", {"x", "y"}), "c": ("2", {"z"}), "d": ("3", {"w"}), "e": ("4", {"v"})}
    bill = {"components": [component("A_b", "1", "x", "y"), component("c", "2.1", "z"), component("d", "3")]}
    assert find_missing(bill, pinned) == ["c 2", "d 3", "e 4"]
    assert find_missing({}, {"f": ("5", set())}) == ["f 5"]


def test_an_advisory_that_an_update_mends_fails_the_audit() -> None:
    advisory = {"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": [], "description": ""}
    packages = [
        {"name": "a", "version": "2.0", "vulns": [advisory]},
        {"name": "b", "version": "1", "vulns": []},
    ]
    lines, failed = read_findings(json.dumps({"dependencies": packages, "fixes": []}), "")
    assert failed
    assert lines == ["a 2.0: PYSEC-1; update to 2.1", "2 of 2 packages audited, 1 advisories"]
    advisory["fix_versions"] = []
    lines, failed = read_findings(json.dumps({"dependencies": packages}), "")
    assert not failed
    assert lines[0] == "a 2.0: PYSEC-1; no version mends it yet"


@pytest.mark.parametrize(
    ("output", "errors", "line"),
    [
        ("", "Traceback\nConnectionError: no route", "not audited: ConnectionError: no route"),
        ("<html>", "", "not audited: no answer"),
        ("[]", "", "not audited: no answer"),
        (
            '{"dependencies": [{"name": "a", "skip_reason": "not found"}]}',
            "",
            "not audited: 1 packages, whose advisories cannot be reached from here",
        ),
    ],
)
def test_without_advisories_the_audit_says_so_and_does_not_fail(output: str, errors: str, line: str) -> None:
    lines, failed = read_findings(output, errors)
    assert not failed
    assert lines[-1] == line


def test_the_gate_runs_the_audit_and_no_file_names_a_registry() -> None:
    assert re.search(r"^make .*\baudit$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    files = [".ci/run", "tools/supply_chain.py", "constraints.txt", "deploy/Dockerfile", *REQUIREMENTS]
    assert [
        file for file in files if re.search(r"https?://(?!127)|index-url", (ROOT / file).read_text())
    ] == []
