"""Corruptions: pairs of a clean and a corrupt input that differ in one known respect.

They follow Zhang & Nanda 2023 (arXiv 2309.16042), who prefer symmetric replacement to noise, applied to audio.
"""

from hooked_whisper.patching.corruptions.edits import (
    add_noise,
    noise,
    room_tone,
    shift_time,
    silence,
    swap_speaker,
    swap_utterance,
)
from hooked_whisper.patching.corruptions.record import Corruption
from hooked_whisper.patching.corruptions.spectral import (
    MelCorruption,
    band_pass,
    band_stop,
    high_pass,
    low_pass,
    mask_mel_band,
)
from hooked_whisper.patching.corruptions.splice import splice, swap_phone, swap_word, warp
from hooked_whisper.patching.corruptions.sweep import SnrSweep, find_snr
from hooked_whisper.patching.corruptions.tokens import (
    TokenCorruption,
    shuffle_positions,
    swap_language,
    swap_previous_word,
    swap_task,
)
from hooked_whisper.patching.corruptions.vocoder import vocode

CORRUPTIONS = {
    "word swap": "which word it is (swap_word; SyntheticCorpus.minimal_pairs for words that differ in one phone)",
    "phone swap": "one phone; its neighbors keep their coarticulation (swap_phone)",
    "silence": "evidence for the word; zeros are themselves a cue, room tone less so (silence)",
    "noise": "graded evidence: white, pink, babble at an SNR (add_noise, find_snr)",
    "speaker swap": "content versus speaker (swap_speaker)",
    "utterance swap": "all content (swap_utterance)",
    "time shift": "absolute versus relative position (shift_time)",
    "language token swap": "the decoder's language, audio fixed (swap_language)",
    "task token swap": "the decoder's task, audio fixed (swap_task)",
    "previous word swap": "language model versus audio (swap_previous_word)",
    "encoder ablation": "reliance on the audio (baseline_encoding, shuffle_positions)",
    "spectral edit": "which frequencies a phone needs (low_pass, high_pass, band_pass, band_stop, mask_mel_band)",
    "vocoder": "envelopes of frequency bands versus pitch and fine structure (vocode)",
}

__all__ = [
    "CORRUPTIONS",
    "Corruption",
    "MelCorruption",
    "SnrSweep",
    "TokenCorruption",
    "add_noise",
    "band_pass",
    "band_stop",
    "find_snr",
    "high_pass",
    "low_pass",
    "mask_mel_band",
    "noise",
    "room_tone",
    "shift_time",
    "shuffle_positions",
    "silence",
    "splice",
    "swap_language",
    "swap_phone",
    "swap_previous_word",
    "swap_speaker",
    "swap_task",
    "swap_utterance",
    "swap_word",
    "vocode",
    "warp",
]
