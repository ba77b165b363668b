"""Statistics of every attention head: distance, entropy, attention to padding and to the current word.

Attention distance and entropy: Vig and Belinkov 2019, arXiv 1906.04284, sections 4.3 and 4.4. Attention to padding
tests per head for the encoder's attention sink (github.com/er537/whisper_interpretability, ``docs/index.md``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.renamed import renamed_method
from hooked_whisper._support.showing import Summary, Tabular, counted
from hooked_whisper.analysis.alignment import script
from hooked_whisper.analysis.head_measures import Measures, cross_measures, decoder_measures, encoder_measures
from hooked_whisper.analysis.ranked_heads import RankedHeads
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import HookedWhisperError, closest
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint
from hooked_whisper.protocols import Alignment, HeadRef, Stack

# stack -> measure -> unit
MEASURES: dict[str, dict[str, str]] = {
    "encoder": {
        "distance": "positions",
        "median distance": "positions",
        "entropy": "nats",
        "relative entropy": "share of the largest",
        "padding": "share of attention",
        "own word": "share of attention",
    },
    "decoder": {
        "distance": "tokens",
        "median distance": "tokens",
        "entropy": "nats",
        "relative entropy": "share of the largest",
        "first token": "share of attention",
    },
    "cross": {
        "distance": "positions from the word",
        "entropy": "nats",
        "relative entropy": "share of the largest",
        "padding": "share of attention",
        "own word": "share of attention",
        "monotonicity": "rank correlation",
        "forward steps": "share of steps",
    },
}


@dataclass(frozen=True, eq=False, repr=False)
class HeadReport(Tabular):
    """Statistics of every head and clip, averaged over rows: ``values[stack][measure]``.

    Stacks are ``"encoder"``, ``"decoder"`` (self-attention) and ``"cross"``; :data:`MEASURES` lists measures and units.
    Values are NaN where a clip does not determine them (without words, or without padding).

    - distance, median distance: mean distance of a query to what it attends to, and the distance within which half of
      the attention lies; in cross-attention, distance to the span of the word being written (0 inside).
    - entropy: of a row. relative entropy: divided by the logarithm of the number of visible keys.
    - padding: attention to positions after the clip. own word: attention to the span of the word that contains the
      query, or that it is about to write. first token: attention to it by later decoder rows.
    - monotonicity: Spearman correlation of row number and mean attended position. forward steps: share of rows whose
      mean position is later than that of the previous row.
    """

    clips: tuple[str, ...]
    values: Mapping[str, Mapping[str, Float[np.ndarray, "clip block head"]]]

    def mean(self, stack: str, measure: str) -> Float[np.ndarray, "block head"]:
        """Return the mean over clips, without NaN."""
        return _mean(self._of(stack, measure))

    def interval(
        self, stack: str, measure: str, draws: int = 1000, seed: int = 0
    ) -> Float[np.ndarray, "two block head"]:
        """Return the 95 % percentile bootstrap interval of :meth:`mean` over clips (low, high); NaN for one clip."""
        rows = self._of(stack, measure)
        if len(rows) < 2:
            return np.full((2, *rows.shape[1:]), np.nan)
        draws_of_clips = np.random.default_rng(seed).integers(len(rows), size=(draws, len(rows)))
        means = np.stack([_mean(rows[clips]) for clips in draws_of_clips])
        low, high = (np.where(np.isfinite(means).any(0), _percentile(means, q), np.nan) for q in (2.5, 97.5))
        return np.stack([low, high])

    def ranked(self, stack: str, measure: str, largest: bool = True) -> RankedHeads:
        """Return the heads by mean, largest (or smallest) first, without heads whose mean is NaN."""
        mean = self.mean(stack, measure)
        order = np.argsort(-mean if largest else mean, axis=None, kind="stable")
        pairs = [(int(i) // mean.shape[1], int(i) % mean.shape[1]) for i in order]
        known = [(block, head) for block, head in pairs if np.isfinite(mean[block, head])]
        return RankedHeads(
            tuple(HeadRef(stack, block, head) for block, head in known),  # type: ignore[arg-type]
            tuple(float(mean[pair]) for pair in known),
            f"{stack}: {measure}",
            MEASURES[stack][measure],
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per head and measure: stack, block, head, measure, unit, mean, low, high, clips. Distances in
        audio are in seconds, as in :meth:`plot`."""
        rows = []
        for stack, measures in self.values.items():
            for measure, values in measures.items():
                factor, unit = _in_seconds(MEASURES[stack][measure])
                mean, (low, high) = factor * self.mean(stack, measure), factor * self.interval(stack, measure)
                for block, head in np.ndindex(*mean.shape):
                    rows.append(
                        {
                            "stack": stack,
                            "block": block,
                            "head": head,
                            "measure": measure,
                            "unit": unit,
                            "mean": float(mean[block, head]),
                            "low": float(low[block, head]),
                            "high": float(high[block, head]),
                            "clips": int(np.isfinite(values[:, block, head]).sum()),
                        }
                    )
        return rows

    to_dataframe = renamed_method("to_dataframe", "to_pandas")

    def plot(self, stack: str = "encoder", measure: str = "distance", *, backend: Backend = "matplotlib") -> Any:
        """Draw a heat map of the means, blocks down, heads across; distances in audio are in seconds.
        ``backend="plotly"`` returns a plotly figure."""
        factor, unit = _in_seconds(MEASURES[stack][measure])
        mean = factor * self.mean(stack, measure)
        return heat_map(
            mean,
            title=f"{stack}: {measure} ({counted(len(self.clips), 'clip')})",
            x="head",
            y="block",
            unit=unit,
            rows=[str(b) for b in range(mean.shape[0])],
            columns=[str(h) for h in range(mean.shape[1])],
            texts=[[f"{v:.3g}" for v in row] for row in mean] if mean.size <= 400 else None,
            facecolor="white",
            backend=backend,
        )

    draw = renamed_method("draw", "plot")

    def summary(self) -> Summary:
        wanted: tuple[tuple[str, Stack, str, bool], ...] = (
            ("most local", "encoder", "distance", False),
            ("most attention to padding", "encoder", "padding", True),
            ("most aligning", "cross", "own word", True),
            ("most in order", "cross", "monotonicity", True),
        )
        rows = []
        for title, stack, measure, largest in wanted:
            if stack in self.values:
                best = self.ranked(stack, measure, largest)[:3]
                factor, unit = _in_seconds(MEASURES[stack][measure])
                shown = zip(best, best.values, strict=True)
                heads = ", ".join(f"{head.label} {factor * value:.3g}" for head, value in shown)
                rows.append((title, heads or "-", measure, unit))
        notes = tuple(f"{stack}: {', '.join(measures)}" for stack, measures in self.values.items())
        columns = ("heads", "best three", "measure", "unit")
        return Summary(f"HeadReport: {counted(len(self.clips), 'clip')}", notes, columns, tuple(rows))

    def _of(self, stack: str, measure: str) -> Float[np.ndarray, "clip block head"]:
        for name, known, kind in ((stack, self.values, "stack"), (measure, self.values.get(stack, {}), "measure")):
            if name not in known:
                near = closest(name, known)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise HookedWhisperError(f"this report has no {kind} {name!r}, only {', '.join(known)}{hint}")
        return self.values[stack][measure]


