"""Checking that a checkpoint belongs to the same run, and naming the batch that broke a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.storage import AnyPath
from sae_lens_audio.activations import ActivationSource
from sae_lens_audio.architectures import TrainStepOutput
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.training.batches import Batch
from sae_lens_audio.training.config import RENAMED


def check_identity(ours: Mapping[str, Any], theirs: object, path: AnyPath) -> None:
    """
    Raises:
        TrainingError: the checkpoint is of another run; the message lists the differences.
    """
    ours = json.loads(json.dumps(ours))
    differences = sorted(_differences(ours, _modernized(theirs if isinstance(theirs, Mapping) else {}), ""))
    if differences:
        raise TrainingError(
            f"{path} is of another run ({'; '.join(differences[:4])}): continue with the same settings, choose another "
            "folder, or delete that one"
        )


def _modernized(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rename the keys of version 0.1."""
    renamed = {"sae" if key == "dictionary" else key: value for key, value in identity.items()}
    training = renamed.get("training")
    if isinstance(training, Mapping):
        renamed["training"] = {RENAMED.get(key, key): value for key, value in training.items()}
    return renamed


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str) -> list[str]:
    differences = []
    for key in {*ours, *theirs}:
        now, before, name = ours.get(key), theirs.get(key), f"{prefix}{key}"
        if isinstance(now, Mapping) and isinstance(before, Mapping):
            differences += _differences(now, before, f"{name}.")
        elif now != before:
            differences.append(f"{name} was {_short(before)}, now {_short(now)}")
    return differences


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def describe_batch(
    batch: Batch, source: ActivationSource, number: int, output: TrainStepOutput, norm: Float[Tensor, ""]
) -> str:
    """Describe the batch whose loss is not finite: recording and position of an activation that is not, if any."""
    start = batch.start
    step = f"step {number + 1} (epoch {start.epoch}, chunk {start.chunk}, rows {start.row} to {batch.end.row})"
    for hook, rows in zip(source.hooks, batch.rows, strict=True):
        bad = (~rows.isfinite()).any(1).nonzero().flatten()
        if len(bad):
            row = batch.indices[bad[0]]
            recording, position = int(batch.chunk.recording[row]), int(batch.chunk.position[row])
            return (
                f"{step}: {len(bad)} activations of {hook} are not finite, the first of recording "
                f"{source.ids[recording]!r} at position {position}: leave it out, or collect it again"
            )
    terms = ", ".join(
        f"{name} {getattr(output, name).item():.4g}" for name in ("reconstruction", "sparsity", "auxiliary")
    )
    return (
        f"{step}: the loss is not finite ({terms}; gradient norm {norm.item():.4g}) though the activations are. The "
        "weights before it are kept: use a lower lr, a longer warm-up, or clip_norm"
    )
