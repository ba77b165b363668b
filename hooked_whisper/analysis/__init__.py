"""Pure functions of a model and arrays."""

from hooked_whisper.analysis.bigrams import next_token_logits, top_tokens
from hooked_whisper.analysis.direct_attribution import DirectAttribution, attribution_names, direct_logit_attribution
from hooked_whisper.analysis.lenses import LensResult, decoder_lens, encoder_layers, logit_lens
from hooked_whisper.analysis.neighbours import cosine_matrix, nearest_tokens
from hooked_whisper.analysis.relevance import (
    AudioRelevance,
    MelRelevance,
    RelevanceMap,
    attention_rollout,
    audio_relevance,
    encoder_relevance,
    mel_relevance,
)
from hooked_whisper.analysis.targets import EncoderSum, OwnTranscript, Transcript, own_transcript, token_log_probs

__all__ = [
    "AudioRelevance",
    "DirectAttribution",
    "EncoderSum",
    "LensResult",
    "MelRelevance",
    "OwnTranscript",
    "RelevanceMap",
    "Transcript",
    "attention_rollout",
    "attribution_names",
    "audio_relevance",
    "cosine_matrix",
    "decoder_lens",
    "direct_logit_attribution",
    "encoder_layers",
    "encoder_relevance",
    "logit_lens",
    "mel_relevance",
    "nearest_tokens",
    "next_token_logits",
    "own_transcript",
    "token_log_probs",
    "top_tokens",
]
