"""Direct logit attribution: the contribution of each part of the decoder to the logit of a token.

With the scale of the final norm held fixed, the logit is linear in what each part writes into the residual stream.
Effects through later parts are not counted (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
The contributions sum to the logit, or difference of logits, up to :attr:`DirectAttribution.error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.renamed import renamed_method
from hooked_whisper._support.showing import Summary, Tabular, counted, visible
from hooked_whisper.errors import check_option
from hooked_whisper.hooks import ActivationCache
from hooked_whisper.patching.metrics import token_id

Parts = Literal["block", "head", "neuron"]
TokenIds = int | Int[Tensor, "..."]
_SPLIT: dict[str, tuple[str, ...]] = {"block": (), "head": ("self", "cross"), "neuron": ("mlp",)}


@dataclass(frozen=True)
class Contribution:
    """One part of the decoder, and its contribution to the logit."""

    label: str
    kind: str
    value: float


@dataclass(frozen=True, eq=False, repr=False)
class DirectAttribution(Tabular):
    """Contribution of every part to the logit at every token, ``[component, clip, token]``.

    labels: ``embed``, ``pos_embed``, ``0_attn_out``, ``0_cross_attn_out``, ``0_mlp_out``; ``D1.3``, ``X1.3`` (heads of
        self- and cross-attention), ``1.207`` (MLP neuron), ``1_attn.b_O`` and ``1_mlp.b_out`` (biases),
        ``ln_final.bias``.
    kinds: ``input``, ``self``, ``cross``, ``mlp`` or ``bias``.
    total: the model's logit or difference of logits, ``[clip, token]``.
    tokens: texts of the decoder's input, per clip. target: what is attributed.
    """

    labels: tuple[str, ...]
    kinds: tuple[str, ...]
    values: Float[Tensor, "component clip token"]
    total: Float[Tensor, "clip token"]
    tokens: tuple[tuple[str, ...], ...] = ()
    target: str = "logit"

    @property
    def error(self) -> float:
        """Largest absolute difference between the sum of the contributions and the model's logit."""
        return float((self.values.sum(0) - self.total).abs().max())

    def top(self, n: int = 10, clip: int = 0, token: int = -1) -> list[Contribution]:
        """Return the ``n`` contributions with the largest absolute value, largest first."""
        column = self.values[:, clip, token]
        order = column.abs().topk(min(n, len(column))).indices.tolist()
        return [Contribution(self.labels[i], self.kinds[i], float(column[i])) for i in order]

    def by_kind(self) -> dict[str, Float[Tensor, "clip token"]]:
        """Return the sum of the contributions of each kind."""
        kinds = list(dict.fromkeys(self.kinds))
        return {kind: self.values[[k == kind for k in self.kinds]].sum(0) for kind in kinds}

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per component, clip and token: component, kind, clip, index and text of the token, value."""
        values = self.values.tolist()
        return [
            {"component": label, "kind": kind, "clip": clip, "index": k, "token": self._token(clip, k), "value": value}
            for label, kind, of_component in zip(self.labels, self.kinds, values, strict=True)
            for clip, of_clip in enumerate(of_component)
            for k, value in enumerate(of_clip)
        ]

    def summary(self) -> Summary:
        n_parts, n_clips, n_tokens = self.values.shape
        sizes = f"{counted(n_parts, 'component')}, {counted(n_clips, 'clip')}, {counted(n_tokens, 'token')}"
        kinds = ", ".join(f"{kind} {float(total.mean()):.3g}" for kind, total in self.by_kind().items())
        notes = (
            f"{self.target}: {float(self.total.mean()):.4g} on average; the sum of the components differs by at most "
            f"{self.error:.2g}",
            f"means by kind: {kinds}",
            "the components with the largest mean size over clips and tokens:",
        )
        flat = self.values.flatten(1)
        size = flat.abs().mean(1)
        rows = []
        for i in size.topk(min(10, n_parts)).indices.tolist():
            peak = int(flat[i].abs().argmax())
            clip, k = divmod(peak, n_tokens)
            where = visible(self._token(clip, k)) + (f" (clip {clip})" if n_clips > 1 else "")
            rows.append((self.labels[i], self.kinds[i], float(flat[i].mean()), float(flat[i, peak]), where))
        columns = ("component", "kind", "mean (logits)", "largest", "after token")
        return Summary(f"DirectAttribution: {sizes}", notes, columns, tuple(rows), n_parts)

    def plot(
        self, clip: int = 0, most: int = 40, *, percentile: float | int = 99.0, backend: Backend = "matplotlib"
    ) -> Any:
        """Draw the ``most`` largest contributions, components against tokens.

        Args:
            percentile: where the colors end; 100 for the whole range.
            backend: ``"matplotlib"`` or ``"plotly"``.
        """
        column = self.values[:, clip]
        parts = sorted(column.abs().amax(-1).topk(min(most, len(column))).indices.tolist())
        return heat_map(
            column[parts].double().cpu().numpy(),
            title=f"Direct logit attribution (exact): {self.target}",
            x="after token",
            y="component",
            unit="direct effect (logits)",
            rows=[self.labels[i] for i in parts],
            columns=[visible(self._token(clip, k)) for k in range(column.shape[1])],
            scale="diverging",
            clip=percentile,
            facecolor="white",
            backend=backend,
        )

    draw = renamed_method("draw", "plot")

    def _token(self, clip: int, k: int) -> str:
        return self.tokens[clip][k] if self.tokens else f"token {k}"


def attribution_names(parts: Parts = "block") -> list[str]:
    """Return the hook names that :func:`direct_logit_attribution` needs, for ``run_with_cache(names_filter=...)``."""
    check_option("parts", parts, get_args(Parts))
    names = ["decoder.hook_tokens", "decoder.hook_embed", "decoder.hook_pos_embed"]
    names += ["decoder.ln_final.hook_scale", "unembed.hook_out"]
    names += [f"decoder.blocks.*.hook_{output}" for output in ("attn_out", "cross_attn_out", "mlp_out")]
    inner = {"block": [], "head": ["attn.hook_z", "cross_attn.hook_z"], "neuron": ["mlp.hook_post"]}[parts]
    return names + [f"decoder.blocks.*.{name}" for name in inner]


def direct_logit_attribution(
    cache: ActivationCache, correct: TokenIds | str, incorrect: TokenIds | str | None = None, *, parts: Parts = "block"
) -> DirectAttribution:
    """Return the contributions to the logit of ``correct``, minus that of ``incorrect``, at every token of a cached
    decoder pass.

    Args:
        cache: of ``run_with_cache(..., tokens=...)`` with its default names, or those of :func:`attribution_names`.
        correct, incorrect: a string of one token (``" very"``), or token ids that broadcast to ``[clip, token]``.
        parts: ``"block"`` for self-attention, cross-attention and MLP of each block; ``"head"`` splits both kinds of
            attention into heads; ``"neuron"`` splits the MLPs into neurons.

    Raises:
        UnknownHookError: the cache lacks an activation.
        PromptError: a string is several tokens.
    """
    check_option("parts", parts, get_args(Parts))
    cache = cache.with_batch_dim()
    ids, other_ids = (token_id(cache.model, answer) for answer in (correct, incorrect))
    logits = cache["unembed.hook_out"]
    shape = logits.shape[:2]
    groups = _blocks(cache, ids, other_ids, without=_SPLIT[parts])
    if parts == "head":
        groups += _heads(cache, ids, other_ids)
    if parts == "neuron":
        groups += _neurons(cache, ids, other_ids)
    groups.append((["ln_final.bias"], "bias", _constant(cache, ids, other_ids).expand(1, *shape)))
    total = _picked(logits, ids)
    if other_ids is not None:
        total = total - _picked(logits, other_ids)
    return DirectAttribution(
        tuple(label for labels, _, _ in groups for label in labels),
        tuple(kind for labels, kind, _ in groups for _ in labels),
        torch.cat([values for *_, values in groups]),
        total,
        _texts(cache),
        _described(cache, correct) + ("" if incorrect is None else f" minus {_described(cache, incorrect)}"),
    )


def _texts(cache: ActivationCache) -> tuple[tuple[str, ...], ...]:
    """Texts of the decoder's input, if the cache has its tokens and the model a tokenizer."""
    if "decoder.hook_tokens" not in cache or cache.model.cfg.token_layout is None:
        return ()
    return tuple(tuple(cache.model.to_str_tokens(row)) for row in cache["decoder.hook_tokens"])


