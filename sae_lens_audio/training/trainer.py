"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hooked_whisper._support.files import tensors_sha256
from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper._support.renamed import renamed_arguments, renamed_property
from hooked_whisper._support.showing import Showing, Summary
from hooked_whisper._support.storage import AnyPath, as_path
from hooked_whisper._support.storage import Place as Folder
from sae_lens_audio.activations import ActivationSource
from sae_lens_audio.architectures import SAE, TrainStepOutput
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.formats import Metadata, save_sae
from sae_lens_audio.training.batches import Batch, Batches, Feed, RowCursor
from sae_lens_audio.training.checkpoint import (
    CHECKPOINT,
    load_optimizer_state,
    optimizer_state,
    read_checkpoint,
    remove_partial_files,
    write_checkpoint,
)
from sae_lens_audio.training.config import TrainingConfig
from sae_lens_audio.training.dead import DeadFeatures, resample_
from sae_lens_audio.training.half_precision import HalfPrecision
from sae_lens_audio.training.identity import check_identity, describe_batch
from sae_lens_audio.training.log import JsonLines, Writer
from sae_lens_audio.training.scaling import unit_scale
from sae_lens_audio.training.schedule import lr_factor, sparsity_factor
from sae_lens_audio.training.stopping import Stop, between_steps

_RATES_FROM = 0.9  # firing rates are those of the last tenth of the steps
_SIGNAL_GRACE_S = 2.0  # Ctrl-C reaches a process from the terminal and again from torchrun


@dataclass(frozen=True, eq=False, repr=False)
class Step(Showing):
    """The result of one step.

    number: steps done so far. output: loss terms of the whole batch, over all processes.
    norm: gradient norm before clipping. batch: the rows of this process.
    stop: some process was asked to stop; the flag is equal in all processes.
    """

    number: int
    output: TrainStepOutput
    norm: Float[Tensor, ""]
    batch: Batch
    stop: bool = False

    losses = renamed_property("losses", "output")

    def summary(self) -> Summary:
        terms = ("total", "reconstruction", "sparsity", "auxiliary", "error")
        rows = [(name, float(getattr(self.output, name))) for name in terms]
        per_row = float(self.output.active.sum()) / max(1, len(self.batch.all_indices))
        return Summary(f"Step {self.number}", rows=(*rows, ("gradient norm", float(self.norm)), ("L0", per_row)))


