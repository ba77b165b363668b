"""F6 on the packaged demo model: its packaged SAEs, by criteria for a model whose speech is known entirely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.figures import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    add_legend,
    alt_text,
    draw_controls,
    new_figure,
)
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.phones.evaluation import DRAWS, ENOUGH_PHONES, ENOUGH_UTTERANCES
from hooked_whisper.protocols import SILENCE
from sae_lens_audio.architectures import SAE
from sae_lens_audio.demo import load_demo
from sae_lens_audio.evals.evaluate import EvaluationOptions, evaluate
from sae_lens_audio.evals.evaluation import Evaluation
from sae_lens_audio.evals.phones import PhoneScores
from sae_lens_audio.evals.rows import gather_rows
from sae_lens_audio.formats import Loaded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS = (2, 3)
MOST_SPLICED = 100
COVERED, BEYOND, DEAD, EXPLAINED, WORSE = 0.9, 0.1, 0.2, 0.9, 0.02

PROTOCOL = (
    "Packaged dictionaries of the demo model, trained on other sentences by other speakers: TopK with 8 features for "
    "every dimension (k 32), and the published form, tied and without decoder bias, 200 features, L1. Residual stream "
    "after blocks 2 and 3, at the positions of each clip in its 30 s window. A feature's best phone, sign and "
    "threshold come from other speakers than those its F1 is of. Each criterion is judged in the block where the TopK "
    "dictionary does worse on it. Splice: its reconstruction in place of the residual at the positions of the sound, "
    "greedy decoding. Controls: as many random directions through a ReLU, the same dictionary untrained, labels "
    "turned in a circle within each utterance. Intervals: 95 %, bootstrap over phones, and over clips for word "
    "errors; explained variance and dead features have none. The best feature of a phone is picked where it is "
    "judged: the random directions show what that alone gives."
)
C_COVERED = "share of phones with a feature of AUC 0.95"
C_BEYOND = "best feature's F1, mean over phones, beyond the residual's own axes"
C_DEAD = "share of dead features"
C_EXPLAINED = "explained variance"
C_WER = "word error rate spliced, less that without"


@dataclass(frozen=True, eq=False)
class _Block:
    """One block's dictionaries and what they score."""

    number: int
    found: Evaluation
    random: str  # name of the random directions of equal number

    @property
    def phones(self) -> Mapping[str, PhoneScores]:
        assert self.found.phones is not None
        return self.found.phones


def run(context: Context, common: dict[str, Any], published: Table) -> Finding:
    """The finding on the demo model. ``common``: id, claim and whatever else its record says of every model."""
    reason = _unfit(context)
    if reason:
        return Finding(**common, parameters={}, reason_untestable=reason)
    blocks = [_evaluate(context, number) for number in BLOCKS]
    return _judge(context, common, blocks, published)


def _unfit(context: Context) -> str:
    from hooked_whisper.loading import weights_sha256

    if not context.utterances or context.reference != "truth":
        return "there are no clips with texts and phones that are not the model's own: pass --corpus and --alignments"
    if load_demo("topk-2").metadata.checkpoint_sha256 != weights_sha256(context.model):
        name = context.model.cfg.name
        return (
            f"{name} has a grammar of its own and is not the packaged demo model, whose SAEs this finding has: train "
            f"SAEs with `sae-lens-audio collect --model {name} --hook encoder.blocks.2 --audio recordings --out acts` "
            "and `sae-lens-audio train topk.toml` (see docs/howto/dictionaries.md), and score them with "
            f"`sae-lens-audio evaluate runs/topk/sae --model {name} --audio recordings`"
        )
    if not any(i.label != SILENCE for u in context.utterances for i in u.alignment.phones):
        return "these clips have no phone alignment: pass --alignments, or run `hooked-whisper align`"
    return ""


