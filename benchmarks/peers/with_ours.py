"""Ours: ``Trainer.step`` at its defaults. It reads rows from memory itself, so the time includes shuffling."""

from __future__ import annotations

import torch

from benchmarks.peers.case import NEVER, Case
from benchmarks.peers.worker import Feed
from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.architectures import (
    SAE,
    BatchTopK,
    BatchTopKConfig,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    Matryoshka,
    MatryoshkaConfig,
    Standard,
    StandardConfig,
    TopK,
    TopKConfig,
)
from sae_lens_audio.training import Trainer, TrainingConfig


def dictionary(case: Case) -> SAE:
    d, f = case.d_in, case.d_sae
    return {
        "topk": lambda: TopK(TopKConfig(d, f, k=case.k), case.seed),
        "batchtopk": lambda: BatchTopK(BatchTopKConfig(d, f, k=case.k), case.seed),
        "matryoshka": lambda: Matryoshka(MatryoshkaConfig(d, f, k=case.k, widths=case.widths), case.seed),
        "standard": lambda: Standard(StandardConfig(d, f, l1_coefficient=case.l1), case.seed),
        "gated": lambda: Gated(GatedConfig(d, f, l1_coefficient=case.l1), case.seed),
        "jumprelu": lambda: JumpReLU(JumpReLUConfig(d, f, l0_coefficient=case.l0), case.seed),
    }[case.architecture]()


def train(case: Case, feed: Feed) -> None:
    config = TrainingConfig(steps=10**6, batch=case.batch, lr=case.lr, seed=case.seed)
    trainer = Trainer(dictionary(case), TensorActivations(feed.rows), config, device=case.device)

    def score(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sae = trainer.finished().to(case.device)
        if isinstance(sae, (TopK, BatchTopK)):
            codes = sae.encode_sparse(x)  # as in training, BatchTopK keeps the largest features of the batch
            return codes.decode(sae.W_dec) + sae.b_dec, codes.active
        features = sae.encode(x)
        return sae.decode(features), (features != 0).sum(0)

    def hold_dead() -> None:
        trainer.sae.b_enc.data[-case.dead :] = NEVER
        state = trainer.dead.state()
        state["mask"][-case.dead :] = True
        trainer.dead.load(state)

    def encoder() -> tuple[torch.Tensor, torch.Tensor]:
        sae = trainer.sae
        return sae.W_enc, sae.b_gate if isinstance(sae, Gated) else sae.b_enc

    feed.score, feed.encoder = score, encoder
    if case.dead:
        feed.before_step = hold_dead
    with trainer:
        for _ in feed:
            trainer.step()
