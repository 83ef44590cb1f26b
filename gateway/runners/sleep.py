"""The way of a server into its sleep and out of it: one request after the other, and whether it got there."""

import asyncio
from collections.abc import Mapping

from .errors import RunnerError
from .local_http import ask
from .types import Launch


async def transition(
    address: str, launch: Launch, headers: Mapping[str, str], timeout_s: float, *, asleep: bool
) -> None:
    """Have it fall asleep, or wake up.

    Raises:
        RunnerError: a step is refused, all take longer than `timeout_s` seconds, or it did not get there.
    """
    what = "fall asleep" if asleep else "wake up"
    try:
        async with asyncio.timeout(timeout_s):
            for step in launch.sleep if asleep else launch.wake:
                status, _ = await ask(address, step.path, step.body or {}, headers)
                if status != 200:
                    raise RunnerError(f"did not {what}: {step.path} was answered {status}")
            _, answer = await ask(address, launch.asleep_path, headers=headers)
    except TimeoutError:
        raise RunnerError(f"did not {what} within {timeout_s:g} s") from None
    except OSError as error:
        raise RunnerError(f"did not {what}: {error}") from None
    if (b"true" in answer) is not asleep:
        raise RunnerError(f"did not {what}, though it said so")
