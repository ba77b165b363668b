"""Compare transcripts with and without an intervention.

The clean side (encoder output, transcript, log-probabilities, word times) is computed once in
:func:`clean_transcripts` and serves any number of interventions. An intervention inside the encoder runs the encoder
only from the first block that it reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.showing import Showing, Summary, counted
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import Hooks
from hooked_whisper.interventions.encoder_resume import (
    OUTPUT,
    Masks,
    encode_keeping,
    first_reached,
    resid_point,
    splits_sae,
)
from hooked_whisper.interventions.forced_text import (
    Times,
    aligned_times,
    attention_times,
    text_of,
    token_logprobs,
    words_of_tokens,
)
from hooked_whisper.interventions.transcriber import Transcriber, normalize_words
from hooked_whisper.interventions.transcript_changes import (
    Fate,
    ForcedWord,
    TranscriptChange,
    TranscriptChanges,
    WordChange,
)
from hooked_whisper.patching.positions import filled_positions
from hooked_whisper.patching.resume import INPUT
from hooked_whisper.protocols import Alignment
from hooked_whisper.text import word_diff, word_error

Clips = Float[Tensor, "clip mel frame"] | Float[Tensor, "clip position d_model"]
EditFunction = Callable[[Tensor], Tensor]
_FATES: dict[str, Fate] = {"equal": "kept", "substitute": "changed", "delete": "gone", "insert": "new"}


@dataclass(frozen=True, eq=False, repr=False)
class CleanTranscripts(Showing):
    """Transcripts of clips without an intervention, to compare several interventions with.

    Hooks and masks that are on the model when it is made must stay on it for :meth:`compare`.

    encoder_out: encoder output of the clips. mel: their log-mels; ``None`` if they were given as encoder outputs.
    texts: the transcripts. times: start and end of each word, where known. logprobs: of each text token (nats).
    resid: residual stream that enters encoder blocks, by block; the encoder can resume there.
    """

    model: HookedWhisper
    encoder_out: Float[Tensor, "clip position d_model"]
    mel: Float[Tensor, "clip mel frame"] | None
    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[Float[np.ndarray, "_"], ...]
    times: tuple[Times, ...]
    transcriber: Transcriber
    resid: Mapping[int, Float[Tensor, "clip position d_model"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    @torch.no_grad()
    def with_residuals(self, blocks: Collection[int]) -> CleanTranscripts:
        """Return the same with the residual streams that enter these encoder blocks, from one more pass.

        Raises:
            PatchError: the clips were given as encoder outputs, or a block does not exist.
        """
        if self.mel is None:
            raise PatchError("residual streams need log-mels: these clips were given as encoder outputs")
        return replace(self, resid=encode_keeping(self.model, self.mel, blocks)[1])

    def summary(self) -> Summary:
        blocks = ", ".join(str(block) for block in self.resid)
        note = f"residual streams of encoder blocks {blocks}" if blocks else "no residual streams"
        rows = tuple((k, text, round(float(self.logprobs[k].sum()), 2)) for k, text in enumerate(self.texts))
        title = f"CleanTranscripts: {counted(len(self), 'clip')}"
        return Summary(title, (note,), ("clip", "text", "log-prob"), rows)

    @torch.no_grad()
    def compare(
        self,
        *,
        fwd_hooks: Hooks = (),
        attn_masks: Masks | None = None,
        encoder_edit: EditFunction | None = None,
        references: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
        labels: Sequence[str] = (),
        max_new_tokens: int | None = None,
    ) -> TranscriptChanges:
        """Transcribe the clips with an intervention and compare; arguments as for :func:`compare_transcripts`.

        ``max_new_tokens``: longest text with the intervention, in tokens. Default: as for the clean transcripts.
        """
        model, prompt = self.model, self.transcriber.prompt()
        longest = self.transcriber.max_new_tokens if max_new_tokens is None else max_new_tokens
        transcriber = replace(self.transcriber, max_new_tokens=longest)
        _check_edit(encoder_edit)
        _check_counts(len(self), references=references, texts=texts)
        masks = attn_masks or {}
        edited = self._edited(fwd_hooks, masks, encoder_edit)
        forced_ids = None if texts is None else [_encode(model, text) for text in texts]
        with model.hooks(fwd_hooks, attn_masks=masks):
            after = [text_of(model, ids) for ids in transcriber.ids(edited)]
            changed = token_logprobs(model, edited, prompt, self.ids)
            forced_after = None if forced_ids is None else token_logprobs(model, edited, prompt, forced_ids)
        forced_before = None if forced_ids is None else token_logprobs(model, self.encoder_out, prompt, forced_ids)
        changes = []
        for k in range(len(self)):
            scored = _forced(model, self.ids[k], self.logprobs[k], changed[k])
            forced = scored
            if forced_ids is not None and forced_before is not None and forced_after is not None:
                forced = _forced(model, forced_ids[k], forced_before[k], forced_after[k])
            before, reference = self.texts[k], None if references is None else references[k]
            compared = normalize_words(before if reference is None else reference)
            changes.append(
                TranscriptChange(
                    before=before,
                    after=after[k],
                    reference=reference,
                    error=word_error(compared, normalize_words(after[k]), None),
                    error_before=None if reference is None else word_error(compared, normalize_words(before), None),
                    words=_changes(before, after[k], self.times[k], scored),
                    forced=forced,
                    label=labels[k] if k < len(labels) else "",
                )
            )
        return TranscriptChanges(tuple(changes))

    def _edited(
        self, fwd_hooks: Hooks, masks: Masks, edit: EditFunction | None
    ) -> Float[Tensor, "clip position d_model"]:
        """Return the encoder output with the intervention."""
        model = self.model
        name, start = first_reached(model, fwd_hooks, masks)
        # hooks of the caller at a stored residual stream have already been applied to it
        unfit = {block for block in self.resid if resid_point(model, block).active or splits_sae(model, block)}
        resume_block = max((block for block in self.resid if block <= start and block not in unfit), default=None)
        with model.hooks(fwd_hooks, attn_masks=masks):
            if name is None:
                edited = self.encoder_out
            elif start == OUTPUT:
                with model.encoder.clock.starting_at(0):
                    edited = model.encoder.hook_out(self.encoder_out)
            elif self.mel is None:
                raise PatchError(f"{name} is inside the encoder: give log-mels, not encoder outputs")
            elif resume_block is not None:
                edited = model.encoder.from_resid(self.resid[resume_block], resume_block)
            else:
                edited = model.embed_audio(self.mel)
        if edit is not None:
            new = edit(edited)
            if not isinstance(new, Tensor):
                raise PatchError(
                    f"encoder_edit returned {type(new).__name__}: it must return the edited encoder output"
                )
            if new.shape != edited.shape:
                raise PatchError(
                    f"encoder_edit returned {list(new.shape)} for {list(edited.shape)}: it must keep the shape"
                )
            edited = new
        if not bool(torch.isfinite(edited).all()):
            raise PatchError("the encoder output with the intervention has NaN or infinite values: repair the edit")
        return edited


@torch.no_grad()
def clean_transcripts(
    model: HookedWhisper,
    clips: Clips,
    *,
    alignments: Sequence[Alignment] | Literal["attention"] | None = None,
    language: str = "en",
    max_new_tokens: int = 224,
    resume_blocks: Collection[int] | None = None,
) -> CleanTranscripts:
    """Transcribe clips once, to compare several interventions with: ``clean.compare(fwd_hooks=...)``.

    Args:
        resume_blocks: encoder blocks whose incoming residual stream is kept in memory (of log-mels), so that an
            intervention in one of them, or a later one, does not run the blocks before it. Default: none.

    Other arguments, and errors, as for :func:`compare_transcripts`.
    """
    _check_alignments(alignments)
    _check_clips(clips)
    _check_counts(len(clips), alignments=alignments)
    cfg, is_mel = model.cfg.encoder, _is_mel(model, clips)
    if not is_mel and clips.shape[-1] != cfg.d_model:
        raise PatchError(
            f"clips must be log-mels [clip, {cfg.n_mels}, {cfg.n_frames}] or encoder outputs "
            f"[clip, {cfg.n_ctx}, {cfg.d_model}], got {list(clips.shape)}"
        )
    encoder_out, resid = encode_keeping(model, clips, resume_blocks or ()) if is_mel else (clips, {})
    transcriber = Transcriber(model, language, max_new_tokens, batch=max(len(clips), 1))
    ids = transcriber.ids(encoder_out)
    texts = tuple(text_of(model, of_clip) for of_clip in ids)
    # word timing must not read the padding
    filled = filled_positions(clips) if is_mel else (cfg.n_ctx,) * len(clips)
    times = tuple(
        _times(model, encoder_out[k], ids[k], texts[k], alignments, k, language, filled[k]) for k in range(len(clips))
    )
    return CleanTranscripts(
        model,
        encoder_out,
        clips if is_mel else None,
        texts,
        tuple(tuple(of_clip) for of_clip in ids),
        tuple(token_logprobs(model, encoder_out, transcriber.prompt(), ids)),
        times,
        transcriber,
        resid,
    )


def compare_transcript(
    model: HookedWhisper,
    clip: Float[Tensor, "1 mel frame"] | Float[Tensor, "1 position d_model"],
    *,
    fwd_hooks: Hooks = (),
    attn_masks: Masks | None = None,
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
    _check_clips(clip)
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


def compare_transcripts(
    model: HookedWhisper,
    clips: Clips,
    *,
    fwd_hooks: Hooks = (),
    attn_masks: Masks | None = None,
    encoder_edit: EditFunction | None = None,
    references: Sequence[str] | None = None,
    alignments: Sequence[Alignment] | Literal["attention"] | None = None,
    texts: Sequence[str] | None = None,
    language: str = "en",
    max_new_tokens: int = 224,
    labels: Sequence[str] = (),
) -> TranscriptChanges:
    """Transcribe clips with and without an intervention, and compare. Greedy decoding, one pass, no timestamps.

    Clips are encoded once; an intervention inside the encoder then runs the blocks from the first one that it reaches.
    The log-probability of every word of the unedited transcript is compared too, since an intervention can matter
    without changing a word. For several interventions on the same clips, :func:`clean_transcripts` saves time.

    Args:
        clips: log-mels, or encoder outputs if the intervention does not act inside the encoder.
        fwd_hooks, attn_masks: as for ``model.hooks``; live in encoding, decoding and teacher forcing, and see all
            clips as one batch.
        encoder_edit: function of the encoder output that keeps its shape, such as :func:`replace_encoder` returns;
            applied after the hooks.
        references: true texts; without them, word errors are counted against the unedited texts.
        alignments: one alignment per clip, for word times; ``"attention"`` for openai-whisper's word timing by
            cross-attention. Default: word timing if the model's alignment heads are known, else no times.
        texts: further texts to force on both runs, for ``TranscriptChange.forced``; default: each clip's unedited text.
        max_new_tokens: longest text, in tokens.

    Raises:
        PatchError: the numbers of clips, references, alignments or texts differ; the edit changes the shape; hooks or
            masks act inside the encoder, but ``clips`` are encoder outputs.
    """
    _check_alignments(alignments)
    _check_clips(clips)
    _check_edit(encoder_edit)
    _check_counts(len(clips), references=references, texts=texts)
    name, start = first_reached(model, fwd_hooks, attn_masks or {})
    inside = name is not None and start != OUTPUT
    if inside and clips.shape[-1] == model.cfg.encoder.d_model and not _is_mel(model, clips):
        raise PatchError(f"{name} is inside the encoder: give log-mels, not encoder outputs")
    clean = clean_transcripts(
        model,
        clips,
        alignments=alignments,
        language=language,
        max_new_tokens=max_new_tokens,
        resume_blocks=[start] if inside and start != INPUT else (),
    )
    return clean.compare(
        fwd_hooks=fwd_hooks,
        attn_masks=attn_masks,
        encoder_edit=encoder_edit,
        references=references,
        texts=texts,
        labels=labels,
    )


def _check_clips(clips: object) -> None:
    if not isinstance(clips, Tensor):
        raise PatchError(
            f"clips must be a tensor of log-mels or encoder outputs, got {type(clips).__name__}: "
            "model.to_mel(audio or path) makes log-mels (of a recording: model.to_mel(recording.audio()))"
        )


def _check_edit(encoder_edit: object) -> None:
    if encoder_edit is not None and not callable(encoder_edit):
        raise PatchError(
            f"encoder_edit must be a function of the encoder output, got {encoder_edit!r:.80}: "
            "replace_encoder(model, word, alignment=alignment) makes one"
        )


def _check_alignments(alignments: object) -> None:
    if isinstance(alignments, str):
        check_option("alignments (or one alignment per clip)", alignments, ("attention",), PatchError)


def _check_counts(n_clips: int, **per_clip: Sequence[Any] | str | None) -> None:
    for name, values in per_clip.items():
        if values is not None and not isinstance(values, str) and len(values) != n_clips:
            raise PatchError(f"{n_clips} clips but {len(values)} {name}: give one for each")


def _is_mel(model: HookedWhisper, clips: Tensor) -> bool:
    return tuple(clips.shape[1:]) == (model.cfg.encoder.n_mels, model.cfg.encoder.n_frames)


def _encode(model: HookedWhisper, text: str) -> list[int]:
    return model.tokenizer.encode(f" {text.strip()}") if text.strip() else []


def _forced(
    model: HookedWhisper, ids: Sequence[int], before: Float[np.ndarray, "_"], after: Float[np.ndarray, "_"]
) -> tuple[ForcedWord, ...]:
    words = text_of(model, ids).split()
    if not words:
        return ()
    of_word = words_of_tokens(model, ids)
    sums = [np.bincount(of_word, values, minlength=len(words)) for values in (before, after)]
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
