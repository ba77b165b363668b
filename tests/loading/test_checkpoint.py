"""The strict check names everything that is wrong with the tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.config import RELEASED
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading import Checkpoint, huggingface_name, openai_name
from hooked_whisper.loading.checkpoint import make_checkpoint, parameter_shapes
from hooked_whisper.model import WhisperCore
from tests.core.twins import Twins, make_twins

ONE = make_twins("one_block")
STATE = ONE.core.state_dict()
NAMES: dict[str, Callable[[str], str]] = {"own": str, "openai": openai_name, "transformers": huggingface_name}


def test_shapes_are_those_of_the_model(twins: Twins):
    shapes = {name: tuple(tensor.shape) for name, tensor in twins.core.state_dict().items()}
    assert parameter_shapes(twins.core.cfg) == shapes


def test_number_of_tensors_of_the_released_sizes():
    """As counted in the published checkpoints."""
    counts = {"tiny": 167, "base": 245, "small": 479, "medium": 947, "large-v3": 1259, "large-v3-turbo": 587}
    assert {name: len(parameter_shapes(RELEASED[name])) for name in counts} == counts


@pytest.mark.parametrize(("library", "theirs"), [("openai", ONE.openai), ("transformers", ONE.hf)])
def test_names_of_the_other_libraries(library, theirs):
    names = {NAMES[library](name) for name in STATE}
    assert len(names) == len(STATE)
    assert names == theirs.state_dict().keys() - {"proj_out.weight"}


def check(state: dict[str, torch.Tensor], foreign=str) -> Checkpoint:
    return make_checkpoint(ONE.core.cfg, state, "file.pt", foreign=foreign)


names = st.sampled_from(sorted(STATE))


@given(dropped=st.sets(names), renamed=st.sets(names), reshaped=st.sets(names), library=st.sampled_from(sorted(NAMES)))
def test_every_change_is_named(dropped, renamed, reshaped, library):
    foreign = NAMES[library]
    state: dict[str, torch.Tensor] = {}
    for name, tensor in STATE.items():
        if name not in dropped:
            key = foreign(name) + (".old" if name in renamed else "")
            state[key] = tensor[..., None] if name in reshaped else tensor
    if not dropped | renamed | reshaped:
        assert check(state, foreign).tensors.keys() == STATE.keys()
        return
    with pytest.raises(CheckpointError) as info:
        check(state, foreign)
    problems = str(info.value).split("; ")
    assert problems[0].startswith("file.pt does not fit")
    words = str(info.value).replace(",", " ").replace(";", " ").split()
    for name in dropped | renamed | reshaped:
        assert foreign(name) in words
    for name in renamed - dropped:
        assert foreign(name) + ".old" in words
    for name in reshaped - dropped - renamed:
        shape = tuple(STATE[name].shape)
        assert f"{foreign(name)} has shape {(*shape, 1)} instead of {shape}" in str(info.value)
    for name in STATE.keys() - dropped - renamed - reshaped:
        assert foreign(name) not in words


def test_every_key_of_another_model_is_named():
    with pytest.raises(CheckpointError) as info:
        check({"lora.a": torch.zeros(1), "lora.b": torch.zeros(1)})
    assert all(name in str(info.value) for name in (*STATE, "lora.a", "lora.b"))


def test_loaded_weights_are_a_copy():
    from hooked_whisper.loading import load_into

    model = WhisperCore(ONE.core.cfg)
    load_into(model, check(STATE))
    with torch.no_grad():
        model.W_E.add_(1)
    assert torch.equal(STATE["decoder.token_embedding.weight"] + 1, model.W_E)
