"""The latents of each phone, learned on speech whose voices are not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import PHONES, Clip
from hooked_whisper.features import HookBasis, label_positions
from hooked_whisper.features.phones import features_of_clips
from hooked_whisper.protocols import SILENCE
from sae_lens_audio.architectures import SAE

NAMES = (SILENCE, *PHONES)
ROWS = 4096  # rows encoded at once


@dataclass(frozen=True, eq=False)
class PhoneLatents:
    """Mean activations of latents and of the residual stream by phone.

    means: of the latents at the positions of each phone; 0 for phones that do not occur.
    overall: of the latents at all positions. firing: share of positions at which each latent is active.
    f1: of the detector "the latent is active" for each phone.
    residual: mean of the residual stream at the positions of each phone.
    norms: of the decoder's directions.
    """

    means: Float[Tensor, "phone d_sae"]
    overall: Float[Tensor, "d_sae"]
    firing: Float[Tensor, "d_sae"]
    f1: Float[Tensor, "phone d_sae"]
    residual: Float[Tensor, "phone d"]
    norms: Float[Tensor, "d_sae"]
    counts: Int[Tensor, "phone"]

    def detector(self, phone: str) -> int:
        """Return the latent whose activity best detects the phone."""
        return int(self.f1[NAMES.index(phone)].argmax())

    def latents(self, phone: str, n: int) -> Int[Tensor, "n"]:
        """Return the ``n`` latents whose part of the activation grows most during the phone."""
        rise = (self.means[NAMES.index(phone)] - self.overall) * self.norms
        return rise.topk(n).indices

    def typical(self, phone: str, latents: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Return the mean activations of latents during the phone."""
        return self.means[NAMES.index(phone)][latents]

    def residual_difference(self, phone: str, other: str) -> Float[Tensor, "d"]:
        """Return the mean of the residual stream during ``other`` minus that during ``phone``."""
        return self.residual[NAMES.index(other)] - self.residual[NAMES.index(phone)]

    @classmethod
    @torch.no_grad()
    def learned(cls, model: HookedWhisper, sae: SAE, hook: str, clips: Sequence[Clip]) -> PhoneLatents:
        """Learn from clips with phone alignments; the encoder runs once per window."""
        rows = features_of_clips(model, clips, {"x": HookBasis(hook)})["x"]
        ids = np.concatenate(
            [label_positions(clip.alignment, _n_positions(model, clip), NAMES, model.time).ids for clip in clips]
        )
        return cls.of_rows(sae, rows, torch.from_numpy(ids))

    @classmethod
    @torch.no_grad()
    def of_rows(cls, sae: SAE, rows: Float[Tensor, "row d"], ids: Int[Tensor, "row"]) -> PhoneLatents:
        """Learn from activations and the phone of each (an index of ``NAMES``; negative: unlabeled)."""
        directions = sae.W_dec
        n_latents, device = len(directions), directions.device
        totals = torch.zeros(len(NAMES), n_latents, device=device)
        active = torch.zeros(len(NAMES), n_latents, device=device)
        overall, firing = torch.zeros(n_latents, device=device), torch.zeros(n_latents, device=device)
        residual = torch.zeros(len(NAMES), rows.shape[1], device=device)
        labels = ids.to(device)
        for x, label in zip(rows.split(ROWS), labels.split(ROWS), strict=True):
            x = x.to(directions)
            latents = sae.encode(x)
            overall += latents.sum(0)
            firing += (latents > 0).sum(0)
            known = label >= 0
            totals.index_add_(0, label[known], latents[known])
            active.index_add_(0, label[known], (latents[known] > 0).to(latents))
            residual.index_add_(0, label[known], x[known])
        counts = torch.bincount(labels[labels >= 0], minlength=len(NAMES))
        n = counts.clamp(min=1)[:, None]
        return cls(
            totals / n,
            overall / len(rows),
            firing / len(rows),
            2 * active / (firing + n),
            residual / n,
            directions.norm(dim=-1),
            counts,
        )


def _n_positions(model: HookedWhisper, clip: Clip) -> int:
    return model.time.n_positions(len(clip.samples) / model.time.sample_rate)
