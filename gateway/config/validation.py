"""Rules beyond types: values that contradict each other, unknown names, weak keys, bad addresses."""

import shlex
from collections.abc import Collection, Iterator
from datetime import date
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from policies import BY_TEXT, SKILL_MODES
from routers import ArtifactError, explain_missing_head, is_embedder, list_heads

from .client_keys import FORMER_ID, MASTER, digest_of, find_hash_fault, find_weakness, is_hash
from .expert_schema import NO_LLAMA_CPP, ExpertConfig, ProviderSettings, RunnerConfig
from .policy_schema import PanelConfig
from .providers import find_maker, find_receiver, list_providers, needs_address, passes_through
from .schema import BASE_EMBEDDER, Config, RoutingConfig, ServerConfig
from .secrets import Secret, UnresolvedReferenceError, check_references
from .values import DEVICE_PATTERN, KeyPath, find_header_fault, size_bytes, split_command

Violation = tuple[KeyPath, str]
# An unused key is an error, not a warning: `args` under llama.cpp would be ignored in silence.
ENGINE_KEYS = {
    **dict.fromkeys(("cmd", "health_path"), "command"),
    **dict.fromkeys(("args", "sleep"), "vllm"),
    "url": "ollama",
    "llama_cpp": "llama.cpp",
}
"""Keys of a runner that only one engine reads."""
ADAPTER_ENGINES = ("llama.cpp", "vllm")
"""Engines that apply adapters request by request."""
TOOL_GROUP = "thalamus.tools"
"""Entry points of the tools that installed packages offer."""
OWN_ARGUMENTS = frozenset({"model", "api_base", "base_url", "api_key", "extra_headers", "timeout", "stream"})
"""Arguments of LiteLLM that other keys of the configuration set."""
PROVIDERS_OF_SETTINGS = {
    "aws_": (
        "bedrock",
        "bedrock_converse",
        "sagemaker",
        "sagemaker_chat",
        "sagemaker_nova",
        "bedrock_mantle",
    ),
    "azure_": ("azure", "azure_ai", "azure_text"),
    "vertex_": ("vertex_ai", "vertex_ai_beta", "gemini"),
    "project_id": ("watsonx", "watsonx_text"),
    "space_id": ("watsonx", "watsonx_text"),
}
"""Whose settings they are, by how their names begin: for another provider they would do nothing."""
SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh"})
"""Programs that replace `$NAME` and `${NAME:-default}` themselves."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def find_violations(config: Config) -> Iterator[Violation]:
    """Yield every violated rule, with the path of its key."""
    yield from _check_experts(config)
    yield from _check_policies(config)
    yield from _check_aliases(config)
    yield from _check_memory(config)
    yield from _check_embedders(config)
    yield from find_key_violations(config.server)
    if config.redis and not config.redis.url.reveal().startswith(("redis://", "rediss://", "unix://")):
        yield ("redis", "url"), "the address must start with redis://, rediss:// or unix://"


def find_missing_heads(config: Config) -> Iterator[tuple[KeyPath, str, str]]:
    """Yield every key that names a head which the artifact, where there is one, lacks: path, error, head."""
    path = config.routing.artifact
    named: list[tuple[KeyPath, str]] = []
    for name, policy in config.policies.items():
        if policy.predictor:
            named.append((("policies", name, "predictor"), policy.predictor))
        if (panel := policy.plan.panel) and panel.predictor and not panel.keywords:
            named.append((("policies", name, "plan", "panel", "predictor"), panel.predictor))
    if not named or not Path(path).exists():  # the first `thalamus fit` makes what policies name
        return
    try:
        there = list_heads(path)
    except ArtifactError:  # who loads it says what is wrong with it
        return
    where = "" if path == RoutingConfig().artifact else shlex.join(["outcomes.jsonl.gz", path])
    for at, head in named:
        if head not in there:
            yield at, f"{path} has {explain_missing_head(head, there, where)}", head


def find_key_violations(server: ServerConfig) -> Iterator[Violation]:
    """Yield every violated rule of the keys of clients."""
    seen: dict[bytes, str] = {}
    for name, values in server.keys_by_name().items():
        is_master = name == MASTER and not server.keys.get(name)
        at: KeyPath = ("server", "master_key") if is_master else ("server", "keys", name)
        if name in server.keys and (name == MASTER or FORMER_ID.fullmatch(name)):
            taken = "the name of `master_key`" if name == MASTER else "the form of ids of earlier versions"
            yield at, f"'{name}' has {taken}; choose another name"
        for value in values:
            text = value.reveal()
            if is_hash(text):
                if why := find_hash_fault(text):
                    yield at, f"this key {why}; `thalamus config new-key` makes a key and its hash"
                    continue
            elif why := find_weakness(text):
                yield at, f"this key {why}; make a new one with `openssl rand -hex 24`"
            digest = digest_of(text)
            if digest in seen:
                yield at, f"this is the key of '{seen[digest]}' too; every client needs a key of its own"
            seen.setdefault(digest, name)


def _locate_experts(config: Config) -> Iterator[tuple[KeyPath, ExpertConfig]]:
    """Yield each expert with its place in the file; that of an adapter is below the runner of its base."""
    experts = iter(config.experts)
    for n, expert in enumerate(experts):
        yield ("experts", n), expert
        for name in expert.runner.adapters if expert.runner else ():
            yield ("experts", n, "runner", "adapters", name), next(experts)


def _check_experts(config: Config) -> Iterator[Violation]:
    seen: dict[str, KeyPath] = {}
    for at, expert in _locate_experts(config):
        is_adapter = len(at) > 2
        named = at if is_adapter else (*at, "name")
        if former := seen.get(expert.name):
            place = f"experts[{former[1]}]" if len(former) == 2 else f"an adapter of experts[{former[1]}]"
            yield named, f"'{expert.name}' is already the name of {place}; names are unique, rename one"
        seen.setdefault(expert.name, at)
        if expert.name == "auto" or expert.name.startswith("auto:"):
            yield named, "'auto' is reserved for policies; choose another name"
        if is_adapter:
            continue
        yield from _check_kind(expert, at)
        if expert.runner is not None:
            yield from _check_runner(expert.runner, (*at, "runner"))
            yield from _check_adapters(expert, expert.runner, (*at, "runner", "adapters"))
        if expert.released and not is_date(expert.released):
            yield (*at, "released"), f"'{expert.released}' is not a valid date; write it as 2024-07-18"
        yield from _check_settings(expert.settings, expert, (*at, "settings"))
        for k, deployment in enumerate(expert.deployments):
            yield from _check_settings(deployment.settings, expert, (*at, "deployments", k, "settings"))
        for path, base in _list_api_bases(expert, at):
            if why := find_address_fault(base):
                yield path, f"of '{expert.name}': {why}"
        for path, name, secret in _list_headers(expert, at):
            if why := find_header_fault(name, secret.reveal()):
                yield path, why


def _check_kind(expert: ExpertConfig, at: KeyPath) -> Iterator[Violation]:
    remote = bool(expert.api_base or expert.deployments or expert.api_key)
    if expert.runner and expert.tool:
        yield (*at, "tool"), "an expert cannot be both a runner and a tool; delete one of them"
    if (expert.runner or expert.tool) and remote:
        yield (
            at,
            "a runner or a tool runs in this gateway: delete api_base, api_key and deployments",
        )
    for key in ("rpm", "tpm"):
        if (expert.runner or expert.tool) and getattr(expert, key) is not None:
            yield (*at, key), "limits calls of other machines: delete it, a runner has n_parallel"
    # Reading the entry points opens files of every installed package: only where a tool is named.
    if expert.tool and expert.tool not in (tools := entry_points(group=TOOL_GROUP).names):
        yield (
            (*at, "tool"),
            f"'{expert.tool}' is not an installed tool; installed: {', '.join(sorted(tools)) or 'none'}",
        )
    if not expert.model:
        yield at, "set one of 'model', 'runner' or 'tool'"
    elif not (expert.runner or expert.tool) and (why := _find_provider_fault(expert)):
        yield (*at, "model"), why
    elif any(needs_address(expert.provider, place.api_base) for place in expert.effective_deployments()):
        yield at, f"api_base is missing: {expert.provider} has no address of its own"


def _find_provider_fault(expert: ExpertConfig) -> str | None:
    if "/" not in expert.model:
        maker = find_maker(expert.model) or "openai"
        return f"'{expert.model}' has no provider; write it as provider/model, such as {maker}/{expert.model}"
    if not expert.model.partition("/")[2]:
        return f"'{expert.model}' names no model after its provider"
    # The names of the direct providers need no file: most configurations name no others.
    if passes_through(expert.provider) or (known := list_providers()) is None or expert.provider in known:
        return None
    near = get_close_matches(expert.provider.lower(), known, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}/'?" if near else "`openai/…` with api_base calls any such server"
    return f"no provider is named '{expert.provider}'; {hint}"


def _check_settings(settings: ProviderSettings, expert: ExpertConfig, at: KeyPath) -> Iterator[Violation]:
    for name in settings.other:
        if name in settings.__struct_fields__ or name in OWN_ARGUMENTS:
            yield (*at, "other", name), "has a key of its own; write it there"
    for name in settings.as_arguments():
        if passes_through(expert.provider) or expert.runner or expert.tool:
            yield (*at, name), f"'{expert.name}' is called without LiteLLM, which alone reads this; delete it"
        for prefix, providers in PROVIDERS_OF_SETTINGS.items():
            if name.startswith(prefix) and expert.provider not in providers:
                yield (*at, name), f"is a setting of {providers[0]}; '{expert.name}' is of {expert.provider}"


def _check_aliases(config: Config) -> Iterator[Violation]:
    embedders = {BASE_EMBEDDER, *config.embeddings.experts} if config.embeddings.enabled else set()
    experts = {expert.name for expert in config.experts}
    policies = {"auto", *(f"auto:{name}" for name in ("auto", *config.policies))}
    targets = experts | policies | embedders
    for alias, target in config.aliases.items():
        at: KeyPath = ("aliases", alias)
        if alias == "auto" or alias.startswith("auto:"):
            yield at, "'auto' is reserved for policies; choose another name"
        elif alias in experts or alias in embedders:
            kind = "expert" if alias in experts else "embedder"
            yield at, f"there is an {kind} of this name already; delete the alias, or rename the {kind}"
        # One step only: a reader should see at once which expert answers.
        elif target in config.aliases:
            yield at, f"'{target}' is an alias itself; write what it stands for: {config.aliases[target]}"
        elif target not in targets:
            near = get_close_matches(target, targets, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(sorted(targets))}"
            yield at, f"there is no expert or policy '{target}'; {hint}"


def _check_runner(runner: RunnerConfig, at: KeyPath) -> Iterator[Violation]:
    for key, engine in ENGINE_KEYS.items():
        given = getattr(runner, key) not in (None, (), "", NO_LLAMA_CPP)
        if given and runner.engine != engine:
            yield (*at, key), f"is only for engine '{engine}'; this runner has engine '{runner.engine}'"
    if runner.engine != "command":
        return
    try:
        words = split_command(runner.cmd) if isinstance(runner.cmd, str) else runner.cmd
    except ValueError:
        yield (*at, "cmd"), "a quotation mark has no partner; close it, or write the command as a list"
        return
    if not words:
        yield at, "engine 'command' needs the key 'cmd', with ${PORT} in it"
    elif SHELLS.isdisjoint(word.rpartition("/")[2] for word in words):
        try:
            check_references(" ".join(words), in_command=True)
        except UnresolvedReferenceError as error:
            yield (*at, "cmd"), str(error)


def _check_adapters(expert: ExpertConfig, runner: RunnerConfig, at: KeyPath) -> Iterator[Violation]:
    if not runner.adapters:
        return
    if runner.engine not in ADAPTER_ENGINES:
        engines = " and ".join(f"'{engine}'" for engine in ADAPTER_ENGINES)
        yield at, f"are only for engines {engines}; this runner has engine '{runner.engine}'"
    if expert.embeds:
        yield at, "are not supported for embedding models; delete them"
    if runner.engine == "vllm":
        for name in runner.adapters:
            adapter = runner.find_adapter(name)
            if adapter is not None and adapter.scale != 1.0:
                yield (*at, name, "scale"), "is only for engine 'llama.cpp'; vLLM applies adapters as trained"
        # Level 2 drops the adapters with the weights, and what is loaded again are those of the model; some
        # versions fail at it (vllm-project/vllm#39934).
        if runner.sleep == 2:
            yield (*at[:-1], "sleep"), "2 does not restore adapters; write 1, or 0 to end the process"


def _check_memory(config: Config) -> Iterator[Violation]:
    at: KeyPath = ("runners", "memory")
    memory = config.runners.memory
    sizes = {None: memory} if isinstance(memory, str) else memory or {}
    for device, size in sizes.items():
        if device is not None and not DEVICE_PATTERN.fullmatch(device):
            yield at, f"'{device}' is not a device; write cpu, cuda:0, cuda:1 …"
        try:
            size_bytes(size)
        except ValueError as error:
            yield at, str(error)


def find_address_fault(base: str) -> str | None:
    """Return why an address cannot be called, or None; without the address, which may hold a password."""
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError as error:
        # Only "Port out of range" is repeated: other messages of urllib quote the address.
        said = str(error) if "out of range" in str(error) else "its host or port cannot be read"
        return f"not an address: {said[0].lower()}{said[1:]}"
    if parts.username is not None or parts.password is not None:
        return "the address contains a user name or password; put keys into api_key or headers"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "not an address: it must start with http:// or https:// and name a host"
    if port == 0:
        return "not an address: port must be 1–65535"
    if any(char.isspace() for char in base):
        return "not an address: it contains a space"
    return None


def is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _list_api_bases(expert: ExpertConfig, at: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if expert.api_base:
        yield (*at, "api_base"), expert.api_base
    for n, deployment in enumerate(expert.deployments):
        if deployment.api_base:
            yield (*at, "deployments", n, "api_base"), deployment.api_base


def _list_headers(expert: ExpertConfig, at: KeyPath) -> Iterator[tuple[KeyPath, str, Secret]]:
    """What is sent with every call: keys too."""
    places = [(at, expert.api_key, expert.headers)]
    for n, deployment in enumerate(expert.deployments):
        places.append(((*at, "deployments", n), deployment.api_key, deployment.headers))
    for place, key, headers in places:
        if key is not None:
            yield (*place, "api_key"), "authorization", key
        for name, value in headers.items():
            yield (*place, "headers", name), name, value


def _check_policies(config: Config) -> Iterator[Violation]:
    names = {expert.name for expert in config.experts}
    tools = {expert.name for expert in config.experts if expert.tool}
    embedding = {expert.name for expert in config.experts if expert.embeds}
    local = {expert.name for expert in config.experts if expert.is_local}
    for name, policy in config.policies.items():
        at: KeyPath = ("policies", name)
        aims = policy.objective
        if aims.cost and (aims.max_usd_per_1k is not None or aims.target_quality is not None):
            yield (
                (*at, "objective", "cost"),
                "a target sets this weight; keep either the weight or the target",
            )
        mentioned = [("default", policy.default)] if policy.default else []
        mentioned += [("require.models", model) for model in policy.require.models or ()]
        mentioned += [("require.exclude", model) for model in policy.require.exclude]
        for category, mapped in policy.mapping.items():
            mentioned += [(f"mapping.{category}", expert) for expert in mapped]
        panel = policy.plan.panel
        if panel is not None and panel.aggregator not in ("auto", "vote"):
            mentioned.append(("plan.panel.aggregator", panel.aggregator))
            if panel.aggregator in tools:
                yield (
                    (*at, "plan", "panel", "aggregator"),
                    f"'{panel.aggregator}' is a tool and cannot compare answers; name an expert",
                )
        if panel is not None:
            yield from _check_recruiting(panel, (*at, "plan", "panel"), tools)
            if panel.keywords not in (None, BY_TEXT):
                mentioned.append(("plan.panel.keywords", str(panel.keywords)))
                if policy.require.local and panel.keywords not in local:
                    yield (
                        (*at, "plan", "panel", "keywords"),
                        f"'{panel.keywords}' is not local, and would read prompts that `require.local`"
                        " keeps here; name a local expert, or text",
                    )
        for key, expert in mentioned:
            if expert not in names:
                known = ", ".join(sorted(names)) or "none"
                yield (*at, *key.split(".")), f"there is no expert '{expert}'; experts: {known}"
            elif expert in embedding and key != "require.exclude":
                yield (
                    (*at, *key.split(".")),
                    f"'{expert}' makes embeddings and is called by name only; name another expert",
                )


def _check_recruiting(panel: PanelConfig, at: KeyPath, tools: Collection[str]) -> Iterator[Violation]:
    if panel.keywords in tools:
        yield (*at, "keywords"), f"'{panel.keywords}' is a tool and tells no keywords; name a language model"
    if panel.keywords and panel.predictor not in SKILL_MODES:
        known = ", ".join(str(name) for name in SKILL_MODES if name)
        yield (
            (*at, "predictor"),
            f"named skills choose the members as one of {known} does; or take out keywords",
        )
    if panel.draw == "with_replacement" and panel.size != "fixed":
        yield (*at, "size"), "who is drawn with replacement makes a panel of fixed size; set size: fixed"


def _check_embedders(config: Config) -> Iterator[Violation]:
    encoder = config.routing.encoder
    if encoder != "none" and not is_embedder(encoder):
        yield (
            ("routing", "encoder"),
            f"there is no encoder {encoder!r}; it is minilm, none, an existing folder or file, or a hub id",
        )
    names = {expert.name: at for at, expert in _locate_experts(config)}
    if config.embeddings.enabled and BASE_EMBEDDER in names:
        place = names[BASE_EMBEDDER]
        yield (
            place if len(place) > 2 else (*place, "name"),
            f"'{BASE_EMBEDDER}' is the built-in embedder; rename it, or set embeddings.enabled: false",
        )
    for name in config.embeddings.experts:
        at: KeyPath = ("embeddings", "experts", name)
        if name in names:
            yield at, f"'{name}' is already the name of experts[{names[name][1]}]; names are unique"
        if name in (BASE_EMBEDDER, "auto") or name.startswith("auto:"):
            yield at, f"'{name}' is reserved; choose another name"


def find_warnings(config: Config) -> Iterator[str]:
    """Yield what is allowed but unwise."""
    if not config.experts:
        yield "no experts are configured; `thalamus init` finds some"
    for expert in config.experts:
        yield from _warn_about_literal(f"experts '{expert.name}'", expert.api_key)
        yield from _warn_about_receivers(expert)
        for deployment in expert.deployments:
            yield from _warn_about_literal(f"a deployment of '{expert.name}'", deployment.api_key)
    yield from _warn_about_literal("server.master_key", config.server.master_key)
    for name, values in config.server.keys.items():
        for value in values:
            yield from _warn_about_literal(f"server.keys.{name}", value)


def _warn_about_receivers(expert: ExpertConfig) -> Iterator[str]:
    for place in expert.effective_deployments():
        for variable in place.api_key.variables if place.api_key else ():
            if receiver := find_receiver(variable, expert.provider, place.api_base):
                yield (
                    f"experts '{expert.name}': {variable} is sent to {receiver}, though by its name it is "
                    f"another provider's key; use a key of {receiver}"
                )


def _warn_about_literal(where: str, secret: Secret | None) -> Iterator[str]:
    if secret is not None and secret.literal and len(secret.reveal()) > 8 and not is_hash(secret.reveal()):
        yield f"{where}: the key stands in the file; write os.environ/NAME to keep it out of version control"
