"""The clips of the page. Each is encoded and transcribed once."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.analysis import align
from hooked_whisper.analysis.own_texts import check_texts
from hooked_whisper.audio import SAMPLE_RATE, AudioSource, load_audio
from hooked_whisper.corpora import Clip, Recording, read_alignment
from hooked_whisper.corpora.fitting import fitted
from hooked_whisper.errors import AlignmentError, AudioError, HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.transcriber import Transcriber
from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.synthetic import SyntheticCorpus
from hooked_whisper.text import word_error

MOST_BYTES = 25_000_000
MOST_SECONDS = 30.0  # one window of Whisper
MOST_UPLOADS = 16  # a further upload replaces the oldest
_TRIED = 6


@dataclass(frozen=True, eq=False)
class HeardClip:
    """A clip with the model's encoding and transcript of it.

    clip: the sound; its id is the name on the page.
    source: Python expression for the sound (a quoted file name, or a packaged clip).
    text: the transcript of the model.
    words: in seconds; from an alignment if ``aligned``, otherwise the transcript with times from cross-attention.
    """

    clip: Clip
    source: str
    mel: Float[Tensor, "1 mel frame"]
    encoded: Float[Tensor, "1 position d_model"]
    text: str
    words: tuple[Interval, ...]
    phones: tuple[Interval, ...] = ()
    aligned: bool = False

    @property
    def words_source(self) -> str:
        """A sentence that says where the words on the page come from."""
        if self.aligned:
            return "The words come from an alignment."
        if not self.words:
            return "There is no alignment, so there are no words to select."
        return "The words are the model's own transcript, with times from its cross-attention."

    @property
    def name(self) -> str:
        return self.clip.id

    @property
    def seconds(self) -> float:
        return self.clip.duration

    @property
    def alignment(self) -> Alignment:
        """Words and phones of the clip, so that word times are not computed again for each edit."""
        return Alignment(self.name, "", " ".join(w.label for w in self.words), self.seconds, self.words, self.phones)

    def with_alignment(self, alignment: Alignment) -> HeardClip:
        """Return the clip with the words and phones of an alignment.

        Raises:
            AlignmentError: if the alignment has none within the clip.
        """
        words, phones = (
            tuple(interval for interval in tier if interval.start < self.seconds)
            for tier in (alignment.words, alignment.phones)
        )
        if not words and not phones:
            raise AlignmentError(f"the alignment has no words or phones within the {self.seconds:.1f} s of {self.name}")
        return replace(
            self, words=words or self.words, phones=phones or self.phones, aligned=bool(words) or self.aligned
        )


class Shelf:
    """Clips by id. Packaged clips are encoded when they are first requested, uploads at once."""

    def __init__(self, model: HookedWhisper, language: str = "en", packaged: bool = True, texts: str = "own") -> None:
        """Make a shelf. With ``texts="given"``, clips without an alignment have no words."""
        check_texts(texts)
        self.model, self.language, self.texts = model, language, texts
        self._packaged = SyntheticCorpus.default().clips() if packaged else []
        self._heard: dict[str, HeardClip] = {}
        self._uploads = 0

    def names(self) -> dict[str, str]:
        """Return id -> displayed name, packaged clips first."""
        packaged = {
            f"demo-{i}": f"{i + 1}. “{clip.text}” ({clip.alignment.speaker})" for i, clip in enumerate(self._packaged)
        }
        return packaged | {key: clip.name for key, clip in self._heard.items() if key not in packaged}

    def first(self) -> str | None:
        """Return the clip to show first: the newest upload, or the first correctly transcribed packaged clip."""
        names = list(self.names())
        uploads = [key for key in names if key.startswith("upload-")]
        if uploads or not names:
            return uploads[-1] if uploads else None
        tried = names[:_TRIED]
        right = (
            key for key in tried if word_error(" ".join(w.label for w in self[key].words), self[key].text).wer == 0
        )
        return next(right, names[0])

    def __getitem__(self, key: str) -> HeardClip:
        if key not in self._heard:
            names = list(self.names())
            if key not in names:
                raise HookedWhisperError(f"clip {key!r} does not exist or was removed: choose one from the list")
            i = names.index(key)
            clip = self._packaged[i]
            source = f"SyntheticCorpus.default().clips()[{i}].samples"
            heard = self._hear(f"packaged clip {i + 1}", source, clip.samples)
            self._heard[key] = heard.with_alignment(clip.alignment)
        return self._heard[key]

    def add(self, content: bytes, name: str, source: str | None = None) -> str:
        """Add an upload and return its id. ``source`` is the path of the file, for the displayed Python code.

        Raises:
            AudioError: if the file is too large, too long, or not audio.
        """
        name = PurePath(name.replace("\\", "/")).name or "upload"
        path, n, taken = PurePath(name), 2, set(self.names().values())
        while name in taken:  # give a second recording with the same name another name
            name, n = f"{path.stem}-{n}{path.suffix}", n + 1
        if len(content) > MOST_BYTES:
            raise AudioError(f"{name} has more than {MOST_BYTES // 1_000_000} MB: use a shorter clip")
        _refuse_long(_promised_seconds(content), name)
        try:
            audio = load_audio(content)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from error
        _refuse_long(len(audio) / SAMPLE_RATE, name)
        heard = self._hear(name, repr(source or name), audio)
        self._uploads += 1
        key = f"upload-{self._uploads}"
        uploads = [upload for upload in self._heard if upload.startswith("upload-")]
        for oldest in uploads[: max(0, len(uploads) - MOST_UPLOADS + 1)]:
            del self._heard[oldest]
        self._heard[key] = heard
        return key

    def align(self, key: str, content: bytes, name: str) -> None:
        """Read the words and phones of a clip from a TextGrid, CTM, TIMIT or JSON file.

        Raises:
            AlignmentError: if the file is too large, cannot be read, or does not fit the clip.
        """
        if len(content) > MOST_BYTES:
            raise AlignmentError(f"{name} has more than {MOST_BYTES // 1_000_000} MB")
        clip = self[key]
        with tempfile.TemporaryDirectory() as folder:
            safe = re.sub(r"[^\w.-]", "_", PurePath(name.replace("\\", "/")).name, flags=re.ASCII)[-100:]
            path = Path(folder) / (safe or "alignment")  # the name of a CTM file tells phones from words
            path.write_bytes(content)
            alignment = read_alignment(path, PurePath(clip.name).stem)
        self._heard[key] = clip.with_alignment(fitted(alignment, (clip.clip.samples, SAMPLE_RATE), clip.name))

    @torch.no_grad()
    def _hear(self, name: str, source: str, audio: AudioSource) -> HeardClip:
        model = self.model
        samples = load_audio(audio)
        mel = model.to_mel(samples)
        encoded = model.embed_audio(mel)
        text = Transcriber(model, self.language).raw(encoded)[0]
        words: Sequence[Interval] = ()
        if text.strip() and self.texts == "own":
            try:
                words = align(model, encoded, text, duration=len(samples) / SAMPLE_RATE, language=self.language).words
            except AlignmentError:  # only punctuation: the page shows no words
                words = ()
        clip = Clip(Recording(name, audio), samples.cpu().numpy())
        return HeardClip(clip, source, mel, encoded, text, tuple(words))


def _promised_seconds(content: bytes) -> float:
    """Return the duration from the file header, or by decoding if soundfile cannot read it."""
    try:
        info = soundfile.info(io.BytesIO(content))
    except (soundfile.LibsndfileError, ValueError, RuntimeError):
        return _decoded_seconds(content)
    return float(info.frames) / max(info.samplerate, 1)


def _decoded_seconds(content: bytes) -> float:
    """Return the duration by decoding in constant memory, up to the page's limit; 0 if PyAV is missing or fails."""
    try:
        import av
    except ImportError:
        return 0.0
    seconds = 0.0
    try:
        with av.open(io.BytesIO(content)) as container:
            for frame in container.decode(audio=0) if container.streams.audio else ():
                seconds += frame.samples / frame.sample_rate
                if seconds > MOST_SECONDS + 1:
                    break
    except av.error.FFmpegError:
        return seconds
    return seconds


def _refuse_long(seconds: float, name: str) -> None:
    if seconds > MOST_SECONDS + 1e-6:
        raise AudioError(f"{name} lasts {seconds:.1f} s, the page takes clips of up to {MOST_SECONDS:.0f} s: cut it")
