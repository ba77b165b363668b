"""F6 on the packaged demo model: its packaged SAEs, by criteria for a model whose speech is known entirely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
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
from sae_lens_audio.evals.attached import AttachedScores
from sae_lens_audio.evals.evaluate import EvaluationOptions, evaluate
from sae_lens_audio.evals.evaluation import Evaluation
from sae_lens_audio.evals.phones import COVERS_F1, PhoneScores
from sae_lens_audio.evals.rows import gather_rows
from sae_lens_audio.findings.estimates import least, most
from sae_lens_audio.findings.published import CLAIM, SUMMARY, TIED_FEATURES_BY_EAR
from sae_lens_audio.formats import LoadedSAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS = (2, 3)
MOST_ATTACHED = 100
COVERED, BEYOND, DEAD, EXPLAINED, WORSE = 0.9, 0.1, 0.2, 0.9, 0.02

PROTOCOL = (
    "Packaged SAEs of the demo model, trained on other sentences by other speakers: TopK with 8 features per dimension "
    "(k 32), and the published form (tied, no decoder bias, 200 features, L1). Activations: the residual stream after "
    "blocks 2 and 3, at the positions of each clip in its 30 s window. A feature's best phone, sign and threshold come "
    "from speakers other than those its F1 is computed on. Each criterion is judged in the block where the TopK SAE "
    "does worse. Attached: its reconstruction replaces the residual at the positions of the sound, with greedy "
    "decoding. Controls: as many random directions through a ReLU, the same SAE untrained, and labels rotated within "
    "each utterance. Intervals: 95 %, bootstrap over phones, and over clips for word errors; explained variance and "
    "dead features have none. The best feature of a phone is selected on the data it is scored on; the random "
    "directions show the effect of that selection."
)
C_COVERED = "share of phones with a feature of AUC 0.95"
C_BEYOND = "best feature's F1, mean over phones, beyond the residual's own axes"
C_DEAD = "share of dead features"
C_EXPLAINED = "explained variance"
C_WER = "word error rate spliced, less that without"


@dataclass(frozen=True, eq=False)
class DemoBlock:
    """The SAEs of one block and their scores. random: name of the equally many random directions in the evaluation."""

    number: int
    evaluation: Evaluation
    random: str

    @property
    def phones(self) -> Mapping[str, PhoneScores]:
        return self.evaluation.phones

    @property
    def attached(self) -> AttachedScores:
        assert self.evaluation.attached is not None
        return self.evaluation.attached


class DemoPhoneFeatures(Experiment[tuple[DemoBlock, ...]]):
    """F6 on the packaged demo model."""

    id, title, claim, protocol = "F6", "Features for phones", CLAIM, PROTOCOL
    published, published_summary = (TIED_FEATURES_BY_EAR,), SUMMARY

    def measure(self, context: Context) -> tuple[DemoBlock, ...]:
        """Evaluate the packaged SAEs of each block."""
        _check_context(context)
        return tuple(_evaluate(context, number) for number in BLOCKS)

    def judge(self, measured: tuple[DemoBlock, ...], setting: Setting) -> Finding:
        rng, blocks = setting.rng(self.id), measured
        topk = [_measured(block, "TopK", rng) for block in blocks]
        random = [_phonetic(block, block.random, rng) for block in blocks]
        untrained = [_measured(block, "untrained", rng) for block in blocks]
        shifted = [_shifted(block, rng) for block in blocks]
        first = blocks[0]
        return self.finding(
            setting,
            inputs=setting.inputs | {key: first.evaluation.inputs[key] for key in ("clips", "seconds")},
            parameters={"blocks": list(BLOCKS), "dictionaries": dict(first.evaluation.saes), "draws": DRAWS},
            criteria=(
                Criterion(C_COVERED, least(topk, C_COVERED), COVERED, "at least"),
                Criterion(C_BEYOND, least(topk, C_BEYOND), BEYOND, "at least"),
                Criterion(C_EXPLAINED, least(topk, C_EXPLAINED), EXPLAINED, "at least"),
                Criterion(C_DEAD, most(topk, C_DEAD), DEAD, "at most"),
                Criterion(C_WER, most(topk, C_WER), WORSE, "at most"),
                Criterion("clips", Estimate(len(first.attached.clips)), ENOUGH_UTTERANCES, "at least", role="gate"),
                Criterion(
                    "phones judged", Estimate(len(first.phones["TopK"].phones)), ENOUGH_PHONES, "at least", role="gate"
                ),
            ),
            # controls get their best block, which favors them
            controls=(
                Control("random directions", "as many, through a ReLU", _best(random)),
                Control(
                    "untrained dictionary", "the same architecture, fresh weights about the same mean", _best(untrained)
                ),
                Control("shifted labels", "the SAE's features, labels rotated within each utterance", _best(shifted)),
            ),
            measurements=(_by_basis(blocks), _by_phone(blocks)),
            tables=(_scores_table(blocks), _phones_table(blocks[-1])),
            notes=_notes(blocks),
            extra={"seeds": 1},
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw controls, F1 by kind of features and block, and F1 by phone."""
        return _draw(finding) if finding.measurements else []


