"""The speech that all jobs read, as WAV files that every program can open. Made once, not timed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float

from hooked_whisper.corpora import Recording, packaged_speech
from hooked_whisper.findings.swaps.packaged_pairs import packaged_candidates

RATE, WINDOW_S = 16000, 30
FILES, HOUR, PAIRS = "files", "hour", "pairs"


def write_speech(folder: Path, n_files: int, n_windows: int, n_pairs: int) -> None:
    """Write short files, windows of 30 s that are full of speech, and pairs with a swapped word.

    The windows repeat the packaged voices, each time louder or softer, if there is less speech than is needed.
    """
    recordings = packaged_speech("prose")[:n_files]
    _write(folder / FILES, (recording.audio().numpy() for recording in recordings))
    words = {f"{number:04d}.wav": _word_spans(recording) for number, recording in enumerate(recordings)}
    (folder / FILES / "words.json").write_text(json.dumps(words))
    _write(folder / HOUR, _windows(n_windows))
    _write_pairs(folder / PAIRS, n_pairs)


def read_pairs(folder: Path) -> list[dict[str, Any]]:
    pairs: list[dict[str, Any]] = json.loads((folder / PAIRS / "pairs.json").read_text())
    return pairs


def read_words(folder: Path) -> Iterable[tuple[Path, list[tuple[int, int]]]]:
    """Yield each short file with the encoder positions of its words."""
    words = json.loads((folder / FILES / "words.json").read_text())
    return ((folder / FILES / name, spans) for name, spans in words.items())


def _word_spans(recording: Recording) -> list[tuple[int, int]]:
    """Return first and last + 1 position of each word, with 0.1 s to each side, which words need to disappear."""
    return [(max(int(50 * w.start) - 5, 0), int(50 * w.end) + 6) for w in recording.alignment().words]


def _write(folder: Path, clips: Iterable[Float[np.ndarray, "sample"]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, samples in enumerate(clips):
        soundfile.write(folder / f"{number:04d}.wav", samples, RATE)


def _windows(n: int) -> Iterable[Float[np.ndarray, "sample"]]:
    recordings = packaged_speech(language="en")
    order = np.random.default_rng(0)
    waiting = np.zeros(0, np.float32)
    for _ in range(n):
        while len(waiting) < RATE * WINDOW_S:
            recording = recordings[int(order.integers(len(recordings)))]
            waiting = np.concatenate([waiting, np.float32(order.uniform(0.5, 1)) * recording.audio().numpy()])
        window, waiting = waiting[: RATE * WINDOW_S], waiting[RATE * WINDOW_S :]
        yield window


def _write_pairs(folder: Path, n: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pairs: list[dict[str, Any]] = []
    for candidate in packaged_candidates(0):
        if len(pairs) == n:
            break
        if not candidate.index:
            continue  # nothing comes before the first word
        swap = candidate.load()
        number, (span, *_) = len(pairs), swap.spans
        for name, samples in (("clean", swap.clean), ("corrupt", swap.corrupt)):
            soundfile.write(folder / f"{number:04d}-{name}.wav", samples, RATE, subtype="FLOAT")
        before = " ".join(candidate.text_a.split()[: candidate.index])
        words = {"before": f" {before}", "answer": f" {candidate.a}", "foil": f" {candidate.b}"}
        pairs.append({"start": span.start, "end": span.end} | words)
    (folder / "pairs.json").write_text(json.dumps(pairs))
