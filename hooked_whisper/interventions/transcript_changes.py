"""Changes of the transcript by an intervention: texts, word errors, fate and log-probability of every word.

Log-probabilities are those of one text forced on both runs: free-running texts diverge after the first edit, so only
forced ones can be compared word by word. They change even where the written words do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, get_args

import numpy as np

from hooked_whisper._support.plotly_figures import Backend, check_backend
from hooked_whisper._support.showing import MOST_ROWS, Summary, Tabular, counted
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.interventions.change_figures import draw_word_changes
from hooked_whisper.text import WordError

Fate = Literal["kept", "changed", "gone", "new"]
_SHOWN = 160  # characters of a text in repr
_BAR = 6  # width of the longest bar in HTML, in em


@dataclass(frozen=True, slots=True)
class WordChange:
    """One word of the unedited text (``before``) and what replaced it.

    start, end: seconds, where known.
    logprob_before, logprob_after: nats, of the whole word, with the unedited text forced on both runs; ``None`` for new
        words.
    """

    fate: Fate
    before: str
    after: str
    start: float | None = None
    end: float | None = None
    logprob_before: float | None = None
    logprob_after: float | None = None

    @property
    def logprob_change(self) -> float | None:
        """``after - before``: negative if the intervention makes the word less probable."""
        if self.logprob_before is None or self.logprob_after is None:
            return None
        return self.logprob_after - self.logprob_before


@dataclass(frozen=True, slots=True)
class ForcedWord:
    """A word of the forced text, and its log-probability (nats) without and with the intervention."""

    word: str
    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True, repr=False)
class TranscriptChange(Tabular):
    """Change of one clip's transcript by an intervention.

    error: word errors of ``after`` against the reference, or against ``before`` without a reference.
    error_before: word errors of ``before``; ``None`` without a reference.
    words: every word of ``before`` with its change of log-probability, and new words.
    forced: words of the forced text; those of ``before`` unless another text was given.
    """

    before: str
    after: str
    reference: str | None
    error: WordError
    error_before: WordError | None
    words: tuple[WordChange, ...]
    forced: tuple[ForcedWord, ...]
    label: str = ""

    @property
    def wer(self) -> float:
        return self.error.wer

    @property
    def logprob_change(self) -> float:
        """Change of the unedited text's log-probability (nats): the sum over its words."""
        return sum(word.logprob_change or 0.0 for word in self.words)

    @property
    def most_affected(self) -> WordChange | None:
        """The word of the unedited text whose log-probability changes most; ``None`` without words."""
        scored = [word for word in self.words if word.logprob_change is not None]
        return max(scored, key=lambda word: abs(word.logprob_change or 0.0), default=None)

    def with_fate(self, fate: Fate) -> tuple[WordChange, ...]:
        """Return the words with a fate: ``"kept"``, ``"changed"``, ``"gone"`` or ``"new"``."""
        check_option("fate", fate, get_args(Fate), PatchError)
        return tuple(w for w in self.words if w.fate == fate)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per word: label, fate, before, after, start, end, log-probabilities."""
        return [
            {
                "label": self.label,
                "fate": w.fate,
                "before": w.before,
                "after": w.after,
                "start": w.start,
                "end": w.end,
                "logprob_before": w.logprob_before,
                "logprob_after": w.logprob_after,
                "logprob_change": w.logprob_change,
            }
            for w in self.words
        ]

    def plot(self, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw the change of log-probability of every unedited word as a bar over its seconds, colored by fate.

        Without word times the bars stand side by side. ``backend="plotly"`` returns a plotly figure.
        """
        check_backend(backend)
        return draw_word_changes(self.words, title or f"{self._named()}{self._fates()}", backend=backend)

    def summary(self) -> Summary:
        rows = _most_changed(self.words, MOST_ROWS)
        notes = [
            f"before: {_shortened(self.before)}",
            f"after:  {_shortened(self.after)}",
            self._errors(),
            self._logprobs(),
        ]
        if len(rows) < len(self.words):
            notes.append(f"the {len(rows)} of {len(self.words)} words that change most:")
        table = tuple(
            (w.start, w.before, w.after, w.fate, None if w.logprob_change is None else f"{w.logprob_change:+.2f}")
            for w in rows
        )
        columns = ("s", "before", "after", "fate", "log-prob change")
        return Summary(f"TranscriptChange: {self._named()}{self._fates()}", tuple(notes), columns, table)

    def _named(self) -> str:
        return f"{self.label}: " if self.label else ""

    def _fates(self) -> str:
        """``"no word changed"``, or how many words are gone, changed and new."""
        counts = {fate: len(self.with_fate(fate)) for fate in ("gone", "changed", "new")}
        texts = [f"{counted(n, 'word')} {fate}" for fate, n in counts.items() if n]
        return ", ".join(texts) or "no word changed"

    def _logprobs(self) -> str:
        most = self.most_affected
        if most is None:
            return "the unedited text has no words"
        return (
            f"log-probability of the unedited text: {self.logprob_change:+.2f} nats, "
            f"most at {most.before!r} ({most.logprob_change:+.2f})"
        )

    def _errors(self) -> str:
        e = self.error
        against = "the reference" if self.reference is not None else "the unedited text"
        return (
            f"WER {e.wer:.1%} against {against} "
            f"({e.substitutions} substituted, {e.deletions} deleted, {e.insertions} inserted)"
        )

    def _repr_html_(self) -> str:
        largest = max((abs(w.logprob_change or 0.0) for w in self.words), default=0.0) or 1.0
        head = "".join(f"<th>{name}</th>" for name in ("s", "before", "after", "", "log-prob change (nats)"))
        rows = "".join(_html_row(w, largest) for w in self.words)
        notes = "".join(f"<div>{escape(note)}</div>" for note in (self._errors(), self._logprobs()))
        title = f"<strong>{escape(self._named() + self._fates())}</strong>"
        return f"<div>{title}{notes}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


