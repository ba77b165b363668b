"""What a user may write for a hook point: exact names, published aliases, globs, regexes, predicates, lists of them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence

from hooked_whisper.errors import UnknownHookError, closest

Name = str | re.Pattern[str] | Callable[[str], bool]
Names = Name | Iterable[Name]

# What the names of a splice's points have behind the name of the point where it stands.
SPLICED = ".hook_sae_"

# Names that published work and openai-whisper's module tree use for the same tensors.
_ALIASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), target)
    for pattern, target in (
        (r"(encoder|decoder)\.blocks\.(\d+)", r"\1.blocks.\2.hook_resid_post"),
        (r"(encoder|decoder)\.blocks\.(\d+)\.mlp\.0", r"\1.blocks.\2.mlp.hook_pre"),
        (r"(encoder|decoder)\.blocks\.(\d+)\.mlp\.1", r"\1.blocks.\2.mlp.hook_post"),
        (r"(encoder|decoder)\.blocks\.(\d+)\.mlp(?:\.2)?", r"\1.blocks.\2.hook_mlp_out"),
        (r"(encoder|decoder)\.blocks\.(\d+)\.attn", r"\1.blocks.\2.hook_attn_out"),
        (r"decoder\.blocks\.(\d+)\.cross_attn", r"decoder.blocks.\1.hook_cross_attn_out"),
        (r"encoder\.conv([12])", r"encoder.conv\1.hook_pre"),
        (r"encoder(?:\.ln_post)?", r"encoder.hook_out"),
        (r"decoder\.token_embedding", r"decoder.hook_embed"),
        (r"decoder\.ln(?:_final)?", r"unembed.hook_in"),
        (r"decoder\.unembed\.(hook_in|hook_out)", r"unembed.\1"),
        (r"decoder|unembed|logits", r"unembed.hook_out"),
    )
)


def canonical_name(name: str) -> str:
    """The hook point a published name stands for; other names come back as they are."""
    site, dot, part = name.partition(SPLICED)
    for pattern, target in _ALIASES:
        match = pattern.fullmatch(site)
        if match:
            return match.expand(target) + dot + part
    return name


def unknown_name(name: str, known: Iterable[str]) -> UnknownHookError:
    near = closest(name, list(known))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if SPLICED in name and not any(SPLICED in k for k in known):
        hint += f"; points *{SPLICED}* are there inside `with model.attach_sae(...)` only"
    return UnknownHookError(f"no hook point is named {name!r}{hint} (model.hook_names() lists them all)")


def listed(names: Names) -> list[Name]:
    """One name or many, as a list."""
    if isinstance(names, (str, re.Pattern)) or callable(names):
        return [names]
    if not isinstance(names, Iterable):
        raise UnknownHookError(
            f"a hook name is a string, glob, regex, predicate or a list of them, not {type(names).__name__}"
        )
    return list(names)


def resolve_names(names: Names, known: Sequence[str]) -> list[str]:
    """Existing names for what was asked, in the order of ``known`` (execution order), each once.

    Raises :class:`UnknownHookError` if a listed string does not exist or a pattern or predicate matches nothing.
    """
    wanted: set[str] = set()
    for one in listed(names):
        wanted.update(_resolve_one(one, known))
    return [name for name in known if name in wanted]


def _resolve_one(name: Name, known: Sequence[str]) -> list[str]:
    if isinstance(name, str):
        if any(c in name for c in "*?["):
            found = fnmatch.filter(known, name)
            if not found:
                raise unknown_name(name, known)
            return found
        target = canonical_name(name)
        if target not in known:
            raise unknown_name(name, known)
        return [target]
    if isinstance(name, re.Pattern):
        found = [k for k in known if name.search(k)]
        what = f"the regular expression {name.pattern!r}"
    elif callable(name):
        found = [k for k in known if name(k)]
        what = f"the predicate {getattr(name, '__name__', name)!r}"
    else:
        raise UnknownHookError(
            f"a hook name is a string, glob, regex, predicate or a list of them, not {type(name).__name__}"
        )
    if not found:
        raise UnknownHookError(f"{what} matches no hook point (model.hook_names() lists them all)")
    return found
