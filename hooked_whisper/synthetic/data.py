"""Batches of the training run. A batch depends only on the seed and the step, so a resumed run sees the same
batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.audio import log_mel_spectrogram
from hooked_whisper.synthetic.augment import DEFAULTS, AugmentConfig, SpeechExample, augment
from hooked_whisper.synthetic.corpus import Corpus
from hooked_whisper.synthetic.lexicon import token_ids
from hooked_whisper.synthetic.recipe import TrainConfig

SAMPLE_RATE = 16_000
WINDOW = 480_000  # samples of 30 s
POSITION = 320  # samples of one encoder position
LETTERS = " abcdefghijklmnopqrstuvwxyz"  # CTC symbols 1..27; 0 is blank
IGNORE = -100
LATEST_FIRST_TIMESTAMP = 1.0  # openai-whisper's max_initial_timestamp


@dataclass(frozen=True)
class Specials:
    """Ids of the special tokens in the targets."""

    sot: int
    en: int
    transcribe: int
    no_timestamps: int
    no_speech: int
    eot: int
    timestamp_begin: int

    def at(self, seconds: float) -> int:
        """Return the timestamp token of a time, with a resolution of 0.02 s."""
        return self.timestamp_begin + round(seconds / 0.02)


@lru_cache(maxsize=1)
def specials() -> Specials:
    from whisper.tokenizer import get_tokenizer

    tokenizer = get_tokenizer(multilingual=True, language="en", task="transcribe")
    return Specials(
        tokenizer.sot,
        tokenizer.sot_sequence[1],
        tokenizer.transcribe,
        tokenizer.no_timestamps,
        tokenizer.no_speech,
        tokenizer.eot,
        tokenizer.timestamp_begin,
    )


@lru_cache(maxsize=1)
def corpus_vocabulary() -> Tensor:
    """Return the sorted ids that can occur in a target: words, special tokens and timestamps."""
    s = specials()
    ids = {*token_ids().values(), s.en, s.no_speech, s.eot, *range(s.timestamp_begin, s.timestamp_begin + 1501)}
    return torch.tensor(sorted(ids))


@dataclass(frozen=True)
class SpeechBatch:
    """One training batch.

    Attributes:
        labels: ``labels[b, t]`` is the token to predict after ``tokens[b, t]``, or ``IGNORE``.
        letters: CTC targets of all rows, concatenated.
        audible: rows in the CTC loss. Clips without words are left out, because they have no loss per letter and a
            summed loss would dominate that of the other rows.
    """

    audio: Float[Tensor, "batch sample"]
    start: int  # encoder position of the first sample
    tokens: Int[Tensor, "batch token"]
    labels: Int[Tensor, "batch token"]
    letters: Int[Tensor, "letter"]
    n_letters: Int[Tensor, "batch"]
    audible: Bool[Tensor, "batch"]

    def mel(self) -> Float[Tensor, "batch 80 frame"]:
        return log_mel_spectrogram(self.audio)


class SpeechBatches:
    """The training split as batches of utterances of similar length, by step."""

    def __init__(self, corpus: Corpus, config: TrainConfig, augmentation: AugmentConfig = DEFAULTS) -> None:
        if len(corpus) < config.batch:
            raise ValueError(
                f"the corpus has {len(corpus)} training utterances, expected at least a batch of {config.batch}: use a "
                "smaller --batch or a larger corpus"
            )
        self.corpus, self.config, self.augmentation = corpus, config, augmentation
        times = [config.flite_weight if name == "flite" else 1 for name in corpus.synthesizers]
        self._pool = np.repeat(np.arange(len(corpus)), times)

    def __getitem__(self, step: int) -> SpeechBatch:
        config = self.config
        rng = np.random.default_rng([config.seed, 4, step])
        full = config.full_windows(step)
        indices = self._indices(step)
        if full:
            indices = rng.permutation(indices)[: config.full_window_batch]
        clean = max(config.clean, config.clean_share(step))
        speed = (config.speed_low, self.augmentation.speed[1])
        augmentation = replace(
            self.augmentation,
            clean=clean,
            snr=(0.0, config.snr_high),
            tilt=config.tilt,
            speed=speed,
            equaliser=config.equaliser,
            drop_silenced=config.drop_silenced,
            mask_all=config.mask_all,
            empty=config.empty,
        )
        # One row with a long leading silence would lengthen the whole batch, so either all rows can have it or none.
        lead = self.augmentation.lead if full or rng.random() < 0.3 else 0.2
        examples = [
            augment(
                self.corpus.audio(i),
                self.corpus.alignment(i),
                rng,
                lambda n: self._babble(n, rng),
                augmentation,
                lead,
            )
            for i in indices.tolist()
        ]
        return collate(examples, rng, config.timestamp_share, full, config.bare_share)

    def _indices(self, step: int) -> np.ndarray:
        per_epoch = len(self._pool) // self.config.batch
        epoch, k = divmod(step, per_epoch)
        return self._epoch(epoch)[k]

    @lru_cache(maxsize=2)  # noqa: B019 - one SpeechBatches lives as long as the run
    def _epoch(self, epoch: int) -> np.ndarray:
        """Return indices ``[batch, row]``. They are shuffled and sorted by length within blocks of 40 batches; then the
        batches are shuffled."""
        rng = np.random.default_rng([self.config.seed, 3, epoch])
        size = self.config.batch
        count = len(self._pool) // size
        order = self._pool[rng.permutation(len(self._pool))[: count * size]]
        lengths = self.corpus.lengths
        block = 40 * size
        parts = [order[s : s + block] for s in range(0, len(order), block)]
        batches = np.concatenate([p[np.argsort(lengths[p], kind="stable")] for p in parts]).reshape(count, size)
        return batches[rng.permutation(count)]

    def _babble(self, count: int, rng: np.random.Generator) -> np.ndarray:
        sound = np.zeros(count, np.float32)
        for _ in range(2):
            voice = self.corpus.audio(int(rng.integers(len(self.corpus))))
            voice = np.tile(voice, -(-count // len(voice)))[:count]
            sound += np.roll(voice, int(rng.integers(count)))
        return sound


def collate(
    examples: list[SpeechExample], rng: np.random.Generator, timestamp_share: float, full: bool, bare_share: float = 0.0
) -> SpeechBatch:
    """Pad examples to a common window of 30 s, or of the longest example, sometimes plus silence."""
    longest = max(len(e.audio) for e in examples)
    tail = int(rng.uniform(0, 3.0) * SAMPLE_RATE) if rng.random() < 0.2 else 0
    size = WINDOW if full else min(WINDOW, -(-(longest + tail) // POSITION) * POSITION)
    # Timestamps count from the first position of the window, so a batch with timestamps starts at position 0.
    timed = rng.random() < 2 * timestamp_share
    start = 0 if full or timed or rng.random() < 0.2 else int(rng.integers((WINDOW - size) // POSITION + 1))
    audio = np.zeros((len(examples), size), np.float32)
    rows: list[tuple[list[int], list[int]]] = []
    for k, example in enumerate(examples):
        shift = 0
        if full and rng.random() < 0.3:
            shift = int(rng.integers(0, size - len(example.audio)))
        audio[k, shift : shift + len(example.audio)] = example.audio
        bare = bare_share > 0 and rng.random() < bare_share
        rows.append(target(example, shift / SAMPLE_RATE, timed and rng.random() < 0.5, bare))
    width = max(len(tokens) for tokens, _ in rows)
    tokens = torch.full((len(rows), width), specials().eot)
    labels = torch.full((len(rows), width), IGNORE)
    for k, (inputs, targets) in enumerate(rows):
        tokens[k, : len(inputs)] = torch.tensor(inputs)
        labels[k, : len(targets)] = torch.tensor(targets)
    letters = [[LETTERS.index(c) + 1 for c in e.alignment.text] for e in examples]
    return SpeechBatch(
        torch.from_numpy(audio),
        start,
        tokens,
        labels,
        torch.tensor([c for row in letters for c in row], dtype=torch.long),
        torch.tensor([len(row) for row in letters]),
        torch.tensor([e.audible and bool(e.alignment.text) for e in examples]),
    )


def target(example: SpeechExample, shift: float, timed: bool, bare: bool = False) -> tuple[list[int], list[int]]:
    """Return the decoder input, and the token to predict after each of its tokens.

    A ``bare`` prefix has neither timestamps nor ``<|notimestamps|>``, and no loss for the token after
    ``<|transcribe|>``.
    """
    s, ids = specials(), token_ids()
    words = [ids[word] for word in example.alignment.text.split()]
    language = s.en if words else s.no_speech
    spans = example.alignment.words
    if timed and words and spans[0].start + shift <= LATEST_FIRST_TIMESTAMP:
        body = [s.at(spans[0].start + shift), *words, s.at(spans[-1].end + shift), s.eot]
        sequence = [s.sot, s.en, s.transcribe, *body]
        return sequence[:-1], [language, IGNORE, *body]
    body = [*words, s.eot]
    if bare and words:
        return [s.sot, s.en, s.transcribe, *words], [language, IGNORE, IGNORE, *body[1:]]
    sequence = [s.sot, s.en, s.transcribe, s.no_timestamps, *body]
    return sequence[:-1], [language, IGNORE, IGNORE, *body]
