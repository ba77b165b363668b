"""The page of findings: one self-contained HTML file with figures, transcripts and sound."""

from hooked_whisper.report.attention import write_attention_pages
from hooked_whisper.report.card import ModelCard, model_card
from hooked_whisper.report.linked_pages import write_linked_pages
from hooked_whisper.report.page import render_page, write_page

__all__ = ["ModelCard", "model_card", "render_page", "write_attention_pages", "write_linked_pages", "write_page"]
