"""F6: features of sparse autoencoders of the encoder's residual stream find phones."""

from __future__ import annotations

from hooked_whisper.findings.core.two_protocols import TwoProtocols
from sae_lens_audio.findings.demo_phone_features import DemoPhoneFeatures
from sae_lens_audio.findings.phone_features_drawing import F1_BY_BASIS
from sae_lens_audio.findings.trained_phone_features import TrainedPhoneFeatures


class PhoneFeatures(TwoProtocols):
    """F6: packaged SAEs on the packaged demo model; on released models, SAEs that it trains on packaged speech."""

    after = "F5"
    organism = DemoPhoneFeatures()
    released = TrainedPhoneFeatures()
    released_measurement = F1_BY_BASIS
    published, published_summary = TrainedPhoneFeatures.published, TrainedPhoneFeatures.published_summary
