"""Tables of transcripts in a folder of audio: ``metadata.csv`` of Hugging Face and of LJ Speech."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from hooked_whisper._support.storage import AnyPath
from hooked_whisper.corpora.files import read_text
from hooked_whisper.corpora.manifests import manifest
from hooked_whisper.errors import AudioError

log = logging.getLogger(__name__)

NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")


@dataclass(frozen=True)
class Facts:
    """Transcript, speaker and language of a file, from a table."""

    text: str
    speaker: str = ""
    language: str = ""


def facts_of(tables: Sequence[AnyPath]) -> dict[str, Facts]:
    """Map the paths of audio files to their rows in the tables.

    The columns are those of :func:`~hooked_whisper.corpora.manifest` (``file_name``, ``transcription``, ``text``,
    ``speaker_id`` ...), or LJ Speech's lines ``name|text|text in words`` with the audio in ``wavs``. A table without a
    column of files is skipped with a log message.

    Raises:
        AudioError: a table is broken; the message names the line.
    """
    facts: dict[str, Facts] = {}
    for table in tables:
        content = read_text(table, AudioError)
        first = content.partition("\n")[0]
        if "|" in first and "," not in first.partition("|")[0]:
            facts.update(_lj_speech(table, content))
            continue
        try:
            rows = manifest(table)
        except AudioError as error:
            if "no column for the audio file" not in str(error):
                raise
            log.warning("%s has no column of audio files (file_name) and is ignored", table)
            continue
        facts.update({row.path: Facts(row.text, row.speaker, row.language) for row in rows})
    return facts


def _lj_speech(table: AnyPath, content: str) -> dict[str, Facts]:
    facts = {}
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        name, *texts = (cell.strip() for cell in line.split("|"))
        if not name or not texts:
            raise AudioError(f"{str(table)!r}, line {number}: expected `name|text|text in words`, got {line!r:.80}")
        said = Facts(" ".join((texts[-1] or texts[0]).split()))
        for place in (table.parent / "wavs", table.parent):
            facts[str(place / (name if name.endswith(".wav") else f"{name}.wav"))] = said
    return facts
