"""Relevance of audio positions: propagated through attention, attention rollout, and gradient times input.

Sources: Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and
Encoder-Decoder Transformers" (rules are numbered as there); Abnar and Zuidema 2020, "Quantifying Attention Flow in
Transformers"; Shrikumar et al. 2017 (gradient times input).

Memory: the backward pass needs all encoder patterns, about 9 MB per head, block and clip of 30 s. Use small batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.indices import Selection, read_indices
from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper.analysis.relevance_results import AudioRelevance, MelRelevance, RelevanceMap
from hooked_whisper.analysis.targets import Target, resolve_target, token_log_probs
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint

Rows = Selection


def encoder_relevance(
    model: HookedWhisper,
    mel: Float[Tensor, "clip mel frame"],
    *,
    target: Target = "transcript",
    rows: Rows | None = None,
) -> RelevanceMap:
    """Apply rules 5 and 6 to all encoder blocks: ``R = I; R += mean_heads(relu(grad * pattern)) R``, block 0 first.

    Args:
        target: ``"transcript"`` (log-probability of the model's own greedy transcript, in English), a
            :class:`~hooked_whisper.analysis.targets.Transcript` of given tokens, any function of the encoder output, or
            ``"encoder_sum"``, the published target, which is degenerate.
        rows: ``to`` positions, as indices or :class:`~hooked_whisper.protocols.Positions`; default: all. Fewer rows
            cost less.

    Raises:
        ValueError: the target does not return one differentiable number per clip.
    """
    scalar, name = resolve_target(model, target)
    with torch.enable_grad(), _cams(model, "encoder.blocks.*.attn.hook_pattern") as cams:
        leaf = mel.detach().requires_grad_()
        score = scalar(model.embed_audio(leaf))
        _check_score(score, len(mel))
        torch.autograd.grad(score.sum(), leaf)
    blocks = _by_block(model, cams, "encoder", "attn")
    wanted = _wanted(rows, model.cfg.encoder.n_ctx)
    return RelevanceMap(
        propagated_rows(blocks, wanted),
        tuple(wanted),
        "Chefer rules 5 and 6",
        name,
        score.detach(),
        model.time.seconds_per_position,
    )


def attention_rollout(
    model: HookedWhisper, mel: Float[Tensor, "clip mel frame"], *, rows: Rows | None = None
) -> RelevanceMap:
    """Return the product over blocks of ``(mean_heads pattern + I) / 2``, last block leftmost (Abnar and Zuidema 2020).

    Rollout uses neither a target nor the value vectors. Every row sums to 1.
    """
    means: dict[str, Tensor] = {}

    def keep(pattern: Tensor, point: HookPoint) -> None:
        means[point.name] = pattern.mean(1)

    with torch.no_grad(), _readers(model, "encoder.blocks.*.attn.hook_pattern", keep):
        model.embed_audio(mel)
    blocks = _by_block(model, means, "encoder", "attn")
    wanted = _wanted(rows, model.cfg.encoder.n_ctx)
    out = torch.eye(blocks[0].shape[-1], dtype=blocks[0].dtype, device=blocks[0].device)[wanted].expand(
        len(mel), -1, -1
    )
    for pattern in reversed(blocks):
        out = (out @ pattern + out) / 2
    blank = torch.full((len(mel),), torch.nan)
    return RelevanceMap(out, tuple(wanted), "Attention rollout", "", blank, model.time.seconds_per_position)


@renamed_arguments(at="indices")
def audio_relevance(
    model: HookedWhisper,
    mel: Float[Tensor, "clip mel frame"],
    tokens: Int[Tensor, "clip token"],
    indices: Sequence[int],
) -> AudioRelevance:
    """Apply rules 5 to 10 through cross-attention: the relevance of the audio to each output token.

    The target is the log-probability of the token at each of the ``indices``, given all before it (teacher forcing).
    The result holds the row of ``R_ta`` from which that token is read. The audio is encoded once; each token takes one
    backward pass. Rule 11 does not apply, since the encoder never attends to the decoder.

    Raises:
        ValueError: ``indices`` is empty, or an index is 0 or out of range.
    """
    embedded: list[Tensor] = []

    def as_leaf(x: Tensor) -> Tensor:
        embedded.append(x.detach().requires_grad_())
        return embedded[-1]

    index_list, rows = list(indices), []
    names = ["encoder.blocks.*.attn.hook_pattern", "decoder.blocks.*.hook_pattern"]
    with (
        torch.enable_grad(),
        _cams(model, names) as cams,
        model.hooks(fwd_hooks=[("decoder.hook_embed", as_leaf)]),
    ):
        leaf = mel.detach().requires_grad_()
        log_probs = token_log_probs(model, tokens, model.embed_audio(leaf), index_list)
        for k, index in enumerate(index_list):
            cams.clear()
            torch.autograd.grad(log_probs[:, k].sum(), [leaf, *embedded], retain_graph=k + 1 < len(index_list))
            through = relevance_through_cross(
                _by_block(model, cams, "encoder", "attn"),
                _by_block(model, cams, "decoder", "attn"),
                _by_block(model, cams, "decoder", "cross_attn"),
            )
            rows.append(through[:, index - 1])
    labels = tuple(tuple(model.to_str_tokens(row[index_list])) for row in tokens)
    return AudioRelevance(
        torch.stack(rows, dim=1),
        tuple(index_list),
        labels,
        log_probs.detach(),
        "Chefer rules 5 to 10",
        model.time.seconds_per_position,
    )


def mel_relevance(
    model: HookedWhisper,
    mel: Float[Tensor, "clip mel frame"],
    *,
    target: Target = "transcript",
    baseline: Float[Tensor, "#clip mel frame"] | None = None,
) -> MelRelevance:
    """Return the gradient of the target with respect to the log-mel, times the log-mel minus ``baseline`` (default 0).

    A log-mel of 0 is not silence (zero audio has -1.5): choose the baseline to fit the question.

    Raises:
        ValueError: the target does not return one differentiable number per clip.
    """
    scalar, name = resolve_target(model, target)
    with torch.enable_grad():
        leaf = mel.detach().requires_grad_()
        score = scalar(model.embed_audio(leaf))
        _check_score(score, len(mel))
        (gradient,) = torch.autograd.grad(score.sum(), leaf)
    change = leaf.detach() if baseline is None else leaf.detach() - baseline
    seconds = model.time.seconds_per_position / 2
    return MelRelevance(gradient * change, gradient, name, score.detach(), seconds)


def propagated_rows(
    cams: Sequence[Float[Tensor, "clip position position"]], rows: Sequence[int]
) -> Float[Tensor, "clip to position"]:
    """Return rows of ``(I + A_last) ... (I + A_0) - I`` (rule 6), without adding the identity, for precision."""
    indices = list(rows)
    out = cams[-1][:, indices]
    for cam in reversed(cams[:-1]):
        out = out + cam[:, indices] + out @ cam
    return out


def relevance_through_cross(
    encoder: Sequence[Float[Tensor, "clip position position"]],
    decoder: Sequence[Float[Tensor, "clip token token"]],
    cross: Sequence[Float[Tensor, "clip token position"]],
) -> Float[Tensor, "clip token position"]:
    """Return ``R_ta`` by rules 6, 7 and 10 (normalized by 8 and 9), given the map of rule 5 per block, block 0 first.

    The result is linear in the normalized relevance of the encoder, so its ``[position, position]`` matrix is never
    built: only ``[token, position]`` matrices are multiplied by the maps of the encoder blocks.
    """
    r_tt = torch.eye(decoder[0].shape[-1], dtype=decoder[0].dtype, device=decoder[0].device).expand_as(decoder[0])
    weights = torch.zeros_like(cross[0])  # R_ta = weights @ normalized(R_aa)
    for self_map, cross_map in zip(decoder, cross, strict=True):
        weights = weights + self_map @ weights  # rule 7
        r_tt = r_tt + self_map @ r_tt  # rule 6
        weights = weights + _normalized(r_tt).mT @ cross_map  # rule 10
    sums = torch.zeros_like(encoder[0][..., :1])  # row sums of R_aa - I
    for cam in encoder:
        sums = sums + cam @ (1 + sums)
    start = _divided(weights, sums.mT)
    through = torch.zeros_like(start)  # start @ (R_aa - I)
    for cam in reversed(encoder):
        through = through + (start + through) @ cam
    return weights + through


def _normalized(r: Float[Tensor, "clip token token"]) -> Float[Tensor, "clip token token"]:
    """Rules 8 and 9: rows of ``R - I`` divided by their sums, plus the identity; rows of zeros stay zero."""
    eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
    without_identity = r - eye
    return _divided(without_identity, without_identity.sum(-1, keepdim=True)) + eye


def _divided(x: Tensor, by: Tensor) -> Tensor:
    """``x / by``, or 0 where ``by`` is 0."""
    return torch.where(by > 0, x / torch.where(by > 0, by, 1), 0)


@contextmanager
def _cams(model: HookedWhisper, names: str | list[str]) -> Iterator[dict[str, Tensor]]:
    """Maps of rule 5 by name, ``mean_heads relu(grad * pattern)``, filled by each backward pass."""
    cams: dict[str, Tensor] = {}

    def listen(pattern: Tensor, point: HookPoint) -> None:
        weights, name = pattern.detach(), point.name

        def keep(grad: Tensor) -> None:
            cams[name] = (grad * weights).clamp_(min=0).mean(1)

        pattern.register_hook(keep)

    with _readers(model, names, listen):
        yield cams


@contextmanager
def _readers(model: HookedWhisper, names: str | list[str], read: object) -> Iterator[None]:
    with ExitStack() as stack:
        for pattern in [names] if isinstance(names, str) else names:
            for name in model.hook_names(pattern):
                stack.callback(model.hook_dict[name].add_reader(read).remove)  # type: ignore[arg-type]
        yield


def _by_block(model: HookedWhisper, maps: dict[str, Tensor], stack: str, kind: str) -> list[Tensor]:
    n = len(getattr(model, stack).blocks)
    return [maps[f"{stack}.blocks.{block}.{kind}.hook_pattern"] for block in range(n)]


def _wanted(rows: Rows | None, n: int) -> list[int]:
    return list(read_indices(rows, n, "positions, in rows"))


def _check_score(score: Tensor, clips: int) -> None:
    if score.shape != (clips,):
        raise ValueError(f"a target must return one number per clip, shape [{clips}], got {tuple(score.shape)}")
    if not score.requires_grad:
        raise ValueError(
            "the target does not depend on the encoder output, or was computed without gradients (torch.enable_grad)"
        )
