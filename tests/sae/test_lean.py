"""Creating, training and saving an SAE needs only torch, numpy, safetensors and small helpers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = (
    "whisper", "transformers", "numba", "soundfile", "soxr", "scipy", "matplotlib", "pyarrow", "huggingface_hub",
    "jiwer", "jinja2", "einops", "PIL", "tiktoken", "sae_lens", "transformer_lens", "wandb",
)  # fmt: skip

SCRIPT = """
import sys
for name in {heavy!r}:
    sys.modules[name] = None  # importing it is an ImportError
import torch
from sae_lens_audio import TopK, TopKConfig, load_sae
from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.training import Trainer, TrainingConfig
torch.set_num_threads(1)
sae = TopK(TopKConfig(4, 16, k=2))
Trainer(sae, TensorActivations(torch.randn(64, 4)), TrainingConfig(steps=3, batch=32), {folder!r}).fit(progress=False)
print(load_sae({folder!r} + "/sae").sae(torch.ones(2, 4)).shape)
"""


def test_training_imports_nothing_heavy(tmp_path: Path) -> None:
    script = SCRIPT.format(heavy=HEAVY, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torch.Size([2, 4])" in done.stdout


def test_exported_names_exist_and_others_are_errors() -> None:
    import hooked_whisper
    import sae_lens_audio
    from sae_lens_audio import activations

    for package in (hooked_whisper, sae_lens_audio, activations):
        assert all(getattr(package, name) is not None for name in package.__all__)
        assert callable(getattr(activations, "collect_activations"))  # noqa: B009 - the function, not a module of that name
        try:
            package.nonsense  # noqa: B018
        except AttributeError as error:
            assert "nonsense" in str(error)
        else:
            raise AssertionError("an unknown name must be an error")
