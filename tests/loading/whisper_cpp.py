"""Run the whisper.cpp that ``pywhispercpp`` bundles: ``whisper_cpp.py MODEL INPUT.npz LOGITS.npy``.

Through its C interface, because the Python one gives no logits. INPUT holds ``mel`` [mel, frame] and ``tokens``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np


class ContextParams(ctypes.Structure):
    """``whisper_context_params`` of ``whisper.h``."""

    _fields_ = (
        ("use_gpu", ctypes.c_bool),
        ("flash_attn", ctypes.c_bool),
        ("gpu_device", ctypes.c_int),
        ("dtw_token_timestamps", ctypes.c_bool),
        ("dtw_aheads_preset", ctypes.c_int),
        ("dtw_n_top", ctypes.c_int),
        ("dtw_n_heads", ctypes.c_size_t),
        ("dtw_heads", ctypes.c_void_p),
        ("dtw_mem_size", ctypes.c_size_t),
    )


def main(model: str, source: str, target: str) -> None:
    package = importlib.util.find_spec("pywhispercpp")
    assert package and package.origin
    folder = Path(package.origin).parent.parent / "pywhispercpp.libs"
    library = ctypes.CDLL(str(next(folder.glob("libwhisper*"))))
    library.whisper_context_default_params.restype = ContextParams
    library.whisper_init_from_file_with_params.argtypes = (ctypes.c_char_p, ContextParams)
    library.whisper_init_from_file_with_params.restype = ctypes.c_void_p
    library.whisper_get_logits.restype = ctypes.POINTER(ctypes.c_float)
    params = library.whisper_context_default_params()
    params.flash_attn = False  # it pads the keys with zeros that take part in the softmax
    address = library.whisper_init_from_file_with_params(model.encode(), params)
    assert address, f"whisper.cpp does not load {model}"
    context = ctypes.c_void_p(address)
    n_vocab = library.whisper_model_n_vocab(context)

    with np.load(source) as data:
        mel, tokens = np.ascontiguousarray(data["mel"]), data["tokens"]
    pointer = mel.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    assert library.whisper_set_mel(context, pointer, mel.shape[1], mel.shape[0]) == 0
    assert library.whisper_encode(context, 0, 1) == 0
    rows = []
    for past, token in enumerate(tokens):
        assert library.whisper_decode(context, (ctypes.c_int32 * 1)(token), 1, past, 1) == 0
        rows.append(np.ctypeslib.as_array(library.whisper_get_logits(context), (n_vocab,)).copy())
    np.save(target, np.stack(rows))
    library.whisper_free(context)


if __name__ == "__main__":
    main(*sys.argv[1:])
