"""Speech to train SAEs on: generated sentences by neural (Kokoro) and statistical (flite) voices, and human prompts.

``python -m sae_lens_audio.speech FOLDER`` writes passages of about 27 s, some with room sound or noise, as an ordinary
corpus folder. No voice or sentence of an evaluation set is used.
"""

from sae_lens_audio.speech.build import build_training_speech
from sae_lens_audio.speech.plan import Passage, plan_passages
from sae_lens_audio.speech.prompts import fetch_prompts, open_prompts, prompt_packages
from sae_lens_audio.speech.recorded import RecordedPassage, join_recordings, packaged_passages

__all__ = [
    "Passage",
    "RecordedPassage",
    "build_training_speech",
    "fetch_prompts",
    "join_recordings",
    "open_prompts",
    "packaged_passages",
    "plan_passages",
    "prompt_packages",
]
