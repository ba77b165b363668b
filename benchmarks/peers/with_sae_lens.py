"""sae-lens: its ``SAETrainer.fit``, which takes batches from the feed."""

from __future__ import annotations

import os

os.environ |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}

import torch
from sae_lens import SAETrainer, TrainingSAE
from sae_lens.config import SAETrainerConfig

from benchmarks.peers.case import NEVER, Case
from benchmarks.peers.worker import Feed


def train(case: Case, feed: Feed) -> None:
    name = "matryoshka_batchtopk" if case.architecture == "matryoshka" else case.architecture
    options = {
        "topk": {"k": case.k},
        "batchtopk": {"k": case.k},
        "matryoshka": {"k": case.k, "matryoshka_widths": list(case.widths)},
        "standard": {"l1_coefficient": case.l1},
        "gated": {"l1_coefficient": case.l1},
        "jumprelu": {"l0_coefficient": case.l0},
    }[case.architecture]
    if case.variant == "sparse":  # its default rescaling fails in the backward pass of sparse activations
        options |= {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False}
    common = {"architecture": name, "d_in": case.d_in, "d_sae": case.d_sae, "device": case.device}
    sae = TrainingSAE.from_dict(common | options)
    config = SAETrainerConfig(
        total_training_samples=case.batch * 10**6,
        train_batch_size_samples=case.batch,
        lr=case.lr,
        lr_end=case.lr,  # required, although the schedule is constant
        device=case.device,
    )
    trainer = SAETrainer(config, sae, feed)

    def score(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = sae.encode(x)
        return sae.decode(features), (features.to_dense() != 0).sum(0)

    def hold_dead() -> None:
        sae.b_enc.data[-case.dead :] = NEVER
        trainer.n_forward_passes_since_fired[-case.dead :] = 1e9

    feed.score = score
    feed.encoder = lambda: (sae.W_enc, sae.b_gate if name == "gated" else sae.b_enc)
    if case.dead:
        feed.before_step = hold_dead
    trainer.fit()
