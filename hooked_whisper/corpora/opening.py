"""One call for any corpus on disk."""

from __future__ import annotations

from typing import Literal, get_args

from upath import UPath

from hooked_whisper.corpora.alignments import apply_alignments
from hooked_whisper.corpora.files import files_under, inside
from hooked_whisper.corpora.folders import audio_folder, librispeech, parent_folder, timit
from hooked_whisper.corpora.manifests import manifest
from hooked_whisper.corpora.packaged import LIST, from_name, is_reserved, read_packaged
from hooked_whisper.corpora.records import Recording
from hooked_whisper.corpora.tiers import USUAL, Tiers
from hooked_whisper.errors import AudioError, closest
from hooked_whisper.storage import AnyPath, Place, as_path, is_local

Layout = Literal["auto", "folder", "librispeech", "timit", "manifest", "packaged"]


def open_corpus(
    path: Place,
    layout: str = "auto",
    *,
    alignments: Place | None = None,
    speaker_folders: bool = False,
    tiers: Tiers = USUAL,
) -> list[Recording]:
    """Recordings of a folder, LibriSpeech, TIMIT, or a table.

    Args:
        path: also ``"packaged"`` for the packaged speech, or ``"packaged:prose,window"`` for kinds of it (see
            :func:`~hooked_whisper.corpora.packaged_speech`), if there is no such file.
        layout: ``"auto"`` takes a file for a manifest, a folder with ``*.trans.txt`` three levels down for LibriSpeech,
            one with ``.phn`` files three levels down for TIMIT, one with ``utterances.jsonl`` for packaged speech, and
            any other for a folder of audio.
        alignments: a folder or file of alignments; without it those beside the audio are taken.
        speaker_folders: in a plain folder, files in one folder have one speaker.

    Raises:
        AudioError: no such place, another layout, nothing in it.
        AlignmentError: none of the ``alignments`` belongs to a recording.
    """
    place = as_path(path)
    if layout not in get_args(Layout):
        near = closest(layout, get_args(Layout))
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AudioError(f"a corpus has the layout {', '.join(get_args(Layout))}, not {layout!r}{hint}")
    if isinstance(path, str) and is_reserved(path) and layout in ("auto", "packaged") and not place.exists():
        corpus = from_name(path)
        return corpus if alignments is None else list(apply_alignments(corpus, alignments, tiers))
    if not place.exists():
        raise AudioError(f"there is no file or folder {str(place)!r}: check the path and the working folder")
    kind = _layout_of(place) if layout == "auto" else layout
    if kind == "librispeech":
        return librispeech(place, alignments=alignments, tiers=tiers)
    if kind == "folder":
        speaker = parent_folder if speaker_folders else None
        return audio_folder(place, speaker=speaker, alignments=alignments, tiers=tiers)
    if kind == "packaged":
        corpus = read_packaged(place)
    else:
        corpus = timit(place, tiers) if kind == "timit" else manifest(place, tiers=tiers)
    return corpus if alignments is None else list(apply_alignments(corpus, alignments, tiers))


def _layout_of(place: AnyPath) -> str:
    if place.is_file() and (is_local(place) or place.suffix):  # a web server shows its folders as files
        return "manifest"
    if not is_local(place):
        return _remote_layout(place)
    if (place / LIST).is_file():
        return "packaged"
    inner = place / "LibriSpeech" if (place / "LibriSpeech").is_dir() else place
    if next(inner.glob("*/*/*/*.trans.txt"), None) is not None:
        return "librispeech"
    phones = (next(place.glob(f"*/*/*.{ending}"), None) for ending in ("phn", "PHN"))
    return "timit" if any(phones) else "folder"


def _remote_layout(place: UPath) -> str:
    """The same from one listing of the whole tree: patterns would be looked for folder by folder."""
    parts = [inside(file, place).parts for file in files_under(place, {".txt", ".phn"}, AudioError)]
    if any(len(one) - (one[0] == "LibriSpeech") == 4 and one[-1].endswith(".trans.txt") for one in parts):
        return "librispeech"
    return "timit" if any(len(one) == 3 and one[-1].lower().endswith(".phn") for one in parts) else "folder"
