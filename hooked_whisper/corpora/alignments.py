"""Read words and phones from alignment files: one file, or a folder for a whole corpus."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

from upath import UPath

from hooked_whisper._support.storage import AnyPath, Place, as_path, is_local
from hooked_whisper.corpora.ctm import Tier, ctm_alignment, ctm_lines
from hooked_whisper.corpora.files import decode_text, files_under, inside, read_bytes, read_text
from hooked_whisper.corpora.fitting import fitted
from hooked_whisper.corpora.json_alignments import from_json
from hooked_whisper.corpora.label_files import from_timit, is_label_file
from hooked_whisper.corpora.records import Recording
from hooked_whisper.corpora.textgrid import from_textgrid
from hooked_whisper.corpora.tiers import USUAL, Tiers, merged
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import Alignment

log = logging.getLogger(__name__)

# In order of preference: of several files for one recording, the first with words gives the words, likewise phones.
ALIGNMENT_ENDINGS = (".textgrid", ".ctm", ".phn", ".wrd", ".json")

Finder = Callable[[], Alignment]


def read_alignment(path: Place, utterance: str = "", tiers: Tiers = USUAL) -> Alignment:
    """Read the words and phones of one recording, in seconds.

    The file ending names the format: ``.TextGrid``, ``.ctm``, ``.phn``, ``.wrd`` or ``.json``. Other files, such as
    HTK's ``.lab``, are recognized by their content. A CTM holds phones if its name contains ``phon``, otherwise words.

    Args:
        utterance: name of the recording. It selects the utterance of a CTM; the last part of a path is enough.
        tiers: which tiers of a TextGrid to read, and how to rename phones.

    Raises:
        AlignmentError: the file is missing, broken or in no known format, or its intervals overlap or are out of
            order; the message names the file and the line.
    """
    path = as_path(path)
    raw, source = read_bytes(path, AlignmentError), repr(str(path))
    if raw.startswith(b"ooBinaryFile"):
        raise AlignmentError(
            f"{source} is a binary Praat file, which is not supported: save it as a text file in Praat"
        )
    content = decode_text(raw, path, AlignmentError)
    ending = path.suffix.lower()
    kind = ending if ending in ALIGNMENT_ENDINGS else _looks_like(content)
    name = utterance or path.stem
    if kind == ".textgrid":
        return from_textgrid(content, name, "", tiers, source)
    if kind in (".phn", ".wrd"):
        return from_timit(content, "words" if kind == ".wrd" else "phones", name, "", tiers, source)
    if kind == ".json":
        return from_json(content, name, "", tiers, source)
    if kind == ".ctm":
        return replace(_from_ctm(content, name, _ctm_tier(path), tiers, source), utterance=name)
    raise AlignmentError(f"{source} is not an alignment in a known format: {', '.join(ALIGNMENT_ENDINGS)}")


def apply_alignments(
    corpus: Sequence[Recording],
    source: Place | Sequence[Place],
    tiers: Tiers = USUAL,
) -> list[Recording]:
    """Return the recordings with words and phones from alignment files.

    A file is matched to the recording whose id equals the file's path in the folder without the ending. If there is
    none, it is matched by its name to the recording whose id ends with that name, provided that both are unique. A CTM
    is matched to the recordings that it names; if it has a single utterance, also to the recording named like the file.
    Several files of one recording, such as ``.phn`` and ``.wrd``, are merged. The number of matches is logged, and
    recordings without a match stay unchanged. CTMs are read immediately, other files when an alignment is requested.

    Args:
        source: a folder (searched recursively), a file, or several of either.

    Raises:
        AlignmentError: a folder or file does not exist, or no file matches a recording; the message shows one name of
            each.
    """
    sources = [source] if isinstance(source, str | os.PathLike | UPath) else list(source)
    if not sources:
        raise AlignmentError("source is an empty list: pass a folder of alignments, or files")
    table: dict[str, list[Finder]] = {}
    for place in map(as_path, sources):
        is_folder = place.is_dir()
        files = files_under(place, ALIGNMENT_ENDINGS, AlignmentError) if is_folder else [place]
        if not files:
            raise AlignmentError(f"folder {str(place)!r} has no files in {', '.join(ALIGNMENT_ENDINGS)}")
        for path in sorted(files, key=_rank):
            name = inside(path, place).with_suffix("").as_posix() if is_folder else path.stem
            for key, finder in _finders(path, name, tiers, exists=is_folder and not is_local(place)):
                table.setdefault(key, []).append(finder)
    keys = _matches([r.id for r in corpus], list(table))
    n = sum(key is not None for key in keys)
    if not n:
        example = repr(corpus[0].id) if len(corpus) else "none: the corpus is empty"
        raise AlignmentError(
            f"no alignment matches a recording: the first recording is called {example}, the first alignment "
            f"{next(iter(table))!r}; give the folder whose files have the recordings' names"
        )
    log.info("%d of %d recordings have an alignment, of %d alignments", n, len(keys), len(table))
    return [
        recording if key is None else _aligned(recording, table[key])
        for recording, key in zip(corpus, keys, strict=True)
    ]


def with_files(recording: Recording, files: Sequence[AnyPath], tiers: Tiers = USUAL) -> Recording:
    """Return the recording with the merged words and phones of alignment files; unchanged without files."""
    finders = [partial(read_alignment, path, recording.id, tiers) for path in sorted(files, key=_rank)]
    return _aligned(recording, finders) if finders else recording


def _rank(path: AnyPath) -> int:
    ending = path.suffix.lower()
    return ALIGNMENT_ENDINGS.index(ending) if ending in ALIGNMENT_ENDINGS else len(ALIGNMENT_ENDINGS)


def _looks_like(content: str) -> str:
    start = content.lstrip()[:200]
    if "TextGrid" in start:
        return ".textgrid"
    if start.startswith(("{", "[")):
        return ".json"
    if is_label_file(start.split("\n")[0]):
        return ".phn"
    first = next((line for line in content.split("\n") if line.strip() and not line.startswith(";;")), "")
    return ".ctm" if len(first.split()) >= 5 else ""


def _ctm_tier(path: AnyPath) -> Tier:
    return "phones" if "phon" in path.name.lower() else "words"


def _from_ctm(content: str, name: str, tier: Tier, tiers: Tiers, source: str) -> Alignment:
    lines = ctm_lines(content, source)
    wanted = next((n for n in (name, name.rpartition("/")[2]) if n in lines), None)
    if wanted is None:
        if len(lines) > 1:
            examples = ", ".join(map(repr, list(lines)[:3]))
            raise AlignmentError(
                f"{source} has {len(lines)} utterances, {examples} ..., but no {name!r}: pass one of them as utterance"
            )
        wanted = next(iter(lines))
    return ctm_alignment(wanted, lines[wanted], tier, tiers, source)


def _finders(path: AnyPath, name: str, tiers: Tiers, exists: bool) -> list[tuple[str, Finder]]:
    """Return the recordings that a file aligns and how to read each. exists: do not check whether the file exists."""
    if path.suffix.lower() != ".ctm":
        if not exists and not path.is_file():
            raise AlignmentError(f"there is no file {str(path)!r}: check the path and the working folder")
        return [(name, partial(read_alignment, path, name, tiers))]
    source, tier = repr(str(path)), _ctm_tier(path)
    by_name = ctm_lines(read_text(path, AlignmentError), source)
    finders: list[tuple[str, Finder]] = [
        (key, partial(ctm_alignment, key, lines, tier, tiers, source)) for key, lines in by_name.items()
    ]
    if len(finders) == 1 and finders[0][0] != name:
        finders.append((name, finders[0][1]))
    return finders


def _matches(ids: Sequence[str], keys: Sequence[str]) -> list[str | None]:
    """Return the matching key of each id: equal, or with the same last part where that is unique on both sides."""

    def last(name: str) -> str:
        return name.rpartition("/")[2]

    known = set(keys)
    id_times = Counter(map(last, ids))
    key_times = Counter(map(last, known))
    by_last = {last(key): key for key in keys}

    def match(name: str) -> str | None:
        if name in known:
            return name
        end = last(name)
        return by_last[end] if id_times[end] == 1 and key_times[end] == 1 else None

    return [match(name) for name in ids]


def _aligned(recording: Recording, finders: Sequence[Finder]) -> Recording:
    find = partial(_find, recording.id, recording.speaker, recording.text, recording.source, tuple(finders))
    return replace(recording, find_alignment=find)


def _find(utterance: str, speaker: str, text: str, source: Any, finders: Sequence[Finder]) -> Alignment:
    """Merge the alignment files; utterance, speaker and text of the recording take precedence."""
    alignment = fitted(reduce(merged, (finder() for finder in finders)), source, utterance)
    return replace(
        alignment,
        utterance=utterance or alignment.utterance,
        speaker=speaker or alignment.speaker,
        text=text or alignment.text,
    )
