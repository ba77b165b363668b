"""Training of all architectures, on stored or streamed activations, in one or several processes."""

from hooked_whisper._support.ranks import TorchRanks, torchrun_ranks
from sae_lens_audio.training.batches import Batch, Batches
from sae_lens_audio.training.config import TrainingConfig
from sae_lens_audio.training.log import read_metrics
from sae_lens_audio.training.trainer import Step, Trainer
from sae_lens_audio.training.training_log import TrainingLog

__all__ = [
    "Batch",
    "Batches",
    "Step",
    "TorchRanks",
    "Trainer",
    "TrainingConfig",
    "TrainingLog",
    "read_metrics",
    "torchrun_ranks",
]
