"""F12: through which cross-attention heads does the spoken language reach the decoder?

Source: ``logit_lens.py`` and the deleted ``layerwise_importance.py`` of
github.com/er537/whisper_interpretability, which published no numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.analysis import attribution_names, direct_logit_attribution
from hooked_whisper.findings.context import ENCODER_BATCH, Context
from hooked_whisper.findings.drawing import BLUE, _figure, _in_words, draw_controls
from hooked_whisper.findings.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.records import Axis, Measurement
from hooked_whisper.findings.statistics import bootstrap, spearman, spearman_rows
from hooked_whisper.hooked import HookedWhisper

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "F12", "Where language enters the decoder"
CLAIM = (
    "The language spoken reaches the decoder through cross-attention heads: what they write, read through the final "
    "norm and the unembedding, names it."
)
PROTOCOL = (
    "Decoder input is <|startoftranscript|> alone; the next token is the language. Each cross-attention head's output "
    "goes through the final norm (with its own statistics) and the unembedding restricted to the language tokens: "
    "probability of the clip's language. Direct attribution: what each part adds to the logit of the clip's language "
    "minus the mean of the other languages' among the clips; the parts must sum to the model's own. Each head, and "
    "each block's cross-attention, is set to zero in turn: fall of the same difference. Intervals: 95 %, "
    "bootstrap over clips."
)
CLIPS, UNTRAINED_CLIPS = 50, 16
ENOUGH_CLIPS = 5  # of the rarest language
SHUFFLES = 20
DRAWS = 1000

READ = "clips whose language is first in what the cross-attention heads write together"
RANKS = "rank correlation of ablation and direct attribution over heads"
SUMS = "largest difference between the sum of the parts and the logit"
DETECTED = "clips whose language the model detects"


@dataclass(frozen=True, eq=False)
class Entry:
    """Readings of some clips. ``codes`` are the languages among the clips; ``true`` indexes them.

    detected: whether the true language is the likeliest of all language tokens.
    lens: its probability among all language tokens in each head's output.
    read: whether it is first among ``codes`` in the heads' summed output.
    direct, ablated: of the logit of the true language minus the mean of the others': what each head adds, and by how
        much it falls without the head; ``blocks`` without a block's cross-attention.
    parts: what every kind of part adds, with the names in ``kinds``.
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
    kinds: tuple[str, ...]
    parts: Float[np.ndarray, "kind clip"]
    error: float

    def ranks(self, rng: np.random.Generator) -> Estimate:
        """Rank correlation over heads of the means over clips, with a bootstrap over clips."""
        n = len(self.true)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n  # [draw, clip]
        samples = spearman_rows(weights @ self.ablated.T, weights @ self.direct.T)
        return Estimate.of(spearman(self.ablated.mean(1), self.direct.mean(1)), samples)


def languages_of(context: Context) -> list[str]:
    """One code per utterance: as its alignment says (``extra["language"]``), else for recordings what the model
    detects, else the context's."""
    told = [u.alignment.extra.get("language", "") for u in context.utterances]
    if context.reference == "model" and not all(told):
        heard = detect(context.model, context.encoded)
        return [a or b for a, b in zip(told, heard, strict=True)]
    return [a or context.language for a in told]


@torch.no_grad()
def detect(model: HookedWhisper, encoded: Float[Tensor, "clip position d_model"]) -> list[str]:
    """The likeliest language token after ``<|startoftranscript|>``, as a code."""
    ids, codes = list(model.tokenizer.all_language_tokens), list(model.tokenizer.all_language_codes)
    found: list[str] = []
    for some in encoded.split(ENCODER_BATCH):
        logits = model.logits(_start(model, len(some)), some)[:, 0, ids]
        found += [codes[k] for k in logits.argmax(-1).tolist()]
    return found


def _start(model: HookedWhisper, n: int) -> Int[Tensor, "clip 1"]:
    return torch.full((n, 1), model.tokenizer.sot, device=model.device)


