"""Packaged SAEs of released models, and SAEs of training runs, if they fit the checkpoint."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from hooked_whisper.errors import CheckpointError
from hooked_whisper.findings.core.context import Context, released_name
from hooked_whisper.loading import weights_sha256
from sae_lens_audio.architectures import SAE, NormalizedSAE
from sae_lens_audio.formats import LoadedSAE
from sae_lens_audio.pretrained.catalog import sae_id_of
from sae_lens_audio.releases import load_release

log = logging.getLogger(__name__)
RESIDUAL = ".hook_resid_post"


@dataclass(frozen=True)
class Origin:
    """Where an SAE of a finding is from.

    Attributes:
        recipe: release and id of an SAE that was there, such as ``"tiny.en encoder.blocks.2/tied-200"``; empty if it
            was trained in this run.
        sha256: start of the SHA-256 of its file of weights.
        steps: number of training steps; 0 if unknown.
    """

    recipe: str = ""
    sha256: str = ""
    steps: int = 0

    @property
    def is_loaded(self) -> bool:
        return bool(self.recipe)

    def __str__(self) -> str:
        steps = f"{self.steps:,} steps" if self.steps else ""
        if not self.is_loaded:
            return f"trained in this run, {steps}"
        return ", ".join(filter(None, (self.recipe, f"sha256 {self.sha256}", steps)))


def packaged_sae(
    context: Context, hook: str, architecture: str, runs: Path | None = None
) -> tuple[SAE | NormalizedSAE, Origin] | None:
    """Return the packaged SAE of an architecture at a hook point, in float32 on the model's device.

    runs: folder of training runs, whose SAEs are used too.

    Returns:
        ``None`` if there is no such SAE for the model, or it belongs to other weights.
    """
    release, sae_id = released_name(context.model.cfg.name), f"{hook.removesuffix(RESIDUAL)}/{architecture}"
    try:
        loaded = load_release(release, sae_id, runs=runs)
    except CheckpointError as error:
        log.info("%s of %s: %s", sae_id, release, error)
        return None
    about, inner = loaded.metadata, loaded.sae.inner
    digest = context.once("weights", lambda: weights_sha256(context.model))
    if about.checkpoint_sha256 != digest or about.hook_name != hook:
        log.warning(
            "the SAE %s of %s reads %s of other weights than these: SAEs are trained instead",
            sae_id, release, about.hook_name,
        )  # fmt: skip
        return None
    name = sae_id_of(about, architecture, inner.d_in, inner.n_features)
    origin = Origin(f"{release} {name}", _digest(loaded), _steps(loaded))
    return loaded.sae.float().to(context.model.device), origin


def _digest(loaded: LoadedSAE) -> str:
    return hashlib.sha256(Path(str(loaded.source)).read_bytes()).hexdigest()[:12]


def _steps(loaded: LoadedSAE) -> int:
    training = loaded.metadata.extra.get("training")
    steps = training.get("steps") if isinstance(training, dict) else None
    return steps if isinstance(steps, int) else 0
