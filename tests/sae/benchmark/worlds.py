"""Planted activations for the benchmark: one direction per phone, so that the right answers are known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hooked_whisper.features.bases import LinearBasis
from sae_lens_audio.architectures import TopK, TopKConfig
from sae_lens_audio.benchmark import BenchmarkData, Subject

PHONES, SPEAKERS, CLIPS_EACH, LENGTH, D = ("a", "b", "c"), 6, 4, 60, 8
HOOK = "encoder.blocks.1.hook_resid_post"


def planted_rows(seed: int = 0, noise: float = 0.01) -> BenchmarkData:
    """Runs of 5 positions of silence or of a phone, whose direction has length 1 there."""
    rng = np.random.default_rng(seed)
    n_clips = SPEAKERS * CLIPS_EACH
    kinds = rng.integers(-1, len(PHONES), (n_clips, LENGTH // 5))
    phone = np.repeat(kinds, 5, axis=1).reshape(-1)
    x = np.zeros((len(phone), D))
    x[np.arange(len(phone))[phone >= 0], phone[phone >= 0]] = 1
    rows = torch.from_numpy(x + noise * rng.standard_normal(x.shape)).float()
    clip = np.repeat(np.arange(n_clips), LENGTH)
    speaker = clip // CLIPS_EACH
    return BenchmarkData(
        model="planted",
        hook=HOOK,
        rows={HOOK: rows},
        fitted={HOOK: rows},
        phones=PHONES,
        phone=phone,
        silent=phone < 0,
        speaker=speaker,
        clip=clip,
        fold=speaker % 3,
        token=np.tile(np.repeat(np.arange(LENGTH // 5), 5), n_clips),
        speakers=tuple(f"s{i}" for i in range(SPEAKERS)),
    )


def perfect(n: int = D) -> TopK:
    """One latent per direction, at most one active."""
    sae = TopK(TopKConfig(D, n, k=1))
    with torch.no_grad():
        for name, value in (("W_enc", torch.eye(D, n)), ("W_dec", torch.eye(n, D))):
            getattr(sae, name).copy_(value)
        sae.b_enc.fill_(-0.5)
    return sae


def axes_with_signs(signs: Tensor) -> LinearBasis:
    return LinearBasis(
        torch.diag(signs.float()), torch.zeros(len(signs)), tuple(f"axis {i}" for i in range(len(signs)))
    )


def subject(basis: object, name: str = "sae") -> Subject:
    return Subject(name, "SAE", basis, HOOK, {})  # type: ignore[arg-type]
