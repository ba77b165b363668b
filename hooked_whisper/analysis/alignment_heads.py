"""Find the cross-attention heads that align words: boundary F1 of each head, and selection of a set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.renamed import renamed_method
from hooked_whisper._support.showing import Showing, Summary, Tabular, counted
from hooked_whisper.analysis.alignment import (
    Method,
    Script,
    Unit,
    cross_scores,
    head_maps,
    script,
    word_times,
)
from hooked_whisper.analysis.boundaries import TOLERANCES_S, boundary_counts, f1_of, r_value_of
from hooked_whisper.analysis.ranked_heads import RankedHeads
from hooked_whisper.errors import AlignmentError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment, HeadLike, HeadRef, Interval

CANDIDATES, MOST_HEADS = 12, 6


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Tabular):
    """Boundary counts (hits, predicted, true) of every single head, per clip and tolerance (s)."""

    counts: Int[np.ndarray, "clip block head tolerance three"]
    tolerances_s: tuple[float | int, ...]
    method: Method
    unit: Unit

    @property
    def f1(self) -> Float[np.ndarray, "block head tolerance"]:
        """F1 over all clips."""
        return f1_of(*np.moveaxis(self.counts.sum(0), -1, 0))

    @property
    def r_value(self) -> Float[np.ndarray, "block head tolerance"]:
        """R-value over all clips, see :func:`r_value_of`."""
        return r_value_of(*np.moveaxis(self.counts.sum(0), -1, 0))

    def best(self, n: int, tolerance_s: float | int = 0.1) -> RankedHeads:
        """Return the ``n`` heads with the largest F1, best first; ties go to the earlier block."""
        f1 = self.f1[..., self._tolerance_index(tolerance_s)]
        order = np.argsort(-f1, axis=None, kind="stable")[:n]
        pairs = [(int(i) // f1.shape[1], int(i) % f1.shape[1]) for i in order]
        return RankedHeads(
            tuple(HeadRef("cross", block, head) for block, head in pairs),
            tuple(float(f1[pair]) for pair in pairs),
            f"word boundaries within {1000 * tolerance_s:g} ms",
            "boundary F1",
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per head and tolerance."""
        f1, r_value = self.f1, self.r_value
        return [
            {
                "block": block,
                "head": head,
                "tolerance_s": float(t),
                "f1": float(f1[block, head, k]),
                "r_value": float(r_value[block, head, k]),
            }
            for block in range(f1.shape[0])
            for head in range(f1.shape[1])
            for k, t in enumerate(self.tolerances_s)
        ]

    def plot(self, tolerance_s: float | int = 0.1, *, backend: Backend = "matplotlib") -> Any:
        """Draw the F1 of every head. ``backend="plotly"`` returns a plotly figure."""
        f1 = self.f1[..., self._tolerance_index(tolerance_s)]
        return heat_map(
            f1,
            title=f"Word boundaries within {1000 * tolerance_s:g} ms, by head",
            x="head",
            y="decoder block",
            unit="boundary F1",
            rows=[str(b) for b in range(f1.shape[0])],
            columns=[str(h) for h in range(f1.shape[1])],
            texts=[[f"{v:.2f}" for v in row] for row in f1] if f1.size <= 400 else None,
            facecolor="white",
            backend=backend,
        )

    draw = renamed_method("draw", "plot")

    def summary(self) -> Summary:
        n_clips, n_blocks, n_heads = self.counts.shape[:3]
        title = f"HeadScores: {counted(n_clips, 'clip')}, {n_blocks} x {n_heads} cross-attention heads"
        notes = (f"method {self.method!r} by {self.unit}; boundary F1 within each tolerance, best heads first",)
        columns = ("head", *(f"{1000 * t:g} ms" for t in self.tolerances_s))
        f1 = self.f1
        best = self.best(8, self.tolerances_s[-1])
        rows = tuple((head.label, *(float(v) for v in f1[head.block, head.head])) for head in best)
        return Summary(title, notes, columns, rows, n_blocks * n_heads)

    def _tolerance_index(self, tolerance_s: float | int) -> int:
        for k, t in enumerate(self.tolerances_s):
            if abs(t - tolerance_s) < 1e-9:
                return k
        raise AlignmentError(
            f"there are no scores for a tolerance of {tolerance_s} s, only for {list(self.tolerances_s)}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class ClipMaps(Showing):
    """One clip's normalized head maps, cut to the rows that write the text."""

    maps: Float[Tensor, "head row position"]
    text: Script
    truth: tuple[Interval, ...]
    seconds_per_position: float

    def words(self, which: Sequence[int]) -> tuple[Interval, ...]:
        """Return word times from the mean of the maps with these indices."""
        return word_times(self.maps[list(which)].mean(0), self.text, self.seconds_per_position)


def clip_maps(
    model: HookedWhisper,
    encoder_out: Float[Tensor, "clip position d_model"],
    alignments: Sequence[Alignment],
    heads: Sequence[HeadLike] | None = None,
    *,
    method: Method = "whisper",
    unit: Unit = "token",
    language: str = "en",
) -> Iterator[ClipMaps]:
    """Yield the head maps of each clip (default: of all heads), with one decoder pass per clip.

    Raises:
        AlignmentError: there are no clips, the numbers of encoder outputs and alignments differ, or a clip has no word
            times.
    """
    _check(method, unit)
    if len(encoder_out) != len(alignments) or not alignments:
        raise AlignmentError(f"{len(encoder_out)} encoder outputs, {len(alignments)} alignments: give one for each")
    return _clip_maps(model, encoder_out, alignments, heads, method, unit, language)


def _check(method: str, unit: str) -> None:
    check_option("method", method, get_args(Method), AlignmentError)
    check_option("unit", unit, get_args(Unit), AlignmentError)


def _clip_maps(
    model: HookedWhisper,
    encoder_out: Float[Tensor, "clip position d_model"],
    alignments: Sequence[Alignment],
    heads: Sequence[HeadLike] | None,
    method: Method,
    unit: Unit,
    language: str,
) -> Iterator[ClipMaps]:
    for row, alignment in zip(encoder_out, alignments, strict=True):
        if not alignment.words:
            raise AlignmentError(f"clip {alignment.utterance!r} has no word times: give an Alignment with words")
        text = script(model, " ".join(w.label for w in alignment.words), unit, language)
        n = model.time.n_positions(min(alignment.duration, model.time.duration))
        maps, _ = head_maps(cross_scores(model, row[None], text.tokens, n, heads), method)
        yield ClipMaps(maps[:, text.rows].cpu(), text, alignment.words, model.time.seconds_per_position)


def score_alignment_heads(
    model: HookedWhisper,
    encoder_out: Float[Tensor, "clip position d_model"],
    alignments: Sequence[Alignment],
    *,
    tolerances_s: Sequence[float | int] = TOLERANCES_S,
    method: Method = "whisper",
    unit: Unit = "token",
    language: str = "en",
) -> HeadScores:
    """Align every clip with every single cross-attention head, and score the word boundaries.

    Args:
        encoder_out: of the clips.
        alignments: true word times (s) and durations of the clips.
        tolerances_s: largest distance (s) of a boundary that counts as hit.

    Raises:
        AlignmentError: as :func:`clip_maps`.
    """
    _check(method, unit)
    counts = []
    for clip in clip_maps(model, encoder_out, alignments, method=method, unit=unit, language=language):
        counts.append([boundary_counts(clip.words([k]), clip.truth, tolerances_s) for k in range(len(clip.maps))])
    cfg = model.cfg.decoder
    shape = (len(alignments), cfg.n_layers, cfg.n_heads, len(tolerances_s), 3)
    return HeadScores(np.array(counts).reshape(shape), tuple(tolerances_s), method, unit)


def set_counts(
    clips: Iterable[ClipMaps], which: Sequence[int] | None = None, tolerances_s: Sequence[float | int] = TOLERANCES_S
) -> Int[np.ndarray, "clip tolerance three"]:
    """Return the boundary counts of a set of heads (indices into the maps; default: all), clip by clip."""

    def words(clip: ClipMaps) -> tuple[Interval, ...]:
        return clip.words(range(len(clip.maps)) if which is None else which)

    return np.array([boundary_counts(words(clip), clip.truth, tolerances_s) for clip in clips])


def choose_heads(
    model: HookedWhisper,
    encoder_out: Float[Tensor, "clip position d_model"],
    alignments: Sequence[Alignment],
    *,
    tolerance_s: float | int = 0.1,
    candidates: int = CANDIDATES,
    most: int = MOST_HEADS,
    method: Method = "whisper",
    unit: Unit = "token",
    language: str = "en",
    scores: HeadScores | None = None,
) -> RankedHeads:
    """Select a set of heads whose averaged map has a high boundary F1 on these clips. Score it on other clips.

    Greedy: starting with the best head, add the head that helps most, up to ``most`` heads, while F1 improves.

    Args:
        candidates: number of best single heads to try.
        scores: of these clips, if already computed.

    Returns:
        The selected heads by block, each with its own F1.

    Raises:
        AlignmentError: as :func:`clip_maps`.
    """
    _check(method, unit)
    if scores is None:
        scores = score_alignment_heads(
            model, encoder_out, alignments, tolerances_s=(tolerance_s,), method=method, unit=unit, language=language
        )
    pool = scores.best(candidates, tolerance_s)
    clips = list(clip_maps(model, encoder_out, alignments, pool.pairs, method=method, unit=unit, language=language))

    def f1(which: Sequence[int]) -> float:
        counts = sum(boundary_counts(c.words(which), c.truth, (tolerance_s,))[0] for c in clips)
        return float(f1_of(*counts))  # type: ignore[misc]

    selected: list[int] = []
    reached = -1.0
    while len(selected) < most:
        tries = {k: f1([*selected, k]) for k in range(len(pool)) if k not in selected}
        best = max(tries, key=lambda k: (tries[k], -k), default=None)
        if best is None or tries[best] <= reached:
            break
        selected.append(best)
        reached = tries[best]
    order = sorted(selected, key=lambda k: pool[k])
    return RankedHeads(tuple(pool[k] for k in order), tuple(pool.values[k] for k in order), pool.measure, "boundary F1")
