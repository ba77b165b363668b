"""Contributions sum to the logit, and each equals what its part writes."""

from __future__ import annotations

import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import attribution_names, direct_logit_attribution
from hooked_whisper.errors import UnknownHookError
from tests.findings.worlds import small_model


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    model = small_model(7)
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if "ln_final" in name or name.endswith("bias"):
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def run(model):
    mel = torch.randn(2, 80, 120, generator=torch.Generator().manual_seed(1))
    tokens = torch.cat([model.to_tokens(" the red cat"), model.to_tokens(" a big dog")])
    return model.run_with_cache(mel, tokens)


@pytest.mark.parametrize("parts", ["block", "head", "neuron"])
def test_parts_sum_to_the_logit_and_to_differences(model, run, parts) -> None:
    logits, cache = run
    right = torch.tensor([[17], [99]])
    single = direct_logit_attribution(cache, right, parts=parts)
    torch.testing.assert_close(
        single.values.sum(0), logits.gather(-1, right[:, None].expand(2, 7, 1))[..., 0], rtol=0, atol=1e-4
    )
    difference = direct_logit_attribution(cache, right, 5, parts=parts)
    torch.testing.assert_close(difference.values.sum(0), single.total - logits[..., 5], rtol=0, atol=1e-4)
    assert single.error < 1e-4 and difference.error < 1e-4
    assert len(single.labels) == len(single.kinds) == len(single.values)
    assert len(set(single.labels)) == len(single.labels)
    torch.testing.assert_close(sum(difference.by_kind().values()), difference.values.sum(0))


@pytest.mark.parametrize("parts", ["block", "head", "neuron"])
def test_attribution_names_are_sufficient(model, parts) -> None:
    mel, tokens = torch.zeros(1, 80, 120), torch.tensor([[1, 2]])
    _, small = model.run_with_cache(mel, tokens, names_filter=attribution_names(parts))
    _, whole = model.run_with_cache(mel, tokens)
    table, same = (direct_logit_attribution(cache, 3, parts=parts) for cache in (small, whole))
    torch.testing.assert_close(table.values, same.values)
    assert small.nbytes < whole.nbytes


def test_labels_name_the_parts(model, run) -> None:
    _, cache = run
    blocks = direct_logit_attribution(cache, 3, parts="block")
    heads = direct_logit_attribution(cache, 3, parts="head")
    neurons = direct_logit_attribution(cache, 3, parts="neuron")

    def of(table, *labels: str) -> torch.Tensor:
        return sum(table.values[table.labels.index(label)] for label in labels)

    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(of(blocks, "1_cross_attn_out"), of(heads, "X1.0", "X1.1", "1_cross_attn.b_O"), **close)
    torch.testing.assert_close(of(blocks, "0_attn_out"), of(heads, "D0.0", "D0.1", "0_attn.b_O"), **close)
    mlp = [f"0.{n}" for n in range(64)]
    torch.testing.assert_close(of(blocks, "0_mlp_out"), of(neurons, *mlp, "0_mlp.b_out"), **close)
    assert {k for label, k in zip(heads.labels, heads.kinds, strict=True) if label.startswith("X")} == {"cross"}


def test_top_list_figure_and_errors(model, run, unchecked) -> None:
    _, cache = run
    table = direct_logit_attribution(cache, 3, 4, parts="head")
    top = table.top(5, clip=1)
    assert len(top) == 5 and abs(top[0].value) >= abs(top[-1].value)
    index = table.labels.index(top[0].label)
    assert float(table.values[index, 1, -1]) == pytest.approx(top[0].value)
    assert table.plot().axes
    with pytest.raises(ValueError, match="'block', 'head' or 'neuron'"):
        direct_logit_attribution(cache, 3, parts="layer")  # type: ignore[arg-type]
    _, poor = model.run_with_cache(torch.zeros(1, 80, 120), torch.tensor([[1]]), names_filter="decoder.hook_embed")
    with pytest.raises(UnknownHookError, match="not cached"):
        direct_logit_attribution(poor, 3)
