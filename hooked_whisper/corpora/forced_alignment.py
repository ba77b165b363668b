"""Forced alignment of a recording with its text, by pocketsphinx (extra ``align``).

The acoustic model and the dictionary are those of the PyPI package (English, BSD). As in pocketsphinx, a first pass
finds the words and the pauses between them, a second one the phones within the words. Source: CMU Sphinx,
github.com/cmusphinx/pocketsphinx.

Phones are the 39 of :data:`PHONES` and :data:`~hooked_whisper.protocols.SILENCE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int16
from torch import Tensor

from hooked_whisper.audio import SAMPLE_RATE, AudioSource, load_audio
from hooked_whisper.corpora.letter_to_sound import Phones
from hooked_whisper.corpora.pronunciations import PHONES, cmu_dictionary, model_folder
from hooked_whisper.corpora.spoken_forms import SpokenWord, spoken_words
from hooked_whisper.errors import AlignmentError, check_option
from hooked_whisper.protocols import SILENCE, Alignment, Interval

OutOfDictionary = Literal["guess", "skip"]
LONGEST_S = 1200.0  # the longest tested; processing time grows faster than the length
PIECE_S = 30.0  # approximate length of the pieces searched for phones: memory grows with its square
FRAME_S = 0.01
WINDOW_S = 0.0256  # of one feature vector
_SHIFT_S = (WINDOW_S - FRAME_S) / 2  # frame k covers about 10 ms around the middle of its window
_LEAST_PHONE_S = 3 * FRAME_S  # three states of the acoustic model, a frame each
_BEAMS = (1e-80, 1e-250)  # pocketsphinx's own, 1e-48, loses the path in recordings of a minute
_FILLERS = ("<", "[", "(", "+")

Labelled = tuple[str, float, float]  # label, start, end; seconds
Word = tuple[Labelled, list[Labelled]]  # a spoken word and its phones


@dataclass(frozen=True)
class AlignmentJob:
    """Inputs of one alignment, as plain values that can be sent to another process.

    words: written words with their spoken forms. dictionary: pronunciations of all spoken words. guessed: those of the
    words that pocketsphinx's dictionary lacks.
    """

    samples: Int16[np.ndarray, "sample"]
    words: tuple[SpokenWord, ...]
    dictionary: Mapping[str, tuple[Phones, ...]]
    guessed: Mapping[str, Phones]

    @property
    def said(self) -> list[str]:
        """Spoken words, in order."""
        return [word for written in self.words for word in written.said]

    @property
    def duration(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def align_recording(
    audio: AudioSource,
    text: str,
    *,
    utterance: str = "",
    speaker: str = "",
    oov: OutOfDictionary = "guess",
) -> Alignment:
    """Find the times of each word and phone of a text in its recording.

    Words keep the spelling of the text, without surrounding punctuation; numbers and signs are aligned as they are
    spoken. Phones cover the recording from 0 to its end; pauses and noise are silence.

    Args:
        audio: whatever :func:`hooked_whisper.audio.load_audio` takes, up to 20 minutes.
        oov: for words outside the dictionary, ``"guess"`` the phones from the letters, or ``"skip"`` to raise.

    Raises:
        MissingExtraError: pocketsphinx is not installed.
        AlignmentError: the text has no words, is not English, has words outside the dictionary with ``oov="skip"``, or
            does not match the audio; or the audio is longer than 20 minutes.
        AudioError: the audio cannot be read.
    """
    check_oov(oov)  # before the audio is decoded
    job = alignment_job(load_audio(audio), text, oov)
    words, phones = find_times(job)
    return as_alignment(job, words, phones, text, utterance, speaker)


def alignment_job(samples: Float[Tensor, "sample"], text: str, oov: OutOfDictionary = "guess") -> AlignmentJob:
    """Check and prepare one alignment. Raises ``AlignmentError`` as :func:`align_recording`."""
    check_oov(oov)
    dictionary = cmu_dictionary()
    words = tuple(spoken_words(text, dictionary.__contains__))
    seconds = len(samples) / SAMPLE_RATE
    if not words:
        raise AlignmentError(f"the text {text!r:.60} has no words: give the transcript of the recording")
    if seconds > LONGEST_S:
        raise AlignmentError(
            f"the recording lasts {seconds / 60:.0f} minutes, the limit is {LONGEST_S / 60:.0f}: cut it and its text "
            "into parts (a table with start and end of each is enough, see corpora.manifest)"
        )
    missing = _missing(words)
    if missing and oov == "skip":
        raise AlignmentError(
            f"not in the dictionary: {', '.join(missing)}; --oov guess (the default) guesses their phones"
        )
    guessed = {said: dictionary.guess(said) for said in missing}
    said = {
        spoken: (guessed[spoken],) if spoken in guessed else dictionary[spoken]
        for word in words
        for spoken in word.said
    }
    n_phones = sum(min(map(len, said[spoken])) for word in words for spoken in word.said)
    if n_phones * _LEAST_PHONE_S > seconds:
        raise AlignmentError(
            f"{len(words)} words of {n_phones} phones cannot be said in {seconds:.2f} s: does the text belong to this "
            "recording?"
        )
    pcm = np.round(samples.clamp(-1, 1).cpu().numpy() * 32767).astype(np.int16)
    return AlignmentJob(pcm, words, said, guessed)


def outside_dictionary(text: str) -> list[str]:
    """Return the spoken words of a text that the dictionary lacks. Raises ``AlignmentError`` if it is not English."""
    return _missing(spoken_words(text, cmu_dictionary().__contains__))


def _missing(words: Sequence[SpokenWord]) -> list[str]:
    dictionary = cmu_dictionary()
    return list(dict.fromkeys(said for word in words for said in word.said if said not in dictionary))


def as_alignment(
    job: AlignmentJob,
    words: Sequence[Labelled],
    phones: Sequence[Labelled],
    text: str,
    utterance: str = "",
    speaker: str = "",
) -> Alignment:
    """Convert the result of :func:`find_times`; ``extra`` names the aligner and the guessed words."""
    extra = {"aligner": aligner_name()}
    if job.guessed:
        extra["guessed"] = "; ".join(f"{word} {' '.join(phones)}" for word, phones in job.guessed.items())
    return Alignment(
        utterance,
        speaker,
        " ".join(text.split()),
        _seconds(job.duration),
        tuple(Interval(start, end, label) for label, start, end in words),
        tuple(Interval(start, end, label) for label, start, end in phones),
        extra,
    )


def check_oov(oov: str) -> None:
    """Raise ``AlignmentError`` unless ``oov`` is ``"guess"`` or ``"skip"``."""
    check_option("oov", oov, get_args(OutOfDictionary), AlignmentError)


@lru_cache(maxsize=1)
def aligner_name() -> str:
    """Return a name such as ``"pocketsphinx 5.1.1"``. Raises ``MissingExtraError``."""
    model_folder()
    return f"pocketsphinx {metadata.version('pocketsphinx')}"


def find_times(job: AlignmentJob) -> tuple[list[Labelled], list[Labelled]]:
    """Return the written words and the phones with their times; the phones cover the recording.

    Raises:
        AlignmentError: the words do not match the audio.
    """
    for beam in _BEAMS:
        # a new decoder each time: a used one changes the first times of the next recording
        with _Decoder(beam, job.dictionary) as decoder:
            spoken = _all_words(decoder, job)
        if spoken is not None:
            return _joined(job, spoken)
    shown = " ".join(job.said[:6]) + (" ..." if len(job.said) > 6 else "")
    raise AlignmentError(
        f"the words {shown!r} were not found in the audio in this order: does the text belong to this recording?"
    )


def _all_words(decoder: _Decoder, job: AlignmentJob) -> list[Word] | None:
    said, words_with_phones = job.said, []
    pieces = _pieces(decoder, job, said)
    for first, last, start, end in pieces or ():
        piece = job.samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        words = decoder.words_with_phones(piece, said[first:last])
        if words is None:
            return None
        words_with_phones += [
            (_later(word, start), [_later(phone, start) for phone in phones]) for word, phones in words
        ]
    return words_with_phones or None


def _pieces(decoder: _Decoder, job: AlignmentJob, said: Sequence[str]) -> list[tuple[int, int, float, float]] | None:
    """Return first word, end of words, start and end (s) of each piece. Each ends in the longest pause of its second
    half."""
    if job.duration <= PIECE_S:
        return [(0, len(said), 0.0, job.duration)]
    times = decoder.words(job.samples, said)
    if times is None:
        return None
    # the pause after each word but the last: its length, its middle
    pauses = [(b[1] - a[2], (a[2] + b[1]) / 2) for a, b in pairwise(times)]
    pieces, first, start = [], 0, 0.0
    while job.duration - start > PIECE_S:
        later = [k for k in range(first, len(pauses)) if pauses[k][1] > start]
        within = [k for k in later if pauses[k][1] <= start + PIECE_S]
        late = [k for k in within if pauses[k][1] > start + PIECE_S / 2]
        choices = late or within[-1:] or later[:1]
        if not choices:  # the last word, and whatever follows it
            break
        cut = max(choices, key=lambda k: (pauses[k][0], -k))
        pieces.append((first, cut + 1, start, pauses[cut][1]))
        first, start = cut + 1, pauses[cut][1]
    return [*pieces, (first, len(said), start, job.duration)]


class _Decoder:
    """A pocketsphinx decoder with a dictionary of one recording."""

    def __init__(self, beam: float, dictionary: Mapping[str, tuple[Phones, ...]]) -> None:
        self._beam, self._dictionary = beam, dictionary

    def __enter__(self) -> _Decoder:
        from pocketsphinx import Decoder

        with TemporaryDirectory() as folder:  # with the whole dictionary, loading takes five times as long
            path = Path(folder) / "words.dict"
            path.write_text("".join(f"{line}\n" for line in self._lines()), encoding="utf-8")
            self._decoder: Any = Decoder(
                hmm=str(model_folder() / "en-us"),
                dict=str(path),
                lm=None,
                samprate=float(SAMPLE_RATE),
                bestpath=False,
                loglevel="FATAL",
                beam=self._beam,
                pbeam=self._beam,
                wbeam=self._beam * 1e20,
            )
        return self

    def __exit__(self, *_: object) -> None:
        del self._decoder

    def words(self, samples: Int16[np.ndarray, "sample"], said: Sequence[str]) -> list[Labelled] | None:
        """Return the times of the words, or ``None`` if the search failed."""
        self._decoder.set_align_text(" ".join(said))
        self._hear(samples)
        segments = [s for s in self._decoder.seg() or () if not s.word.startswith(_FILLERS)]
        if len(segments) != len(said):
            return None
        return [(s.word, s.start_frame * FRAME_S, (s.end_frame + 1) * FRAME_S) for s in segments]

    def words_with_phones(self, samples: Int16[np.ndarray, "sample"], said: Sequence[str]) -> list[Word] | None:
        """Return each word with its phones, or ``None`` if the search failed."""
        if self.words(samples, said) is None:
            return None
        try:
            self._decoder.set_alignment()
            self._hear(samples)
            entries = [
                ((entry.name, *_span(entry)), [(phone.name, *_span(phone)) for phone in entry])
                for entry in self._decoder.get_alignment()
            ]
        except RuntimeError:
            return None
        words = [entry for entry in entries if not entry[0][0].startswith(_FILLERS)]
        return words if len(words) == len(said) else None

    def _hear(self, samples: Int16[np.ndarray, "sample"]) -> None:
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()

    def _lines(self) -> Iterator[str]:
        for word, variants in self._dictionary.items():
            for number, phones in enumerate(variants, 1):
                yield f"{word if number == 1 else f'{word}({number})'} {' '.join(phones)}"


def _span(entry: Any) -> tuple[float, float]:
    return entry.start * FRAME_S, (entry.start + entry.duration) * FRAME_S


def _later(item: Labelled, seconds: float) -> Labelled:
    return item[0], item[1] + seconds, item[2] + seconds


def _seconds(value: float) -> float:
    return round(value, 6)


def _joined(job: AlignmentJob, spoken_words: Sequence[Word]) -> tuple[list[Labelled], list[Labelled]]:
    """Merge spoken words into written ones, and fill the gaps between phones with silence."""
    duration = _seconds(job.duration)

    def centered(seconds: float) -> float:
        return _seconds(min(max(seconds + _SHIFT_S, 0.0), duration))

    words: list[Labelled] = []
    phones: list[Labelled] = []
    spoken = iter(spoken_words)
    for written in job.words:
        parts = [next(spoken) for _ in written.said]
        for _, inner in parts:
            for label, start, end in inner:
                before = phones[-1][2] if phones else 0.0
                if centered(start) > before:
                    phones.append((SILENCE, before, centered(start)))
                phones.append((label if label in PHONES else SILENCE, max(before, centered(start)), centered(end)))
        words.append((written.label, centered(parts[0][0][1]), centered(parts[-1][0][2])))
    if phones[-1][2] < duration:
        phones.append((SILENCE, phones[-1][2], duration))
    return words, phones
