"""Predictions from earlier layers: the logit lens and the DecoderLens.

The logit lens applies the final norm and the unembedding to the decoder's residual stream after every component
(nostalgebraist 2020). The DecoderLens lets the whole decoder read an earlier block of the *encoder* through the
encoder's final norm (Langedijk, Mohebbi, Sarti, Zuidema and Jumelet 2023, arXiv 2310.03686).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.renamed import renamed_method
from hooked_whisper._support.showing import Summary, Tabular, counted, spread, visible
from hooked_whisper.errors import ArgumentError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.model.inputs import described
from hooked_whisper.patching.metrics import token_id

_LOGITS_PER_BATCH = 1 << 24  # entries: 64 MB in float32
_ROWS = 32  # decoder rows per batch
_TEXT = 48  # characters of the text in a summary
_MOST_CELLS = 400  # most entries of a figure with tokens as text


@dataclass(frozen=True, eq=False, repr=False)
class LensResult(Tabular):
    """Predictions of every layer, at every token of every clip.

    layers: ``"embedding"``, ``"0 self"``, ``"0 cross"``, ``"0 mlp"``, ... (logit lens), or ``"embedding"``,
        ``"block 0"``, ... (DecoderLens); the last is the full model.
    tokens: decoder input, ``[clip, token]``. labels: their texts.
    targets: next token to look up after each input token; default: the full model's top token. target_labels: their
        texts.
    log_prob: of the target (nats). rank: of the target, 0 for the top token. entropy: of the distribution (nats).
    top: top token of each layer. top_labels: their texts.
    texts: greedy transcript (DecoderLens) or top tokens (logit lens) of each layer and clip.
    """

    lens: str
    layers: tuple[str, ...]
    tokens: Int[Tensor, "clip token"]
    labels: tuple[tuple[str, ...], ...]
    targets: Int[Tensor, "clip token"]
    log_prob: Float[Tensor, "layer clip token"]
    rank: Int[Tensor, "layer clip token"]
    entropy: Float[Tensor, "layer clip token"]
    top: Int[Tensor, "layer clip token"]
    top_labels: tuple[tuple[tuple[str, ...], ...], ...]
    texts: tuple[tuple[str, ...], ...]
    target_labels: tuple[tuple[str, ...], ...] = ()

    @property
    def first_layer(self) -> Int[Tensor, "clip token"]:
        """First layer whose top token is the target; the number of layers if there is none."""
        return _first_true(self.rank == 0)

    @property
    def settled_layer(self) -> Int[Tensor, "clip token"]:
        """First layer where the target is the top token of it and all later layers; the number of layers if none is."""
        return _first_true((self.rank == 0).flip(0).long().cummin(0).values.flip(0) == 1)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per layer, clip and token: the target, its log-probability (nats) and rank, the entropy
        (nats), and the layer's top token."""
        log_prob, rank, entropy = (x.tolist() for x in (self.log_prob, self.rank, self.entropy))
        return [
            {
                "layer": layer,
                "clip": clip,
                "index": k,
                "token": text,
                "target": self.target_labels[clip][k] if self.target_labels else int(self.targets[clip, k]),
                "log_prob": log_prob[row][clip][k],
                "rank": rank[row][clip][k],
                "entropy": entropy[row][clip][k],
                "top": self.top_labels[row][clip][k],
            }
            for row, layer in enumerate(self.layers)
            for clip, texts in enumerate(self.labels)
            for k, text in enumerate(texts)
        ]

    def summary(self) -> Summary:
        n_layers, n_clips, n_tokens = self.log_prob.shape
        sizes = f"{counted(n_layers, 'layer')}, {counted(n_clips, 'clip')}, {counted(n_tokens, 'token')}"
        settled = self.settled_layer.flatten().float()
        never = int((settled == n_layers).sum())
        median = min(int(settled.median()), n_layers - 1)
        notes = (
            f"half of the targets are settled at layer {self.layers[median]!r}; "
            f"{never} of {settled.numel()} are not the last layer's top token",
            "means over clips and tokens; text of the first clip",
        )
        rows = tuple(
            (
                self.layers[k],
                float(self.log_prob[k].mean()),
                float((self.rank[k] == 0).float().mean()),
                float(self.entropy[k].mean()),
                self.texts[k][0][:_TEXT],
            )
            for k in spread(n_layers)
        )
        columns = ("layer", "log-prob of the target (nats)", "share on top", "entropy (nats)", "text")
        return Summary(f"LensResult: {self.lens}, {sizes}", notes, columns, rows, n_layers)

    def plot(self, clip: int = 0, *, percentile: float | int = 95.0, backend: Backend = "matplotlib") -> Any:
        """Draw the log-probability of the target by layer (last on top) and token, with each layer's top token.

        Args:
            percentile: where the colors end; 100 for the whole range. Early layers can be as low as -100 nats.
            backend: ``"matplotlib"`` or ``"plotly"``.
        """
        top = [[visible(text)[:9] for text in row[clip]] for row in self.top_labels]
        n_layers, n_tokens = self.log_prob.shape[0], self.log_prob.shape[2]
        return heat_map(
            self.log_prob[:, clip].flip(0).double().cpu().numpy(),
            title=f"{self.lens}: log-probability of the next token",
            x="after token",
            y="layer",
            unit="log-probability (nats)",
            clip=percentile,
            facecolor="white",
            backend=backend,
            rows=self.layers[::-1],
            columns=[visible(text) for text in self.labels[clip]],
            texts=top[::-1] if n_layers * n_tokens <= _MOST_CELLS else None,
        )

    draw = renamed_method("draw", "plot")


