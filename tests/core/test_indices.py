"""Every form of the same selection selects the same, wherever selections are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper import HookedWhisper
from hooked_whisper._support.indices import read_indices, take
from hooked_whisper.errors import HookedWhisperError, MaskError, PatchError
from hooked_whisper.hooks.attach_layout import sae_positions
from hooked_whisper.interventions import ablate, knock_out, replace_encoder
from hooked_whisper.patching import Patch
from hooked_whisper.patching.positions import read_positions
from tests.core.twins import Twins

pytestmark = pytest.mark.usefixtures("unchecked")
SIZE = 12


@pytest.fixture(scope="module")
def core(odd: Twins) -> HookedWhisper:
    return HookedWhisper.from_pretrained(odd.core, device="cpu")


def forms(numbers: list[int], size: int) -> dict[str, Any]:
    """All ways to write some numbers, which rise, each once."""
    mask = np.isin(np.arange(size), numbers)
    selections: dict[str, Any] = {
        "list": numbers,
        "numpy integers": [np.int64(k) for k in numbers],
        "array": np.array(numbers),
        "small array": np.array(numbers, dtype=np.uint16),
        "tensor": torch.tensor(numbers),
        "tensors": [torch.tensor(k) for k in numbers],
        "int32 tensor": torch.tensor(numbers, dtype=torch.int32),
        "mask": mask.tolist(),
        "array mask": mask,
        "tensor mask": torch.from_numpy(mask),
        "numpy booleans": list(mask),
    }
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        selections["slice"] = slice(numbers[0], numbers[-1] + 1)
        selections["numpy slice"] = slice(np.int64(numbers[0]), torch.tensor(numbers[-1] + 1))
        selections["range"] = range(numbers[0], numbers[-1] + 1)
    if len(numbers) == 1:
        selections |= {
            "number": numbers[0],
            "numpy integer": np.int32(numbers[0]),
            "one tensor": torch.tensor(numbers[0]),
        }
    return selections


def any_numbers(size: int) -> st.SearchStrategy[list[int]]:
    spans = st.tuples(st.integers(0, size - 1), st.integers(1, size)).map(
        lambda s: list(range(s[0], min(size, s[0] + s[1])))
    )
    return st.one_of(spans, st.sets(st.integers(0, size - 1), min_size=1).map(sorted))


@given(any_numbers(SIZE))
def test_all_forms_are_the_same_indices(numbers: list[int]) -> None:
    x = torch.arange(3 * SIZE).reshape(3, SIZE)
    for form, selection in forms(numbers, SIZE).items():
        indices = read_indices(selection, SIZE)
        assert list(indices) == numbers, form
        assert torch.equal(take(x, 1, indices), x[:, numbers]), form


@given(any_numbers(SIZE))
def test_all_forms_are_the_same_positions(numbers: list[int]) -> None:
    positions = torch.arange(SIZE)
    for form, selection in forms(numbers, SIZE).items():
        assert read_positions(selection, n=SIZE).mask(positions).nonzero().flatten().tolist() == numbers, form


@given(st.lists(st.integers(-SIZE, SIZE - 1), min_size=1))
def test_order_repetitions_and_numbers_from_the_end_are_as_in_python(numbers: list[int]) -> None:
    wanted = torch.arange(SIZE)[numbers]
    for selection in (numbers, tuple(numbers), np.array(numbers), torch.tensor(numbers)):
        assert torch.equal(take(torch.arange(SIZE), 0, read_indices(selection, SIZE)), wanted)


@given(st.builds(slice, *[st.none() | st.integers(-2 * SIZE, 2 * SIZE)] * 2, st.sampled_from([None, 1, 2, -1, -3])))
def test_slices_are_those_of_python(selection: slice) -> None:
    wanted = list(range(SIZE))[selection]
    assert take(torch.arange(SIZE), 0, read_indices(selection, SIZE)).tolist() == wanted


NOTHING = {
    "float": 1.0, "floats": [1.0, 2.0], "float array": np.array([1.0]), "float tensor": torch.tensor([1.0]),
    "numpy float": np.float32(2), "float slice": slice(0.0, 2.0), "boolean": True, "numpy boolean": np.True_,
    "short mask": [True, False], "long mask": torch.ones(SIZE + 1, dtype=torch.bool), "mixed": [True, 2],
    "empty": [], "empty array": np.array([]), "empty mask": [False] * SIZE, "outside": [SIZE], "far": [-SIZE - 1],
    "number outside": SIZE, "text": "1", "texts": ["1"], "rows": torch.ones(1, SIZE, dtype=torch.int64),
    "nothing": {}, "object": object(), "step 0": slice(0, 3, 0), "nan": float("nan"),
}  # fmt: skip


@pytest.mark.parametrize("what", NOTHING)
def test_invalid_selection_is_refused(what: str) -> None:
    with pytest.raises(PatchError, match="head"):
        read_indices(NOTHING[what], SIZE, "heads", PatchError)


@pytest.mark.parametrize("what", [k for k in NOTHING if k not in ("empty", "empty array", "empty mask", "far")])
def test_invalid_positions_are_refused(what: str) -> None:
    with pytest.raises(PatchError):
        read_positions(NOTHING[what], n=SIZE)


@pytest.mark.parametrize("numbers", [[4], [2, 3, 4], [1, 4, 7]])
def test_every_function_takes_every_form(odd: Twins, core: HookedWhisper, numbers: list[int]) -> None:
    mel, tokens = odd.mel(1), odd.tokens(8, 1)
    n = core.cfg.encoder.n_ctx
    point = core.hook_dict["encoder.hook_out"]
    _, whole = core.run_with_cache(
        mel, tokens, names_filter=["encoder.hook_out", "decoder.*resid*", "decoder.ln_final*"]
    )
    x = whole["encoder.hook_out"]
    for form, positions in forms(numbers, n).items():
        _, cache = core.run_with_cache(mel, names_filter="encoder.hook_out", pos_slice=positions)
        assert torch.equal(cache["encoder.hook_out"], x[:, numbers]), form
        assert torch.equal(whole.slice(position=positions)["encoder.hook_out"], x[:, numbers]), form
        attached = sae_positions(positions, point, core.cfg)
        assert attached is not None and attached.mask.nonzero()[:, 1].tolist() == numbers, form
        mask = Patch("encoder.hook_out", {"position": positions}).mask(point, x.shape)
        assert mask.flatten().nonzero().flatten().tolist() == numbers, form
        ((_, hook),) = ablate(core, "encoder.hook_out", positions=positions)
        assert (hook(x.clone(), point) == 0).all(-1)[0].nonzero().flatten().tolist() == numbers, form
        edit = replace_encoder(core, positions, torch.zeros(1, n, x.shape[-1]))  # type: ignore[arg-type]
        assert (edit(x) == 0).all(-1)[0].nonzero().flatten().tolist() == numbers, form
        (rule,) = knock_out(core, keys=positions, blocks=[0]).values()
        assert (~rule(torch.arange(n), torch.arange(n)))[0, 0, 0].nonzero().flatten().tolist() == numbers, form
    for form, positions in forms(numbers, 8).items():
        _, cache = core.run_with_cache(mel, tokens, names_filter="decoder.*resid_pre", token_slice=positions)
        assert torch.equal(cache["decoder", "resid_pre", 0], whole["decoder", "resid_pre", 0][:, numbers]), form
        resid = whole.accumulated_resid("decoder", pos_slice=positions)
        assert torch.equal(resid[0], whole["decoder", "resid_pre", 0][:, numbers]), form


def test_every_function_takes_every_form_of_heads(core: HookedWhisper) -> None:
    n = core.cfg.encoder.n_heads
    mask = torch.ones(core.cfg.encoder.n_ctx, core.cfg.encoder.n_ctx, dtype=torch.bool)
    for form, heads in forms([1], n).items():
        rule = next(iter(knock_out(core, heads=heads).values()))
        assert rule.heads is not None and [k for k, on in enumerate(rule.heads) if on] == [1], form
        ((_, hook),) = ablate(core, "encoder.blocks.0.attn.hook_z", heads=heads)
        assert hook.entries.flatten().nonzero().flatten().tolist() == [1], form
    for heads in (1, np.int64(1), (np.int64(1),)):
        for handle in core.add_attn_masks({("encoder", heads): mask}):
            handle.remove()
    with pytest.raises(MaskError, match=r"1\.5"):
        core.add_attn_masks({("encoder", 1.5): mask})


def test_a_mask_with_a_row_for_each_clip(core: HookedWhisper) -> None:
    point, n = core.hook_dict["encoder.hook_out"], core.cfg.encoder.n_ctx
    mask = torch.rand(2, n) > 0.5
    for rows in (mask, mask.numpy(), mask.tolist(), list(mask.numpy())):
        attached = sae_positions(rows, point, core.cfg)
        assert attached is not None and torch.equal(attached.mask, mask)
    for wrong in (mask.float(), mask[None], [[True], [True, False]], np.ones((2, 3))):
        with pytest.raises(PatchError, match="row"):
            sae_positions(wrong, point, core.cfg)


@pytest.mark.parametrize("layer", [np.int64(1), torch.tensor(1), np.uint8(1)])
def test_numbers_of_numpy_are_keys(odd: Twins, core: HookedWhisper, layer: Any) -> None:
    _, cache = core.run_with_cache(odd.mel(1), odd.tokens(3, 1))
    assert cache["decoder", "resid_pre", layer] is cache["decoder", "resid_pre", 1]
    assert torch.equal(cache.accumulated_resid("decoder", layer), cache.accumulated_resid("decoder", 1))
    for wrong in (1.0, True, np.float64(1), "1", None):
        with pytest.raises(HookedWhisperError):
            cache["decoder", "resid_pre", wrong]
