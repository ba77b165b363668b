"""What a forward pass returns: logits, the loss by hand, both, or nothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hooked_whisper.errors import ArgumentError
from hooked_whisper.model import WhisperCore
from hooked_whisper.model.loss import lm_accuracy, lm_cross_entropy_loss
from tests.core.twins import Twins


def test_the_loss_is_cross_entropy(odd: Twins, core: WhisperCore) -> None:
    mel, tokens = odd.mel(2), odd.tokens(6, 2)
    logits = core(mel, tokens)
    by_hand = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").reshape(2, 5)
    loss = core(mel, tokens, return_type="loss")
    torch.testing.assert_close(loss, by_hand.mean())
    torch.testing.assert_close(core(mel, tokens, return_type="loss", loss_per_token=True), by_hand)
    torch.testing.assert_close(core.loss_fn(logits, tokens, first_token=4), by_hand[:, 3:].mean())
    torch.testing.assert_close(core.loss_fn(logits, tokens, per_token=True, first_token=4), by_hand[:, 3:])
    both = core(mel, tokens, return_type="both")
    assert torch.equal(both.logits, logits) and torch.equal(both[1], loss)
    assert core(mel, tokens, return_type=None) is None


def test_masked_tokens_do_not_count(odd: Twins, core: WhisperCore) -> None:
    tokens = odd.tokens(6, 2)
    logits = core(odd.mel(2), tokens)
    each = core.loss_fn(logits, tokens, per_token=True)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    masked = core.loss_fn(logits, tokens, mask, per_token=True)
    assert torch.equal(masked[0], each[0]) and masked[1].tolist() == [*each[1, :2].tolist(), 0, 0, 0]
    torch.testing.assert_close(core.loss_fn(logits, tokens, mask), (each[0].sum() + each[1, :2].sum()) / 7)
    with pytest.raises(ArgumentError, match="leaves no token"):
        core.loss_fn(logits, tokens, torch.zeros(2, 6, dtype=torch.bool))


@pytest.mark.usefixtures("unchecked")
def test_a_mask_of_another_shape_and_a_single_token_are_refused(odd: Twins, core: WhisperCore) -> None:
    tokens = odd.tokens(6, 2)
    logits = core(odd.mel(2), tokens)
    with pytest.raises(ArgumentError, match=r"attention_mask \(2, 3\) and tokens \(2, 6\)"):
        lm_cross_entropy_loss(logits, tokens, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ArgumentError, match="at least 2 tokens per row"):
        core.loss_fn(logits[:, :1], tokens[:, :1])


def test_accuracy(core: WhisperCore) -> None:
    logits = torch.zeros(1, 4, 9)
    logits[0, torch.arange(3), torch.tensor([5, 6, 7])] = 1
    assert lm_accuracy(logits, torch.tensor([[0, 5, 6, 1]])) == pytest.approx(2 / 3)
    assert lm_accuracy(logits, torch.tensor([[0, 5, 6, 1]]), per_token=True).tolist() == [[True, True, False]]
    uniform = core.loss_fn(torch.zeros(1, 4, 9), torch.zeros(1, 4, dtype=torch.long))
    assert float(uniform) == pytest.approx(math.log(9))


def test_nothing_is_unembedded_unless_a_hook_reads_it(odd: Twins, core: WhisperCore) -> None:
    seen: list[str] = []

    def note(x: torch.Tensor, hook: object) -> None:
        seen.append(hook.name)  # type: ignore[attr-defined]

    core.run_with_hooks(odd.mel(), odd.tokens(3), return_type=None, fwd_hooks=[("decoder.ln_final.*", note)])
    assert seen == ["decoder.ln_final.hook_scale", "decoder.ln_final.hook_normalized"]
    core.run_with_hooks(odd.mel(), odd.tokens(3), return_type=None, fwd_hooks=[("unembed.*", note)])
    assert seen[2:] == ["unembed.hook_in", "unembed.hook_out"]


@pytest.mark.usefixtures("unchecked")
def test_one_stack_alone(odd: Twins, core: WhisperCore) -> None:
    mel, tokens = odd.mel(), odd.tokens(3)
    encoded = core(mel)
    assert torch.equal(encoded, core.embed_audio(mel))
    assert torch.equal(core(tokens=tokens, encoder_out=encoded), core.logits(tokens, encoded))
    halved = core.run_with_hooks(mel, fwd_hooks=[("encoder.hook_out", lambda x: x / 2)])
    assert torch.equal(halved, encoded / 2)
    for arguments, message in (
        ({}, "either mel or encoder_out"),
        ({"mel": mel, "encoder_out": encoded, "tokens": tokens}, "either mel or encoder_out"),
        ({"encoder_out": encoded}, "give tokens too"),
        ({"mel": mel, "return_type": "loss"}, "needs tokens"),
        ({"mel": mel, "tokens": tokens, "return_type": "lost"}, "did you mean 'loss'"),
        ({"mel": mel, "tokens": tokens[:, :1], "return_type": "loss"}, "a token to predict"),
    ):
        with pytest.raises(ArgumentError, match=message):
            core(**arguments)


def test_a_cached_run_returns_the_loss(odd: Twins, core: WhisperCore) -> None:
    mel, tokens = odd.mel(), odd.tokens(4)
    loss, cache = core.run_with_cache(mel, tokens, return_type="loss", names_filter="encoder.hook_out", incl_bwd=True)
    assert torch.equal(loss.detach(), core(mel, tokens, return_type="loss"))
    same = core.run_with_cache(
        mel, tokens, names_filter="encoder.hook_out", incl_bwd=True, loss_fn=lambda x: core.loss_fn(x, tokens)
    )[1]
    assert torch.allclose(cache["encoder.hook_out_grad"], same["encoder.hook_out_grad"])
    output, cache = core.run_with_cache(mel, tokens, return_type=None, names_filter="encoder.hook_out")
    assert output is None and list(cache) == ["encoder.hook_out"]
    for options in ({}, {"return_type": "loss", "loss_fn": torch.sum}, {"return_type": None}, {"stop_early": True}):
        with pytest.raises(ArgumentError, match="incl_bwd needs one loss"):
            core.run_with_cache(mel, tokens, incl_bwd=True, **options)


def test_a_mel_with_nan_is_refused(odd: Twins, core: WhisperCore) -> None:
    for value in (math.nan, math.inf, -math.inf):
        mel = odd.mel(2)
        mel[1, 3, 5] = value
        for call in (lambda m: core(m), lambda m: core.run_with_cache(m), core.embed_audio):
            with pytest.raises(ArgumentError, match="mel of row 1 has NaN or infinite"):
                call(mel)
