"""Changes of the transcript by an intervention: texts, word errors, fate of every word, and log-probabilities.

Log-probabilities are those of one text forced on both runs: free-running texts diverge after the first edit, so only
forced ones can be compared word by word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import Hooks
from hooked_whisper.interventions.forced_text import (
    Times,
    aligned_times,
    attention_times,
    text_of,
    token_logprobs,
    words_of_tokens,
)
from hooked_whisper.interventions.transcriber import Transcriber, normalize_words
from hooked_whisper.model.masks import resolve_target
from hooked_whisper.patching.positions import filled_positions
from hooked_whisper.protocols import Alignment
from hooked_whisper.text import WordError, word_diff, word_error

Fate = Literal["kept", "changed", "gone", "new"]
EditFunction = Callable[[Tensor], Tensor]
_FATES: dict[str, Fate] = {"equal": "kept", "substitute": "changed", "delete": "gone", "insert": "new"}


@dataclass(frozen=True, slots=True)
class WordChange:
    """One word of the unedited text (``before``) and what replaced it.

    start, end: seconds, where known.
    logprob_before, logprob_after: nats, of the whole word, with the unedited text forced on both runs; ``None`` if
        another text was forced.
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


@dataclass(frozen=True)
class TranscriptChange:
    """Change of one clip's transcript by an intervention.

    error: word errors of ``after`` against the reference, or against ``before`` without a reference.
    error_before: word errors of ``before``; ``None`` without a reference.
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

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("s", "before", "after", "", "log-prob change"))
        rows = "".join(
            f"<tr><td>{_number(w.start, 2)}</td><td>{escape(w.before)}</td><td>{escape(w.after)}</td>"
            f"<td>{w.fate}</td><td>{_number(w.logprob_change, 2)}</td></tr>"
            for w in self.words
        )
        caption = f"{self.label + ': ' if self.label else ''}{self._errors()}"
        return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{rows}</table>"

    def _errors(self) -> str:
        e = self.error
        against = "the reference" if self.reference is not None else "the unedited text"
        return (
            f"WER {e.wer:.1%} against {against} "
            f"({e.substitutions} substituted, {e.deletions} deleted, {e.insertions} inserted)"
        )

    def __repr__(self) -> str:
        return f"TranscriptChange({self.before!r} -> {self.after!r}, {self._errors()})"


@dataclass(frozen=True)
class TranscriptChanges:
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
        return [{"clip": k} | row for k, c in enumerate(self.clips) for row in c.to_rows()]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> TranscriptChange:
        return self.clips[index]

    def __iter__(self) -> Iterator[TranscriptChange]:
        return iter(self.clips)

    def _repr_html_(self) -> str:
        return "".join(c._repr_html_() for c in self.clips)


def compare_transcript(
    model: HookedWhisper,
    clip: Float[Tensor, "1 mel frame"] | Float[Tensor, "1 position d_model"],
    *,
    fwd_hooks: Hooks = (),
    attn_masks: Mapping[Any, Any] | None = None,
    encoder_edit: EditFunction | None = None,
    reference: str | None = None,
    alignment: Alignment | Literal["attention"] | None = None,
    text: str | None = None,
    language: str = "en",
    max_new_tokens: int = 224,
    label: str = "",
) -> TranscriptChange:
    """Return the change of one clip's transcript; arguments as for :func:`compare_transcripts`."""
    if isinstance(alignment, str):
        check_option("alignment (or an Alignment)", alignment, ("attention",), PatchError)
    if len(clip) != 1:
        raise PatchError(f"compare_transcript takes one clip, got {len(clip)}: call compare_transcripts")
    alignments = alignment if alignment is None or isinstance(alignment, str) else [alignment]
    return compare_transcripts(
        model,
        clip,
        fwd_hooks=fwd_hooks,
        attn_masks=attn_masks,
        encoder_edit=encoder_edit,
        references=None if reference is None else [reference],
        alignments=alignments,
        texts=None if text is None else [text],
        language=language,
        max_new_tokens=max_new_tokens,
        labels=[label],
    )[0]


