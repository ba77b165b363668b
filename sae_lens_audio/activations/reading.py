"""Rows of activations from windows of sound: the one way in which they are made, for the disk and for streams."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.corpora import Cursor, Failure, Loaded, Recording, Window, batched, windows_from
from hooked_whisper.corpora.windows import prepared
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks.caching import axis_sizes
from hooked_whisper.hooks.hook_names import Names, listed
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.activations.sources import ActivationChunk

Unit = Literal["position", "token"]
_ROUNDED = 50  # positions of a window that is shorter than the model's: a multiple of these
VECTORS = ("d_model", "d_mlp", "d_head")  # axes that may be a row; heads are put one after the other


class Batch(NamedTuple):
    """Rows of some windows on the CPU, in the dtype of the options, window after window; how many each window has."""

    block: ActivationChunk
    sizes: Sequence[int]
    windows: Sequence[Window]


class RowReader:
    """Reads the same rows of several hook points, in the order in which they were named.

    Encoder points, and keys and values of cross-attention, have a row for each encoder position. All other decoder
    points have one for each token of the text, the decoder being given the prompt and the text (teacher forcing):
    row ``k`` is what the decoder computes while it reads token ``k`` and predicts the next one (after the last token,
    the end). Prompt and end token have no rows.

    Attributes:
        hooks: names of the points; axes and widths: of each, widths with the heads one after the other.
        unit: ``"position"`` or ``"token"``: what a row stands for.

    Raises:
        HookedWhisperError: a point without a vector per position or token, both kinds at once, a point named twice.
        PromptError: decoder points of a vocabulary that has no tokenizer, or an unknown language.
    """

    def __init__(self, model: HookedWhisper, hooks: Names, options: CollectOptions) -> None:
        self.model, self.options = model, options
        self.hooks = points_of(model, hooks)
        self.axes = tuple(model.hook_dict[hook].axes for hook in self.hooks)
        units = {hook: axes[1] for hook, axes in zip(self.hooks, self.axes, strict=True)}
        if len(set(units.values())) > 1:
            raise HookedWhisperError(
                "rows are encoder positions or tokens, these points have both: "
                f"{', '.join(f'{hook} ({unit})' for hook, unit in units.items())}; collect them into two folders"
            )
        self.unit: Unit = "token" if "token" in units.values() else "position"
        self.widths = tuple(_width(model, hook) for hook in self.hooks)
        self._decodes = not all(hook.startswith("encoder.") for hook in self.hooks)
        if self._decodes and options.window == "sound":
            raise HookedWhisperError(
                "with window='sound' the decoder would see less of the encoder's output than it was trained on: "
                "collect decoder points with window='full'"
            )
        self._prompt = model.prompter.prompt_ids(language=_language(model, options)) if self._decodes else []

    def refuse(self, item: Loaded) -> str:
        """Why a recording has no rows; empty if it has. For tokens, sound and text must belong together whole."""
        if self.unit == "position":
            return ""
        if not item.recording.text.strip():
            return "it has no text for the decoder to be given"
        clock = self.model.time
        if len(item.samples) > clock.n_samples:
            seconds = len(item.samples) / clock.sample_rate
            return f"it lasts {seconds:.1f} s, but text and sound must fit one window of {clock.duration:g} s: cut it"
        tokens, most = len(self._prompt) + len(self._ids(item.recording)), self.model.cfg.decoder.n_ctx
        if tokens > most:
            return f"prompt and text are {tokens} tokens, the decoder has {most}"
        return ""

    def batches(
        self, corpus: Sequence[Recording], start: Cursor = (0, 0), *, failed: Callable[[Failure], None]
    ) -> Generator[Batch, None, None]:
        """Rows from a cursor to the end of the corpus, a batch of windows at a time.

        Sound is decoded, and log-mels are made, by other threads while the model runs. ``failed`` is told of
        recordings that are passed over, somewhat ahead of the batch that is given.

        Raises:
            HookedWhisperError: an activation that is not finite, or too large for the dtype.
        """
        windows = windows_from(corpus, self.model.time.n_samples, start, failed=failed, refuse=self.refuse)
        batches = prepared(batched(windows, self.options.batch), self.mel)
        with closing(windows), closing(batches):
            for batch, mel in batches:
                yield self._read(corpus, batch, mel)

    def mel(self, batch: Sequence[Window]) -> Float[Tensor, "window mel frame"]:
        return self.model.to_mel([window.samples for window in batch])

    @torch.no_grad()
    def _read(
        self, corpus: Sequence[Recording], batch: Sequence[Window], mel: Float[Tensor, "window mel frame"]
    ) -> Batch:
        texts = [self._ids(corpus[window.recording]) for window in batch] if self.unit == "token" else []
        tokens = self._tokens(texts, len(batch)) if self._decodes else None
        seen = self.activations(mel, [self.encoded(window) for window in batch], tokens)
        if self.unit == "token":
            start = len(self._prompt)
            spans, firsts = [(start, start + len(ids)) for ids in texts], [-start] * len(batch)
        else:
            spans = [(0, self._kept(window)) for window in batch]
            firsts = [window.number * self.model.time.n_ctx for window in batch]
        sizes = [stop - start for start, stop in spans]
        at = [torch.arange(*span, dtype=torch.int32) + first for span, first in zip(spans, firsts, strict=True)]
        recordings = torch.tensor([window.recording for window in batch], dtype=torch.int32)
        recording = recordings.repeat_interleave(torch.tensor(sizes))
        position = torch.cat(at)
        # in the order of the forward pass: what is not finite is so from the first point on
        order = [hook for hook in seen[0] if hook in self.hooks]
        rows = {hook: self._rows(seen, hook, spans, corpus, recording, position) for hook in order}
        return Batch(ActivationChunk(tuple(rows[hook] for hook in self.hooks), recording, position), sizes, batch)

    def encoded(self, window: Window) -> int:
        """Positions that the encoder computes of a window."""
        clock = self.model.time
        if self.options.window == "full":
            return clock.n_ctx
        wanted = clock.n_positions(window.length / clock.sample_rate) + self.options.beyond
        return min(clock.n_ctx, -(-wanted // _ROUNDED) * _ROUNDED)

    def activations(
        self,
        mel: Float[Tensor, "window mel frame"],
        lengths: Sequence[int],
        tokens: Int[Tensor, "window token"] | None = None,
    ) -> list[dict[str, Float[Tensor, "_ ..."]]]:
        """Of each window, by hook, from as many positions as ``lengths`` says. Those of one length run together."""
        found: list[dict[str, Tensor]] = [{} for _ in lengths]
        for length in sorted(set(lengths)):
            rows = [row for row, n in enumerate(lengths) if n == length]
            shorter = length < self.model.time.n_ctx
            part = mel[rows, :, : 2 * length] if shorter else mel[rows] if len(rows) < len(mel) else mel
            _, cache = self.model.run_with_cache(
                part, tokens, names_filter=list(self.hooks), stop_early=True, mel_positions=slice(0, length) if shorter else None
            )
            for k, row in enumerate(rows):
                found[row] = {hook: x[k] for hook, x in cache.items()}
        return found

    def _kept(self, window: Window) -> int:
        """Positions of a window that are not left out."""
        clock = self.model.time
        if self.options.padding == "keep":
            return clock.n_ctx
        filled = clock.n_positions(window.length / clock.sample_rate)
        return filled if filled == clock.n_ctx else max(0, filled - self.options.margin)

    def _ids(self, recording: Recording) -> list[int]:
        # special tokens that are written out in a transcript are text like any other
        return self.model.tokenizer.encode(f" {recording.text.strip()}", disallowed_special=())

    def _tokens(self, texts: Sequence[Sequence[int]], n: int) -> Int[Tensor, "window token"]:
        """Prompt and text. Shorter rows are filled up with end tokens: what stands behind a token does not reach it."""
        longest = max((len(ids) for ids in texts), default=0)
        end = self.model.tokenizer.eot
        rows = [[*self._prompt, *ids, *[end] * (longest - len(ids))] for ids in texts] or [self._prompt] * n
        return torch.tensor(rows, device=self.model.device)

    def _rows(
        self,
        seen: Sequence[Mapping[str, Tensor]],
        hook: str,
        spans: Sequence[tuple[int, int]],
        corpus: Sequence[Recording],
        recording: Int[Tensor, "row"],
        position: Int[Tensor, "row"],
    ) -> Float[Tensor, "row d"]:
        pieces = [one[hook][start:stop].flatten(1) for one, (start, stop) in zip(seen, spans, strict=True)]
        dtype = self.options.torch_dtype
        stored = torch.empty(len(recording), pieces[0].shape[1], dtype=dtype, device=pieces[0].device)
        for target, piece in zip(stored.split([len(piece) for piece in pieces]), pieces, strict=True):
            target.copy_(piece)
        extremes = [torch.stack(piece.aminmax()) for piece in pieces if len(piece)]  # NaN if there is one
        if extremes and not (torch.stack(extremes).abs().amax() <= torch.finfo(dtype).max):
            raise HookedWhisperError(self._too_large(hook, torch.cat(pieces).cpu(), corpus, recording, position))
        return stored.cpu()

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
        where = f"recording {corpus[int(recording[row])].id!r}, {self.unit} {int(position[row])}"
        if not finite.all():
            return (
                f"{hook}: an activation of {where} is not finite: check the weights and the audio; a model in full "
                "precision does not overflow"
            )
        most = torch.finfo(self.options.torch_dtype).max
        return (
            f"{hook}: an activation of {where} is {float(x[row].abs().amax()):.4g}, and {self.options.dtype} ends at "
            f"{most:.4g}: collect with dtype='bfloat16' or 'float32', into another folder"
        )


def points_of(model: HookedWhisper, hooks: Names) -> tuple[str, ...]:
    """Canonical names in the order given (a pattern's in that of the forward pass).

    Raises:
        HookedWhisperError: none, one twice, or one that has no vector per position or token.
        UnknownHookError: a name that the model does not have, or a pattern that matches nothing.
    """
    found = [name for one in listed(hooks) for name in model.hook_names(one)]
    if not found:
        raise HookedWhisperError("name a hook point at least, such as encoder.blocks.2")
    if twice := [name for name in found if found.count(name) > 1]:
        raise HookedWhisperError(f"{twice[0]} is named twice: rows of a point are read once")
    for name in found:
        axes = model.hook_dict[name].axes
        rest = tuple(axis for axis in axes[2:] if axis != "head")
        if axes[:2] not in (("batch", "position"), ("batch", "token")) or len(rest) != 1 or rest[0] not in VECTORS:
            raise HookedWhisperError(
                f"{name} has axes [{', '.join(axes)}]: rows are vectors of encoder positions or tokens, from points "
                "with [batch, position, ...] or [batch, token, ...] such as encoder.blocks.2 or "
                "encoder.blocks.2.mlp.hook_post"
            )
    return tuple(found)


def _width(model: HookedWhisper, hook: str) -> int:
    sizes = {"batch": 1, "position": 1, "token": 1, "d_model": model.cfg.encoder.d_model}
    width = 1
    for length in axis_sizes(model.hook_dict[hook], model.cfg, sizes)[2:]:
        width *= length
    return width


def _language(model: HookedWhisper, options: CollectOptions) -> str | None:
    return options.language if model.is_multilingual else None
