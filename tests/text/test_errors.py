from __future__ import annotations

import pickle

import pytest

from hooked_whisper import errors

BUILTINS = {
    "UnknownHookError": KeyError,
    "HookShapeError": ValueError,
    "CacheSizeError": MemoryError,
    "MaskError": ValueError,
    "CheckpointError": ValueError,
    "MissingWeightsError": ValueError,
    "UnknownModelError": ValueError,
    "AudioError": ValueError,
    "MissingExtraError": ImportError,
    "PromptError": ValueError,
    "PatchError": ValueError,
    "AlignmentError": ValueError,
    "ArgumentError": ValueError,
    "ConfigError": ValueError,
    "ShapeError": ValueError,
    "UploadError": ConnectionError,
}


@pytest.mark.parametrize(("name", "builtin"), BUILTINS.items())
def test_errors_inherit_from_a_builtin(name: str, builtin: type[Exception]) -> None:
    kind = getattr(errors, name)
    error = kind("no 'x' here;\nuse 'y'")
    assert isinstance(error, errors.HookedWhisperError) and isinstance(error, builtin)
    assert str(error) == "no 'x' here;\nuse 'y'"  # KeyError alone would show its repr
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert "Cause:" in kind.__doc__ and "Fix:" in kind.__doc__


def test_all_are_listed_here() -> None:
    ours = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.HookedWhisperError)}
    assert ours == {*BUILTINS, "HookedWhisperError"}


def test_closest() -> None:
    names = ["encoder.hook_out", "encoder.hook_mel", "decoder.hook_embed", "unembed.hook_out"]
    assert errors.closest("Encoder.hook_uot", names)[0] == "encoder.hook_out"
    assert len(errors.closest("encoder.hook_out", names, n=2)) == 2
    assert errors.closest("zzz", names) == []
    assert errors.closest("TINY", ["tiny", "base"]) == ["tiny"]
    assert errors.closest("w_q", ["W_Q"]) == ["W_Q"]
