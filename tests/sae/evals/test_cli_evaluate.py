"""``sae-lens-audio evaluate``: aligned recordings, hook point and model from the folder, one-line errors."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from hooked_whisper.corpora import to_textgrid
from hooked_whisper.corpora.tiers import TEXT_SOURCE
from sae_lens_audio import Metadata, TopK, TopKConfig, save_sae
from sae_lens_audio.cli.parser import main
from sae_lens_audio.evals.evaluation import load_evaluation
from tests.findings.worlds import small_model
from tests.sae.evals.clips import HOOK, tones


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two SAEs, and recordings of three speakers with TextGrids beside them."""
    folder = tmp_path_factory.mktemp("place")
    small_model(0).save_pretrained(folder / "model")
    for seed in (0, 1):
        noted = Metadata(hook_name="encoder.blocks.1", checkpoint="small", padding="dropped")
        save_sae(TopK(TopKConfig(32, 40, k=3), seed=seed), folder / f"sae{seed}", noted)
    for clip in tones(9):
        speaker = folder / "audio" / clip.speaker
        speaker.mkdir(parents=True, exist_ok=True)
        name = clip.alignment.utterance
        soundfile.write(speaker / f"{name}.wav", clip.samples, 16_000)
        (speaker / f"{name}.TextGrid").write_text(to_textgrid(clip.alignment), encoding="utf-8")
    (folder / "audio" / "b" / "broken.wav").write_bytes(b"RIFF")
    return folder


def run(place: Path, *arguments: str) -> int:
    saes = [str(place / a) if a.startswith("sae") else a for a in arguments]
    try:
        return main(["evaluate", "--model", str(place / "model"), "--threads", "1", *saes])
    except SystemExit as exit_:
        return int(exit_.code or 0)


def test_two_seeds_on_recordings(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = ["--audio", str(place / "audio"), "--speaker-folders", "--min-tokens", "4", "--attached", "2"]
    assert run(place, "sae0", "sae1", "--seeds", *audio, "--out", str(tmp_path)) == 1
    shown = capsys.readouterr()
    assert "1 of 10 recordings could not be used" in shown.err and "b/broken: " in shown.err
    evaluation = load_evaluation(tmp_path)
    assert str(evaluation) in shown.out and str(tmp_path / "scores.png") in shown.out
    assert evaluation.hook == HOOK and list(evaluation.saes) == ["sae0", "sae1"] and evaluation.stability is not None
    assert evaluation.inputs["speakers"] == 2 and evaluation.inputs["clips"] == 6  # the third speaker was fitted on
    assert (
        evaluation.attached is not None
        and set(evaluation.attached.references) == {"tones"}
        and "pca" in evaluation.phones
    )
    told = [name for name, _ in evaluation.inputs["failures"]]
    assert told in ([], ["b/broken"])  # of the scored ones
    assert evaluation.inputs["corpus"] == f"10 recordings of audio, {6 + len(told)} of them scored"


def test_other_recordings_to_fit_on(place: Path, tmp_path: Path) -> None:
    audio = str(place / "audio")
    fitted = ["--audio", audio, "--fit-audio", f"{audio}/b", "--attached", "0", "--no-phones", "--clips", "4"]
    assert run(place, "sae0", *fitted, "--out", str(tmp_path)) == 1  # one recording is broken
    evaluation = load_evaluation(tmp_path)
    assert evaluation.inputs["clips"] == 4 and evaluation.attached is None and evaluation.phones == {}


def test_texts_by_the_model_are_noted(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for clip in tones(9):
        speaker = tmp_path / "audio" / clip.speaker
        speaker.mkdir(parents=True, exist_ok=True)
        soundfile.write(speaker / f"{clip.alignment.utterance}.wav", clip.samples, 16_000)
        alignment = replace(clip.alignment, extra={TEXT_SOURCE: "tiny.en"})
        aligned = tmp_path / "aligned" / clip.speaker / f"{clip.alignment.utterance}.TextGrid"
        aligned.parent.mkdir(parents=True, exist_ok=True)
        aligned.write_text(to_textgrid(alignment), encoding="utf-8")
    common = ["--audio", str(tmp_path / "audio"), "--speaker-folders", "--attached", "0", "--no-phones"]
    for name, arguments in {
        "tiny.en": ["--alignments", str(tmp_path / "aligned")],
        small_model(0).cfg.name: ["--texts", "own"],
    }.items():
        out = tmp_path / f"out-{name}"
        assert run(place, "sae0", *common, *arguments, "--out", str(out)) == 0
        texts = load_evaluation(out).inputs["texts"]
        assert f"the transcript of {name}" in texts and texts in capsys.readouterr().out


MISMATCHES = {
    "another hook": (
        Metadata(hook_name="encoder.blocks.0", checkpoint="small"),
        ("encoder.blocks.0", "encoder.blocks.1"),
    ),
    "another model": (
        Metadata(hook_name="encoder.blocks.1", checkpoint="openai/whisper-tiny"),
        ("whisper-tiny", "model"),
    ),
    "other weights": (
        Metadata(hook_name="encoder.blocks.1", checkpoint="small", checkpoint_sha256="0" * 64),
        ("small", "000000000000"),
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_contradiction_to_the_record_is_refused_before_the_encoder_runs(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    metadata, values = MISMATCHES[name]
    save_sae(TopK(TopKConfig(32, 40, k=3)), place / "sae-other", metadata)
    audio = ["--audio", str(place / "audio"), "--fit-audio", str(place / "audio"), "--attached", "0", "--no-phones"]
    command = ["sae-other", *audio, "--hook", "encoder.blocks.1", "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("hooked_whisper.model.encoder.Encoder.forward", _no_forward)
        assert run(place, *command) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and all(value in error for value in values)
    assert "--allow-mismatch" in error and not (tmp_path / "out").exists()
    with caplog.at_level(logging.WARNING):
        assert run(place, *command, "--allow-mismatch") == 1  # a recording is broken
    assert all(value in caplog.text for value in values)


def _no_forward(*_: object, **__: object) -> None:
    raise AssertionError("the encoder ran before the check")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sae0", "sae0"], "given twice"),
        (["sae-missing"], "not a folder"),
        (["sae-silent"], "name it with --hook"),
        (["sae0", "sae-other"], "different hook points"),
        (["sae-wide"], "sae-wide takes vectors of 16"),
        (["sae0", "--hook", "encoder.blocks.9"], "encoder.blocks.9"),
        (["sae0", "--audio", "/nowhere"], "nowhere"),
        (["sae0", "--clips", "0"], "at least 1"),
        (["sae0"], "no synthetic corpus"),
    ],
)
def test_errors_are_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    save_sae(TopK(TopKConfig(32, 40, k=3)), place / "sae-silent")
    save_sae(TopK(TopKConfig(32, 40, k=3)), place / "sae-other", Metadata(hook_name="encoder.blocks.0"))
    save_sae(TopK(TopKConfig(16, 40, k=3)), place / "sae-wide", Metadata(hook_name="encoder.blocks.0"))
    audio = (
        []
        if "synthetic corpus" in message or "--audio" in arguments
        else ["--audio", str(place / "audio"), "--speaker-folders"]
    )
    assert run(place, *arguments, *audio, "--out", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1] and not (tmp_path / "out").exists()
