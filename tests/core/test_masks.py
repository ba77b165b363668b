"""Attention masks: equivalent forms, targets, combinations, rows that may attend to nothing, errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper.errors import MaskError
from hooked_whisper.model import KVCache, WhisperCore, local_window
from tests.core.parity import cached_logits, relative_l2
from tests.core.twins import Twins

TOKENS = 6
CLOSE = 1e-5
# attention kind -> (mask target, a module of that kind, shape [query, key] in the odd model)
KINDS = {
    "encoder": ("encoder", "encoder.blocks.1.attn", (60, 60)),
    "decoder": ("decoder", "decoder.blocks.2.attn", (TOKENS, TOKENS)),
    "cross": ("cross_attn", "decoder.blocks.2.cross_attn", (TOKENS, 60)),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def run(odd: Twins, attn_masks: dict, *hooks: tuple, batch: int = 2) -> Tensor:
    with torch.no_grad():
        return odd.core.run_with_hooks(
            odd.mel(batch), odd.tokens(TOKENS, batch), fwd_hooks=hooks, attn_masks=attn_masks
        )


def patterns(odd: Twins, attn_masks: dict, batch: int = 2) -> dict[str, Tensor]:
    """Pattern of every attention, by the attention's name."""
    with torch.no_grad():
        _, cache = odd.core.run_with_cache(
            odd.mel(batch), odd.tokens(TOKENS, batch), names_filter="*.hook_pattern", attn_masks=attn_masks
        )
    return {name.removesuffix(".hook_pattern"): tensor for name, tensor in cache.items()}


