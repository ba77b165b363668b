"""espeak-ng through its C API: audio with phone and word times at sample precision.

The event of a phone marks the start of its sound, so the silent closure of a stop comes before its event;
:func:`_phones` moves boundaries back over closures. The library keeps state between calls: the same text has a few
samples more or less the second time. Bytes are reproducible only for a fixed sequence of calls in a new process, or
with a separate copy of the library (:func:`fresh`).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from hooked_whisper.protocols import SILENCE, Interval
from hooked_whisper.synthetic.phones import from_espeak

INSTALL = "espeak-ng is missing: pip install 'hooked-whisper[tts]' (or apt-get install espeak-ng)"
_SYNCHRONOUS, _PHONEME_EVENTS_IPA, _DONT_EXIT = 2, 1 | 2, 0x8000
_UTF8, _END_PAUSE = 1, 0x1000
_WORD, _PHONEME, _TERMINATED = 1, 7, 0
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}
_QUIET = 2e-3  # closures are digital zeros
_CLOSURE_S = 0.01
_FIRST_PHONES = {"the": 2, "a": 1, "an": 2}


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Spoken:
    """A synthesized utterance: audio at the synthesizer's rate, phone and word intervals in seconds, and the
    synthesizer's phone names of each word."""

    audio: Float[np.ndarray, "sample"]
    rate: int
    phones: tuple[Interval, ...]
    words: tuple[Interval, ...]
    raw: tuple[tuple[str, ...], ...] = ()


@dataclass
class _Phone:
    label: str
    start: int
    word: int


class Espeak:
    """The synthesizer of a loaded library, by default the installed one.

    Objects of one library share their state and are not thread-safe: use :func:`engine` or :func:`fresh`.
    """

    def __init__(self, library: str | None = None) -> None:
        installed, data = _library()
        library = library or installed
        try:
            self._lib = ctypes.CDLL(library)
        except OSError as error:
            raise RuntimeError(INSTALL) from error
        self._lib.espeak_Info.restype = ctypes.c_char_p
        self.rate: int = self._lib.espeak_Initialize(
            _SYNCHRONOUS, 0, data.encode() if data else None, _PHONEME_EVENTS_IPA | _DONT_EXIT
        )
        if self.rate <= 0:
            raise RuntimeError(f"espeak-ng found no voice data. {INSTALL}")
        self._callback = _Callback(self._receive)  # a garbage-collected callback would crash the process
        self._lib.espeak_SetSynthCallback(self._callback)
        self._chunks: list[np.ndarray] = []
        self._events: list[tuple[int, int, int, str]] = []

    @property
    def version(self) -> str:
        return self._lib.espeak_Info(None).decode().split()[0]

    def _receive(self, wav, count: int, events) -> int:
        if wav and count > 0:
            self._chunks.append(np.ctypeslib.as_array(wav, (count,)).copy())
        k = 0
        while events[k].type != _TERMINATED:
            event = events[k]
            name = event.id.string.decode("utf-8", "replace") if event.type == _PHONEME else ""
            self._events.append((event.type, event.text_position, event.sample, name))
            k += 1
        return 0

    def _seed(self) -> None:
        """Seed the noise of breathy voices: espeak-ng's generator (1.52) or the C library's (1.51)."""
        if hasattr(self._lib, "espeak_ng_SetRandSeed"):
            self._lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
        else:
            ctypes.CDLL(None).srand(1)

    def say(self, text: str, voice: str, rate: int = 175, pitch: int = 50, range_: int = 50) -> Spoken:
        """Speak lower-case words joined by single spaces.

        Args:
            rate: words per minute.
            pitch, range_: from 0 to 99.

        Raises:
            ValueError: the voice is unknown, or two words share their phones.
            RuntimeError: the library returns no audio.
        """
        self._chunks, self._events = [], []
        self._seed()
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for name, value in (("rate", rate), ("pitch", pitch), ("range", range_), ("volume", 100)):
            self._lib.espeak_SetParameter(_PARAMETERS[name], int(value), 0)
        encoded = text.encode() + b"\0"
        self._lib.espeak_Synth(encoded, len(encoded), 0, 1, 0, _UTF8 | _END_PAUSE, None, None)
        self._lib.espeak_Synchronize()
        if not self._chunks:
            raise RuntimeError(f"espeak-ng gave no audio for {text!r}")
        audio = np.concatenate(self._chunks).astype(np.float32) / 32768
        phones, end = _phones(audio, self._events, text, self.rate)
        return _spoken(audio, self.rate, phones, end, text)

    def close(self) -> None:
        """Unload the library. No other object may use it."""
        self._lib.espeak_Terminate()
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(self._lib._handle))


