"""Checks of ``torch.compile`` in a separate process: shapes are checked under pytest, which breaks graphs.

``python -m tests.core.compiled_worker graphs|hooks|inductor``
"""

from __future__ import annotations

import sys

import torch

from tests.core.twins import Twins, make_twins


def graphs(twins: Twins) -> None:
    """One graph for each stack and for both, while nobody listens."""
    model, mel, tokens = twins.core, twins.mel(2), twins.tokens(5, batch=2)
    encoded = model.encoder(mel)
    for module, arguments in ((model.encoder, (mel,)), (model.decoder, (tokens, encoded)), (model, (mel, tokens))):
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(*arguments), module(*arguments), atol=1e-5, rtol=1e-5)


def hooks(twins: Twins) -> None:
    """What is added after compilation runs, and is gone once it is taken back."""
    model, mel = twins.core, twins.mel(1)
    compiled = torch.compile(model.encoder, backend="eager")
    before = compiled(mel)
    with model.hooks([("encoder.blocks.0.hook_resid_post", lambda x: x * 0)]):
        torch.testing.assert_close(compiled(mel), model.encoder(mel), atol=1e-5, rtol=1e-5)
        assert (compiled(mel) - before).abs().max() > 0.1
    assert torch.equal(compiled(mel), before)


def inductor(twins: Twins) -> None:
    """The compiler itself, which needs a C++ compiler."""
    model, mel, tokens = twins.core, twins.mel(2), twins.tokens(5, batch=2)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(mel, tokens), model(mel, tokens), atol=1e-4, rtol=1e-4)


if __name__ == "__main__":
    with torch.no_grad():
        {"graphs": graphs, "hooks": hooks, "inductor": inductor}[sys.argv[1]](make_twins("one_block"))
