"""Corpora in folders: any audio, the LibriSpeech layout, TIMIT."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath

from upath import UPath

from hooked_whisper._support.storage import AnyPath, Place, as_path, is_local
from hooked_whisper.corpora import metadata
from hooked_whisper.corpora.alignments import ALIGNMENT_ENDINGS, apply_alignments, with_files
from hooked_whisper.corpora.files import AUDIO_ENDINGS, files_under, inside, names_of, read_text
from hooked_whisper.corpora.label_files import is_label_file
from hooked_whisper.corpora.metadata import Facts, facts_of
from hooked_whisper.corpora.records import Recording
from hooked_whisper.corpora.tiers import USUAL, Tiers
from hooked_whisper.corpora.timit import folded, without_folding
from hooked_whisper.errors import AudioError, closest

_TRANSCRIPTS = (".txt", ".lab")
_TABLES = (".csv", ".tsv", ".jsonl")
_UNKNOWN = Facts("")
_REGION = re.compile(r"dr([1-8])(?:-|$)", re.IGNORECASE)  # folder of a dialect region, or prefix of a speaker's
_SPEAKER = re.compile(r"(?:dr[1-8]-)?(([fm])[a-z]{3}\d)", re.IGNORECASE)
_SEXES = {"f": "female", "m": "male"}


def parent_folder(path: PurePath) -> str:
    """Return the name of a file's folder, in many corpora the speaker; empty for a path without a folder."""
    return path.parent.name


def audio_folder(
    path: Place,
    *,
    speaker: Callable[[PurePath], str] | None = None,
    alignments: Place | Sequence[Place] | None = None,
    tiers: Tiers = USUAL,
) -> list[Recording]:
    """Return every audio file in a folder and its subfolders, sorted by path, without hidden files.

    Ids are paths in the folder, without the ending unless two ids would be equal. The transcript is a ``.txt`` or
    ``.lab`` file of the same name beside the audio, or a row of a table ``metadata.csv`` (``.tsv``, ``.jsonl``), which
    may also name speakers and languages. The alignment is a ``.TextGrid``, ``.ctm``, ``.phn`` and ``.wrd``, ``.json``
    or HTK ``.lab`` file beside the audio, unless ``alignments`` is given.

    Args:
        speaker: returns the speaker for a file's path in the folder, such as :func:`parent_folder`. Default: unknown.
        alignments: a folder or files, see :func:`~hooked_whisper.corpora.apply_alignments`.
        tiers: how to read alignments.

    Raises:
        AudioError: the folder does not exist or has no audio, or a transcript is not UTF-8.
        AlignmentError: none of the ``alignments`` matches a recording.
    """
    folder = as_path(path)
    files = files_under(folder, {*AUDIO_ENDINGS, *_TRANSCRIPTS, *ALIGNMENT_ENDINGS, *_TABLES}, AudioError)
    audio = [file for file in files if file.suffix.lower() in AUDIO_ENDINGS]
    if not audio:
        raise AudioError(
            f"folder {str(folder)!r} has no audio files in it or below ({', '.join(sorted(AUDIO_ENDINGS))})"
        )
    facts = facts_of([file for file in files if file.name.lower() in metadata.NAMES])
    beside: dict[AnyPath, list[AnyPath]] = {}
    for file in files:
        if file.suffix.lower() not in {*AUDIO_ENDINGS, *_TABLES}:
            beside.setdefault(file.with_suffix(""), []).append(file)
    corpus = []
    for name, file in zip(names_of(audio, folder), audio, strict=True):
        others = beside.get(file.with_suffix(""), [])
        labels = [other for other in others if other.suffix.lower() == ".lab" and _has_times(other)]
        texts = [other for other in others if other.suffix.lower() in _TRANSCRIPTS and other not in labels]
        listed = facts.get(str(file), _UNKNOWN)
        recording = Recording(
            name,
            file,
            str(file),
            listed.speaker if speaker is None else speaker(inside(file, folder)),
            " ".join(read_text(texts[0], AudioError).split()) if texts else listed.text,
            language=listed.language,
        )
        corpus.append(with_files(recording, [o for o in others if o not in texts] if alignments is None else [], tiers))
    return corpus if alignments is None else apply_alignments(corpus, alignments, tiers)