@torch.no_grad()
def measure(model: HookedWhisper, encoded: Float[Tensor, "clip position d_model"], languages: Sequence[str]) -> Entry:
    """One decoder pass for all clips, and one per clip for all ablations; nothing is encoded.

    Raises:
        ValueError: fewer than two languages.
    """
    codes = tuple(sorted(set(languages)))
    if len(codes) < 2:
        raise ValueError(f"need clips of two languages or more, got {codes}")
    true = torch.tensor([codes.index(code) for code in languages], device=model.device)
    ids = torch.tensor([model.tokenizer.to_language_token(code) for code in codes], device=model.device)
    everyone = torch.tensor(list(model.tokenizer.all_language_tokens), device=model.device)
    logits, cache = model.run_with_cache(
        tokens=_start(model, len(encoded)), encoder_out=encoded, names=attribution_names("head")
    )
    assert logits is not None
    outputs, heads = cache.stack_head_results("decoder", cross=True)  # [head, clip, 1, d_model]
    norm, unembed = model.decoder.ln_final, model.W_U
    own = ids[true]
    alone = (norm.unhooked(outputs[:, :, 0]) @ unembed[:, everyone].to(outputs)).softmax(-1)
    together = norm.unhooked(outputs.sum(0)[:, 0]) @ unembed[:, ids].to(outputs)
    tables = [direct_logit_attribution(cache, int(one), parts="head") for one in ids]
    added = torch.stack([t.values[:, :, 0] for t in tables])  # [language, component, clip]
    difference = _against_others(added, true)
    labels, kinds = tables[0].labels, tables[0].kinds
    ablated, blocks = _ablations(model, encoded, ids, true)
    names = tuple(dict.fromkeys(kinds))
    return Entry(
        codes=codes,
        true=true.cpu().numpy(),
        heads=tuple(heads),
        detected=(everyone[logits[:, 0, everyone].argmax(-1)] == own).double().cpu().numpy(),
        lens=alone.gather(-1, _column(everyone, own).expand(len(heads), -1)[..., None])[..., 0].double().cpu().numpy(),
        read=(together.argmax(-1) == true).double().cpu().numpy(),
        direct=difference[[labels.index(h) for h in heads]].double().cpu().numpy(),
        ablated=ablated,
        blocks=blocks,
        kinds=names,
        parts=torch.stack([difference[[k == n for k in kinds]].sum(0) for n in names]).double().cpu().numpy(),
        error=max(t.error for t in tables),
    )


def _column(all_ids: Tensor, own: Tensor) -> Tensor:
    """Where each id stands in ``all_ids``."""
    return (all_ids[None, :] == own[:, None]).long().argmax(-1)


def _against_others(values: Float[Tensor, "language *rest clip"], true: Int[Tensor, "clip"]) -> Tensor:
    """The true language's value minus the mean of the others', ``[*rest, clip]``."""
    n = len(values)
    is_true = torch.nn.functional.one_hot(true, n).T.to(values)  # [language, clip]
    weights = is_true - (1 - is_true) / (n - 1)
    return (values * weights.reshape(n, *[1] * (values.dim() - 2), -1)).sum(0)


def _ablations(
    model: HookedWhisper, encoded: Float[Tensor, "clip position d_model"], ids: Tensor, true: Tensor
) -> tuple[Float[np.ndarray, "head clip"], Float[np.ndarray, "block clip"]]:
    """Fall of the logit difference with each head, and each block's cross-attention, set to zero: all in one batch."""
    cfg = model.cfg.decoder
    n = cfg.n_layers * cfg.n_heads
    one = torch.eye(n, device=model.device).view(n, cfg.n_layers, cfg.n_heads)
    block = torch.eye(cfg.n_layers, device=model.device)[..., None].expand(-1, -1, cfg.n_heads)
    keep = 1 - torch.cat([torch.zeros_like(one[:1]), one, block])  # [row, block, head]; the first row keeps all

    def cut(z: Tensor, layer: int) -> Tensor:
        return z * keep[:, layer, None, :, None].to(z)

    hooks = [(f"decoder.blocks.{k}.cross_attn.hook_z", lambda z, layer=k: cut(z, layer)) for k in range(cfg.n_layers)]
    falls = []
    with model.hooks(fwd_hooks=hooks):
        for clip, language in zip(encoded, true, strict=True):
            logits = model.logits(_start(model, len(keep)), clip[None])[:, 0, ids]  # [row, language]
            difference = _against_others(logits.T, language.expand(len(keep)))
            falls.append(difference[0] - difference[1:])
    table = torch.stack(falls, dim=1).double().cpu().numpy()
    return table[:n], table[n:]


