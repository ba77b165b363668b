"""The one pass over recordings: windows of sound in, rows of activations out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.audio_notices import without_notices
from hooked_whisper.activations.batch import ActivationBatch
from hooked_whisper.activations.options import Padding, WindowSize, check_windows
from hooked_whisper.activations.points import points_of, row_unit, row_width
from hooked_whisper.activations.rows import OnRows, Span, read_rows
from hooked_whisper.corpora import Clip, Cursor, Failure, Loaded, Recording, Window, batched, windows_from
from hooked_whisper.corpora.windows import prepared
from hooked_whisper.errors import AudioError, HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import Names

ROUNDED = 50  # lengths of short windows are rounded up to a multiple of this many positions


class ActivationStream:
    """Reads rows of several hook points from recordings, in batches of windows.

    The model runs once for all points and stops at the last of them. Encoder points, and keys and values of
    cross-attention, have a row per encoder position. All other decoder points have a row per token of the recording's
    text, which is forced on the decoder after the prompt: row ``k`` is computed while the decoder reads token ``k`` and
    predicts the next one. Prompt and end token have no rows.

    Args:
        hooks: hook points; if there are none, only the mels are read.
        batch: windows per forward pass.
        padding: ``"drop"`` reads only positions with sound, ``"keep"`` whole windows.
        margin: additional positions to drop before the padding; 2 drops all whose convolutions reach it.
        window: ``"full"`` runs the encoder on its whole window, as Whisper does. ``"sound"`` runs it on the sound and
            ``beyond`` further positions, which is faster but changes the activations.
        beyond: positions of padding that ``window="sound"`` includes.
        language: of the texts, for decoder points.

    Attributes:
        hooks, axes, widths: canonical name, axes and row length of each point.
        unit: what a row stands for, ``"position"`` or ``"token"``.

    Raises:
        HookedWhisperError: a point has no rows, is named twice, or has another unit than the others; ``padding``,
            ``window`` and ``margin`` do not fit together; decoder points with ``window="sound"``.
        PromptError: decoder points of a vocabulary that has no tokenizer, or an unknown language.
    """

    def __init__(
        self,
        model: HookedWhisper,
        hooks: Names,
        *,
        batch: int = 8,
        padding: Padding = "drop",
        margin: int = 0,
        window: WindowSize = "full",
        beyond: int = 50,
        language: str = "en",
    ) -> None:
        check_windows(padding, window, margin)
        self.model, self.batch = model, batch
        self.padding, self.margin, self.window, self.beyond = padding, margin, window, beyond
        self.hooks = points_of(model, hooks)
        self.axes = tuple(model.hook_dict[hook].axes for hook in self.hooks)
        self.widths = tuple(row_width(model, hook) for hook in self.hooks)
        self.unit = row_unit(model, self.hooks)
        self._decodes = not all(hook.startswith("encoder.") for hook in self.hooks)
        if self._decodes and window == "sound":
            raise HookedWhisperError(
                "window='sound' shows the decoder less encoder output than it was trained on: use window='full' for "
                "decoder points"
            )
        prompt_language = language if model.is_multilingual else None
        self._prompt = model.prompter.prompt_ids(language=prompt_language) if self._decodes else []

    def batches(
        self,
        corpus: Sequence[Recording],
        start: Cursor = (0, 0),
        *,
        failed: Callable[[Failure], None] | None = None,
        select: Callable[[Window], bool] | None = None,
        group: int | None = None,
        on_rows: OnRows | None = None,
    ) -> Generator[ActivationBatch, None, None]:
        """Yield rows from a cursor to the end of the corpus, one batch of windows at a time.

        Other threads decode audio and compute log-mels while the model runs.

        Args:
            start: first recording, and first window of it.
            failed: called for each recording that is skipped, possibly some batches early. Default: raise an error.
            select: read only the windows for which this is true.
            group: never mix recordings ``0 .. group - 1``, ``group .. 2 * group - 1``, ... in one batch.
            on_rows: receives each point's rows as soon as the model has computed them; ``batch.rows`` is then empty.
                Saves memory if there are many points.

        Raises:
            AudioError: a recording cannot be read, and ``failed`` is not given.
        """
        report = _raise if failed is None else failed
        windows = windows_from(corpus, self.model.time.n_samples, start, failed=report, refuse=self.refuse)
        selected = windows if select is None else filter(select, windows)
        batches = prepared(_grouped(selected, self.batch, group), self.mel)
        with closing(windows), closing(batches):
            for batch, mel in batches:
                yield self._batch(corpus, batch, mel, on_rows)

    def refuse(self, item: Loaded) -> str:
        """Return why a recording has no rows, or an empty string. Token rows need the whole sound and text at once."""
        if self.unit == "position":
            return ""
        if not item.recording.text.strip():
            return "it has no text for the decoder"
        time = self.model.time
        if len(item.samples) > time.n_samples:
            seconds = len(item.samples) / time.sample_rate
            return f"it lasts {seconds:.1f} s, but text and sound must fit one window of {time.duration:g} s: cut it"
        n_tokens, n_ctx = len(self._prompt) + len(self._text_ids(item.recording)), self.model.cfg.decoder.n_ctx
        if n_tokens > n_ctx:
            return f"prompt and text are {n_tokens} tokens, the decoder has {n_ctx}"
        return ""

    def mel(self, batch: Sequence[Window]) -> Float[Tensor, "window mel frame"]:
        """Log-mels of windows."""
        with without_notices():
            return self.model.to_mel([window.samples for window in batch])

    def encoded_positions(self, window: Window) -> int:
        """Return the number of positions of a window that the encoder computes."""
        time = self.model.time
        if self.window == "full":
            return time.n_ctx
        needed = time.n_positions(window.length / time.sample_rate) + self.beyond
        return min(time.n_ctx, -(-needed // ROUNDED) * ROUNDED)

    @torch.no_grad()
    def read(
        self,
        mel: Float[Tensor, "window mel frame"],
        spans: Sequence[Span],
        lengths: Sequence[int],
        tokens: Int[Tensor, "window token"] | None = None,
        on_rows: OnRows | None = None,
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Run the model on windows and return each point's rows, window after window, in the order of the forward pass.

        Args:
            spans: first and last (exclusive) position or token of each window to read.
            lengths: positions of each window that the encoder computes; windows of one length run together.
            tokens: decoder input, for decoder points.
            on_rows: receives the rows instead; see :meth:`batches`.
        """
        flat: OnRows | None = None if on_rows is None else (lambda hook, rows: on_rows(hook, rows.flatten(1)))
        rows = read_rows(
            self.model, mel, self.hooks, spans, token_spans=spans, lengths=lengths, tokens=tokens, on_rows=flat
        )
        return {hook: of_hook.flatten(1) for hook, of_hook in rows.items()}

    def _batch(
        self,
        corpus: Sequence[Recording],
        windows: Sequence[Window],
        mel: Float[Tensor, "window mel frame"],
        on_rows: OnRows | None,
    ) -> ActivationBatch:
        texts = [self._text_ids(corpus[window.recording]) for window in windows] if self.unit == "token" else []
        if self.unit == "token":
            n_prompt = len(self._prompt)
            spans, firsts = [(n_prompt, n_prompt + len(ids)) for ids in texts], [-n_prompt] * len(windows)
        else:
            spans = [(0, self._kept_positions(window)) for window in windows]
            firsts = [window.number * self.model.time.n_ctx for window in windows]
        rows: dict[str, Tensor] = {}
        if self.hooks:
            tokens = self._tokens(texts, len(windows)) if self._decodes else None
            rows = self.read(mel, spans, [self.encoded_positions(window) for window in windows], tokens, on_rows)
        sizes = [stop - start for start, stop in spans]
        recordings = torch.tensor([window.recording for window in windows], dtype=torch.int32)
        positions = [torch.arange(*span, dtype=torch.int32) + first for span, first in zip(spans, firsts, strict=True)]
        recording = recordings.repeat_interleave(torch.tensor(sizes))
        return ActivationBatch(rows, recording, torch.cat(positions), windows, sizes, mel)

    def _kept_positions(self, window: Window) -> int:
        """Return the number of positions of a window that have rows."""
        time = self.model.time
        if self.padding == "keep":
            return time.n_ctx
        filled = time.n_positions(window.length / time.sample_rate)
        return filled if filled == time.n_ctx else max(0, filled - self.margin)

    def _text_ids(self, recording: Recording) -> list[int]:
        # special tokens that a transcript spells out are ordinary text
        return self.model.tokenizer.encode(f" {recording.text.strip()}", disallowed_special=())

    def _tokens(self, texts: Sequence[Sequence[int]], n: int) -> Int[Tensor, "window token"]:
        """Return prompt and text of each window. End tokens pad shorter rows; causal attention hides the padding."""
        longest = max((len(ids) for ids in texts), default=0)
        end = self.model.tokenizer.eot
        rows = [[*self._prompt, *ids, *[end] * (longest - len(ids))] for ids in texts] or [self._prompt] * n
        return torch.tensor(rows, device=self.model.device)


