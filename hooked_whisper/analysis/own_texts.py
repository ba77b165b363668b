"""Transcribe recordings without a text by the model itself, with word times from its cross-attention.

Texts and word times come from one encoder pass, in batches, and can be cached in a file. The model's name is in the
recordings' ``text_source`` and the alignments' ``extra["text_source"]``. For phones of such texts, run
``hooked-whisper align --texts own``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from tqdm import tqdm

from hooked_whisper._support.audio_notices import without_notices
from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper._support.storage import AnyPath, Place, as_path, write_atomic
from hooked_whisper.analysis.alignment import align
from hooked_whisper.corpora import Failure, Recording, Window, batched, windows_from
from hooked_whisper.corpora.tiers import TEXT_SOURCE
from hooked_whisper.corpora.windows import Part
from hooked_whisper.errors import AlignmentError, AudioError, HookedWhisperError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.transcriber import Transcriber
from hooked_whisper.loading import weights_sha256
from hooked_whisper.protocols import Alignment, Interval

log = logging.getLogger(__name__)

Texts = Literal["given", "own"]
BATCH = 8  # windows encoded together
_SAVED_EVERY = 200  # recordings
_LEAST_S = 0.1


@dataclass(frozen=True)
class OwnText:
    """A model's transcript of one recording. words: start (s), end (s) and label of each."""

    id: str
    text: str
    seconds: float
    words: tuple[tuple[float, float, str], ...]


def check_texts(texts: str) -> None:
    """Raise ``HookedWhisperError`` unless it is ``"given"`` or ``"own"`` (the model's transcript if none is given)."""
    check_option("texts", texts, get_args(Texts), HookedWhisperError)


def with_own_texts(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    *,
    language: str = "en",
    cache: Place | None = None,
    batch: int = BATCH,
    progress: bool = True,
    ranks: TorchRanks | None = None,
    failed: Callable[[Failure], None] | None = None,
) -> list[Recording]:
    """Return the recordings; those with neither text nor alignment get the model's transcript and its word times.

    Recordings longer than the model's window are transcribed window by window (greedy, without timestamps); a word at
    the edge of a window may be lost or transcribed twice. Recordings that cannot be read are returned unchanged.

    Args:
        language: of recordings without a language, for multilingual models.
        cache: a folder or URL for the transcripts (``own_texts.jsonl``); only transcripts of this model and language
            are reused. Default: no cache.
        ranks: processes that share the work, see :func:`~hooked_whisper._support.ranks.torchrun_ranks`; they need a
            common ``cache``.
        failed: called with each recording that cannot be read. Default: log a warning.

    Raises:
        HookedWhisperError: the cache cannot be read, or ``ranks`` is given without ``cache``.
    """
    wanted = [
        i for i, recording in enumerate(corpus) if not recording.text.strip() and recording.find_alignment is None
    ]
    if not wanted:
        return list(corpus)
    n_ranks, rank = (1, 0) if ranks is None else (ranks.n, ranks.rank)
    if n_ranks > 1 and cache is None:
        raise HookedWhisperError(
            "several processes need a common cache for the transcripts: give a folder that all of them can read"
        )
    keeper = _Cache(None if cache is None else as_path(cache), _identity(model, language))
    texts = keeper.read(n_ranks)
    mine = [i for i in wanted[rank::n_ranks] if _key(corpus[i]) not in texts]
    report = failed or _warn
    by_language: dict[str, list[int]] = {}
    for i in mine:
        by_language.setdefault(corpus[i].language or language, []).append(i)
    for spoken, indices in by_language.items():
        if not model.is_multilingual and spoken.lower() not in ("en", "english"):
            reason = f"{model.cfg.name} is English-only, this recording is in {spoken!r}: use a multilingual model"
            for i in indices:
                report(Failure(i, corpus[i].id, corpus[i].path, reason))
            continue
        texts |= _transcribed(model, corpus, indices, spoken, batch, keeper, rank, texts, progress and not rank, report)
    if ranks is not None:
        ranks.wait()
        texts = keeper.read(n_ranks)
    filled = list(corpus)
    for i in wanted:
        if (own_text := texts.get(_key(corpus[i]))) is not None:
            filled[i] = _with_text(corpus[i], own_text, model.cfg.name)
    return filled


