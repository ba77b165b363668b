"""Pure functions of a model and arrays."""

from hooked_whisper.analysis.bigrams import next_token_logits, top_tokens
from hooked_whisper.analysis.neighbours import cosine_matrix, nearest_tokens

__all__ = ["cosine_matrix", "nearest_tokens", "next_token_logits", "top_tokens"]
