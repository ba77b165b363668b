"""SAEs to attach, and the points that have vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from hooked_whisper.hooks.attach_layout import layouts
from hooked_whisper.model import WhisperCore
from tests.core.twins import listeners, make_twins

PARTS = ["input", "acts_post", "recons", "error", "output"]
RESID = "encoder.blocks.0.hook_resid_post"
TOKENS = "decoder.blocks.0.hook_resid_post"
MLP = ("decoder.blocks.0.hook_mlp_in", "decoder.blocks.0.hook_mlp_out")
ONE = make_twins("one_block").core
POINTS = [name for name, point in ONE.hook_dict.items() if layouts(point)]
OTHERS = [name for name in ONE.hook_names() if name not in POINTS]


class Toy:
    """An SAE with random weights that does not declare its sizes, and counts its calls."""

    def __init__(self, d_in: int, n: int = 12, d_out: int | None = None, seed: int = 0) -> None:
        rand = torch.Generator().manual_seed(seed)
        self.enc = torch.randn(d_in, n, generator=rand) * d_in**-0.5
        self.dec = torch.randn(n, d_out or d_in, generator=rand) * n**-0.5
        self.bias = 0.3 * torch.randn(d_out or d_in, generator=rand)
        self.encoded = self.decoded = 0

    def encode(self, x: Tensor) -> Tensor:
        self.encoded += 1
        return (x.to(self.enc.dtype) @ self.enc + 0.1).relu()

    def decode(self, f: Tensor) -> Tensor:
        self.decoded += 1
        return f @ self.dec + self.bias

    def __call__(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)).to(x.dtype)


class Sized(Toy):
    """The same, with its sizes."""

    def __init__(self, d_in: int, n: int = 12, d_out: int | None = None, seed: int = 0) -> None:
        super().__init__(d_in, n, d_out, seed)
        self.d_in, self.n_features = d_in, n
        if d_out is not None:
            self.d_out = d_out


class Skips(Sized):
    """A transcoder with a path past the features."""

    def decode_like(self, f: Tensor, x: Tensor) -> Tensor:
        return self.decode(f) + 0.5 * x.flip(-1)


def same(x: Tensor) -> None:
    """A hook that looks only."""


def noise(x: Tensor) -> Tensor:
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)


def width(core: WhisperCore, name: str) -> int:
    return layouts(core.hook_dict[name])[0].width


def attached_state(core: WhisperCore) -> dict[str, list[object]]:
    """Everything that an attached SAE could leave behind."""
    hooks = {name: listeners(core).get(name, []) for name in core.hook_names()}
    return hooks | {f"{name} replaced": [p._replacement] for name, p in core.hook_dict.items()}
