"""Options that determine the rows of an activation store and their layout on the disk."""

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
    """All options that affect the files of a store, beside model, corpus and hook points.

    Attributes:
        dtype: of the stored activations.
        shard_rows: minimum rows of a shard, which ends with the batch that reaches them. Memory holds a few copies of
            it while it is written.
        batch: windows per forward pass.
        part: recordings per part. Each part has its own folder and manifest, and processes take whole parts. A corpus
            of no more recordings is one part.
        padding: ``"drop"`` leaves out encoder positions after the end of the sound, ``"keep"`` keeps whole windows.
        margin: number of positions before the padding to leave out too. 2 leaves out all positions that the padding
            reaches through the convolutions.
        window: input of the encoder. ``"full"`` is Whisper's window, mostly padding for short clips. ``"sound"`` is the
            sound and ``beyond`` positions after it, which is faster and gives **other activations**; the difference is
            measured and stored, see :attr:`ActivationStore.deviation`.
        beyond: with ``window="sound"``, number of padding positions (20 ms each) to encode after the sound. The total
            is rounded up to a multiple of 50, so that few window lengths occur.
        language: of the texts, for decoder points.
        seed: of the row order within each shard.
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
            raise HookedWhisperError("with window='sound' there is no padding to keep: use padding='drop'")
        if self.padding == "keep" and self.margin:
            raise HookedWhisperError("margin needs padding='drop': with padding='keep' it must be 0")

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[self.dtype]

    @property
    def padding_rule(self) -> str:
        """Description for the metadata of an SAE: ``"kept"``, ``"dropped"``, ``"dropped, margin 2"``, ``"dropped,
        window of the sound and 50 positions"``."""
        if self.padding == "keep":
            return "kept"
        dropped = f"dropped, margin {self.margin}" if self.margin else "dropped"
        return dropped if self.window == "full" else f"{dropped}, window of the sound and {self.beyond} positions"
