"""Any server that can be started by a command line: `${PORT}` in it becomes a free port."""

import shutil

from ..errors import RunnerSettingsError
from ..types import Launch, RunnerSettings, Step
from .scripts import child_argv

HEALTH_PATH = "/health"
AFTERWARDS_S = 2.0
"""What the supervisor needs for whom the server left behind."""


def build_command_launch(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    """A supervisor around the command; requests name the model as the settings do.

    Raises:
        RunnerSettingsError: there is no command, or its program is not here.
    """
    if not settings.command:
        raise RunnerSettingsError("runner.cmd", 'the engine "command" needs one, with ${PORT} in it')
    if not any("${PORT}" in word for word in (*settings.command, *(value for _, value in settings.env))):
        raise RunnerSettingsError("runner.cmd", "has no ${PORT}: the server must listen where it is told to")
    return build_supervised_launch(settings, settings.command, dict(settings.env), api_key, serves=settings.model)


def build_supervised_launch(
    settings: RunnerSettings,
    argv: tuple[str, ...],
    env: dict[str, str],
    api_key: str,
    *,
    serves: str | None = None,
    device: str = "cpu",
    memory_bytes: int | None = None,
    grace_s: float = 3.0,
    completes: bool = False,
    sleep: tuple[Step, ...] = (),
    wake: tuple[Step, ...] = (),
) -> Launch:
    """A command line behind the script that gives it a port, waits until it is healthy, and ends it.

    Raises:
        RunnerSettingsError: its program is not here.
    """
    if shutil.which(argv[0]) is None:
        raise RunnerSettingsError("runner.cmd", f'there is no program "{argv[0]}"')
    health_path = settings.health_path or HEALTH_PATH
    message = {"argv": argv, "env": env, "health_path": health_path, "api_key": api_key, "grace_s": grace_s}
    return Launch(
        child_argv("supervisor_child.py"),
        message,
        health_path=health_path,
        device=settings.device or device,
        memory_bytes=memory_bytes,
        sleep=sleep,
        wake=wake,
        serves=serves,
        completes=completes,
        grace_s=grace_s + AFTERWARDS_S,
    )
