"""sparsify: its ``Trainer.fit``. It needs a model to read activations from; ours returns the feed's batches."""

from __future__ import annotations

import os

os.environ |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}

import torch
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from torch import Tensor, nn

from benchmarks.peers.case import NEVER, Case
from benchmarks.peers.worker import Feed


class Replay(nn.Module):
    """A model with one module, whose output is the current batch of activations."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.point = nn.Identity()
        self.device = torch.device(case.device)
        self.batch = torch.zeros(1, case.d_in, device=self.device)
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1)}

    @property
    def base_model(self) -> Replay:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.point(self.batch[None])


class Texts(torch.utils.data.Dataset):
    """The data set that its loader reads; each item comes from the feed instead of a text."""

    def __init__(self, feed: Feed, model: Replay) -> None:
        self.feed, self.model = feed, model

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.model.batch = next(self.feed)
        return {"input_ids": torch.ones(len(self.model.batch), dtype=torch.int64)}


def train(case: Case, feed: Feed) -> None:
    assert case.architecture == "topk", "it has no other"
    adam = case.variant == "adam"
    config = TrainConfig(
        SparseCoderConfig(num_latents=case.d_sae, k=case.k),
        batch_size=1,
        hookpoints=["point"],
        optimizer="adam" if adam else "signum",  # signum is its default, with another learning rate
        lr=case.lr if adam else None,
        lr_warmup_steps=0,
        auxk_alpha=1 / 32 if case.dead else 0.0,  # off is its default
        init_seeds=[case.seed],
        save_every=10**9,
        log_to_wandb=False,
    )
    model = Replay(case)
    trainer = Trainer(config, Texts(feed, model), model)
    sae = trainer.saes["point"]

    def score(x: Tensor) -> tuple[Tensor, Tensor]:
        for optimiser in trainer.optimizers:
            if hasattr(optimiser, "eval"):  # schedule-free optimizer: use the weights that it would save
                optimiser.eval()
        out = sae(x)
        active = torch.bincount(out.latent_indices[out.latent_acts > 0], minlength=case.d_sae)
        for optimiser in trainer.optimizers:
            if hasattr(optimiser, "train"):
                optimiser.train()
        return out.sae_out, active

    def hold_dead() -> None:
        sae.encoder.bias.data[-case.dead :] = NEVER
        trainer.num_tokens_since_fired["point"][-case.dead :] = 10**9

    feed.score = score
    if case.dead:
        feed.before_step = hold_dead
    trainer.fit()
