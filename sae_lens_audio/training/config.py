"""How to train: nothing about what is trained, on what, or where it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hooked_whisper.errors import check_option
from sae_lens_audio.errors import TrainingError

Optimiser = Literal["adam", "radam"]
Decay = Literal["linear", "cosine"]
Precision = Literal["float32", "bfloat16"]
Scale = Literal["none", "unit"]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that changes the numbers, and nothing else.

    steps: of the optimiser. batch: rows in each, over all processes and parts.
    optimiser, lr, beta1, beta2, epsilon: Adam, or RAdam (Liu et al. 2020).
    warmup_steps: the rate rises to ``lr`` in a line; decay_steps: and falls to ``lr_end`` times it in the last ones, in
        a line or by a cosine.
    sparsity_warmup_steps: the coefficient of the penalty rises in a line.
    clip_norm: largest norm of the gradient; 0 does not clip.
    accumulate: parts that a batch is computed in, where memory is short. BatchTopK chooses within each part.
    precision: ``"bfloat16"`` computes products of matrices in it (autocast); weights and sums stay float32.
    scale: ``"unit"`` multiplies activations so that a row's mean squared distance from the mean is its width, which
        makes rates and coefficients mean the same at every hook point; the finished dictionary takes raw activations.
    centre: ``b_dec`` starts at the mean of the first batch (dead features are far fewer than from 0).
    fit_encoder: ``W_enc`` starts times the number that makes reconstructions of the first batch as good as it can:
        eight features a dimension through a ReLU begin by reconstructing four times too much. Not of tied weights,
        whose norm is 1, and not of transcoders, which know nothing of their output at first.
    dead_after: rows after which a feature that was never active counts as dead.
    resample_every: steps after which dead features get new directions, 0 never; resample_until: and up to which step
        (0: half of them).
    """

    steps: int
    batch: int = 4096
    optimiser: Optimiser = "adam"
    lr: float | int = 3e-4
    beta1: float | int = 0.9
    beta2: float | int = 0.999
    epsilon: float | int = 1e-8
    warmup_steps: int = 0
    decay_steps: int = 0
    decay: Decay = "linear"
    lr_end: float | int = 0.0
    sparsity_warmup_steps: int = 0
    clip_norm: float | int = 1.0
    accumulate: int = 1
    precision: Precision = "float32"
    scale: Scale = "unit"
    centre: bool = True
    fit_encoder: bool = True
    dead_after: int = 1_000_000
    resample_every: int = 0
    resample_until: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("optimiser", Optimiser), ("decay", Decay), ("precision", Precision), ("scale", Scale)):
            check_option(name, getattr(self, name), get_args(choices), TrainingError)
        for name in ("steps", "batch", "accumulate", "dead_after"):
            self._check(name, lambda v: isinstance(v, int) and v >= 1, "a whole number of at least 1")
        for name in ("warmup_steps", "decay_steps", "sparsity_warmup_steps", "resample_every", "resample_until"):
            self._check(name, lambda v: isinstance(v, int) and v >= 0, "a whole number of at least 0")
        for name in ("lr", "epsilon"):
            self._check(name, lambda v: 0 < v < float("inf"), "above 0")
        for name in ("beta1", "beta2", "lr_end"):
            self._check(name, lambda v: 0 <= v <= 1 and (name == "lr_end" or v < 1), "between 0 and 1")  # noqa: B023
        self._check("clip_norm", lambda v: v >= 0, "at least 0")
        if self.batch % self.accumulate:
            raise TrainingError(f"a batch of {self.batch} rows cannot be computed in {self.accumulate} equal parts")
        if self.warmup_steps + self.decay_steps > self.steps:
            raise TrainingError(
                f"warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} are more than {self.steps} steps"
            )

    def _check(self, name: str, fits: object, what: str) -> None:
        value = getattr(self, name)
        try:
            good = not isinstance(value, bool) and fits(value)  # type: ignore[operator]
        except TypeError:
            good = False
        if not good:
            raise TrainingError(f"training: {name} must be {what}, got {value!r}")