@dataclass(frozen=True, repr=False)
class TranscriptChanges(Tabular):
    """Transcript changes of a batch of clips, in order."""

    clips: tuple[TranscriptChange, ...]

    @property
    def error(self) -> WordError:
        """Word errors of all clips together."""
        return sum((c.error for c in self.clips), WordError(0, 0, 0, 0))

    @property
    def wer(self) -> float:
        return self.error.wer

    @property
    def logprob_change(self) -> float:
        """Mean over the forced words of all clips (nats); NaN without words."""
        changes = [w.change for c in self.clips for w in c.forced]
        return float(np.mean(changes)) if changes else float("nan")

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per word, with the number of its clip."""
        return [{"clip": k} | row for k, c in enumerate(self.clips) for row in c.to_rows()]

    def summary(self) -> Summary:
        title = (
            f"TranscriptChanges: {counted(len(self), 'clip')}, WER {self.wer:.1%}, mean change per word "
            f"{self.logprob_change:+.2f} nats"
        )
        columns = ("clip", "words", "WER (%)", "log-prob change", "most at", "after")
        rows = tuple(
            (
                change.label or str(k),
                change._fates(),
                round(100 * change.wer, 1),
                round(change.logprob_change, 2),
                "" if change.most_affected is None else change.most_affected.before,
                change.after,
            )
            for k, change in enumerate(self.clips[:MOST_ROWS])
        )
        return Summary(title, (), columns, rows, len(self))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> TranscriptChange:
        return self.clips[index]

    def __iter__(self) -> Iterator[TranscriptChange]:
        return iter(self.clips)

    def _repr_html_(self) -> str:
        return "".join(c._repr_html_() for c in self.clips[:MOST_ROWS]) + self._omitted()

    def _omitted(self) -> str:
        return f"<div>... {len(self) - MOST_ROWS} more clips</div>" if len(self) > MOST_ROWS else ""


def _most_changed(words: Sequence[WordChange], most: int) -> list[WordChange]:
    """Return the words that changed most, in the order of the text: gone, changed, kept, and then new words."""
    ranks = {"gone": 0, "changed": 0, "kept": 1, "new": 2}
    order = sorted(range(len(words)), key=lambda k: (ranks[words[k].fate], -abs(words[k].logprob_change or 0.0)))
    return [words[k] for k in sorted(order[:most])]


def _shortened(text: str) -> str:
    """Return a text for ``repr``; a long one, such as a decoding loop, is cut, with its length."""
    if len(text) <= _SHOWN:
        return repr(text)
    return f"{text[:_SHOWN]!r}... ({counted(len(text.split()), 'word')}, {len(text):,} characters)"


def _html_row(word: WordChange, largest: float) -> str:
    change = word.logprob_change
    bar = ""
    if change is not None:
        width, color = _BAR * abs(change) / largest, "#c2410c" if change < 0 else "#0e7490"
        style = f"display:inline-block;height:0.7em;width:{width:.2f}em;background:{color}"
        bar = f'<span style="{style}"></span> {change:+.2f}'
    start = "" if word.start is None else f"{word.start:.2f}"
    cells = (start, escape(word.before), escape(word.after), word.fate, bar)
    return "<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>"
