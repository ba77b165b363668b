"""The clips that a page works on: heard once, encoded once."""

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
from hooked_whisper.audio import SAMPLE_RATE, AudioSource, load_audio
from hooked_whisper.corpora import Clip, Recording, read_alignment
from hooked_whisper.corpora.fitting import fitted
from hooked_whisper.corpora.own_texts import check_texts
from hooked_whisper.errors import AlignmentError, AudioError, HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.transcriber import Transcriber
from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.synthetic import SyntheticCorpus
from hooked_whisper.text import word_error

MOST_BYTES = 25_000_000
MOST_SECONDS = 30.0  # one window of Whisper
MOST_UPLOADS = 16  # the oldest makes room
_TRIED = 6


@dataclass(frozen=True, eq=False)
class HeardClip:
    """A clip with the model's encoding and transcript of it.

    clip: the sound; its id is the name on the page.
    source: Python that gives the sound again (a file name in quotes, or a packaged clip).
    text: the model's transcript.
    words: in seconds; from an alignment if ``aligned``, else by cross-attention from the transcript.
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
        """Where the words on the page are from, in words."""
        if self.aligned:
            return "Words as they were aligned."
        if not self.words:
            return "No alignment is given: there are no words to choose."
        return "Words: the model's own transcript, timed by its cross-attention; no text was given."

    @property
    def name(self) -> str:
        return self.clip.id

    @property
    def seconds(self) -> float:
        return self.clip.duration

    @property
    def alignment(self) -> Alignment:
        """What is known of it, so that nobody looks for the words again at every change."""
        return Alignment(self.name, "", " ".join(w.label for w in self.words), self.seconds, self.words, self.phones)

    def with_alignment(self, alignment: Alignment) -> HeardClip:
        """The same with words and phones of somebody else's, as far as the clip reaches."""
        words, phones = (
            tuple(one for one in tier if one.start < self.seconds) for tier in (alignment.words, alignment.phones)
        )
        if not words and not phones:
            raise AlignmentError(f"the alignment has no words or phones within the {self.seconds:.1f} s of {self.name}")
        return replace(
            self, words=words or self.words, phones=phones or self.phones, aligned=bool(words) or self.aligned
        )


class Shelf:
    """Clips by id: packaged ones are heard when somebody first asks, uploads at once."""

    def __init__(self, model: HookedWhisper, language: str = "en", packaged: bool = True, texts: str = "own") -> None:
        """``texts``: ``"given"`` leaves a clip without alignment without words."""
        check_texts(texts)
        self.model, self.language, self.texts = model, language, texts
        self._packaged = SyntheticCorpus.default().clips() if packaged else []
        self._heard: dict[str, HeardClip] = {}
        self._uploads = 0

    def names(self) -> dict[str, str]:
        """Id to what people call it, packaged clips first."""
        packaged = {
            f"demo-{i}": f"{i + 1}. “{clip.text}” ({clip.alignment.speaker})" for i, clip in enumerate(self._packaged)
        }
        return packaged | {key: clip.name for key, clip in self._heard.items() if key not in packaged}

    def first(self) -> str | None:
        """The one to begin with: the newest upload, or the first packaged clip that the model gets right."""
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
                raise HookedWhisperError(f"there is no clip {key!r} here (any more): choose one from the list")
            i = names.index(key)
            clip = self._packaged[i]
            source = f"SyntheticCorpus.default().clips()[{i}].samples"
            heard = self._hear(f"packaged clip {i + 1}", source, clip.samples)
            self._heard[key] = heard.with_alignment(clip.alignment)
        return self._heard[key]

    def add(self, content: bytes, name: str, source: str | None = None) -> str:
        """Take an upload; returns its id. ``source``: where the file is, for the Python that is shown.

        Raises:
            AudioError: too large, too long, or no sound.
        """
        name = PurePath(name.replace("\\", "/")).name or "upload"
        path, n, taken = PurePath(name), 2, set(self.names().values())
        while name in taken:  # a second recording is another one
            name, n = f"{path.stem}-{n}{path.suffix}", n + 1
        if len(content) > MOST_BYTES:
            raise AudioError(f"{name} has more than {MOST_BYTES // 1_000_000} MB: give a shorter clip")
        _refuse_long(_promised_seconds(content), name)
        try:
            audio = load_audio(content)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from error
        _refuse_long(len(audio) / SAMPLE_RATE, name)
        heard = self._hear(name, repr(source or name), audio)
        self._uploads += 1
        key = f"upload-{self._uploads}"
        uploads = [one for one in self._heard if one.startswith("upload-")]
        for one in uploads[: max(0, len(uploads) - MOST_UPLOADS + 1)]:
            del self._heard[one]
        self._heard[key] = heard
        return key

    def align(self, key: str, content: bytes, name: str) -> None:
        """Words and phones of a clip from a TextGrid, CTM, TIMIT or JSON file. Raises ``AlignmentError``."""
        if len(content) > MOST_BYTES:
            raise AlignmentError(f"{name} has more than {MOST_BYTES // 1_000_000} MB")
        clip = self[key]
        with tempfile.TemporaryDirectory() as folder:
            safe = re.sub(r"[^\w.-]", "_", PurePath(name.replace("\\", "/")).name, flags=re.ASCII)[-100:]
            path = Path(folder) / (safe or "alignment")  # its name says what a CTM holds
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
            except AlignmentError:  # a text of signs alone: the page goes without
                words = ()
        clip = Clip(Recording(name, audio), samples.cpu().numpy())
        return HeardClip(clip, source, mel, encoded, text, tuple(words))


def _promised_seconds(content: bytes) -> float:
    """What the file's head says, before anything is unpacked; where soundfile cannot tell, by decoding."""
    try:
        info = soundfile.info(io.BytesIO(content))
    except (soundfile.LibsndfileError, ValueError, RuntimeError):
        return _decoded_seconds(content)
    return float(info.frames) / max(info.samplerate, 1)


def _decoded_seconds(content: bytes) -> float:
    """By decoding in constant memory, no further than the page takes; 0 where PyAV cannot tell or is not there."""
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
