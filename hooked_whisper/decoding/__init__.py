"""Decode encoder output to text, with active hooks."""

from hooked_whisper.decoding.english import detect_english
from hooked_whisper.decoding.generate import generate
from hooked_whisper.decoding.threads import threads_kept
from hooked_whisper.decoding.transcribe import Transcription, as_input, decode, texts, transcribe, transcribe_each

__all__ = [
    "Transcription",
    "as_input",
    "decode",
    "detect_english",
    "generate",
    "texts",
    "threads_kept",
    "transcribe",
    "transcribe_each",
]
