"""A whole benchmark on a small model: controls, resuming, JSON and back, the page, the command."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Clip, Recording
from hooked_whisper.errors import ArgumentError, CheckpointError
from sae_lens_audio import Metadata, TopK, TopKConfig, save_sae
from sae_lens_audio.architectures import TopKTranscoder, TopKTranscoderConfig
from sae_lens_audio.benchmark import (
    Benchmark,
    BenchmarkOptions,
    ScoreStore,
    benchmark_points,
    load_benchmark,
    run_benchmark,
)
from sae_lens_audio.benchmark.page import render_page
from sae_lens_audio.benchmark.run import all_metrics
from sae_lens_audio.cli import bench
from sae_lens_audio.evals.rows import gather_rows
from sae_lens_audio.formats import LoadedSAE
from tests.findings.worlds import small_model
from tests.sae.evals.clips import HOOK, tones

D = 32
OPTIONS = BenchmarkOptions(attached_clips=2, min_tokens=8, pack=False)
CLIPS = tones(9)


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


@pytest.fixture(scope="module")
def fitted(model: HookedWhisper) -> dict[str, torch.Tensor]:
    return gather_rows(model, tones(12)[9:], benchmark_points(model, HOOK).names)


@pytest.fixture(scope="module")
def saes() -> dict[str, TopK]:
    return {f"<sae {seed}>": TopK(TopKConfig(D, 40, k=3), seed=seed).eval() for seed in (0, 1)}


@pytest.fixture(scope="module")
def benchmark_(model: HookedWhisper, saes: dict[str, TopK], fitted: dict[str, torch.Tensor]) -> Benchmark:
    return run_benchmark(model, saes, HOOK, CLIPS, fitted, OPTIONS, seeds=tuple(saes), facts={"<sae 0>": {"k": 3}})


def test_every_control_is_beside_the_saes(benchmark_: Benchmark) -> None:
    names = [subject.name for subject in benchmark_.subjects]
    assert names[:2] == ["<sae 0>", "<sae 1>"]
    assert {
        "residual axes", "pca", "random directions", "untrained", "neurons", "residual axes, 3 largest",
        "pca, 3 largest", "<sae 0>, shifted labels", "mean ablation", "zero ablation", "2 seeds",
    } <= set(names)  # fmt: skip
    assert benchmark_.estimate("<sae 0>", "l0").value == 3
    assert benchmark_.estimate("zero ablation", "cross_entropy_recovered").value == pytest.approx(0)
    assert benchmark_.estimate("random directions", "phone_f1").value is not None
    assert benchmark_.estimate("random directions", "explained_variance").value is None
    names = [metric.name for metric in benchmark_.metrics]
    assert names == [metric.name for metric in all_metrics() if metric.name in names] and len(names) > 15


def test_wrong_names_are_refused(
    benchmark_: Benchmark, model: HookedWhisper, saes: dict[str, TopK], fitted: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(ArgumentError, match="phone_f1"):
        benchmark_.estimate("pca", "phone_f2")
    with pytest.raises(ArgumentError, match="no subject 'pcb'"):
        benchmark_.estimate("pcb", "phone_f1")
    with pytest.raises(ArgumentError, match="name of a control"):
        run_benchmark(model, {"pca": saes["<sae 0>"]}, HOOK, CLIPS, fitted, OPTIONS)
    with pytest.raises(ArgumentError, match="not among the SAEs"):
        run_benchmark(model, saes, HOOK, CLIPS, fitted, OPTIONS, seeds=("x",))
    with pytest.raises(ArgumentError, match="at least one"):
        run_benchmark(model, {}, HOOK, CLIPS, fitted, OPTIONS)
    with pytest.raises(ArgumentError, match="names 2 points"):
        benchmark_points(model, "encoder.blocks.*.hook_resid_post")
    one_speaker = [clip for clip in CLIPS if clip.speaker == CLIPS[0].speaker]
    with pytest.raises(ArgumentError, match="1 speaker"):
        run_benchmark(model, saes, HOOK, one_speaker, fitted, OPTIONS)


def test_resumed_equals_uninterrupted(
    benchmark_: Benchmark, model: HookedWhisper, saes: dict[str, TopK], fitted: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The second run reads what the first stored, except for one file, which was damaged."""
    options, store = replace(OPTIONS, attached_clips=0), ScoreStore(tmp_path, "key")
    for _ in range(2):
        again = run_benchmark(model, saes, HOOK, CLIPS, fitted, options, seeds=tuple(saes), store=store)
        stored = sorted(tmp_path.glob("*.json"))
        stored[0].write_text(stored[0].read_text()[:40])
    assert len(again.subjects) == len(benchmark_.subjects) - 2  # both ablations are attached only
    for subject in again.subjects:
        for metric in again.metrics:
            if metric.name != "latency":
                assert again.estimate(subject.name, metric.name) == benchmark_.estimate(subject.name, metric.name)
    other = ScoreStore(tmp_path, "another key")
    assert not other.has("pca") and ScoreStore(tmp_path, "key").has("pca")


