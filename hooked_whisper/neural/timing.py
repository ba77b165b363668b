"""Compare the times with forced alignment, before and after the corrections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from tqdm import tqdm

from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.corpora.forced_alignment import align_recording, aligner_name
from hooked_whisper.errors import AlignmentError
from hooked_whisper.neural.build import Synthesis, load
from hooked_whisper.neural.kokoro import RATE
from hooked_whisper.neural.plan import Planned
from hooked_whisper.neural.times import PHONE_LEAD_S, WORD_LEAD_S, Times, corrected, find_times
from hooked_whisper.protocols import SILENCE, Alignment, Interval

FRAME_S = 0.01  # phones are compared frame by frame


@dataclass
class Errors:
    """Differences from forced alignment in seconds, positive if our time is later."""

    words_given: list[float] = field(default_factory=list)  # space counted with the first word, no lead
    words_raw: list[float] = field(default_factory=list)  # space counted with the second word, no lead
    words: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    phones_raw: list[float] = field(default_factory=list)
    phones: list[float] = field(default_factory=list)
    frames: int = 0
    agreeing: int = 0

    def add(self, other: Errors) -> None:
        """Append other differences."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def summary(self) -> dict[str, Any]:
        """Return medians and mean absolute differences in ms, and the fraction of frames whose phones agree."""
        return {
            "words": len(self.words),
            "word_starts_as_given": _summary(self.words_given),
            "word_starts_space_moved": _summary(self.words_raw),
            "word_starts": _summary(self.words),
            "word_ends": _summary(self.ends),
            "inner_phones_as_given": _summary(self.phones_raw),
            "inner_phones": _summary(self.phones),
            "frames_agree": round(self.agreeing / max(1, self.frames), 3),
        }


def check_times(plan: Sequence[Planned], folder: Path, progress: bool = True) -> dict[str, Any]:
    """Compare the English prose of a build with forced alignment, by voice and by split.

    Raises:
        MissingExtraError: if pocketsphinx is not installed.
    """
    by_voice: dict[str, Errors] = {}
    splits = {"train": Errors(), "held-out": Errors()}
    skipped = 0
    prose = [planned for planned in plan if planned.kind == "prose"]
    for planned in tqdm(prose, "alignment", unit="recording", disable=not progress):
        try:
            errors = compare(planned, folder)
        except AlignmentError:
            skipped += 1
            continue
        by_voice.setdefault(planned.voice, Errors()).add(errors)
        splits[planned.split].add(errors)
    training = splits["train"]
    return {
        "aligner": aligner_name(),
        "recordings": len(prose) - skipped,
        "not_aligned": skipped,
        "leads_s": {"word": WORD_LEAD_S, "phone": PHONE_LEAD_S},
        "leads_measured_on_training_voices_s": {
            "word": round(float(np.median(training.words_raw)), 3),
            "phone": round(float(np.median(training.phones_raw)), 3),
        },
        **{split: errors.summary() for split, errors in splits.items()},
        "voices": {voice: errors.summary() for voice, errors in sorted(by_voice.items())},
    }


def compare(planned: Planned, folder: Path) -> Errors:
    """Return the differences for one recording.

    Raises:
        AlignmentError: if the aligner does not find the text, or finds another number of words.
    """
    synthesis, audio = load(planned, folder)
    samples = soxr.resample(audio, RATE, SAMPLE_RATE, "VHQ")
    reference = align_recording(torch.from_numpy(samples), synthesis.text, utterance=planned.id)
    times = find_times(synthesis, audio)
    if len(reference.words) != len(times.words):
        raise AlignmentError(f"{planned.id!r} has {len(times.words)} words, the aligner found {len(reference.words)}")
    return _errors(synthesis, times, reference)


def _errors(synthesis: Synthesis, times: Times, reference: Alignment) -> Errors:
    errors = Errors()
    raw = [word for sentence in synthesis.sentences for word in corrected(sentence, 0.0, 0.0)]
    for k, (word, mine, theirs) in enumerate(zip(raw, times.words, reference.words, strict=True)):
        if k:
            errors.words_given.append(word.after_space - theirs.start)
            errors.words_raw.append(word.starts[0] - theirs.start)
        errors.words.append(mine.start - theirs.start)
        errors.ends.append(mine.end - theirs.end)
        my_phones, their_phones = _within(times.phones, mine), _within(reference.phones, theirs)
        if [phone.label for phone in my_phones] == [phone.label for phone in their_phones]:
            errors.phones_raw += [a - b.start for a, b in zip(word.starts[1:], their_phones[1:], strict=True)]
            errors.phones += [a.start - b.start for a, b in zip(my_phones[1:], their_phones[1:], strict=True)]
    labels, reference_labels = (_labels(phones, reference.duration) for phones in (times.phones, reference.phones))
    spoken = np.not_equal(reference_labels, SILENCE)
    errors.frames = int(spoken.sum())
    errors.agreeing = int(np.equal(labels, reference_labels)[spoken].sum())
    return errors


def _within(phones: Sequence[Interval], word: Interval) -> list[Interval]:
    return [phone for phone in phones if word.start <= (phone.start + phone.end) / 2 < word.end]


def _labels(phones: Sequence[Interval], duration: float) -> np.ndarray:
    """Return the phone of each frame of 10 ms."""
    labels = np.full(int(duration / FRAME_S), SILENCE, dtype=object)
    for phone in phones:
        labels[round(phone.start / FRAME_S) : round(phone.end / FRAME_S)] = phone.label
    return labels


def _summary(differences: Sequence[float]) -> dict[str, float]:
    values = 1000 * np.array(differences)
    if not len(values):
        return {}
    return {
        "median_ms": round(float(np.median(values)), 1),
        "median_abs_ms": round(float(np.median(np.abs(values))), 1),
        "mean_abs_ms": round(float(np.mean(np.abs(values))), 1),
        "within_50_ms": round(float(np.mean(np.abs(values) <= 50)), 3),
    }
