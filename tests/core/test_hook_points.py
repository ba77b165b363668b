"""Every hook point: its name, its shape, that it is causal, harmless when looked at, differentiable, and local."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hooked_whisper.config import WhisperConfig
from hooked_whisper.hooks import HookPoint
from hooked_whisper.model import KVCache, WhisperCore
from tests.core.parity import relative_l2
from tests.core.twins import SIZES, Twins

BATCH, TOKENS = 2, 6
STEM = """
encoder.hook_mel
encoder.conv1.hook_pre
encoder.conv1.hook_post
encoder.conv2.hook_pre
encoder.conv2.hook_post
encoder.hook_embed
encoder.hook_pos_embed
"""
BLOCK = """
hook_resid_pre
hook_q_input
hook_k_input
hook_v_input
ln1.hook_scale
ln1.hook_normalized
attn.hook_q
attn.hook_k
attn.hook_v
attn.hook_attn_scores
attn.hook_pattern
attn.hook_z
attn.hook_result
hook_attn_out
hook_resid_mid
"""
CROSS = """
hook_cross_attn_in
ln_cross.hook_scale
ln_cross.hook_normalized
cross_attn.hook_q
cross_attn.hook_k
cross_attn.hook_v
cross_attn.hook_attn_scores
cross_attn.hook_pattern
cross_attn.hook_z
cross_attn.hook_result
hook_cross_attn_out
hook_resid_mid_cross
"""
MLP = """
hook_mlp_in
ln2.hook_scale
ln2.hook_normalized
mlp.hook_pre
mlp.hook_post
hook_mlp_out
hook_resid_post
"""
HEAD = """
decoder.ln_final.hook_scale
decoder.ln_final.hook_normalized
unembed.hook_in
unembed.hook_out
"""


def pinned(encoder_blocks: int, decoder_blocks: int) -> list[str]:
    names = STEM.split()
    for i in range(encoder_blocks):
        names += [f"encoder.blocks.{i}.{name}" for name in (BLOCK + MLP).split()]
    names += ["encoder.ln_post.hook_scale", "encoder.ln_post.hook_normalized", "encoder.hook_out"]
    names += ["decoder.hook_tokens", "decoder.hook_embed", "decoder.hook_pos_embed"]
    for i in range(decoder_blocks):
        names += [f"decoder.blocks.{i}.{name}" for name in (BLOCK + CROSS + MLP).split()]
    return names + HEAD.split()


def points_of(size: str) -> dict[str, HookPoint]:
    with torch.device("meta"):
        return WhisperCore(WhisperConfig.from_dims(SIZES[size])).hook_dict


POINTS = {size: points_of(size) for size in ("one_block", "odd")}


def walk(choose: Callable[[HookPoint], bool] = lambda point: True) -> pytest.MarkDecorator:
    """Parametrize over every chosen point of the smallest model, and those of the odd one (of blocks, the last)."""
    last = {"encoder": 1, "decoder": 2}
    parameters = [
        (size, name)
        for size, points in POINTS.items()
        for name, point in points.items()
        if choose(point) and (size == "one_block" or ".blocks." not in name or point.layer() == last[point.stack])
    ]
    return pytest.mark.parametrize(("size", "name"), parameters, ids=[f"{size}:{name}" for size, name in parameters])


def token_axis(point: HookPoint) -> int | None:
    """Which axis counts the decoder's tokens, if one does."""
    return next((i for i, axis in enumerate(point.axes) if axis in ("token", "query")), None)


@pytest.fixture(scope="session")
def given_run(request: pytest.FixtureRequest) -> dict[str, tuple[WhisperCore, Tensor, Tensor, Tensor]]:
    """Per size: model, mel, tokens and the logits of a pass without hooks."""
    runs = {}
    for size in ("one_block", "odd"):
        twins: Twins = request.getfixturevalue(size)
        mel, tokens = twins.mel(BATCH), twins.tokens(TOKENS, BATCH)
        runs[size] = (twins.core, mel, tokens, twins.core(mel, tokens).detach())
    return runs


def noise_like(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)