@torch.no_grad()
def logit_lens(
    model: HookedWhisper,
    tokens: Int[Tensor, "clip token"],
    encoder_out: Float[Tensor, "clip position d_model"],
    targets: Int[Tensor, "clip token"] | int | str | None = None,
) -> LensResult:
    """Apply the logit lens to one decoder pass: after the embedding, and after self-attention, cross-attention and MLP
    of each block.

    The final norm is applied with the statistics of each layer. ``targets``: next token to look up after each input
    token; an id or a string of one token (``" tea"``) for the same everywhere; default: the model's top token.

    Raises:
        PromptError: a string is several tokens, or an id is not in the vocabulary.
        ArgumentError: ``tokens`` or ``encoder_out`` is something else, such as a mel.
    """
    width = model.cfg.decoder.d_model
    if tokens.is_floating_point() or not encoder_out.is_floating_point() or encoder_out.shape[-1] != width:
        raise ArgumentError(
            f"logit_lens takes (model, tokens, encoder_out), but got tokens {described(tokens)} and encoder_out "
            f"{described(encoder_out)}: write logit_lens(model, tokens, model.embed_audio(mel))"
        )
    names = ["decoder.blocks.*.hook_resid_pre", "decoder.blocks.*.hook_resid_mid*", "decoder.blocks.*.hook_resid_post"]
    _, cache = model.run_with_cache(tokens=tokens, encoder_out=encoder_out, names_filter=names, stop_early=True)
    resid = cache.accumulated_resid("decoder", incl_mid=True)  # [layer, clip, token, d_model]
    n_blocks = len(model.decoder.blocks)
    layers = ["embedding", *(f"{block} {kind}" for block in range(n_blocks) for kind in ("self", "cross", "mlp"))]

    def logits(rows: Tensor) -> Tensor:
        return model.decoder.to_logits(model.decoder.from_resid(rows, n_blocks, encoder_out))

    curves = _Curves.of(logits, _target_ids(model, targets, tokens), resid, model.cfg.decoder.n_vocab)
    top_labels = _texts(model, curves.top)
    return _result(model, "Logit lens", layers, tokens, curves, tuple(tuple("".join(c) for c in r) for r in top_labels))


@torch.no_grad()
def encoder_layers(
    model: HookedWhisper, mel: Float[Tensor, "clip mel frame"]
) -> Float[Tensor, "layer clip position d_model"]:
    """Return the residual stream before block 0 and after every encoder block, each through ``ln_post``.

    The encoder runs once. The last entry is the encoder output.
    """
    names = ["encoder.blocks.*.hook_resid_pre", "encoder.blocks.*.hook_resid_post"]
    _, cache = model.run_with_cache(mel, names_filter=names, stop_early=True)
    resid = cache.accumulated_resid("encoder")
    n_blocks = len(model.encoder.blocks)
    return torch.stack([model.encoder.from_resid(layer, n_blocks) for layer in resid])


