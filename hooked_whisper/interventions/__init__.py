"""Changing what the model works on: encoder outputs replaced, inputs with nothing in them."""

from hooked_whisper.interventions.null_inputs import NULL_INPUTS, null_encoding, null_mel
from hooked_whisper.interventions.replace import replace_span, replace_spans

__all__ = ["NULL_INPUTS", "null_encoding", "null_mel", "replace_span", "replace_spans"]