@torch.no_grad()
def compare_transcripts(
    model: HookedWhisper,
    clips: Float[Tensor, "clip mel frame"] | Float[Tensor, "clip position d_model"],
    *,
    fwd_hooks: Hooks = (),
    attn_masks: Mapping[Any, Any] | None = None,
    encoder_edit: EditFunction | None = None,
    references: Sequence[str] | None = None,
    alignments: Sequence[Alignment] | Literal["attention"] | None = None,
    texts: Sequence[str] | None = None,
    language: str = "en",
    max_new_tokens: int = 224,
    labels: Sequence[str] = (),
) -> TranscriptChanges:
    """Transcribe clips with and without an intervention, and compare. Greedy decoding, one pass, no timestamps.

    Clips are encoded once, and a second time only if the intervention acts inside the encoder.

    Args:
        clips: log-mels, or encoder outputs if the intervention does not act inside the encoder.
        fwd_hooks, attn_masks: as for ``model.hooks``; live in encoding, decoding and teacher forcing, and see all
            clips as one batch.
        encoder_edit: function of the encoder output that keeps its shape, such as :func:`replace_encoder` returns;
            applied after the hooks.
        references: true texts; without them, word errors are counted against the unedited texts.
        alignments: one alignment per clip, for word times; ``"attention"`` for openai-whisper's word timing by
            cross-attention. Default: word timing if the model's alignment heads are known, else no times.
        texts: texts to force on both runs; default: each clip's unedited text.
        max_new_tokens: longest text, in tokens.

    Raises:
        PatchError: the numbers of clips, references, alignments or texts differ; the edit changes the shape; hooks or
            masks act inside the encoder, but ``clips`` are encoder outputs.
    """
    if isinstance(alignments, str):
        check_option("alignments (or one alignment per clip)", alignments, ("attention",), PatchError)
    for name, per_clip in (("references", references), ("alignments", alignments), ("texts", texts)):
        if per_clip is not None and not isinstance(per_clip, str) and len(per_clip) != len(clips):
            raise PatchError(f"{len(clips)} clips but {len(per_clip)} {name}: give one for each")
    masks = attn_masks or {}
    encoded, edited = _encodings(model, clips, fwd_hooks, masks, encoder_edit)
    # word timing must not read the padding
    filled = filled_positions(clips) if _is_mel(model, clips) else (model.cfg.encoder.n_ctx,) * len(clips)
    transcriber = Transcriber(model, language, max_new_tokens, batch=max(len(clips), 1))
    unedited_ids = transcriber.ids(encoded)
    with model.hooks(fwd_hooks, attn_masks=masks):
        after = [text_of(model, ids) for ids in transcriber.ids(edited)]
    before = [text_of(model, ids) for ids in unedited_ids]
    ids = unedited_ids
    if texts is not None:
        ids = [model.tokenizer.encode(f" {t.strip()}") if t.strip() else [] for t in texts]
    prompt = transcriber.prompt()
    unedited = token_logprobs(model, encoded, prompt, ids)
    with model.hooks(fwd_hooks, attn_masks=masks):
        changed = token_logprobs(model, edited, prompt, ids)
    changes = []
    for k in range(len(clips)):
        of_word = words_of_tokens(model, ids[k])
        forced = _forced(text_of(model, ids[k]), of_word, unedited[k], changed[k])
        times = _times(model, encoded[k], unedited_ids[k], before[k], alignments, k, language, filled[k])
        words = _changes(before[k], after[k], times, forced if texts is None else ())
        reference = None if references is None else references[k]
        compared = normalize_words(before[k] if reference is None else reference)
        changes.append(
            TranscriptChange(
                before=before[k],
                after=after[k],
                reference=reference,
                error=word_error(compared, normalize_words(after[k]), None),
                error_before=None if reference is None else word_error(compared, normalize_words(before[k]), None),
                words=words,
                forced=forced,
                label=labels[k] if k < len(labels) else "",
            )
        )
    return TranscriptChanges(tuple(changes))


