"""Open any corpus on disk."""

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
from hooked_whisper.errors import AudioError, check_option

CorpusLayout = Literal[
    "auto", "folder", "librispeech", "timit", "common-voice", "fleurs", "asterisk", "manifest", "packaged"
]
_NLTK_SPEAKER = re.compile(r"dr[1-8]-\w+", re.IGNORECASE)


def open_corpus(
    path: Place,
    layout: CorpusLayout = "auto",
    *,
    alignments: Place | None = None,
    speaker_folders: bool = False,
    tiers: Tiers = USUAL,
    phones: int | None = None,
) -> list[Recording]:
    """Return the recordings of a folder, a published corpus, or a table.

    Args:
        path: a folder or file; or ``"packaged"`` for the packaged speech and ``"packaged:prose,window"`` for kinds of
            it (see :func:`~hooked_whisper.corpora.packaged_speech`), if no file has that name.
        layout: ``"auto"`` detects it. A file is a manifest, or a table of Common Voice or FLEURS. A folder is
            LibriSpeech if it has ``*.trans.txt`` three levels down; TIMIT if it has ``.phn`` files three levels down or
            in folders such as ``dr1-fvmh0`` (NLTK's sample); Common Voice if it has ``clips`` and tables beside it;
            FLEURS if it has FLEURS' tables; Asterisk's prompts if it has ``.g722`` files; packaged speech if it has
            ``utterances.jsonl``; otherwise a folder of audio.
        alignments: a folder or file of alignments; default: those beside the audio.
        speaker_folders: in a plain folder, take the name of a file's folder as its speaker.
        phones: 39 classes (default) or 61 labels, for TIMIT only, see :func:`~hooked_whisper.corpora.timit`.

    Raises:
        AudioError: the path does not exist, has another layout or no recordings, or ``phones`` is given for a corpus
            other than TIMIT.
        AlignmentError: none of the ``alignments`` matches a recording.
    """
    check_option("layout", layout, get_args(CorpusLayout), AudioError)
    place = as_path(path)
    if isinstance(path, str) and is_reserved(path) and layout in ("auto", "packaged") and not place.exists():
        corpus = from_name(path)
        return corpus if alignments is None else list(apply_alignments(corpus, alignments, tiers))
    if not place.exists():
        raise AudioError(f"there is no file or folder {str(place)!r}: check the path and the working folder")
    kind = _layout_of(place) if layout == "auto" else layout
    if phones is not None and kind != "timit":
        raise AudioError(f"phones={phones} is for TIMIT only, but {str(place)!r} has the layout {kind!r}: omit phones")
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
    if place.is_file() and (is_local(place) or place.suffix):  # web servers list folders as files
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
    """Detect the layout from one listing of the whole tree; patterns would list each folder."""
    parts = [inside(file, place).parts for file in files_under(place, {".txt", ".phn", ".tsv", ".g722"}, AudioError)]
    if any(len(file) - (file[0] == "LibriSpeech") == 4 and file[-1].endswith(".trans.txt") for file in parts):
        return "librispeech"
    phones = [file for file in parts if file[-1].lower().endswith(".phn")]
    if any(len(file) == 3 or (len(file) == 2 and _NLTK_SPEAKER.fullmatch(file[0])) for file in phones):
        return "timit"
    if any(file[-1].endswith(".g722") for file in parts):
        return "asterisk"
    if not any(file[-1].endswith(".tsv") for file in parts):
        return "folder"
    if is_common_voice(place):
        return "common-voice"
    return "fleurs" if tables_of(place) else "folder"
