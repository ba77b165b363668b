"""Path patching carries only what the sender changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.errors import PatchError
from hooked_whisper.patching import HeadRef, Patch, Receiver, path_patch, read_metric, run_patches


def frozen(model, sender: HeadRef, receiver_hook: str, base, source, metric) -> float:
    """Patch the sender, freeze all other heads and MLPs, and put the receiver's input into a second run."""
    held = [n for n in model.hook_names() if n.endswith(("attn.hook_z", "hook_mlp_out"))]
    with torch.no_grad():
        _, base_cache = model.run_with_cache(base.mel, base.tokens, names_filter=held)
        _, source_cache = model.run_with_cache(source.mel, source.tokens, names_filter=[f"{sender.attn}.hook_z"])
        seen = {}

        def hold(x, hook):
            x = base_cache[hook.name].clone()
            if hook.name == f"{sender.attn}.hook_z":
                x[:, :, sender.head] = source_cache[hook.name][:, :, sender.head]
            return x

        with model.hooks(fwd_hooks=[(held, hold), (receiver_hook, lambda x: seen.update(x=x.clone()))]):
            model.decoder.hidden(base.tokens, model.encoder(base.mel))
        with model.hooks(fwd_hooks=[(receiver_hook, lambda x: seen["x"])]):
            return float(read_metric(model, model.decoder.hidden(base.tokens, model.encoder(base.mel)), metric))


@pytest.mark.parametrize(
    ("senders", "receiver", "hook"),
    [
        (
            [HeadRef("encoder", 0, 0), HeadRef("encoder", 0, 1)],
            Receiver("encoder", "v", 1),
            "encoder.blocks.1.attn.hook_v",
        ),
        (
            [HeadRef("encoder", 0, 1), HeadRef("encoder", 1, 0)],
            Receiver("encoder", "mlp", 1),
            "encoder.blocks.1.hook_mlp_in",
        ),
        (
            [HeadRef("encoder", 0, 0), HeadRef("encoder", 1, 1)],
            Receiver("decoder", "cross_v", 0),
            "decoder.blocks.0.cross_attn.hook_v",
        ),
        ([HeadRef("cross", 0, 1)], Receiver("decoder", "q", 1), "decoder.blocks.1.attn.hook_q"),
        (
            [HeadRef("cross", 0, 0), HeadRef("decoder", 1, 0)],
            Receiver("decoder", "cross_q", 1),
            "decoder.blocks.1.cross_attn.hook_q",
        ),
        ([HeadRef("cross", 0, 0), HeadRef("cross", 1, 1)], Receiver("decoder", "output"), "unembed.hook_in"),
    ],
)
def test_equals_two_runs_with_everything_else_frozen(model, pair, senders, receiver, hook):
    done = path_patch(model, senders, receiver, pair.corrupt, pair.clean, pair.metric, rows=1)
    if hook == "unembed.hook_in":
        hook = "decoder.blocks.1.hook_resid_post"  # all that the output reads
    expected = [frozen(model, sender, hook, pair.corrupt, pair.clean, pair.metric) for sender in senders]
    np.testing.assert_allclose(done.values.numpy(), expected, rtol=2e-5, atol=2e-5)
    assert not np.allclose(expected, done.base, atol=1e-6)


def test_one_head_of_the_receiver(model, pair):
    senders = [HeadRef("encoder", 0, 0)]
    both = path_patch(model, senders, Receiver("encoder", "k", 1), pair.corrupt, pair.clean, pair.metric)
    receiver = Receiver("encoder", "k", 1, head=0)
    single = path_patch(model, senders, receiver, pair.corrupt, pair.clean, pair.metric)
    assert single.values[0] != both.values[0] and single.base == both.base
    by_name = path_patch(model, ["encoder 0.0"], Receiver.of("E1.0", "k"), pair.corrupt, pair.clean, pair.metric)
    assert torch.equal(by_name.values, single.values)


def test_the_last_heads_whole_effect_runs_to_the_output_or_through_its_mlp(model, pair):
    name = "decoder.blocks.1.cross_attn.hook_z"
    sender = HeadRef("cross", 1, 0)
    direct = path_patch(model, [sender], Receiver("decoder", "output"), pair.corrupt, pair.clean, pair.metric)
    whole = run_patches(model, [Patch(name, {"head": [0]})], pair.corrupt, pair.clean, pair.metric)
    assert abs(float(direct.values[0]) - float(whole.values[0])) < 5 * abs(float(whole.values[0]) - whole.base) + 1


@pytest.mark.parametrize(
    ("sender", "receiver"),
    [
        (HeadRef("encoder", 1, 0), Receiver("encoder", "q", 1)),
        (HeadRef("decoder", 0, 0), Receiver("decoder", "cross_k", 1)),
        (HeadRef("encoder", 0, 0), Receiver("decoder", "q", 1)),
        (HeadRef("cross", 1, 0), Receiver("decoder", "cross_q", 1)),
        (HeadRef("encoder", 5, 0), Receiver("encoder", "output")),
    ],
)
def test_paths_that_do_not_exist(model, pair, sender, receiver):
    with pytest.raises(PatchError):
        path_patch(model, [sender], receiver, pair.corrupt, pair.clean, pair.metric)
