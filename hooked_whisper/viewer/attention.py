"""``view_attention``: the attention of every head of a stack over one clip, as a page that plays its sound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heads import n_blocks_and_heads, read_heads
from hooked_whisper._support.mel_image import mel_png
from hooked_whisper.audio import TimeMap, to_data_uri
from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import ActivationCache
from hooked_whisper.hooks.root_module import Hooks
from hooked_whisper.protocols import STACKS, HeadLike, HeadRef, Interval, Stack
from hooked_whisper.viewer.inputs import (
    ViewedClip,
    check_encoder_out,
    check_heads,
    estimated_words,
    read_clip,
    read_tokens,
    read_words,
    text_of,
)
from hooked_whisper.viewer.page import AttentionView, MapAxis, MapScale
from hooked_whisper.viewer.patterns import (
    PatternSource,
    Visitor,
    cached_blocks,
    cached_patterns,
    collect_maps,
    live_patterns,
)
from hooked_whisper.viewer.text_axis import token_labels, token_spans

_NEXT = "(next token)"


@torch.no_grad()
def view_attention(
    model: HookedWhisper,
    audio: Any = None,
    *,
    stack: Stack = "encoder",
    transcript: str | None = None,
    tokens: Int[Tensor, "..."] | Sequence[int] | None = None,
    words: Iterable[Interval] | None = None,
    heads: Iterable[HeadLike] | None = None,
    selected: HeadLike | None = None,
    cache: ActivationCache | None = None,
    encoder_out: Float[Tensor, "1 position d_model"] | None = None,
    fwd_hooks: Hooks = (),
    attn_masks: Mapping[Any, Any] | None = None,
    duration: float | int | None = None,
    scale: MapScale = "linear",
    language: str = "en",
    title: str | None = None,
    max_megabytes: float | int = 4.0,
) -> AttentionView:
    """Show where the heads of a stack attend in one clip.

    A notebook shows the result, and ``save(path)`` writes it as a page that needs no network: thumbnails of all heads,
    the map of one head with spectrogram and words on its axes, and the sound of every token and position. Live hooks
    and masks apply.

    Args:
        audio: a :class:`~hooked_whisper.corpora.Clip` or ``Recording``, anything
            :func:`~hooked_whisper.audio.load_audio` takes, or a mel of one clip. Without samples there are no players.
        stack: ``"encoder"``, ``"decoder"`` (self-attention) or ``"cross"``.
        transcript, tokens: input of the decoder, as text or as ids. Default: the text of the clip.
        words: words and their times. Default: those of the clip's alignment or, if it has none, of the transcript, with
            times estimated from cross-attention. ``()`` for none.
        heads: default: all of the stack, or all in ``cache``. With fewer heads, each map has a finer resolution.
        selected: the head that is shown first. Default: the first alignment head, or the first head.
        cache: of ``run_with_cache``, with the patterns of this clip and these tokens, to be shown without another pass.
        encoder_out: encoder output to use in place of the audio's, for ``"decoder"`` and ``"cross"``.
        fwd_hooks, attn_masks: an intervention, as in ``model.hooks``; the page then switches between before and after.
        duration: seconds to show. Default: the length of the audio. A longer duration shows the padding too.
        scale: of the colors at first: ``"linear"``, ``"log"`` or ``"percentile"``; the page can switch.
        max_megabytes: limit of the page. Maps over time are pooled until they fit; the page states the resolution.

    Raises:
        ArgumentError: an option or head is unknown, the decoder has no tokens, the cache does not fit, or the maps do
            not fit into ``max_megabytes``.
        AudioError: the audio cannot be read or is longer than the window.
    """
    check_option("stack", stack, STACKS)
    check_option("scale", scale, get_args(MapScale))
    if not 0 < max_megabytes < math.inf:
        raise ArgumentError(f"max_megabytes is a number above 0, not {max_megabytes!r}")
    refs = _heads(model, stack, heads, cache)
    first = _first_head(model, refs, selected)
    clip = read_clip(model, audio, duration)
    ids = None if stack == "encoder" else read_tokens(model, stack, tokens, transcript, clip.text, language)
    check_encoder_out(model, encoder_out)
    replaced_out = encoder_out

    shown_words, words_source = read_words(words, clip)
    text = (transcript or "") if ids is None else text_of(model, ids)
    estimates_words = words is None and not shown_words and bool(text.strip())
    if encoder_out is None and clip.mel is not None and (estimates_words or (ids is not None and cache is None)):
        encoder_out = model.embed_audio(clip.mel)
    if estimates_words and encoder_out is not None:
        shown_words, words_source = estimated_words(model, encoder_out, text, clip.seconds, language)

    sources = [_patterns(model, refs, clip.mel, ids, encoder_out, cache)]
    if fwd_hooks or attn_masks:
        if cache is not None:
            raise ArgumentError("a cache holds one pass: give fwd_hooks and attn_masks without cache=")
        sources.append(_intervened(model, refs, clip.mel, ids, replaced_out, fwd_hooks, attn_masks))
    rows = columns = MapAxis("time")
    if ids is not None:
        reads, writes = _token_axes(model, ids[0].tolist(), shown_words)
        rows, columns = (reads, reads) if stack == "decoder" else (writes, columns)
    view = AttentionView(
        model=model.cfg.name,
        clip=clip.label,
        title=title if title is not None else f"Attention of {model.cfg.name}",
        stack=stack,
        heads=tuple(refs),
        selected=first,
        seconds=clip.seconds,
        words=shown_words,
        words_source=words_source,
        spectrogram=_spectrogram(model, clip),
        audio=None if clip.samples is None else to_data_uri(clip.samples),
        scale=scale,
        rows=rows,
        columns=columns,
    )
    return _with_maps(view, sources, model.time, max_megabytes)


def _with_maps(
    view: AttentionView, sources: Sequence[PatternSource], time: TimeMap, max_megabytes: float | int
) -> AttentionView:
    """Return the view with as fine maps as the page can hold. The last source is shown first."""
    n_positions = max(1, time.n_positions(view.seconds))
    finest = view.with_time_cells(time, n_positions, 1)
    n_rows, n_columns = len(finest.rows.spans), len(finest.columns.spans)
    max_bytes = round(max_megabytes * 1e6) - len(finest.to_html().encode())
    collected, width = collect_maps(sources, view.heads, n_rows, n_columns, max_bytes)
    view = view.with_time_cells(time, n_positions, width)
    if len(collected) == 1:
        return replace(view, maps=collected[0])
    before, after = collected
    return replace(
        view,
        maps={head: after[head].scaled_as(before[head]) for head in view.heads},
        before={head: before[head].scaled_as(after[head]) for head in view.heads},
    )


def attention_view_html(model: HookedWhisper, audio: Any = None, **options: Any) -> str:
    """Return the page of :func:`view_attention` as HTML; ``options`` are its arguments."""
    return view_attention(model, audio, **options).to_html()


def _heads(
    model: HookedWhisper, stack: Stack, heads: Iterable[HeadLike] | None, cache: ActivationCache | None
) -> list[HeadRef]:
    if isinstance(heads, str | HeadRef):
        heads = [heads]
    refs = list(dict.fromkeys(read_heads(heads, model.cfg, stack)))
    check_heads(refs, stack)
    if heads is None and cache is not None:
        blocks = cached_blocks(cache, stack, n_blocks_and_heads(model.cfg, stack)[0])
        refs = [head for head in refs if head.block in blocks]
    return refs


def _first_head(model: HookedWhisper, heads: Sequence[HeadRef], selected: HeadLike | None) -> HeadRef:
    """Return the selected head. Default: the first alignment head of cross-attention, the first head elsewhere."""
    if selected is None:
        known = {HeadRef("cross", int(b), int(h)) for b, h in model.alignment_heads.indices().T.tolist()}
        return next((head for head in heads if head in known), heads[0])
    (head,) = read_heads([selected], model.cfg, heads[0].stack)
    if head not in heads:
        raise ArgumentError(f"selected={head} is not among the heads shown: add it to heads, or select another")
    return head


def _spectrogram(model: HookedWhisper, clip: ViewedClip) -> bytes | None:
    if clip.mel is None:
        return None
    time = model.time
    n_frames = max(1, min(time.n_frames, math.ceil(clip.seconds / time.duration * time.n_frames)))
    return mel_png(clip.mel[0, :, :n_frames].float().cpu().numpy())


def _patterns(
    model: HookedWhisper,
    heads: Sequence[HeadRef],
    mel: Float[Tensor, "1 mel frame"] | None,
    tokens: Int[Tensor, "1 token"] | None,
    encoder_out: Float[Tensor, "1 position d_model"] | None,
    cache: ActivationCache | None,
) -> PatternSource:
    """Return the source of the patterns: the cache, a pass of the encoder, or a pass of the decoder."""
    if cache is not None:
        n_ctx = model.cfg.encoder.n_ctx
        n_queries = n_ctx if tokens is None else tokens.shape[1]
        return cached_patterns(cache, heads, n_queries, n_queries if heads[0].stack == "decoder" else n_ctx)
    if tokens is None and mel is not None:
        return live_patterns(model, heads, lambda: model.embed_audio(mel))
    if tokens is not None and encoder_out is not None:
        return live_patterns(model, heads, lambda: model.decoder.hidden(tokens, encoder_out))
    raise ArgumentError("there is nothing to show: give audio, a mel, or the patterns as cache=")


def _intervened(
    model: HookedWhisper,
    heads: Sequence[HeadRef],
    mel: Float[Tensor, "1 mel frame"] | None,
    tokens: Int[Tensor, "1 token"] | None,
    encoder_out: Float[Tensor, "1 position d_model"] | None,
    fwd_hooks: Hooks,
    attn_masks: Mapping[Any, Any] | None,
) -> PatternSource:
    """Return the source of the patterns under hooks and masks. They reach the encoder too, unless ``encoder_out``
    replaces it."""

    def source(visit: Visitor) -> None:
        with model.hooks(fwd_hooks=fwd_hooks, attn_masks=attn_masks):
            encoded = encoder_out
            if tokens is not None and encoded is None and mel is not None:
                encoded = model.embed_audio(mel)
            _patterns(model, heads, mel, tokens, encoded, None)(visit)

    return source


def _token_axes(model: HookedWhisper, ids: Sequence[int], words: Sequence[Interval]) -> tuple[MapAxis, MapAxis]:
    """Return the axes of the tokens that the decoder reads, and of those that it writes at each of them."""
    labels, spans = token_labels(model, ids), token_spans(model, ids, words)
    written, written_spans = [*labels[1:], _NEXT], [*spans[1:], None]
    reads = MapAxis("token", tuple(labels), tuple(spans), tuple(f"token {i}" for i in range(len(ids))))
    notes = tuple(f"row {i}: reads “{label}”" for i, label in enumerate(labels))
    return reads, MapAxis("token", tuple(written), tuple(written_spans), notes)
