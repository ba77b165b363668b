"""Analysis of a model's activations: lenses, relevance, logit attribution, attention heads, word alignment."""

from hooked_whisper.analysis.alignment import WordAlignment, align
from hooked_whisper.analysis.alignment_heads import HeadScores, choose_heads, score_alignment_heads, set_counts
from hooked_whisper.analysis.boundaries import (
    BoundaryScore,
    boundaries,
    boundary_counts,
    boundary_errors,
    boundary_f1,
    f1_of,
    r_value_of,
)
from hooked_whisper.analysis.direct_attribution import DirectAttribution, attribution_names, direct_logit_attribution
from hooked_whisper.analysis.head_measures import (
    cross_measures,
    decoder_measures,
    distance_histogram,
    encoder_measures,
    monotonicity,
)
from hooked_whisper.analysis.heads import HeadReport, head_report
from hooked_whisper.analysis.lenses import LensResult, decoder_lens, encoder_layers, logit_lens
from hooked_whisper.analysis.neighbors import cosine_matrix, nearest_tokens
from hooked_whisper.analysis.next_tokens import bigrams, next_token_logits
from hooked_whisper.analysis.own_texts import with_own_texts
from hooked_whisper.analysis.ranked_heads import RankedHeads
from hooked_whisper.analysis.relevance import attention_rollout, audio_relevance, encoder_relevance, mel_relevance
from hooked_whisper.analysis.relevance_results import AudioRelevance, MelRelevance, RelevanceMap
from hooked_whisper.analysis.targets import EncoderSum, OwnTranscript, Transcript, own_transcript, token_log_probs
from hooked_whisper.analysis.token_lists import RankedToken, TokenList, text_tokens, top_tokens

__all__ = [
    "AudioRelevance",
    "BoundaryScore",
    "DirectAttribution",
    "EncoderSum",
    "HeadReport",
    "HeadScores",
    "LensResult",
    "MelRelevance",
    "OwnTranscript",
    "RankedHeads",
    "RankedToken",
    "RelevanceMap",
    "TokenList",
    "Transcript",
    "WordAlignment",
    "align",
    "attention_rollout",
    "attribution_names",
    "audio_relevance",
    "bigrams",
    "boundaries",
    "boundary_counts",
    "boundary_errors",
    "boundary_f1",
    "choose_heads",
    "cosine_matrix",
    "cross_measures",
    "decoder_lens",
    "decoder_measures",
    "direct_logit_attribution",
    "distance_histogram",
    "encoder_layers",
    "encoder_measures",
    "encoder_relevance",
    "f1_of",
    "head_report",
    "logit_lens",
    "mel_relevance",
    "monotonicity",
    "nearest_tokens",
    "next_token_logits",
    "own_transcript",
    "r_value_of",
    "score_alignment_heads",
    "set_counts",
    "text_tokens",
    "token_log_probs",
    "top_tokens",
    "with_own_texts",
]