def _check_context(context: Context) -> None:
    """
    Raises:
        Untestable: the clips have no texts or phones, or the model is not the packaged demo model.
    """
    from hooked_whisper.loading import weights_sha256

    if not context.utterances or context.reference != "truth":
        raise Untestable(
            "there are no clips with texts and phones from outside the model: pass --corpus and --alignments"
        )
    if load_demo("topk-2").metadata.checkpoint_sha256 != weights_sha256(context.model):
        name = context.model.cfg.name
        raise Untestable(
            f"{name} was trained on a synthetic corpus, but this finding uses SAEs of the packaged demo model: train "
            f"SAEs with `sae-lens-audio collect --model {name} --hook encoder.blocks.2 --audio recordings --out acts` "
            "and `sae-lens-audio train topk.toml` (see docs/howto/dictionaries.md), and score them with "
            f"`sae-lens-audio evaluate runs/topk/sae --model {name} --audio recordings`"
        )
    if not any(i.label != SILENCE for u in context.utterances for i in u.alignment.phones):
        raise Untestable("these clips have no phone alignment: pass --alignments, or run `hooked-whisper align`")


def _evaluate(context: Context, number: int) -> DemoBlock:
    topk, tied = load_demo(f"topk-{number}"), load_demo(f"tied-{number}")
    hook = str(topk.metadata.hook_name)
    trained_on = _trained_on(topk)
    clips = [
        u for u in context.labelled if u.text not in trained_on and any(i.label != SILENCE for i in u.alignment.phones)
    ]
    device = context.model.device
    saes = {
        "TopK": topk.sae.to(device),
        "tied L1": tied.sae.to(device),
        "untrained": _untrained(topk).to(device),
    }
    fitted = gather_rows(context.model, clips[::4], [hook], seed=context.seed)[hook]
    options = EvaluationOptions(
        attached_clips=MOST_ATTACHED, padding_too=False, attach_baselines=False, language=context.language,
        seed=context.seed,
    )  # fmt: skip
    evaluation = evaluate(context.model, saes, hook, clips, fitted, options, progress=context.progress)
    return DemoBlock(number, evaluation, f"random x{topk.sae.n_features}")


def _trained_on(loaded: LoadedSAE) -> frozenset[str]:
    """Return the sentences of its training recordings, planned again."""
    from hooked_whisper.synthetic import SyntheticCorpus
    from hooked_whisper.synthetic.recordings import held_out_sentences

    sentences = loaded.metadata.extra.get("sentences", {})
    return frozenset(held_out_sentences(SyntheticCorpus.default(), int(sentences["count"]), int(sentences["seed"])))


def _untrained(loaded: LoadedSAE) -> SAE:
    """Return the same architecture with fresh weights, centered with the trained ``b_dec``."""
    trained = loaded.sae
    assert isinstance(trained, SAE)
    fresh = type(trained)(trained.config, seed=1)
    with torch.no_grad():
        fresh.b_dec.copy_(trained.b_dec)
    return fresh.eval()


# Judging --------------------------------------------------------------------------------------------------------------


def _measured(block: DemoBlock, name: str, rng: np.random.Generator) -> dict[str, Estimate]:
    scores = block.evaluation.reconstruction[name]
    return _phonetic(block, name, rng) | {
        C_EXPLAINED: Estimate(scores.explained_variance),
        C_DEAD: Estimate(scores.dead_fraction),
        C_WER: block.attached.change("wer", name),
    }


def _phonetic(block: DemoBlock, name: str, rng: np.random.Generator) -> dict[str, Estimate]:
    scores, axes = block.phones[name], block.phones["neurons"]
    return {C_COVERED: scores.covered_by_auc, C_BEYOND: _mean(scores.best_f1 - axes.best_f1, rng)}


def _shifted(block: DemoBlock, rng: np.random.Generator) -> dict[str, Estimate]:
    scores, axes = block.phones["TopK"], block.phones["neurons"]
    beyond = _mean(scores.shifted_best_f1 - axes.shifted_best_f1, rng)
    return {C_COVERED: Estimate(scores.shifted_coverage), C_BEYOND: beyond}


def _mean(values: Float[np.ndarray, "phone"], rng: np.random.Generator) -> Estimate:
    drawn = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=DRAWS) @ values / len(values)
    return Estimate.of(float(values.mean()), drawn)


def _best(rows: list[dict[str, Estimate]]) -> dict[str, Estimate]:
    return {name: (least if name in (C_DEAD, C_WER) else most)(rows, name) for name in rows[0]}


# Showing --------------------------------------------------------------------------------------------------------------


def _bases(block: DemoBlock) -> dict[str, str]:
    """Return the name in the evaluation of everything shown of a block."""
    return {
        "TopK": "TopK", "tied L1": "tied L1", "untrained": "untrained", "random, as many": block.random,
        "residual axes": "neurons", "principal": "pca", "mel bands": "mel bands",
    }  # fmt: skip


