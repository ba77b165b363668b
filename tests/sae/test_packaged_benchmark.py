"""Scores of a benchmark file reach the card of the SAE that was scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio import Metadata, TopK, TopKConfig, load_sae, save_sae
from sae_lens_audio.benchmark.metric import BenchmarkMetric, Score
from sae_lens_audio.benchmark.results import Benchmark, SubjectScores
from sae_lens_audio.pretrained.benchmark_scores import store_benchmark_scores, without_folders
from sae_lens_audio.pretrained.cards import cards_of
from sae_lens_audio.pretrained.catalog import real_saes

HOOK = "encoder.blocks.2.hook_resid_post"
METRICS = tuple(BenchmarkMetric(name, f"the {name}", "higher", "share", "") for name in ("f1", "recall", "rejected"))
SCORES = {
    "f1": Score(Estimate(0.25, 0.2, 0.3)),
    "recall": Score(Estimate(0.5)),
    "rejected": Score(Estimate(0.125)),
}


@pytest.mark.parametrize("name", ["topk-x2", "runs/tiny.en/encoder.blocks.2-topk-x2/sae"])
def test_scores_of_the_benchmark_are_on_the_card(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "packaged/tiny.en/encoder.blocks.2/topk-x2"
    held_out = {"explained_variance": 0.5, "l0": 2.0}
    sae = TopK(TopKConfig(4, 8, k=2))
    save_sae(sae, folder, Metadata(hook_name=HOOK, checkpoint="tiny.en", extra={"held_out": held_out}))
    subjects = (SubjectScores("pca", "control", {}, SCORES), SubjectScores(name, "SAE", {}, SCORES))
    verdicts = {"f1": "passes", "recall": "weak", "rejected": "fails"}
    benchmark = Benchmark("tiny.en", HOOK, HOOK, {"corpus": "9 clips"}, METRICS, subjects, verdicts)
    benchmark.save(tmp_path / "bench")
    saes = real_saes(tmp_path / "packaged")
    assert store_benchmark_scores(saes, [tmp_path / "bench"]) == ["tiny.en/encoder.blocks.2/topk-x2"]
    assert load_sae(folder).metadata.extra["held_out"] == held_out
    (card,) = cards_of(tmp_path / "packaged").values()
    for cell in ("| the f1 | 0.25 [0.2, 0.3] share |", "| the recall (weak in the audit) | 0.5 share |", "9 clips"):
        assert cell in card.decode()
    assert "rejected" not in card.decode()


def test_a_benchmark_of_another_hook_point_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "packaged/tiny.en/encoder.blocks.3/topk-x2"
    save_sae(TopK(TopKConfig(4, 8, k=2)), folder, Metadata(hook_name=HOOK.replace("2", "3"), checkpoint="tiny.en"))
    subjects = (SubjectScores("topk-x2", "SAE", {}, SCORES),)
    Benchmark("tiny.en", HOOK, HOOK, {}, METRICS, subjects).save(tmp_path / "bench")
    assert store_benchmark_scores(real_saes(tmp_path / "packaged"), [tmp_path / "bench"]) == []


def test_folders_of_the_machine_are_removed() -> None:
    command = "python -m x --audio /data/of/me/speech '/tmp/a/b' --runs runs/a"
    assert without_folders(command) == "python -m x --audio speech 'b' --runs runs/a"
