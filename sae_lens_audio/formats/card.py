"""Cards of SAEs on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hooked_whisper.loading.hub_cards import card, markdown_table, package_version
from sae_lens_audio.architectures import SAE, NormalizedSAE
from sae_lens_audio.architectures.metadata import Metadata

_SCORES = {
    "explained_variance": "explained variance",
    "l0": "active features per position (L0)",
    "dead": "share of features that never fire",
    "rows": "activations",
    "corpus": "speech",
}
_SCORED_ON = {"held_out": "held-out speakers", "voices": "held-out neural voices", "human": "human speech"}
_BENCHMARK_NOTE = (
    "Value, 95 % interval by speaker, unit. Windows are filled with several sentences of one speaker, as in training; "
    "for the scores on voices and human speech above, each window has one sentence."
)
_RUN = {
    "recipe": "recipe",
    "command": "command",
    "trained_rows": "activations seen in training",
    "seconds": "seconds of training",
    "machine": "machine",
}
_SPEECH = {
    "kokoro": ("Kokoro-82M, neural voices", "Apache-2.0"),
    "flite": ("flite, statistical voices slt, rms and awb", "free, BSD-like"),
    "human": ("Asterisk's prompts, human speakers", "CC BY-SA 3.0, Russian CC BY 3.0"),
}


def sae_card(
    sae: SAE | NormalizedSAE, metadata: Metadata, repo_id: str, folder: str, license: str | None, saelens: str
) -> bytes:
    """Return the card of an SAE on the hub: what it reads, its configuration, scores and training recipe.

    saelens: SAELens' name of the architecture.
    """
    return describe_sae(
        sae,
        metadata,
        title=folder.rpartition("/")[2] or repo_id.partition("/")[2],
        arguments=f'"{repo_id}"' + (f', "{folder}"' if folder else ""),
        origin=f"uploaded with sae_lens_audio {package_version()}",
        license=license,
        saelens=saelens,
    )


def describe_sae(
    sae: SAE | NormalizedSAE,
    metadata: Metadata,
    *,
    title: str,
    arguments: str,
    origin: str,
    license: str | None,
    saelens: str,
    after_example: str = "",
    limits: str = "",
) -> bytes:
    """Return a card of an SAE.

    Args:
        arguments: of ``SAE.from_pretrained``. origin: how the SAE comes to the reader, as part of a sentence.
        after_example, limits: Markdown after the loading example and after the scores.
    """
    facts = {
        "hook point": metadata.hook_name,
        "predicts": metadata.hook_name_out,
        "model": metadata.checkpoint,
        "model's weights (SHA-256)": metadata.checkpoint_sha256,
        "training activations": metadata.corpus,
        "padding": metadata.padding,
        "architecture in SAELens": saelens,
        **asdict(sae.inner.config),
    }
    body = f"""# {title}

A sparse autoencoder ({sae.inner.architecture}, {sae.n_features} features) of {metadata.hook_name or "a hook point"} in
{metadata.checkpoint or "a Whisper model"}, {origin}. The files have SAELens'
format.

```python
from sae_lens_audio import SAE

sae = SAE.from_pretrained({arguments})
print(sae.cfg.hook_name)
```

{after_example}{markdown_table(facts)}
"""
    extra = metadata.extra
    return card(_front(license), body + _scores(extra) + limits + _speech(extra) + _recipe(extra))


def collection_card(repo_id: str, license: str | None) -> bytes:
    """Return the card of a repository that has SAEs in folders."""
    body = f"""# {repo_id.partition("/")[2]}

Sparse autoencoders of Whisper, one per folder, in SAELens' format. Each folder has a card with its scores.

```python
from sae_lens_audio import SAE

sae = SAE.from_pretrained("{repo_id}", "FOLDER")
```
"""
    return card(_front(license), body)


def _front(license: str | None) -> dict[str, Any]:
    tags = ["saelens", "sparse-autoencoder", "whisper", "audio", "hooked_whisper"]
    return {"license": license, "library_name": "sae_lens_audio", "tags": tags}


def _scores(extra: Mapping[str, Any]) -> str:
    columns = {title: extra[key] for key, title in _SCORED_ON.items() if isinstance(extra.get(key), Mapping)}
    if not columns:
        return ""
    names = [name for name in _SCORES if any(name in scores for scores in columns.values())]
    names += [name for scores in columns.values() for name in scores if name not in names]
    rows = [[_SCORES.get(name, name), *(scores.get(name, "") for scores in columns.values())] for name in names]
    text = f"\n## Scores\n\n{_table(['', *columns], rows)}\n"
    rounding = extra.get("float16")
    if isinstance(rounding, Mapping):
        changes = ", ".join(f"{_SCORES.get(name, name)} {value:+.1e}" for name, value in rounding.items())
        text += f"\nRounding the weights to float16 changed the scores of the last column by: {changes}.\n"
    benchmark = extra.get("benchmark")
    if isinstance(benchmark, Mapping):
        text += f"\n### Benchmark\n\n{_BENCHMARK_NOTE}\n\n{markdown_table(benchmark)}\n"
    return text


def _speech(extra: Mapping[str, Any]) -> str:
    hours = extra.get("speech_hours")
    if not isinstance(hours, Mapping):
        return ""
    rows = []
    for name, value in hours.items():
        described, license = _SPEECH.get(name, (name, ""))
        rows.append([described, f"{value:.1f} h", license])
    return f"\n## Training speech\n\n{_table(['speech', 'duration', 'license'], rows)}\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _recipe(extra: Mapping[str, Any]) -> str:
    training = extra.get("training")
    if not isinstance(training, Mapping):
        return ""
    rows = {title: extra.get(key) for key, title in _RUN.items()} | dict(training)
    return f"\n## Training\n\n{markdown_table(rows)}\n"