def test_json_and_back(benchmark_: Benchmark, tmp_path: Path) -> None:
    benchmark_.save(tmp_path)
    loaded = load_benchmark(tmp_path)
    assert loaded.to_json() == benchmark_.to_json() and repr(loaded) == repr(benchmark_)
    assert loaded.to_rows() == benchmark_.to_rows()


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other"}', '{"format": "sae_lens_audio/benchmark/1"}'])
def test_damaged_files_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"bench\.json"):
        load_benchmark(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_benchmark(tmp_path / "missing")


@pytest.mark.parametrize("estimate", [["0.9", None, None], [0.9], 0.9])
def test_edited_scores_are_named(benchmark_: Benchmark, tmp_path: Path, estimate: object) -> None:
    data = benchmark_.to_json()
    data["subjects"][0]["scores"]["phone_f1"]["estimate"] = estimate
    (tmp_path / "bench.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"bench\.json is damaged.*estimate of phone_f1"):
        load_benchmark(tmp_path)


def test_page_escapes_names_and_needs_no_network(benchmark_: Benchmark) -> None:
    page = render_page(benchmark_)
    assert "&lt;sae 0&gt;" in page and "<sae 0>" not in page
    assert "http" not in page.replace("http-equiv", "") and "<svg" in page


def test_page_draws_in_its_own_colors_and_marks_no_best_sae_of_a_rejected_metric(benchmark_: Benchmark) -> None:
    rejected = replace(benchmark_, verdicts=dict.fromkeys((m.name for m in benchmark_.metrics), "fails"))
    page, bare = render_page(replace(benchmark_, verdicts={})), render_page(rejected)
    assert 'class="best"' in page and 'class="best"' not in bare
    assert "var(--ink)" in page[page.index("<svg") : page.index("</svg>")]


def test_transcoders_are_scored_on_what_they_predict(model: HookedWhisper) -> None:
    reads, writes = "encoder.blocks.1.ln2.hook_normalized", "encoder.blocks.1.hook_mlp_out"
    points = benchmark_points(model, reads, writes)
    rows = gather_rows(model, CLIPS[:3], points.names)
    transcoder = TopKTranscoder(TopKTranscoderConfig(D, 40, d_out=D, k=3)).eval()
    scored = run_benchmark(model, {"t": transcoder}, reads, CLIPS, rows, OPTIONS, hook_out=writes)
    assert (scored.hook, scored.hook_out) == (reads, writes)
    assert scored.estimate("t", "cross_entropy_recovered").value is not None
    assert scored.estimate("t", "explained_variance").value is not None


def test_command_writes_table_json_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import soundfile

    from hooked_whisper.corpora import to_textgrid
    from sae_lens_audio.cli.parser import main

    small_model(0).save_pretrained(tmp_path / "model")
    metadata = Metadata(hook_name="encoder.blocks.1", checkpoint="small", padding="dropped")
    save_sae(TopK(TopKConfig(D, 40, k=3)), tmp_path / "topk", metadata)
    for clip in CLIPS:
        folder = tmp_path / "audio" / clip.speaker
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{clip.alignment.utterance}.wav", clip.samples, 16_000)
        (folder / f"{clip.alignment.utterance}.TextGrid").write_text(to_textgrid(clip.alignment), encoding="utf-8")
    audio, fit = ["--audio", str(tmp_path / "audio"), "--speaker-folders"], str(tmp_path / "audio" / CLIPS[0].speaker)
    options = ["--min-tokens", "8", "--attached", "2", "--threads", "1", "--fit-audio", fit]
    arguments = ["bench", str(tmp_path / "topk"), "--model", str(tmp_path / "model"), *audio, *options]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "untrained" in shown and "bench.html" in shown
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["model"] == "small"
    assert (tmp_path / "out" / "bench.html").is_file()
    assert main([*arguments, "--out", str(tmp_path / "out"), "--seeds", "topk"]) == 2
    assert "two or more" in capsys.readouterr().err
    few = ["--clips", "4", "--attached", "0", "--min-tokens", "2"]
    assert main([*arguments, "--out", str(tmp_path / "few"), *few]) == 0
    scored = load_benchmark(tmp_path / "few")
    assert scored.inputs["clips"] == 4 and scored.inputs["speakers"] >= 3  # speakers take turns


def test_stored_scores_are_of_the_same_model_fit_and_labels(model: HookedWhisper) -> None:
    """Whatever scores depend on changes the key, so that scores of another setting are not reused."""
    saes = {"a": LoadedSAE(TopK(TopKConfig(D, 40, k=3)), Metadata(), Path("a"))}
    rows, other_model = {HOOK: torch.zeros(4, D)}, small_model(1)
    shifted = [Clip.aligned(clip.samples, clip.alignment, f"{clip.speaker}x") for clip in CLIPS]
    keys = {
        bench._key(saes, model, rows, CLIPS, OPTIONS),
        bench._key(saes, other_model, rows, CLIPS, OPTIONS),
        bench._key(saes, model, {HOOK: torch.ones(4, D)}, CLIPS, OPTIONS),
        bench._key(saes, model, rows, shifted, OPTIONS),
        bench._key(saes, model, rows, CLIPS[1:], OPTIONS),
        bench._key(saes, model, rows, CLIPS, replace(OPTIONS, min_tokens=9)),
        bench._key({"a": LoadedSAE(TopK(TopKConfig(D, 40, k=2)), Metadata(), Path("a"))}, model, rows, CLIPS, OPTIONS),
    }
    assert len(keys) == 7 and bench._key(saes, model, rows, CLIPS, OPTIONS) in keys


def test_clips_without_text_are_not_attached_and_counted(model: HookedWhisper, fitted: dict[str, torch.Tensor]) -> None:
    textless = replace(CLIPS[0].alignment, text="", words=())
    clips = [Clip.aligned(CLIPS[0].samples, textless, CLIPS[0].speaker), *CLIPS[1:]]
    saes = {"a": TopK(TopKConfig(D, 40, k=3)).eval()}
    scored = run_benchmark(model, saes, HOOK, clips, fitted, replace(OPTIONS, attached_clips=3, noise=False))
    assert "not attached, without text or cut: 1 of the clips to attach" in scored.notes


def test_speakers_take_turns_and_what_is_left_out_is_said() -> None:
    corpus = [Recording(f"{speaker}{i}", Path("x.wav"), speaker=speaker) for speaker in "aab" for i in range(2)]
    assert [recording.speaker for recording in bench.in_turns(corpus)][:2] == ["a", "b"]
    (note,) = bench._notes([Recording("x", Path("x.wav"))], [], 9)[1:]
    assert "name no speaker" in note
    assert "not scored" in bench._notes(corpus, CLIPS[:1], 9)[0] and not bench._notes(corpus, CLIPS[:6], 9)


def test_packaged_held_out_voices_are_the_default() -> None:
    """SAEs of real Whisper were trained on the other packaged voices, so those are only fitted on."""
    parsed = Namespace(audio=None, fit_audio=None, model="tiny.en")
    corpus, described = bench._scored(parsed)
    fitted = bench._fitted(parsed)
    assert "held-out" in described and all(recording.text for recording in corpus)
    assert not {recording.speaker for recording in corpus} & {recording.speaker for recording in fitted}
