"""Attached SAEs and edits of their latents act while the model decodes and transcribes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hooked_whisper.hooks import Hooks
from hooked_whisper.interventions import compare_transcript, compare_transcripts
from sae_lens_audio.latents import ablate_latents, steer_latents
from tests.findings.worlds import small_model
from tests.sae.attach.attached import (
    ACTS,
    HOOK,
    TOPK,
    F,
    mels,
    model,
    rand,
    tokens,
)

# --- live in decoding -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("use_error_term", [False, True])
def test_generation_with_edits_is_greedy_over_full_passes(use_error_term: bool) -> None:
    hook = "decoder.blocks.0.hook_resid_post"
    encoder_out, prompt = model().embed_audio(mels()), tokens()[:, :3]
    hooks = steer_latents(hook, [3, 7], 9.0, positions=(4, 7), unit="tokens") + ablate_latents(hook, [11, 12, 13])
    plain = model().generate(prompt, encoder_out, max_new_tokens=6)
    with model().attach_sae(TOPK, hook, use_error_term=use_error_term), model().hooks(hooks):
        result = model().generate(prompt, encoder_out, max_new_tokens=6)
        whole = prompt
        for _ in range(6):
            whole = torch.cat([whole, model().logits(whole, encoder_out)[:, -1:].argmax(-1)], 1)
    assert torch.equal(result, whole) and not torch.equal(result, plain)


@pytest.mark.parametrize("options", [{}, {"beam_size": 2}], ids=["greedy", "beams"])
def test_decoding_and_transcript_changes_with_an_attached_sae(options: dict) -> None:
    hooks = steer_latents(HOOK, range(8), 5.0)
    by_hand = [(HOOK, lambda x: TOPK.decode(TOPK.encode(x) + 5 * (torch.arange(F) < 8)))]
    settings = {"language": "en", "without_timestamps": True, "sample_len": 4, **options}

    def text(hooks: Hooks = ()) -> list[str]:
        with model().hooks(hooks):
            return [single.text for single in model().decode(mels(), **settings)]

    with model().attach_sae(TOPK, HOOK, positions=torch.ones(1, 60, dtype=torch.bool)):
        spliced, steered = text(), text(hooks)
    assert steered == text(by_hand) and spliced == text([(HOOK, TOPK)])
    assert len({tuple(t) for t in (text(), spliced, steered)}) == 3


def test_transcript_change_of_an_edit_with_an_attached_sae() -> None:
    hooks = steer_latents(HOOK, range(8), 5.0)
    with model().attach_sae(TOPK, HOOK):
        result = compare_transcripts(model(), mels(), fwd_hooks=hooks, max_new_tokens=4)
        single = compare_transcript(model(), mels()[:1], fwd_hooks=hooks, max_new_tokens=4)
    wanted = compare_transcripts(model(), mels(), fwd_hooks=[(HOOK, TOPK)], max_new_tokens=4)
    assert [o.before for o in result] == [o.after for o in wanted] and single.before == result[0].before
    assert all(o.before != o.after for o in result) and single.after == result[0].after
    assert np.isfinite(result.logprob_change) and result.logprob_change != 0
    with model().attach_sae(TOPK, HOOK, use_error_term=True):  # nothing but the edit is to be seen
        assert [o.before for o in compare_transcripts(model(), mels(), fwd_hooks=hooks, max_new_tokens=4)] == [
            o.before for o in wanted
        ]


def test_transcribing_with_an_attached_sae() -> None:
    whole = small_model(0, n_ctx=1500)
    audio = 0.1 * rand(16000 * 35).numpy()
    settings = {"language": "en", "temperature": 0.0, "sample_len": 3, "no_speech_threshold": None}
    windows: list[Tensor] = []
    with whole.attach_sae(TOPK, HOOK, positions=slice(0, 700)), whole.hooks([(ACTS, lambda f: windows.append(f))]):
        inside = whole.transcribe(audio, **settings)
    assert len(windows) >= 2 and all(f.shape == (1, 1500, F) and not f[:, 700:].any() for f in windows)
    mask = torch.arange(1500)[:, None] < 700
    with whole.hooks([(HOOK, lambda x: torch.where(mask, TOPK(x), x))]):
        assert whole.transcribe(audio, **settings).text == inside.text
