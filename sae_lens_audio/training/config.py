"""Training hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hooked_whisper._support.renamed import renamed_arguments, renamed_property
from hooked_whisper.errors import check_option
from sae_lens_audio.errors import TrainingError

Optimizer = Literal["adam", "radam"]
Decay = Literal["linear", "cosine"]
Precision = Literal["float32", "bfloat16", "float16"]
Scale = Literal["none", "unit"]

RENAMED = {"optimiser": "optimizer", "centre": "center"}
"""Field of version 0.1 -> its name now, for settings files and checkpoints."""


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that affects the trained weights besides the SAE and its data.

    steps: number of optimizer steps. batch: rows per step, over all processes and accumulated parts.
    optimizer, lr, beta1, beta2, epsilon: Adam, or RAdam (Liu et al. 2020).
    warmup_steps: steps of linear learning rate warm-up. decay_steps: final steps over which the rate decays to
        ``lr_end`` times ``lr``, linearly or by a cosine (``decay``).
    sparsity_warmup_steps: steps of linear warm-up of the sparsity coefficient.
    clip_norm: maximum gradient norm; 0 disables clipping.
    accumulate: number of parts in which a batch is computed, to save memory. BatchTopK selects within each part.
    precision: ``"bfloat16"`` and ``"float16"`` compute matrix products in this dtype (autocast); weights and sums stay
        float32. In float16 the loss is scaled, and a step whose gradients overflow changes no weight.
    scale: ``"unit"`` scales activations so that the mean squared distance of a row from the mean is its width, which
        makes rates and coefficients comparable across hook points. The finished SAE takes raw activations.
    center: initialize ``b_dec`` with the mean of the first batch, which leaves far fewer dead features than 0.
    fit_encoder: initialize ``W_enc`` times the factor that minimizes the error on the first batch. Without it,
        the initial reconstructions of an SAE with eight ReLU features per dimension are four times too large. No effect
        on tied weights, whose norm is 1, and on transcoders.
    dead_after: rows without activation after which a feature counts as dead.
    resample_every: steps between resampling of dead features; 0 disables it. resample_until: last step at which
        features are resampled (0: half of the steps).
    """

    steps: int
    batch: int = 4096
    optimizer: Optimizer = "adam"
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
    center: bool = True
    fit_encoder: bool = True
    dead_after: int = 1_000_000
    resample_every: int = 0
    resample_until: int = 0
    seed: int = 0

    optimiser = renamed_property("optimiser", "optimizer")
    centre = renamed_property("centre", "center")

    def __post_init__(self) -> None:
        options = (("optimizer", Optimizer), ("decay", Decay), ("precision", Precision), ("scale", Scale))
        for name, literal in options:
            check_option(name, getattr(self, name), get_args(literal), TrainingError)
        for name in ("steps", "batch", "accumulate", "dead_after"):
            self._check(name, lambda v: isinstance(v, int) and v >= 1, "a whole number of at least 1")
        for name in (
            "warmup_steps",
            "decay_steps",
            "sparsity_warmup_steps",
            "resample_every",
            "resample_until",
            "seed",
        ):
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

    def _check(self, name: str, fits: object, expected: str) -> None:
        value = getattr(self, name)
        try:
            good = not isinstance(value, bool) and fits(value)  # type: ignore[operator]
        except TypeError:
            good = False
        if not good:
            raise TrainingError(f"training: {name} must be {expected}, got {value!r}")


TrainingConfig.__init__ = renamed_arguments(**RENAMED)(TrainingConfig.__init__)  # type: ignore[method-assign]
