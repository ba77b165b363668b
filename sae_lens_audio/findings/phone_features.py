"""F6: features of sparse autoencoders of the encoder's residual stream find phones."""

from __future__ import annotations

from pathlib import Path

from hooked_whisper.findings.core.two_protocols import TwoProtocols
from sae_lens_audio.findings.demo_phone_features import DemoPhoneFeatures
from sae_lens_audio.findings.phone_features_drawing import F1_BY_BASIS
from sae_lens_audio.findings.trained_phone_features import TrainedPhoneFeatures
from sae_lens_audio.findings.trained_saes import SAESource


class PhoneFeatures(TwoProtocols):
    """F6: packaged SAEs of the packaged demo model, and packaged or newly trained SAEs of released models.

    Args:
        saes, runs: SAEs of released models, see
            :class:`~sae_lens_audio.findings.trained_phone_features.TrainedPhoneFeatures`.
    """

    after = "F5"
    organism = DemoPhoneFeatures()
    released_measurement = F1_BY_BASIS
    published, published_summary = TrainedPhoneFeatures.published, TrainedPhoneFeatures.published_summary

    def __init__(self, saes: SAESource = "packaged", runs: str | Path | None = None) -> None:
        self.released = TrainedPhoneFeatures(saes, runs)
        super().__init__()
