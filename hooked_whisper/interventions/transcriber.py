"""Batched greedy transcription of encoder outputs, for findings and comparisons of transcripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.text.wer import bare_word

DECODER_BATCH = 32


@dataclass(frozen=True)
class Transcriber:
    """Transcribe encoder outputs: greedy, one pass, no timestamps, no temperature fallback, no previous text.

    Special tokens other than end-of-text are suppressed.
    """

    model: HookedWhisper
    language: str = "en"
    max_new_tokens: int = 224
    batch: int = DECODER_BATCH
    _prompt: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def prompt(self) -> Int[Tensor, "1 token"]:
        """Return the tokens from ``<|startoftranscript|>`` to ``<|notimestamps|>``."""
        if "ids" not in self._prompt:
            multilingual = self.model.is_multilingual
            self._prompt["ids"] = self.model.to_tokens("", language=self.language if multilingual else "en")
        return self._prompt["ids"]

    def normalize(self, text: str) -> str:
        """Return the form in which words are compared, see :func:`normalize_words`."""
        return normalize_words(text)

    def ids(
        self, encoder_out: Float[Tensor, "clip position d_model"], track: Callable[[Iterable], Iterable] = iter
    ) -> list[list[int]]:
        """Return the text tokens of each clip, without prompt and end-of-text."""
        tokenizer = self.model.tokenizer
        text_ids: list[list[int]] = []
        suppress = [i for i in range(tokenizer.eot + 1, self.model.cfg.decoder.n_vocab)]
        prompt = self.prompt().to(encoder_out.device)
        for rows in track(list(encoder_out.split(self.batch))):
            tokens = self.model.generate(
                prompt.expand(len(rows), -1).contiguous(),
                rows,
                max_new_tokens=self.max_new_tokens,
                eot=tokenizer.eot,
                suppress=suppress,
            )
            text_ids += [[t for t in row if t < tokenizer.eot] for row in tokens[:, prompt.shape[1] :].tolist()]
        return text_ids

    def raw(
        self, encoder_out: Float[Tensor, "clip position d_model"], track: Callable[[Iterable], Iterable] = iter
    ) -> list[str]:
        """Return the texts as written."""
        return [self.model.tokenizer.decode(ids).strip() for ids in self.ids(encoder_out, track)]

    def __call__(
        self, encoder_out: Float[Tensor, "clip position d_model"], track: Callable[[Iterable], Iterable] = iter
    ) -> list[str]:
        """Return the texts, normalized for comparison."""
        if not len(encoder_out):
            return []
        with torch.no_grad():
            return [self.normalize(text) for text in self.raw(encoder_out, track)]


def normalize_words(text: str) -> str:
    """Lower-case, strip punctuation around words, and drop words that are only punctuation."""
    bare = (bare_word(word) for word in text.split())
    return " ".join(word for word in bare if any(c.isalnum() for c in word))
