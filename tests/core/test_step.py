"""A decoding step without modules gives every bit of what the modules give, and is taken only if nobody listens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import Tensor, nn

import hooked_whisper.model.decoder as decoder_module
from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.model import KVCache

CONFIG = WhisperConfig(EncoderConfig(8, 600, 24, 2, 1, 48), DecoderConfig(60, 96, 24, 2, 2, 48))


@pytest.fixture
def model() -> HookedWhisper:
    torch.manual_seed(0)
    return HookedWhisper(CONFIG)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The starts of the passes that ran as a step."""
    starts: list[int] = []
    step = decoder_module.step

    def counted(decoder, tokens, start, kv_cache):
        starts.append(start)
        return step(decoder, tokens, start, kv_cache)

    monkeypatch.setattr(decoder_module, "step", counted)
    return starts


@torch.no_grad()
def decoded(model: HookedWhisper, tokens: Tensor, encoded: Tensor) -> tuple[list[Tensor], KVCache]:
    cache = KVCache()
    outputs = [model.decoder(tokens[:, :3], encoded, cache)]
    for i in range(3, tokens.shape[1]):
        outputs.append(model.decoder(tokens[:, i : i + 1], encoded, cache))
    return outputs, cache


def inputs(rows: int, clips: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return (
        torch.randint(0, 60, (rows, 80), generator=generator),
        torch.randn(clips, 600, 24, generator=generator, dtype=dtype),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "clips"), [(1, 1), (3, 1), (2, 2), (9, 9)])
def test_every_bit_of_logits_and_cache_is_equal(model, steps, rows, clips, dtype) -> None:
    model.to(dtype)
    tokens, encoded = inputs(rows, clips, dtype)
    outputs, cache = decoded(model, tokens, encoded)
    assert steps == list(range(3, 80))
    with model.hooks(fwd_hooks=[("decoder.*hook_resid_post", lambda x: x)]):
        expected, expected_cache = decoded(model, tokens, encoded)
    assert len(steps) == 77, "with hooks, the modules run"
    for output, other in zip(outputs, expected, strict=True):
        assert torch.equal(output, other)
    assert cache.keys() == expected_cache.keys()
    assert all(torch.equal(cache[module], expected_cache[module]) for module in cache)
    assert cache[model.decoder.blocks[0].attn.key].shape == (rows, 80, 2, 12)


def test_steps_equal_the_whole_pass(model) -> None:
    tokens, encoded = inputs(2, 2)
    model.double()
    outputs, _ = decoded(model, tokens, encoded.double())
    with torch.no_grad():
        whole = model.logits(tokens, encoded.double())
    torch.testing.assert_close(torch.cat(outputs, 1), whole, atol=1e-10, rtol=1e-10)


class _Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@contextmanager
def _replaced(model: HookedWhisper) -> Iterator[None]:
    block = model.decoder.blocks[1]
    mlp, block.mlp = block.mlp, _Zero()
    try:
        yield
    finally:
        block.mlp = mlp


@contextmanager
def _other_forward(model: HookedWhisper) -> Iterator[None]:
    norm = model.decoder.blocks[0].ln2
    norm.forward = torch.zeros_like
    try:
        yield
    finally:
        del norm.forward


@contextmanager
def _torch_hook(model: HookedWhisper) -> Iterator[None]:
    handle = model.decoder.blocks[0].mlp.register_forward_hook(lambda m, i, out: out * 0)
    try:
        yield
    finally:
        handle.remove()


LISTENERS: dict[str, Callable[[HookedWhisper], AbstractContextManager[object]]] = {
    "hook": lambda model: model.hooks(fwd_hooks=[("decoder.blocks.1.mlp.hook_post", torch.zeros_like)]),
    "mask": lambda model: model.hooks(attn_masks={"cross_attn": torch.arange(600) < 300}),
    "torch hook": _torch_hook,
    "replaced module": _replaced,
    "replaced forward": _other_forward,
}