def _has_times(file: AnyPath) -> bool:
    """Whether a ``.lab`` file holds labels with times, as HTK's do, and not a transcript such as "1 2 three"."""
    content = read_text(file, AudioError).strip()
    fields = content.split()
    return is_label_file(content) and ("\n" in content or len(fields) < 2 or int(fields[1]) >= 1_000)


def librispeech(
    path: Place,
    subsets: Sequence[str] | None = None,
    *,
    alignments: Place | Sequence[Place] | None = None,
    tiers: Tiers = USUAL,
) -> list[Recording]:
    """Return LibriSpeech, or a corpus with its layout: ``<subset>/<speaker>/<chapter>/<name>.flac`` with the texts in
    ``<speaker>-<chapter>.trans.txt``.

    Ids are file names (``"1272-128104-0000"``), and the speaker is the speaker's number. A file without a line in the
    transcripts has the text ``""``.

    Args:
        path: the folder ``LibriSpeech`` or its parent.
        subsets: such as ``["dev-clean", "test-clean"]``; default: all, sorted by name.
        alignments: a separate tree of TextGrids, such as the published ones of the Montreal Forced Aligner.
        tiers: how to read alignments; the phones of that aligner have stress digits, see ``without_stress``.

    Raises:
        AudioError: the folder, a subset or audio is missing, or a line of a transcript is not ``id text``.
        AlignmentError: none of the ``alignments`` matches a recording.
    """
    folder = as_path(path)
    if (folder / "LibriSpeech").is_dir():
        folder = folder / "LibriSpeech"
    remote = {} if is_local(folder) else _by_subset(folder)
    known = _local_subsets(folder) if is_local(folder) else sorted(remote)
    if not known:
        raise AudioError(f"folder {str(folder)!r} is not laid out like LibriSpeech: no <subset>/*/*/*.flac in it")
    corpus: list[Recording] = []
    for subset in known if subsets is None else subsets:
        if subset not in known:
            near = closest(subset, known)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise AudioError(f"no subset {subset!r} in {str(folder)!r}, there are {', '.join(known)}{hint}")
        for chapter in _local_chapters(folder / subset) if is_local(folder) else remote[subset]:
            texts = _chapter_texts([file for file in chapter if file.name.endswith(".trans.txt")])
            audio = [file for file in chapter if file.suffix == ".flac"]
            corpus += [Recording(f.stem, f, str(f), f.parent.parent.name, texts.get(f.stem, "")) for f in audio]
    return corpus if alignments is None else apply_alignments(corpus, alignments, tiers)


def _local_subsets(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise AudioError(f"there is no folder {str(folder)!r}: check the path and the working folder")
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and next(p.glob("*/*/*.flac"), None) is not None)


def _local_chapters(subset: Path) -> Iterator[list[AnyPath]]:
    for chapter in sorted(subset.glob("*/*/")):  # follows links to subsets on other disks
        yield [file for file in sorted(chapter.iterdir()) if not file.name.startswith(".")]


def _by_subset(folder: UPath) -> dict[str, list[list[AnyPath]]]:
    """Map each subset to the files of its chapters, from one listing; subsets without audio are left out."""
    chapters: dict[tuple[str, ...], list[AnyPath]] = {}
    for file in files_under(folder, {".flac", ".txt"}, AudioError):
        *where, _ = inside(file, folder).parts
        if len(where) == 3:
            chapters.setdefault(tuple(where), []).append(file)
    by_subset: dict[str, list[list[AnyPath]]] = {}
    for place in sorted(chapters):
        by_subset.setdefault(place[0], []).append(chapters[place])
    return {
        k: in_subset
        for k, in_subset in by_subset.items()
        if any(f.suffix == ".flac" for chapter in in_subset for f in chapter)
    }


