"""The runner pool from the configuration."""

from pathlib import Path

import msgspec

from policies import ResidencyRule, TurnRule

from ..config import Config, ExpertConfig, RunnerConfig, size_bytes, split_command
from . import PoolRule, Runners, RunnerSettings, ServingPool
from .launchers import count_usable_cores
from .types import Adapter, ModelChoice, Probe


def build_runners(config: Config, serving: ServingPool | None = None) -> Runners:
    """All local experts; none is started. Its start takes over what stays the same from the `serving` one."""
    return Runners(build_runner_settings(config), rule=build_pool_rule(config), serving=serving)


def give_all_cores(config: Config) -> Config:
    """The configuration with all usable cores for each local engine that has no number of threads."""
    n_threads = count_usable_cores()

    def give(expert: ExpertConfig) -> ExpertConfig:
        runner = expert.runner
        if runner is None or runner.n_threads is not None:
            return expert
        return msgspec.structs.replace(expert, runner=msgspec.structs.replace(runner, n_threads=n_threads))

    return msgspec.structs.replace(config, experts=tuple(map(give, config.experts)))


def build_runner_settings(config: Config) -> dict[str, RunnerSettings]:
    """What the local engines are asked to serve, by expert."""
    return {
        expert.name: build_settings(expert, expert.runner)
        for expert in config.experts
        if expert.runner is not None
    }


def build_settings(expert: ExpertConfig, runner: RunnerConfig) -> RunnerSettings:
    """What the engine of one expert is asked to serve."""
    return RunnerSettings(
        engine=runner.engine,
        model=runner.model,
        context_tokens=runner.context_tokens,
        n_parallel=runner.n_parallel,
        n_threads=runner.n_threads,
        n_gpu_layers=runner.n_gpu_layers,
        args=runner.args,
        command=split_command(runner.cmd) if isinstance(runner.cmd, str) else runner.cmd,
        env=tuple((name, value.reveal()) for name, value in runner.env.items()),
        url=runner.url,
        health_path=runner.health_path,
        device=runner.device,
        memory_bytes=None if runner.memory is None else size_bytes(runner.memory),
        ttl_s=runner.ttl,
        pinned=runner.pinned,
        sleep_level=runner.sleep,
        canary=_choose_probe(expert) if runner.canary else "none",
        options=runner.llama_cpp.as_options(),
        adapters=tuple(
            Adapter(name, adapter.path, adapter.scale)
            for name in runner.adapters
            if (adapter := runner.find_adapter(name)) is not None
        ),
        embeds=expert.embeds,
    )


def choose_model(expert: ExpertConfig) -> ModelChoice:
    """How a request reaches the model of a local expert."""
    if expert.runner is None:
        return ModelChoice()
    return build_settings(expert, expert.runner).choose_model(expert.name)


def _choose_probe(expert: ExpertConfig) -> Probe:
    return "embeddings" if expert.embeds else "chat"


def build_pool_rule(config: Config) -> PoolRule:
    """How they share memory."""
    runners = config.runners
    by_device = runners.memory if isinstance(runners.memory, dict) else {}
    return PoolRule(
        memory={device: size_bytes(size) for device, size in by_device.items()},
        each=size_bytes(runners.memory) if isinstance(runners.memory, str) else None,
        residency=ResidencyRule(evict=runners.evict, turns=TurnRule(max_wait_s=runners.max_wait_s)),
        log_folder=Path(runners.logs),
        batch_grace_s=runners.batch_grace_s,
    )
