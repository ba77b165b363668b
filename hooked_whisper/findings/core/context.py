"""What a finding runs on: a model and its untrained twin, clips with alignments, and the truth if there is one."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hooked_whisper.corpora import Clip, Failure
from hooked_whisper.findings.core.synthetic_truth import Truth
from hooked_whisper.findings.core.transcripts import Transcriber, normalize_words
from hooked_whisper.hooked import HookedWhisper

T = TypeVar("T")
ENCODER_BATCH = 8
MOST_TOKENS = 224  # of a transcript whose length nobody knows: half of the decoder's positions, as in openai-whisper


@dataclass(frozen=True, eq=False)
class Context:
    """Everything a finding may use. Made once per run; what several findings need is computed once and kept.

    Attributes:
        untrained: the same architecture with seeded random weights: the control that knows nothing.
        reference: ``"truth"`` if the utterances' texts are what was said, ``"model"`` if they are what this model
            wrote without intervention (real recordings, whose truth nobody gave).
        truth: the world behind the model, or ``None``.
        facts: what the weights' metadata say, and where the clips are from, for the record.
        more_speech: makes further clips, for findings to which these are few (phones); called when one asks.
        language_speech: loads clips of several languages for the findings on language, where the utterances are all
            of one language; ``None``: these findings use the utterances.
        failures: recordings that could not be read or used.
    """

    model: HookedWhisper
    untrained: HookedWhisper
    utterances: tuple[Clip, ...]
    truth: Truth | None = None
    reference: Literal["truth", "model"] = "truth"
    language: str = "en"
    seed: int = 0
    progress: bool = False
    facts: dict[str, Any] | None = None
    more_speech: Callable[[], tuple[Clip, ...]] | None = None
    language_speech: Callable[[], tuple[Clip, ...]] | None = None
    failures: tuple[Failure, ...] = ()
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_organism(self) -> bool:
        """Whether the model is the ground-truth organism (it has a world of its own) and not a real Whisper."""
        return self.truth is not None

    @cached_property
    def labelled(self) -> tuple[Clip, ...]:
        """The utterances and the further ones, spoken now if they are not yet."""
        return self.utterances + (() if self.more_speech is None else self.more_speech())

    def with_utterances(self, utterances: tuple[Clip, ...]) -> Context:
        """The same models and facts on other clips; nothing that was computed is shared."""
        return replace(self, utterances=utterances, more_speech=None, language_speech=None, _kept={})

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made by the first finding that asks for this name and kept for the others."""
        if name not in self._kept:
            self._kept[name] = make()
        kept: T = self._kept[name]
        return kept

    def rng(self, name: str) -> np.random.Generator:
        """Return a random generator for one use, seeded by its name: draws of one finding do not change another's."""
        return seeded_rng(self.seed, name)

    def track(self, steps: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """The same steps, with a progress bar on stderr if this context shows progress."""
        yield from tqdm(steps, desc=what, total=total, disable=not self.progress, leave=False)

    @property
    def seconds_per_position(self) -> float:
        return self.model.time.seconds_per_position

    def transcriber(self, model: HookedWhisper | None = None) -> Transcriber:
        """Greedy decoding without timestamps, long enough for these clips."""
        longest = max((len(u.text.split()) for u in self.utterances), default=8)
        tokens = 2 * longest + 4 if self.reference == "truth" else MOST_TOKENS
        return Transcriber(self.model if model is None else model, self.language, tokens)

    @cached_property
    def references(self) -> list[str]:
        """The utterances' texts in the form in which words are compared."""
        return [normalize_words(u.text) for u in self.utterances]

    def mels(self, indices: Iterable[int]) -> Float[Tensor, "clip mel frame"]:
        return self.model.to_mel([self.utterances[i].samples for i in indices])

    def batches(self, indices: Iterable[int] | None = None) -> list[list[int]]:
        """Indices of some utterances (default: all), as many together as the encoder takes at once."""
        order = list(range(len(self.utterances)) if indices is None else indices)
        return [order[at : at + ENCODER_BATCH] for at in range(0, len(order), ENCODER_BATCH)]

    @torch.no_grad()
    def encode(
        self, model: HookedWhisper, indices: Iterable[int] | None = None
    ) -> Float[Tensor, "clip position d_model"]:
        """Encoder output of some utterances (default: all) by a model, which need not be this context's."""
        batches = self.track(self.batches(indices), "encoding")
        return torch.cat([model.embed_audio(self.mels(some)) for some in batches])

    @cached_property
    def encoded(self) -> Float[Tensor, "clip position d_model"]:
        """Encoder output of every utterance, without intervention; computed once."""
        return self.encode(self.model)

    @cached_property
    def transcripts(self) -> list[str]:
        """What the model writes without intervention; computed once."""
        return self.transcriber()(self.encoded, track=lambda x: self.track(x, "decoding"))

    @cached_property
    def n_positions(self) -> list[int]:
        """Encoder positions that each clip fills; the rest of the window is padding."""
        time = self.model.time
        return [time.n_positions(min(len(u.samples) / time.sample_rate, time.duration)) for u in self.utterances]

    def common(self, id: str, title: str, claim: str, protocol: str) -> dict[str, Any]:
        """What every finding on this context says of itself."""
        return {
            "id": id,
            "title": title,
            "claim": claim,
            "protocol": protocol,
            "model": self.model.cfg.name,
            "inputs": self.inputs(),
        }

    def inputs(self) -> dict[str, Any]:
        """The utterances, for the record."""
        seconds = [len(u.samples) / self.model.time.sample_rate for u in self.utterances]
        return {
            "utterances": len(self.utterances),
            "seconds": round(float(np.sum(seconds)), 2),
            "median_seconds": round(float(np.median(seconds)), 2) if seconds else 0,
            "speakers": sorted({u.alignment.speaker for u in self.utterances}),
            "reference": self.reference,
            "seed": self.seed,
            **(self.facts or {}),
        }


def seeded_rng(seed: int, name: str) -> np.random.Generator:
    """Return a random generator for a seed and a use."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def released_name(name: str) -> str:
    """``"openai/whisper-tiny" -> "tiny"``"""
    return name.removeprefix("openai/").removeprefix("whisper-")