def timit(path: Place, tiers: Tiers = USUAL, phones: int | None = None) -> list[Recording]:
    """Return TIMIT: ``<region>/<speaker>/<sentence>.wav`` with ``.phn``, ``.wrd`` and ``.txt`` files.

    Names may be in lower or upper case. ``path`` is ``TRAIN``, ``TEST``, their parent, or NLTK's sample
    (``dr1-fvmh0/<sentence>.wav``). Ids are paths without the ending; the speaker is the speaker's code (``fvmh0``). Sex
    and dialect region are in ``alignment().extra``.

    Args:
        phones: 39 for the usual classes with closures joined to their stops, see
            :func:`~hooked_whisper.corpora.fold_timit`, or 61 for the labels of the files. Default: 39, or 61 if
            ``tiers.relabel`` is given.

    Raises:
        AudioError: as :func:`audio_folder`; a ``.txt`` does not start with two sample numbers, or ``phones`` is
            another number.
    """
    if phones not in (None, 39, 61):
        raise AudioError(f"phones must be 39 (folded classes) or 61 (TIMIT's labels), got {phones!r}")
    fold = folded if phones == 39 or (phones is None and tiers.relabel is None) else without_folding
    folder = as_path(path)
    listed = files_under(folder, {".wav", ".txt", ".phn", ".wrd"}, AudioError)
    files = [f for f in listed if f.suffix.lower() == ".wav" and "." not in f.stem]  # copies are called SA1.WAV.wav
    beside_of: dict[AnyPath, dict[str, AnyPath]] = {}
    for file in listed:
        beside_of.setdefault(file.with_suffix(""), {})[file.suffix.lower()] = file
    if not files:
        raise AudioError(f"folder {str(folder)!r} has no .wav files in it or below: give TIMIT's own folder")
    corpus = []
    for name, file in zip(names_of(files, folder), files, strict=True):
        beside = beside_of[file.with_suffix("")]
        text = ""
        if ".txt" in beside:
            _, last, *words = [*read_text(beside[".txt"], AudioError).split(), "", ""]
            if not last.isdigit():
                raise AudioError(f"{str(beside['.txt'])!r} does not start with two sample numbers, as TIMIT's texts do")
            text = " ".join(words).strip()
        speaker, facts = _timit_speaker(file)
        recording = Recording(name, file, str(file), speaker, text, language="en")
        recording = with_files(recording, [beside[e] for e in (".phn", ".wrd") if e in beside], tiers)
        if recording.find_alignment is not None:
            recording = replace(recording, find_alignment=partial(fold, recording.find_alignment, facts))
        corpus.append(recording)
    return corpus


def _timit_speaker(file: AnyPath) -> tuple[str, dict[str, str]]:
    """Return the speaker's code, and sex and dialect region from the names of the folders."""
    folder = file.parent.name
    code = _SPEAKER.fullmatch(folder)
    region = _REGION.match(folder) or _REGION.match(file.parent.parent.name)
    facts = {} if code is None else {"sex": _SEXES[code[2].lower()]}
    return (code[1] if code else folder), facts | ({"dialect_region": region[1]} if region else {})


def _chapter_texts(files: Sequence[AnyPath]) -> dict[str, str]:
    """Map recordings to texts, from all transcripts of a chapter."""
    texts: dict[str, str] = {}
    for file in files:
        prefix = file.name.removesuffix(".trans.txt") + "-"
        for number, line in enumerate(read_text(file, AudioError).split("\n"), 1):
            if not line.strip():
                continue
            name, _, text = line.strip().partition(" ")
            if not name.startswith(prefix) or not text.strip() or name in texts:
                raise AudioError(
                    f"{str(file)!r}, line {number}: expected `{prefix}<number> TEXT`, each once, got {line!r:.80}"
                )
            texts[name] = " ".join(text.split())
    return texts