def run(context: Context) -> Finding:
    """Nothing is encoded but the untrained model's clips; the ablations are one decoder pass per clip, of one token."""
    model = context.model
    if not context.utterances:
        return _finding(context, reason="no speech: pass --audio or --corpus of two languages or more")
    if not model.is_multilingual:
        return _finding(context, reason="this model knows English only: it has no language to detect")
    languages = languages_of(context)
    if len(set(languages)) < 2:
        return _finding(context, reason=_one_language(context, languages[0]))
    some = _balanced(languages, CLIPS)
    entry = measure(model, context.encoded[some], [languages[i] for i in some])
    few = _balanced(languages, UNTRAINED_CLIPS)
    with torch.no_grad():
        heard = [context.untrained.embed_audio(context.mels([i])) for i in context.track(few, "F12 untrained")]
    blank = measure(context.untrained, torch.cat(heard), [languages[i] for i in few])
    return _finding(context, entry, blank)


def _one_language(context: Context, code: str) -> str:
    if context.truth is None:
        return f"all clips are of one language ({code}): give recordings of two or more"
    return (
        f"this model was trained on one language ({code}) and all clips are of it, so nothing tells what stands for "
        "the language from what is always there: give a multilingual model and recordings of two languages or more"
    )


def _balanced(languages: Sequence[str], most: int) -> list[int]:
    """At most ``most`` indices, the languages in turn."""
    queues = [[i for i, one in enumerate(languages) if one == code] for code in sorted(set(languages))]
    turns = [q[k] for k in range(max(map(len, queues))) for q in queues if k < len(q)]
    return sorted(turns[:most])


def _statistics(entry: Entry, rng: np.random.Generator) -> dict[str, Estimate]:
    return {READ: _rate(entry.read, rng), RANKS: entry.ranks(rng)}


def _rate(hits: np.ndarray, rng: np.random.Generator) -> Estimate:
    return Estimate.of(float(hits.mean()), bootstrap(len(hits), lambda i: float(hits[i].mean()), rng))


def _finding(context: Context, entry: Entry | None = None, blank: Entry | None = None, reason: str = "") -> Finding:
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, PROTOCOL),
        "published_summary": "code only, 10 clips each of de, fr, es, ru, en; no number was published",
        "parameters": {"prefix": ["<|startoftranscript|>"], "clips": CLIPS, "untrained_clips": UNTRAINED_CLIPS},
    }
    if entry is None or blank is None:
        return Finding(**common, reason_untestable=reason)
    rng = context.rng("bootstrap of clips, F12")
    ours, direct = _statistics(entry, rng), entry.direct.mean(1)
    dealt = np.array([spearman(entry.ablated.mean(1), rng.permutation(direct)) for _ in range(SHUFFLES)])
    rarest = int(np.bincount(entry.true).min())
    criteria = (
        Criterion(READ, ours[READ], 0.8, "at least"),
        Criterion(RANKS, ours[RANKS], 0.5, "at least"),
        Criterion(SUMS, Estimate(entry.error), 1e-3, "at most", unit="logits"),
        Criterion(DETECTED, _rate(entry.detected, rng), 0.8, "at least", role="gate"),
        Criterion("clips of the rarest language", Estimate(rarest), ENOUGH_CLIPS, "at least", role="gate"),
    )
    controls = (
        Control("untrained model", f"random weights ({len(blank.true)} clips)", _statistics(blank, rng)),
        Control("chance", f"one of {len(entry.codes)} languages at random", {READ: Estimate(1 / len(entry.codes))}),
        Control(
            "heads in random order",
            f"direct attribution dealt to other heads ({SHUFFLES} times)",
            {RANKS: Estimate.of(float(np.nanmean(dealt)) if np.isfinite(dealt).any() else np.nan, dealt)},
        ),
    )
    return Finding(
        **common,
        criteria=criteria,
        controls=controls,
        measurements=_measurements(context, entry),
        notes=_notes(context, entry),
    )