def _encodings(
    model: HookedWhisper,
    clips: Float[Tensor, "clip a b"],
    fwd_hooks: Hooks,
    masks: Mapping[Any, Any],
    edit: EditFunction | None,
) -> tuple[Float[Tensor, "clip position d_model"], Float[Tensor, "clip position d_model"]]:
    """Return the encoder output without and with the intervention."""
    cfg = model.cfg.encoder
    inside, at_out = _reach(model, fwd_hooks, masks)
    if _is_mel(model, clips):
        encoded = model.embed_audio(clips)
    elif clips.shape[-1] == cfg.d_model:
        encoded = clips
        if inside:
            raise PatchError(f"{inside[0]} is inside the encoder: give log-mels, not encoder outputs")
    else:
        raise PatchError(
            f"clips must be log-mels [clip, {cfg.n_mels}, {cfg.n_frames}] or encoder outputs "
            f"[clip, {cfg.n_ctx}, {cfg.d_model}], got {list(clips.shape)}"
        )
    with model.hooks(fwd_hooks, attn_masks=masks):
        if inside:
            edited = model.embed_audio(clips)
        elif at_out:
            with model.encoder.clock.starting_at(0):
                edited = model.encoder.hook_out(encoded)
        else:
            edited = encoded
    if edit is not None:
        new = edit(edited)
        if new.shape != edited.shape:
            raise PatchError(
                f"encoder_edit returned {list(new.shape)} for {list(edited.shape)}: it must keep the shape"
            )
        edited = new
    return encoded, edited


def _is_mel(model: HookedWhisper, clips: Tensor) -> bool:
    return tuple(clips.shape[1:]) == (model.cfg.encoder.n_mels, model.cfg.encoder.n_frames)


def _reach(model: HookedWhisper, fwd_hooks: Hooks, masks: Mapping[Any, Any]) -> tuple[list[str], bool]:
    """Return the encoder points that the intervention acts on, and whether it acts on the encoder output."""
    names = [name for hooked, _ in fwd_hooks for name in model.hook_names(hooked)]
    heads = {name: attn.n_heads for name, attn in model.attention_modules().items()}
    names += [name for target in masks for name in resolve_target(target, list(heads), heads)]
    of_encoder = [name for name in names if name.startswith("encoder.")]
    # hooks attached by the caller have already been applied to `encoded`: then the encoder must run again
    at_output = () if model.encoder.hook_out.active else ("encoder.hook_out",)
    inside = [name for name in of_encoder if name not in at_output]
    return inside, len(inside) < len(of_encoder)


def _forced(text: str, of_word: Sequence[int], before: np.ndarray, after: np.ndarray) -> tuple[ForcedWord, ...]:
    words = text.split()
    if not words:
        return ()
    sums = [np.bincount(list(of_word), values, minlength=len(words)) for values in (before, after)]
    return tuple(ForcedWord(w, float(sums[0][k]), float(sums[1][k])) for k, w in enumerate(words))


def _times(
    model: HookedWhisper,
    encoded: Float[Tensor, "position d_model"],
    ids: Sequence[int],
    text: str,
    alignments: Sequence[Alignment] | str | None,
    clip: int,
    language: str,
    filled: int,
) -> Times:
    if alignments is None and model.cfg.alignment_heads is None:
        return [None] * len(text.split())
    if alignments is None or isinstance(alignments, str):
        return attention_times(model, encoded, ids, language, filled)
    return aligned_times(text, alignments[clip])


def _changes(before: str, after: str, times: Times, forced: Sequence[ForcedWord]) -> tuple[WordChange, ...]:
    changes, word = [], 0
    for op in word_diff(before, after):
        old, new = op.reference, op.hypothesis
        for k in range(max(len(old), len(new))):
            fate = _FATES[op.kind]
            if k >= len(old):
                changes.append(WordChange(fate, "", new[k]))
                continue
            time = times[word] if word < len(times) else None
            start, end = time if time is not None else (None, None)
            scored = forced[word] if word < len(forced) else None
            logprobs = (None, None) if scored is None else (scored.before, scored.after)
            changes.append(WordChange(fate, old[k], new[k] if k < len(new) else "", start, end, *logprobs))
            word += 1
    return tuple(changes)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
