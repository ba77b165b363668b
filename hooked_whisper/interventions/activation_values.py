"""Activations to ablate and steer with: means and samples over a corpus, or over log-mels in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments, renamed_property
from hooked_whisper._support.showing import Showing, Summary, counted, described
from hooked_whisper.activations import iter_activations, read_rows
from hooked_whisper.activations.rows import time_axis
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import PatchError, closest
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import Names
from hooked_whisper.patching.positions import filled_positions

Clips = Float[Tensor, "clip mel frame"] | Sequence[Recording]
Rows = Mapping[str, Float[Tensor, "row ..."]]
CLIPS_PER_PASS = 8


@dataclass(frozen=True, eq=False, repr=False)
class Means(Showing):
    """Mean activation per hook point over the positions of clips that are not padding.

    values: ``[...]``, the point's axes without batch and time. n_positions: how many positions were averaged.
    """

    values: Mapping[str, Float[Tensor, "..."]]
    n_positions: Mapping[str, int]

    def summary(self) -> Summary:
        rows = tuple((name, self.n_positions[name], described(values)) for name, values in self.values.items())
        return Summary(f"Means of {counted(len(rows), 'hook point')}", (), ("hook point", "positions", "mean"), rows)

    n_places = renamed_property("n_places", "n_positions")


@dataclass(frozen=True, eq=False, repr=False)
class Samples(Showing):
    """Activations per hook point at all valid positions of clips, ``[sample, ...]``, to draw from.

    Position ``p`` gets the same draw in every pass and row, however the pass is split into steps.
    """

    values: Mapping[str, Float[Tensor, "sample ..."]]
    seed: int = 0

    def summary(self) -> Summary:
        rows = tuple((name, described(values)) for name, values in self.values.items())
        title = f"Samples of {counted(len(rows), 'hook point')}, seed {self.seed}"
        return Summary(title, (), ("hook point", "activations"), rows)


By = Literal["zero"] | Means | Samples


def check_by(by: Any) -> None:
    """Refuse ablation values other than ``"zero"``, means and samples.

    Raises:
        PatchError: ``by`` is anything else.
    """
    if not isinstance(by, Means | Samples) and not (isinstance(by, str) and by == "zero"):
        hint = "; did you mean 'zero'?" if isinstance(by, str) and closest(by, ["zero"]) else ""
        raise PatchError(f"by must be 'zero', means(...) or samples(...), not {by!r:.80}{hint}")


@renamed_arguments(mels="clips")
def means(
    model: HookedWhisper,
    clips: Clips,
    names: Names,
    *,
    tokens: Int[Tensor, "clip token"] | None = None,
    n_valid: Sequence[int] | None = None,
) -> Means:
    """Return mean activations over the positions of clips that are not padding.

    Args:
        clips: log-mels, or a corpus (recordings). A corpus is streamed, see
            :class:`~hooked_whisper.activations.ActivationStream`; points of the decoder are averaged over the tokens of
            its texts.
        names: points with a position, frame or token axis.
        tokens: decoder input of each log-mel, for points of the decoder; all tokens count.
        n_valid: encoder positions that each log-mel fills; default: up to where it becomes constant.

    Raises:
        PatchError: a point has no such axis; no clip has a valid position; ``len(n_valid)`` differs from the number of
            clips; ``tokens`` or ``n_valid`` with a corpus.
        HookedWhisperError: a corpus with points that cannot be streamed together.
    """
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for rows in _row_batches(model, clips, names, tokens, n_valid):
        for name, values in rows.items():
            total = values.sum(0).double().cpu()
            totals[name] = totals[name] + total if name in totals else total
            counts[name] = counts.get(name, 0) + len(values)
    return Means({name: (totals[name] / counts[name]).to(model.dtype).to(model.device) for name in totals}, counts)


@renamed_arguments(mels="clips")
def samples(
    model: HookedWhisper,
    clips: Clips,
    names: Names,
    *,
    tokens: Int[Tensor, "clip token"] | None = None,
    n_valid: Sequence[int] | None = None,
    seed: int = 0,
) -> Samples:
    """Return all activations at the valid positions of clips, to resample from; arguments as for :func:`means`.

    All of them are kept in memory: a corpus should be a few minutes long.
    """
    pieces: dict[str, list[Tensor]] = {}
    for rows in _row_batches(model, clips, names, tokens, n_valid):
        for name, values in rows.items():
            pieces.setdefault(name, []).append(values)
    return Samples({name: torch.cat(parts) for name, parts in pieces.items()}, seed)


@renamed_arguments(mels="clips")
@torch.no_grad()
def position_mean(model: HookedWhisper, clips: Clips, name: str) -> Float[Tensor, "position *axes"]:
    """Return the mean over clips, position by position, including padding (as published), to steer with one vector per
    position.

    Args:
        clips: log-mels, or a corpus (recordings); each window of a long recording counts as a clip.

    Raises:
        PatchError: ``name`` is not one point with a position axis, or there are no clips.
    """
    if len(model.hook_names(name)) != 1 or "position" not in model.hook_points(name)[0].axes[:2]:
        raise PatchError(f"{name!r} is not one point with a position axis")
    n_ctx = model.cfg.encoder.n_ctx
    total: Tensor | int = 0
    n_clips = 0
    for rows in _row_batches(model, clips, name, None, None, padding=True):
        by_clip = next(iter(rows.values())).unflatten(0, (-1, n_ctx))
        total, n_clips = total + by_clip.sum(0), n_clips + len(by_clip)
    if not n_clips:
        raise PatchError("there are no clips to average: give at least one")
    return total / n_clips  # type: ignore[return-value]


def _row_batches(
    model: HookedWhisper,
    clips: Clips,
    names: Names,
    tokens: Int[Tensor, "clip token"] | None,
    n_valid: Sequence[int] | None,
    padding: bool = False,
) -> Iterator[Rows]:
    """Yield rows of each point, with the point's axes after the first; of whole windows if ``padding``."""
    hook_names = model.hook_names(names)
    axes = {name: time_axis(model.hook_dict[name], PatchError) for name in hook_names}
    if not isinstance(clips, Tensor):
        if tokens is not None or n_valid is not None:
            raise PatchError("a corpus has its own texts and lengths: leave out tokens= and n_valid=")
        shapes = {name: model.hook_dict[name].shape({})[2:] for name in hook_names}
        stream = iter_activations(model, clips, hook_names, batch=CLIPS_PER_PASS, padding="keep" if padding else "drop")
        for batch in stream:
            yield {name: batch.rows[name].unflatten(1, shapes[name]) for name in axes}
        return
    filled = filled_positions(clips) if n_valid is None else tuple(int(n) for n in n_valid)
    if len(filled) != len(clips):
        raise PatchError(f"{len(clips)} clips but {len(filled)} numbers of valid positions: give one for each")
    if not padding and not sum(filled):
        raise PatchError("all clips are only padding: there is no activation to average")
    for start in range(0, len(clips), CLIPS_PER_PASS):
        part = slice(start, start + CLIPS_PER_PASS)
        spans = [(0, model.cfg.encoder.n_ctx if padding else n) for n in filled[part]]
        yield read_rows(model, clips[part], hook_names, spans, tokens=None if tokens is None else tokens[part])
