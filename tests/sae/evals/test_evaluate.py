"""A whole evaluation on a small model: scores beside baselines, JSON and back, a sheet of figures, hostile input."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hooked_whisper import HookedWhisper
from hooked_whisper.errors import ArgumentError, CheckpointError, ShapeError, UnknownHookError
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.labeled_evaluation import features_of_clips
from sae_lens_audio.architectures import (
    Crosscoder,
    CrosscoderConfig,
    NormalizedSAE,
    TopK,
    TopKConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
)
from sae_lens_audio.evals.attached import CLEAN, MEAN, ZERO
from sae_lens_audio.evals.baselines import linear_bases, sparse_baselines
from sae_lens_audio.evals.evaluate import EvaluationOptions, evaluate
from sae_lens_audio.evals.evaluation import Evaluation, load_evaluation
from sae_lens_audio.evals.phones import PhoneOptions
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from sae_lens_audio.evals.serialization import to_text
from sae_lens_audio.evals.sheet import draw_sheet, to_png
from tests.findings.worlds import small_model
from tests.sae.evals.clips import HOOK, sentences, tones

D = 32
OPTIONS = EvaluationOptions(attached_clips=2, phones=PhoneOptions(min_tokens=10))


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


@pytest.fixture(scope="module")
def rows(model: HookedWhisper) -> torch.Tensor:
    return features_of_clips(model, tones(16)[12:], {"rows": HookBasis(HOOK)})["rows"]


def saes() -> dict[str, TopK | NormalizedSAE]:
    return {
        "first": TopK(TopKConfig(D, 40, k=3)),
        "second": TopK(TopKConfig(D, 40, k=5), seed=1),
        "scaled": NormalizedSAE(TopK(TopKConfig(D, 24, k=3), seed=2), "layer_norm"),
    }


@pytest.fixture(scope="module")
def evaluation(model: HookedWhisper, rows: torch.Tensor) -> Evaluation:
    return evaluate(
        model,
        saes(),
        "encoder.blocks.1",
        tones(12),
        rows,
        OPTIONS,
        seeds=("first", "second"),
        about={"corpus": "tones"},
    )


def test_baselines_have_the_l0_of_the_saes(evaluation: Evaluation) -> None:
    assert evaluation.hook == evaluation.hook_out == HOOK
    assert dict(evaluation.saes) == {
        "first": "topk, 40 features",
        "second": "topk, 40 features",
        "scaled": "topk, 24 features",
    }
    baselines = [f"{basis} k={k}" for k in (3, 5) for basis in ("neurons", "pca", "random")]
    assert list(evaluation.baselines) == baselines
    assert list(evaluation.reconstruction) == [*saes(), *baselines]
    assert evaluation.attached is not None
    padded = [f"{name}, padding too" for name in saes()]
    assert list(evaluation.attached.conditions) == [CLEAN, *saes(), *baselines, MEAN, ZERO, *padded]
    assert list(evaluation.phones) == [*saes(), "neurons", "pca", "random", "random x40", "mel bands"]
    assert evaluation.stability is not None and len(evaluation.stability.pairs) == 1
    assert (
        evaluation.inputs["clips"] == 12
        and evaluation.inputs["speakers"] == 3
        and evaluation.inputs["corpus"] == "tones"
    )
    assert evaluation.inputs["attached clips"] == 2 and evaluation.notes == ()


def test_scores_are_those_of_the_pieces(evaluation: Evaluation, model: HookedWhisper, rows: torch.Tensor) -> None:
    x = features_of_clips(model, tones(12), {"rows": HookBasis(HOOK)})["rows"]
    assert evaluation.inputs["rows"] == len(x)
    codes = {**saes(), **{f"{n} k={b.k}": b for n, b in sparse_baselines(linear_bases(rows), 5).items()}}
    for name, coder in codes.items():
        again = ReconstructionScores.of(coder, x)
        for score in ("l0", "explained_variance", "explained_variance_per_position", "cosine"):
            assert getattr(evaluation.reconstruction[name], score) == pytest.approx(getattr(again, score), rel=1e-4), (
                name
            )


def test_rows_and_table_cover_everything_scored(evaluation: Evaluation) -> None:
    table = {row["name"]: row for row in evaluation.rows()}
    assert table["first"]["kind"] == "SAE" and table["pca k=3"]["kind"] == "baseline"
    assert table["mel bands"]["kind"] == "control" and table[ZERO]["kind"] == "condition"
    assert table["pca k=3"]["phone_f1"] == evaluation.phones["pca"].phone_f1
    assert table["first"]["wer"].low <= table["first"]["wer"].value <= table["first"]["wer"].high
    assert "wer_change" not in table[CLEAN] and "kl_recovered_from_zero" not in table[ZERO]
    text = str(evaluation)
    for word in ("first", "pca k=5", "3 / 32", "WER", "recovered", "coverage", "found again"):
        assert word in text, word
    assert "nan" not in text.lower()


@pytest.fixture(scope="module")
def saved(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    evaluation.save(folder)
    return folder


def test_json_and_back(evaluation: Evaluation, saved: Path) -> None:
    text = (saved / "scores.json").read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
    assert data == json.loads(json.dumps(evaluation.to_json()))
    assert data["table"][0]["wer"] == evaluation.attached.wer("first").row
    assert max(map(len, text.splitlines())) < 50_000
    for place in (saved, saved / "scores.json"):
        again = load_evaluation(place)
        assert str(again) == str(evaluation) and again.to_json() == evaluation.to_json()
        assert again.phones["pca"].alive.dtype == bool and again.attached.conditions[CLEAN].errors.dtype == np.int64
    assert Image.open(saved / "scores.png").width > 1000


def test_a_failed_save_keeps_the_old_files(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scores.json").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        replace(evaluation, attached=None, phones={}).save(tmp_path)
    assert (tmp_path / "scores.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("missing", ["attached", "phones", "both"])
def test_sheets_of_parts(evaluation: Evaluation, missing: str) -> None:
    part = replace(
        evaluation,
        attached=None if missing in ("attached", "both") else evaluation.attached,
        phones={} if missing in ("phones", "both") else evaluation.phones,
        stability=None,
    )
    picture = Image.open(io.BytesIO(to_png(draw_sheet(part))))
    assert picture.width > 1000 and picture.height > 400 and np.asarray(picture.convert("L")).std() > 10
    assert "nan" not in str(part)


def test_missing_shards_and_chunks_are_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    scores = {f.name: getattr(evaluation.reconstruction["first"], f.name) for f in fields(ReconstructionScores)}
    undefined = ReconstructionScores(**scores | {"explained_variance": float("nan"), "relative_bias": float("inf")})
    odd = replace(evaluation, reconstruction={**evaluation.reconstruction, "first": undefined})
    (tmp_path / "scores.json").write_text(to_text(odd.to_json()))
    data = json.loads((tmp_path / "scores.json").read_text())
    assert data["reconstruction"]["first"]["explained_variance"] is None
    assert np.isnan(load_evaluation(tmp_path).reconstruction["first"].explained_variance)
    assert "–" in str(odd) and to_png(draw_sheet(replace(odd, attached=None, phones={})))


def test_files_that_are_not_evaluations(evaluation: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_evaluation(tmp_path / "none.json")
    file, whole = tmp_path / "scores.json", evaluation.to_json()
    broken = {
        "is not JSON": "{",
        "not an evaluation": "[]",
        "of this version": json.dumps({**whole, "format": "sae_lens_audio/evaluation/0"}),
        "has no 'phones'": json.dumps({k: v for k, v in whole.items() if k != "phones"}),
        "has no 'hook'": json.dumps({k: v for k, v in whole.items() if k != "hook"}),
        "'density' of ReconstructionScores is damaged": json.dumps(
            {**whole, "reconstruction": {"first": {**whole["reconstruction"]["first"], "density": "x"}}}
        ),
        "has no 'names' of Match": json.dumps({**whole, "stability": {"random": [], "itself": {}}}),
    }
    for message, text in broken.items():
        file.write_text(text)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_evaluation(tmp_path)
        assert "scores.json" in str(caught.value)


def test_transcoders(model: HookedWhisper) -> None:
    coder = TopKTranscoder(TopKTranscoderConfig(D, 40, d_out=D, k=3, skip=True))
    hooks = ("encoder.blocks.1.hook_mlp_in", "encoder.blocks.1.hook_mlp_out")
    fitted = features_of_clips(model, tones(3), {name: HookBasis(name) for name in hooks})
    pair = fitted[hooks[0]], fitted[hooks[1]]
    options = replace(OPTIONS, attached_clips=1)
    evaluation = evaluate(model, {"t": coder}, hooks[0], tones(6), pair, options, hook_out=hooks[1])
    assert (evaluation.hook, evaluation.hook_out) == hooks
    x = features_of_clips(model, tones(6), {name: HookBasis(name) for name in hooks})
    by_hand = ReconstructionScores.of(coder, [(x[hooks[0]], x[hooks[1]])])
    assert evaluation.reconstruction["t"].explained_variance == pytest.approx(by_hand.explained_variance, rel=1e-4)
    out = ReconstructionScores.of(sparse_baselines(linear_bases(pair[1]), 3)["pca"], x[hooks[1]])
    assert evaluation.reconstruction["pca k=3"].explained_variance == pytest.approx(out.explained_variance, rel=1e-4)
    with pytest.raises(ArgumentError, match="hook_out="):
        evaluate(model, {"t": coder}, hooks[0], tones(6), pair)
    with pytest.raises(ArgumentError, match="not a transcoder"):
        evaluate(model, saes(), hooks[0], tones(6), pair, hook_out=hooks[1])


def test_points_of_the_decoder_have_no_phones(model: HookedWhisper) -> None:
    hook, clips = "decoder.blocks.0.hook_resid_post", sentences(3)
    fitted = torch.randn(50, D, generator=torch.Generator().manual_seed(0))
    evaluation = evaluate(model, {"first": saes()["first"]}, hook, clips, fitted, OPTIONS)
    n_tokens = sum(len(model.tokenizer.encode(f" {c.alignment.text}")) for c in clips)
    assert evaluation.inputs["rows"] == n_tokens and evaluation.phones == {}
    (note,) = evaluation.notes
    assert note.startswith("no phones: decoder.blocks.0.hook_resid_post [batch, token, d_model] has no vector")
    assert evaluation.attached is not None and evaluation.attached.where == "text"


def test_skipped_scores_are_noted(model: HookedWhisper, rows: torch.Tensor) -> None:
    coder = {"first": saes()["first"]}
    silent = [c.with_alignment(replace(c.alignment, text="")) for c in sentences(2)]
    evaluation = evaluate(model, coder, HOOK, silent, rows, replace(OPTIONS, rows=20))
    assert [note.split(":")[0] for note in evaluation.notes] == ["no phones", "not attached"]
    assert evaluation.attached is None and 0 < evaluation.inputs["rows"] < 50
    rare = evaluate(model, coder, HOOK, tones(4), rows, EvaluationOptions(attached_clips=0, rows=100))
    assert len(rare.notes) == 1 and "often enough" in rare.notes[0] and rare.phones == {}
    assert 60 < rare.inputs["rows"] < 140
    single = [replace(c, recording=replace(c.recording, speaker="a")) for c in tones(4)]
    assert "one speaker" in evaluate(model, coder, HOOK, single, rows, replace(OPTIONS, attached_clips=0)).notes[0]


def test_errors_come_before_long_computations(model: HookedWhisper, rows: torch.Tensor) -> None:
    clips = tones(2)
    with pytest.raises(ShapeError, match=r"first takes vectors of 16, those of .*hook_resid_post are 32"):
        evaluate(model, {"first": TopK(TopKConfig(16, 20, k=2))}, HOOK, clips, rows)
    with pytest.raises(ArgumentError, match="crosscoder"):
        evaluate(model, {"c": Crosscoder(CrosscoderConfig(D, 20, n_blocks=2))}, HOOK, clips, rows)
    with pytest.raises(UnknownHookError):
        evaluate(model, saes(), "encoder.blocks.7", clips, rows)
    with pytest.raises(ArgumentError, match="names 2 points"):
        evaluate(model, saes(), "encoder.blocks.*.hook_resid_post", clips, rows)
    with pytest.raises(ArgumentError, match="0 clips"):
        evaluate(model, saes(), HOOK, [], rows)
    with pytest.raises(ArgumentError, match="0 SAEs"):
        evaluate(model, {}, HOOK, clips, rows)
    with pytest.raises(ArgumentError, match="'third'"):
        evaluate(model, saes(), HOOK, clips, rows, seeds=("first", "third"))
    with pytest.raises(ArgumentError, match="two SAEs"):
        evaluate(model, saes(), HOOK, clips, rows, seeds=("first",))
    with pytest.raises(ShapeError, match="training row 0 is NaN"):
        evaluate(model, saes(), HOOK, clips, rows * torch.nan)
