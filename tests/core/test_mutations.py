"""The parity tests would notice: each of these mistakes makes the same comparison fail."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hooked_whisper.config import WhisperConfig
from hooked_whisper.model import WhisperCore
from hooked_whisper.model.layers import LayerNorm
from tests.core.parity import Activations, compare, openai_activations
from tests.core.test_parity import FLOAT32
from tests.core.twins import SIZES, Twins


@pytest.fixture(scope="module")
def theirs(odd: Twins) -> Activations:
    return openai_activations(odd.openai, odd.mel(2), odd.tokens(11, 2))


@pytest.fixture
def mutant(odd: Twins) -> WhisperCore:
    """A copy of the model to spoil."""
    return copy.deepcopy(odd.core).requires_grad_(False)


def worst(core: WhisperCore, odd: Twins, theirs: Activations) -> float:
    return max(compare(core, theirs, odd.mel(2), odd.tokens(11, 2)).values())


def swap_query_and_key(attn: nn.Module) -> None:
    attn.query.weight, attn.key.weight = attn.key.weight, attn.query.weight


def read_unnormed_encoder_output(core: WhisperCore) -> None:
    """Cross-attention sees the stream that enters the encoder's final norm."""
    last: list[Tensor] = []
    core.add_hook("encoder.blocks.1.hook_resid_post", lambda x: last.append(x))
    core.add_hook("encoder.hook_out", lambda x: last[-1])


def read_earlier_block(core: WhisperCore) -> None:
    """Cross-attention sees the output of a block that is not the last."""
    core.encoder.blocks[1].register_forward_hook(lambda module, args, out: args[0])


def with_weight(parameter: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    parameter.copy_(change(parameter.clone()))


MISTAKES: dict[str, Callable[[WhisperCore], object]] = {
    "no causal mask": lambda m: setattr(m.decoder.blocks[1].attn, "kind", "cross"),
    "causal mask in the encoder": lambda m: setattr(m.encoder.blocks[0].attn, "kind", "decoder"),
    "query and key swapped": lambda m: swap_query_and_key(m.encoder.blocks[1].attn),
    "query and key swapped in cross-attention": lambda m: swap_query_and_key(m.decoder.blocks[0].cross_attn),
    "out-projection transposed": lambda m: with_weight(m.decoder.blocks[2].attn.out.weight, lambda w: w.T),
    "heads split elsewhere": lambda m: setattr(m.encoder.blocks[0].attn, "n_heads", 6),
    "encoder positions shifted": lambda m: with_weight(m.encoder.positional_embedding, lambda p: p.roll(1, 0)),
    "decoder positions shifted": lambda m: with_weight(m.decoder.positional_embedding, lambda p: p.roll(1, 0)),
    "cross-attention before the encoder's norm": read_unnormed_encoder_output,
    "cross-attention reads an earlier block": read_earlier_block,
    "cross-attention weights of another block": lambda m: m.decoder.blocks[1].cross_attn.load_state_dict(
        m.decoder.blocks[0].cross_attn.state_dict()
    ),
    "blocks in another order": lambda m: m.decoder.blocks[0].load_state_dict(m.decoder.blocks[1].state_dict()),
}


def test_an_exact_copy_passes(mutant: WhisperCore, odd: Twins, theirs: Activations) -> None:
    assert worst(mutant, odd, theirs) < FLOAT32


@pytest.mark.parametrize("mistake", MISTAKES)
def test_parity_detects_a_mistake(mistake: str, mutant: WhisperCore, odd: Twins, theirs: Activations) -> None:
    MISTAKES[mistake](mutant)
    assert worst(mutant, odd, theirs) > 100 * FLOAT32


def test_approximate_gelu_shows(
    mutant: WhisperCore, odd: Twins, theirs: Activations, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = F.gelu
    monkeypatch.setattr(F, "gelu", lambda x: exact(x, approximate="tanh"))
    assert worst(mutant, odd, theirs) > FLOAT32


def _dropped() -> list[str]:
    """Every bias, and every gain of a norm."""
    with torch.device("meta"):
        core = WhisperCore(WhisperConfig.from_dims(SIZES["odd"]))
    gains = {f"{path}.weight" for path, module in core.named_modules() if isinstance(module, LayerNorm)}
    return [name for name, _ in core.named_parameters() if name.endswith("bias") or name in gains]


@pytest.mark.parametrize("name", _dropped())
def test_a_dropped_bias_or_gain_shows(name: str, mutant: WhisperCore, odd: Twins, theirs: Activations) -> None:
    mutant.get_parameter(name).fill_(0.0 if name.endswith("bias") else 1.0)
    assert worst(mutant, odd, theirs) > 100 * FLOAT32