def random_mask(*shape: int, seed: int = 0) -> Tensor:
    """Bool, about half of it allowed; the first key always."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[..., 0] = True
    return mask


def additive(mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -torch.inf)


LISTEN = ("*.hook_pattern", lambda x: None)  # makes every attention write out its scores
SHAPES: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "[key]": lambda q, k: (k,),
    "[query, key]": lambda q, k: (q, k),
    "[query, 1]": lambda q, k: (q, 1),
    "[head, query, key]": lambda q, k: (3, q, k),
    "[batch, 1, 1, key]": lambda q, k: (2, 1, 1, k),
    "[batch, head, query, key]": lambda q, k: (2, 3, q, k),
}


@kinds
@pytest.mark.parametrize("shape", SHAPES)
def test_boolean_additive_fused_and_explicit_masks_agree(odd: Twins, kind: str, shape: str) -> None:
    target, name, sizes = KINDS[kind]
    mask = random_mask(*SHAPES[shape](*sizes))
    with_bool = run(odd, {target: mask})
    assert relative_l2(with_bool, run(odd, {})) > 1e-3 or shape == "[query, 1]"
    for other in (additive(mask), additive(mask, torch.float64), additive(mask, torch.float16)):
        assert relative_l2(run(odd, {target: other}), with_bool) < CLOSE
        assert relative_l2(run(odd, {target: other}, LISTEN), with_bool) < CLOSE
    assert relative_l2(run(odd, {target: mask}, LISTEN), with_bool) < CLOSE
    pattern = patterns(odd, {target: mask})[name]
    forbidden = ~mask.expand(2, 3, *sizes)
    assert not pattern[forbidden].any() and pattern[~forbidden].any()


@kinds
def test_the_same_mask_by_a_hook_on_the_scores(odd: Twins, kind: str) -> None:
    _, name, sizes = KINDS[kind]
    bias = torch.randn(sizes, generator=torch.Generator().manual_seed(1)) + additive(random_mask(*sizes))
    by_hook = run(odd, {}, (f"{name}.hook_attn_scores", lambda scores: scores + bias))
    assert relative_l2(run(odd, {name: bias}), by_hook) < CLOSE


def only_words(parameter: object) -> str:
    """Test ids without tensors and addresses."""
    return parameter if isinstance(parameter, str) else ""


TARGETS = {
    "encoder": ["encoder.blocks.0.attn", "encoder.blocks.1.attn"],
    "decoder": [f"decoder.blocks.{i}.attn" for i in range(3)],
    "decoder.attn": [f"decoder.blocks.{i}.attn" for i in range(3)],
    "cross_attn": [f"decoder.blocks.{i}.cross_attn" for i in range(3)],
    "decoder.cross_attn": [f"decoder.blocks.{i}.cross_attn" for i in range(3)],
    "encoder.blocks.1": ["encoder.blocks.1.attn"],
    "decoder.blocks.1": ["decoder.blocks.1.attn"],
    "encoder.blocks.1.attn": ["encoder.blocks.1.attn"],
    "decoder.blocks.1.cross_attn": ["decoder.blocks.1.cross_attn"],
    "decoder.blocks.[02].cross_attn": ["decoder.blocks.0.cross_attn", "decoder.blocks.2.cross_attn"],
    "*": [
        f"{s}.blocks.{i}.{a}"
        for s, n, a in (("encoder", 2, "attn"), ("decoder", 3, "attn"), ("decoder", 3, "cross_attn"))
        for i in range(n)
    ],
}


def only_first_key(query: Tensor, key: Tensor) -> Tensor:
    """A rule: every query sees key 0 alone."""
    return (key == 0).expand(len(query), -1)


@pytest.mark.parametrize("target", TARGETS)
def test_targets(odd: Twins, target: str) -> None:
    for name, pattern in patterns(odd, {target: only_first_key}).items():
        masked = not pattern[..., 1:].any()
        assert masked == (name in TARGETS[target]), name


@pytest.mark.parametrize(
    ("target", "heads"),
    [
        (("encoder", 1), [1]),
        (("encoder", (0, 2)), [0, 2]),
        (("encoder.blocks.*", (2,)), [2]),
        ("encoder.blocks.0.head.1", [1]),
        ("encoder.blocks.0.attn.head.1", [1]),
        ("encoder.head.2", [2]),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["rule", "additive", "bool with batch"])
def test_heads(odd: Twins, target: object, heads: list[int], form: str) -> None:
    mask = {
        "rule": only_first_key,
        "additive": additive(torch.arange(60) == 0),
        "bool with batch": (torch.arange(60) == 0).expand(2, 1, 60, 60),
    }[form]
    pattern = patterns(odd, {target: mask})["encoder.blocks.0.attn"]
    assert [head for head in range(3) if not pattern[:, head, :, 1:].any()] == heads
    assert relative_l2(run(odd, {target: mask}), run(odd, {target: mask}, LISTEN)) < CLOSE


def test_masks_add_up_with_each_other_and_with_the_causal_mask(odd: Twins, core: WhisperCore) -> None:
    narrow, sparse = local_window(1), random_mask(TOKENS, TOKENS)
    query, key = torch.arange(TOKENS)[:, None], torch.arange(TOKENS)
    allowed = ((query - key).abs() <= 1) & sparse & (query >= key)
    with core.hooks(attn_masks={"decoder": narrow}):
        for mask in (sparse, additive(sparse)):
            pattern = patterns(odd, {"decoder.blocks.0": mask})["decoder.blocks.0.attn"]
            assert not pattern[..., ~allowed].any()
            assert pattern[..., allowed].all()
    # a mask that allows everything leaves the causal one
    all_allowed = torch.ones(TOKENS, TOKENS, dtype=torch.bool)
    assert relative_l2(run(odd, {"decoder": all_allowed}), run(odd, {})) < CLOSE
    assert not patterns(odd, {"decoder": all_allowed})["decoder.blocks.0.attn"].triu(1).any()


def test_local_window(odd: Twins) -> None:
    distance = (torch.arange(60)[:, None] - torch.arange(60)).abs()
    pattern = patterns(odd, {"encoder": local_window(4)})["encoder.blocks.0.attn"]
    assert not pattern[..., distance > 4].any() and pattern[..., distance <= 4].all()
    # rows from 50 on (padding) are left as they are
    pattern = patterns(odd, {"encoder": local_window(4, n_rows=50)})["encoder.blocks.0.attn"]
    assert not pattern[..., :50, :][..., distance[:50] > 4].any() and pattern[..., 50:, :].all()


@pytest.mark.parametrize("k", [59, 60, 1000])
def test_window_as_wide_as_the_clip_masks_nothing(odd: Twins, k: int) -> None:
    assert relative_l2(run(odd, {"encoder": local_window(k), "decoder": local_window(k)}), run(odd, {})) < 1e-6


# --- rows without any key ----------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("explicit", [False, True], ids=["fused", "explicit"])
@pytest.mark.parametrize("form", ["bool", "additive"])
def test_a_row_without_keys_is_zero_and_keeps_gradients_finite(
    odd: Twins, kind: str, explicit: bool, form: str
) -> None:
    target, name, (n_query, n_key) = KINDS[kind]
    allowed = torch.ones(n_query, n_key, dtype=torch.bool)
    allowed[2] = False
    mask = allowed if form == "bool" else additive(allowed)
    mel = odd.mel(2).requires_grad_()
    hooks = [LISTEN] if explicit else []
    with odd.core.hooks(hooks, attn_masks={target: mask}):
        logits, cache = odd.core.run_with_cache(mel, odd.tokens(TOKENS, 2), names_filter=f"{name}.hook_z")
        parameters = list(odd.core.parameters())
        grads = torch.autograd.grad(logits.square().sum(), [mel, *parameters])
    z = cache[f"{name}.hook_z"]
    assert not z[:, 2].any() and z[:, 3].any()
    assert logits.isfinite().all() and all(grad.isfinite().all() for grad in grads)
    assert grads[0].any()


def test_hook_that_masks_every_key_gives_zero(odd: Twins) -> None:
    name = "decoder.blocks.0.cross_attn"
    hook = (f"{name}.hook_attn_scores", lambda scores: torch.full_like(scores, -torch.inf))
    _, cache = odd.core.run_with_cache(odd.mel(), odd.tokens(3), names_filter=[f"{name}.hook_*"], fwd_hooks=[hook])
    assert not cache[f"{name}.hook_pattern"].any() and not cache[f"{name}.hook_z"].any()


def test_gradients_reach_a_mask_that_wants_them(odd: Twins) -> None:
    bias = torch.zeros(60, 60, requires_grad=True)
    with odd.core.hooks(attn_masks={"encoder": bias}):
        odd.core(odd.mel(), odd.tokens(3)).square().sum().backward(inputs=[bias])
    assert bias.grad.any() and bias.grad.isfinite().all()


# --- decoding with a cache ---------------------------------------------------------------------------------------


@given(
    chunks=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    target=st.sampled_from(["decoder", "cross_attn", ("decoder", 1), "decoder.blocks.1.cross_attn"]),
    form=st.sampled_from(["bool", "larger", "additive", "window", "keys only"]),
)
@settings(max_examples=15)
@torch.no_grad()
def test_masks_while_decoding_with_a_cache(odd: Twins, chunks: list[int], target: object, form: str) -> None:
    """The rows and columns of the tokens at hand: the same logits as in one pass."""
    n = sum(chunks)
    n_key = 60 if "cross" in str(target) else n
    mask = {
        "bool": random_mask(n, n_key),
        "larger": random_mask(3, n + 5, n_key if n_key == 60 else n + 5),
        "additive": torch.randn(2, 1, n, n_key, generator=torch.Generator().manual_seed(0)),
        "window": local_window(2),
        "keys only": random_mask(n_key),
    }[form]
    tokens, encoder_out = odd.tokens(n, 2), odd.core.embed_audio(odd.mel(2))
    with odd.core.hooks(attn_masks={target: mask}):
        whole = odd.core.logits(tokens, encoder_out)
        assert relative_l2(cached_logits(odd.core, tokens, encoder_out, chunks), whole) < CLOSE
        with odd.core.hooks([LISTEN]):
            assert relative_l2(cached_logits(odd.core, tokens, encoder_out, chunks), whole) < CLOSE


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "mask", "words"),
    [
        ("encoder", torch.zeros(60, 60, dtype=torch.int64), "give bool .* not torch.int64"),
        ("encoder", torch.full((60, 60), torch.nan), "mask for encoder has NaN"),
        ("encoder", 50, r"give a tensor or a rule such as local_window\(50\), not int"),
        ("encodr", local_window(3), "no attention is named 'encodr'; did you mean 'encoder'"),
        ("encoder.blocks.7", local_window(3), "no attention is named 'encoder.blocks.7'"),
        ("encoder.blocks.0.cross_attn", local_window(3), "no attention is named"),
        ("*.hook_pattern", local_window(3), "no attention is named"),
        (("encoder", 3), local_window(3), "there is no head 3 of encoder.blocks.0.attn: they are 0 to 2"),
        ("encoder.blocks.0.head.9", local_window(3), "there is no head 9"),
        (("encoder", (0, -4)), local_window(3), "there is no head -4"),
        (3, local_window(3), r"name or \(name, heads\)"),
    ],
    ids=only_words,
)
def test_invalid_requests_are_refused_before_any_pass(odd: Twins, target: object, mask: object, words: str) -> None:
    with pytest.raises(MaskError, match=words), odd.core.hooks(attn_masks={"decoder": local_window(1), target: mask}):
        pytest.fail("entered")
    assert not any(attn.masks for attn in odd.core.attention_modules().values())


@pytest.mark.parametrize(
    ("target", "mask", "words"),
    [
        ("encoder", torch.ones(60, 59), r"encoder.blocks.0.attn: axis key has 59 entries, needs 1 or 60 .*\(60, 59\)"),
        ("encoder", torch.ones(61, 60), "axis query has 61 entries, needs 1 or 60"),
        ("encoder", torch.ones(2, 60, 60), "axis head has 2 entries, needs 1 or 3"),
        ("encoder", torch.ones(3, 1, 60, 60), "axis batch has 3 entries, needs 1 or 2"),
        ("encoder", torch.ones(1, 2, 1, 60, 60), "needs 1 to 4 axes"),
        ("encoder", torch.tensor(True), "needs 1 to 4 axes"),
        ("decoder", torch.ones(TOKENS, TOKENS - 1), "axis key has 5 entries, needs 1 or at least 6"),
        ("cross_attn", torch.ones(TOKENS, 61), "decoder.blocks.0.cross_attn: axis key has 61 entries, needs 1 or 60"),
        ("cross_attn", torch.ones(TOKENS - 1, 60), "axis query has 5 entries, needs 1 or at least 6"),
        ("encoder", lambda query, key: None, "the mask rule for encoder.blocks.0.attn returned NoneType"),
        ("encoder", lambda query, key: key, "give bool .* not torch.int64"),
        ("encoder", lambda query, key: key[:-1] > 3, "axis key has 59 entries"),
    ],
    ids=only_words,
)
def test_masks_that_do_not_fit_name_the_axis(odd: Twins, target: str, mask: object, words: str) -> None:
    for hooks in ((), (LISTEN,)):
        with pytest.raises(MaskError, match=words):
            run(odd, {target: mask}, *hooks)


def test_windows_need_a_width(unchecked: None) -> None:
    for kwargs in ({"k": -1}, {"k": 3, "n_rows": -1}):
        with pytest.raises(MaskError, match="must be at least 0"):
            local_window(**kwargs)
    assert repr(local_window(3)) == "LocalWindow(k=3, n_rows=None)"


@torch.no_grad()
def test_mask_too_small_for_the_next_token_is_an_error(odd: Twins) -> None:
    kv_cache, encoder_out = KVCache(), odd.core.embed_audio(odd.mel())
    with odd.core.hooks(attn_masks={"decoder": random_mask(3, 3)}):
        odd.core.decoder(odd.tokens(3), encoder_out, kv_cache)
        with pytest.raises(MaskError, match="needs 1 or at least 4"):
            odd.core.decoder(odd.tokens(1), encoder_out, kv_cache)