def _measurements(context: Context, entry: Entry) -> tuple[Measurement, ...]:
    cfg = context.model.cfg.decoder
    block, head = Axis("block", tuple(range(cfg.n_layers))), Axis("head", tuple(range(cfg.n_heads)))
    languages = Axis("language", entry.codes)

    def of(values: np.ndarray) -> np.ndarray:
        """Mean over each language's clips, ``[language, block, head]``."""
        means = [values[:, entry.true == k].mean(1) for k in range(len(entry.codes))]
        return np.array(means).reshape(len(means), cfg.n_layers, cfg.n_heads)

    return (
        Measurement("probability of the language in a head's output", (languages, block, head), of(entry.lens)),
        Measurement("direct attribution", (languages, block, head), of(entry.direct), "logits"),
        Measurement("fall without the head", (languages, block, head), of(entry.ablated), "logits"),
        Measurement("fall without the block's cross-attention", (block,), entry.blocks.mean(1), "logits"),
        Measurement("sum by kind of part", (Axis("kind", entry.kinds),), entry.parts.mean(1), "logits"),
    )


def _notes(context: Context, entry: Entry) -> tuple[str, ...]:
    order = np.argsort(-entry.direct.mean(1))[:3]
    best = ", ".join(f"{entry.heads[k]} ({entry.direct[k].mean():.2f})" for k in order)
    notes = [
        f"Languages: {', '.join(f'{code} ({int((entry.true == k).sum())})' for k, code in enumerate(entry.codes))}.",
        f"Heads that add most to the logit difference: {best}.",
    ]
    if context.reference == "model":
        notes.append("Where nobody gave a clip's language, it is the one that the model itself detects.")
    return tuple(notes)


def draw(finding: Finding) -> list[Figure]:
    """Blocks by heads: direct attribution, and the fall without the head; the model beside its controls."""
    figures = [draw_controls(finding, 0, "share of clips")]
    for name, title in (
        ("direct attribution", "What each head adds"),
        ("fall without the head", "What is lost without it"),
    ):
        one = finding.measurement(name)
        values = one.values.mean(0)
        figure, axes = _figure(title, "cross-attention head", "decoder block")
        top = float(np.abs(values).max()) or 1.0
        image = axes.imshow(values, aspect="auto", cmap="PuOr", vmin=-top, vmax=top)
        axes.grid(False)
        axes.set_xticks(range(values.shape[1]))
        axes.set_yticks(range(values.shape[0]))
        figure.colorbar(image, ax=axes, label="logit difference")
        labels = [f"X{b}.{h}" for b in range(values.shape[0]) for h in range(values.shape[1])]
        figure.set_label(_in_words(title, values.flatten(), labels, "", 1.0))
        figures.append(figure)
    blocks = finding.measurement("fall without the block's cross-attention")
    figure, axes = _figure("Without a block's cross-attention", "fall of the logit difference", "decoder block")
    at = np.arange(len(blocks.values))
    axes.barh(at, blocks.values, color=BLUE)
    axes.set_yticks(at)
    axes.invert_yaxis()
    figure.set_label(_in_words("Fall without a block's cross-attention", blocks.values, [str(k) for k in at], "", 1.0))
    return [*figures, figure]
