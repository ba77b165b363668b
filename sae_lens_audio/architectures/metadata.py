"""Where an SAE belongs and what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hooked_whisper._support.showing import Showing, Summary, described


@dataclass(frozen=True, repr=False)
class Metadata(Showing):
    """The hook point and model of an SAE, and its training data. Unknown values are ``None``.

    hook_name: hook point whose activations are encoded. hook_name_out: the one that a transcoder predicts.
    checkpoint: name of the Whisper model. checkpoint_sha256: digest of its weights.
    sample_rate: of the audio, in Hz. corpus, corpus_sha256: source of the activations.
    padding: how padding positions were treated (``"dropped"``, ``"kept"``, ``"dropped, margin 2"``).
    extra: other JSON values of the file, which are written back.
    """

    hook_name: str | None = None
    hook_name_out: str | None = None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    sample_rate: int | None = None
    corpus: str | None = None
    corpus_sha256: str | None = None
    padding: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> Summary:
        values = {name: value for name, value in vars(self).items() if value not in (None, {}) and name != "extra"}
        rows = tuple((name, described(value)) for name, value in values.items())
        extra = tuple((f"extra[{key!r}]", described(value)) for key, value in self.extra.items())
        return Summary("Metadata" if rows or extra else "Metadata: nothing is known", rows=rows + extra)

    @property
    def model_name(self) -> str | None:
        """SAELens' name of :attr:`checkpoint`."""
        return self.checkpoint
