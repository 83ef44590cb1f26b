"""The container: its files by what they say, and its command where nothing but its data can be written."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
UID = 10001

pytestmark = pytest.mark.source


def read_dockerfile() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "deploy/Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    assert compose["volumes"].keys() == {"data"}
    (only,) = compose["services"].values()
    assert isinstance(only, dict)
    return only


def test_the_image_runs_as_a_user_without_rights() -> None:
    users = [rest for word, rest in read_dockerfile() if word == "USER"]
    assert users == [f"{UID}:{UID}"]
    created = [rest for word, rest in read_dockerfile() if word == "RUN" and "useradd" in rest]
    assert f"--uid {UID}" in created[0]
    after = [word for word, _ in read_dockerfile()]
    assert "RUN" not in after[after.index("USER") :]


def test_the_image_installs_only_what_has_a_hash() -> None:
    installs = [part for word, rest in read_dockerfile() if word == "RUN" for part in rest.split("&&")]
    installs = [part for part in installs if "pip install" in part]
    assert len(installs) == 3
    assert [part for part in installs if "--require-hashes" not in part and "--no-deps ." not in part] == []


def test_the_container_can_write_its_data_and_a_folder_in_memory_only(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["user"] == f"{UID}:{UID}"
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["volumes"] == ["data:/data"]
    (memory,) = service["tmpfs"]
    assert memory.startswith("/tmp:")
    assert {"noexec", "nosuid", "nodev"} <= set(memory.partition(":")[2].split(","))


def test_the_container_listens_on_this_machine_and_needs_a_key(service: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    # A key in the file would be that of every installation; `:?` refuses to start without one from outside.
    assert service["environment"]["THALAMUS_MASTER_KEY"].startswith("${THALAMUS_MASTER_KEY:?")
    assert all(value.startswith("${") for value in service["environment"].values())


def health_command(port: int) -> list[str]:
    (check,) = [rest for word, rest in read_dockerfile() if word == "HEALTHCHECK"]
    command = yaml.safe_load(check.partition("CMD ")[2])
    assert command[0] == "python"
    return [sys.executable, *(part.replace(":8080/", f":{port}/") for part in command[1:])]


def test_the_health_check_asks_whether_an_expert_can_answer() -> None:
    assert "/health/ready" in health_command(8080)[-1]
    with socket.create_server(("127.0.0.1", 0)) as nothing:
        port = nothing.getsockname()[1]
    assert subprocess.run(health_command(port), capture_output=True).returncode != 0


def build_closed_command(data: Path, memory: Path, command: list[str]) -> list[str]:
    """`command` with a read-only root, `data` to write, and without rights."""
    words = {"data": data, "memory": memory, "command": shlex.join(command)}
    quoted = {name: shlex.quote(str(value)) if name != "command" else value for name, value in words.items()}
    rights = "--no-new-privs --inh-caps=-all --bounding-set=-all"
    if os.geteuid() == 0:
        # This capability reads everything and writes nothing: folders of tests, and interpreters below
        # /root, are closed to other users.
        read = "+dac_read_search"
        rights = f"--reuid={UID} --regid={UID} --clear-groups --no-new-privs --inh-caps=-all,{read}"
        rights += f" --ambient-caps=-all,{read} --bounding-set=-all,{read}"
    script = (
        "mount --bind {data} {data} && mount -t tmpfs -o mode=1777 tmpfs {memory} && "
        "mount -o remount,ro,bind / && cd {data} && exec setpriv " + rights + " {command}"
    ).format(**quoted)
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own, "--mount", "sh", "-c", script]


def can_close() -> bool:
    if sys.platform != "linux" or not shutil.which("setpriv") or not shutil.which("unshare"):
        return False
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = f"mount -o remount,ro,bind / && setpriv --no-new-privs {shlex.quote(sys.executable)} -c ''"
    return (
        subprocess.run(["unshare", *own, "--mount", "sh", "-c", script], capture_output=True).returncode == 0
    )


def test_the_command_of_the_image_writes_nothing_outside_its_data(tmp_path: Path) -> None:
    if not can_close():
        pytest.skip("no mount namespace in which this interpreter runs")
    data, memory = tmp_path / "data", tmp_path / "memory"
    for folder in (data, memory):
        folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = dict(read_dockerfile())
    entry = [*yaml.safe_load(words["ENTRYPOINT"]), *yaml.safe_load(words["CMD"])]
    assert entry[0] == "thalamus"
    entry[0] = str(Path(sys.executable).with_name("thalamus"))
    expert = {"name": "a", "model": "openai/a", "api_base": "http://127.0.0.1:1/v1"}
    (data / "thalamus.yaml").write_text(yaml.safe_dump({"experts": [expert]}))
    if os.geteuid() == 0:
        os.chown(data, UID, UID)
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "TMPDIR": str(memory)}
    command = build_closed_command(data, memory, [*entry, "--host", "127.0.0.1", "--port", str(port)])
    log = tmp_path / "log"
    with log.open("wb") as out:
        gateway = subprocess.Popen(command, cwd=data, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while subprocess.run(health_command(port), capture_output=True).returncode != 0:
            assert gateway.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        # What a gateway writes: an upload, a record of a call.
        files = {"file": ("a.jsonl", b'{"custom_id": "1"}\n')}
        base = f"http://127.0.0.1:{port}/v1"
        uploaded = httpx.post(f"{base}/files", data={"purpose": "batch"}, files=files)
        called = httpx.post(f"{base}/chat/completions", json={"model": "a", "messages": [{"role": "user"}]})
        assert uploaded.status_code in (200, 400)
        assert called.status_code >= 400
    finally:
        gateway.send_signal(signal.SIGTERM)
        gateway.wait(30)
    text = log.read_text()
    assert not re.search("read-only file system|permission denied|traceback", text, re.IGNORECASE), text
    assert {path.name for path in data.iterdir()} == {"thalamus.yaml", ".thalamus"}
    assert {path.stat().st_uid for path in (data / ".thalamus").rglob("*")} <= {UID, os.geteuid()}
