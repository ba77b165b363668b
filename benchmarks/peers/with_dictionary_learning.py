"""dictionary_learning: ``trainer.update`` of its trainers, which its training loop calls once per batch."""

from __future__ import annotations

import os

os.environ |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}

from itertools import pairwise
from typing import Any

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer

from benchmarks.peers.case import NEVER, Case
from benchmarks.peers.worker import Feed


def train(case: Case, feed: Feed) -> None:
    parts = [(b - a) / case.d_sae for a, b in pairwise((0, *case.widths))]
    no_warmup: dict[str, Any] = {"sparsity_warmup_steps": None}
    cls, options = {
        "topk": (TopKTrainer, {"k": case.k}),
        "batchtopk": (BatchTopKTrainer, {"k": case.k}),
        "matryoshka": (MatryoshkaBatchTopKTrainer, {"k": case.k, "group_fractions": parts}),
        # of its two variants, the one with the same loss as ours and sae-lens's
        "standard": (StandardTrainerAprilUpdate, {"l1_penalty": case.l1} | no_warmup),
        "gated": (GatedSAETrainer, {"l1_penalty": case.l1} | no_warmup),
        # its penalty differs: the squared relative distance of L0 from a target
        "jumprelu": (JumpReluTrainer, {"target_l0": float(case.k)} | no_warmup),
    }[case.architecture]
    common = {"activation_dim": case.d_in, "dict_size": case.d_sae, "layer": 0, "lm_name": "none"}
    trainer = cls(steps=10**6, warmup_steps=0, lr=case.lr, device=case.device, **common, **options)
    sparse = case.architecture in ("topk", "batchtopk", "matryoshka")

    def score(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # without the threshold, which it sets only after 1,000 steps
        features = trainer.ae.encode(x, use_threshold=False) if sparse else trainer.ae.encode(x)
        return trainer.ae.decode(features), (features != 0).sum(0)

    def hold_dead() -> None:
        trainer.ae.encoder.bias.data[-case.dead :] = NEVER
        trainer.num_tokens_since_fired[-case.dead :] = 10**9

    def encoder() -> tuple[torch.Tensor, torch.Tensor]:
        ae = trainer.ae
        if case.architecture == "jumprelu":
            return ae.W_enc, ae.b_enc
        return ae.encoder.weight.T, ae.gate_bias if case.architecture == "gated" else ae.encoder.bias

    feed.score, feed.encoder = score, encoder
    if case.dead:
        feed.before_step = hold_dead
    for step, batch in enumerate(feed):
        trainer.update(step, batch)
