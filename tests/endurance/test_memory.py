"""Thousands of passes and transcriptions leave memory as it was."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper, local_window
from tests.core.twins import listeners
from tests.endurance.leaks import Left, left_by

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc and glibc")

MOST = 400  # bytes a call: a kept activation of one position of the demo model has 512, of one window 768,000
RESID = "encoder.blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo")


def passes(model: HookedWhisper, n_frames: int = 3000):
    """Everything that a pass may be asked for, in turn."""
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(1, model.cfg.encoder.n_mels, n_frames, generator=generator)
    tokens = torch.randint(0, 50000, (1, 8), generator=generator)
    encoded = torch.randn(1, n_frames // 2, model.cfg.encoder.d_model, generator=generator)
    span = slice(0, n_frames // 2)

    def backward() -> None:
        model.run_with_cache(
            tokens=tokens,
            encoder_out=encoded,
            names_filter="decoder.*.hook_z",
            incl_bwd=True,
            loss_fn=lambda x: x.sum(),
        )

    def stopped() -> None:
        model.run_with_cache(mel, mel_positions=span, names_filter=RESID, stop_early=True, pos_slice=3)

    def masked() -> None:
        names = "encoder.blocks.2.attn.hook_pattern"
        model.run_with_cache(
            mel[:, :, :400], mel_positions=slice(0, 200), names_filter=names, attn_masks={"encoder": local_window(9)}
        )

    def hooked() -> None:
        hooks = [(RESID, lambda x: x * 0.5), ("decoder.blocks.0.mlp.hook_post", lambda x, hook: None)]
        model.run_with_cache(tokens=tokens, encoder_out=encoded, fwd_hooks=hooks[1:], token_slice=-1)
        model.run_with_cache(
            mel[:, :, :400], mel_positions=slice(0, 200), names_filter="encoder.*.hook_z", fwd_hooks=hooks[:1]
        )

    def failing() -> None:
        def fails(x: torch.Tensor) -> None:
            raise ValueError("on purpose")

        hooks = [("decoder.blocks.1.hook_q_input", fails)]
        with pytest.raises(ValueError, match="on purpose"):
            model.run_with_cache(tokens=tokens, encoder_out=encoded, fwd_hooks=hooks)

    kinds = (stopped, masked, hooked, backward, failing)

    def call(number: int) -> None:
        kinds[number % len(kinds)]()

    return call


def check(left: Left, most: float = MOST) -> None:
    assert left.low < most, left  # the interval: caches may still fill a little
    assert left.resident < 64 * 2**20, left
    assert left.tensors <= 0 and left.threads <= 0 and left.files <= 0, left


@pytest.mark.parametrize("n", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_passes_do_not_leak(model: HookedWhisper, n: int, unchecked: None) -> None:
    many = n > 1000
    # so few calls are still filling caches: only what keeps a page a call is seen
    check(left_by(passes(model, 3000 if many else 600), n, samples=40 if many else 8), MOST if many else 4096)
    assert not listeners(model)


@pytest.mark.parametrize("n", [12, pytest.param(500, marks=pytest.mark.slow)])
def test_transcriptions_do_not_leak(model: HookedWhisper, n: int, unchecked: None) -> None:
    rng = np.random.default_rng(0)
    sounds = [(0.1 * rng.standard_normal(16000 * seconds)).astype(np.float32) for seconds in (1, 3, 2)]

    def call(number: int) -> None:
        words = number % 5 == 0
        model.transcribe(sounds[number % 3], language="en", sample_len=5, word_timestamps=words, temperature=0.0)

    growth = left_by(call, n, samples=40 if n > 100 else 2)
    if n > 100:  # a few calls say nothing about the allocator
        check(growth)
    assert growth.tensors <= 0 and growth.threads <= 0 and growth.files <= 0, growth
    assert not listeners(model)


def test_leak_of_one_page_per_call_is_detected(model: HookedWhisper) -> None:
    leaked: list[object] = []

    def leaks(number: int) -> None:
        leaked.append(bytearray(b"?" * 4096))

    growth = left_by(leaks, 200, samples=6)
    assert growth.low > MOST and growth.bytes_per_call > 4000

    def keeps_tensors(number: int) -> None:
        leaked.append(torch.zeros(3))

    assert left_by(keeps_tensors, 100, samples=2).tensors == 50
