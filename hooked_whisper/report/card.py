"""The description of the model on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hooked_whisper.hooked import HookedWhisper

_LABELS = {
    "command": "trained by",
    "recipe": "recipe",
    "steps": "steps",
    "seed": "seed",
    "commit": "commit",
    "train_speakers": "speakers heard in training",
    "held_out_speakers": "held-out speakers",
}
_SPLITS = {
    "sentences": "held-out sentences, known speakers",
    "speakers": "held-out sentences, held-out speakers",
    "bigrams": "word pairs never heard in training",
}


@dataclass(frozen=True)
class ModelCard:
    """The name of a model, rows of facts, and one line for the top of the page."""

    name: str
    rows: tuple[tuple[str, str], ...]
    summary: str = ""


def model_card(model: HookedWhisper, metadata: Mapping[str, str]) -> ModelCard:
    """Describe the architecture and the metadata of the weights: word error rates, training command, seed, commit."""
    enc, dec = model.cfg.encoder, model.cfg.decoder
    n = sum(p.numel() for p in model.parameters())
    rows = [
        (
            "architecture",
            f"Whisper, {enc.n_layers} encoder and {dec.n_layers} decoder blocks, d_model {enc.d_model}, "
            f"{enc.n_heads} heads, {enc.n_ctx} positions, {enc.n_mels} mels, {dec.n_vocab} tokens",
        ),
        ("parameters", f"{n / 1e6:.1f} million"),
    ]
    rows += _error_rates(metadata.get("wer", ""))
    rows += [(label, metadata[key]) for key, label in _LABELS.items() if metadata.get(key)]
    rows += [(key, text) for key, text in metadata.items() if key not in (*_LABELS, "wer") and text]
    summary = f"{enc.n_layers} encoder and {dec.n_layers} decoder blocks, {n / 1e6:.1f} million parameters"
    if metadata.get("train_speakers"):
        summary += "; trained on synthetic speech, not a released Whisper"
    return ModelCard(model.cfg.name, tuple(rows), summary)


def _error_rates(text: str) -> list[tuple[str, str]]:
    """Format ``wer`` of the metadata: JSON by split, or any other text unchanged."""
    try:
        splits: Any = json.loads(text)
        return [
            (
                f"word error rate, {_SPLITS.get(name, name)}",
                f"{100 * row['wer']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}] "
                f"({row['utterances']} utterances)",
            )
            for name, row in splits.items()
            if isinstance(row, dict) and {"wer", "low", "high", "utterances"} <= set(row)
        ]
    except (ValueError, AttributeError, TypeError, KeyError):
        return [("word error rate", text)] if text else []
