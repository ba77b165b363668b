"""F6 on a small model whose clips are tones; and the packaged dictionaries that it reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.errors import CheckpointError
from hooked_whisper.findings.finding import STATUSES
from hooked_whisper.findings.registry import REGISTRY
from hooked_whisper.findings.serialise import load_findings, save_findings
from hooked_whisper.weights import weights_sha256
from sae_lens_audio import Metadata, Tied, TiedConfig, TopK, TopKConfig, demo_names, load_demo
from sae_lens_audio.activations import TensorBlocks
from sae_lens_audio.evals import gather_rows
from sae_lens_audio.findings import phone_features
from sae_lens_audio.formats import Loaded
from sae_lens_audio.training import Trainer, TrainingConfig
from tests.findings.phone_worlds import context_with_phones, spoken
from tests.sae.evals.worlds import tones

BLOCKS = (0, 1)
D = 32


@pytest.fixture(scope="module")
def made() -> dict[str, Loaded]:
    """Dictionaries trained on a few tones, of the context's model."""
    context = context_with_phones()
    found = {}
    for block in BLOCKS:
        hook = f"encoder.blocks.{block}.hook_resid_post"
        rows = gather_rows(context.model, tones(20), [hook])[hook]
        about = Metadata(hook_name=hook, checkpoint_sha256=weights_sha256(context.model))
        settings = TrainingConfig(steps=150, batch=256, lr=5e-3)
        topk = Trainer(TopK(TopKConfig(D, 128, k=6)), TensorBlocks(rows), settings).fit(progress=False)
        tied = Trainer(Tied(TiedConfig(D, 40)), TensorBlocks(rows), replace(settings, scale="none")).fit(progress=False)
        found |= {f"{k}-{block}": Loaded(s, about, Path(k)) for k, s in (("topk", topk), ("tied", tied))}
    return found


def test_the_finding_measures_what_it_judges(
    made: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(phone_features, "BLOCKS", BLOCKS)
    monkeypatch.setattr(phone_features, "load_demo", lambda name: made[name.replace("2", "0")])
    monkeypatch.setattr(phone_features, "_trained_on", lambda loaded: frozenset())
    monkeypatch.setattr(phone_features, "MOST_SPLICED", 4)
    context = context_with_phones(54)
    found = phone_features.run(context)
    assert found.status in STATUSES and found.id == "F6" and not found.error
    claims = {c.name: c.estimate for c in found.claims}
    assert list(claims) == [
        phone_features.C_COVERED, phone_features.C_BEYOND, phone_features.C_EXPLAINED, phone_features.C_DEAD,
        phone_features.C_WER,
    ]  # fmt: skip
    assert all(e.value is not None for e in claims.values())
    assert claims[phone_features.C_EXPLAINED].value > 0.5
    controls = {c.name: c.values for c in found.controls}
    assert controls["untrained dictionary"].keys() == claims.keys()
    assert controls["untrained dictionary"][phone_features.C_EXPLAINED].value < claims[phone_features.C_EXPLAINED].value
    # labels that have nothing to do with the sound are found by nothing
    assert controls["shifted labels"][phone_features.C_COVERED].value <= claims[phone_features.C_COVERED].value
    assert {g.name: g.estimate.value for g in found.gates}["phones judged"] == 14
    # it is worth as much on the disk, and is drawn from there
    save_findings(tmp_path / "findings.json", [found], model="small")
    (again,) = load_findings(tmp_path / "findings.json")
    for one in (found, again):
        assert [len(figure.axes) for figure in phone_features.draw(one)] == [1, 1, 1]
    assert len(found.tables[0].rows) == 2 * 10


def test_sentences_of_training_are_left_out(made: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stop(model, clips, *_, **__):
        seen.extend(clips)
        raise KeyboardInterrupt

    monkeypatch.setattr(phone_features, "load_demo", lambda name: made[name.replace("2", "0").replace("3", "1")])
    monkeypatch.setattr(phone_features, "_trained_on", lambda loaded: frozenset({"tones"}))
    monkeypatch.setattr(phone_features, "gather_rows", stop)
    utterances = spoken(6)
    others = tuple(replace(u, alignment=replace(u.alignment, text="new")) for u in utterances[::2])
    with pytest.raises(KeyboardInterrupt):
        phone_features.run(replace(context_with_phones(), utterances=(*utterances, *others)))
    assert seen, "one in four of those that are left"


def test_other_models_are_not_testable() -> None:
    assert "--alignments" in REGISTRY["F6"].run(context_with_phones()).status_reason
    found = REGISTRY["F6"].run(context_with_phones(3))
    assert found.status == "not testable" and not found.measurements
    for command in ("harvest", "train", "evaluate"):
        assert f"`sae-lens-audio {command} " in found.status_reason


def test_the_packaged_dictionaries_belong_to_the_demo_model() -> None:
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
