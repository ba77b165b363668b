"""Forced alignment of a corpus into a folder of files: resumable, with several processes.

The folder gets ``<id>.TextGrid`` and ``<id>.json``, and ``alignments.jsonl`` with the inputs of each file. A file whose
text, audio and settings have not changed is not written again, so corrections by hand stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Literal

from tqdm import tqdm

from hooked_whisper._support.renamed import renamed_property
from hooked_whisper._support.showing import Showing
from hooked_whisper._support.storage import write_atomic
from hooked_whisper.corpora.forced_alignment import (
    AlignmentJob,
    Labelled,
    OutOfDictionary,
    aligner_name,
    alignment_job,
    as_alignment,
    check_oov,
    find_times,
    outside_dictionary,
)
from hooked_whisper.corpora.json_alignments import to_json
from hooked_whisper.corpora.loading import Failure, Loaded, Loader
from hooked_whisper.corpora.records import Recording
from hooked_whisper.corpora.textgrid import to_textgrid
from hooked_whisper.corpora.tiers import TEXT_SOURCE
from hooked_whisper.corpora.windows import Part
from hooked_whisper.errors import AlignmentError, HookedWhisperError, check_option

MANIFEST = "alignments.jsonl"
Formats = Literal["textgrid", "json", "both"]
FORMATS: Mapping[Formats, tuple[str, ...]] = {
    "textgrid": (".TextGrid",), "json": (".json",), "both": (".TextGrid", ".json"),
}  # fmt: skip
_WRITERS = {".TextGrid": to_textgrid, ".json": to_json}
_VERSION = 1  # of the method: a new version aligns every file again
NO_TEXT = "it has no text: add a .txt file beside the audio or a table, or use the model's transcript (--texts own)"
NOT_ENGLISH = (
    "forced alignment supports English only, not {!r}, because it uses pocketsphinx's en-us model: align other "
    "languages with the Montreal Forced Aligner and pass its TextGrids with --alignments"
)

Times = tuple[list[Labelled], list[Labelled]]


@dataclass(frozen=True)
class Entry:
    """One recording: a line of ``alignments.jsonl``.

    Attributes:
        key: SHA-256 of text, audio and settings.
        text_source: the model that transcribed the text; empty if the text came with the corpus.
        guessed: spoken words outside the dictionary, with their guessed phones.
        problem: why no file was written; empty if one was.
    """

    id: str
    key: str = ""
    text: str = ""
    text_source: str = ""
    seconds: float = 0.0
    guessed: dict[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, repr=False)
class CorpusAlignments(Showing):
    """Result of :func:`align_corpus`.

    Attributes:
        aligned: ids of the recordings whose files were written.
        unchanged: ids of the recordings whose files were up to date.
        skipped: id and reason of recordings without a text or with words outside the dictionary.
        failures: id and reason of recordings that could not be aligned.
        guessed: spoken words outside the dictionary, with their phones.
        seconds: duration of the recordings in ``aligned``.
    """

    folder: Path
    aligned: tuple[str, ...]
    unchanged: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]
    guessed: Mapping[str, str]
    seconds: float


setattr(CorpusAlignments, "kept", renamed_property("kept", "unchanged"))  # noqa: B010


def align_corpus(
    corpus: Sequence[Recording],
    folder: str | os.PathLike[str],
    *,
    formats: Formats = "both",
    oov: OutOfDictionary = "guess",
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> CorpusAlignments:
    """Align every recording that has a text. Pass the folder to :func:`~hooked_whisper.corpora.apply_alignments`.

    Recordings that fail are listed in the result. After an interruption, call again to continue.

    Args:
        corpus: recordings with texts; see :func:`~hooked_whisper.analysis.with_own_texts` for those without.
        formats: which files to write.
        oov: see :func:`~hooked_whisper.corpora.align_recording`; ``"skip"`` skips the recording.
        jobs: number of processes. It does not change the files.
        overwrite: replace files that this function did not write.

    Raises:
        MissingExtraError: pocketsphinx is not installed.
        AlignmentError: ``formats`` or ``oov`` is unknown, no recording has a text, or an id would place a file outside
            the folder.
        HookedWhisperError: a worker process was killed.
    """
    check_option("formats", formats, FORMATS, AlignmentError)
    check_oov(oov)
    if jobs < 1:
        raise AlignmentError(f"jobs is the number of processes, 1 or more, got {jobs}")
    settings = f"{aligner_name()} {_VERSION}"
    if not len(corpus):
        raise AlignmentError("the corpus has no recordings: there is nothing to align")
    texts = [i for i, recording in enumerate(corpus) if recording.text.strip()]
    if not texts:
        raise AlignmentError(f"none of {len(corpus)} recordings has a text; {corpus[0].id}: {NO_TEXT}")
    target = Path(folder)
    check_ids(corpus)
    target.mkdir(parents=True, exist_ok=True)
    run = _Run(corpus, target, FORMATS[formats], oov, settings, overwrite, _read_manifest(target / MANIFEST))
    skipped = [Entry(recording.id, problem=NO_TEXT) for recording in corpus if not recording.text.strip()]
    with ExitStack() as stack:
        stack.callback(run.finish)
        run.open(stack)
        bar = stack.enter_context(tqdm(total=len(texts), unit="clip", desc="align", disable=not progress))
        for _ in _in_order(run.jobs(texts), jobs, run.write):
            bar.update()
    return run.result(skipped)


def is_english(language: str) -> bool:
    """Whether a language code or name means English; an empty string does."""
    return language.lower().replace("_", "-").split("-")[0] in ("", "en", "english")


def check_ids(corpus: Sequence[Recording]) -> None:
    """Raise ``AlignmentError`` if a recording's id cannot be the name of a file."""
    for recording in corpus:
        path = PurePosixPath(recording.id)
        if not recording.id or path.is_absolute() or ".." in path.parts or "\\" in recording.id or "\0" in recording.id:
            raise AlignmentError(
                f"the recording id {recording.id!r} cannot be a file name: use an id without '..' and backslashes that "
                "does not start with '/'"
            )


