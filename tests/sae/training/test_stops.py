"""Processes that die or are stopped in the middle of a step: what is saved is the state before it."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hooked_whisper._support.ranks import TorchRanks
from sae_lens_audio import BatchTopK, BatchTopKConfig
from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.training import Trainer
from sae_lens_audio.training.stopping import between_steps
from tests.sae.training.sources import D, F, config, mixtures


@dataclass(frozen=True)
class Alone(TorchRanks):
    """A group of one process that simulates others: they die at the n-th sum of gradients (``fails``), or request a
    stop with the n-th message of losses (``stop``).
    """

    rank: int = 0
    n: int = 1
    fails: int = 0
    stop: int = 0
    other_step: int | None = None
    count: list[int] = field(default_factory=lambda: [0, 0])

    def sum(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32 and x.ndim == 1 and len(x) == 5:  # four losses, and who wants to stop
            self.count[1] += 1
            if self.count[1] == self.stop:
                x = x + torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
        return x.clone()

    def minimum(self, x: Tensor) -> Tensor:
        return x.clone() if self.other_step is None else x.minimum(x.new_tensor([self.other_step, -self.other_step]))

    def sum_gradients_(self, parameters: object) -> None:
        self.count[0] += 1
        if self.count[0] == self.fails:
            raise RuntimeError("Connection closed by peer")


def trainer(folder: Path, ranks: TorchRanks | None = None) -> Trainer:
    sae = BatchTopK(BatchTopKConfig(D, F, k=3))
    return Trainer(sae, TensorActivations(mixtures()), config(), folder, ranks=ranks, log_every=5)


def weights(folder: Path) -> dict[str, Tensor]:
    with trainer(folder) as done:
        assert done.number == done.config.steps
        return done.sae.state_dict()


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, Tensor]:
    trainer(tmp_path / "undisturbed").fit(progress=False)
    return weights(tmp_path / "undisturbed")


@pytest.mark.parametrize("step", [1, 2, 17])
def test_a_step_that_other_processes_did_not_finish_is_repeated(
    step: int, tmp_path: Path, undisturbed: dict[str, Tensor]
) -> None:
    """By then the threshold has been updated, and in the first step the weights too: neither may be updated twice."""
    with pytest.raises(RuntimeError, match="closed by peer"):
        trainer(tmp_path, Alone(fails=step)).fit(progress=False)
    again = trainer(tmp_path)
    assert again.number == step - 1
    again.fit(progress=False)
    for name, tensor in weights(tmp_path).items():
        assert torch.equal(tensor, undisturbed[name]), name


def test_all_processes_stop_after_the_step_in_which_one_is_asked(
    tmp_path: Path, undisturbed: dict[str, Tensor]
) -> None:
    stopped = trainer(tmp_path, Alone(stop=12))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(progress=False)
    assert stopped.number == 12
    trainer(tmp_path).fit(progress=False)
    for name, tensor in weights(tmp_path).items():
        assert torch.equal(tensor, undisturbed[name]), name


def test_a_rank_that_is_asked_to_stop_tells_the_others(tmp_path: Path) -> None:
    asked = trainer(tmp_path, Alone())
    step = asked.step

    def signalled():
        done = step()
        if done.number == 6:
            signal.raise_signal(signal.SIGTERM)  # behind the message of this step: it goes with the next
        return done

    asked.step = signalled  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        asked.fit(progress=False)
    assert asked.number == 7


def test_processes_that_resume_from_different_steps_are_refused(tmp_path: Path) -> None:
    with trainer(tmp_path) as run:
        for _ in range(3):
            run.step()
        run.save()
    with pytest.raises(TrainingError, match="after step 0, others after step 3: give all of them one folder"):
        trainer(tmp_path, Alone(other_step=0))


def test_a_forwarded_signal_counts_once() -> None:
    """Ctrl-C arrives from the terminal and from torchrun; only a later one stops immediately."""
    with between_steps(0.2) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        time.sleep(0.25)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
