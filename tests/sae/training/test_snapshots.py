"""SAEs that a run writes on the way."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_lens_audio import load_sae
from tests.sae.training.sources import trainer


def test_snapshot_is_the_sae_of_a_run_that_ends_there(tmp_path: Path) -> None:
    with trainer(tmp_path / "long", steps=30) as run:
        finished = run.fit(progress=False, snapshots={10: tmp_path / "at-10"})
    with trainer(steps=10) as short:
        ended = short.fit(progress=False)
    early = load_sae(tmp_path / "at-10").sae
    assert torch.equal(early.W_dec, ended.W_dec) and torch.equal(early.b_enc, ended.b_enc)
    assert not torch.equal(early.W_dec, finished.W_dec)


def test_snapshots_do_not_change_the_run(tmp_path: Path) -> None:
    with trainer(steps=30) as plain, trainer(steps=30) as other:
        expected = plain.fit(progress=False)
        sae = other.fit(progress=False, snapshots={7: tmp_path / "at-7", 20: tmp_path / "at-20"})
    assert torch.equal(expected.W_dec, sae.W_dec)
