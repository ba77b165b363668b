"""Mozilla Common Voice: ``clips/`` with tables beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from hooked_whisper._support.storage import AnyPath, Place, as_path
from hooked_whisper.corpora.manifests import manifest
from hooked_whisper.corpora.records import Recording
from hooked_whisper.errors import AudioError, closest

SPLITS = ("validated", "train", "dev", "test", "other", "invalidated")
_LOCALE = re.compile(r"([a-z]{2,3})(?:-[A-Za-z]+)*")


def common_voice(path: Place, splits: Sequence[str] | None = None) -> list[Recording]:
    """Return the clips of one or several locales.

    Ids are the names of the clips, such as ``common_voice_en_17``. Speakers come from ``client_id``, texts from
    ``sentence``, languages from ``locale`` or the folder's name.

    Args:
        path: the folder of a locale (with ``clips`` in it), its parent, or one table (``train.tsv``).
        splits: tables to read, such as ``["train", "dev"]``. Default: ``validated``, which includes train, dev and
            test; without it train, dev and test, then ``other``, then ``invalidated``.

    Raises:
        AudioError: a folder or table is missing or broken; the message names the line.
    """
    place = as_path(path)
    if place.suffix == ".tsv":
        return _table(place)
    locales = [place] if is_common_voice(place) else sorted(f for f in place.iterdir() if is_common_voice(f))
    if not locales:
        raise AudioError(f"folder {str(place)!r} is not laid out like Common Voice: no clips/ with a .tsv beside it")
    corpus: dict[str, Recording] = {}
    for locale in locales:
        for table in _tables(locale, splits):
            corpus.update({recording.id: recording for recording in _table(table)})
    return list(corpus.values())


def is_common_voice(folder: AnyPath) -> bool:
    return (folder / "clips").is_dir() and any((folder / f"{split}.tsv").is_file() for split in SPLITS)


def _tables(folder: AnyPath, splits: Sequence[str] | None) -> list[AnyPath]:
    known = [split for split in SPLITS if (folder / f"{split}.tsv").is_file()]
    if splits is None:
        parts = [split for split in ("train", "dev", "test") if split in known]
        splits = ["validated"] if "validated" in known else parts or known[:1]
    for split in splits:
        if split not in known:
            near = closest(split, known)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise AudioError(f"no table {split}.tsv in {str(folder)!r}, there are {', '.join(known)}{hint}")
    return [folder / f"{split}.tsv" for split in splits]


def _table(table: AnyPath) -> list[Recording]:
    folder = table.parent
    match = _LOCALE.fullmatch(folder.name)
    corpus = manifest(table, root=folder / "clips")
    recordings = []
    for recording in corpus:
        language = (recording.language or (match[0] if match else "")).partition("-")[0]
        source = recording.source
        if not source.suffix:  # the first releases omit the ending
            source = source.with_name(f"{source.name}.mp3")
        recordings.append(replace(recording, source=source, path=str(source), language=language))
    return recordings