# --- one run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Task:
    """A recording, its manifest entry, and the alignment job, or ``None`` if there is nothing to do."""

    recording: Recording
    entry: Entry
    job: AlignmentJob | None = None


class _Run:
    """State of one call: the folder's manifest and the results so far."""

    def __init__(
        self,
        corpus: Sequence[Recording],
        folder: Path,
        endings: tuple[str, ...],
        oov: str,
        settings: str,
        overwrite: bool,
        known: dict[str, Entry],
    ) -> None:
        self.corpus, self.folder, self.endings = corpus, folder, endings
        self.oov, self.settings, self.overwrite = oov, settings, overwrite
        self.known = known
        self.aligned: list[Entry] = []
        self.unchanged: list[Entry] = []
        self.skipped: list[Entry] = []
        self.failed: list[Entry] = []

    def open(self, stack: ExitStack) -> None:
        self._log = stack.enter_context((self.folder / MANIFEST).open("a", encoding="utf-8"))

    def jobs(self, indices: Sequence[int]) -> Iterator[_Task]:
        """Yield a task per recording, in order."""
        for item in Loader(Part(self.corpus, indices)):
            language = self.corpus[indices[item.index]].language
            if not is_english(language):
                item = Failure(item.index, self.corpus[indices[item.index]].id, "", NOT_ENGLISH.format(language))
            if isinstance(item, Failure):
                self.failed.append(self._noted(Entry(item.id, problem=item.reason)))
                yield _Task(self.corpus[indices[item.index]], self.failed[-1])
            else:
                yield _Task(item.recording, *self._job(item))

    def _job(self, item: Loaded) -> tuple[Entry, AlignmentJob | None]:
        recording = item.recording
        key = _key(recording, item, self.settings)
        before = self.known.get(recording.id)
        paths = [self._path(recording.id, ending) for ending in self.endings]
        if before is not None and before.key == key and not before.problem and all(p.exists() for p in paths):
            self.unchanged.append(before)
            return before, None
        foreign = [path for path in paths if path.exists()] if before is None and not self.overwrite else []
        if foreign:
            problem = f"{foreign[0]} exists and was not written by align: choose another folder, or pass overwrite"
            # not added to the manifest, or the next run would take the file for its own
            self.failed.append(Entry(recording.id, problem=problem))
            return self.failed[-1], None
        try:
            missing = outside_dictionary(recording.text) if self.oov == "skip" else []
            if missing:
                problem = f"not in the dictionary: {', '.join(missing)}"
                self.skipped.append(self._noted(Entry(recording.id, problem=problem)))
                return self.skipped[-1], None
            job = alignment_job(item.samples, recording.text)
        except AlignmentError as error:
            self.failed.append(self._noted(Entry(recording.id, problem=str(error))))
            return self.failed[-1], None
        guessed = {word: " ".join(phones) for word, phones in job.guessed.items()}
        text = " ".join(recording.text.split())
        return Entry(recording.id, key, text, recording.text_source, round(job.duration, 6), guessed), job

    def write(self, task: _Task, times: Times | str) -> None:
        """Add the entry to the manifest, then write the files: a file without an entry counts as another program's."""
        recording, entry = task.recording, task.entry
        if isinstance(times, str):
            self.failed.append(self._noted(Entry(entry.id, problem=times)))
            return
        assert task.job is not None
        alignment = as_alignment(task.job, *times, recording.text, recording.id, recording.speaker)
        if recording.text_source:
            alignment.extra[TEXT_SOURCE] = recording.text_source
        self._noted(entry)
        for ending in self.endings:
            write_atomic(self._path(entry.id, ending), _WRITERS[ending](alignment).encode())
        self.aligned.append(entry)

    def finish(self) -> None:
        """Rewrite the manifest: recordings in the order of the corpus, then other entries by id."""
        order = {recording.id: i for i, recording in enumerate(self.corpus)}
        ids = sorted(self.known, key=lambda id: (order.get(id, len(order)), id))
        lines = [json.dumps(asdict(self.known[id]), ensure_ascii=False) for id in ids]
        write_atomic(self.folder / MANIFEST, "".join(f"{line}\n" for line in lines).encode())

    def result(self, without_text: Sequence[Entry]) -> CorpusAlignments:
        guessed = {word: phones for entry in (*self.aligned, *self.unchanged) for word, phones in entry.guessed.items()}
        return CorpusAlignments(
            self.folder,
            tuple(entry.id for entry in self.aligned),
            tuple(entry.id for entry in self.unchanged),
            tuple((entry.id, entry.problem) for entry in (*without_text, *self.skipped)),
            tuple((entry.id, entry.problem) for entry in self.failed),
            dict(sorted(guessed.items())),
            sum((entry.seconds for entry in self.aligned), 0.0),
        )

    def _path(self, name: str, ending: str) -> Path:
        return self.folder / f"{name}{ending}"

    def _noted(self, entry: Entry) -> Entry:
        self.known[entry.id] = entry
        self._log.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
        self._log.flush()
        return entry


