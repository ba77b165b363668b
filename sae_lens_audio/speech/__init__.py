"""Speech to train SAEs on: generated sentences, spoken by neural (Kokoro) and statistical (flite) voices.

``python -m sae_lens_audio.speech FOLDER`` writes passages of about 27 s, some with room sound or noise, as an ordinary
corpus folder. No voice or sentence of an evaluation set is used.
"""

from sae_lens_audio.speech.build import build_training_speech
from sae_lens_audio.speech.plan import Passage, plan_passages

__all__ = ["Passage", "build_training_speech", "plan_passages"]
