"""Synthesize the planned recordings in several processes: one file of samples and one of durations for each."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Bool, Float
from tqdm import tqdm

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.errors import AudioError
from hooked_whisper.neural.kokoro import RATE, Kokoro, Speaks
from hooked_whisper.neural.phonemes import Phone, Phonemes, Word, phonemize
from hooked_whisper.neural.plan import Planned

log = logging.getLogger(__name__)

SPEED = 1.0
PAUSES_S = (0.15, 0.3, 0.2, 0.4)  # between the sentences of a window, in turn, in addition to twice the margin
MARGIN_S = 0.1  # silence left around a sentence of a window
SHORTEST_S, LONGEST_S = 25.0, 29.0  # duration of a window
PEAK = 0.99
QUIET_DB = -40.0  # silence, relative to the loudest 10 ms of a recording
HOP = RATE // 200  # 5 ms


@dataclass(frozen=True)
class Sentence:
    """One call of the synthesizer within a recording.

    Attributes:
        start: index of its first sample in the recording, at 24 kHz; negative if leading silence was cut off.
        durations: numbers of 25 ms frames for the start, each symbol, and the end.
    """

    phonemes: Phonemes
    start: int
    durations: tuple[int, ...]


@dataclass(frozen=True)
class Synthesis:
    """A synthesized recording: its plan, and its sentences with durations."""

    planned: Planned
    sentences: tuple[Sentence, ...]
    samples: int

    @property
    def text(self) -> str:
        return " ".join(self.planned.texts[: len(self.sentences)])


def build(plan: Sequence[Planned], folder: Path, voices: Path, processes: int = 1) -> int:
    """Synthesize the recordings that ``folder`` lacks, and return their number.

    A recording is done if its ``.json`` has the same voice and text. An interrupted build resumes with the next one.

    Raises:
        MissingExtraError, CheckpointError: as for :class:`~hooked_whisper.neural.kokoro.Kokoro`.
        AlignmentError: if espeak-ng writes a phone that ``phones.tsv`` does not list.
    """
    waiting = [planned for planned in plan if not is_done(planned, folder)]
    if waiting:
        with ProcessPoolExecutor(processes, get_context("spawn"), _start, (str(voices),)) as pool:
            jobs = pool.map(_make, waiting, [str(folder)] * len(waiting))
            for planned, seconds in zip(waiting, tqdm(jobs, "synthesis", len(waiting), unit="recording"), strict=True):
                log.debug("%s, %s: %.2f s", planned.id, planned.voice, seconds)
    return len(waiting)


def is_done(planned: Planned, folder: Path) -> bool:
    """Return whether ``folder`` has this recording with this voice and text."""
    path = folder / f"{stem(planned)}.json"
    return path.is_file() and json.loads(path.read_text("utf-8"))["key"] == key_of(planned)


def stem(planned: Planned) -> str:
    """Return the file name of a recording without suffix. It includes the voice, because several may be tried."""
    return f"{planned.id}.{planned.voice}"


def key_of(planned: Planned) -> str:
    """Return a SHA-256 of everything that determines the samples, except the version of the phonemizer."""
    parts = (planned.voice, planned.language, str(SPEED), *planned.texts)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def synthesize(planned: Planned, kokoro: Speaks) -> tuple[Synthesis, Float[np.ndarray, "sample"]]:
    """Synthesize a recording. Return it with its samples at 24 kHz.

    Raises:
        AudioError: if the sentences of a window do not fill 25 s.
    """
    chunks: list[np.ndarray] = []
    sentences: list[Sentence] = []
    total = 0
    for number, text in enumerate(planned.texts):
        phonemes = phonemize(text, planned.language)
        speech = kokoro.speak(phonemes.symbols, planned.voice, SPEED)
        first, last = sounding_span(speech.audio, MARGIN_S) if planned.kind == "window" else (0, len(speech.audio))
        pause = round(PAUSES_S[number % len(PAUSES_S)] * RATE) if number else 0
        if planned.kind == "window" and total + pause + last - first > LONGEST_S * RATE:
            break
        chunks += [np.zeros(pause, np.float32), speech.audio[first:last]]
        sentences.append(Sentence(phonemes, total + pause - first, tuple(map(int, speech.durations))))
        total += pause + last - first
    if planned.kind == "window" and total < SHORTEST_S * RATE:
        raise AudioError(
            f"window {planned.id!r} has {total / RATE:.1f} s of speech but needs {SHORTEST_S}: add sentences"
        )
    return Synthesis(planned, tuple(sentences), total), np.concatenate(chunks)


def quiet_hops(audio: Float[np.ndarray, "sample"]) -> Bool[np.ndarray, "hop"]:
    """Return for each hop of 5 ms whether the next 10 ms are silent: :data:`QUIET_DB` below the loudest."""
    power = np.zeros(-(-len(audio) // HOP) + 1)
    np.add.at(power, np.arange(len(audio)) // HOP, audio.astype(np.float64) ** 2)
    power = power[:-1] + power[1:]
    return power < power.max() * 10 ** (QUIET_DB / 10)


def sounding_span(audio: Float[np.ndarray, "sample"], margin: float) -> tuple[int, int]:
    """Return the first sample and the end of the sound, extended by a margin in seconds."""
    hops = np.flatnonzero(~quiet_hops(audio))
    around = round(margin * RATE)
    return max(0, int(hops[0]) * HOP - around), min(len(audio), (int(hops[-1]) + 1) * HOP + around)


def save(synthesis: Synthesis, audio: Float[np.ndarray, "sample"], folder: Path) -> None:
    """Write the samples, then the durations. So if the ``.json`` exists, the ``.flac`` is complete."""
    peak = float(np.abs(audio).max())
    buffer = io.BytesIO()
    soundfile.write(buffer, audio * min(1.0, PEAK / peak), RATE, "PCM_16", format="FLAC")
    write_atomic(folder / f"{stem(synthesis.planned)}.flac", buffer.getvalue())
    content = {
        "key": key_of(synthesis.planned),
        "samples": synthesis.samples,
        "sentences": [
            {
                "start": sentence.start,
                "durations": sentence.durations,
                "joined": sentence.phonemes.joined,
                "words": [
                    [word.text, word.mark, [[phone.symbols, phone.label] for phone in word.phones]]
                    for word in sentence.phonemes.words
                ],
            }
            for sentence in synthesis.sentences
        ],
    }
    write_atomic(folder / f"{stem(synthesis.planned)}.json", json.dumps(content, ensure_ascii=False).encode())


def load(planned: Planned, folder: Path) -> tuple[Synthesis, Float[np.ndarray, "sample"]]:
    """Read what :func:`save` wrote.

    Raises:
        AudioError: if the recording does not exist, or has another voice or text.
    """
    if not is_done(planned, folder):
        raise AudioError(f"{str(folder)!r} has no recording {planned.id!r} by {planned.voice}: build it first")
    content: dict[str, Any] = json.loads((folder / f"{stem(planned)}.json").read_text("utf-8"))
    sentences = tuple(
        Sentence(
            Phonemes(tuple(_word(*word) for word in sentence["words"]), sentence["joined"]),
            sentence["start"],
            tuple(sentence["durations"]),
        )
        for sentence in content["sentences"]
    )
    audio, _ = soundfile.read(folder / f"{stem(planned)}.flac", dtype="float32")
    return Synthesis(planned, sentences, content["samples"]), audio


def _word(text: str, mark: str, phones: list[list[str]]) -> Word:
    return Word(text, tuple(Phone(symbols, label) for symbols, label in phones), mark)


_kokoro: Kokoro | None = None  # one for each worker process


def _start(voices: str) -> None:
    global _kokoro
    _kokoro = Kokoro(Path(voices))


def _make(planned: Planned, folder: str) -> float:
    assert _kokoro is not None
    synthesis, audio = synthesize(planned, _kokoro)
    save(synthesis, audio, Path(folder))
    return len(audio) / RATE
