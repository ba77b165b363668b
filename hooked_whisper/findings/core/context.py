"""The inputs of an experiment: a model and its untrained twin, clips with alignments, and the truth if it is known."""

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
MOST_TOKENS = 224  # limit for a transcript of unknown length: half the decoder's positions, as in openai-whisper


@dataclass(frozen=True, eq=False)
class Context:
    """Everything an experiment may use. Results that several experiments need are computed once.

    Attributes:
        untrained: the same architecture with seeded random weights, as a control.
        reference: ``"truth"`` if the utterances' texts are what was said; ``"model"`` if they are the model's own
            transcripts, because the recordings have no texts.
        truth: the synthetic corpus that the model was trained on, or ``None``.
        facts: the weights' metadata and the origin of the clips, for the record.
        more_speech: loads more clips for experiments that need many (phones). It is called on first use.
        language_speech: loads clips of several languages for the experiments on language. If it is ``None``, they use
            the utterances.
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
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_organism(self) -> bool:
        """Whether the model was trained on a synthetic corpus whose truth is known, unlike a released Whisper."""
        return self.truth is not None

    @cached_property
    def labelled(self) -> tuple[Clip, ...]:
        """The utterances and those of ``more_speech``, which is called on first use."""
        return self.utterances + (() if self.more_speech is None else self.more_speech())

    def with_utterances(self, utterances: tuple[Clip, ...]) -> Context:
        """Return a context with the same models and facts but other clips. It shares no computed results."""
        return replace(self, utterances=utterances, more_speech=None, language_speech=None, _cache={})

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return the cached result of ``make``, which is called once for each name."""
        if name not in self._cache:
            self._cache[name] = make()
        result: T = self._cache[name]
        return result

    def cached(self, name: str) -> Any | None:
        """Return the result that :meth:`once` has for a name, or ``None``."""
        return self._cache.get(name)

    def rng(self, name: str) -> np.random.Generator:
        """Return a random generator that is seeded by ``name``, so that the draws of one finding do not change
        another's."""
        return seeded_rng(self.seed, name)

    def track(self, steps: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yield the steps, with a progress bar called ``label`` on stderr if ``progress`` is set."""
        yield from tqdm(steps, desc=label, total=total, disable=not self.progress, leave=False)

    @property
    def seconds_per_position(self) -> float:
        return self.model.time.seconds_per_position

    def transcriber(self, model: HookedWhisper | None = None) -> Transcriber:
        """Return a greedy decoder without timestamps whose token limit fits these clips."""
        longest = max((len(u.text.split()) for u in self.utterances), default=8)
        tokens = 2 * longest + 4 if self.reference == "truth" else MOST_TOKENS
        return Transcriber(self.model if model is None else model, self.language, tokens)

    @cached_property
    def references(self) -> list[str]:
        """The utterances' texts, normalized for the comparison of words."""
        return [normalize_words(u.text) for u in self.utterances]

    def mels(self, indices: Iterable[int]) -> Float[Tensor, "clip mel frame"]:
        return self.model.to_mel([self.utterances[i].samples for i in indices])

    def batches(self, indices: Iterable[int] | None = None) -> list[list[int]]:
        """Split the indices of utterances (default: all) into batches for the encoder."""
        order = list(range(len(self.utterances)) if indices is None else indices)
        return [order[start : start + ENCODER_BATCH] for start in range(0, len(order), ENCODER_BATCH)]

    @torch.no_grad()
    def encode(
        self, model: HookedWhisper, indices: Iterable[int] | None = None
    ) -> Float[Tensor, "clip position d_model"]:
        """Return the encoder output of any model for utterances (default: all)."""
        batches = self.track(self.batches(indices), "encoding")
        return torch.cat([model.embed_audio(self.mels(batch)) for batch in batches])

    @cached_property
    def encoded(self) -> Float[Tensor, "clip position d_model"]:
        """Encoder output of every utterance without intervention, computed once."""
        return self.encode(self.model)

    @cached_property
    def transcripts(self) -> list[str]:
        """The model's transcripts without intervention, computed once."""
        return self.transcriber()(self.encoded, track=lambda x: self.track(x, "decoding"))

    @cached_property
    def n_positions(self) -> list[int]:
        """Number of encoder positions that each clip fills. The other positions of the window are padding."""
        time = self.model.time
        return [time.n_positions(min(len(u.samples) / time.sample_rate, time.duration)) for u in self.utterances]

    def common(self, id: str, title: str, claim: str, protocol: str) -> dict[str, Any]:
        """Return the fields that every finding on this context has. :class:`Experiment` fills them in automatically."""
        return {
            "id": id,
            "title": title,
            "claim": claim,
            "protocol": protocol,
            "model": self.model.cfg.name,
            "inputs": self.inputs(),
        }

    def inputs(self) -> dict[str, Any]:
        """Return facts about the utterances, for the record."""
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
    """Return a random generator for a seed and the name of its use."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def released_name(name: str) -> str:
    """Return the short name of a released model: ``"openai/whisper-tiny"`` is ``"tiny"``."""
    return name.removeprefix("openai/").removeprefix("whisper-")