def _by_basis(blocks: Sequence[DemoBlock]) -> Measurement:
    names = tuple(_bases(blocks[0]))
    values = [[block.phones[_bases(block)[name]].phone_f1.row for block in blocks] for name in names]
    axes = (Axis("features", names), Axis("block", BLOCKS), Axis("bound", ("value", "low", "high")))
    return Measurement("best feature's F1, mean over phones", axes, np.array(values))


def _by_phone(blocks: Sequence[DemoBlock]) -> Measurement:
    last = blocks[-1]
    shown = ("TopK", last.random, "neurons")
    axes = (Axis("features", ("TopK", "random, as many", "residual axes")), Axis("phone", last.phones["TopK"].phones))
    return Measurement(
        "best feature's F1 by phone, last block", axes, np.array([last.phones[n].best_f1 for n in shown])
    )


def _scores_table(blocks: Sequence[DemoBlock]) -> Table:
    columns = (
        "block", "features", "number", "L0", "explained variance", "dead", "WER attached", "cross-entropy recovered",
        "mean best-phone F1", "share with F1 0.3", "phone's best F1", "phones covered (AUC)", "phones covered (F1 0.7)",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for block in blocks:
        attached = block.attached
        for name, key in _bases(block).items():
            phones, scores = block.phones[key], block.evaluation.reconstruction.get(key)
            was_attached = key in attached.conditions
            rows.append((
                str(block.number), name, str(phones.n_features),
                f"{scores.l0:.1f}" if scores else "", f"{scores.explained_variance:.3f}" if scores else "",
                f"{scores.dead_fraction:.1%}" if scores else "",
                f"{_value(attached.wer(key)):.1%}" if was_attached else "",
                f"{_value(attached.recovered('cross_entropy', key)):.3f}" if was_attached else "",
                f"{_value(phones.mean_f1):.3f}", f"{_value(phones.found_share):.2f}", f"{_value(phones.phone_f1):.3f}",
                f"{_value(phones.covered_by_auc):.2f}", f"{(phones.best_f1 >= COVERS_F1).mean():.2f}",
            ))  # fmt: skip
        for name in ("clean", "mean ablation", "zero ablation"):
            rows.append((str(block.number), name, *[""] * 4, f"{_value(attached.wer(name)):.1%}", *[""] * 6))
    return Table("Scores by block", "this run, held-out speakers and sentences", columns, tuple(rows))


def _phones_table(block: DemoBlock) -> Table:
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


def _notes(blocks: Sequence[DemoBlock]) -> tuple[str, ...]:
    parts = []
    for block in blocks:
        topk, tied = block.evaluation.reconstruction["TopK"], block.evaluation.reconstruction["tied L1"]
        parts.append(
            f"block {block.number}: TopK explains {topk.explained_variance:.3f} of the variance with {topk.l0:.0f} of "
            f"{topk.n_features} features, the tied form {tied.explained_variance:.3f} with {tied.l0:.0f} of "
            f"{tied.n_features}"
        )
    return (
        f"Reconstruction: {'; '.join(parts)}. The width of the residual stream is 128.",
        "One seed. The indices of features are specific to these files.",
    )


def _value(estimate: Estimate) -> float:
    return float("nan") if estimate.value is None else float(estimate.value)


def _draw(finding: Finding) -> list[Figure]:
    by_basis = finding.measurement("best feature's F1, mean over phones")
    names, blocks = by_basis.axis("features").entries, by_basis.axis("block").entries
    second, axes = new_figure("Phone detection", "F1 of the best feature, mean over phones", "")
    places = np.arange(len(names))[::-1]
    for i, (block, color) in enumerate(zip(blocks, (BLUE, GREEN), strict=True)):
        values = by_basis.at(block=block)
        error = np.abs(values[:, 1:] - values[:, :1]).T
        axes.barh(
            places + 0.2 - 0.4 * i, values[:, 0], 0.36, color=color, label=f"block {block}", xerr=error, capsize=2
        )
    axes.set_yticks(places, names)
    add_legend(axes, below=True)
    last = by_basis.at(block=blocks[-1], bound="value")
    second.set_label(alt_text(f"F1 of a phone's best feature, block {blocks[-1]}", last, names, "", 1.0))
    by_phone = finding.measurement("best feature's F1 by phone, last block")
    order = np.argsort(-by_phone.at(features="TopK"))
    third, axes = new_figure(f"Phone by phone, block {blocks[-1]}", "phone", "F1 of its best feature")
    looks = {"TopK": (BLUE, "o"), "random, as many": (ORANGE, "^"), "residual axes": (GRAY, "x")}
    for name, (color, marker) in looks.items():
        axes.plot(by_phone.at(features=name)[order], color=color, marker=marker, linestyle="", label=name)
    phones = [by_phone.axis("phone").entries[i] for i in order]
    axes.set_xticks(range(len(phones)), phones, fontsize=8)
    axes.set_ylim(0, 1)
    add_legend(axes, below=True)
    third.set_label(
        alt_text("F1 of each phone's best TopK feature", by_phone.at(features="TopK")[order], phones, "", 1.0)
    )
    return [draw_controls(finding, 0, "share of phones"), second, third]
