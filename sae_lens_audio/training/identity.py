"""Whether a checkpoint is of the same run, and which batch broke one."""

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


def check_identity(ours: Mapping[str, Any], theirs: object, path: AnyPath) -> None:
    """Raises :class:`TrainingError` that lists what differs."""
    ours = json.loads(json.dumps(ours))
    found = sorted(_differences(ours, theirs if isinstance(theirs, Mapping) else {}, ""))
    if found:
        raise TrainingError(
            f"{path} is of another run ({'; '.join(found[:4])}): go on with the same settings, choose another folder, "
            "or delete that one"
        )


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> list[str]:
    found = []
    for key in {*ours, *theirs}:
        mine, other, name = ours.get(key), theirs.get(key), f"{where}{key}"
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            found += _differences(mine, other, f"{name}.")
        elif mine != other:
            found.append(f"{name} was {_short(other)}, now {_short(mine)}")
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def name_the_batch(
    batch: Batch, blocks: ActivationSource, number: int, losses: TrainStepOutput, norm: Float[Tensor, ""]
) -> str:
    """What was trained on when the loss was not finite: recordings and positions if an activation was not either."""
    at = batch.at
    where = f"step {number + 1} (epoch {at.epoch}, block {at.block}, rows {at.row} to {batch.after.row})"
    for hook, rows in zip(blocks.hooks, batch.rows, strict=True):
        bad = (~rows.isfinite()).any(1).nonzero().flatten()
        if len(bad):
            row = batch.chosen[bad[0]]
            recording, position = int(batch.block.recording[row]), int(batch.block.position[row])
            return (
                f"{where}: {len(bad)} activations of {hook} are not finite, the first of recording "
                f"{blocks.ids[recording]!r} at position {position}: leave it out, or collect it again"
            )
    terms = ", ".join(
        f"{name} {getattr(losses, name).item():.4g}" for name in ("reconstruction", "sparsity", "auxiliary")
    )
    return (
        f"{where}: the loss is not finite ({terms}; gradient norm {norm.item():.4g}) though the activations are. The "
        "weights before it are kept: take a lower lr, a longer warm-up, or clip_norm"
    )
