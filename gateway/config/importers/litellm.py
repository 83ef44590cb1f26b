"""From a LiteLLM proxy configuration to ours: experts, policies for divided names, aliases."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from ..secrets import REFERENCE
from .litellm_entries import TIMEOUTS, EntryReader, ModelListItem, Upstream, convert_timeouts, first_number
from .litellm_rules import ModelRules, Table
from .result import (
    ExpertNames,
    ImportedConfig,
    ImportFailedError,
    ImportNotes,
    finish,
    is_reserved,
    make_name,
    read_mapping,
)

COMMAND = "import-litellm"


def import_litellm(
    text: str, source: str, table: Table | None = None, load: Callable[[], Any] | None = None
) -> ImportedConfig:
    """Our configuration, made of a LiteLLM proxy configuration.

    `table` is LiteLLM's table of models. `load` imports LiteLLM, which takes seconds: it is called only for
    a model without a provider.

    Raises:
        ImportFailedError: the text is not YAML, or has no `model_list`.
    """
    data, lines = read_mapping(text, "model_list", "LiteLLM")
    if not isinstance(data["model_list"], list):
        raise ImportFailedError(":1: 'model_list' is not a list: this is not a LiteLLM configuration")
    notes = ImportNotes()
    entries = [
        ModelListItem(item, lines.get(("model_list", n), 1), f"model_list[{n}]")
        for n, item in enumerate(data["model_list"])
    ]
    return _LiteLLMImport(data, entries, ModelRules(table or {}, load), notes).build(source)


class _LiteLLMImport:
    def __init__(
        self, data: dict[str, Any], entries: list[ModelListItem], rules: ModelRules, notes: ImportNotes
    ) -> None:
        self.data = data
        self.rules = rules
        self.lost = notes.lost
        self.changed = notes.changed
        self.notes = notes
        self.router = _section(data, "router_settings")
        self.settings = _section(data, "litellm_settings")
        self.entries = entries
        self.groups: dict[str, list[Upstream]] = {}
        self.experts: list[dict[str, Any]] = []
        self.chains: dict[str, list[str]] = {}
        self.policies: dict[str, Any] = {}
        self.timeouts = convert_timeouts(
            first_number(self.router.get("timeout"), self.settings.get("request_timeout")),
            first_number(self.router.get("stream_timeout")),
        )
        self.reader = EntryReader(rules, notes, self.timeouts)

    def build(self, source: str) -> ImportedConfig:
        wildcards = self._read_entries()
        self._expand_wildcards(wildcards)
        self.chains = self._read_chains()
        names = ExpertNames(self.notes, self.groups)
        targets = {group: self._convert_group(group, found, names) for group, found in self.groups.items()}
        aliases = {**names.aliases, **self._convert_aliases(targets)}
        self._fill_chains(targets)
        default = self._choose_default(targets)
        policies = {**({"auto": default} if default else {}), **self.policies}
        server = self._convert_server()
        self._list_rest()
        sections = {"experts": self.experts, "policies": policies, "aliases": aliases}
        sections |= {"timeouts": self.timeouts, "server": server}
        return finish(sections, self.notes, source, COMMAND)

    def _read_entries(self) -> list[ModelListItem]:
        """Fill the groups; the entries whose names are patterns come back."""
        wildcards = []
        for entry in self.entries:
            if entry.params is None:
                self.lost.append(f"line {entry.line}: {entry.place} has no litellm_params")
            elif not entry.name:
                self.lost.append(f"line {entry.line}: {entry.place} has no model_name")
            elif "*" in entry.name:
                wildcards.append(entry)
            else:
                self._add(entry)
        return wildcards

    def _add(self, entry: ModelListItem) -> None:
        upstream = self.reader.read(entry, self._with_credentials(entry))
        if upstream is not None:
            self.groups.setdefault(entry.name, []).append(upstream)

    def _with_credentials(self, entry: ModelListItem) -> dict[str, Any]:
        """The parameters, over those of the credential that they name."""
        params = dict(entry.params or {})
        named = params.get("litellm_credential_name")
        if named is None:
            return params
        for credential in self.data.get("credential_list") or ():
            if isinstance(credential, dict) and credential.get("credential_name") == named:
                values = credential.get("credential_values")
                return {**(values if isinstance(values, dict) else {}), **params}
        self.lost.append(f"{entry.name}: litellm_credential_name {named}: there is no such credential here")
        return params

    def _expand_wildcards(self, wildcards: list[ModelListItem]) -> None:
        """A router learns about a closed set: of a pattern only what the file names elsewhere can be kept."""
        mentioned = [name for name in self._list_mentions() if name not in self.groups]
        for entry in sorted(wildcards, key=lambda entry: -len(entry.name)):
            params = entry.params or {}
            model = str(params.get("model") or "")
            found = {
                name: _fill_wildcard(model, match.groups())
                for name in mentioned
                if (match := _wildcard_pattern(entry.name).fullmatch(name))
            }
            mentioned = [name for name in mentioned if name not in found]
            if "*" not in model and model not in self.groups:
                found = {model: model}
            for name, full in found.items():
                value = {**entry.value, "model_name": name, "litellm_params": {**params, "model": full}}
                self._add(ModelListItem(value, entry.line, entry.place))
            kept = ", ".join(f"'{name}'" for name in found if name in self.groups)
            self.lost.append(
                f"line {entry.line}: the wildcard '{entry.name}'"
                + (f", except {kept}, which this file names" if kept else "")
                + ": give each model that clients ask for an expert of its own"
            )

    def _list_mentions(self) -> list[str]:
        """Names that aliases and fallbacks use, in their order."""
        names = [target for target, _ in self._list_aliases().values()]
        for first, rest in self._list_chains():
            names += [first, *rest]
        defaults = self.settings.get("default_fallbacks")
        names += [str(name) for name in defaults] if isinstance(defaults, list) else []
        return [name for name in dict.fromkeys(names) if "*" not in name]

    def _convert_group(self, group: str, upstreams: list[Upstream], names: ExpertNames) -> str:
        """What stands for a name of the file: its expert, or a policy over the experts it became."""
        parts: dict[tuple[str, str, str], list[Upstream]] = {}
        for upstream in upstreams:
            parts.setdefault(upstream.identity(self.rules), []).append(upstream)
        if len(parts) == 1:
            name = names.claim(group) if group not in self.chains else self._stand_first(group, names)
            self.experts.append(self._build_expert(name, upstreams))
            return f"auto:{make_name(group)}" if group in self.chains else name
        members = {}
        for (kind, provider, _), found in parts.items():
            # The provider says enough where it has one model here; else the model has to be said.
            alone = sum(other[:2] == (kind, provider) for other in parts) == 1
            suffix = provider if alone else found[0].name.rpartition("/")[2]
            if kind == "embedding" and any(other[:2] == ("chat", provider) for other in parts):
                suffix += "-embedding"
            members[names.make_unique(make_name(f"{make_name(group)}-{suffix}"))] = found
        self.experts += [self._build_expert(name, found) for name, found in members.items()]
        return self._stand_for(group, members, names)

    def _stand_for(self, group: str, members: dict[str, list[Upstream]], names: ExpertNames) -> str:
        """The policy, or the one expert, that a divided name means from now on."""
        chats = [name for name, found in members.items() if found[0].kind == "chat"]
        listed = ", ".join(members)
        if not chats:
            target = next(iter(members))
            what = f"'{group}' means the first"
        else:
            policy = make_name(group)
            self.policies[policy] = {"default": chats[0], "require": {"models": chats}}
            target = f"auto:{policy}"
            what = f"'{group}' means the policy that chooses between them"
        if make_name(group) == group or not is_reserved(group):
            names.aliases[group] = target
        else:
            what = f"clients must ask for '{target}', because '{group}' has a meaning of its own here"
        self.changed.append(f"'{group}' names several models, which are now {listed}; {what}")
        return target

    def _build_expert(self, name: str, upstreams: list[Upstream]) -> dict[str, Any]:
        """One expert; several entries are its deployments."""
        first = upstreams[0]
        expert = {"name": name, "model": first.model, **first.expert}
        for other in upstreams[1:]:
            self.lost += [
                f"{name}: {key} of a further deployment (line {other.entry.line}) differs from the first's"
                for key, value in other.expert.items()
                if value != first.expert.get(key)
            ]
        if len(upstreams) == 1:
            return {**expert, **first.deployment}
        # Deployments may have names of their own (Azure) or regions in them (Bedrock).
        deployments = [
            {**upstream.deployment, **({"model": upstream.name} if upstream.name != first.name else {})}
            for upstream in upstreams
        ]
        return {**expert, "deployments": deployments}

    def _list_aliases(self) -> dict[str, tuple[str, bool]]:
        """alias → (what it stands for, whether it is hidden)."""
        found: dict[str, tuple[str, bool]] = {}
        for aliases in (self.settings.get("model_alias_map"), self.router.get("model_group_alias")):
            for alias, value in aliases.items() if isinstance(aliases, dict) else ():
                item = value if isinstance(value, dict) else {"model": value}
                found[str(alias)] = (str(item.get("model") or ""), item.get("hidden") is True)
        return found

    def _convert_aliases(self, targets: dict[str, str]) -> dict[str, str]:
        listed, aliases = self._list_aliases(), {}
        for alias, (first, hidden) in listed.items():
            target, seen = first, {alias}
            # LiteLLM follows aliases of aliases; here each says what it stands for.
            while target not in targets and target in listed and target not in seen:
                seen.add(target)
                target = listed[target][0]
            if target not in targets:
                self.lost.append(f"the alias '{alias}': there is no model '{first}' here")
            elif alias in targets:
                self.lost.append(f"the alias '{alias}': it is the name of a model as well")
            elif is_reserved(alias):
                self.lost.append(
                    f"the alias '{alias}': it has a meaning of its own here; ask for '{targets[target]}'"
                )
            else:
                aliases[alias] = targets[target]
                if hidden:
                    self.lost.append(f"the alias '{alias}' is hidden: here aliases are listed")
        return aliases

    def _list_chains(self) -> list[tuple[str, list[str]]]:
        """Every fallback list: the name, and those that follow it."""
        found = []
        for part in (self.router, self.settings):
            chains = part.get("fallbacks")
            for chain in chains if isinstance(chains, list) else ():
                for first, rest in chain.items() if isinstance(chain, dict) else ():
                    found.append(
                        (str(first), [str(n) for n in rest] if isinstance(rest, list) else [str(rest)])
                    )
        return found

    def _read_chains(self) -> dict[str, list[str]]:
        """The names that follow a name where its calls fail, where policies can say it; notes the rest."""
        chains: dict[str, list[str]] = {}
        aliases = {alias: target for alias, (target, _) in self._list_aliases().items()}
        for first, rest in self._list_chains():
            upstreams = self.groups.get(first, ())
            found = [n if n in self.groups else aliases.get(n, n) for n in rest]
            kept = [n for n in dict.fromkeys(found) if n != first and self._is_chat(n)]
            said = f"fallback {first} -> {', '.join(rest)}"
            if first in chains:
                self.lost.append(f"{said}: '{first}' has another list of fallbacks")
            elif not upstreams or first == "*":
                self.lost.append(f"{said}: there is no model '{first}' here")
            elif len({upstream.identity(self.rules) for upstream in upstreams}) > 1:
                self.lost.append(
                    f"{said}: '{first}' is a policy here, which ranks its experts for each prompt"
                )
            elif not kept or not self._is_chat(first) or is_reserved(make_name(first)) or is_reserved(first):
                self.lost.append(f"{said}: no chat model of this file is left to follow")
            else:
                chains[first] = kept
                missing = ", ".join(f"'{n}'" for n in found if n not in kept and n != first)
                self.lost += [f"{said}: there is no chat model {missing} here"] if missing else []
        return chains

    def _is_chat(self, group: str) -> bool:
        return group in self.groups and self.groups[group][0].kind == "chat"

    def _stand_first(self, group: str, names: ExpertNames) -> str:
        """The new name of an expert whose old one means it and its fallbacks from now on."""
        name = names.make_unique(
            make_name(f"{make_name(group)}-{self.groups[group][0].model.partition('/')[0]}")
        )
        names.aliases[group] = f"auto:{make_name(group)}"
        self.policies[make_name(group)] = {"default": name}
        return name

    def _fill_chains(self, targets: dict[str, str]) -> None:
        """Fallback lists become policies that ask their experts in this order for every prompt."""
        for first in self.chains:
            policy = self.policies[make_name(first)]
            members = list(dict.fromkeys(self._expand(first, targets, set())))
            policy |= {
                "require": {"models": members},
                "mapping": {"general": members},
                # 16 is the most that the schema allows.
                "n_fallbacks": min(len(members) - 1, 16),
            }
            self.changed.append(
                f"'{first}' now means the policy 'auto:{make_name(first)}': it asks {members[0]}, and where "
                f"that fails {', '.join(members[1:])}"
            )

    def _expand(self, group: str, targets: dict[str, str], seen: set[str]) -> list[str]:
        """The experts that stand for a name, and those of its own fallbacks, as LiteLLM goes through them."""
        seen.add(group)
        target = targets[group]
        policy = self.policies.get(target.removeprefix("auto:"), {}) if target.startswith("auto:") else {}
        if group in self.chains:
            rest = [name for name in self.chains[group] if name not in seen]
            return [policy["default"], *(e for name in rest for e in self._expand(name, targets, seen))]
        return list(policy["require"]["models"]) if policy else [target]

    def _choose_default(self, targets: dict[str, str]) -> dict[str, Any]:
        """`auto` begins with the first model that has fallbacks, and has as many as the longest list."""
        chains = self._list_chains()
        target = next((targets[first] for first, _ in chains if first in targets), None)
        if target is None:
            return {}
        if target.startswith("auto:"):
            target = self.policies[target.removeprefix("auto:")]["default"]
        longest = max(len(rest) for _, rest in chains)
        # Two is our default already.
        return {"default": target, **({"n_fallbacks": min(longest, 16)} if longest > 2 else {})}

    def _convert_server(self) -> dict[str, Any]:
        """The master key, by reference where it was one."""
        general = _section(self.data, "general_settings")
        self.lost += [f"general_settings.{key}" for key in general if key != "master_key"]
        key = general.get("master_key")
        if not isinstance(key, str):
            return {}
        if REFERENCE.fullmatch(key.strip()):
            return {"master_key": key.strip()}
        # A key that is written out must not be copied into a second file.
        self.lost.append(
            "general_settings.master_key is written out: put a new key into a variable and write "
            "`server: {master_key: os.environ/NAME}`; until then only this machine is admitted"
        )
        return {}

    def _list_rest(self) -> None:
        read = {
            "router_settings": {"fallbacks", "model_group_alias", *TIMEOUTS},
            "litellm_settings": {"fallbacks", "model_alias_map", "request_timeout"},
        }
        for key, value in self.data.items():
            if key in read and isinstance(value, dict):
                self.lost += [f"{key}.{name}" for name in value if name not in read[key]]
            elif key == "environment_variables" and isinstance(value, dict):
                self.lost += [f"environment_variables.{n}: set it where the gateway starts" for n in value]
            elif key == "include":
                files = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                self.lost.append(f"include: {files}: put its entries into this file and import it again")
            elif key not in ("model_list", "general_settings", "credential_list") and not key.startswith(
                "x-"
            ):
                self.lost.append(key)


def _section(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _wildcard_pattern(name: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, name.split("*"))))


def _fill_wildcard(model: str, parts: tuple[str, ...]) -> str:
    """The model with what the name had in the place of each `*`."""
    rest = iter(parts)
    return re.sub(r"\*", lambda star: next(rest, star[0]), model)