def _key(recording: Recording, item: Loaded, settings: str) -> str:
    digest = hashlib.sha256(json.dumps([recording.text, recording.text_source, settings]).encode())
    digest.update(item.samples.cpu().numpy().tobytes())
    return digest.hexdigest()


def _read_manifest(path: Path) -> dict[str, Entry]:
    """Read the last entry of each id. An incomplete last line, from an interrupted run, is dropped."""
    if not path.exists():
        return {}
    entries = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = Entry(**json.loads(line))
            if not isinstance(entry.id, str) or not isinstance(entry.guessed, dict):
                raise TypeError("an entry has an id and guessed words")
        except (ValueError, TypeError, RecursionError) as error:
            if number == len(lines):
                break
            raise AlignmentError(f"{path}, line {number} was not written by align: choose another folder") from error
        entries[entry.id] = entry
    return entries


# --- processes -------------------------------------------------------------------------------------------------------


def _in_order(tasks: Iterator[_Task], jobs: int, write: Callable[[_Task, Times | str], None]) -> Iterator[None]:
    """Align with ``jobs`` processes and write in the order of the corpus."""
    if jobs == 1:
        for task in tasks:
            if task.job is not None:
                write(task, _times(task.job))
            yield None
        return
    # spawned because torch's threads do not survive a fork
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin_worker)
    waiting: deque[tuple[_Task, Future[Times | str] | None]] = deque()

    def write_first() -> None:
        task, future = waiting.popleft()
        if future is not None:
            write(task, future.result())

    try:
        for task in tasks:
            waiting.append((task, None if task.job is None else pool.submit(_times, task.job)))
            if len(waiting) > 2 * jobs:
                write_first()
                yield None
        while waiting:
            write_first()
            yield None
    except BrokenProcessPool as error:
        raise HookedWhisperError(
            "an alignment process was killed, perhaps because memory ran out: run again with fewer --jobs; finished "
            "files are not aligned again"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C


def _times(job: AlignmentJob) -> Times | str:
    """Return words and phones, or the reason why the alignment failed."""
    try:
        return find_times(job)
    except AlignmentError as error:
        return str(error)
