"""Which positions of the audio mattered: relevance propagated through attention, rollout, gradient times input.

Sources: Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and
Encoder-Decoder Transformers" (rules are numbered as there); Abnar and Zuidema 2020, "Quantifying Attention Flow in
Transformers"; Shrikumar et al. 2017 (gradient times input).

Memory: patterns are ``[head, position, position]`` per encoder block and are held for the backward pass of a batch,
about 9 MB per head, block and clip of 30 s. Give few clips at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.indices import read_indices
from hooked_whisper.analysis.targets import Target, resolve_target, token_log_probs
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = slice | Sequence[int]


@dataclass(frozen=True, eq=False)
class RelevanceMap:
    """How much encoder position ``from`` matters to position ``to``: ``values [clip, to, from]``.

    values: of Chefer's rules, ``R - I``: without the identity that every path begins with (see :attr:`with_identity`);
        unnormalised, so its size depends on the target's gradient. Of rollout, rows that sum to 1.
    rows: the ``to`` positions that were asked for.
    score: the target's value per clip (NaN for rollout, which has no target).
    """

    values: Float[Tensor, "clip to from"]
    rows: tuple[int, ...]
    method: str
    target: str
    score: Float[Tensor, "clip"]
    seconds_per_position: float

    @property
    def with_identity(self) -> Float[Tensor, "clip to from"]:
        """``R`` as published, the identity included."""
        whole = self.values.clone()
        at = torch.tensor(self.rows, device=whole.device)
        whole[:, torch.arange(len(at)), at] += 1
        return whole

    def draw(self, clip: int = 0, percentile: float | int = 99.0, until: float | int | None = None) -> Figure:
        """Destination against source, in seconds; colours end at a percentile (raw values are in ``values``).

        ``until``: where the axes end (seconds), such as at the end of the clip; default: the window's end.
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
        )


@dataclass(frozen=True, eq=False)
class AudioRelevance:
    """How much each encoder position matters to the probability of each output token: ``[clip, token, position]``.

    at: indices of the tokens; ``labels`` are their texts, per clip.
    log_prob: of each of them (nats), ``[clip, token]``.
    """

    values: Float[Tensor, "clip token position"]
    at: tuple[int, ...]
    labels: tuple[tuple[str, ...], ...]
    log_prob: Float[Tensor, "clip token"]
    method: str
    seconds_per_position: float

    def by_word(self, clip: int = 0) -> tuple[tuple[str, ...], Float[Tensor, "word position"]]:
        """Words (a token that begins with a space begins a word) and the mean relevance of their tokens."""
        starts = [k for k, text in enumerate(self.labels[clip]) if k == 0 or text.startswith((" ", "<|"))]
        stops = [*starts[1:], len(self.labels[clip])]
        words = tuple("".join(self.labels[clip][a:b]).strip() for a, b in zip(starts, stops, strict=True))
        means = [self.values[clip, a:b].mean(0) for a, b in zip(starts, stops, strict=True)]
        return words, torch.stack(means)

    def draw(self, clip: int = 0, percentile: float | int = 99.5, until: float | int | None = None) -> Figure:
        """Words against seconds (to ``until``), each word scaled to its own largest value."""
        words, values = self.by_word(clip)
        scaled = values / values.amax(-1, keepdim=True).clamp(min=1e-30)
        scaled = scaled[:, : _positions_until(until, self.seconds_per_position, values.shape[-1])]
        return heat_map(
            scaled.double().cpu().numpy(),
            title="Audio relevance per word",
            x="time (s)",
            y="",
            unit="relevance / its maximum",
            rows=words,
            extent=(0.0, scaled.shape[-1] * self.seconds_per_position, len(words) - 0.5, -0.5),
            clip=percentile,
        )


@dataclass(frozen=True, eq=False)
class MelRelevance:
    """Gradient times input on the log-mel: ``[clip, mel, frame]``; its sum is the target's change to first order."""

    values: Float[Tensor, "clip mel frame"]
    gradient: Float[Tensor, "clip mel frame"]
    target: str
    score: Float[Tensor, "clip"]
    seconds_per_frame: float

    def draw(self, clip: int = 0, percentile: float | int = 99.5, until: float | int | None = None) -> Figure:
        """Mel bin against seconds (to ``until``), low bins at the bottom."""
        n_mels, frames = self.values.shape[1:]
        n = _positions_until(until, self.seconds_per_frame, frames)
        return heat_map(
            self.values[clip, :, :n].flip(0).double().cpu().numpy(),
            title=f"Gradient x input: {self.target}",
            x="time (s)",
            y="mel bin",
            unit="change of the target",
            extent=(0.0, n * self.seconds_per_frame, 0, n_mels),
            scale="diverging",
            clip=percentile,
        )


def encoder_relevance(
    model: HookedWhisper,
    mel: Float[Tensor, "clip mel frame"],
    *,
    target: Target = "transcript",
    rows: Rows | None = None,
) -> RelevanceMap:
    """Rules 5 and 6 over all encoder blocks: ``R = I; R += mean_heads(relu(grad * pattern)) R``, block 0 first.

    target: ``"transcript"`` (log-probability of the model's own greedy transcript, in English), a
        :class:`~hooked_whisper.analysis.targets.Transcript` of given tokens, any function of the encoder output, or
        ``"encoder_sum"``, the published scalar, which is degenerate. Clips do not mix.
    rows: ``to`` positions wanted (default: all); fewer cost less.
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
    """Product over blocks of ``(mean_heads pattern + I) / 2``, the last block leftmost (Abnar and Zuidema 2020).

    It knows no target and no values: what is attended to, not what it is used for. Every row sums to 1.
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


