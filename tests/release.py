"""What `make release` checks of an installed wheel: it is whole, typed, small to import, and its commands run."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import metadata, resources


def seconds(code: str, runs: int = 5) -> float:
    """Shortest time of a new interpreter that runs this."""
    best = float("inf")
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    files = [str(f) for f in metadata.files("hooked-whisper") or ()]
    for wanted in ("hooked_whisper/py.typed", "sae_lens_audio/py.typed", "hooked_whisper/demo/model.safetensors"):
        assert wanted in files, f"the wheel has no {wanted}"
    packaged = [f for f in metadata.files("hooked-whisper") or () if f.match("sae_lens_audio/pretrained/*/*/*/*")]
    assert "sae_lens_audio/pretrained/tiny.en/encoder.blocks.2/topk-x2/sae_weights.safetensors" in map(str, packaged)
    assert sum(f.size or 0 for f in packaged) <= 4_000_000, "the packaged SAEs of real Whisper are too large"
    assert not [f for f in files if f.startswith(("tests/", "docs/", "benchmarks/", "tutorials/"))]
    assert "site-packages" in str(resources.files("hooked_whisper"))
    torch = seconds("import torch")
    for code in ("import hooked_whisper", "from hooked_whisper import HookedWhisper", "import sae_lens_audio"):
        beyond = seconds(code if "HookedWhisper" in code else f"import torch; {code}") - torch
        print(f"{code}: {beyond:+.2f} s beyond torch's {torch:.2f} s")
        assert beyond < 2
    for command in (["-m", "hooked_whisper", "hooks", "--names", "*.hook_out"], ["-m", "sae_lens_audio", "--help"]):
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    said = subprocess.run([sys.executable, "-m", "hooked_whisper", "explore"], capture_output=True, text=True)
    assert said.returncode == 2 and "pip install 'hooked-whisper[explore]'" in said.stderr, said.stderr
    print(f"hooked-whisper {metadata.version('hooked-whisper')}: the wheel is good")


if __name__ == "__main__":
    main()
