"""Google's FLEURS as in its repository: ``data/<language>/<split>.tsv`` without header, and archives of audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hooked_whisper._support.storage import AnyPath, Place, as_path
from hooked_whisper.corpora.files import read_text
from hooked_whisper.corpora.records import Recording
from hooked_whisper.errors import AudioError, closest

SPLITS = ("train", "dev", "test")
_COLUMNS = 7  # sentence number, file, text as written, text in lower case, its letters, samples, gender
# FLEURS' codes of languages where Whisper's differ.
_CODES = {"cmn": "zh", "fil": "tl", "nb": "no", "jv": "jw", "iw": "he"}


@dataclass(frozen=True)
class _Table:
    path: AnyPath
    split: str
    language: str  # the folder's name, such as de_de


def fleurs(path: Place, splits: Sequence[str] | None = None) -> list[Recording]:
    """Return the recordings of one or several languages, with the text as written and Whisper's language code.

    Ids are ``<language>/<split>/<file>``, such as ``de_de/test/123``; speakers are unknown. Unpack the archives
    ``audio/<split>.tar.gz`` first, in place or beside the table.

    Args:
        path: the folder of a language (``data/de_de``), its parent, or one table (``test.tsv``).
        splits: of train, dev and test; default: all.

    Raises:
        AudioError: a folder or table is missing, a line does not have seven columns, or an archive is not unpacked.
    """
    place = as_path(path)
    tables = tables_of(place)
    if not tables:
        raise AudioError(f"folder {str(place)!r} is not laid out like FLEURS: no <language>/<split>.tsv in it")
    known = [split for split in SPLITS if any(table.split == split for table in tables)]
    for split in splits or ():
        if split not in known:
            near = closest(split, known)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise AudioError(f"no {split}.tsv in {str(place)!r}, there are {', '.join(known)}{hint}")
    return [
        recording for table in tables if splits is None or table.split in splits for recording in _recordings(table)
    ]


def tables_of(place: AnyPath) -> list[_Table]:
    """Return the tables of a folder with FLEURS' layout; empty for other layouts."""
    if place.suffix == ".tsv":
        folders, names = [place.parent], [place.stem]
    else:
        data = place / "data" if (place / "data").is_dir() else place
        below = sorted(folder for folder in data.iterdir() if folder.is_dir()) if data.is_dir() else []
        folders, names = [place, *below], list(SPLITS)
    return [
        _Table(folder / f"{name}.tsv", name, folder.absolute().name)
        for folder in folders
        for name in names
        if is_fleurs(folder / f"{name}.tsv")
    ]


def is_fleurs(table: AnyPath) -> bool:
    """Whether a table has FLEURS' columns; it has no header."""
    if not table.is_file():
        return False
    with table.open("rb") as file:
        cells = file.readline(1 << 16).split(b"\t")
    return len(cells) == _COLUMNS and cells[0].isdigit() and cells[1].endswith(b".wav")


def _recordings(table: _Table) -> list[Recording]:
    parent = table.path.parent
    places = [parent / "audio" / table.split, parent / table.split, parent / "audio", parent]
    language = table.language.partition("_")[0]
    recordings: list[Recording] = []
    seen: set[str] = set()
    for number, line in enumerate(read_text(table.path, AudioError).split("\n"), 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        where = f"{str(table.path)!r}, line {number}"
        if len(cells) != _COLUMNS:
            raise AudioError(f"{where} has {len(cells)} columns, FLEURS' tables {_COLUMNS}: fetch the table again")
        name, text = cells[1].strip(), " ".join((cells[2] or cells[3]).split())
        if not recordings:
            folder = next((place for place in places if (place / name).is_file()), None)
            if folder is None:
                raise AudioError(
                    f"{where}: {name!r} is not in {', '.join(repr(str(place)) for place in places[:2])}: unpack "
                    f"audio/{table.split}.tar.gz in its folder (tar -xzf)"
                )
        assert folder is not None
        if name in seen:
            raise AudioError(f"{where}: the file {name!r} is listed twice: fetch the table again")
        seen.add(name)
        stem = name.removesuffix(".wav")
        recordings.append(
            Recording(
                f"{table.language}/{table.split}/{stem}",
                folder / name,
                str(folder / name),
                text=text,
                language=_CODES.get(language, language),
            )
        )
    return recordings
