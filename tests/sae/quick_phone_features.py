"""F6 on a random model with tones, in seconds: few steps on few recordings, and a low minimum of tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hooked_whisper.corpora import Recording
from sae_lens_audio.findings import phone_features_scores, trained_saes
from sae_lens_audio.findings import trained_phone_features as released
from tests.findings.phone_worlds import spoken


def recordings(count: int) -> list[Recording]:
    """Tones by other voices than the context's, with another text."""
    clips = [replace(u.alignment, speaker=f"train {u.alignment.speaker}", text="scales") for u in spoken(count, seed=9)]
    audio = [u.samples for u in spoken(count, seed=9)]
    return [
        Recording(a.utterance, x, speaker=a.speaker, text=a.text, find_alignment=lambda a=a: a)
        for a, x in zip(clips, audio, strict=True)
    ]


def make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    tied, topk = trained_saes.TIED_TRAINING, trained_saes.TOPK_TRAINING
    monkeypatch.setattr(trained_saes, "TIED_TRAINING", replace(tied, steps=60, decay_steps=60, batch=256))
    monkeypatch.setattr(
        trained_saes, "TOPK_TRAINING", replace(topk, steps=60, batch=256, warmup_steps=5, decay_steps=5)
    )
    monkeypatch.setattr(trained_saes, "TIED_FEATURES", 40)
    monkeypatch.setattr(phone_features_scores, "MIN_TOKENS", 5)
    for module in (trained_saes, released):
        monkeypatch.setattr(module, "training_speech", lambda: recordings(12))
