"""Attributes and methods of version 0.1 still work, and warn with the new name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hooked_whisper._support.renamed import RenamedWarning
from sae_lens_audio import BatchTopK, BatchTopKConfig, Evaluation, NormalizedSAE, Standard, StandardConfig, TopK
from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.architectures import TopKConfig
from sae_lens_audio.evals import EvaluationOptions, ReconstructionScores
from sae_lens_audio.training.batches import Batches, RowCursor
from tests.sae.training.sources import config, mixtures, trainer

ROWS = mixtures(200)
TOPK = TopK(TopKConfig(12, 40, k=3))
STANDARD = Standard(StandardConfig(12, 40))
SOURCE = TensorActivations(ROWS)
SCORES = ReconstructionScores.of(STANDARD, ROWS)
EVALUATION = Evaluation("demo", "here", "here", {"a": "topk"}, {}, {}, {"a": SCORES}, {})


def test_attributes() -> None:
    run = trainer()
    with run:
        step = run.step()
    batches = Batches(SOURCE, 50)
    pairs = [
        (STANDARD, "centre", "center"),
        (NormalizedSAE(STANDARD, "layer_norm"), "normalisation", "normalization"),
        (SCORES, "normalised_mse", "normalized_mse"),
        (EVALUATION, "dictionaries", "saes"),
        (EVALUATION, "spliced", "attached"),
        (EvaluationOptions(), "spliced_clips", "attached_clips"),
        (EvaluationOptions(), "baselines_spliced", "attach_baselines"),
        (config(), "optimiser", "optimizer"),
        (config(), "centre", "center"),
        (run, "optimiser", "optimizer"),
        (step, "losses", "output"),
        (step.batch, "chosen", "indices"),
        (step.batch, "whole", "all_indices"),
        (step.batch, "block", "chunk"),
        (step.batch, "at", "start"),
        (step.batch, "after", "end"),
        (batches, "blocks", "source"),
        (RowCursor(0, 3, 5), "block", "chunk"),
    ]
    for owner, old, new in pairs:
        with pytest.warns(RenamedWarning, match=f"{type(owner).__name__}.{old} is now called {new}"):
            value = getattr(owner, old)
        expected = getattr(owner, new)
        assert value is expected or value == expected, old


def test_methods() -> None:
    x = ROWS[:6]
    batch_topk = BatchTopK(BatchTopKConfig(12, 40, k=2))
    calls: list[tuple[Any, str, str, tuple[Any, ...]]] = [
        (STANDARD, "centred", "centered", (x,)),
        (STANDARD, "pre_of_batch", "batch_pre_activations", (x, STANDARD.b_enc)),
        (SOURCE, "n_blocks", "n_chunks", (0,)),
    ]
    for owner, old, new, arguments in calls:
        with pytest.warns(RenamedWarning, match=f"{old} is now called {new}"):
            value = getattr(owner, old)(*arguments)
        torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(getattr(owner, new)(*arguments)))
    for sae in (TOPK, batch_topk):
        with pytest.warns(RenamedWarning, match="sparse_codes is now called encode_sparse"):
            assert torch.equal(sae.sparse_codes(x).values, sae.encode_sparse(x).values)
    with pytest.warns(RenamedWarning, match="block is now called chunk"):
        chunk = SOURCE.block(0, 0)
    with pytest.warns(RenamedWarning, match="taken is now called select"):
        assert torch.equal(chunk.taken(np.array([4, 2])).rows[0], ROWS[[4, 2]])


def test_resampling_under_its_old_name_changes_the_features() -> None:
    sae = TopK(TopKConfig(12, 40, k=3))
    direction = torch.eye(12)[:1]
    with pytest.warns(RenamedWarning, match="restart_ is now called resample_"):
        sae.restart_(torch.tensor([7]), direction, torch.tensor(0.5))
    assert torch.equal(sae.W_dec[7].detach(), direction[0]) and torch.equal(sae.W_enc[:, 7].detach(), direction[0] / 2)
