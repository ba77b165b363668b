"""What the decoder would say if the model ended earlier: the logit lens and the DecoderLens.

The logit lens puts the decoder's residual stream, at every place inside its blocks, through the final norm and the
unembedding (nostalgebraist 2020). The DecoderLens lets the whole decoder read an earlier block of the *encoder*,
through the encoder's final norm (Langedijk, Mohebbi, Sarti, Zuidema and Jumelet 2023, arXiv 2310.03686).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper.analysis.bigrams import visible
from hooked_whisper.hooked import HookedWhisper

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOGITS_AT_ONCE = 1 << 24  # entries: bounds the memory of the logits to 64 MB in float32
_ROWS = 32  # of the decoder at once
_MOST_CELLS = 400  # of a figure with the tokens written into it


@dataclass(frozen=True, eq=False)
class LensResult:
    """Curves over layers, for every token position of every clip.

    layers: ``"embedding"``, ``"0 self"``, ``"0 cross"``, ``"0 mlp"``, ... (logit lens), or ``"embedding"``,
        ``"block 0"``, ... (DecoderLens); the last is the model itself.
    tokens: the decoder's input ``[clip, token]``; ``labels`` are their texts.
    targets: the token that is looked for after each of them: by default the one that the whole model puts first.
    log_prob: of the target (nats). rank: 0 if the target is first. entropy: of the whole distribution (nats).
    top: the token that each layer puts first.
    texts: what each layer writes, per clip: of the DecoderLens the greedy transcript, of the logit lens its top tokens.
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

    @property
    def first_layer(self) -> Int[Tensor, "clip token"]:
        """Index of the first layer that puts the target first; the number of layers if none does."""
        return _first_true(self.rank == 0)

    @property
    def settled_layer(self) -> Int[Tensor, "clip token"]:
        """Index of the layer from which on the target stays first; the number of layers if it is not first in the
        end."""
        return _first_true((self.rank == 0).flip(0).long().cummin(0).values.flip(0) == 1)

    def draw(self, clip: int = 0) -> Figure:
        """Log-probability of the target by layer and token, the last layer on top, each layer's first token written
        into its cell."""
        top = [[visible(text)[:9] for text in row[clip]] for row in self.top_labels]
        n_layers, n_tokens = self.log_prob.shape[0], self.log_prob.shape[2]
        return heat_map(
            self.log_prob[:, clip].flip(0).double().cpu().numpy(),
            title=self.lens,
            x="after token",
            y="layer",
            unit="log-probability of the target (nats)",
            rows=self.layers[::-1],
            columns=[visible(text) for text in self.labels[clip]],
            texts=top[::-1] if n_layers * n_tokens <= _MOST_CELLS else None,
        )


@torch.no_grad()
def logit_lens(
    model: HookedWhisper,
    tokens: Int[Tensor, "clip token"],
    encoder_out: Float[Tensor, "clip position d_model"],
    targets: Int[Tensor, "clip token"] | None = None,
) -> LensResult:
    """One pass of the decoder, read after the embedding and after self-attention, cross-attention and MLP of each
    block.

    Each reading has the final norm's statistics of its own. ``targets``: token looked for after each input token
    (default: the model's own first choice).
    """
    names = ["decoder.blocks.*.hook_resid_pre", "decoder.blocks.*.hook_resid_mid*", "decoder.blocks.*.hook_resid_post"]
    _, cache = model.run_with_cache(tokens=tokens, encoder_out=encoder_out, names_filter=names, stop_early=True)
    resid = cache.accumulated_resid("decoder", incl_mid=True)  # [layer, clip, token, d_model]
    n_blocks = len(model.decoder.blocks)
    layers = ["embedding", *(f"{block} {kind}" for block in range(n_blocks) for kind in ("self", "cross", "mlp"))]

    def logits(some: Tensor) -> Tensor:
        return model.decoder.to_logits(model.decoder.from_resid(some, n_blocks, encoder_out))

    curves = _Curves.of(logits, targets, resid, model.cfg.decoder.n_vocab)
    top_labels = _texts(model, curves.top)
    return _result(model, "Logit lens", layers, tokens, curves, tuple(tuple("".join(c) for c in r) for r in top_labels))


@torch.no_grad()
def encoder_layers(
    model: HookedWhisper, mel: Float[Tensor, "clip mel frame"]
) -> Float[Tensor, "layer clip position d_model"]:
    """What the decoder would read if the encoder ended before block 0, after block 0, ...: all through ``ln_post``.

    The encoder runs once. The last entry is the encoder's output.
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
    targets: Int[Tensor, "clip token"] | None = None,
    max_new_tokens: int = 64,
) -> LensResult:
    """The decoder reads every entry of :func:`encoder_layers`: layers and clips are one batch, nothing is encoded.

    tokens: teacher-forced input for the curves; the greedy texts begin from its first ``n_prompt`` tokens (prompt).
    targets: as in :func:`logit_lens` (default: the first choice of the decoder on the whole encoder).
    """
    n_layers = len(layers_out)
    layers = ["embedding", *(f"block {block}" for block in range(n_layers - 1))]
    heard = layers_out.flatten(0, 1)
    asked = tokens.to(heard.device).repeat(n_layers, 1)
    hidden = torch.cat(
        [model.decoder.hidden(a, h) for a, h in zip(asked.split(_ROWS), heard.split(_ROWS), strict=True)]
    )
    curves = _Curves.of(
        model.decoder.to_logits, targets, hidden.unflatten(0, (n_layers, -1)), model.cfg.decoder.n_vocab
    )
    eot = model.tokenizer.eot
    suppress = list(range(eot + 1, model.cfg.decoder.n_vocab))
    prompt = asked[:, :n_prompt].contiguous()
    plain: list[str] = []
    for some, out in zip(prompt.split(_ROWS), heard.split(_ROWS), strict=True):
        written = model.generate(some, out, max_new_tokens=max_new_tokens, eot=eot, suppress=suppress)
        plain += [model.tokenizer.decode([t for t in row if t < eot]).strip() for row in written[:, n_prompt:].tolist()]
    clips = len(tokens)
    texts = tuple(tuple(plain[at : at + clips]) for at in range(0, len(plain), clips))
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
        """``layers [layer, clip, token, ...]`` are what ``logits`` makes ``[row, token, vocab]`` from, some rows at a
        time."""
        n_layers, clips, n_tokens = layers.shape[:3]
        at_once = max(1, _LOGITS_AT_ONCE // (n_tokens * vocab))
        if targets is None:
            targets = torch.cat([logits(some).argmax(-1) for some in layers[-1].split(at_once)])
        want = targets.to(layers.device).expand(clips, -1).repeat(n_layers, 1)
        parts: list[tuple[Tensor, ...]] = []
        for some, ids in zip(layers.flatten(0, 1).split(at_once), want.split(at_once), strict=True):
            log_p = logits(some).log_softmax(-1)  # [row, token, vocab]
            own = log_p.gather(-1, ids[..., None].long())
            entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1)
            parts.append((own[..., 0], (log_p > own).sum(-1), entropy, log_p.argmax(-1)))
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
    )


def _texts(model: HookedWhisper, ids: Int[Tensor, "layer clip token"]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    return tuple(tuple(tuple(model.to_str_tokens(row)) for row in layer) for layer in ids)


def _first_true(found: Tensor) -> Int[Tensor, "clip token"]:
    """Index along the first axis of the first True; its length if there is none."""
    n = len(found)
    index = torch.arange(n, device=found.device)[:, None, None].expand(found.shape)
    return torch.where(found, index, n).amin(0)