def _in_seconds(unit: str) -> tuple[float, str]:
    """Return the factor and the unit with which a measure is shown: positions as seconds."""
    if not unit.startswith("positions"):
        return 1.0, unit
    return TimeMap().seconds_per_position, unit.replace("positions", "seconds")


@torch.no_grad()
def head_report(
    model: HookedWhisper,
    mel: Float[Tensor, "clip mel frame"],
    tokens: Int[Tensor, "clip token"] | None = None,
    alignments: Sequence[Alignment] | None = None,
    *,
    durations: Sequence[float | int] | None = None,
    language: str = "en",
) -> HeadReport:
    """Return statistics of every head in every clip. Patterns are reduced one block of one clip at a time.

    Args:
        tokens: decoder input; default: prompt and text of the alignments. Without tokens and alignments, the report
            covers the encoder only. With ``tokens``, the word that a row writes is unknown.
        alignments: words with times (s), and durations of the clips.
        durations: of the clips (s), if there are no alignments; the rest is padding. Default: whole windows.

    Raises:
        HookedWhisperError: there are no clips, or not one alignment, duration or row of tokens per clip.
        AudioError: a duration or word is outside the window.
    """
    n_clips = len(mel)
    for name, per_clip in (("alignments", alignments), ("durations", durations), ("rows of tokens", tokens)):
        if per_clip is not None and len(per_clip) != n_clips:
            raise HookedWhisperError(f"{len(per_clip)} {name} for {n_clips} clips: give one for each")
    if not n_clips:
        raise HookedWhisperError("there are no clips: give a mel with at least one row")
    time = model.time
    by_stack: dict[str, list[list[Measures]]] = {}
    for c in range(n_clips):
        words = alignments[c] if alignments is not None else None
        seconds = words.duration if words is not None else durations[c] if durations is not None else time.duration
        n_speech = time.n_positions(min(seconds, time.duration))
        ids, row_spans, text_rows = _decoder_rows(model, None if tokens is None else tokens[c], words, language)
        for stack, measures in _one_clip(model, mel[c : c + 1], ids, n_speech, words, row_spans, text_rows).items():
            by_stack.setdefault(stack, []).append(measures)
    values = {
        stack: {name: np.array([[block[name] for block in clip] for clip in clips]) for name in MEASURES[stack]}
        for stack, clips in by_stack.items()
    }
    names = tuple(a.utterance for a in alignments) if alignments is not None else tuple(map(str, range(n_clips)))
    return HeadReport(names, values)


