"""The edits of the page as a Python script that makes the same change."""

from __future__ import annotations

from collections.abc import Callable

from hooked_whisper.explorer.clips import HeardClip
from hooked_whisper.explorer.edits import Edits


def python_code(
    edits: Edits, source: str, clip: HeardClip, clips: Callable[[str], HeardClip], language: str = "en"
) -> str:
    """Return a script that makes the same edits and prints the change. source: argument of ``from_pretrained``."""
    names = {"compare_transcript"}
    steps: list[str] = []
    arguments: list[str] = []
    changes: list[str] = []
    sources = [clip.source]
    for i, swap in enumerate(edits.swaps, 1):
        other = clips(swap.clip)
        sources.append(other.source)
        steps += [
            f"other_{i} = model.embed_audio(model.to_mel({other.source}))",
            f"shift = model.time.position({swap.start:g}) - model.time.position({swap.begin:g})",
            f"swap_{i} = replace_encoder(model, ({swap.start:g}, {swap.end:g}), other_{i}.roll(shift, 1), "
            'unit="seconds")',
        ]
        changes.append(f"swap_{i}")
    if edits.cuts:
        spans = ", ".join(f"({a:g}, {b:g})" for a, b in edits.cuts)
        steps.append(f'cut = replace_encoder(model, [{spans}], "padding", unit="seconds", margin={edits.margin:g})')
        changes.append("cut")
    if changes:
        names.add("replace_encoder")
        nested = "x"
        for name in changes:
            nested = f"{name}({nested})"
        arguments.append(f"encoder_edit={changes[0] if len(changes) == 1 else f'lambda x: {nested}'}")
    hooks = [f"ablate_heads(model, {[str(head) for head in edits.head_refs]})"] if edits.heads else []
    if edits.units:
        hooks.append(f"ablate_neurons(model, {list(edits.units)})")
    names |= {hook.partition("(")[0] for hook in hooks}
    if hooks:
        steps.append(f"hooks = {' + '.join(hooks)}")
        arguments.append("fwd_hooks=hooks")
    if edits.window is not None:
        names.add("window_masks")
        arguments.append(f"attn_masks=window_masks(model, {edits.window})")
    arguments.append(f"max_new_tokens={clip.most_tokens}")
    if language != "en":
        arguments.append(f"language={language!r}")
    return "\n".join(
        [
            "from hooked_whisper import HookedWhisper",
            *_imports(sources),
            f"from hooked_whisper.interventions import {', '.join(sorted(names))}",
            *(["from hooked_whisper.synthetic import SyntheticCorpus"] if _uses(sources, "SyntheticCorpus") else []),
            "",
            f"model = HookedWhisper.from_pretrained({source!r})",
            *(
                ["packaged = {recording.id: recording for recording in packaged_speech()}"]
                if _uses(sources, "packaged[")
                else []
            ),
            f"mel = model.to_mel({clip.source})",
            *steps,
            f"print(compare_transcript({', '.join(['model', 'mel', *arguments])}))",
            "",
        ]
    )


def _imports(sources: list[str]) -> list[str]:
    return ["from hooked_whisper.corpora import Clip, packaged_speech"] if _uses(sources, "packaged[") else []


def _uses(sources: list[str], name: str) -> bool:
    return any(name in source and not source.startswith(("'", '"')) for source in sources)
