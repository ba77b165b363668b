"""The clips of the page. Each is encoded and transcribed once."""

from __future__ import annotations

import io
import re
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
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
from hooked_whisper.explorer.packaged_clips import packaged_clips
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import CleanTranscripts, baseline_encoding, clean_transcripts
from hooked_whisper.interventions.forced_text import aligned_times
from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.text import word_error

MOST_BYTES = 25_000_000
MOST_SECONDS = 30.0  # one window of Whisper
MOST_UPLOADS = 16  # a further upload replaces the oldest
MOST_RESIDUAL_BYTES = 512_000_000
_TRIED = 6


@dataclass(frozen=True, eq=False)
class HeardClip:
    """A clip with the model's encoding and transcript of it.

    clip: the sound; its id is the name on the page.
    source: Python expression for the sound (a quoted file name, or a packaged clip).
    clean: the model's run on it without an edit, which all edits are compared with.
    words: in seconds; from an alignment if ``aligned``, otherwise the transcript with times from cross-attention.
    """

    clip: Clip
    source: str
    clean: CleanTranscripts
    words: tuple[Interval, ...]
    phones: tuple[Interval, ...] = ()
    aligned: bool = False

    @property
    def text(self) -> str:
        """The transcript of the model."""
        return self.clean.texts[0]

    @property
    def mel(self) -> Float[Tensor, "1 mel frame"]:
        assert self.clean.mel is not None  # the shelf encodes mels
        return self.clean.mel

    @property
    def encoded(self) -> Float[Tensor, "1 position d_model"]:
        return self.clean.encoder_out

    @property
    def most_tokens(self) -> int:
        """Longest text after an edit: a decoder that loops would otherwise go on to its limit."""
        return min(224, 2 * len(self.clean.ids[0]) + 16)

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
        clip = replace(
            self, words=words or self.words, phones=phones or self.phones, aligned=bool(words) or self.aligned
        )
        return clip.timed()

    def timed(self) -> HeardClip:
        """Return the clip with the times of its words on the words of the transcript."""
        return replace(self, clean=replace(self.clean, times=(aligned_times(self.text, self.alignment),)))


class Shelf:
    """Clips by id. Packaged clips are encoded when they are first requested, uploads at once.

    The residual streams of the last clips stay in memory, up to :data:`MOST_RESIDUAL_BYTES`, so that an edit inside the
    encoder runs only the blocks that it reaches.
    """

    def __init__(self, model: HookedWhisper, language: str = "en", packaged: bool = True, texts: str = "own") -> None:
        """Make a shelf. With ``texts="given"``, clips without an alignment have no words."""
        check_texts(texts)
        self.model, self.language, self.texts = model, language, texts
        self._packaged = packaged_clips(model, language) if packaged else {}
        self._heard: dict[str, HeardClip] = {}
        self._residuals: OrderedDict[str, Mapping[int, Tensor]] = OrderedDict()
        self._silence: Tensor | None = None
        self._uploads = 0

    def names(self) -> dict[str, str]:
        """Return id -> displayed name, packaged clips first."""
        packaged = {key: clip.title for key, clip in self._packaged.items()}
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
            if key not in self._packaged:
                raise HookedWhisperError(f"clip {key!r} does not exist or was removed: choose one from the list")
            packaged = self._packaged[key]
            clip = packaged.load()
            heard = self._hear(key, packaged.label, packaged.source, clip.samples, spoken=True)
            self._heard[key] = heard.with_alignment(clip.alignment)
        heard = self._heard[key]
        return replace(heard, clean=replace(heard.clean, resid=self._residuals.get(key, {})))

    def with_residuals(self, key: str) -> HeardClip:
        """Return a clip whose residual streams are in memory, if one clip's fit."""
        clip = self[key]
        if not clip.clean.resid and self._residual_bytes <= MOST_RESIDUAL_BYTES:
            self._keep(key, clip.clean.with_residuals(range(self.model.cfg.encoder.n_layers)).resid)
            clip = self[key]
        if key in self._residuals:
            self._residuals.move_to_end(key)
        return clip

    @property
    def silence(self) -> Float[Tensor, "1 position d_model"]:
        """The encoder output that cuts put in place, computed once."""
        if self._silence is None:
            self._silence = baseline_encoding(self.model)
        return self._silence

    @property
    def _residual_bytes(self) -> int:
        cfg = self.model.cfg.encoder
        return cfg.n_layers * cfg.n_ctx * cfg.d_model * self.model.dtype.itemsize

    def _keep(self, key: str, resid: Mapping[int, Tensor]) -> None:
        """Store residual streams; the oldest of other clips go."""
        self._residuals[key] = resid
        while len(self._residuals) * self._residual_bytes > MOST_RESIDUAL_BYTES:
            self._residuals.popitem(last=False)

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
        self._uploads += 1
        key = f"upload-{self._uploads}"
        heard = self._hear(key, name, repr(source or name), audio)
        uploads = [upload for upload in self._heard if upload.startswith("upload-")]
        for oldest in uploads[: max(0, len(uploads) - MOST_UPLOADS + 1)]:
            del self._heard[oldest]
            self._residuals.pop(oldest, None)
        self._heard[key] = heard
        return key

    def align(self, key: str, content: bytes, name: str) -> None:
        """Read the words and phones of a clip from a TextGrid, CTM, TIMIT or JSON file.

        Raises:
            AlignmentError: if the file is too large, cannot be read, or does not fit the clip.
        """
        if len(content) > MOST_BYTES:
            raise AlignmentError(f"{name} has more than {MOST_BYTES // 1_000_000} MB")
        clip = replace(self[key], clean=replace(self[key].clean, resid={}))  # residual streams are stored apart
        with tempfile.TemporaryDirectory() as folder:
            safe = re.sub(r"[^\w.-]", "_", PurePath(name.replace("\\", "/")).name, flags=re.ASCII)[-100:]
            path = Path(folder) / (safe or "alignment")  # the name of a CTM file tells phones from words
            path.write_bytes(content)
            alignment = read_alignment(path, PurePath(clip.name).stem)
        self._heard[key] = clip.with_alignment(fitted(alignment, (clip.clip.samples, SAMPLE_RATE), clip.name))

    @torch.no_grad()
    def _hear(self, key: str, name: str, source: str, audio: AudioSource, spoken: bool = False) -> HeardClip:
        """Encode and transcribe a clip. ``spoken``: an alignment gives the times of its words, so estimate none."""
        model = self.model
        samples = load_audio(audio)
        seconds = len(samples) / SAMPLE_RATE
        blocks = range(model.cfg.encoder.n_layers) if self._residual_bytes <= MOST_RESIDUAL_BYTES else ()
        untimed = Alignment(name, "", "", seconds)
        clean = clean_transcripts(
            model, model.to_mel(samples), alignments=[untimed], language=self.language, resume_blocks=blocks
        )
        if clean.resid:
            self._keep(key, clean.resid)
        words: Sequence[Interval] = ()
        if clean.texts[0].strip() and self.texts == "own" and not spoken:
            try:
                words = align(model, clean.encoder_out, clean.texts[0], duration=seconds, language=self.language).words
            except AlignmentError:  # only punctuation: the page shows no words
                words = ()
        clip = Clip(Recording(name, audio), samples.cpu().numpy())
        return HeardClip(clip, source, replace(clean, resid={}), tuple(words)).timed()


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