def iter_activations(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    hooks: Names,
    *,
    batch: int = 8,
    padding: Padding = "drop",
    margin: int = 0,
    window: WindowSize = "full",
    beyond: int = 50,
    language: str = "en",
    failed: Callable[[Failure], None] | None = None,
) -> Iterator[ActivationBatch]:
    """Iterate over the activations of a corpus, one batch of windows at a time.

        for batch in iter_activations(model, corpus, ["encoder.blocks.2.mlp.hook_post"]):
            batch.rows["encoder.blocks.2.mlp.hook_post"], batch.recording, batch.position

    Args:
        hooks, batch, padding, margin, window, beyond, language: see :class:`ActivationStream`.
        failed: called for each recording that cannot be read. Default: raise an error.

    Raises:
        HookedWhisperError: as :class:`ActivationStream`.
        AudioError: a recording cannot be read, and ``failed`` is not given.
    """
    stream = ActivationStream(
        model,
        hooks,
        batch=batch,
        padding=padding,
        margin=margin,
        window=window,
        beyond=beyond,
        language=language,
    )
    return stream.batches(corpus, failed=failed)


def clip_recordings(clips: Sequence[Clip]) -> list[Recording]:
    """Return recordings made from the samples of clips, to stream clips that are already in memory."""
    return [replace(clip.recording, source=clip.samples) for clip in clips]


def _raise(failure: Failure) -> None:
    raise AudioError(f"recording {failure.id!r} cannot be read: {failure.reason}")


def _grouped(windows: Iterable[Window], n: int, group: int | None) -> Iterator[list[Window]]:
    """Yield ``n`` windows at a time, without mixing recordings of two groups."""
    if group is None:
        yield from batched(windows, n)
        return
    for _, members in itertools.groupby(windows, key=lambda window: window.recording // group):
        yield from batched(members, n)
