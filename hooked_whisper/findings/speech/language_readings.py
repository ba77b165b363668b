"""How each cross-attention head reads the language of clips: logit lens, direct attribution and ablation (F12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.analysis import attribution_names, direct_logit_attribution
from hooked_whisper.findings.core.finding import Estimate
from hooked_whisper.findings.core.statistics import spearman, spearman_rows
from hooked_whisper.findings.speech.sample import start_tokens
from hooked_whisper.hooked import HookedWhisper

TOP_SHARE = 0.25  # share of the cross-attention heads that are ablated together
RANDOM_SETS = 10  # sets of random heads
DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class LanguageReadings:
    """Language readings of clips. Logit differences are the true language's logit minus the mean of the others.

    Attributes:
        codes: languages among the clips. true: index into ``codes`` of each clip's language.
        heads: labels of the cross-attention heads, block by block.
        detected: 1 if the true language is the most likely of all language tokens, else 0.
        lens: probability of the true language among all language tokens, in each head's output.
        read: 1 if the true language is first among ``codes`` in the summed output of the heads, else 0.
        direct: contribution of each head to the logit difference.
        ablated: decrease of the logit difference without the head.
        blocks: decrease of the logit difference without the block's cross-attention.
        without: 1 if the true language is first among ``codes``, else 0: with no head ablated (``"nothing"``), without
            the share :data:`TOP_SHARE` of heads that add most (``"most"``) or least (``"least"``), and without the same
            number of random heads (``"others"``, mean over draws).
        kinds: kinds of components. parts: contribution of the components of each kind to the logit difference.
        error: largest difference between the sum of all parts and the model's logit.
    """

    codes: tuple[str, ...]
    true: Int[np.ndarray, "clip"]
    heads: tuple[str, ...]
    detected: Float[np.ndarray, "clip"]
    lens: Float[np.ndarray, "head clip"]
    read: Float[np.ndarray, "clip"]
    direct: Float[np.ndarray, "head clip"]
    ablated: Float[np.ndarray, "head clip"]
    blocks: Float[np.ndarray, "block clip"]
    without: dict[str, Float[np.ndarray, "clip"]]
    kinds: tuple[str, ...]
    parts: Float[np.ndarray, "kind clip"]
    error: float

    @property
    def n_heads(self) -> int:
        """Number of heads per block."""
        return len(self.heads) // len(self.blocks)

    def ranks(self, rng: np.random.Generator, heads: slice = slice(None)) -> Estimate:
        """Return the rank correlation of ablation and attribution over heads, with a bootstrap over clips."""
        n = len(self.true)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n  # [draw, clip]
        ablated, direct = self.ablated[heads], self.direct[heads]
        samples = spearman_rows(weights @ ablated.T, weights @ direct.T)
        return Estimate.of(spearman(ablated.mean(1), direct.mean(1)), samples)


@torch.no_grad()
def read_language(
    model: HookedWhisper,
    encoded: Float[Tensor, "clip position d_model"],
    languages: Sequence[str],
    rng: np.random.Generator,
) -> LanguageReadings:
    """Run one decoder pass for all clips, and one per clip for all ablations.

    Raises:
        ValueError: the clips are of fewer than two languages.
    """
    codes = tuple(sorted(set(languages)))
    if len(codes) < 2:
        raise ValueError(f"the clips are of {len(codes)} language {codes}, expected two languages or more")
    true = torch.tensor([codes.index(code) for code in languages], device=model.device)
    ids = torch.tensor([model.tokenizer.to_language_token(code) for code in codes], device=model.device)
    all_ids = torch.tensor(list(model.tokenizer.all_language_tokens), device=model.device)
    logits, cache = model.run_with_cache(
        tokens=start_tokens(model, len(encoded)), encoder_out=encoded, names_filter=attribution_names("head")
    )
    assert logits is not None
    outputs, heads = cache.stack_head_results("decoder", cross=True, return_labels=True)  # [head, clip, 1, d_model]
    norm, unembed = model.decoder.ln_final, model.W_U
    true_ids = ids[true]
    alone = (norm.unhooked(outputs[:, :, 0]) @ unembed[:, all_ids].to(outputs)).softmax(-1)
    together = norm.unhooked(outputs.sum(0)[:, 0]) @ unembed[:, ids].to(outputs)
    tables = [direct_logit_attribution(cache, int(token), parts="head") for token in ids]
    added = torch.stack([t.values[:, :, 0] for t in tables])  # [language, component, clip]
    difference = _against_others(added, true)
    labels, kinds = tables[0].labels, tables[0].kinds
    direct = difference[[labels.index(h) for h in heads]].double().cpu().numpy()
    ablated, blocks, without = _ablations(model, encoded, ids, true, direct, rng)
    names = tuple(dict.fromkeys(kinds))
    column = _column(all_ids, true_ids).expand(len(heads), -1)[..., None]
    return LanguageReadings(
        codes=codes,
        true=true.cpu().numpy(),
        heads=tuple(heads),
        detected=(all_ids[logits[:, 0, all_ids].argmax(-1)] == true_ids).double().cpu().numpy(),
        lens=alone.gather(-1, column)[..., 0].double().cpu().numpy(),
        read=(together.argmax(-1) == true).double().cpu().numpy(),
        direct=direct,
        ablated=ablated,
        blocks=blocks,
        without=without,
        kinds=names,
        parts=torch.stack([difference[[k == n for k in kinds]].sum(0) for n in names]).double().cpu().numpy(),
        error=max(t.error for t in tables),
    )


def _column(all_ids: Tensor, ids: Tensor) -> Tensor:
    """Return the index of each of ``ids`` in ``all_ids``."""
    return (all_ids[None, :] == ids[:, None]).long().argmax(-1)


def _against_others(values: Float[Tensor, "language *axes clip"], true: Int[Tensor, "clip"]) -> Tensor:
    """Return the value of the true language minus the mean of the other languages: ``[*axes, clip]``."""
    n = len(values)
    is_true = torch.nn.functional.one_hot(true, n).T.to(values)  # [language, clip]
    weights = is_true - (1 - is_true) / (n - 1)
    return (values * weights.reshape(n, *[1] * (values.dim() - 2), -1)).sum(0)


def _ablations(
    model: HookedWhisper,
    encoded: Float[Tensor, "clip position d_model"],
    ids: Tensor,
    true: Tensor,
    direct: Float[np.ndarray, "head clip"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "head clip"], Float[np.ndarray, "block clip"], dict[str, Float[np.ndarray, "clip"]]]:
    """Return ``LanguageReadings.ablated``, ``blocks`` and ``without``. All ablations of a clip are one batch."""
    cfg = model.cfg.decoder
    n = cfg.n_layers * cfg.n_heads
    head = torch.eye(n).view(n, cfg.n_layers, cfg.n_heads)
    block = torch.eye(cfg.n_layers)[..., None].expand(-1, -1, cfg.n_heads)
    sets = [_head_sets(direct[:, half], rng) for half in other_halves(true.tolist())]
    scale = torch.empty(0)

    def ablate(z: Tensor, layer: int) -> Tensor:
        return z * scale[:, layer, None, :, None].to(z)

    hooks = [
        (f"decoder.blocks.{k}.cross_attn.hook_z", lambda z, layer=k: ablate(z, layer)) for k in range(cfg.n_layers)
    ]
    falls, first = [], []
    half_of = half_of_clips(true.tolist())
    with model.hooks(fwd_hooks=hooks):
        for clip, language, half in zip(encoded, true, half_of, strict=True):
            several = torch.from_numpy(sets[half]).float().view(-1, cfg.n_layers, cfg.n_heads)
            ablated = torch.cat([torch.zeros_like(head[:1]), head, block, several])  # [row, block, head]
            scale = 1 - ablated
            logits = model.logits(start_tokens(model, len(scale)), clip[None])[:, 0, ids]  # [row, language]
            difference = _against_others(logits.T, language.expand(len(scale)))
            falls.append(difference[0] - difference[1:])
            first.append((logits.argmax(-1) == language).double())
    table = torch.stack(falls, dim=1).double().cpu().numpy()
    right = torch.stack(first, dim=1).cpu().numpy()  # [row, clip]
    most, least, *others = right[1 + n + cfg.n_layers :]
    without = {"nothing": right[0], "most": most, "least": least, "others": np.mean(others, axis=0)}
    return table[:n], table[n : n + cfg.n_layers], without


def _head_sets(direct: Float[np.ndarray, "head clip"], rng: np.random.Generator) -> Float[np.ndarray, "set head"]:
    """Return masks of the heads that add most, of those that add least, and of :data:`RANDOM_SETS` random sets outside
    the first."""
    n = len(direct)
    size = max(1, round(TOP_SHARE * n))
    order = np.argsort(-direct.mean(1))
    random = [rng.choice(order[size:], size, replace=False) for _ in range(RANDOM_SETS)]
    return np.array([np.isin(np.arange(n), heads) for heads in (order[:size], order[-size:], *random)], dtype=float)


def half_of_clips(true: Sequence[int]) -> list[int]:
    """Return 0 or 1 for each clip, alternating within each language."""
    seen: dict[int, int] = {}
    halves = []
    for language in true:
        halves.append(seen.get(language, 0) % 2)
        seen[language] = seen.get(language, 0) + 1
    return halves


def other_halves(true: Sequence[int]) -> list[list[int]]:
    """Return the clips of the other half for each half, or all clips if the other half is empty."""
    half_of = half_of_clips(true)
    return [[i for i, h in enumerate(half_of) if h != half] or list(range(len(true))) for half in (0, 1)]
