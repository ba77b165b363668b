"""F6 on the packaged demo model, here with tones as clips, and on other models, for which it trains SAEs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import AudioError, CheckpointError
from hooked_whisper.findings.core.finding import STATUSES
from hooked_whisper.findings.core.packing import n_packed
from hooked_whisper.findings.core.serialization import load_findings, save_findings
from hooked_whisper.findings.registry import REGISTRY
from hooked_whisper.loading import weights_sha256
from sae_lens_audio import Metadata, Tied, TiedConfig, TopK, TopKConfig, demo_names, load_demo
from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.evals import gather_rows
from sae_lens_audio.findings import demo_phone_features as demo
from sae_lens_audio.findings import packaged_saes, trained_saes
from sae_lens_audio.findings import phone_features_drawing as drawing
from sae_lens_audio.findings import trained_phone_features as released
from sae_lens_audio.findings.phone_features import PhoneFeatures
from sae_lens_audio.formats import LoadedSAE
from sae_lens_audio.training import Trainer, TrainingConfig
from tests.findings.phone_worlds import context_with_phones, spoken
from tests.sae.evals.clips import tones
from tests.sae.quick_phone_features import make_quick, recordings

BLOCKS = (0, 1)
D = 32


@pytest.fixture(scope="module")
def packaged() -> dict[str, LoadedSAE]:
    """SAEs trained on a few tones, of the context's model."""
    context = context_with_phones()
    saes = {}
    for block in BLOCKS:
        hook = f"encoder.blocks.{block}.hook_resid_post"
        rows = gather_rows(context.model, tones(20), [hook])[hook]
        about = Metadata(hook_name=hook, checkpoint_sha256=weights_sha256(context.model))
        settings = TrainingConfig(steps=150, batch=256, lr=5e-3)
        topk = Trainer(TopK(TopKConfig(D, 128, k=6)), TensorActivations(rows), settings).fit(progress=False)
        tied = Trainer(Tied(TiedConfig(D, 40)), TensorActivations(rows), replace(settings, scale="none")).fit(
            progress=False
        )
        saes |= {f"{k}-{block}": LoadedSAE(s, about, Path(k)) for k, s in (("topk", topk), ("tied", tied))}
    return saes


def test_the_finding_measures_what_it_judges(
    packaged: dict[str, LoadedSAE], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "BLOCKS", BLOCKS)
    monkeypatch.setattr(demo, "load_demo", lambda name: packaged[name.replace("2", "0")])
    monkeypatch.setattr(demo, "_trained_on", lambda loaded: frozenset())
    monkeypatch.setattr(demo, "MOST_ATTACHED", 4)
    context = context_with_phones(54)
    finding = PhoneFeatures().run(context)
    assert finding.status in STATUSES and finding.id == "F6" and not finding.error
    claims = {c.name: c.estimate for c in finding.claims}
    assert list(claims) == [
        demo.C_COVERED, demo.C_BEYOND, demo.C_EXPLAINED, demo.C_DEAD,
        demo.C_WER,
    ]  # fmt: skip
    assert all(e.value is not None for e in claims.values())
    assert claims[demo.C_EXPLAINED].value > 0.5
    controls = {c.name: c.values for c in finding.controls}
    assert controls["untrained dictionary"].keys() == claims.keys()
    assert controls["untrained dictionary"][demo.C_EXPLAINED].value < claims[demo.C_EXPLAINED].value
    # no feature detects labels that are unrelated to the sound
    assert controls["shifted labels"][demo.C_COVERED].value <= claims[demo.C_COVERED].value
    assert {g.name: g.estimate.value for g in finding.gates}["phones judged"] == 14
    # a saved finding is drawn alike
    save_findings(tmp_path / "findings.json", [finding], model="small")
    (again,) = load_findings(tmp_path / "findings.json")
    for version in (finding, again):
        assert [len(figure.axes) for figure in PhoneFeatures().draw(version)] == [1, 1, 1]
    assert len(finding.tables[0].rows) == 2 * 10


def test_sentences_of_training_are_left_out(packaged: dict[str, LoadedSAE], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stop(model, clips, *_, **__):
        seen.extend(clips)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "load_demo", lambda name: packaged[name.replace("2", "0").replace("3", "1")])
    monkeypatch.setattr(demo, "_trained_on", lambda loaded: frozenset({"tones"}))
    monkeypatch.setattr(demo, "gather_rows", stop)
    utterances = spoken(6)
    others = tuple(u.with_alignment(replace(u.alignment, text="new")) for u in utterances[::2])
    with pytest.raises(KeyboardInterrupt):
        PhoneFeatures().run(replace(context_with_phones(), utterances=(*utterances, *others)))
    assert seen, "one in four of those that are left"