def _library() -> tuple[str, str | None]:
    try:
        import espeakng_loader

        return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
    except ImportError:
        return ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1", None


@cache
def engine() -> Espeak:
    """Return the synthesizer that this process shares."""
    return Espeak()


@contextmanager
def fresh() -> Iterator[Espeak]:
    """Yield a new synthesizer whose first utterance of a text always has the same samples.

    espeak-ng keeps state in global variables, and no call resets all of them. So this loads a copy of the library with
    separate variables, and unloads it afterwards (about 3 ms).
    """
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        copy = shutil.copy(_file_of(_library()[0]), folder)
        synthesizer = Espeak(copy)
    try:
        yield synthesizer
    finally:
        synthesizer.close()


class _SymbolInfo(ctypes.Structure):
    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


def _file_of(library: str) -> Path:
    """Return the file of a library. If only its name is known, load it and look it up in the linker."""
    if Path(library).is_file():
        return Path(library)
    try:
        function = ctypes.CDLL(library).espeak_Initialize
    except OSError as error:
        raise RuntimeError(INSTALL) from error
    info = _SymbolInfo()
    ctypes.CDLL(None).dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(info))
    return Path(info.file.decode())


def _phones(
    audio: np.ndarray, events: list[tuple[int, int, int, str]], text: str, rate: int
) -> tuple[list[_Phone], int]:
    """Return the phones and the end of the last phone, in samples. The phones have the index of their word, and their
    starts are moved back over closures."""
    starts = np.cumsum([0, *(len(w) + 1 for w in text.split())])
    phones: list[_Phone] = []
    word, word_start, end = -1, None, len(audio)
    for kind, position, sample, name in events:
        sample = min(sample, len(audio))
        if kind == _WORD:
            word, word_start = int(np.searchsorted(starts, position - 1, side="right")) - 1, sample
        elif kind == _PHONEME and name:
            start = sample
            if word_start is not None:
                start = word_start if phones else sample
            else:
                closure, earliest = sample, phones[-1].start if phones else 0
                while closure > earliest and abs(audio[closure - 1]) < _QUIET:
                    closure -= 1
                start = closure if sample - closure > _CLOSURE_S * rate else sample
            phones.append(_Phone(name, start, word))
            word_start, end = None, len(audio)
        elif kind == _PHONEME and phones:
            end = min(end, sample)  # the pause after the last phone
    return phones, max(end, phones[-1].start + 1)


def _spoken(audio: np.ndarray, rate: int, phones: list[_Phone], end: int, text: str) -> Spoken:
    spelled = text.split()
    _split_merged(phones, len(spelled), spelled)
    bounds = [p.start for p in phones] + [end]
    intervals = [Interval(bounds[k] / rate, bounds[k + 1] / rate, from_espeak(p.label)) for k, p in enumerate(phones)]
    words, raw = [], []
    for k, name in enumerate(spelled):
        indices = [i for i, p in enumerate(phones) if p.word == k]
        if not indices or indices != list(range(indices[0], indices[-1] + 1)):
            raise ValueError(f"espeak-ng gave no separate phones for word {k} of {text!r}")
        words.append(Interval(intervals[indices[0]].start, intervals[indices[-1]].end, name))
        raw.append(tuple(phones[i].label for i in indices))
    total = len(audio) / rate
    if intervals[0].start > 0:
        intervals.insert(0, Interval(0.0, intervals[0].start, SILENCE))
    if intervals[-1].end < total:
        intervals.append(Interval(intervals[-1].end, total, SILENCE))
    return Spoken(audio, rate, tuple(intervals), tuple(words), tuple(raw))


def _split_merged(phones: list[_Phone], count: int, spelled: list[str]) -> None:
    """Split words that espeak-ng merges, such as "at the". The last phones of the merged word belong to the article."""
    present = {p.word for p in phones}
    for k in range(1, count):
        if k not in present and spelled[k] in _FIRST_PHONES:
            merged = [p for p in phones if p.word == k - 1]
            for phone in merged[-_FIRST_PHONES[spelled[k]] :]:
                phone.word = k
