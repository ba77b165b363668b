"""Rows of activations in the dtype of a store, for stores and streams."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.activations import ActivationBatch, ActivationStream
from hooked_whisper.corpora import Cursor, Failure, Recording, Window
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import Names
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.activations.sources import ActivationChunk

VECTORS = ("d_model", "d_mlp", "d_head")  # axes that a row may have; heads are side by side


class RowBatch(NamedTuple):
    """Rows of a batch of windows on the CPU, in the dtype of the store, sorted by window. sizes: rows per window."""

    chunk: ActivationChunk
    sizes: Sequence[int]
    windows: Sequence[Window]


class RowReader:
    """An :class:`~hooked_whisper.activations.ActivationStream` whose rows are in the dtype of a store.

    Attributes:
        stream: source of the rows.
        hooks: names of the points, in the order given; axes, widths: of each.
        unit: ``"position"`` or ``"token"``: what a row is.

    Raises:
        HookedWhisperError: no hook point, a point whose rows are not vectors of ``d_model``, ``d_mlp`` or ``d_head``,
            or what ``ActivationStream`` raises.
        PromptError: decoder points of a vocabulary that has no tokenizer, or an unknown language.
    """

    def __init__(self, model: HookedWhisper, hooks: Names, options: CollectOptions) -> None:
        self.model, self.options = model, options
        self.stream = ActivationStream(
            model,
            hooks,
            batch=options.batch,
            padding=options.padding,
            margin=options.margin,
            window=options.window,
            beyond=options.beyond,
            language=options.language,
        )
        self.hooks, self.axes, self.widths = self.stream.hooks, self.stream.axes, self.stream.widths
        self.unit = self.stream.unit
        if not self.hooks:
            raise HookedWhisperError("no hook point is given: name a hook point such as encoder.blocks.2")
        for hook, axes in zip(self.hooks, self.axes, strict=True):
            row_axes = tuple(axis for axis in axes[2:] if axis != "head")
            if len(row_axes) != 1 or row_axes[0] not in VECTORS:
                raise HookedWhisperError(
                    f"{hook} has axes [{', '.join(axes)}]: an SAE needs one vector of {', '.join(VECTORS)} per "
                    "position or token, from a point such as encoder.blocks.2 or encoder.blocks.2.mlp.hook_post"
                )

    def batches(
        self, corpus: Sequence[Recording], start: Cursor = (0, 0), *, failed: Callable[[Failure], None]
    ) -> Generator[RowBatch, None, None]:
        """Yield rows from a cursor to the end of the corpus, a batch of windows at a time.

        Args:
            failed: called for each recording that is skipped, somewhat ahead of the batch that is yielded.

        Raises:
            HookedWhisperError: an activation that is not finite, or too large for the dtype.
        """
        with closing(self.stream.batches(corpus, start, failed=failed)) as batches:
            for batch in batches:
                yield self._read(corpus, batch)

    def _read(self, corpus: Sequence[Recording], batch: ActivationBatch) -> RowBatch:
        # in the order of the forward pass: the first point that is not finite is reported
        rows = {hook: self._stored(hook, x, corpus, batch) for hook, x in batch.rows.items()}
        chunk = ActivationChunk(tuple(rows[hook] for hook in self.hooks), batch.recording, batch.position)
        return RowBatch(chunk, batch.sizes, batch.windows)

    def _stored(
        self, hook: str, x: Float[Tensor, "row d"], corpus: Sequence[Recording], batch: ActivationBatch
    ) -> Float[Tensor, "row d"]:
        dtype = self.options.torch_dtype
        extremes = torch.stack(x.aminmax()) if len(x) else None  # NaN if there is one
        if extremes is not None and not (extremes.abs().amax() <= torch.finfo(dtype).max):
            raise HookedWhisperError(self._too_large(hook, x.cpu(), corpus, batch.recording, batch.position))
        return x.to(dtype).cpu()

    def _too_large(
        self,
        hook: str,
        x: Float[Tensor, "row d"],
        corpus: Sequence[Recording],
        recording: Int[Tensor, "row"],
        position: Int[Tensor, "row"],
    ) -> str:
        finite = x.isfinite().all(1)
        bad = ~finite if not finite.all() else x.abs().amax(1) > torch.finfo(self.options.torch_dtype).max
        row = int(bad.nonzero()[0])
        place = f"recording {corpus[int(recording[row])].id!r}, {self.unit} {int(position[row])}"
        if not finite.all():
            return (
                f"{hook}: an activation of {place} is not finite: check the weights and the audio; a model in full "
                "precision does not overflow"
            )
        largest = torch.finfo(self.options.torch_dtype).max
        return (
            f"{hook}: an activation of {place} is {float(x[row].abs().amax()):.4g}, and {self.options.dtype} ends at "
            f"{largest:.4g}: collect with dtype='bfloat16' or 'float32', into another folder"
        )
