"""How users name hook points: exact names, published aliases, globs, regexes, predicates, lists of them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from hooked_whisper.errors import UnknownHookError, closest
from hooked_whisper.hooks.hook_point import HookPoint

Name = str | re.Pattern[str] | Callable[[str], bool]
Names = Name | Iterable[Name]

# Points of an attached SAE are named <point where it is attached>.hook_sae_<part>
SAE_PART = ".hook_sae_"

_BLOCK = re.compile(r"(encoder|decoder)\.blocks\.(-?\d+)(?=\.|$)")
_NAME_FORMS = "a hook name is a string, glob, regex, predicate or a list of them"


def point_aliases(point: HookPoint, path: str) -> list[str]:
    """Return the full aliases of the point at a module path, including the path if the point's name differs."""
    parent = path.rpartition(".")[0]
    aliases = [f"{parent}{alias.rstrip('.')}" if alias.startswith(".") else alias for alias in point.aliases]
    return aliases if point.name == path else [*aliases, path]


def resolve_alias(name: str, aliases: Mapping[str, str]) -> str:
    """Return the hook name that an alias stands for; other names are returned unchanged."""
    site, separator, part = name.partition(SAE_PART)
    return aliases.get(site, site) + separator + part


def unknown_name(name: str, known: Iterable[str], all_names: Iterable[str] = ()) -> UnknownHookError:
    """Return the error for an unknown hook name, with the closest names.

    known: names to suggest. all_names: names of the model, if ``known`` is only a part of them.
    """
    known = list(known)
    near = closest(name, known)
    hint = _missing_block(name, [*known, *all_names]) + (f"; did you mean {' or '.join(near)}?" if near else "")
    if SAE_PART in name and not any(SAE_PART in k for k in known):
        hint += f"; points *{SAE_PART}* exist only inside `with model.attach_sae(...)`"
    return UnknownHookError(f"no hook point is named {name!r}{hint} (model.hook_names() lists them all)")


def _missing_block(name: str, known: Iterable[str]) -> str:
    """Return which blocks the stack has, if ``name`` names a block that does not exist."""
    match = _BLOCK.match(name)
    if match is None:
        return ""
    stack, block = match.groups()
    blocks = {int(other[2]) for other in map(_BLOCK.match, known) if other is not None and other[1] == stack}
    if not blocks or int(block) in blocks:
        return ""
    last = max(blocks)
    return f": the {stack} has {f'blocks 0 to {last}' if last else 'only block 0'}"


def listed(names: Names) -> list[Name]:
    """Return one name or many as a list."""
    if isinstance(names, (str, re.Pattern)) or callable(names):
        return [names]
    if not isinstance(names, Iterable):
        raise UnknownHookError(f"{_NAME_FORMS}, not {type(names).__name__}")
    return list(names)


def resolve_names(names: Names, known: Sequence[str], aliases: Mapping[str, str] | None = None) -> list[str]:
    """Return the existing names that ``names`` selects, each once, in the order of ``known`` (execution order).

    Raises:
        UnknownHookError: a listed string does not exist, or a pattern or predicate matches nothing.
    """
    matches: set[str] = set()
    for name in listed(names):
        matches.update(_resolve_one(name, known, aliases or {}))
    return [name for name in known if name in matches]


def _resolve_one(name: Name, known: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    if isinstance(name, str):
        if any(c in name for c in "*?["):
            matches = fnmatch.filter(known, name)
            if not matches:
                raise unknown_name(name, known)
            return matches
        target = resolve_alias(name, aliases)
        if target not in known:
            raise unknown_name(name, [*known, *aliases])
        return [target]
    if isinstance(name, re.Pattern):
        matches = [k for k in known if name.search(k)]
        description = f"the regular expression {name.pattern!r}"
    elif callable(name):
        matches = [k for k in known if name(k)]
        description = f"the predicate {getattr(name, '__name__', name)!r}"
    else:
        raise UnknownHookError(f"{_NAME_FORMS}, not {type(name).__name__}")
    if not matches:
        raise UnknownHookError(f"{description} matches no hook point (model.hook_names() lists them all)")
    return matches