# --- transcripts -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def _transcribed(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    indices: Sequence[int],
    language: str,
    batch: int,
    keeper: _Cache,
    rank: int,
    known: dict[str, OwnText],
    progress: bool,
    failed: Callable[[Failure], None],
) -> dict[str, OwnText]:
    """Transcribe recordings, in batches of windows; return texts by key."""
    if not indices:
        return {}
    transcriber, part = Transcriber(model, language), Part(corpus, indices)
    parts: dict[int, list[tuple[str, tuple[Interval, ...]]]] = {}
    texts: dict[str, OwnText] = {}

    with tqdm(total=len(indices), unit="clip", desc="own texts", disable=not progress) as bar:
        for windows in batched(windows_from(part, model.time.n_samples, failed=failed), batch):
            with without_notices():
                mel = model.to_mel([window.samples for window in windows])
            encoded = model.embed_audio(mel)
            for window, row, text in zip(windows, encoded, transcriber.raw(encoded), strict=True):
                words = _word_times(model, window, row[None], text, language)
                parts.setdefault(window.recording, []).append((text, words))
                if window.last:
                    own_text = _joined(part[window.recording], window, parts.pop(window.recording), model)
                    texts[_key(part[window.recording])] = own_text
                    if len(texts) % _SAVED_EVERY == 0:
                        keeper.write(known | texts, rank)
                bar.update(window.recording - bar.n)
        bar.update(len(indices) - bar.n)
    keeper.write(known | texts, rank)
    return texts


def _warn(failure: Failure) -> None:
    log.warning("%s: no text, %s", failure.id, failure.reason)


def _word_times(
    model: HookedWhisper, window: Window, encoded: torch.Tensor, text: str, language: str
) -> tuple[Interval, ...]:
    """Return word times from the start of the recording; empty if the text has no words or too many for the decoder."""
    duration = window.length / model.time.sample_rate
    if not text or duration < _LEAST_S:
        return ()
    try:
        words = align(model, encoded, text, duration=duration, language=language).words
    except (AlignmentError, AudioError):
        return ()
    offset = window.number * model.time.duration
    return tuple(word.shifted(offset) for word in words)


def _joined(
    recording: Recording, last: Window, parts: Sequence[tuple[str, tuple[Interval, ...]]], model: HookedWhisper
) -> OwnText:
    seconds = last.number * model.time.duration + last.length / model.time.sample_rate
    words = tuple(
        (round(min(word.start, seconds), 6), round(min(word.end, seconds), 6), word.label)
        for _, window_words in parts
        for word in window_words
    )
    return OwnText(recording.id, " ".join(text for text, _ in parts if text), round(float(seconds), 6), words)


def _with_text(recording: Recording, own_text: OwnText, source: str) -> Recording:
    find = partial(_alignment, recording.speaker, own_text, source) if own_text.words else None
    if not own_text.text:  # an empty transcript
        return recording
    return replace(recording, text=own_text.text, text_source=source, find_alignment=find)


def _alignment(speaker: str, own_text: OwnText, source: str) -> Alignment:
    words = tuple(Interval(start, end, label) for start, end, label in own_text.words)
    return Alignment(own_text.id, speaker, own_text.text, own_text.seconds, words, extra={TEXT_SOURCE: source})


# --- the cache -------------------------------------------------------------------------------------------------------


def _key(recording: Recording) -> str:
    return f"{recording.id}\0{recording.path}\0{recording.language}"


def _identity(model: HookedWhisper, language: str) -> dict[str, str]:
    """Return what a transcript depends on, except the audio."""
    return {
        "format": "own_texts 1",
        "model": model.cfg.name,
        "weights": weights_sha256(model),
        "language": language if model.is_multilingual else "en",
    }


class _Cache:
    """The files ``own_texts.jsonl`` and, for further ranks, ``own_texts-1.jsonl`` ...: model, then a line per text."""

    def __init__(self, folder: AnyPath | None, identity: dict[str, str]) -> None:
        self._folder, self._identity = folder, identity

    def read(self, n_ranks: int) -> dict[str, OwnText]:
        """Read texts by key; files of another model are ignored."""
        texts: dict[str, OwnText] = {}
        for rank in range(n_ranks) if self._folder is not None else ():
            path = self._path(rank)
            if path.exists():
                texts |= self._read(path)
        return texts

    def write(self, texts: dict[str, OwnText], rank: int) -> None:
        if self._folder is None:
            return
        rows: list[Any] = [self._identity, *({"key": key, **asdict(text)} for key, text in texts.items())]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomic(self._path(rank), lines.encode("utf-8", "surrogatepass"))

    def _path(self, rank: int) -> AnyPath:
        assert self._folder is not None
        return self._folder / (f"own_texts-{rank}.jsonl" if rank else "own_texts.jsonl")

    def _read(self, path: AnyPath) -> dict[str, OwnText]:
        try:
            head, *rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]
            if head != self._identity:
                return {}
            return {row["key"]: _own_text(row) for row in rows}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise HookedWhisperError(f"{path} is damaged ({error}): delete it to transcribe again") from error


def _own_text(row: dict[str, Any]) -> OwnText:
    words = tuple((float(start), float(end), str(label)) for start, end, label in row["words"])
    return OwnText(str(row["id"]), str(row["text"]), float(row["seconds"]), words)
