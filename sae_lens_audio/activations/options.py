"""What settles the rows of a harvest, and how they lie on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from hooked_whisper._support.indices import is_integer
from hooked_whisper.errors import HookedWhisperError, check_option

Dtype = Literal["float16", "bfloat16", "float32"]
Padding = Literal["drop", "keep"]
WindowOf = Literal["full", "sound"]


@dataclass(frozen=True)
class CollectOptions:
    """Everything that changes the files of a harvest beside model, corpus and hooks, and nothing else.

    Attributes:
        dtype: how activations are stored.
        shard_rows: a shard is closed by the batch that fills it. It is held in memory a few times while it is written.
        batch: windows that are encoded together.
        part: recordings that make a harvest of their own, in a folder of its own: processes take whole parts. A corpus
            of no more recordings is one part.
        padding: ``"drop"`` leaves out encoder positions behind the end of the sound, ``"keep"`` takes whole windows.
        margin: positions left out before the padding too. 2 leaves out all that hear it through the convolutions.
        window: what the encoder sees. ``"full"`` is what Whisper does: its whole window, mostly padding where clips are
            short. ``"sound"``: no more than the sound and ``beyond`` positions behind it, which is faster and **other
            activations**; how far they are from the full ones is measured and kept with them, see ``ActivationStore.deviation``.
        beyond: positions of padding that are encoded behind the sound, with ``window="sound"`` (20 ms each). The number
            of positions is rounded up to a multiple of 50, so that windows have few lengths.
        language: of the texts, for decoder points.
        seed: of the order of the rows within each shard.
    """

    dtype: Dtype = "float16"
    shard_rows: int = 2**17
    batch: int = 8
    part: int = 512
    padding: Padding = "drop"
    margin: int = 0
    window: WindowOf = "full"
    beyond: int = 50
    language: str = "en"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("dtype", get_args(Dtype)),
            ("padding", get_args(Padding)),
            ("window", get_args(WindowOf)),
        ):
            check_option(name, getattr(self, name), choices)
        for name, least in (
            ("shard_rows", 1),
            ("batch", 1),
            ("part", 1),
            ("margin", 0),
            ("beyond", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if not is_integer(value) or value < least:
                raise HookedWhisperError(f"{name} of a store is a whole number of at least {least}, not {value!r}")
        if self.padding == "keep" and self.window == "sound":
            raise HookedWhisperError("with window='sound' there is no padding to keep: take padding='drop'")
        if self.padding == "keep" and self.margin:
            raise HookedWhisperError("a margin is left out before padding that is dropped: with padding='keep' it is 0")

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[self.dtype]

    @property
    def padding_rule(self) -> str:
        """In the words of a dictionary's metadata: ``"dropped"``, ``"dropped, margin 2"``, ``"kept"``, ``"dropped,
        window of the sound and 50 positions"``."""
        if self.padding == "keep":
            return "kept"
        dropped = f"dropped, margin {self.margin}" if self.margin else "dropped"
        return dropped if self.window == "full" else f"{dropped}, window of the sound and {self.beyond} positions"