def _described(cache: ActivationCache, token: TokenIds | str) -> str:
    if isinstance(token, Tensor) and token.numel() > 1:
        return "logit of each target"
    text = token if isinstance(token, str) else f"token {int(token)}"
    if not isinstance(token, str) and cache.model.cfg.token_layout is not None:
        text = cache.model.to_str_tokens([int(token)])[0]
    return f"logit of '{visible(text)}'"


_Group = tuple[list[str], str, Tensor]  # labels, kind, values [component, clip, token]


def _blocks(
    cache: ActivationCache, correct: TokenIds, incorrect: TokenIds | None, without: tuple[str, ...]
) -> list[_Group]:
    components, labels = cache.decompose_resid("decoder", return_labels=True)
    values = cache.logit_attrs(components, correct, incorrect)
    groups = [([label], _kind(label), values[k : k + 1]) for k, label in enumerate(labels)]
    return [group for group in groups if group[1] not in without]


def _heads(cache: ActivationCache, correct: TokenIds, incorrect: TokenIds | None) -> list[_Group]:
    groups: list[_Group] = []
    for kind, module in (("self", "attn"), ("cross", "cross_attn")):
        components, labels = cache.stack_head_results("decoder", cross=kind == "cross", return_labels=True)
        groups.append((labels, kind, cache.logit_attrs(components, correct, incorrect)))
        biases = [getattr(block, module).out.bias for block in cache.model.decoder.blocks]
        groups.append(_bias_group(cache, biases, f"{module}.b_O", correct, incorrect))
    return groups


