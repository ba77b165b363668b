"""The attention viewer: every head of a stack over one clip, with spectrogram, words and sound, in one page."""

from hooked_whisper.viewer.attention import attention_view_html, view_attention
from hooked_whisper.viewer.page import AttentionView, MapAxis

__all__ = ["AttentionView", "MapAxis", "attention_view_html", "view_attention"]
