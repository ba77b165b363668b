"""Transcribe the recordings of a build with Whisper. Transcripts are saved in the folder of the build."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from hooked_whisper.errors import AudioError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.transcriber import Transcriber
from hooked_whisper.neural.build import key_of, load
from hooked_whisper.neural.encode import KBPS, decode, encode, finish
from hooked_whisper.neural.plan import Planned
from hooked_whisper.text import WordError, normalizer_for, word_errors

MODELS = ("tiny.en", "base")
BATCH = 8


@dataclass(frozen=True)
class Heard:
    """A recording and its transcript by a model."""

    planned: Planned
    text: str
    transcript: str

    @property
    def errors(self) -> WordError:
        """Word errors after Whisper's normalizer."""
        return word_errors([self.text], [self.transcript], normalizer_for(self.planned.language))[0]


def hear(
    plan: Sequence[Planned], folder: Path, model: str, kbps: int | None = KBPS, progress: bool = True
) -> list[Heard]:
    """Transcribe the recordings of a build, greedily and with the known language.

    Transcripts in ``folder`` with the same voice and text are reused. English-only models get only the English
    recordings.

    Args:
        model: ``"tiny.en"`` or ``"base"``.
        kbps: bit rate of the codec; ``None`` for the audio without the codec.

    Raises:
        AudioError: if a recording has not been built.
        UnknownModelError, MissingWeightsError: as for ``from_pretrained``.
    """
    plan = [planned for planned in plan if planned.language == "en" or not model.endswith(".en")]
    path = folder / f"heard.{model}.{'uncoded' if kbps is None else f'{kbps}'}.jsonl"
    transcripts = _read(path)
    waiting = [planned for planned in plan if (planned.id, key_of(planned)) not in transcripts]
    if waiting:
        whisper = HookedWhisper.from_pretrained(model)
        waiting.sort(key=lambda planned: planned.language)
        batches = _batches(waiting)
        with path.open("a", encoding="utf-8") as file:
            for batch in tqdm(batches, f"{model} listens", unit="batch", disable=not progress):
                for planned, text in zip(batch, _transcripts(batch, folder, whisper, kbps), strict=True):
                    transcripts[planned.id, key_of(planned)] = text
                    row = {"id": planned.id, "key": key_of(planned), "transcript": text}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
    return [Heard(planned, load_text(planned, folder), transcripts[planned.id, key_of(planned)]) for planned in plan]


def load_text(planned: Planned, folder: Path) -> str:
    """Return the text of a recording: for a window, the sentences that fit into it."""
    return load(planned, folder)[0].text if planned.kind == "window" else planned.text


def _read(path: Path) -> dict[tuple[str, str], str]:
    """Read transcripts by recording and key. An incomplete last line is ignored."""
    transcripts = {}
    for line in path.read_text("utf-8").split("\n") if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        transcripts[row["id"], row["key"]] = row["transcript"]
    return transcripts


def _batches(plan: Sequence[Planned]) -> list[list[Planned]]:
    """Group recordings into batches of up to 8 of one language."""
    batches: list[list[Planned]] = []
    for planned in plan:
        if not batches or len(batches[-1]) == BATCH or batches[-1][0].language != planned.language:
            batches.append([])
        batches[-1].append(planned)
    return batches


@torch.no_grad()
def _transcripts(batch: Sequence[Planned], folder: Path, whisper: HookedWhisper, kbps: int | None) -> list[str]:
    samples = []
    for planned in batch:
        finished = finish(*load(planned, folder))
        coded = finished.audio if kbps is None else decode(encode(finished.audio, kbps))
        if len(coded) != len(finished.audio):
            raise AudioError(f"{planned.id!r} is {len(coded)} samples after the codec, it was {len(finished.audio)}")
        samples.append(torch.from_numpy(coded))
    return Transcriber(whisper, batch[0].language).raw(whisper.encoder(whisper.to_mel(samples)))