def _decoder_rows(
    model: HookedWhisper, tokens: Tensor | None, words: Alignment | None, language: str
) -> tuple[Tensor | None, list[slice | None], slice]:
    """Decoder input, span of the word that each row writes (``None``: no word), and the rows of the text."""
    if tokens is not None:
        return tokens[None].to(model.device), [None] * len(tokens), slice(0, len(tokens))
    if words is None or not words.words:
        return None, [], slice(0, 0)
    text = script(model, " ".join(w.label for w in words.words), language=language)
    ids = torch.tensor([text.tokens[:-1]], device=model.device)
    spans: list[slice | None] = [None] * ids.shape[1]
    first = 0
    for word, end in zip(words.words, text.word_ends, strict=True):
        for row in range(text.rows.start + first, text.rows.start + end):
            spans[row] = model.time.span(word.start, word.end, "outer")
        first = end
    return ids, spans, text.rows


def _one_clip(
    model: HookedWhisper,
    mel: Float[Tensor, "1 mel frame"],
    tokens: Int[Tensor, "1 token"] | None,
    n_speech: int,
    words: Alignment | None,
    row_spans: Sequence[slice | None],
    text_rows: slice,
) -> dict[str, list[Measures]]:
    """Measures of every block, from hooks that reduce each pattern."""
    n = model.cfg.encoder.n_ctx
    by_block: dict[Stack, dict[int, Measures]] = {"encoder": {}, "decoder": {}, "cross": {}}
    frames: list[slice | None] = [None] * n_speech
    for word in words.words if words is not None else ():
        span = model.time.span(word.start, word.end)
        frames[span] = [span] * len(frames[span])
    own_frames, own_rows = _in_span(frames, n, model.device), _in_span(row_spans, n, model.device)

    def in_encoder(x: Tensor, hook: HookPoint) -> None:
        by_block["encoder"][hook.layer()] = encoder_measures(x[0].float(), n_speech, own_frames)

    def in_decoder(x: Tensor, hook: HookPoint) -> None:
        by_block["decoder"][hook.layer()] = decoder_measures(x[0].float())

    def in_cross(x: Tensor, hook: HookPoint) -> None:
        by_block["cross"][hook.layer()] = cross_measures(x[0, :, text_rows].float(), n_speech, own_rows[text_rows])

    with model.hooks(fwd_hooks=[("encoder.blocks.*.attn.hook_pattern", in_encoder)]):
        encoder_out = model.embed_audio(mel)
    if tokens is not None:
        hooks = [
            ("decoder.blocks.*.attn.hook_pattern", in_decoder),
            ("decoder.blocks.*.cross_attn.hook_pattern", in_cross),
        ]
        with model.hooks(fwd_hooks=hooks):
            model.decoder.hidden(tokens, encoder_out)
    return {stack: [blocks[b] for b in sorted(blocks)] for stack, blocks in by_block.items() if blocks}


def _in_span(spans: Sequence[slice | None], n: int, device: torch.device) -> Bool[Tensor, "row position"]:
    """Mask of the positions of each row's span; empty for ``None``."""
    edges = torch.tensor([(0, 0) if s is None else (s.start, s.stop) for s in spans], device=device).reshape(-1, 2)
    positions = torch.arange(n, device=device)
    return (positions >= edges[:, :1]) & (positions < edges[:, 1:])


def _mean(rows: Float[np.ndarray, "clip block head"]) -> Float[np.ndarray, "block head"]:
    known = np.isfinite(rows)
    count = known.sum(0)
    return np.where(count > 0, np.where(known, rows, 0.0).sum(0) / np.maximum(count, 1), np.nan)


def _percentile(means: np.ndarray, q: float) -> np.ndarray:
    return np.nanpercentile(np.where(np.isfinite(means).any(0), means, 0.0), q, axis=0)
