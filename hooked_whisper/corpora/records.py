"""A corpus is a sequence of recordings; a recording knows its name and reads its sound when asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio import load_audio
from hooked_whisper.protocols import Alignment


@dataclass(frozen=True, eq=False)
class Recording:
    """One clip of a corpus, of any length. Making one is cheap: nothing is decoded before :meth:`audio`.

    Attributes:
        id: unique within its corpus; what results name.
        source: what :func:`hooked_whisper.audio.load_audio` takes (usually a path), or a function that gives that.
        path: where the file is, for people; empty if it is no file.
        speaker: empty if unknown. Splits by speaker put such recordings each in a group of its own.
        text: what is said; empty if unknown.
        find_alignment: reads words and phones with their times, or ``None`` if nobody aligned this recording.
        text_source: the model whose own transcript ``text`` is; empty for a given text.
        language: code such as ``"en"``; empty if unknown.
    """

    id: str
    source: Any
    path: str = ""
    speaker: str = ""
    text: str = ""
    find_alignment: Callable[[], Alignment] | None = None
    text_source: str = ""
    language: str = ""

    def audio(self) -> Float[Tensor, "sample"]:
        """16 kHz mono samples. Raises ``AudioError`` for a broken file."""
        return load_audio(self.source() if callable(self.source) else self.source)

    def alignment(self) -> Alignment | None:
        """Words and phones in seconds from the start of the recording. Raises ``AlignmentError`` for a broken file."""
        return None if self.find_alignment is None else self.find_alignment()


def fingerprint(corpus: Sequence[Recording]) -> str:
    """SHA-256 of the recordings' names, paths, speakers and texts in order: whether a run goes on with the same corpus.

    The sound is not looked at: a file with other content under the same name is not noticed.
    """
    digest = hashlib.sha256()
    for one in corpus:
        facts = (one.id, one.path, one.speaker, one.text, *([one.text_source] if one.text_source else []))
        digest.update("\0".join(facts).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