@torch.no_grad()
def decoder_lens(
    model: HookedWhisper,
    tokens: Int[Tensor, "clip token"],
    layers_out: Float[Tensor, "layer clip position d_model"],
    n_prompt: int,
    targets: Int[Tensor, "clip token"] | int | str | None = None,
    max_new_tokens: int = 64,
) -> LensResult:
    """Run the decoder on every entry of :func:`encoder_layers`, with layers and clips as one batch.

    tokens: teacher-forced input; its first ``n_prompt`` tokens are the prompt of the greedy texts.
    targets: as in :func:`logit_lens`; default: the top token with the full encoder.
    """
    n_layers = len(layers_out)
    layers = ["embedding", *(f"block {block}" for block in range(n_layers - 1))]
    encoded = layers_out.flatten(0, 1)
    inputs = tokens.to(encoded.device).repeat(n_layers, 1)
    hidden = torch.cat(
        [model.decoder.hidden(a, h) for a, h in zip(inputs.split(_ROWS), encoded.split(_ROWS), strict=True)]
    )
    curves = _Curves.of(
        model.decoder.to_logits,
        _target_ids(model, targets, tokens),
        hidden.unflatten(0, (n_layers, -1)),
        model.cfg.decoder.n_vocab,
    )
    eot = model.tokenizer.eot
    suppress = list(range(eot + 1, model.cfg.decoder.n_vocab))
    prompt = inputs[:, :n_prompt].contiguous()
    transcripts: list[str] = []
    for prompts, out in zip(prompt.split(_ROWS), encoded.split(_ROWS), strict=True):
        written = model.generate(prompts, out, max_new_tokens=max_new_tokens, eot=eot, suppress=suppress)
        transcripts += [
            model.tokenizer.decode([t for t in row if t < eot]).strip() for row in written[:, n_prompt:].tolist()
        ]
    clips = len(tokens)
    texts = tuple(tuple(transcripts[first : first + clips]) for first in range(0, len(transcripts), clips))
    return _result(model, "DecoderLens", layers, tokens, curves, texts)


@dataclass(frozen=True, eq=False)
class _Curves:
    """Reductions of logits over the vocabulary."""

    targets: Tensor
    log_prob: Tensor
    rank: Tensor
    entropy: Tensor
    top: Tensor

    @classmethod
    def of(cls, logits: Callable[[Tensor], Tensor], targets: Tensor | None, layers: Tensor, vocab: int) -> _Curves:
        """Reduce ``logits(rows)`` (``[row, token, vocab]``) of ``layers`` (``[layer, clip, token, ...]``) in batches of
        rows."""
        n_layers, clips, n_tokens = layers.shape[:3]
        batch = max(1, _LOGITS_PER_BATCH // (n_tokens * vocab))
        if targets is None:
            targets = torch.cat([logits(rows).argmax(-1) for rows in layers[-1].split(batch)])
        wanted = targets.to(layers.device).expand(clips, -1).repeat(n_layers, 1)
        parts: list[tuple[Tensor, ...]] = []
        for rows, ids in zip(layers.flatten(0, 1).split(batch), wanted.split(batch), strict=True):
            log_p = logits(rows).log_softmax(-1)  # [row, token, vocab]
            target_log_p = log_p.gather(-1, ids[..., None].long())
            entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1)
            parts.append((target_log_p[..., 0], (log_p > target_log_p).sum(-1), entropy, log_p.argmax(-1)))
        columns = [torch.cat(p).unflatten(0, (n_layers, clips)) for p in zip(*parts, strict=True)]
        return cls(targets.expand(clips, -1), *columns)


def _result(
    model: HookedWhisper,
    lens: str,
    layers: Sequence[str],
    tokens: Tensor,
    curves: _Curves,
    texts: tuple[tuple[str, ...], ...],
) -> LensResult:
    return LensResult(
        lens,
        tuple(layers),
        tokens,
        tuple(tuple(model.to_str_tokens(row)) for row in tokens),
        curves.targets,
        curves.log_prob,
        curves.rank,
        curves.entropy,
        curves.top,
        _texts(model, curves.top),
        texts,
        tuple(tuple(model.to_str_tokens(row)) for row in curves.targets),
    )


def _target_ids(
    model: HookedWhisper, targets: Int[Tensor, "clip token"] | int | str | None, tokens: Int[Tensor, "clip token"]
) -> Int[Tensor, "clip token"] | None:
    if targets is None or (isinstance(targets, Tensor) and targets.ndim):
        return targets
    return torch.full_like(tokens, token_id(model, targets))


def _texts(model: HookedWhisper, ids: Int[Tensor, "layer clip token"]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    return tuple(tuple(tuple(model.to_str_tokens(row)) for row in layer) for layer in ids)


def _first_true(flags: Tensor) -> Int[Tensor, "clip token"]:
    """Index of the first True along the first axis; the length of the axis if there is none."""
    n = len(flags)
    index = torch.arange(n, device=flags.device)[:, None, None].expand(flags.shape)
    return torch.where(flags, index, n).amin(0)