def shifted(x: Tensor) -> Tensor:
    """The tensor with noise on it; other tokens where it holds tokens."""
    return x + noise_like(x) if x.is_floating_point() else (x + 1) % 60


def test_names_in_order_of_execution_are_pinned(one_block: Twins, odd: Twins) -> None:
    assert one_block.core.hook_names() == pinned(1, 1)
    assert odd.core.hook_names() == pinned(2, 3)


def test_points_fire_in_documented_order(odd: Twins) -> None:
    fired: list[str] = []
    hooks = [("*", lambda x, hook: fired.append(hook.name))]
    odd.core.run_with_hooks(odd.mel(), odd.tokens(3), fwd_hooks=hooks)
    assert fired == odd.core.hook_names()


def test_shapes_are_the_declared_axes(twins: Twins) -> None:
    core, cfg = twins.core, twins.core.cfg
    sizes = {
        "batch": BATCH,
        "mel": cfg.encoder.n_mels,
        "frame": cfg.encoder.n_frames,
        "position": cfg.encoder.n_ctx,
        "token": TOKENS,
        "d_model": cfg.encoder.d_model,
        "vocab": cfg.decoder.n_vocab,
    }
    _, cache = core.run_with_cache(twins.mel(BATCH), twins.tokens(TOKENS, BATCH), names_filter="*")
    assert list(cache) == core.hook_names()
    for name, tensor in cache.items():
        assert tuple(tensor.shape) == core.hook_dict[name].shape(sizes), name
        assert cache.axes(name) == core.hook_dict[name].axes


def test_optional_points_cost_nothing_until_named(one_block: Twins) -> None:
    optional = [name for name, point in one_block.core.hook_dict.items() if point.optional]
    assert {name.rsplit(".", 1)[1] for name in optional} == {
        "hook_result",
        "hook_q_input",
        "hook_k_input",
        "hook_v_input",
    }
    _, cache = one_block.core.run_with_cache(one_block.mel(), one_block.tokens(3))
    assert not set(optional) & set(cache)
    _, cache = one_block.core.run_with_cache(one_block.mel(), one_block.tokens(3), names_filter=optional)
    assert list(cache) == optional


@walk()
@torch.no_grad()
def test_noise_changes_the_logits(size: str, name: str, given_run: dict) -> None:
    core, mel, tokens, plain = given_run[size]
    noisy = core.run_with_hooks(mel, tokens, fwd_hooks=[(name, shifted)])
    assert relative_l2(noisy, plain) > 1e-3


@walk(lambda point: point.stack != "encoder")
@torch.no_grad()
def test_noise_by_absolute_position_is_the_same_with_a_kv_cache(size: str, name: str, given_run: dict) -> None:
    """Causal while decoding too: a hook that uses ``hook.offset`` gives the logits of the pass without cache."""
    core, mel, tokens, plain = given_run[size]
    encoder_out = core.embed_audio(mel)
    point = core.hook_dict[name]
    _, cache = core.run_with_cache(mel, tokens, names_filter=name)
    noise = shifted(cache[name]) - cache[name]
    if point.axes[-2:] == ("query", "key") and "cross" not in name:
        noise = noise.tril()  # keys that are not there yet get none
    along = token_axis(point)

    def add(x: Tensor, hook: HookPoint) -> Tensor:
        part = noise if along is None else noise.narrow(along, hook.offset, x.shape[along])
        return x + (part[..., : x.shape[-1]] if hook.axes[-1] == "key" else part)

    with core.hooks([(name, add)]):
        whole = core.logits(tokens, encoder_out)
        kv_cache = KVCache()
        steps = [core.decoder(piece, encoder_out, kv_cache) for piece in tokens.split([2, 1, 3], dim=1)]
    assert relative_l2(torch.cat(steps, 1), whole) < 1e-5
    assert relative_l2(whole, plain) > 1e-3


IDENTITIES = {"nothing": lambda x: None, "itself": lambda x: x, "a copy": lambda x: x.clone()}


