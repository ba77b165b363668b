"""Batched greedy transcription of encoder outputs, and what happened to each word of a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.text import WordError, bootstrap_interval, word_diff, word_errors
from hooked_whisper.text.wer import bare_word

DECODER_BATCH = 32
Fate = Literal["kept", "replaced", "deleted"]


@dataclass(frozen=True)
class Transcriber:
    """Encoder outputs to texts: greedy, one pass, no timestamps, no fallback; nothing is fed back between clips.

    Special tokens other than end-of-text are never chosen; all else is read as the model gives it.
    """

    model: HookedWhisper
    language: str = "en"
    max_new_tokens: int = 224
    batch: int = DECODER_BATCH
    _prompt: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def prompt(self) -> Int[Tensor, "1 token"]:
        """``<|startoftranscript|>`` to ``<|notimestamps|>``."""
        if "ids" not in self._prompt:
            multilingual = self.model.is_multilingual
            self._prompt["ids"] = self.model.to_tokens("", language=self.language if multilingual else "en")
        return self._prompt["ids"]

    def normalize(self, text: str) -> str:
        """The form in which words are compared: lower case, without punctuation round them. Words stay in their places,
        so that a word's number in the text is its number in an alignment."""
        return normalize_words(text)

    def raw(
        self, encoder_out: Float[Tensor, "clip position d_model"], track: Callable[[Iterable], Iterable] = iter
    ) -> list[str]:
        """Texts as written."""
        tokenizer, texts = self.model.tokenizer, []
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
            for row in tokens[:, prompt.shape[1] :].tolist():
                texts.append(tokenizer.decode([t for t in row if t < tokenizer.eot]).strip())
        return texts

    def __call__(
        self, encoder_out: Float[Tensor, "clip position d_model"], track: Callable[[Iterable], Iterable] = iter
    ) -> list[str]:
        """Texts in the form in which they are compared."""
        if not len(encoder_out):
            return []
        with torch.no_grad():
            return [self.normalize(text) for text in self.raw(encoder_out, track)]


def normalize_words(text: str) -> str:
    """Lower case, no punctuation round words; what is punctuation alone goes."""
    bare = (bare_word(word) for word in text.split())
    return " ".join(word for word in bare if any(c.isalnum() for c in word))


def errors_of(references: Sequence[str], hypotheses: Sequence[str]) -> list[WordError]:
    """Word errors of texts that are already in the form in which they are compared."""
    return word_errors(list(references), list(hypotheses), normalizer=None)


def corpus_wer(errors: Sequence[WordError], seed: int = 0) -> tuple[float, float, float]:
    """WER and its 95 % interval over utterances, as fractions."""
    counts = [e.n_reference for e in errors]
    wrong = [e.errors for e in errors]
    if not sum(counts):
        return float("nan"), float("nan"), float("nan")
    low, high = bootstrap_interval(wrong, counts, seed=seed)
    return sum(wrong) / sum(counts), low, high


@dataclass(frozen=True)
class Outcome:
    """What became of each word of a reference, and how many words came from nowhere."""

    fates: tuple[Fate, ...]
    inserted: int


def word_fates(reference: str, hypothesis: str) -> Outcome:
    """Each reference word is kept, replaced by another, or deleted, by a word alignment of least cost."""
    fates: list[Fate] = []
    inserted = 0
    for op in word_diff(reference, hypothesis):
        if op.kind == "insert":
            inserted += len(op.hypothesis)
        else:
            fate: Fate = {"equal": "kept", "substitute": "replaced", "delete": "deleted"}[op.kind]  # type: ignore[assignment]
            fates += [fate] * len(op.reference)
    return Outcome(tuple(fates), inserted)


def fate_rates(fates: Sequence[Fate]) -> dict[Fate, float]:
    """Share of each fate; NaN of nothing."""
    n = len(fates)
    return {f: (sum(x == f for x in fates) / n if n else np.nan) for f in ("kept", "replaced", "deleted")}  # type: ignore[misc]
