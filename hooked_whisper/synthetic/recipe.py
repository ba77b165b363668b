"""Settings of the training run, and the schedules that depend on the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig

_BEFORE = {
    "clean": 0.4,
    "snr_high": 25.0,
    "speed_low": 0.88,
    "tilt": 0.0,
    "equaliser": 0.0,
    "flite_weight": 1,
    "drop_silenced": 0.0,
    "mask_all": 0.02,
    "empty": 0.03,
    "bare_share": 0.0,
}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training run.

    It has three phases: next-token loss plus CTC (annealed to zero), next-token loss alone, and full 30 s windows.
    """

    seed: int = 0
    steps: int = 8000
    batch: int = 32
    full_window_batch: int = 6
    ctc_end: float = 0.5  # share of the steps after which the CTC weight is exactly zero
    full_window_start: float = 0.985
    lr: float = 2e-3
    warm_up: int = 200
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    full_softmax_every: int = 8  # in the CTC phase, the other steps score only the words of the corpus
    timestamp_share: float = 0.2
    clean: float = 0.5  # share of clips without added noise
    snr_high: float = 40.0  # largest signal-to-noise ratio in dB; the smallest is 0
    speed_low: float = 0.76  # slowest resampling (a long vocal tract); the fastest is 1.13
    tilt: float = 0.5  # largest random spectral tilt (coefficient of a first-order filter)
    equaliser: float = 5.0  # standard deviation of a random frequency response in dB (spelled as in saved runs)
    flite_weight: int = 2  # how often flite's utterances occur in an epoch; they are fewer and harder
    drop_silenced: float = 1.0  # share of the words replaced by silence that are removed from the transcript
    mask_all: float = 0.03  # share of clips with every word masked and the transcript kept
    empty: float = 0.08  # share of clips without speech and with an empty transcript
    bare_share: float = 0.15  # share of prefixes that end with <|transcribe|>, as in the bigram finding
    checkpoint_every: int = 200
    log_every: int = 25
    evaluate_every: int = 500
    evaluate_utterances: int = 60
    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 4

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> TrainConfig:
        """Return settings from JSON. Settings that an old file does not have get the values of that time."""
        return cls(**(_BEFORE | saved | {"betas": tuple(saved["betas"])}))

    @property
    def ctc_steps(self) -> int:
        return int(self.ctc_end * self.steps)

    @property
    def full_window_step(self) -> int:
        """First step that uses full windows."""
        return int(self.full_window_start * self.steps)

    def ctc_weight(self, step: int) -> float:
        """Return the weight of the CTC loss: 1 in the first half of its phase, then a linear decay to exactly zero."""
        return max(0.0, min(1.0, 2.0 * (1.0 - step / max(1, self.ctc_steps))))

    def clean_share(self, step: int) -> float:
        """Return the least share of clips without noise, which decays from 1 to 0 in the first fifth of the steps."""
        return max(0.0, 1.0 - step / max(1.0, 0.2 * self.steps))

    def full_windows(self, step: int) -> bool:
        return step >= self.full_window_step

    def full_softmax(self, step: int) -> bool:
        return step >= self.ctc_steps or step % self.full_softmax_every == 0

    def learning_rate(self, step: int) -> float:
        """Return the learning rate: warm-up, cosine decay to 12 % of the peak, then linear decay to 1 % on full
        windows."""
        if step < self.full_window_step:
            progress = step / max(1, self.full_window_step)
            warm = min(1.0, (step + 1) / self.warm_up)
            return self.lr * warm * (0.12 + 0.44 * (1 + math.cos(math.pi * progress)))
        progress = (step - self.full_window_step) / max(1, self.steps - self.full_window_step)
        return self.lr * (0.12 - 0.11 * progress)

    def model_config(self) -> WhisperConfig:
        """Return the configuration of the demo model, which has Whisper's window and vocabulary."""
        d, heads, layers = self.d_model, self.n_heads, self.n_layers
        return WhisperConfig(
            EncoderConfig(n_mels=80, n_ctx=1500, d_model=d, n_heads=heads, n_layers=layers, d_mlp=4 * d),
            DecoderConfig(n_vocab=51865, n_ctx=448, d_model=d, n_heads=heads, n_layers=layers, d_mlp=4 * d),
            name="demo",
        )

    def describe(self) -> str:
        """Return a description of the phases in one line, for the weights' metadata."""
        return (
            f"steps 0-{self.ctc_steps}: next-token loss + CTC on letters, annealed to zero; "
            f"steps {self.ctc_steps}-{self.full_window_step}: next-token loss alone, short windows; "
            f"steps {self.full_window_step}-{self.steps}: next-token loss alone, full 30 s windows. No phone labels."
        )