def _evaluate(context: Context, number: int) -> _Block:
    topk, tied = load_demo(f"topk-{number}"), load_demo(f"tied-{number}")
    hook = str(topk.metadata.hook_name)
    known = _trained_on(topk)
    clips = [u for u in context.labelled if u.text not in known and any(i.label != SILENCE for i in u.alignment.phones)]
    device = context.model.device
    dictionaries = {
        "TopK": topk.sae.to(device),
        "tied L1": tied.sae.to(device),
        "untrained": _untrained(topk).to(device),
    }
    fitted = gather_rows(context.model, clips[::4], [hook], seed=context.seed)[hook]
    options = EvaluationOptions(
        attached_clips=MOST_SPLICED, padding_too=False, attach_baselines=False, language=context.language,
        seed=context.seed,
    )  # fmt: skip
    found = evaluate(context.model, dictionaries, hook, clips, fitted, options, progress=context.progress)
    return _Block(number, found, f"random x{topk.sae.n_features}")


def _trained_on(loaded: Loaded) -> frozenset[str]:
    """Sentences of the recordings that it was trained on, planned again."""
    from hooked_whisper.synthetic import SyntheticCorpus
    from hooked_whisper.synthetic.recordings import held_out_sentences

    made = loaded.metadata.extra.get("sentences", {})
    return frozenset(held_out_sentences(SyntheticCorpus.default(), int(made["count"]), int(made["seed"])))


def _untrained(loaded: Loaded) -> SAE:
    """The same architecture with fresh weights, centred and scaled by nothing but the trained one's ``b_dec``."""
    trained = loaded.sae
    assert isinstance(trained, SAE)
    fresh = type(trained)(trained.config, seed=1)
    with torch.no_grad():
        fresh.b_dec.copy_(trained.b_dec)
    return fresh.eval()


# Judging --------------------------------------------------------------------------------------------------------------


def _judge(context: Context, common: dict[str, Any], blocks: list[_Block], published: Table) -> Finding:
    rng = context.rng("F6")
    ours = [_measured(block, "TopK", rng) for block in blocks]
    random = [_phonetic(block, block.random, rng) for block in blocks]
    untrained = [_measured(block, "untrained", rng) for block in blocks]
    shifted = [_shifted(block, rng) for block in blocks]
    first = blocks[0].found
    return Finding(
        **common | {"inputs": common["inputs"] | {k: v for k, v in first.inputs.items() if k in ("clips", "seconds")}},
        parameters={"blocks": list(BLOCKS), "dictionaries": dict(first.saes), "draws": DRAWS},
        criteria=(
            Criterion(C_COVERED, _least(ours, C_COVERED), COVERED, "at least"),
            Criterion(C_BEYOND, _least(ours, C_BEYOND), BEYOND, "at least"),
            Criterion(C_EXPLAINED, _least(ours, C_EXPLAINED), EXPLAINED, "at least"),
            Criterion(C_DEAD, _most(ours, C_DEAD), DEAD, "at most"),
            Criterion(C_WER, _most(ours, C_WER), WORSE, "at most"),
            Criterion("clips", Estimate(_clips(first)), ENOUGH_UTTERANCES, "at least", role="gate"),
            Criterion(
                "phones judged", Estimate(len(blocks[0].phones["TopK"].phones)), ENOUGH_PHONES, "at least", role="gate"
            ),
        ),
        # a control is favoured: it is taken in the block where it does best
        controls=(
            Control("random directions", "as many, through a ReLU", _best(random)),
            Control(
                "untrained dictionary", "the same architecture, fresh weights about the same mean", _best(untrained)
            ),
            Control("shifted labels", "the dictionary's features, labels turned in a circle", _best(shifted)),
        ),
        measurements=(_by_basis(blocks), _by_phone(blocks)),
        tables=(_scores_table(blocks), _phones_table(blocks[-1])),
        published=(published,),
        notes=_notes(blocks),
        extra={"seeds": 1},
    )


def _clips(found: Evaluation) -> int:
    return len(found.attached.clips) if found.attached is not None else 0


