"""Data for the page: facts about a clip, attention patterns, neurons active in a span, transcript changes.

Activations of the encoder come from the clip's residual streams where they are in memory: only one block runs.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.mel_image import mel_png
from hooked_whisper.errors import HookedWhisperError, check_option
from hooked_whisper.explorer.clips import HeardClip
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks.caching import Storing, collect_activations
from hooked_whisper.interventions import TranscriptChange
from hooked_whisper.protocols import STACKS, Interval
from hooked_whisper.viewer import attention_view_html

UNITS_SHOWN = 12
_MOST_PIXELS = 480  # largest side of a pattern image


def clip_facts(clip: HeardClip) -> dict[str, Any]:
    return {
        "name": clip.name,
        "seconds": clip.seconds,
        "text": clip.text,
        "aligned": clip.aligned,
        "words_source": clip.words_source,
        "words": _intervals(clip.words),
        "phones": _intervals(clip.phones),
    }


def _intervals(intervals: tuple[Interval, ...]) -> list[list[Any]]:
    return [[round(interval.start, 3), round(interval.end, 3), interval.label] for interval in intervals]


def spectrogram_png(model: HookedWhisper, clip: HeardClip) -> bytes:
    """Return an image of the log-mel, with one pixel per frame (10 ms) and mel bin."""
    frames = max(1, min(model.time.n_frames, round(clip.seconds * model.time.n_frames / float(model.time.duration))))
    return mel_png(clip.mel[0, :, :frames].float().cpu().numpy())


def model_facts(model: HookedWhisper) -> dict[str, Any]:
    enc, dec = model.cfg.encoder, model.cfg.decoder
    return {
        "name": model.cfg.name,
        "n_ctx": enc.n_ctx,
        "d_mlp": enc.d_mlp,
        "stacks": {
            "encoder": [enc.n_layers, enc.n_heads],
            "decoder": [dec.n_layers, dec.n_heads],
            "cross": [dec.n_layers, dec.n_heads],
        },
    }


@torch.no_grad()
def head_pattern(
    model: HookedWhisper, clip: HeardClip, stack: str, block: int, head: int, language: str = "en"
) -> Float[np.ndarray, "query key"]:
    """Return the attention pattern of one head over the clip, without the padding.

    Raises:
        HookedWhisperError: if the stack, block or head does not exist.
    """
    layers, heads = model_facts(model)["stacks"].get(stack, (0, 0))
    if not (0 <= block < layers and 0 <= head < heads):
        raise HookedWhisperError(f"no head {head} in block {block} of {stack!r}: stacks are {STACKS}")
    speech = max(1, model.time.n_positions(clip.seconds))
    if stack == "encoder":
        pattern = _encoder_activation(model, clip, block, "attn.hook_pattern")[head, :speech, :speech]
    else:
        part = "attn" if stack == "decoder" else "cross_attn"
        name = f"decoder.blocks.{block}.{part}.hook_pattern"
        tokens = model.to_tokens(f" {clip.text}" if clip.text else "", language=language)
        _, cache = model.run_with_cache(tokens=tokens, encoder_out=clip.encoded, names_filter=[name], stop_early=True)
        pattern = cache[name][0, head]
        pattern = pattern if stack == "decoder" else pattern[:, :speech]
    return pattern.float().cpu().numpy()


def attention_page(
    model: HookedWhisper, clip: HeardClip, stack: str, block: int, head: int, language: str = "en"
) -> str:
    """Return the page of the attention viewer for all heads of a stack; it shows one of them first.

    Raises:
        HookedWhisperError: if the stack, block or head does not exist.
    """
    check_option("stack", stack, STACKS)
    tokens = model.to_tokens(f" {clip.text}" if clip.text else "", language=language)[0]
    return attention_view_html(
        model,
        clip.clip,
        stack=stack,
        tokens=None if stack == "encoder" else tokens,
        words=clip.words,
        selected=(block, head),
        encoder_out=clip.encoded,
    )


def _encoder_activation(model: HookedWhisper, clip: HeardClip, block: int, point: str) -> Float[Tensor, "..."]:
    """Return one activation of an encoder block, without the batch axis."""
    name = f"encoder.blocks.{block}.{point}"
    if block not in clip.clean.resid:
        return model.run_with_cache(clip.mel, names_filter=[name], stop_early=True)[1][name][0]

    def run_block() -> Tensor:
        with model.encoder.clock.starting_at(0):
            return model.encoder.blocks[block](clip.clean.resid[block])

    return collect_activations(model, [name], run_block, Storing(), stop_early=True)[1][name][0]


def pattern_png(pattern: Float[np.ndarray, "query key"]) -> bytes:
    """Return an image of a pattern, first query on top. Its square root is shown, so that weak attention is visible."""
    from matplotlib import colormaps
    from PIL import Image

    image = np.sqrt(np.clip(pattern, 0, None))
    levels = np.uint8(255 * image / max(float(image.max()), 1e-9))
    pixels = Image.fromarray(np.asarray(colormaps["magma"](levels, bytes=True))[..., :3])
    rows, columns = pattern.shape
    if max(rows, columns) > _MOST_PIXELS:
        pixels = pixels.resize((min(columns, _MOST_PIXELS), min(rows, _MOST_PIXELS)), Image.Resampling.BOX)
    stream = io.BytesIO()
    pixels.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


@torch.no_grad()
def liking_units(
    model: HookedWhisper, clip: HeardClip, block: int, start: float, end: float, also: tuple[int, ...] = ()
) -> list[dict[str, Any]]:
    """Return neurons of an encoder block that are more active in ``[start, end)`` seconds than elsewhere in the clip.

    They are ranked by the difference of the means divided by the standard deviation in the clip.

    Args:
        also: neurons to list in any case.

    Raises:
        HookedWhisperError: if the block or a neuron does not exist, or the span is outside the clip.
    """
    enc = model.cfg.encoder
    if not 0 <= block < enc.n_layers:
        raise HookedWhisperError(f"the encoder has blocks 0 to {enc.n_layers - 1}, not {block}")
    if also and not 0 <= min(also) <= max(also) < enc.d_mlp:
        raise HookedWhisperError(f"block {block} has neurons 0 to {enc.d_mlp - 1}, not {[*also]}")
    n = max(1, model.time.n_positions(clip.seconds))
    inside = model.time.span(start, end, rounding="outer")
    if inside.start >= n or inside.stop <= inside.start:
        raise HookedWhisperError(f"[{start}, {end}) s is not within the {clip.seconds:.2f} s of this clip")
    acts = _encoder_activation(model, clip, block, "mlp.hook_post")[:n].float()  # [position, neuron]
    z = _contrast(acts, slice(inside.start, min(inside.stop, n)))
    best = z.topk(min(UNITS_SHOWN, len(z))).indices.tolist()
    shown = list(dict.fromkeys([*also, *best]))
    return [
        {"block": block, "unit": u, "z": round(float(z[u]), 2), "trace": [round(x, 4) for x in acts[:, u].tolist()]}
        for u in shown
    ]


def _contrast(acts: Float[Tensor, "position neuron"], inside: slice) -> Float[Tensor, "neuron"]:
    selected = torch.zeros(len(acts), dtype=torch.bool, device=acts.device)
    selected[inside] = True
    if bool(selected.all()):  # the whole clip: compare with zero
        return acts.mean(0) / acts.std(0, correction=0).clamp_min(1e-6)
    return (acts[selected].mean(0) - acts[~selected].mean(0)) / acts.std(0, correction=0).clamp_min(1e-6)


def change_facts(change: TranscriptChange) -> dict[str, Any]:
    """Return both transcripts, every word with its change of log-probability, and the word errors."""
    most = change.most_affected
    return {
        "before": change.before,
        "after": change.after,
        "wer": change.wer if change.before.strip() else None,
        "logprob_change": round(change.logprob_change, 3),
        "most_affected": None if most is None else [most.before, round(most.logprob_change or 0.0, 3)],
        "words": [
            {
                "fate": w.fate,
                "before": w.before,
                "after": w.after,
                "start": None if w.start is None else round(w.start, 3),
                "logprob_change": None if w.logprob_change is None else round(w.logprob_change, 3),
            }
            for w in change.words
        ],
    }