def _neurons(cache: ActivationCache, correct: TokenIds, incorrect: TokenIds | None) -> list[_Group]:
    """``post * (W_out direction)``, without a residual vector per neuron."""
    blocks: Any = cache.model.decoder.blocks
    onto = _onto(cache, correct, incorrect)
    groups: list[_Group] = []
    for k, block in enumerate(blocks):
        post = cache["decoder", "mlp_post", k]  # [clip, token, d_mlp]
        slope = onto @ block.mlp.down.weight.detach().to(onto)
        groups.append(([f"{k}.{n}" for n in range(post.shape[-1])], "mlp", (post * slope).permute(2, 0, 1)))
    groups.append(_bias_group(cache, [b.mlp.down.bias for b in blocks], "mlp.b_out", correct, incorrect))
    return groups


def _bias_group(
    cache: ActivationCache, biases: Sequence[Tensor], name: str, correct: TokenIds, incorrect: TokenIds | None
) -> _Group:
    like = cache["decoder.hook_embed"]
    rows = torch.stack([b.detach().to(like).expand_as(like) for b in biases])
    return [f"{k}_{name}" for k in range(len(biases))], "bias", cache.logit_attrs(rows, correct, incorrect)


def _onto(cache: ActivationCache, correct: TokenIds, incorrect: TokenIds | None) -> Float[Tensor, "clip token d_model"]:
    """Gradient of the logit with respect to the residual stream, with the scale of the final norm held fixed."""
    scale = cache["decoder.ln_final.hook_scale"]
    gained = _direction(cache, correct, incorrect).to(scale) * cache.model.decoder.ln_final.weight.detach().to(scale)
    return (gained - gained.mean(-1, keepdim=True)) / scale


def _direction(cache: ActivationCache, correct: TokenIds, incorrect: TokenIds | None) -> Tensor:
    """Columns of the unembedding, ``[..., d_model]``."""
    columns = cache.model.W_U.detach().mT
    direction = columns[torch.as_tensor(correct, device=columns.device)]
    return direction if incorrect is None else direction - columns[torch.as_tensor(incorrect, device=columns.device)]


def _constant(cache: ActivationCache, correct: TokenIds, incorrect: TokenIds | None) -> Tensor:
    """Part of the logit that does not depend on the input: the biases of the final norm and of the unembedding."""
    model = cache.model
    direction = _direction(cache, correct, incorrect)
    constant = direction @ model.decoder.ln_final.bias.detach().to(direction)
    bias = model.unembed.bias
    if bias is not None:
        constant = constant + bias.detach()[torch.as_tensor(correct, device=bias.device)]
        if incorrect is not None:
            constant = constant - bias.detach()[torch.as_tensor(incorrect, device=bias.device)]
    return constant.to(cache["decoder.hook_embed"].device)


def _picked(logits: Float[Tensor, "clip token vocab"], ids: TokenIds) -> Float[Tensor, "clip token"]:
    index = torch.as_tensor(ids, device=logits.device).expand(logits.shape[:2])
    return logits.gather(-1, index[..., None].long())[..., 0]


def _kind(label: str) -> str:
    if "embed" in label:
        return "input"
    return "cross" if "cross" in label else "self" if "attn" in label else "mlp"