def _measured(block: _Block, name: str, rng: np.random.Generator) -> dict[str, Estimate]:
    scores, spliced = block.found.reconstruction[name], block.found.attached
    assert spliced is not None
    return _phonetic(block, name, rng) | {
        C_EXPLAINED: Estimate(scores.explained_variance),
        C_DEAD: Estimate(scores.dead_fraction),
        C_WER: spliced.change("wer", name),
    }


def _phonetic(block: _Block, name: str, rng: np.random.Generator) -> dict[str, Estimate]:
    mine, axes = block.phones[name], block.phones["neurons"]
    return {C_COVERED: mine.covered_by_auc, C_BEYOND: _mean(mine.best_f1 - axes.best_f1, rng)}


def _shifted(block: _Block, rng: np.random.Generator) -> dict[str, Estimate]:
    mine, axes = block.phones["TopK"], block.phones["neurons"]
    beyond = _mean(mine.shifted_best_f1 - axes.shifted_best_f1, rng)
    return {C_COVERED: Estimate(mine.shifted_coverage), C_BEYOND: beyond}


def _mean(values: Float[np.ndarray, "phone"], rng: np.random.Generator) -> Estimate:
    drawn = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=DRAWS) @ values / len(values)
    return Estimate.of(float(values.mean()), drawn)


def _least(rows: list[dict[str, Estimate]], name: str) -> Estimate:
    return min((row[name] for row in rows), key=lambda e: np.inf if e.value is None else e.value)


def _most(rows: list[dict[str, Estimate]], name: str) -> Estimate:
    return max((row[name] for row in rows), key=lambda e: -np.inf if e.value is None else e.value)


def _best(rows: list[dict[str, Estimate]]) -> dict[str, Estimate]:
    return {name: (_least if name in (C_DEAD, C_WER) else _most)(rows, name) for name in rows[0]}


# Showing --------------------------------------------------------------------------------------------------------------


def _bases(block: _Block) -> dict[str, str]:
    """What is shown of each block -> its name there."""
    return {
        "TopK": "TopK", "tied L1": "tied L1", "untrained": "untrained", "random, as many": block.random,
        "residual axes": "neurons", "principal": "pca", "mel bands": "mel bands",
    }  # fmt: skip


def _by_basis(blocks: list[_Block]) -> Measurement:
    names = tuple(_bases(blocks[0]))
    values = [[block.phones[_bases(block)[name]].phone_f1.row for block in blocks] for name in names]
    axes = (Axis("features", names), Axis("block", BLOCKS), Axis("bound", ("value", "low", "high")))
    return Measurement("best feature's F1, mean over phones", axes, np.array(values))


def _by_phone(blocks: list[_Block]) -> Measurement:
    last = blocks[-1]
    shown = ("TopK", last.random, "neurons")
    axes = (Axis("features", ("TopK", "random, as many", "residual axes")), Axis("phone", last.phones["TopK"].phones))
    return Measurement(
        "best feature's F1 by phone, last block", axes, np.array([last.phones[n].best_f1 for n in shown])
    )


