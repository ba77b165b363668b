"""SAEs, their metadata and training logs show themselves on one screen."""

from __future__ import annotations

from pathlib import Path

from sae_lens_audio import Metadata, TopK, TopKConfig, load_demo
from sae_lens_audio.training import TrainingLog, read_metrics
from tests.sae.training.sources import trainer

HOSTILE = Metadata(hook_name="<script>alert(1)</script>", extra={"<b>": "<i>"})


def test_representations_fit_on_a_screen() -> None:
    loaded = load_demo("topk-3")
    with trainer() as run:
        step = run.step()
    for value in (loaded, loaded.metadata, loaded.sae.cfg, step, loaded.sae):
        lines = repr(value).splitlines()
        assert len(lines) <= 30 and max(map(len, lines)) <= 120, type(value)
    assert "1024 features of encoder.blocks.3.hook_resid_post" in repr(loaded)
    assert repr(step).startswith("Step 1") and "explained_variance: 0.9692" in repr(loaded.metadata)


def test_html_is_escaped() -> None:
    sae = TopK(TopKConfig(8, 16, k=2))
    sae.metadata = HOSTILE
    for html in (sae._repr_html_(), HOSTILE._repr_html_(), sae.cfg._repr_html_()):
        assert "<script>" not in html and "<b>" not in html and "&lt;script&gt;" in html


def test_a_training_log_is_a_list_a_table_and_a_plot(tmp_path: Path) -> None:
    trainer(tmp_path).fit(progress=False)
    log = read_metrics(tmp_path)
    assert isinstance(log, list) and [line["step"] for line in log] == [5, 10, 15, 20, 25, 30]
    lines = repr(log).splitlines()
    assert lines[0] == "TrainingLog: 6 lines, steps 5 to 30" and len(lines) == 8
    assert list(log.to_pandas()["l0"]) == [line["l0"] for line in log]
    axes = log.plot().axes
    assert [len(panel.lines[0].get_xdata()) for panel in axes] == [6, 6, 6]
    assert axes[1].lines[0].get_ydata()[-1] == log[-1]["l0"]


def test_a_log_without_lines() -> None:
    assert repr(TrainingLog()) == "TrainingLog: no lines" and len(TrainingLog().plot().axes) == 3


def test_a_finished_sae_has_the_metadata_of_its_run() -> None:
    run = trainer()
    run.metadata = Metadata(hook_name="encoder.blocks.1")
    assert run.fit(progress=False).cfg.hook_name == "encoder.blocks.1"
