"""Training of all architectures, on stored or streamed activations, in one or several processes."""

from hooked_whisper._support.ranks import TorchRanks, torchrun_ranks
from sae_lens_audio.training.batches import Batch, Batches
from sae_lens_audio.training.config import TrainingConfig
from sae_lens_audio.training.log import read_metrics
from sae_lens_audio.training.trainer import Step, Trainer

__all__ = ["Batch", "Batches", "Step", "TorchRanks", "Trainer", "TrainingConfig", "read_metrics", "torchrun_ranks"]
