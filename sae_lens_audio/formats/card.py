"""Cards of SAEs on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hooked_whisper.loading.hub_cards import card, markdown_table, package_version
from sae_lens_audio.architectures import SAE, NormalizedSAE
from sae_lens_audio.architectures.metadata import Metadata

_SCORES = {
    "explained_variance": "explained variance",
    "l0": "active features per position (L0)",
    "dead": "share of features that never fire",
    "rows": "held-out activations",
}


def sae_card(
    sae: SAE | NormalizedSAE, metadata: Metadata, repo_id: str, folder: str, license: str | None, saelens: str
) -> bytes:
    """Return the card of an SAE: what it reads, its configuration, held-out scores and training recipe.

    saelens: SAELens' name of the architecture.
    """
    name = folder.rpartition("/")[2] or repo_id.partition("/")[2]
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
    argument = f', "{folder}"' if folder else ""
    body = f"""# {name}

A sparse autoencoder ({sae.inner.architecture}, {sae.n_features} features) of {metadata.hook_name or "a hook point"} in
{metadata.checkpoint or "a Whisper model"}, uploaded with sae_lens_audio {package_version()}. The files have SAELens'
format.

```python
from sae_lens_audio import SAE

sae = SAE.from_pretrained("{repo_id}"{argument})
print(sae.cfg.hook_name)
```

{markdown_table(facts)}
"""
    return card(_front(license), body + _scores(metadata.extra) + _recipe(metadata.extra))


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
    scores = extra.get("held_out")
    if not isinstance(scores, Mapping):
        return ""
    rows = {_SCORES.get(str(key), str(key)): value for key, value in scores.items()}
    return f"\n## Scores on held-out speakers\n\n{markdown_table(rows)}\n"


def _recipe(extra: Mapping[str, Any]) -> str:
    training = extra.get("training")
    if not isinstance(training, Mapping):
        return ""
    return f"\n## Training\n\n{markdown_table(training)}\n"
