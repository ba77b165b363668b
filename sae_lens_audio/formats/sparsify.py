"""Reader of EleutherAI's sparsify folders: ``cfg.json`` and ``sae.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hooked_whisper._support.files import read_json, read_safetensors
from hooked_whisper.errors import CheckpointError
from sae_lens_audio.architectures import SAE, TopK, TopKTranscoder
from sae_lens_audio.architectures.conversion import read_size
from sae_lens_audio.formats.files import LoadedSAE, build, check_tensors
from sae_lens_audio.formats.metadata import Metadata

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def read_sparsify(folder: Path) -> LoadedSAE:
    """Read a TopK SAE, or a TopK transcoder for ``transcode`` or ``skip_connection``.

    An autoencoder with a skip connection is read as a transcoder from the hook point to itself, with the centering
    folded into ``b_enc``: the same numbers within rounding. ``multi_topk`` concerns training only.

    Raises:
        CheckpointError: an activation function other than topk, or weights that do not fit.
    """
    source = folder / CONFIG
    cfg, (tensors, _) = read_json(source), read_safetensors(folder / WEIGHTS)
    function = cfg.get("activation", "topk")
    if function != "topk":
        raise CheckpointError(f"{source}: 'activation' {function!r} is not supported: topk is")
    d = read_size(cfg, "d_in", source)
    f = cfg.get("num_latents") or d * read_size(cfg, "expansion_factor", source)
    if isinstance(f, bool) or not isinstance(f, int) or f < 1:
        raise CheckpointError(f"{source}: 'num_latents' must be a positive integer or 0, it is {f!r}")
    transcode, skip = bool(cfg.get("transcode", False)), bool(cfg.get("skip_connection", False))
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.weight": (f, d), "encoder.bias": (f,), "W_dec": (f, d), "b_dec": (d,),
    }  # fmt: skip
    check_tensors(tensors, shapes | ({"W_skip": (d, d)} if skip else {}), folder / WEIGHTS)
    ours = {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    values: dict[str, Any] = {"d_in": d, "d_sae": f, "k": read_size(cfg, "k", source)}
    cls: type[SAE] = TopK
    if transcode or skip:
        cls, values = TopKTranscoder, values | {"d_out": d, "skip": skip}
        if skip:
            ours["W_skip"] = tensors["W_skip"]
        if not transcode:
            ours["b_enc"] = ours["b_enc"] - ours["b_dec"] @ ours["W_enc"]
    sae = build(cls, values, ours, tensors["encoder.weight"].dtype, folder / WEIGHTS)
    # the folder is named after the hook point, in the names of the library that trained it
    return LoadedSAE(sae, Metadata(extra={"sparsify": cfg, "folder": folder.name}), folder / WEIGHTS)
