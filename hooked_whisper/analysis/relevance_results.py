"""Results of relevance methods: maps of positions, relevance per token, and gradient times input on the log-mel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.renamed import renamed_method
from hooked_whisper._support.showing import Showing, Summary, Tabular, counted


@dataclass(frozen=True, eq=False, repr=False)
class RelevanceMap(Showing):
    """Relevance of encoder position ``from`` to position ``to``: ``values [clip, to, from]``.

    values: Chefer's ``R - I``, without the identity (see :attr:`with_identity`) and unnormalized, so its scale depends
        on the gradient of the target; or the rows of a rollout, which sum to 1.
    rows: the ``to`` positions.
    score: value of the target per clip; NaN for rollout, which has no target.
    """

    values: Float[Tensor, "clip to from"]
    rows: tuple[int, ...]
    method: str
    target: str
    score: Float[Tensor, "clip"]
    seconds_per_position: float

    @property
    def with_identity(self) -> Float[Tensor, "clip to from"]:
        """``R`` as published, including the identity."""
        relevance = self.values.clone()
        rows = torch.tensor(self.rows, device=relevance.device)
        relevance[:, torch.arange(len(rows)), rows] += 1
        return relevance

    def summary(self) -> Summary:
        n_clips, n_rows, n_from = self.values.shape
        s = self.seconds_per_position
        title = f"RelevanceMap: {self.method}, {counted(n_clips, 'clip')}, {n_rows} of {n_from} positions"
        notes = (f"target: {self.target}",) if self.target else ()
        rows = []
        for clip in range(n_clips):
            k, source = divmod(int(self.values[clip].argmax()), n_from)
            peak = f"{self.rows[k] * s:.2f} s from {source * s:.2f} s"
            rows.append((clip, float(self.score[clip]), float(self.values[clip].max()), peak))
        return Summary(title, notes, ("clip", "target's value", "largest", "where"), tuple(rows))

    def plot(
        self,
        clip: int = 0,
        percentile: float | int = 99.0,
        until: float | int | None = None,
        *,
        backend: Backend = "matplotlib",
    ) -> Any:
        """Draw destination against source, in seconds; colors are clipped at a percentile.

        until: end of the axes (seconds), such as the end of the clip; default: end of the window.
        """
        s, width = self.seconds_per_position, _positions_until(until, self.seconds_per_position, self.values.shape[-1])
        inside = [k for k, row in enumerate(self.rows) if row < width]
        first, last, n = self.rows[inside[0]] * s, (self.rows[inside[-1]] + 1) * s, width * s
        return heat_map(
            self.values[clip, inside, :width].double().cpu().numpy(),
            title=f"{self.method}: {self.target}" if self.target else self.method,
            x="source (s)",
            y="destination (s)",
            unit="relevance",
            extent=(0.0, n, last, first),
            clip=percentile,
            facecolor="white",
            backend=backend,
        )

    draw = renamed_method("draw", "plot")


@dataclass(frozen=True, eq=False, repr=False)
class AudioRelevance(Tabular):
    """Relevance of each encoder position to the probability of each output token: ``[clip, token, position]``.

    indices: of the tokens. labels: their texts, per clip.
    log_prob: of each token (nats), ``[clip, token]``.
    """

    values: Float[Tensor, "clip token position"]
    indices: tuple[int, ...]
    labels: tuple[tuple[str, ...], ...]
    log_prob: Float[Tensor, "clip token"]
    method: str
    seconds_per_position: float

    def by_word(self, clip: int = 0) -> tuple[tuple[str, ...], Float[Tensor, "word position"]]:
        """Return words and the mean relevance of their tokens. A token that starts with a space starts a word."""
        starts = [k for k, text in enumerate(self.labels[clip]) if k == 0 or text.startswith((" ", "<|"))]
        stops = [*starts[1:], len(self.labels[clip])]
        words = tuple("".join(self.labels[clip][a:b]).strip() for a, b in zip(starts, stops, strict=True))
        means = [self.values[clip, a:b].mean(0) for a, b in zip(starts, stops, strict=True)]
        return words, torch.stack(means)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per clip and token: index, token, log-probability (nats), time of its largest relevance and
        mean time weighted by relevance (seconds)."""
        rows = []
        centers = (torch.arange(self.values.shape[-1], device=self.values.device) + 0.5) * self.seconds_per_position
        for clip, texts in enumerate(self.labels):
            for k, text in enumerate(texts):
                values = self.values[clip, k]
                mean = float((values * centers).sum() / values.sum().clamp(min=1e-30))
                rows.append(
                    {
                        "clip": clip,
                        "index": self.indices[k],
                        "token": text,
                        "log_prob": float(self.log_prob[clip, k]),
                        "peak_s": float(centers[int(values.argmax())]),
                        "mean_s": mean,
                    }
                )
        return rows

    def summary(self) -> Summary:
        n_clips, n_tokens, n = self.values.shape
        title = f"AudioRelevance: {self.method}, {counted(n_clips, 'clip')}, {counted(n_tokens, 'token')}"
        notes = (f"relevance of {n} encoder positions ({n * self.seconds_per_position:g} s) to each token",)
        columns = ("clip", "token", "log-prob (nats)", "peak (s)", "weighted mean (s)")
        rows = tuple(
            (row["clip"], row["token"], row["log_prob"], round(row["peak_s"], 2), round(row["mean_s"], 2))
            for row in self.to_rows()
        )
        return Summary(title, notes, columns, rows)

    def plot(
        self,
        clip: int = 0,
        percentile: float | int = 99.5,
        until: float | int | None = None,
        *,
        backend: Backend = "matplotlib",
    ) -> Any:
        """Draw words against seconds (to ``until``), each word scaled to its maximum."""
        words, values = self.by_word(clip)
        scaled = values / values.amax(-1, keepdim=True).clamp(min=1e-30)
        scaled = scaled[:, : _positions_until(until, self.seconds_per_position, values.shape[-1])]
        return heat_map(
            scaled.double().cpu().numpy(),
            title=f"Relevance of the audio to each word ({self.method})",
            x="time (s)",
            y="word",
            unit="relevance / its maximum",
            rows=words,
            extent=(0.0, scaled.shape[-1] * self.seconds_per_position, len(words) - 0.5, -0.5),
            clip=percentile,
            facecolor="white",
            backend=backend,
        )

    draw = renamed_method("draw", "plot")


