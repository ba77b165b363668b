"""Compiled loops for sparse feature activations on a CPU, built by the machine's C compiler at first use.

Nothing needs them: without a compiler, or with ``SAE_LENS_AUDIO_COMPILE=0`` in the environment, :func:`compiled`
returns ``None`` and torch does the same; a TopK training step then takes 1.5 times as long. The library is kept in the
user's cache folder, under a name that states its source, compiler and processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.model.kernels import transformed

log = logging.getLogger(__name__)

SWITCH = "SAE_LENS_AUDIO_COMPILE"
SOURCE = Path(__file__).with_name("compiled.c")
_LEAST_VALUES = 2**16  # below, calls of torch take no longer
_FLAGS = ("-O3", "-march=native", "-fPIC", "-std=c99")
_SECONDS = 60  # for the compiler; it takes one

# the loops use torch's pool of threads: `-fopenmp` without linking finds the library that torch has loaded
_THREADS: tuple[tuple[str, ...], ...] = (("-fopenmp",), ())


class CompiledLoops:
    """The functions of ``compiled.c`` for tensors. They return ``None`` where there is not enough memory."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        pointer, size, count = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
        self._top_of_rows, self._products = library.top_of_rows, library.products
        self._count_above, self._collect_above = library.count_above, library.collect_above
        self._top_of_rows.argtypes = [pointer, size, size, size, pointer, pointer, count]
        self._products.argtypes = [pointer, pointer, pointer, pointer, size, size, size, pointer, count]
        self._count_above.argtypes = [pointer, size, size, pointer, pointer, count]
        self._collect_above.argtypes = [pointer, size, size, pointer, pointer, pointer, pointer, count]
        self._products.restype = self._count_above.restype = None

    def top_of_rows(
        self, x: Float[Tensor, "row n"], k: int
    ) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]] | None:
        """Return the ``k`` largest values of each row and their columns, in the order of the row.

        Also ``None`` unless ``k`` is from 1 to the number of columns.
        """
        if not 0 < k <= x.shape[1]:
            return None
        values, columns = x.new_empty(len(x), k), x.new_empty(len(x), k, dtype=torch.int64)
        done = self._top_of_rows(x.data_ptr(), *x.shape, k, values.data_ptr(), columns.data_ptr(), _threads())
        return (values, columns) if done else None

    def products(
        self,
        rows: Float[Tensor, "bag d"],
        table: Float[Tensor, "d_sae d"],
        latents: Int[Tensor, "entry"],
        offsets: Int[Tensor, "bag"],
    ) -> Float[Tensor, "entry"]:
        """Return ``rows[bag] . table[latent]`` of every entry; those of each bag start at its offset."""
        out = rows.new_empty(len(latents))
        self._products(
            rows.data_ptr(), table.data_ptr(), latents.data_ptr(), offsets.data_ptr(),
            len(rows), len(latents), rows.shape[1], out.data_ptr(), _threads(),
        )  # fmt: skip
        return out

    def values_above(
        self, x: Float[Tensor, "row n"], lower: Float[Tensor, "n"]
    ) -> tuple[Float[Tensor, "entry"], Int[Tensor, "entry"], Int[Tensor, "row"]] | None:
        """Return the values above ``lower`` and their columns, row by row, and their number in each row."""
        counts = x.new_empty(len(x), dtype=torch.int64)
        self._count_above(x.data_ptr(), *x.shape, lower.data_ptr(), counts.data_ptr(), _threads())
        ends = counts.cumsum(0)
        total, offsets = int(ends[-1]), ends - counts
        values, columns = x.new_empty(total), x.new_empty(total, dtype=torch.int64)
        done = self._collect_above(
            x.data_ptr(), *x.shape, lower.data_ptr(), offsets.data_ptr(),
            values.data_ptr(), columns.data_ptr(), _threads(),
        )  # fmt: skip
        return (values, columns, counts) if done else None


def _threads() -> int:
    return torch.get_num_threads()


def compiled_for(*tensors: Tensor) -> CompiledLoops | None:
    """Return the compiled loops if they can read these tensors, and the first is large enough to be worth it."""
    if tensors[0].numel() < _LEAST_VALUES or transformed():
        return None
    plain = all(type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" for x in tensors)
    if not plain or not all(x.is_contiguous() and x.dtype == torch.float32 for x in tensors):
        return None
    return compiled()


@cache
def compiled() -> CompiledLoops | None:
    """Return the compiled loops, built unless they are cached; ``None`` if they cannot be built or are switched off."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if os.environ.get(SWITCH) == "0" or compiler is None or os.name != "posix":
        return None
    for threads in _THREADS:
        try:
            return CompiledLoops(_built(compiler, (*_FLAGS, *threads)))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            log.debug("no compiled loops with %s: %s", threads or "one thread", error)
    return None


def _built(compiler: str, flags: tuple[str, ...]) -> Path:
    """Return the path of the library for this processor, compiled unless it is in the cache.

    Raises:
        OSError, RuntimeError, subprocess.SubprocessError: the compiler or the disk fails, or the user has no home.
    """
    facts = repr((SOURCE.read_bytes(), os.path.realpath(compiler), flags, _processor()))
    path = _cache_folder() / f"sparse-{hashlib.sha256(facts.encode()).hexdigest()[:20]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            compiled_object, library = f"{temporary}/sparse.o", f"{temporary}/sparse.so"
            _run(compiler, *flags, "-c", str(SOURCE), "-o", compiled_object)
            _run(compiler, "-shared", compiled_object, "-o", library)
            os.replace(library, path)  # whole or not at all, also if several processes build it
    return path


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS)


def _processor() -> str:
    """Describe the processor: ``-march=native`` may use all its instructions, and a home may have several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    names = ("model name", "flags", "Features", "CPU part")
    return repr((platform.machine(), sorted({line for line in lines if line.startswith(names)})))


def _cache_folder() -> Path:
    """Return the cache folder.

    Raises:
        OSError: others could replace the library, or nothing can be written. RuntimeError: the user has no home.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sae-lens-audio"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to another user, or others can write to it")
    return folder
