"""The training loop: a batch, its loss, a step of the optimiser; the same again after a stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from hooked_whisper._support.files import tensors_sha256
from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper._support.storage import AnyPath, as_path
from hooked_whisper._support.storage import Place as Folder
from sae_lens_audio.activations import ActivationSource
from sae_lens_audio.architectures import SAE, Crosscoder, TrainStepOutput, Transcoder
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.formats import Metadata, save_sae
from sae_lens_audio.training.batches import Batch, Batches, Feed, Place
from sae_lens_audio.training.checkpoint import (
    CHECKPOINT,
    load_optimiser_state,
    optimiser_state,
    read_checkpoint,
    remove_halves,
    write_checkpoint,
)
from sae_lens_audio.training.config import TrainingConfig
from sae_lens_audio.training.dead import DeadFeatures, resample_
from sae_lens_audio.training.identity import check_identity, name_the_batch
from sae_lens_audio.training.log import JsonLines, Writer
from sae_lens_audio.training.scaling import fit_encoder_, has_threshold, unit_scale, unscaled
from sae_lens_audio.training.schedule import lr_factor, sparsity_factor
from sae_lens_audio.training.stopping import Stop, between_steps

_RATES_FROM = 0.9  # firing rates are those of the last tenth of the steps
_PASSED_ON_S = 2.0  # Ctrl-C reaches a process from the terminal, and again from torchrun


@dataclass(frozen=True, eq=False)
class Step:
    """What one step saw.

    number: steps done so far. losses: of the whole batch, over all processes. norm: of the gradient before clipping.
    batch: the rows of this process. stop: one of several processes was asked to stop; all hear of it in the same step.
    """

    number: int
    losses: TrainStepOutput
    norm: Float[Tensor, ""]
    batch: Batch
    stop: bool = False


class Trainer:
    """Trains one dictionary on blocks of activations.

    ``Trainer(dictionary, blocks, config).fit()`` trains in memory; with a ``folder`` it writes checkpoints,
    ``metrics.jsonl`` and at the end the dictionary (``sae/``, a SAELens folder), and goes on where an earlier run in
    the same folder stopped: on one CPU thread bit for bit as if it had not. :meth:`step` is one step, for loops of your
    own. The folder may be an URL. Use as a context manager, or :meth:`close` it: batches are made by a thread.

    Args:
        dictionary: trained in place; activations are scaled while it trains (:attr:`TrainingConfig.scale`), so take
            :meth:`finished`, which takes raw ones.
        blocks: of one hook point; two for a transcoder (what it reads, what it predicts), several for a crosscoder.
        metadata: what the dictionary's folder says of it; a function where that is known at the end, such as scores.
        ranks: the other processes, see :func:`~hooked_whisper._support.ranks.torchrun_ranks`. Weights, batches and
            results are those of one process with the same batch, within rounding.
        writers: beside ``metrics.jsonl``.

    Raises:
        TrainingError: blocks that do not fit the dictionary, a folder with another run.
    """

    def __init__(
        self,
        dictionary: SAE,
        blocks: ActivationSource,
        config: TrainingConfig,
        folder: Folder | None = None,
        *,
        metadata: Metadata | Callable[[SAE], Metadata] | None = None,
        device: torch.device | str = "cpu",
        ranks: TorchRanks | None = None,
        writers: Sequence[Callable[[AnyPath, int], Writer]] = (),
        log_every: int = 50,
    ) -> None:
        _check_widths(dictionary, blocks)
        self.config, self.metadata, self.ranks = config, metadata, ranks
        self.folder = as_path(folder) if folder else None
        self.device, self.log_every = torch.device(device), log_every
        self._identity = {
            "dictionary": {"architecture": dictionary.architecture, **asdict(dictionary.config)},
            "start": tensors_sha256(dictionary.state_dict()),
            "training": asdict(config),
            "activations": blocks.describe(),
        }
        self.sae = dictionary.to(self.device).train()
        self._named = dict(self.sae.named_parameters())
        self.optimiser = _optimiser(list(self._named.values()), config)
        self.dead = DeadFeatures(dictionary.n_features, config.dead_after, self.device)
        rank, n = (0, 1) if ranks is None else (ranks.rank, ranks.n)
        self.batches = Batches(blocks, config.batch, config.seed, rank, n)
        if config.batch % (n * config.accumulate):
            raise TrainingError(f"{n} processes cannot share {config.batch} rows in {config.accumulate} parts each")
        self.number, self.place, self.scales = 0, Place(), (1.0,) * len(blocks.hooks)
        self._feed: Feed | None = None
        self._writers: list[Writer] = []
        self._make_writers = writers
        self._whole = True  # False in the middle of a step, which no checkpoint may hold
        self._stop = Stop()
        self._resume()
        self._agree()

    # One step ---------------------------------------------------------------------------------------------------------

    def step(self) -> Step:
        """The next batch, once forwards and backwards, and a step of the optimiser.

        Raises:
            TrainingError: the loss is not finite; the weights are those before the batch, which the message names.
        """
        if self._feed is None:
            self._feed = self.batches.start(self.place)
        batch = next(self._feed)
        # a process that died is noticed by the others in the middle of their step: what they save is from before it
        before = {name: buffer.clone() for name, buffer in self.sae.named_buffers()}
        self._whole = self.number > 0
        try:
            step = self._gradients(batch)
            if not bool((step.losses.total + step.norm).isfinite()):
                raise TrainingError(name_the_batch(batch, self.batches.blocks, self.number, step.losses, step.norm))
        except BaseException:
            self.optimiser.zero_grad()
            for name, buffer in self.sae.named_buffers():
                buffer.copy_(before[name])
            raise
        config, self._whole = self.config, False
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * lr_factor(config, self.number)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.sae.project_weights_()
        self.number, self.place = self.number + 1, batch.after
        self.dead.update(step.losses.active, config.batch, self.number)
        if self.number == int(_RATES_FROM * config.steps):
            self.dead.forget_rates()
        self._resample(batch)
        self._whole = True
        return step

    def _gradients(self, batch: Batch) -> Step:
        """Of the whole batch, clipped. In the first step, weights and scales are made to fit it before."""
        if not self.number:
            self._first(batch)
        penalty, parameters = sparsity_factor(self.config, self.number), list(self._named.values())
        parts = [self._backward(rows, len(batch.chosen), penalty) for rows in self._parts(batch)]
        if self.ranks is not None:
            self.ranks.sum_gradients_(parameters)
        losses, stop = _joined(parts, self.ranks, self._stop.asked)
        self.sae.project_gradient_()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or float("inf"))
        return Step(self.number + 1, losses, norm, batch, stop)

    def _parts(self, batch: Batch) -> list[tuple[Tensor, ...]]:
        size = len(batch.chosen) // self.config.accumulate
        scaled = [one.to(self.device) * scale for one, scale in zip(batch.rows, self.scales, strict=True)]
        return list(zip(*(one.split(size) for one in scaled), strict=True))

    def _backward(self, rows: tuple[Tensor, ...], n: int, penalty: float) -> TrainStepOutput:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            losses = _loss(self.sae, rows, self.dead.dead, self.ranks)
        total = losses.reconstruction + penalty * losses.sparsity + losses.auxiliary
        (total * (len(rows[0]) / (n * self.batches.n_ranks))).backward()
        return losses

    @torch.no_grad()
    def _first(self, batch: Batch) -> None:
        """Scale, centre and size of the first reconstructions, from the first batch of all processes."""
        whole = [one.to(self.device) for one in batch.of_all_processes()]
        if self.config.scale == "unit":
            self.scales = tuple(unit_scale(one) for one in whole)
        if self.config.centre and "b_dec" in self._named:
            means = [one.mean(0) * scale for one, scale in zip(whole, self.scales, strict=True)]
            self.sae.b_dec.copy_(torch.stack(means) if isinstance(self.sae, Crosscoder) else means[-1])
        if self.config.fit_encoder:
            fit_encoder_(self.sae, tuple(one * scale for one, scale in zip(whole, self.scales, strict=True)))

    def _resample(self, batch: Batch) -> None:
        config = self.config
        until = config.resample_until or config.steps // 2
        if config.resample_every and self.number % config.resample_every == 0 and self.number <= until:
            x = batch.of_all_processes()[0].to(self.device) * self.scales[0]
            mask = self.dead.since >= min(self.dead.after, config.resample_every * config.batch)
            if resample_(self.sae, self.optimiser, mask, x, config.seed + self.number):
                self.dead.since.masked_fill_(mask, 0)

    # A run ------------------------------------------------------------------------------------------------------------

    def fit(self, progress: bool = True, checkpoint_s: float | int = 120.0) -> SAE:
        """All steps that are left; then :meth:`finished`, which is written too where there is a folder.

        Interrupted (Ctrl-C, SIGTERM), it ends its step and writes a checkpoint first; several processes stop after the
        same step, whichever of them is asked. ``checkpoint_s``: seconds between checkpoints, which change nothing.
        """
        saved = started = time.monotonic()
        began, self._writers = self.number, self._open_writers()
        bar = tqdm(
            total=self.config.steps, initial=self.number, unit="step", desc=self.sae.architecture,
            disable=not progress or not self._first_rank,
        )  # fmt: skip
        try:
            with bar, between_steps(0.0 if self.ranks is None else _PASSED_ON_S) as self._stop:
                while self.number < self.config.steps:
                    if self.ranks is None:  # others would wait for the step that this one leaves out
                        self._stop.check()
                    step = self.step()
                    bar.update()
                    if step.number % self.log_every == 0 or step.number == self.config.steps:
                        values = self._values(step)
                        values["steps_per_s"] = (step.number - began) / (time.monotonic() - started)
                        bar.set_postfix(EV=f"{values['explained_variance']:.3f}", L0=f"{values['l0']:.1f}")
                        for writer in self._writers:
                            writer.write(step.number, values)
                    if time.monotonic() - saved > checkpoint_s:
                        self.save()
                        saved = time.monotonic()
                    if step.stop and self.number < self.config.steps:
                        raise KeyboardInterrupt
        finally:
            # a stop of any kind loses nothing; a batch that broke the loss has not touched the weights
            self.close()
            if self._whole:
                self.save()
        finished = self.finished()
        if self.folder is not None and self._first_rank:
            metadata = self.metadata(finished) if callable(self.metadata) else self.metadata
            save_sae(finished, self.folder / "sae", metadata, self.dead.log_rates.float())
        return finished

    def finished(self) -> SAE:
        """A copy that takes raw activations, in evaluation mode, on the CPU.

        Raises:
            TrainingError: a BatchTopK dictionary that has not trained, and has no threshold.
        """
        if not has_threshold(self.sae):
            raise TrainingError("no step has been done: a BatchTopK dictionary has no threshold yet")
        return unscaled(self.sae, self.scales).cpu().eval()

    def close(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        for writer in self._writers:
            writer.close()
        self._writers = []

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _first_rank(self) -> bool:
        return self.ranks is None or self.ranks.rank == 0

    def _open_writers(self) -> list[Writer]:
        if self.folder is None or not self._first_rank:
            return []
        folder, step = self.folder, self.number
        folder.mkdir(parents=True, exist_ok=True)
        return [make(folder, step) for make in (JsonLines, *self._make_writers)]

    @torch.no_grad()
    def _values(self, step: Step) -> dict[str, float]:
        whole = step.batch.of_all_processes()
        outputs = [one.to(self.device) * scale for one, scale in zip(whole, self.scales, strict=True)]
        if isinstance(self.sae, Transcoder):
            outputs = outputs[1:]
        variance = sum((one - one.mean(0)).square().sum(1).mean().item() for one in outputs)
        return {
            "reconstruction": step.losses.reconstruction.item(),
            "sparsity": step.losses.sparsity.item(),
            "auxiliary": step.losses.auxiliary.item(),
            "explained_variance": 1 - step.losses.error.item() / variance,
            "l0": step.losses.active.sum().item() / self.config.batch,
            "dead": self.dead.mask.float().mean().item(),
            "gradient_norm": step.norm.item(),
            "lr": self.optimiser.param_groups[0]["lr"],
            "epoch": float(step.batch.at.epoch),
        }

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write ``checkpoint.safetensors``, whole or not at all; nothing without a folder."""
        if self.folder is None or not self._first_rank:
            return
        groups = {
            "sae": self.sae.state_dict(),
            "optimiser": optimiser_state(self.sae, self.optimiser),
            "dead": self.dead.state(),
        }
        tensors = {f"{group}.{name}": t for group, some in groups.items() for name, t in some.items()}
        facts = {"identity": self._identity, "step": self.number, "place": asdict(self.place), "scales": self.scales}
        for writer in self._writers:
            writer.flush()
        write_checkpoint(self.folder / CHECKPOINT, tensors, facts)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT if self.folder is not None else None
        if path is None or not path.exists():
            return
        if self._first_rank:
            remove_halves(path)
        tensors, facts = read_checkpoint(path)
        check_identity(self._identity, facts.get("identity"), path)
        parts: dict[str, dict[str, Any]] = {"sae": {}, "optimiser": {}, "dead": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            parts[group][rest] = tensor
        self.sae.load_state_dict(parts["sae"])
        load_optimiser_state(self.sae, self.optimiser, parts["optimiser"])
        self.dead.load(parts["dead"])
        self.number, self.place, self.scales = facts["step"], Place(**facts["place"]), tuple(facts["scales"])

    def _agree(self) -> None:
        if self.ranks is None:
            return
        low, high = self.ranks.minimum(torch.tensor([self.number, -self.number], device=self.device)).tolist()
        if low != -high:
            raise TrainingError(
                f"some processes would go on after step {low}, others after step {-high}: give all of them one folder "
                "that every machine sees, or an URL"
            )


def _loss(
    sae: SAE, rows: tuple[Tensor, ...], dead: Bool[Tensor, "d_sae"] | None, ranks: TorchRanks | None
) -> TrainStepOutput:
    if isinstance(sae, Transcoder):
        return sae.loss(rows[0], rows[1], dead, ranks)
    return sae.loss(torch.stack(rows, 1) if isinstance(sae, Crosscoder) else rows[0], dead, ranks)


def _joined(parts: Sequence[TrainStepOutput], ranks: TorchRanks | None, stop: bool) -> tuple[TrainStepOutput, bool]:
    """Of equal parts of a batch, over all processes; and whether one of several wants to stop."""
    names = ("reconstruction", "sparsity", "auxiliary", "error")
    means = torch.stack([torch.stack([getattr(p, name).detach() for name in names]) for p in parts]).mean(0)
    active = torch.stack([p.active for p in parts]).sum(0)
    asked = means.new_tensor([0.0])
    if ranks is not None:
        means, asked = ranks.sum(torch.cat([means / ranks.n, asked + stop])).split([len(names), 1])
        active = ranks.sum(active)
    reconstruction, sparsity, auxiliary, error = means.unbind()
    return TrainStepOutput(reconstruction, sparsity, auxiliary, error, active), bool(asked)


def _check_widths(sae: SAE, blocks: ActivationSource) -> None:
    if isinstance(sae, Crosscoder):
        wanted: tuple[int, ...] = (sae.d_in,) * sae.config.n_blocks
    else:
        wanted = (sae.d_in, sae.config.d_out) if isinstance(sae, Transcoder) else (sae.d_in,)
    if tuple(blocks.widths) != wanted:
        given = ", ".join(f"{hook} ({width} wide)" for hook, width in zip(blocks.hooks, blocks.widths, strict=True))
        raise TrainingError(
            f"this {sae.architecture} dictionary takes activations {' and '.join(map(str, wanted))} wide, the source "
            f"gives {given}: choose other hook points, or another d_in"
        )


def _optimiser(parameters: list[torch.nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.epsilon}
    if config.optimiser == "radam":
        return torch.optim.RAdam(parameters, **shared)
    return torch.optim.Adam(parameters, fused=True, **shared)
