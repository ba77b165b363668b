"""ActivationCache: keys and shorthands, printing, moving, cutting, files."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hooked_whisper.errors import ArgumentError, CheckpointError, HookedWhisperError, UnknownHookError
from hooked_whisper.hooks import ActivationCache
from tests.core.twins import Twins


@pytest.fixture(scope="module")
def cache(odd: Twins) -> ActivationCache:
    return odd.core.run_with_cache(odd.mel(2), odd.tokens(4, 2), names_filter="*")[1]


SHORTHANDS = {
    ("encoder", "pattern", 1): "encoder.blocks.1.attn.hook_pattern",
    ("encoder", "pattern", -2): "encoder.blocks.0.attn.hook_pattern",
    ("encoder", "scores", 0): "encoder.blocks.0.attn.hook_attn_scores",
    ("decoder", "cross_pattern", -1): "decoder.blocks.2.cross_attn.hook_pattern",
    ("decoder", "cross_scores", 0): "decoder.blocks.0.cross_attn.hook_attn_scores",
    ("decoder", "attn_scores", 0): "decoder.blocks.0.attn.hook_attn_scores",
    ("decoder", "q", 1): "decoder.blocks.1.attn.hook_q",
    ("decoder", "cross_k", 1): "decoder.blocks.1.cross_attn.hook_k",
    ("decoder", "result", 1): "decoder.blocks.1.attn.hook_result",
    ("decoder", "cross_result", 1): "decoder.blocks.1.cross_attn.hook_result",
    ("decoder", "resid_mid_cross", 1): "decoder.blocks.1.hook_resid_mid_cross",
    ("encoder", "resid_post", 0): "encoder.blocks.0.hook_resid_post",
    ("encoder", "hook_resid_post", 0): None,  # a shorthand has no prefix
    ("encoder", "q_input", 0): "encoder.blocks.0.hook_q_input",
    ("encoder", "mlp_post", 0): "encoder.blocks.0.mlp.hook_post",
    ("encoder", "post", 0): "encoder.blocks.0.mlp.hook_post",
    ("decoder", "mlp_pre", 0): "decoder.blocks.0.mlp.hook_pre",
    ("decoder", "scale", 0, "ln_cross"): "decoder.blocks.0.ln_cross.hook_scale",
    ("encoder", "normalized", -1, "ln2"): "encoder.blocks.1.ln2.hook_normalized",
    ("encoder", "mel"): "encoder.hook_mel",
    ("encoder", "out"): "encoder.hook_out",
    ("encoder", "ln_post.hook_scale"): "encoder.ln_post.hook_scale",
    ("decoder", "embed"): "decoder.hook_embed",
    ("decoder", "out"): "unembed.hook_out",
    ("decoder", "in"): "unembed.hook_in",
    ("decoder", "in", 1): "decoder.blocks.1.hook_resid_pre",
    ("decoder", "scale"): "decoder.ln_final.hook_scale",
    ("encoder", "attn", 1): "encoder.blocks.1.attn.hook_pattern",
    ("cross", "pattern", -1): "decoder.blocks.2.cross_attn.hook_pattern",
    ("cross", "z", 0): "decoder.blocks.0.cross_attn.hook_z",
    ("cross", "scale", 0): "decoder.blocks.0.ln_cross.hook_scale",
}


@pytest.mark.parametrize("key", [key for key, name in SHORTHANDS.items() if name], ids=str)
def test_shorthands(cache: ActivationCache, key: tuple) -> None:
    assert cache.full_name(key) == SHORTHANDS[key] and key in cache
    assert cache[key] is cache[SHORTHANDS[key]]


def test_cache_is_a_mapping(cache: ActivationCache, odd: Twins) -> None:
    assert isinstance(cache, Mapping) and list(cache) == odd.core.hook_names() and len(cache) == len(list(cache))
    assert cache["encoder.blocks.1.mlp.1"] is cache["encoder.blocks.1.mlp.hook_post"]  # published name
    assert "encoder.blocks.1.mlp.1" in cache and cache.axes("encoder.blocks.1.mlp.1") == ("batch", "position", "d_mlp")
    for absent in ("encoder.hook_ou", "x", ("encoder",), ("encoder", "pattern", 9), ("attic", "pattern", 0), 3, None):
        assert absent not in cache
    assert cache.get("encoder.hook_ou") is None and cache.get(("decoder", "pattern", 7), 3) == 3


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("encoder.blocks.1.attn.hook_patern", "did you mean encoder.blocks.1.attn.hook_pattern"),
        (("encoder", "pattern", 2), "encoder has blocks 0 to 1, not 2"),
        (("decoder", "pattern", -4), "decoder has blocks 0 to 2, not -4"),
        (("decoder", "pattern", "all"), "not 'all'"),
        (("encoder", "patern", 0), "no hook point is named 'encoder.blocks.0.hook_patern'"),
        (("encoder", "hook_resid_post", 0), "did you mean encoder.blocks.0.hook_resid_post"),
        (("encoder", "in"), "encoder.hook_in"),
        (("encoder", "cross_pattern", 0), "encoder.blocks.0.cross_attn.hook_pattern"),
        (("pattern", 0), r"begins with a stack.* write \('encoder', 'pattern', 0\) or \('decoder', 'pattern', 0\)"),
        (("encodr", "pattern", 0), r"did you mean \('encoder', 'pattern', 0\)"),
        (("encoder",), "a cache key is"),
        (("encoder", "scale", 0), "add 'ln1'"),
    ],
    ids=str,
)
def test_unknown_key_lists_what_is_cached(cache: ActivationCache, key: object, words: str) -> None:
    with pytest.raises(UnknownHookError, match=words) as raised:
        cache[key]
    assert isinstance(raised.value, KeyError)


def test_missing_cache_entry_explains_how_to_cache_it(odd: Twins) -> None:
    _, few = odd.core.run_with_cache(odd.mel(), names_filter="encoder.hook_*")
    with pytest.raises(UnknownHookError, match=r"was not cached.* \(this cache has 4 entries\)"):
        few["encoder", "pattern", 0]
    assert few.get("encoder.blocks.0.attn.hook_pattern") is None


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (("encoder", "pattern", 0), "by default because of their size"),
        (("decoder", "result", 2), "optional point, which is not computed by default"),
    ],
    ids=str,
)
def test_an_entry_left_out_by_default_says_why_and_how_to_request_it(odd: Twins, key: tuple, reason: str) -> None:
    _, cache = odd.core.run_with_cache(odd.mel(), odd.tokens(4))
    name = cache.full_name(key)
    with pytest.raises(UnknownHookError, match=reason) as raised:
        cache[key]
    assert f"names_filter=[{name!r}]" in str(raised.value)
    assert odd.core.run_with_cache(odd.mel(), odd.tokens(4), names_filter=[name])[1][key].shape[0] == 1


def test_a_stack_of_activations_needs_the_stack_first(cache: ActivationCache, unchecked: None) -> None:
    with pytest.raises(ArgumentError, match=r"write cache.stack_activation\('encoder', 'pattern'\)"):
        cache.stack_activation("pattern")
    with pytest.raises(ArgumentError, match="did you mean 'encoder'"):
        cache.stack_activation("encodr", "pattern")


def test_repr_shows_names_axes_and_sizes(odd: Twins) -> None:
    _, cache = odd.core.run_with_cache(
        odd.mel(2), names_filter="encoder.*.hook_pattern", dtype=torch.float16, incl_bwd=True, loss_fn=torch.sum
    )
    lines = repr(cache).splitlines()
    assert lines[0] == "ActivationCache with 4 activations, 0.2 MiB"
    name, columns = lines[1].split(maxsplit=1)
    assert name == "encoder.blocks.0.attn.hook_pattern"
    assert columns.split("  ") == ["[batch 2, head 3, query 60, key 60]", "float16", "0.04 MiB"]
    assert lines[3].split()[0] == "encoder.blocks.0.attn.hook_pattern_grad"
    assert cache["encoder.blocks.0.attn.hook_pattern_grad"].shape == (2, 3, 60, 60)
    assert cache.axes("encoder.blocks.0.attn.hook_pattern_grad") == ("batch", "head", "query", "key")


def test_bytes_count_shared_memory_once(odd: Twins) -> None:
    names = ["encoder.blocks.0.hook_resid_post", "encoder.blocks.1.hook_resid_pre"]
    nbytes = odd.core.run_with_cache(odd.mel(), names_filter=names[:1])[1].nbytes
    assert nbytes == 60 * 96 * 4
    assert odd.core.run_with_cache(odd.mel(), names_filter=names)[1].nbytes == nbytes


def test_a_large_cache_fits_on_a_screen(odd: Twins) -> None:
    _, cache = odd.core.run_with_cache(odd.mel(1), odd.tokens(4), dtype=torch.float16)
    lines = repr(cache).splitlines()
    assert lines[0] == f"ActivationCache with {len(cache)} activations, {cache.nbytes / 2**20:.1f} MiB"
    assert len(lines) <= 45 and max(map(len, lines)) <= 120
    assert any(line.startswith("  encoder.blocks.0-1: ") for line in lines)
    assert any(line.startswith("  decoder.blocks.0-2: ") for line in lines)
    assert any("[batch 1, token 4] int64" in line for line in lines)  # the dtype that differs from the others
    html = cache._repr_html_()
    names = re.findall(r"<code>([^<]*)</code>", html)
    assert html.count("<details") == html.count("</details>") == 5 and "cross_attn.hook_pattern" in names
    assert "color" not in html  # fits light and dark pages


def test_blocks_that_differ_are_listed_apart(odd: Twins) -> None:
    names = ["encoder.*", "decoder.blocks.0.*", "decoder.blocks.2.*"]
    _, cache = odd.core.run_with_cache(odd.mel(1), odd.tokens(4), names_filter=names)
    text = repr(cache)
    assert "  decoder.blocks.0: " in text and "  decoder.blocks.2: " in text and "decoder.blocks.0-" not in text


@pytest.mark.parametrize("target", ["float32", "gpu", 3.5, 1j])
def test_to_names_an_invalid_target(cache: ActivationCache, target: object) -> None:
    with pytest.raises(ArgumentError, match=re.escape(repr(target))):
        cache.to(target)


def test_to(cache: ActivationCache) -> None:
    half = cache.to(torch.float16)
    assert {t.dtype for t in half.values()} == {torch.float16, torch.int64}
    assert half["decoder.hook_tokens"].dtype == torch.int64
    assert {t.device.type for t in cache.to("meta").values()} == {"meta"}
    assert cache["encoder.hook_out"].dtype == torch.float32  # the original stays
    assert list(half) == list(cache)


def test_slice_by_axis_name(cache: ActivationCache) -> None:
    cut = cache.slice(batch=1, position=slice(10, 20), token=[0, -1], head=2)
    assert torch.equal(cut["encoder.hook_out"], cache["encoder.hook_out"][1:2, 10:20])
    assert torch.equal(cut["decoder", "resid_pre", 0], cache["decoder", "resid_pre", 0][1:2, [0, -1]])
    assert torch.equal(cut["decoder", "cross_pattern", 0], cache["decoder", "cross_pattern", 0][1:2, 2:3])
    assert torch.equal(cut["encoder.hook_pos_embed"], cache["encoder.hook_pos_embed"][10:20])  # it has no batch
    assert torch.equal(
        cache.slice(query=0, key=slice(2))["encoder", "pattern", 0], cache["encoder", "pattern", 0][:, :, :1, :2]
    )
    with pytest.raises(HookedWhisperError, match=r"no cached tensor has an axis 'pos'"):
        cache.slice(pos=0)
    with pytest.raises(HookedWhisperError, match=r"no batch 2 of encoder\.hook_mel"):
        cache.slice(batch=2)


def test_views_of_a_cache_outlive_the_model(odd: Twins) -> None:
    model = copy.deepcopy(odd.core)
    _, cache = model.run_with_cache(odd.mel(2), names_filter="encoder.hook_out")
    del model
    assert cache.slice(batch=0).to(torch.float64)["encoder.hook_out"].shape == (1, 60, 96)
    with pytest.raises(HookedWhisperError, match="no longer exists"):
        cache.decompose_resid("encoder", return_labels=True)


# --- files -------------------------------------------------------------------------------------------------------


def test_a_saved_cache_comes_back(odd: Twins, cache: ActivationCache, tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    mixed = cache.slice(batch=0)
    mixed.save(path)
    mixed.save(path)  # over itself
    loaded = ActivationCache.load(path, odd.core)
    assert list(loaded) == list(mixed) == odd.core.hook_names()
    for name in mixed:
        assert torch.equal(loaded[name], mixed[name]) and loaded[name].dtype == mixed[name].dtype
    assert torch.equal(
        loaded.decompose_resid("decoder", return_labels=True)[0],
        mixed.decompose_resid("decoder", return_labels=True)[0],
    )
    assert [p.name for p in tmp_path.iterdir()] == ["clip.safetensors"]
    _, grads = odd.core.run_with_cache(odd.mel(), names_filter="encoder.hook_out", incl_bwd=True, loss_fn=torch.sum)
    grads.save(path)
    assert list(ActivationCache.load(path, odd.core)) == ["encoder.hook_out", "encoder.hook_out_grad"]


def test_a_failed_save_leaves_the_old_file(
    cache: ActivationCache, odd: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.safetensors"
    cache.save(path)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("hooked_whisper.hooks.activation_cache.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        cache.to(torch.float16).save(path)
    assert ActivationCache.load(path, odd.core)["encoder.hook_out"].dtype == torch.float32
    assert [p.name for p in tmp_path.iterdir()] == ["clip.safetensors"]


def test_broken_files_are_named(one_block: Twins, odd: Twins, cache: ActivationCache, tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    cache.save(good)
    broken = {
        "truncated": good.read_bytes()[:-100],
        "empty": b"",
        "text": b"not tensors at all, but long enough to look at",
        "pickle": b"\x80\x04\x95" + bytes(100),
    }
    for name, content in broken.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} is not a readable ActivationCache"):
            ActivationCache.load(path, odd.core)
    with pytest.raises(CheckpointError, match="missing: no such file"):
        ActivationCache.load(tmp_path / "missing", odd.core)
    with pytest.raises(CheckpointError, match="not a readable"):
        ActivationCache.load(tmp_path, odd.core)
    save_file({"weight": torch.ones(2)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="weights is a safetensors file, but not a saved ActivationCache"):
        ActivationCache.load(tmp_path / "weights", odd.core)
    with pytest.raises(UnknownHookError, match="did you mean"):
        ActivationCache.load(good, one_block.core)  # a model with fewer blocks