@walk()
@torch.no_grad()
def test_reading_changes_no_bit(size: str, name: str, given_run: dict) -> None:
    core, mel, tokens, plain = given_run[size]
    outputs = [core.run_with_hooks(mel, tokens, fwd_hooks=[(name, look)]) for look in IDENTITIES.values()]
    if name.endswith(("hook_attn_scores", "hook_pattern")):
        # a hook sees scores or pattern, so attention is not fused
        assert relative_l2(outputs[0], plain) < 1e-5
        plain = outputs[0]
    assert all(torch.equal(output, plain) for output in outputs)


@pytest.mark.parametrize("look", IDENTITIES)
def test_caching_every_point_at_once(look: str, given_run: dict) -> None:
    core, mel, tokens, plain = given_run["odd"]
    fused = [n for n in core.hook_names() if not n.endswith(("hook_attn_scores", "hook_pattern"))]
    assert torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(fused, IDENTITIES[look])]), plain)
    assert relative_l2(core.run_with_hooks(mel, tokens, fwd_hooks=[("*", IDENTITIES[look])]), plain) < 1e-5


@walk(lambda point: point.axes != ("batch", "token"))  # tokens are integers
def test_a_gradient_reaches_the_point(size: str, name: str, given_run: dict) -> None:
    core, mel, tokens, _ = given_run[size]
    leaves: list[Tensor] = []

    def add_leaf(x: Tensor) -> Tensor:
        leaves.append(torch.zeros_like(x).requires_grad_())
        return x + leaves[-1]

    logits = core.run_with_hooks(mel, tokens, fwd_hooks=[(name, add_leaf)])
    (gradient,) = torch.autograd.grad((logits * noise_like(logits)).sum(), leaves)
    assert gradient.isfinite().all()
    assert gradient.norm() > 1e-4


@walk(lambda point: "batch" in point.axes)
@torch.no_grad()
def test_rows_of_a_batch_are_independent(size: str, name: str, given_run: dict) -> None:
    core, mel, tokens, _ = given_run[size]
    look = core.run_with_hooks(mel, tokens, fwd_hooks=[(name, lambda x: None)])

    def second_row(x: Tensor) -> None:
        x[1] = shifted(x[1])

    noisy = core.run_with_hooks(mel, tokens, fwd_hooks=[(name, second_row)])
    assert torch.equal(noisy[0], look[0])
    assert relative_l2(noisy[1], look[1]) > 1e-3


@walk(lambda point: point.stack != "encoder" and token_axis(point) is not None)
@torch.no_grad()
def test_past_is_independent_of_the_future(size: str, name: str, given_run: dict) -> None:
    core, mel, tokens, _ = given_run[size]
    axis = token_axis(core.hook_dict[name])

    def from_token_3(x: Tensor) -> None:
        later = x.narrow(axis, 3, TOKENS - 3)
        later.copy_(shifted(later))

    look = core.run_with_hooks(mel, tokens, fwd_hooks=[(name, lambda x: None)])
    noisy = core.run_with_hooks(mel, tokens, fwd_hooks=[(name, from_token_3)])
    assert torch.equal(noisy[:, :3], look[:, :3])
    assert relative_l2(noisy[:, 3:], look[:, 3:]) > 1e-3


@torch.no_grad()
def test_the_stem_sees_five_frames(odd: Twins) -> None:
    """Encoder position t reads mel frames 2t-2 to 2t+2."""
    position = 7
    _, plain = odd.core.run_with_cache(odd.mel(), names_filter="encoder.hook_embed", stop_early=True)
    for frame in range(2 * position - 4, 2 * position + 5):
        mel = odd.mel()
        mel[..., frame] += 1
        _, cache = odd.core.run_with_cache(mel, names_filter="encoder.hook_embed", stop_early=True)
        moved = not torch.equal(cache["encoder.hook_embed"][:, position], plain["encoder.hook_embed"][:, position])
        assert moved == (abs(frame - 2 * position) <= 2), frame


def test_a_point_shows_its_name_and_axes(odd: Twins) -> None:
    point = odd.core.hook_dict["encoder.blocks.0.attn.hook_q"]
    assert repr(point) == "HookPoint(encoder.blocks.0.attn.hook_q [batch, position, head, d_head])"
    assert repr(HookPoint("batch", "token")) == "HookPoint([batch, token])"