@dataclass(frozen=True, eq=False, repr=False)
class MelRelevance(Showing):
    """Gradient times input on the log-mel, ``[clip, mel, frame]``; its sum is the first-order change of the target."""

    values: Float[Tensor, "clip mel frame"]
    gradient: Float[Tensor, "clip mel frame"]
    target: str
    score: Float[Tensor, "clip"]
    seconds_per_frame: float

    def summary(self) -> Summary:
        n_clips, n_mels, n_frames = self.values.shape
        seconds = n_frames * self.seconds_per_frame
        title = f"MelRelevance: gradient x input, {counted(n_clips, 'clip')}, {n_mels} mel bins, {seconds:g} s"
        rows = []
        for clip in range(n_clips):
            values = self.values[clip]
            mel, frame = divmod(int(values.abs().argmax()), n_frames)
            where = f"bin {mel} at {frame * self.seconds_per_frame:.2f} s"
            rows.append((clip, float(self.score[clip]), float(values.sum()), float(values[mel, frame]), where))
        columns = ("clip", "target's value", "sum (first-order change)", "largest", "where")
        return Summary(title, (f"target: {self.target}",), columns, tuple(rows))

    def plot(
        self,
        clip: int = 0,
        percentile: float | int = 99.5,
        until: float | int | None = None,
        *,
        backend: Backend = "matplotlib",
    ) -> Any:
        """Draw mel bins against seconds (to ``until``), low bins at the bottom."""
        n_mels, frames = self.values.shape[1:]
        n = _positions_until(until, self.seconds_per_frame, frames)
        return heat_map(
            self.values[clip, :, :n].flip(0).double().cpu().numpy(),
            title=f"Gradient x input (first-order estimate): {self.target}",
            x="time (s)",
            y="mel bin",
            unit="change of the target",
            extent=(0.0, n * self.seconds_per_frame, 0, n_mels),
            scale="diverging",
            clip=percentile,
            facecolor="white",
            backend=backend,
        )

    draw = renamed_method("draw", "plot")


def _positions_until(seconds: float | int | None, unit: float, n: int) -> int:
    """Number of positions (or frames) that a figure shows: at least one, at most all."""
    return n if seconds is None else max(1, min(n, round(seconds / unit)))
