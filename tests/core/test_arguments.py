"""Wrong types at the public surface: our errors, with what was given and what is expected."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hooked_whisper import ActivationCache, HookedWhisper
from hooked_whisper.errors import ArgumentError, CheckpointError, HookedWhisperError, PromptError
from tests.core.twins import Twins

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def mel(model: HookedWhisper) -> torch.Tensor:
    return model.to_mel(0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32))


TOKENS = torch.tensor([[50258, 50259]])
WRONG: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a path to decode": (lambda m, x: m.decode("x.wav"), r"str 'x\.wav'.*model\.to_mel"),
    "an array to decode": (lambda m, x: m.decode(x.numpy()), r"ndarray"),
    "samples to decode": (lambda m, x: m.decode(torch.zeros(16000)), r"\(16000,\)"),
    "an unknown option of decode": (lambda m, x: m.decode(x, langage="en"), "did you mean 'language'"),
    "an unknown language": (lambda m, x: m.decode(x, language="klingon"), "klingon"),
    "an unknown task": (lambda m, x: m.decode(x, task="transcript"), "did you mean 'transcribe'"),
    "options that exclude each other": (lambda m, x: m.decode(x, beam_size=2, best_of=2), "beam_size and best_of"),
    "an unknown option of transcribe": (lambda m, x: m.transcribe(np.zeros(16000), beamsize=2), "'beam_size'"),
    "a path to detect_language": (lambda m, x: m.detect_language("x.wav"), "str"),
    "a list to the model": (lambda m, x: m([1, 2], TOKENS), r"list \[1, 2\].*model\.to_mel"),
    "a path to the model": (lambda m, x: m("x.wav", TOKENS), r"x\.wav"),
    "an array to the model": (lambda m, x: m(x.numpy(), TOKENS), "from_numpy"),
    "a mel without batch": (lambda m, x: m(x[0], TOKENS), r"\(80, 3000\)"),
    "no clips": (lambda m, x: m(x[:0], TOKENS), r"\(0, 80, 3000\)"),
    "lists as tokens": (lambda m, x: m(x, [[1, 2]]), "to_tokens"),
    "floats as tokens": (lambda m, x: m(x, TOKENS.float()), "float32"),
    "one row of tokens": (lambda m, x: m(x, TOKENS[0]), r"\(2,\)"),
    "no tokens": (lambda m, x: m(x, TOKENS[:, :0]), r"\(1, 0\)"),
    "ids too large": (lambda m, x: m(x, TOKENS + 10**6), "1050259.*51865"),
    "ids below 0": (lambda m, x: m(x, -TOKENS), "-50259"),
    "a path to run_with_cache": (lambda m, x: m.run_with_cache("x.wav"), r"x\.wav"),
    "nothing to run_with_cache": (lambda m, x: m.run_with_cache(), "mel or encoder_out"),
    "a number as a name": (lambda m, x: m.run_with_cache(x, names_filter=3), "not int"),
    "no names": (lambda m, x: m.run_with_cache(x, names_filter=[]), "empty"),
    "floats as positions": (lambda m, x: m.run_with_cache(x, names_filter="encoder.hook_out", pos_slice=[1.0]), "1.0"),
    "a mel as encoder output": (lambda m, x: m.logits(TOKENS, x), r"\[batch, position, 128\]"),
    "lists to generate": (lambda m, x: m.generate([[1]], m.embed_audio(x)), "list"),
    "half a token": (lambda m, x: m.generate(TOKENS, m.embed_audio(x), max_new_tokens=2.5), "2.5"),
    "an end outside": (lambda m, x: m.generate(TOKENS, m.embed_audio(x), eot=10**7), "10000000"),
    "a name alone": (lambda m, x: m.run_with_hooks(x, TOKENS, fwd_hooks=["encoder.hook_out"]), "names, function"),
    "a number as a hook": (lambda m, x: m.add_hook("encoder.hook_out", 3), "int"),
    "a number as text": (lambda m, x: m.to_tokens(3), "int"),
    "numbers as texts": (lambda m, x: m.to_tokens([1, 2]), "int"),
    "floats as ids": (lambda m, x: m.to_str_tokens([1.5]), "1.5"),
    "None as ids": (lambda m, x: m.to_string(None), "None"),
    "None as a text": (lambda m, x: m.to_single_token(None), "None"),
    "a number as language": (lambda m, x: m.to_tokens("a", language=3), "3"),
    "a word as dtype": (lambda m, x: HookedWhisper.from_pretrained("demo", dtype="float16"), "float16"),
    "an unknown device": (lambda m, x: HookedWhisper.from_pretrained("demo", device="gpu"), "gpu"),
    "an unknown vocabulary": (lambda m, x: HookedWhisper.from_pretrained("demo", vocabulary=7), "7"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_invalid_arguments_raise_library_errors(model: HookedWhisper, mel: torch.Tensor, what: str) -> None:
    call, words = WRONG[what]
    with pytest.raises(HookedWhisperError, match=words):
        call(model, mel)


def test_later_ids_are_checked_where_a_cache_begins(model: HookedWhisper, mel: torch.Tensor) -> None:
    _, cache = model.run_with_cache(mel, TOKENS, names_filter=["decoder.*", "unembed.*"])
    parts, _ = cache.decompose_resid("decoder", return_labels=True)
    for wrong in (10**6, -1, 1.5, [True], []):
        with pytest.raises(ArgumentError, match="0 to 51864"):
            cache.logit_attrs(parts, wrong)
    with pytest.raises(PromptError, match="tokens, not one"):
        cache.logit_attrs(parts, " antidisestablishment")
    assert torch.equal(cache.logit_attrs(parts, [" very"]), cache.logit_attrs(parts, model.to_single_token(" very")))


def test_decode_inside_autocast_is_decode(model: HookedWhisper, mel: torch.Tensor) -> None:
    wanted = model.decode(mel, language="en", sample_len=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (same,) = model.decode(mel, language="en", sample_len=3)
    assert (same.tokens, same.avg_logprob) == (wanted[0].tokens, wanted[0].avg_logprob)


def test_a_cache_is_pickled_and_copied(odd: Twins) -> None:
    core = odd.core
    _, cache = core.run_with_cache(odd.mel(1), odd.tokens(3, 1))
    again = pickle.loads(pickle.dumps(cache))
    assert list(again) == list(cache)
    assert torch.equal(again["decoder", "resid_pre", -1], cache["decoder", "resid_pre", -1])
    assert again.slice(token=0)["decoder", "resid_pre", 0].shape[1] == 1
    with pytest.raises(HookedWhisperError, match=r"pickled.*load"):
        _ = again.model
    assert copy.copy(cache).model is core and cache.to(torch.float64).model is core


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_saved_cache_has_the_rights_of_the_umask(odd: Twins, tmp_path: Path, umask: int, mode: int) -> None:
    _, cache = odd.core.run_with_cache(odd.mel(1), names_filter="encoder.hook_out")
    before = os.umask(umask)
    try:
        cache.save(tmp_path / "cache.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "cache.safetensors").stat().st_mode & 0o777 == mode


def test_a_cache_of_another_model_is_refused(odd: Twins, one_block: Twins, tmp_path: Path) -> None:
    _, cache = one_block.core.run_with_cache(one_block.mel(1), one_block.tokens(3, 1))
    cache.save(tmp_path / "one.safetensors")
    ActivationCache.load(tmp_path / "one.safetensors", one_block.core)
    with pytest.raises(CheckpointError, match=r"one\.safetensors: .*model that made the cache"):
        ActivationCache.load(tmp_path / "one.safetensors", odd.core)


def test_clip_timestamps_end_with_the_audio() -> None:
    from hooked_whisper.decoding.transcribe import clip_times

    assert clip_times("0,12", 11.0) == [0.0, 11.0]
    assert clip_times("0", 11.0) == [0.0] and clip_times("", 11.0) == [] and clip_times([1, 2, 2, 11.5], 11.0)[-1] == 11
    for wrong in ("5,3", "0,0", "-1,3", "nan", "inf", "a,b", [None], 3, "11,12"):
        with pytest.raises(ArgumentError, match="clip_timestamps"):
            clip_times(wrong, 11.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("clips", ["0,12", "0,1.005", [0.0, 0.5, 0.6, 99.0]])
def test_transcribing_with_clip_timestamps_terminates(model: HookedWhisper, clips: Any) -> None:
    audio = 0.1 * np.random.default_rng(0).standard_normal(16077).astype(np.float32)
    model.transcribe(audio, language="en", temperature=0, sample_len=2, clip_timestamps=clips)


def test_task_is_the_one_in_the_prompt(model: HookedWhisper) -> None:
    with pytest.raises(PromptError, match="task must be 'transcribe' or 'translate', not 'translation'"):
        model.to_tokens("", task="translation")  # type: ignore[arg-type]