class Trainer:
    """Trains one SAE on activations.

    ``Trainer(sae, source, config).fit()`` trains in memory. With a ``folder`` (or URL) it writes checkpoints,
    ``metrics.jsonl`` and finally the SAE (``sae/``, a SAELens folder), and resumes where an earlier run in the same
    folder stopped, on one CPU thread bit for bit. :meth:`step` does one step, for custom loops. Use the trainer as a
    context manager or :meth:`close` it, since another thread prepares the batches.

    Args:
        sae: trained in place, on scaled activations (:attr:`TrainingConfig.scale`); :meth:`finished` returns a copy
            for raw activations.
        source: activations of one hook point; of two for a transcoder (input, prediction), of several for a
            crosscoder.
        metadata: written with the SAE; a function of the finished SAE where it contains scores.
        ranks: the other processes, see :func:`~hooked_whisper._support.ranks.torchrun_ranks`. Weights, batches and
            results equal those of one process with the same batch size, within rounding.
        writers: loggers beside ``metrics.jsonl``.

    Raises:
        TrainingError: the activations do not fit the SAE, or the folder has another run.
    """

    @renamed_arguments(dictionary="sae", blocks="source")
    def __init__(
        self,
        sae: SAE,
        source: ActivationSource,
        config: TrainingConfig,
        folder: Folder | None = None,
        *,
        metadata: Metadata | Callable[[SAE], Metadata] | None = None,
        device: torch.device | str = "cpu",
        ranks: TorchRanks | None = None,
        writers: Sequence[Callable[[AnyPath, int], Writer]] = (),
        log_every: int = 50,
    ) -> None:
        _check_widths(sae, source)
        self.config, self.metadata, self.ranks = config, metadata, ranks
        self.folder = as_path(folder) if folder else None
        self.device, self.log_every = torch.device(device), log_every
        self._identity = {
            "sae": {"architecture": sae.architecture, **asdict(sae.config)},
            "start": tensors_sha256(sae.state_dict()),
            "training": asdict(config),
            "activations": source.describe(),
        }
        self.sae = sae.to(self.device).train()
        self._parameters = list(self.sae.parameters())
        self.optimizer = _optimizer(self._parameters, config)
        self._half = HalfPrecision(self.device, config.precision)
        self.dead = DeadFeatures(sae.n_features, config.dead_after, self.device)
        rank, n = (0, 1) if ranks is None else (ranks.rank, ranks.n)
        self.batches = Batches(source, config.batch, config.seed, rank, n)
        if config.batch % (n * config.accumulate):
            raise TrainingError(f"{n} processes cannot share {config.batch} rows in {config.accumulate} parts each")
        self.number, self.cursor, self.scales = 0, RowCursor(), (1.0,) * len(source.hooks)
        self._feed: Feed | None = None
        self._writers: list[Writer] = []
        self._make_writers = writers
        self._consistent = True  # False within a step, when no checkpoint may be written
        self._stop = Stop()
        self._resume()
        self._check_ranks_agree()

    # One step ---------------------------------------------------------------------------------------------------------

    def step(self) -> Step:
        """Take the next batch, compute its loss and gradient, and update the weights.

        Raises:
            TrainingError: the loss is not finite. The weights are those before the batch, which the message names.
        """
        batch = self._next_batch()
        step = self._forward_backward(batch)
        self._consistent = False
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * lr_factor(self.config, self.number)
        self._half.step(self.optimizer)
        self.optimizer.zero_grad()
        self.sae.project_weights_()
        self.number, self.cursor = self.number + 1, batch.end
        self.dead.update(step.output.active, self.config.batch, self.number)
        if self.number == int(_RATES_FROM * self.config.steps):
            self.dead.reset_rates()
        self._resample(batch)
        self._consistent = True
        return step

    def _next_batch(self) -> Batch:
        if self._feed is None:
            self._feed = self.batches.start(self.cursor)
        return next(self._feed)

    def _forward_backward(self, batch: Batch) -> Step:
        """Compute gradients. If that fails, restore the buffers to their state before the batch."""
        # if another process dies, this one fails within its step, but must still be able to save
        before = {name: buffer.clone() for name, buffer in self.sae.named_buffers()}
        self._consistent = self.number > 0
        try:
            if not self.number:
                self._initialize(batch)
            step = self._gradients(batch)
            if not bool((step.output.total + step.norm).isfinite()):
                raise TrainingError(describe_batch(batch, self.batches.source, self.number, step.output, step.norm))
        except BaseException:
            self._half.forget()
            self.optimizer.zero_grad()
            for name, buffer in self.sae.named_buffers():
                buffer.copy_(before[name])
            raise
        return step

    def _gradients(self, batch: Batch) -> Step:
        """Compute the gradient of the whole batch, over parts and processes, and clip it."""
        sparsity = sparsity_factor(self.config, self.number)
        n_rows = len(batch.indices)
        outputs = [self._backward(rows, n_rows, sparsity) for rows in self._parts(batch)]
        if self.ranks is not None:
            self.ranks.sum_gradients_(self._parameters)
        output, stop = _averaged(outputs, self.ranks, self._stop.requested)
        self._half.unscale_(self.optimizer)
        self.sae.project_gradient_()
        norm = self._half.norm(torch.nn.utils.clip_grad_norm_(self._parameters, self.config.clip_norm or float("inf")))
        return Step(self.number + 1, output, norm, batch, stop)

    def _parts(self, batch: Batch) -> list[tuple[Tensor, ...]]:
        size = len(batch.indices) // self.config.accumulate
        return list(zip(*(rows.split(size) for rows in self._scaled(batch.rows)), strict=True))

    def _backward(self, rows: tuple[Tensor, ...], n_rows: int, sparsity: float) -> TrainStepOutput:
        with self._half.autocast():
            loss_of: Callable[..., TrainStepOutput] = self.sae.loss
            output = loss_of(*self.sae.training_inputs(rows), dead=self.dead.dead, ranks=self.ranks)
        loss = output.reconstruction + sparsity * output.sparsity + output.auxiliary
        self._half.backward(loss * (len(rows[0]) / (n_rows * self.batches.n_ranks)))
        return output

    @torch.no_grad()
    def _initialize(self, batch: Batch) -> None:
        """Set scales, ``b_dec`` and the norm of ``W_enc`` from the first batch of all processes."""
        rows = [x.to(self.device) for x in batch.of_all_processes()]
        if self.config.scale == "unit":
            self.scales = tuple(unit_scale(x) for x in rows)
        if self.config.center:
            self.sae.center_decoder_([x.mean(0) * scale for x, scale in zip(rows, self.scales, strict=True)])
        if self.config.fit_encoder:
            self.sae.fit_encoder_(self._scaled(rows))

    def _resample(self, batch: Batch) -> None:
        config = self.config
        until = config.resample_until or config.steps // 2
        if config.resample_every and self.number % config.resample_every == 0 and self.number <= until:
            x = batch.of_all_processes()[0].to(self.device) * self.scales[0]
            mask = self.dead.since >= min(self.dead.after, config.resample_every * config.batch)
            if resample_(self.sae, self.optimizer, mask, x, config.seed + self.number):
                self.dead.since.masked_fill_(mask, 0)

    def _scaled(self, rows: Sequence[Tensor]) -> list[Tensor]:
        return [x.to(self.device) * scale for x, scale in zip(rows, self.scales, strict=True)]

    # A run ------------------------------------------------------------------------------------------------------------

    def fit(
        self,
        progress: bool = True,
        checkpoint_s: float | int = 120.0,
        snapshots: Mapping[int, Folder] = MappingProxyType({}),
    ) -> SAE:
        """Do all remaining steps; return (and, with a folder, write) the :meth:`finished` SAE.

        On Ctrl-C or SIGTERM, complete the step and write a checkpoint first. If any process is asked to stop, all stop
        after the same step. ``checkpoint_s``: seconds between checkpoints, which do not affect the result.
        ``snapshots``: folders to write the SAE to after these steps too, as it would be finished then.
        """
        saved = started = time.monotonic()
        first_step, self._writers = self.number, self._open_writers()
        bar = tqdm(
            total=self.config.steps, initial=self.number, unit="step", desc=self.sae.architecture,
            disable=not progress or not self._first_rank,
        )  # fmt: skip
        try:
            with bar, between_steps(0.0 if self.ranks is None else _SIGNAL_GRACE_S) as self._stop:
                while self.number < self.config.steps:
                    if self.ranks is None:  # with ranks, all stop after the same step: see step.stop
                        self._stop.check()
                    step = self.step()
                    bar.update()
                    if step.number % self.log_every == 0 or step.number == self.config.steps:
                        values = self._metrics(step)
                        values["steps_per_s"] = (step.number - first_step) / (time.monotonic() - started)
                        bar.set_postfix(EV=f"{values['explained_variance']:.3f}", L0=f"{values['l0']:.1f}")
                        for writer in self._writers:
                            writer.write(step.number, values)
                    if step.number in snapshots and self._first_rank:
                        sae = self.finished()
                        save_sae(sae, snapshots[step.number], self._metadata_of(sae), self.dead.log_rates.float())
                    if time.monotonic() - saved > checkpoint_s:
                        self.save()
                        saved = time.monotonic()
                    if step.stop and self.number < self.config.steps:
                        raise KeyboardInterrupt
        finally:
            # save after any kind of stop, unless the weights are between two steps
            self.close()
            if self._consistent and self.number:  # before the first step there is nothing to resume
                self.save()
        finished = self.finished()
        if self.folder is not None and self._first_rank:
            finished.metadata = self._metadata_of(finished)
            save_sae(finished, self.folder / "sae", log_sparsity=self.dead.log_rates.float())
        elif isinstance(self.metadata, Metadata):
            finished.metadata = self.metadata
        return finished

    def finished(self) -> SAE:
        """Return a copy for raw activations, in evaluation mode, on the CPU.

        Raises:
            TrainingError: no step has been done, and the SAE (BatchTopK) has no threshold yet.
        """
        if not self.sae.can_encode:
            raise TrainingError(f"no step has been done: this {self.sae.architecture} SAE has no threshold yet")
        return self.sae.unscaled(self.scales).cpu().eval()

    def _metadata_of(self, sae: SAE) -> Metadata:
        return (self.metadata(sae) if callable(self.metadata) else self.metadata) or Metadata()

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

    optimiser = renamed_property("optimiser", "optimizer")

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
    def _metrics(self, step: Step) -> dict[str, float]:
        targets = self.sae.predicted_rows(self._scaled(step.batch.of_all_processes()))
        variance = sum((x - x.mean(0)).square().sum(1).mean().item() for x in targets)
        return {
            "reconstruction": step.output.reconstruction.item(),
            "sparsity": step.output.sparsity.item(),
            "auxiliary": step.output.auxiliary.item(),
            "explained_variance": 1 - step.output.error.item() / variance,
            "l0": step.output.active.sum().item() / self.config.batch,
            "dead": self.dead.mask.float().mean().item(),
            "gradient_norm": step.norm.item(),
            "lr": self.optimizer.param_groups[0]["lr"],
            "epoch": float(step.batch.start.epoch),
        }

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write ``checkpoint.safetensors`` atomically; do nothing without a folder."""
        if self.folder is None or not self._first_rank:
            return
        groups = {
            "sae": self.sae.state_dict(),
            "optimizer": optimizer_state(self.sae, self.optimizer),
            "dead": self.dead.state(),
        }
        tensors = {f"{group}.{name}": tensor for group, state in groups.items() for name, tensor in state.items()}
        facts = {"identity": self._identity, "step": self.number, "place": asdict(self.cursor), "scales": self.scales}
        facts["loss_scale"] = self._half.state()
        for writer in self._writers:
            writer.flush()
        write_checkpoint(self.folder / CHECKPOINT, tensors, facts)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT if self.folder is not None else None
        if path is None or not path.exists():
            return
        if self._first_rank:
            remove_partial_files(path)
        groups, facts = read_checkpoint(path)
        check_identity(self._identity, facts.get("identity"), path)
        self.sae.load_state_dict(groups["sae"])
        load_optimizer_state(self.sae, self.optimizer, groups["optimizer"])
        self.dead.load(groups["dead"])
        self.number, self.cursor = facts["step"], RowCursor.from_json(facts["place"])
        self.scales = tuple(facts["scales"])
        self._half.load(facts.get("loss_scale"))

    def _check_ranks_agree(self) -> None:
        """Check that all processes resume at the same step."""
        if self.ranks is None:
            return
        low, high = self.ranks.minimum(torch.tensor([self.number, -self.number], device=self.device)).tolist()
        if low != -high:
            raise TrainingError(
                f"some processes would resume after step {low}, others after step {-high}: give all of them one folder "
                "that every machine can reach, or a URL"
            )


def _averaged(outputs: Sequence[TrainStepOutput], ranks: TorchRanks | None, stop: bool) -> tuple[TrainStepOutput, bool]:
    """Average over equal parts of a batch and over processes; also return whether any process was asked to stop."""
    names = ("reconstruction", "sparsity", "auxiliary", "error")
    means = torch.stack([torch.stack([getattr(o, name).detach() for name in names]) for o in outputs]).mean(0)
    active = torch.stack([output.active for output in outputs]).sum(0)
    stops = means.new_tensor([0.0])
    if ranks is not None:
        means, stops = ranks.sum(torch.cat([means / ranks.n, stops + stop])).split([len(names), 1])
        active = ranks.sum(active)
    reconstruction, sparsity, auxiliary, error = means.unbind()
    return TrainStepOutput(reconstruction, sparsity, auxiliary, error, active), bool(stops)


def _check_widths(sae: SAE, source: ActivationSource) -> None:
    if tuple(source.widths) != sae.input_widths:
        widths = ", ".join(f"{hook} ({width} wide)" for hook, width in zip(source.hooks, source.widths, strict=True))
        raise TrainingError(
            f"this {sae.architecture} SAE takes activations {' and '.join(map(str, sae.input_widths))} wide, the "
            f"source has {widths}: choose other hook points, or another d_in"
        )


def _optimizer(parameters: list[torch.nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.epsilon}
    if config.optimizer == "radam":
        return torch.optim.RAdam(parameters, **options)
    return torch.optim.Adam(parameters, fused=True, **options)
