"""Writers beside ``metrics.jsonl``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hooked_whisper.errors import MissingExtraError
from sae_lens_audio.training import Trainer, read_metrics
from sae_lens_audio.training.log import METRICS, JsonLines, TensorBoard, Wandb
from tests.sae.training.sources import fit_until_interrupted, trainer


def test_tensorboard_has_each_logged_value_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def with_tensorboard() -> Trainer:
        run = trainer(tmp_path)
        run._make_writers = (TensorBoard,)
        return run

    fit_until_interrupted(with_tensorboard(), 12)
    with_tensorboard().fit(progress=False)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    logged = {e.step: e.value for e in events.Scalars("explained_variance")}
    lines = {line["step"]: line["explained_variance"] for line in read_metrics(tmp_path)}
    assert logged.keys() == lines.keys() and all(logged[s] == pytest.approx(lines[s], rel=1e-5) for s in logged)


def test_wandb_gets_one_run_per_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append(("finished",))
    )

    def init(**settings):
        calls.append((settings["id"], settings["resume"], settings["config"]))
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    writer = Wandb(tmp_path, 0, {"lr": 1})
    writer.write(3, {"l0": 2.0})
    writer.close()
    assert calls == [(tmp_path.name, "allow", {"lr": 1}), (3, {"l0": 2.0}), ("finished",)]


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("wandb", lambda folder: Wandb(folder, 0, {}), "wandb"),
        ("torch.utils.tensorboard", lambda folder: TensorBoard(folder, 0), "tensorboard"),
    ],
)
def test_a_missing_extra_is_named(module: str, make, extra: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"hooked-whisper\[{extra}\]"):
        make(tmp_path)


def test_lines_of_repeated_steps_are_dropped(tmp_path: Path) -> None:
    writer = JsonLines(tmp_path, 0)
    for step in (5, 10, 15):
        writer.write(step, {"l0": float(step), "dead": float("nan")})
    writer.close()
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 20, "l')  # the power went
    JsonLines(tmp_path, 10).close()
    assert read_metrics(tmp_path) == [{"step": 5, "l0": 5.0, "dead": None}, {"step": 10, "l0": 10.0, "dead": None}]
