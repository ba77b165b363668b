"""A recording of a corpus; its audio is read only when requested."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.audio_notices import notify
from hooked_whisper.audio import collected_notices, load_audio
from hooked_whisper.protocols import Alignment


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording of any length. Nothing is decoded before :meth:`audio`.

    Attributes:
        id: unique within its corpus; results refer to it.
        source: whatever :func:`hooked_whisper.audio.load_audio` takes (usually a path), or a function that returns it.
        path: of the file, for messages; empty if the source is not a file.
        speaker: empty if unknown. Splits by speaker count each such recording as a separate speaker.
        text: transcript; empty if unknown.
        find_alignment: reads words and phones with their times; ``None`` if the recording is not aligned.
        text_source: the model that transcribed ``text``; empty if the text came with the corpus.
        language: code such as ``"en"``; empty if unknown.
    """

    id: str
    source: Any = field(repr=False)
    path: str = ""
    speaker: str = ""
    text: str = ""
    find_alignment: Callable[[], Alignment] | None = field(default=None, repr=False)
    text_source: str = ""
    language: str = ""

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else f"{self.text[:57]}..."
        facts = [repr(self.id), repr(text), *(f"{key}={value!r}" for key, value in self._facts().items() if value)]
        return f"Recording({', '.join(facts)})"

    def _facts(self) -> dict[str, str]:
        path = "" if self.text else self.path  # a list of recordings with texts fits on a screen
        return {"speaker": self.speaker, "language": self.language, "path": path, "text_source": self.text_source}

    def audio(self) -> Float[Tensor, "sample"]:
        """Decode the recording to 16 kHz mono. Raises ``AudioError`` for a broken file."""
        with collected_notices() as notices:
            samples = load_audio(self.source() if callable(self.source) else self.source)
        notify(*(replace(notice, name=self.path or self.id) for notice in notices))
        return samples

    def alignment(self) -> Alignment | None:
        """Read words and phones, in seconds from the start of the recording. Raises ``AlignmentError`` for a broken
        file."""
        return None if self.find_alignment is None else self.find_alignment()


def fingerprint(corpus: Sequence[Recording]) -> str:
    """Return a SHA-256 of the recordings' ids, paths, speakers and texts, to check that a resumed run has the same
    corpus. Changes of the audio itself are not detected.
    """
    digest = hashlib.sha256()
    for recording in corpus:
        facts = (
            recording.id,
            recording.path,
            recording.speaker,
            recording.text,
            *([recording.text_source] if recording.text_source else []),
        )
        digest.update("\0".join(facts).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
