"""One call for any corpus on disk."""

from __future__ import annotations

import re
from typing import Literal, get_args

from upath import UPath

from hooked_whisper._support.storage import AnyPath, Place, as_path, is_local
from hooked_whisper.corpora.alignments import apply_alignments
from hooked_whisper.corpora.asterisk import asterisk
from hooked_whisper.corpora.common_voice import common_voice, is_common_voice
from hooked_whisper.corpora.files import files_under, inside
from hooked_whisper.corpora.fleurs import fleurs, tables_of
from hooked_whisper.corpora.folders import audio_folder, librispeech, parent_folder, timit
from hooked_whisper.corpora.manifests import manifest
from hooked_whisper.corpora.packaged import LIST, from_name, is_reserved, read_packaged
from hooked_whisper.corpora.records import Recording
from hooked_whisper.corpora.tiers import USUAL, Tiers
from hooked_whisper.errors import AudioError, closest

Layout = Literal["auto", "folder", "librispeech", "timit", "common-voice", "fleurs", "asterisk", "manifest", "packaged"]
_NLTK_SPEAKER = re.compile(r"dr[1-8]-\w+", re.IGNORECASE)


def open_corpus(
    path: Place,
    layout: str = "auto",
    *,
    alignments: Place | None = None,
    speaker_folders: bool = False,
    tiers: Tiers = USUAL,
    phones: int | None = None,
) -> list[Recording]:
    """Recordings of a folder, a published corpus, or a table.

    Args:
        path: also ``"packaged"`` for the packaged speech, or ``"packaged:prose,window"`` for kinds of it (see
            :func:`~hooked_whisper.corpora.packaged_speech`), if there is no such file.
        layout: ``"auto"`` takes a file for a manifest (or a table of Common Voice or FLEURS); a folder with
            ``*.trans.txt`` three levels down for LibriSpeech; one with ``.phn`` files three levels down, or in folders
            such as ``dr1-fvmh0`` (NLTK's sample), for TIMIT; one with ``clips`` and tables beside it for Common Voice;
            one with FLEURS' tables for that; one with ``.g722`` files for Asterisk's prompts; one with
            ``utterances.jsonl`` for packaged speech; and any other for a folder of audio.
        alignments: a folder or file of alignments; without it those beside the audio are taken.
        speaker_folders: in a plain folder, files in one folder have one speaker.
        phones: of TIMIT, 39 classes (default) or its 61 labels, see :func:`~hooked_whisper.corpora.timit`.

    Raises:
        AudioError: no such place, another layout, nothing in it, ``phones`` for another corpus than TIMIT.
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
    if phones is not None and kind != "timit":
        raise AudioError(f"phones={phones} is for TIMIT, but {str(place)!r} has the layout {kind!r}: leave it out")
    if kind == "librispeech":
        return librispeech(place, alignments=alignments, tiers=tiers)
    if kind == "folder":
        speaker = parent_folder if speaker_folders else None
        return audio_folder(place, speaker=speaker, alignments=alignments, tiers=tiers)
    if kind == "timit":
        corpus = timit(place, tiers, phones)
    elif kind == "manifest":
        corpus = manifest(place, tiers=tiers)
    else:
        openers = {"common-voice": common_voice, "fleurs": fleurs, "asterisk": asterisk, "packaged": read_packaged}
        corpus = openers[kind](place)
    return corpus if alignments is None else list(apply_alignments(corpus, alignments, tiers))


def _layout_of(place: AnyPath) -> str:
    if place.is_file() and (is_local(place) or place.suffix):  # a web server shows its folders as files
        if place.suffix == ".tsv" and (place.parent / "clips").is_dir():
            return "common-voice"
        return "fleurs" if place.suffix == ".tsv" and tables_of(place) else "manifest"
    if not is_local(place):
        return _remote_layout(place)
    if (place / LIST).is_file():
        return "packaged"
    inner = place / "LibriSpeech" if (place / "LibriSpeech").is_dir() else place
    if next(inner.glob("*/*/*/*.trans.txt"), None) is not None:
        return "librispeech"
    endings = ("phn", "PHN")
    if any(next(place.glob(f"*/*/*.{ending}"), None) is not None for ending in endings) or any(
        _NLTK_SPEAKER.fullmatch(file.parent.name) for ending in endings for file in place.glob(f"*/*.{ending}")
    ):
        return "timit"
    if is_common_voice(place) or any(is_common_voice(folder) for folder in place.iterdir() if folder.is_dir()):
        return "common-voice"
    if tables_of(place):
        return "fleurs"
    return "asterisk" if next(place.rglob("*.g722"), None) is not None else "folder"


def _remote_layout(place: UPath) -> str:
    """The same from one listing of the whole tree: patterns would be looked for folder by folder."""
    parts = [inside(file, place).parts for file in files_under(place, {".txt", ".phn", ".tsv", ".g722"}, AudioError)]
    if any(len(one) - (one[0] == "LibriSpeech") == 4 and one[-1].endswith(".trans.txt") for one in parts):
        return "librispeech"
    phones = [one for one in parts if one[-1].lower().endswith(".phn")]
    if any(len(one) == 3 or (len(one) == 2 and _NLTK_SPEAKER.fullmatch(one[0])) for one in phones):
        return "timit"
    if any(one[-1].endswith(".g722") for one in parts):
        return "asterisk"
    if not any(one[-1].endswith(".tsv") for one in parts):
        return "folder"
    if is_common_voice(place):
        return "common-voice"
    return "fleurs" if tables_of(place) else "folder"