def test_another_model_with_a_grammar_is_told_how_to_train_saes() -> None:
    assert "--alignments" in REGISTRY["F6"].run(context_with_phones()).status_reason
    finding = REGISTRY["F6"].run(context_with_phones(3))
    assert finding.status == "not testable" and not finding.measurements
    for command in ("collect", "train", "evaluate"):
        assert f"`sae-lens-audio {command} " in finding.status_reason


# Real Whisper: a model without a grammar ------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


def test_on_real_whisper_saes_are_trained_and_judged(
    quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = context_with_phones(24, truth=None)
    finding = REGISTRY["F6"].run(context)
    assert finding.status in STATUSES and not finding.error
    claims = {c.name: c.estimate for c in finding.claims}
    assert list(claims) == [released.C_FOUND, *released.C_BEYOND.values()]
    assert all(e.value is not None and e.low <= e.value <= e.high for e in claims.values())
    assert [c.values.keys() for c in finding.controls] == [claims.keys()] * 3
    assert finding.inputs["clips"] == 24 and finding.inputs["speakers judged"] == ["a", "b", "c"]
    assert finding.parameters["training recordings"] == 12
    # the criterion is of the block where the published form does worse
    share = finding.measurement(drawing.SHARE_BY_BASIS)
    assert claims[released.C_FOUND].value == pytest.approx(share.at(features=trained_saes.TIED, bound="value").min())
    curve = finding.measurement(drawing.CURVE).values
    assert curve.shape == (2, 2, trained_saes.POINTS) and (curve[..., -1] > curve[..., 0]).all()
    save_findings(tmp_path / "findings.json", [finding], model="small")
    (again,) = load_findings(tmp_path / "findings.json")
    for version in (finding, again):
        assert [len(figure.axes) for figure in PhoneFeatures().draw(version)] == [1, 1, 1, 1, 1]
    # SAEs are made once per context; those that explain too little are not judged
    saes = trained_saes.saes_of(context, ())
    assert n_packed(saes.clips) == 24
    monkeypatch.setattr(released, "EXPLAINED", 1.01)
    finding = PhoneFeatures().run(context)
    assert finding.status == "measured, no verdict"
    assert finding.deciding is not None and finding.deciding.name == released.C_EXPLAINED
    assert trained_saes.saes_of(context, ()) is saes


def test_saes_that_fit_the_checkpoint_are_used(
    quick: None, packaged: dict[str, LoadedSAE], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(b"weights")
    released_saes = {
        f"encoder.blocks.{name[-1]}/{name[:-2]}": replace(loaded, source=weights) for name, loaded in packaged.items()
    }

    def load_release(release: str, sae_id: str, **options: object) -> LoadedSAE:
        if sae_id not in released_saes:
            raise CheckpointError(f"no {sae_id}")
        return released_saes[sae_id]

    monkeypatch.setattr(packaged_saes, "load_release", load_release)
    context = context_with_phones(24, truth=None)
    finding = PhoneFeatures().run(context)
    assert finding.status in STATUSES and not finding.error
    digest = hashlib.sha256(b"weights").hexdigest()[:12]
    origins = finding.parameters["SAEs"]
    assert set(origins) == {f"{sae}, block {block}" for sae in trained_saes.ARCHITECTURES for block in BLOCKS}
    assert origins["tied L1, block 0"] == f"{context.model.cfg.name} encoder.blocks.0/tied-40, sha256 {digest}"
    assert "training positions" not in finding.parameters
    assert "trained beforehand" in finding.protocol and "of this run" not in finding.protocol
    assert drawing.CURVE not in [m.name for m in finding.measurements]
    assert len(PhoneFeatures().draw(finding)) == 4
    scores = trained_saes.saes_of(context, ())
    assert torch.equal(scores.blocks[0].saes["TopK"].W_enc, packaged["topk-0"].sae.W_enc)
    # an SAE of other weights is not used, and the missing one is trained
    wrong = replace(packaged["tied-1"].metadata, checkpoint_sha256="0" * 64)
    released_saes["encoder.blocks.1/tied"] = replace(packaged["tied-1"], metadata=wrong, source=weights)
    mixed = PhoneFeatures().run(replace(context, _cache={}))
    assert mixed.parameters["SAEs"]["tied L1, block 1"] == "trained in this run, 60 steps"
    assert mixed.parameters["SAEs"]["TopK, block 1"].startswith(context.model.cfg.name)
    assert "trained beforehand" in mixed.protocol and "of this run" in mixed.protocol
    # all are trained if that is asked for
    fresh = PhoneFeatures(saes="trained").run(replace(context, _cache={}))
    assert set(fresh.parameters["SAEs"].values()) == {"trained in this run, 60 steps"}


def test_detectors_have_the_scores_of_the_evaluation(quick: None) -> None:
    measured = released.TrainedPhoneFeatures().measure(context_with_phones(24, truth=None))
    for block in measured.blocks:
        for sae, detectors in block.detectors.items():
            scores = block.phones[sae]
            assert tuple(detectors) == scores.phones
            np.testing.assert_allclose([d.f1 for d in detectors.values()], scores.best_f1)
            for detector in detectors.values():
                harmonic = 2 / (1 / max(detector.precision, 1e-9) + 1 / max(detector.recall, 1e-9))
                assert detector.f1 == pytest.approx(harmonic, abs=1e-6)
        named = block.named["TopK"]
        assert set(named) == {"p", "n", "l"}, "the other names are not said"
        assert named["p"].detector.f1 == pytest.approx(block.detectors["TopK"]["p"].f1)
        assert named["p"].verdict in ("exists", "doubtful", "absent")


def test_rows_are_the_positions_within_phones() -> None:
    context = context_with_phones(3, truth=None)
    hook = "encoder.blocks.1.hook_resid_post"
    rows = trained_saes.speech_rows(context, context.utterances, [hook], "speech")[hook]
    expected = []
    for utterance in context.utterances:
        _, cache = context.model.run_with_cache(
            context.model.to_mel([utterance.samples]), names_filter=[hook], stop_early=True
        )
        expected.append(cache[hook][0, 9:51])  # 0.18 s to 1.02 s: silence before and after is left out
    assert torch.allclose(rows.float(), torch.cat(expected).detach(), atol=2e-3, rtol=2e-3)


def test_voices_and_texts_of_training_are_left_out() -> None:
    utterances = spoken(9)
    context = replace(context_with_phones(truth=None), utterances=utterances)
    spoken_by_a = [Recording("1", np.zeros(10), speaker="a", text="other")]
    assert {u.alignment.speaker for u in trained_saes.held_out_clips(context, spoken_by_a)} == {"b", "c"}
    assert trained_saes.held_out_clips(context, [Recording("1", np.zeros(10), speaker="d", text="tones")]) == ()


def test_reasons_name_their_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "training_speech", lambda: recordings(3))

    def reason(utterances: tuple) -> str:
        finding = PhoneFeatures().run(replace(context_with_phones(truth=None), utterances=utterances))
        assert finding.status == "not testable"
        return finding.status_reason

    clips = spoken(6)
    assert "--corpus" in reason(())
    assert "--alignments" in reason(tuple(u.with_alignment(replace(u.alignment, phones=())) for u in clips))
    assert "of 1 speaker" in reason(clips[::3])
    monkeypatch.setattr(released, "training_speech", lambda: [Recording("1", np.zeros(9), text="tones")])
    assert "pass another corpus" in reason(clips)

    def missing() -> list[Recording]:
        raise AudioError("no list")

    monkeypatch.setattr(released, "training_speech", missing)
    assert "release wheel" in reason(clips)


def test_large_activations_are_bounded() -> None:
    model, clips = context_with_phones().model, spoken(8)
    each = trained_saes.n_positions(model, clips[0])
    assert trained_saes.within(model, clips, 3 * each) == clips[:3]
    assert len(trained_saes.within(model, clips, 1)) == 1


def test_the_packaged_saes_belong_to_the_demo_model() -> None:
    assert demo_names() == ["tied-2", "tied-3", "topk-2", "topk-3"]
    model = HookedWhisper.from_pretrained("demo", device="cpu")
    digest = weights_sha256(model)
    x = torch.randn(5, 128)
    for name in demo_names():
        loaded = load_demo(name)
        kind, block = name.split("-")
        about = loaded.metadata
        assert about.hook_name == f"encoder.blocks.{block}.hook_resid_post" and about.checkpoint_sha256 == digest
        assert about.extra["held_out"]["explained_variance"] > 0.9 and about.extra["sentences"]["count"] > 0
        assert loaded.sae.encode(x).shape == (5, {"topk": 1024, "tied": 200}[kind])
        assert loaded.sae.W_enc.dtype == torch.float32 and loaded.log_sparsity is not None
        assert sum(f.stat().st_size for f in loaded.source.parent.iterdir()) < 600 * 1024
    with pytest.raises(CheckpointError, match="did you mean 'topk-2'"):
        load_demo("topk2")
