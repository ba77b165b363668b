"""Asterisk's voice prompts as distributed by Debian: ``.g722`` files and a list of their texts."""

from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath, PurePosixPath

from hooked_whisper._support.storage import AnyPath, Place, as_path
from hooked_whisper.corpora.files import decode_text, files_under, inside, read_bytes
from hooked_whisper.corpora.records import Recording
from hooked_whisper.errors import AudioError

log = logging.getLogger(__name__)

_VOICE = re.compile(r"([a-z]{2,3})(?:_[A-Z]{2})?(?:_[a-z]_(\w+))?")  # en, en_US, en_US_f_Allison
_LIST = re.compile(r"(?:core|extra)-sounds-([a-z]{2,3})(?:_\w+)?\.txt(?:\.gz)?")
_ENTRY = re.compile(r"([\w./-]+):(?:\s+|$)(.*)")
_ASIDE = re.compile(r"\[[^\]]*\]|<[^>]*>|\([^)]*\)")  # not spoken: "[tone]", "<beep>", "(1 second of silence)"
_NAMED = 6


def asterisk(path: Place, texts: Place | None = None) -> list[Recording]:
    """Return the prompts of one or several voices, ``sounds/<voice>/**/<prompt>.g722``, with texts from
    ``core-sounds-<language>.txt`` (``.gz`` in Debian).

    Ids are paths in the folder without the ending. The folder of a voice (``en_US_f_Allison``) names language and
    speaker. Words in brackets are not spoken and are removed from the texts. Prompts without words, such as tones, are
    left out and logged.

    Args:
        path: a folder with the unpacked packages ``asterisk-core-sounds-<language>`` and ``...-g722`` (``dpkg -x``),
            or ``/usr/share/asterisk/sounds``, or the folder of a voice.
        texts: path of the list of texts. Default: search the folder, then ``share/doc`` of the same installation.

    Raises:
        AudioError: the folder, its ``.g722`` files or the list of texts is missing.
    """
    folder = as_path(path)
    sounds = files_under(folder, {".g722"}, AudioError)
    if not sounds:
        raise AudioError(
            f"folder {str(folder)!r} has no .g722 files in it or below: unpack asterisk-core-sounds-*-g722"
        )
    lists = [as_path(texts)] if texts is not None else _lists(folder)
    if not lists:
        raise AudioError(
            f"the texts of {str(folder)!r} were not found: unpack the package asterisk-core-sounds-<language> to the "
            "same folder, or pass texts=, the path of core-sounds-<language>.txt.gz"
        )
    said = {_language_of_list(file): _texts(file) for file in lists}
    corpus, silent = [], []
    for file in sounds:
        voice, prompt = _voice(inside(file, folder), folder.name)
        known = _VOICE.fullmatch(voice)
        language, speaker = (known[1], known[2] or voice) if known else ("", voice)
        words = said.get(language) or (next(iter(said.values())) if len(said) == 1 else {})
        text = words.get(prompt)
        if text is not None and not _spoken(text):
            silent.append(prompt)
            continue
        name = inside(file, folder).with_suffix("").as_posix()
        corpus.append(
            Recording(name, file, str(file), speaker, "" if text is None else _spoken(text), language=language)
        )
    if not corpus:
        raise AudioError(f"folder {str(folder)!r} has only prompts without words, such as tones")
    if silent:
        log.warning("%d prompts without words are left out: %s", len(silent), _listed(silent))
    without = [recording.id for recording in corpus if not recording.text]
    if without:
        log.warning("%d prompts have no text in the list: %s", len(without), _listed(without))
    return corpus


def _lists(folder: AnyPath) -> list[AnyPath]:
    """Find the lists of texts in the folder, or else in the documentation beside ``share/asterisk``."""
    places: list[AnyPath] = [
        folder,
        *(parent / "doc" for parent in folder.absolute().parents if parent.name == "share"),
    ]
    for place in places:
        if not place.is_dir():
            continue
        listed = place.glob("asterisk-core-sounds-*/*")
        files = files_under(place, {".txt", ".gz"}, AudioError) if place is folder else sorted(map(as_path, listed))
        if lists := [file for file in files if _LIST.fullmatch(file.name)]:
            return lists
    return []


def _language_of_list(file: AnyPath) -> str:
    match = _LIST.fullmatch(file.name)
    return match[1] if match else ""


def _texts(file: AnyPath) -> dict[str, str]:
    """Map prompts to texts; lines that begin with ``;`` are comments."""
    content = read_bytes(file, AudioError)
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise AudioError(f"{str(file)!r} is a broken gzip file ({error}): unpack the package again") from error
    lines = decode_text(content, file, AudioError).split("\n")
    entries = (_ENTRY.fullmatch(line.strip()) for line in lines if not line.startswith(";"))
    return {entry[1]: entry[2] for entry in entries if entry}


def _spoken(text: str) -> str:
    return " ".join(_ASIDE.sub(" ", text).split())


def _voice(file: PurePath, top: str) -> tuple[str, str]:
    """Return the voice's folder and the prompt's name in it, from a path in the corpus."""
    parts = (top, *file.with_suffix("").parts)
    named = [k for k, part in enumerate(parts[:-1]) if (match := _VOICE.fullmatch(part)) and match[0] != match[1]]
    below_sounds = [k + 1 for k, part in enumerate(parts[:-2]) if part == "sounds"]
    index = next(iter(named), next(iter(below_sounds), 0))
    return parts[index], PurePosixPath(*parts[index + 1 :]).as_posix()


def _listed(names: Sequence[str] | Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