def _scores_table(blocks: list[_Block]) -> Table:
    columns = (
        "block", "features", "number", "L0", "explained variance", "dead", "WER spliced", "cross-entropy recovered",
        "mean best-phone F1", "share with F1 0.3", "phone's best F1", "phones covered (AUC)",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for block in blocks:
        spliced = block.found.attached
        assert spliced is not None
        for name, key in _bases(block).items():
            phones, scores = block.phones[key], block.found.reconstruction.get(key)
            spliced_here = key in spliced.conditions
            rows.append((
                str(block.number), name, str(phones.n_features),
                f"{scores.l0:.1f}" if scores else "", f"{scores.explained_variance:.3f}" if scores else "",
                f"{scores.dead_fraction:.1%}" if scores else "",
                f"{_value(spliced.wer(key)):.1%}" if spliced_here else "",
                f"{_value(spliced.recovered('cross_entropy', key)):.3f}" if spliced_here else "",
                f"{_value(phones.mean_f1):.3f}", f"{_value(phones.found_share):.2f}", f"{_value(phones.phone_f1):.3f}",
                f"{_value(phones.covered_by_auc):.2f}",
            ))  # fmt: skip
        for name in ("clean", "mean ablation", "zero ablation"):
            rows.append((str(block.number), name, *[""] * 4, f"{_value(spliced.wer(name)):.1%}", *[""] * 5))
    return Table("Scores by block", "this run, held-out speakers and sentences", columns, tuple(rows))


def _phones_table(block: _Block) -> Table:
    mine, axes = block.phones["TopK"], block.phones["neurons"]
    order = np.argsort(-mine.best_f1)
    rows = tuple(
        (
            mine.phones[i], str(mine.best_feature[i]), f"{mine.best_f1[i]:.2f}", f"{mine.best_auc[i]:.3f}",
            f"{axes.best_f1[i]:.2f}", f"{mine.shifted_best_f1[i]:.2f}",
        )
        for i in order
    )  # fmt: skip
    columns = ("phone", "feature", "F1", "AUC of the best", "F1 of the best axis", "F1, shifted labels")
    return Table(f"Each phone's best TopK feature, block {block.number}", "this run", columns, rows)


def _notes(blocks: list[_Block]) -> tuple[str, ...]:
    parts = []
    for block in blocks:
        topk, tied = block.found.reconstruction["TopK"], block.found.reconstruction["tied L1"]
        parts.append(
            f"block {block.number}: TopK explains {topk.explained_variance:.3f} of the variance with {topk.l0:.0f} of "
            f"{topk.n_features} features, the tied form {tied.explained_variance:.3f} with {tied.l0:.0f} of "
            f"{tied.n_features}"
        )
    return (
        f"Reconstruction: {'; '.join(parts)}. The width of the residual stream is 128.",
        "One seed. Features' numbers mean nothing beyond these files.",
    )


def _value(estimate: Estimate) -> float:
    return float("nan") if estimate.value is None else float(estimate.value)


def draw(finding: Finding) -> list[Figure]:
    """Controls; F1 by kind of features and block; F1 by phone."""
    if not finding.measurements:
        return []
    by_basis = finding.measurement("best feature's F1, mean over phones")
    names, blocks = by_basis.axis("features").entries, by_basis.axis("block").entries
    second, axes = new_figure("How well phones are found", "F1 of the best feature, mean over phones", "")
    places = np.arange(len(names))[::-1]
    for i, (block, colour) in enumerate(zip(blocks, (BLUE, GREEN), strict=True)):
        values = by_basis.at(block=block)
        error = np.abs(values[:, 1:] - values[:, :1]).T
        axes.barh(
            places + 0.2 - 0.4 * i, values[:, 0], 0.36, color=colour, label=f"block {block}", xerr=error, capsize=2
        )
    axes.set_yticks(places, names)
    add_legend(axes, below=True)
    last = by_basis.at(block=blocks[-1], bound="value")
    second.set_label(alt_text(f"F1 of a phone's best feature, block {blocks[-1]}", last, names, "", 1.0))
    by_phone = finding.measurement("best feature's F1 by phone, last block")
    order = np.argsort(-by_phone.at(features="TopK"))
    third, axes = new_figure(f"Phone by phone, block {blocks[-1]}", "phone", "F1 of its best feature")
    looks = {"TopK": (BLUE, "o"), "random, as many": (ORANGE, "^"), "residual axes": (GRAY, "x")}
    for name, (colour, marker) in looks.items():
        axes.plot(by_phone.at(features=name)[order], color=colour, marker=marker, linestyle="", label=name)
    phones = [by_phone.axis("phone").entries[i] for i in order]
    axes.set_xticks(range(len(phones)), phones, fontsize=8)
    axes.set_ylim(0, 1)
    add_legend(axes, below=True)
    third.set_label(
        alt_text("F1 of each phone's best TopK feature", by_phone.at(features="TopK")[order], phones, "", 1.0)
    )
    return [draw_controls(finding, 0, "share of phones"), second, third]
