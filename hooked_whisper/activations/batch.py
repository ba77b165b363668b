"""One batch of a stream of activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.showing import Showing
from hooked_whisper.corpora import Window


@dataclass(frozen=True, eq=False, repr=False)
class ActivationBatch(Showing):
    """Activations of a few windows, one window after another.

    Attributes:
        rows: by hook point, in the order of the forward pass: on the model's device and in its dtype, heads side by
            side in ``d``.
        recording: index in the corpus of each row's recording.
        position: encoder position (20 ms each) of each row, counted from the start of its recording; at decoder points
            the index of its token in the text.
        windows: the windows that were read.
        sizes: rows of each window.
        mel: log-mels of the windows.
    """

    rows: Mapping[str, Float[Tensor, "row _"]]
    recording: Int[Tensor, "row"]
    position: Int[Tensor, "row"]
    windows: Sequence[Window]
    sizes: Sequence[int]
    mel: Float[Tensor, "window mel frame"]

    def by_window(self) -> Iterator[tuple[Window, slice]]:
        """Each window with the slice of its rows."""
        start = 0
        for window, size in zip(self.windows, self.sizes, strict=True):
            yield window, slice(start, start + size)
            start += size