def audio_relevance(
    model: HookedWhisper,
    mel: Float[Tensor, "clip mel frame"],
    tokens: Int[Tensor, "clip token"],
    at: Sequence[int],
) -> AudioRelevance:
    """Rules 5 to 10 through cross-attention: which audio each output token rests on.

    The target is the log-probability of the token at each index of ``at``, given all before it (teacher forcing); the
    row of ``R_ta`` from which it is read is returned. The audio is encoded once; each token takes one backward pass.
    Rule 11 changes nothing here: the encoder never attends to the decoder.

    Raises:
        ValueError: an index at which there is no token, or nothing before it.
    """
    embedded: list[Tensor] = []

    def as_leaf(x: Tensor) -> Tensor:
        embedded.append(x.detach().requires_grad_())
        return embedded[-1]

    at, rows = list(at), []
    names = ["encoder.blocks.*.attn.hook_pattern", "decoder.blocks.*.hook_pattern"]
    with (
        torch.enable_grad(),
        _cams(model, names) as cams,
        model.hooks(fwd_hooks=[("decoder.hook_embed", as_leaf)]),
    ):
        leaf = mel.detach().requires_grad_()
        log_probs = token_log_probs(model, tokens, model.embed_audio(leaf), at)
        for k, index in enumerate(at):
            cams.clear()
            torch.autograd.grad(log_probs[:, k].sum(), [leaf, *embedded], retain_graph=k + 1 < len(at))
            through = relevance_through_cross(
                _by_block(model, cams, "encoder", "attn"),
                _by_block(model, cams, "decoder", "attn"),
                _by_block(model, cams, "decoder", "cross_attn"),
            )
            rows.append(through[:, index - 1])
    labels = tuple(tuple(model.to_str_tokens(row[at])) for row in tokens)
    return AudioRelevance(
        torch.stack(rows, dim=1),
        tuple(at),
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
    """Gradient of the target with respect to the log-mel, times the log-mel (minus ``baseline``, default 0).

    A log-mel of 0 is not silence (-1.5 is, for zero audio): give the baseline that the question is about.
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
    """Rows of ``(I + A_last) ... (I + A_0) - I`` (rule 6), without ever adding the identity, which would swamp it."""
    at = list(rows)
    out = cams[-1][:, at]
    for cam in reversed(cams[:-1]):
        out = out + cam[:, at] + out @ cam
    return out


def relevance_through_cross(
    encoder: Sequence[Float[Tensor, "clip position position"]],
    decoder: Sequence[Float[Tensor, "clip token token"]],
    cross: Sequence[Float[Tensor, "clip token position"]],
) -> Float[Tensor, "clip token position"]:
    """``R_ta`` by rules 6, 7 and 10 (8 and 9 normalise), given rule 5's map of every block, block 0 first.

    Everything after rule 10's cross map is linear in the encoder's normalised relevance, so that map is never made:
    only vectors and ``[token, position]`` matrices go through the encoder's blocks.
    """
    r_tt = torch.eye(decoder[0].shape[-1], dtype=decoder[0].dtype, device=decoder[0].device).expand_as(decoder[0])
    weights = torch.zeros_like(cross[0])  # R_ta = weights @ normalised(R_aa)
    for own, across in zip(decoder, cross, strict=True):
        weights = weights + own @ weights  # rule 7
        r_tt = r_tt + own @ r_tt  # rule 6
        weights = weights + _normalised(r_tt).mT @ across  # rule 10
    sums = torch.zeros_like(encoder[0][..., :1])  # row sums of R_aa - I
    for cam in encoder:
        sums = sums + cam @ (1 + sums)
    start = _divided(weights, sums.mT)
    through = torch.zeros_like(start)  # start @ (R_aa - I)
    for cam in reversed(encoder):
        through = through + (start + through) @ cam
    return weights + through


def _normalised(r: Float[Tensor, "clip token token"]) -> Float[Tensor, "clip token token"]:
    """Rules 8 and 9: the rows of ``R - I`` divided by their sums, plus the identity; an empty row stays empty."""
    eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
    rest = r - eye
    return _divided(rest, rest.sum(-1, keepdim=True)) + eye


def _divided(x: Tensor, by: Tensor) -> Tensor:
    """``x / by``, and 0 where ``by`` is 0."""
    return torch.where(by > 0, x / torch.where(by > 0, by, 1), 0)


@contextmanager
def _cams(model: HookedWhisper, names: str | list[str]) -> Iterator[dict[str, Tensor]]:
    """Rule 5 of every listed pattern, filled by each backward pass: ``mean_heads relu(grad * pattern)`` by name."""
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
        for one in [names] if isinstance(names, str) else names:
            for name in model.hook_names(one):
                stack.callback(model.hook_dict[name].add_reader(read).remove)  # type: ignore[arg-type]
        yield


def _by_block(model: HookedWhisper, found: dict[str, Tensor], stack: str, kind: str) -> list[Tensor]:
    n = len(getattr(model, stack).blocks)
    return [found[f"{stack}.blocks.{block}.{kind}.hook_pattern"] for block in range(n)]


def _wanted(rows: Rows | None, n: int) -> list[int]:
    return list(read_indices(rows, n, "positions, in rows"))


def _positions_until(seconds: float | int | None, unit: float, n: int) -> int:
    """How many positions (or frames) a figure shows: at least one, at most all."""
    return n if seconds is None else max(1, min(n, round(seconds / unit)))


def _check_score(score: Tensor, clips: int) -> None:
    if score.shape != (clips,):
        raise ValueError(f"a target gives one number per clip, [{clips}], not {tuple(score.shape)}")
    if not score.requires_grad:
        raise ValueError("the target does not depend on the encoder output, or was computed without gradients")