@pytest.mark.parametrize("name", LISTENERS)
@torch.no_grad()
def test_a_listener_is_noticed_in_the_middle_of_decoding(model, steps, name) -> None:
    tokens, encoded = inputs(1, 1)
    cache = KVCache()
    for i in range(4):
        model.decoder(tokens[:, i : i + 1], encoded, cache)
    assert steps == [1, 2, 3]
    before = copy.copy(cache)
    plain = model.decoder(tokens[:, 4:5], encoded, copy.copy(before))
    with LISTENERS[name](model):
        changed = model.decoder(tokens[:, 4:5], encoded, cache)
    assert steps == [1, 2, 3, 4], "one step more, for the plain pass"
    assert not torch.equal(changed, plain)
    model.decoder(tokens[:, 5:6], encoded, cache)
    assert steps == [1, 2, 3, 4, 5], "afterwards steps are taken again"


@torch.no_grad()
def test_new_weights_are_read_in_the_middle_of_decoding(model, steps) -> None:
    tokens, encoded = inputs(1, 1)
    cache = KVCache()
    for i in range(3):
        model.decoder(tokens[:, i : i + 1], encoded, cache)
    other = copy.copy(cache)
    up = model.decoder.blocks[0].mlp.up
    up.weight.data = torch.zeros_like(up.weight)
    up.bias = nn.Parameter(torch.ones_like(up.bias))
    stepped = model.decoder(tokens[:, 3:4], encoded, cache)
    assert steps == [1, 2, 3]
    with model.hooks(fwd_hooks=[("decoder.hook_embed", lambda x: x)]):
        assert torch.equal(model.decoder(tokens[:, 3:4], encoded, other), stepped)


def test_gradients_flow_through_cached_decoding(model, steps) -> None:
    tokens, encoded = inputs(1, 1)
    cache = KVCache()
    model.decoder(tokens[:, :3], encoded.requires_grad_(), cache)
    model.decoder(tokens[:, 3:4], encoded, cache).sum().backward()
    assert steps == [] and encoded.grad is not None and bool(encoded.grad.abs().sum() > 0)


class TestKVCache:
    def test_keys_are_appended_in_one_buffer_that_doubles(self) -> None:
        cache, module = KVCache(), nn.Identity()
        rows = torch.randn(2, 200, 3, 4)
        addresses = set()
        with torch.no_grad():
            for i in range(200):
                entry = cache.append(module, rows[:, i : i + 1])
                addresses.add(entry.data_ptr())
        assert torch.equal(cache[module], rows)
        assert len(addresses) <= 4, "the prompt, then buffers of 64, 130 and 262 tokens"

    def test_copies_do_not_share_what_is_appended(self) -> None:
        cache, module = KVCache(), nn.Identity()
        a, b, c = (torch.full((1, 1, 1, 1), float(i)) for i in range(3))
        with torch.no_grad():
            cache.append(module, a)
            cache.append(module, a)
            for other in (copy.copy(cache), KVCache(cache), copy.deepcopy(cache)):
                key = next(iter(other))
                other.append(key, b)
                assert other[key].flatten().tolist() == [0, 0, 1]
            assert cache.append(module, c).flatten().tolist() == [0, 0, 2]

    def test_replaced_entries_are_continued(self) -> None:
        cache, module = KVCache(), nn.Identity()
        rows = torch.arange(6.0).view(1, 6, 1, 1)
        with torch.no_grad():
            for i in range(5):
                cache.append(module, rows[:, i : i + 1])
            whole = cache[module]
            cache[module] = whole[:, :2]  # the last tokens are taken back
            assert cache.append(module, rows[:, 5:]).flatten().tolist() == [0, 1, 5]
        assert whole.flatten().tolist() == [0, 1, 2, 3, 4]

    def test_other_sizes_are_refused_as_in_torch(self) -> None:
        cache, module = KVCache(), nn.Identity()
        with torch.no_grad():
            cache.append(module, torch.zeros(2, 3, 1, 1))
            with pytest.raises(RuntimeError):
                cache.append(module, torch.zeros(1, 1, 1, 1))
