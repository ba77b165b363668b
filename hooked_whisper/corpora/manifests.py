"""Manifests: CSV, TSV and JSON lines with audio files or parts of them, texts and speakers."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hooked_whisper._support.storage import AnyPath, Place, as_path, is_local
from hooked_whisper.corpora.alignments import read_alignment, with_files
from hooked_whisper.corpora.files import AUDIO_ENDINGS, read_text
from hooked_whisper.corpora.fitting import fitted
from hooked_whisper.corpora.parts import load_part
from hooked_whisper.corpora.records import Recording
from hooked_whisper.corpora.tiers import USUAL, Tiers, cut
from hooked_whisper.errors import AudioError, closest
from hooked_whisper.protocols import Alignment

# Column names: ours first, then NeMo's, Common Voice's and others'. The first one present is used.
_COLUMNS = {
    "path": ("path", "audio", "audio_filepath", "audio_path", "file", "file_name", "filename", "wav"),
    "id": ("id", "utterance", "utt_id", "utterance_id"),
    "text": ("text", "sentence", "transcript", "transcription"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk"),
    "alignment": ("alignment", "alignment_path", "textgrid"),
    "start": ("start", "offset", "start_time"),
    "end": ("end", "end_time"),
    "duration": ("duration",),
    "language": ("language", "lang", "locale"),
}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".json", ".ndjson")


def manifest(
    path: Place,
    *,
    columns: Mapping[str, str] | None = None,
    root: Place | None = None,
    tiers: Tiers = USUAL,
) -> list[Recording]:
    """Return the recordings that a table lists.

    ``.csv`` (with quotes) and ``.tsv`` (without, as in Common Voice) have a header line; ``.jsonl`` has one object per
    line, as in NeMo. Columns, of which only the first is required, with their other names:

    - ``path`` (``audio``, ``audio_filepath``, ``file`` ...): the audio file, a path or URL
    - ``id``: default: the path without its ending, plus the times of a part and, to be unique, a number
    - ``text`` (``sentence``, ``transcript`` ...), ``speaker`` (``speaker_id``, ``client_id`` ...), ``language``
      (``lang``, ``locale``)
    - ``alignment``: a file for :func:`~hooked_whisper.corpora.read_alignment`, with times in the audio file; they are
      cut to a part
    - ``start`` (``offset``) and ``end``, or ``duration``, in seconds: read only this part of the file. A ``duration``
      without ``start`` or ``offset`` is ignored

    Args:
        columns: names of the columns in this table, such as ``{"text": "normalized"}``.
        root: folder or URL that relative paths start from; default: the folder of the table.
        tiers: how to read alignments.

    Raises:
        AudioError: the file is missing, has another ending or is not UTF-8, the column or a value of the path is
            missing, an id is repeated, or times are not numbers or end before they start; the message names the file,
            the line and the column.
    """
    path = as_path(path)
    columns = {} if columns is None else columns
    for field in columns:
        if field not in _COLUMNS:
            raise AudioError(
                f"columns has the unknown key {field!r}; keys are {', '.join(_COLUMNS)}{_hint(field, _COLUMNS)}"
            )
    base = path.parent if root is None else as_path(root)
    rows = [_read_row(row, columns, base) for row in _rows(path, columns)]
    if not rows:
        raise AudioError(f"{str(path)!r} lists no recordings: it has no rows")
    seen: dict[str, str] = {}
    for row in rows:
        if row.id and row.id in seen:
            raise AudioError(f"{row.where}: the id {row.id!r} is already used at {seen[row.id]}: ids must be unique")
        seen[row.id] = row.where
    return [_recording(row, name, tiers) for row, name in zip(rows, _names(rows), strict=True)]


@dataclass(frozen=True)
class _Cells:
    """The unchecked values of a row."""

    values: Mapping[str, Any]
    where: str

    def get(self, field: str, columns: Mapping[str, str]) -> tuple[str, Any]:
        """Return the name and value of a field's column in this row; the value is ``None`` if there is none."""
        names = (columns[field],) if field in columns else _COLUMNS[field]
        column = next((n for n in names if self.values.get(n) not in (None, "")), names[0])
        return column, self.values.get(column) if self.values.get(column) != "" else None


@dataclass(frozen=True)
class _Row:
    """The checked values of a row."""

    where: str
    path: AnyPath
    listed: str
    id: str
    text: str
    speaker: str
    alignment: AnyPath | None
    start: float
    end: float
    language: str

    @property
    def is_part(self) -> bool:
        return self.start > 0 or self.end < math.inf


def _rows(path: AnyPath, columns: Mapping[str, str]) -> Iterator[_Cells]:
    ending, source = path.suffix.lower(), repr(str(path))
    if ending not in _SEPARATORS and ending not in _JSON_LINES:
        advice = "; for a recording, give the folder that holds it" if ending in AUDIO_ENDINGS else ""
        raise AudioError(
            f"{source} is not a manifest: the ending must be one of {', '.join([*_SEPARATORS, *_JSON_LINES])}{advice}"
        )
    content = read_text(path, AudioError)
    if ending in _JSON_LINES:
        yield from _json_rows(content, source, columns)
        return
    lines = content.splitlines(keepends=True) if ending == ".csv" else content.split("\n")
    separator = _SEPARATORS[ending]
    if ending == ".csv":
        reader = csv.reader(lines, delimiter=separator, strict=True)
    else:
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise AudioError(f"{source} is empty: it needs a header line with a column 'path'")
        _check_header(header, columns, f"{source}, line 1")
        for cells in reader:
            where = f"{source}, line {reader.line_num}"
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise AudioError(
                    f"{where} has {len(cells)} columns, the header {len(header)}: quote cells with separators"
                )
            yield _Cells(dict(zip(header, cells, strict=True)), where)
    except csv.Error as error:
        raise AudioError(f"{source}, line {reader.line_num}: {error}: check its quotes") from error


