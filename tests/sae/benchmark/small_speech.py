"""Small activations whose features are known, and dictionaries that read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_lens_audio.benchmark import BenchmarkData, Subject
from sae_lens_audio.benchmark.data import UNLABELED

HOOK = "encoder.blocks.0.hook_resid_post"
PHONES = ("AA", "B", "D", "IY", "S")
D = 24
SILENCE, VARIANT, SPEAKER, FREE = 5, 6, 7, 16  # directions after those of the phones


@dataclass(frozen=True, eq=False)
class Dictionary:
    """``relu((x - mean) W_enc - threshold)``; ``W_dec`` holds what a latent writes."""

    W_enc: Tensor
    W_dec: Tensor
    mean: Tensor
    threshold: float = 0.5

    @property
    def n_features(self) -> int:
        return len(self.W_dec)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.n_features)))

    def encode(self, activations: Tensor) -> Tensor:
        latents = (activations - self.mean) @ self.W_enc
        return latents * (latents > self.threshold)

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.W_dec + self.mean


def directions() -> Tensor:
    return torch.eye(D)


def mean() -> Tensor:
    return torch.linspace(-2, 2, D)


def small_speech(seed: int = 0, n_speakers: int = 8, noise: float = 0.05) -> BenchmarkData:
    """Return activations of clips with runs of phones and silence. Half of each instance of the first phone also has
    the direction of a variant, and each speaker has one direction more or less."""
    rng = np.random.default_rng(seed)
    n_clips, n_runs, length = 4, 24, 5
    runs = rng.integers(len(PHONES) + 1, size=(n_speakers, n_clips, n_runs))
    label = np.repeat(runs.reshape(-1), length)
    variant = (label == 0) & (np.arange(len(label)) % length >= 2)
    n = len(label)
    speaker = np.repeat(np.arange(n_speakers), n // n_speakers)
    x = noise * torch.from_numpy(rng.standard_normal((n, D))).float() + mean()
    basis = directions()
    x += basis[torch.from_numpy(label)] * torch.from_numpy(rng.uniform(1.5, 2, size=(n, 1))).float()
    x += basis[VARIANT] * torch.from_numpy(2.0 * variant[:, None]).float()
    x += basis[SPEAKER + 1 : SPEAKER + 1 + n_speakers][torch.from_numpy(speaker)]
    silent = label == len(PHONES)
    return BenchmarkData(
        "small",
        HOOK,
        {HOOK: x},
        {HOOK: x[::2]},
        PHONES,
        np.where(silent, UNLABELED, label),
        silent,
        speaker,
        np.repeat(np.arange(n_speakers * n_clips), n // (n_speakers * n_clips)),
        speaker % 4,
        np.arange(n) // length,
        tuple(f"s{i}" for i in range(n_speakers)),
    )


def dictionary(rows: Tensor, encoder: Tensor | None = None, name: str = "true") -> Subject:
    """Return a subject whose latents have these directions."""
    return Subject(name, "SAE", Dictionary((rows if encoder is None else encoder).T, rows, mean()), HOOK, {})


def true_dictionary() -> Subject:
    """One latent per phone, then silence, the variant, and a latent of each speaker."""
    return dictionary(directions()[: SPEAKER + 9])


def random_dictionary(n: int = 16, seed: int = 0) -> Subject:
    rows = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    return dictionary(rows / rows.norm(dim=1, keepdim=True), name="random")


def dense_dictionary() -> Subject:
    """The axes of the activation in another rotation: every latent is active everywhere."""
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3))).Q
    subject = dictionary(rotation, name="rotated axes")
    return Subject("rotated axes", "control", Dictionary(rotation.T, rotation, mean(), -torch.inf), HOOK, subject.facts)
