"""Read the data files: texts, voices, phones. All are tables with tab-separated columns and a header line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hooked_whisper.errors import CheckpointError

FOLDER = Path(__file__).parent
TEXTS = FOLDER / "texts"


@dataclass(frozen=True)
class Voice:
    """One of Kokoro's voices: its language, ``"female"`` or ``"male"``, split, and the SHA-256 of its file."""

    name: str
    language: str
    sex: str
    split: str
    sha256: str


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table. Empty lines and lines that begin with ``#`` are skipped.

    Raises:
        CheckpointError: if the file does not exist, has no rows, or a row has a wrong number of columns.
    """
    if not path.is_file():
        raise CheckpointError(f"table {str(path)!r} does not exist: reinstall hooked_whisper")
    lines = [(n, line) for n, line in enumerate(path.read_text("utf-8").split("\n"), 1) if line.strip()]
    lines = [(n, line) for n, line in lines if not line.startswith("#")]
    if len(lines) < 2:
        raise CheckpointError(f"{str(path)!r} has no rows below its header")
    header, rows = lines[0][1].split("\t"), []
    for number, line in lines[1:]:
        cells = line.split("\t")
        if len(cells) != len(header):
            raise CheckpointError(f"{str(path)!r}, line {number}: {len(cells)} columns, the header has {len(header)}")
        rows.append({name: cell.strip() for name, cell in zip(header, cells, strict=True)})
    return rows


@cache
def voice_table() -> tuple[Voice, ...]:
    """Return the voices of ``texts/voices.tsv`` with the checksums of ``voices.sha256``."""
    lines = (FOLDER / "voices.sha256").read_text("utf-8").splitlines()
    digests = {name: digest for digest, name in map(str.split, lines)}
    return tuple(
        Voice(row["voice"], row["language"], row["sex"], row["split"], digests[row["voice"] + ".bin"])
        for row in read_table(TEXTS / "voices.tsv")
    )


@cache
def phone_table(language: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return espeak-ng phone (without stress) -> (Kokoro's symbols, label) of each phone that it represents."""
    table = {}
    for row in read_table(FOLDER / "phones.tsv"):
        if language in row["languages"].split(","):
            symbols, labels = row["kokoro"].split(" "), row["labels"].split(" ")
            if len(symbols) != len(labels):
                raise CheckpointError(f"phones.tsv, {row['espeak']!r}: {len(symbols)} symbols, {len(labels)} labels")
            table[row["espeak"]] = tuple(zip(symbols, labels, strict=True))
    return table