def _json_rows(content: str, source: str, columns: Mapping[str, str]) -> list[_Cells]:
    rows = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise AudioError(f"{where} is not JSON: {error}; a manifest has one object per line") from error
        if not isinstance(values, dict):
            raise AudioError(f"{where} is not an object with a 'path', but {line.strip()!r:.60}")
        rows.append(_Cells(values, where))
    if rows:  # objects may omit columns
        _check_header(list(dict.fromkeys(name for row in rows for name in row.values)), columns, source)
    return rows


def _check_header(header: list[str], columns: Mapping[str, str], where: str) -> None:
    twice = [name for name, times in Counter(header).items() if times > 1]
    if twice:
        raise AudioError(f"{where}: the column {twice[0]!r} is repeated")
    for field, name in columns.items():
        if name not in header:
            raise AudioError(f"{where}: no column {name!r} for {field}, but {', '.join(header)}{_hint(name, header)}")
    if "path" not in columns and not set(_COLUMNS["path"]) & set(header):
        near = [(name, matches[0]) for name in header if (matches := closest(name, _COLUMNS["path"], 1))]
        hint = "".join(f"; is {name!r} meant to be {wanted!r}?" for name, wanted in near)
        raise AudioError(
            f"{where}: no column for the audio file ({', '.join(_COLUMNS['path'])}) among {', '.join(header)}{hint} "
            "(columns={'path': ...} names another column)"
        )


def _hint(name: str, names: Any) -> str:
    near = closest(name, names)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _read_row(row: _Cells, columns: Mapping[str, str], base: AnyPath) -> _Row:
    def text(field: str) -> str:
        column, value = row.get(field, columns)
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            raise AudioError(f"{row.where}, column {column!r}: expected text, got {value!r:.60}")
        return "" if value is None else " ".join(str(value).split()) if field == "text" else str(value).strip()

    def seconds(field: str) -> float | None:
        column, value = row.get(field, columns)
        if value is None:
            return None
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not 0 <= number < math.inf:
            raise AudioError(f"{row.where}, column {column!r}: expected seconds, a number from 0, got {value!r:.40}")
        return number

    listed = _slashes(text("path"), base)
    if not Path(listed).name:  # nothing, or a folder such as "." or "/"
        raise AudioError(f"{row.where}, column {row.get('path', columns)[0]!r}: the row names no audio file")
    start, end, duration = seconds("start"), seconds("end"), seconds("duration")
    if end is None:
        end = math.inf if start is None or duration is None else start + duration
    start = 0.0 if start is None else start
    if end <= start:
        column = row.get("end", columns)[0]
        raise AudioError(f"{row.where}, column {column!r}: the part ends at {end:g} s, but starts at {start:g} s")
    aligned = _slashes(text("alignment"), base)
    return _Row(
        row.where,
        _joined(base, listed),
        listed,
        text("id"),
        text("text"),
        text("speaker"),
        _joined(base, aligned) if aligned else None,
        start,
        end,
        text("language"),
    )


def _joined(base: AnyPath, name: str) -> AnyPath:
    """Join a path of the table; URLs and absolute local paths stay as they are, also in a remote table."""
    return as_path(name) if "://" in name or Path(name).is_absolute() else base / name


def _slashes(name: str, base: AnyPath) -> str:
    """Replace the backslashes of a Windows path, unless a file has this name."""
    if "\\" not in name or os.sep != "/" or (is_local(base) and (base / name).exists()):
        return name
    return name.replace("\\", "/")


def _names(rows: list[_Row]) -> list[str]:
    """Return the ids of the table, or ids made of path and times, with a number where needed to be unique."""
    taken = {row.id for row in rows if row.id}
    names = []
    for row in rows:
        name = row.id
        if not name:
            whole = Path(row.listed).with_suffix("").as_posix()
            if row.is_part:
                whole += f"@{row.start:g}-{'' if math.isinf(row.end) else format(row.end, 'g')}"
            name, k = whole, 1
            while name in taken:
                k += 1
                name = f"{whole}#{k}"
            taken.add(name)
        names.append(name)
    return names


def _recording(row: _Row, name: str, tiers: Tiers) -> Recording:
    recording = Recording(name, row.path, str(row.path), row.speaker, row.text, language=row.language)
    files = [] if row.alignment is None else [row.alignment]
    if not row.is_part:
        return with_files(recording, files, tiers)
    find = partial(_cut_alignment, files[0], recording, row.start, row.end, tiers) if files else None
    return replace(recording, source=partial(load_part, row.path, row.start, row.end), find_alignment=find)


def _cut_alignment(path: AnyPath, recording: Recording, start: float, end: float, tiers: Tiers) -> Alignment:
    whole = fitted(read_alignment(path, recording.id, tiers), recording.source, recording.id)
    part = cut(whole, start, min(end, max(start, whole.duration)))
    return replace(part, speaker=recording.speaker or part.speaker, text=recording.text or part.text)
