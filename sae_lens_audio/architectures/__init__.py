"""Architectures: one file each, one protocol, every loss as in its paper."""

from types import MappingProxyType

from sae_lens_audio.architectures.base import SAE, SAEConfig, TrainStepOutput
from sae_lens_audio.architectures.batch_topk import BatchTopK, BatchTopKConfig
from sae_lens_audio.architectures.crosscoder import Crosscoder, CrosscoderConfig
from sae_lens_audio.architectures.decoder import decoder_norms, normalise_rows_, remove_parallel_gradient_
from sae_lens_audio.architectures.gated import Gated, GatedConfig
from sae_lens_audio.architectures.jumprelu import JumpReLU, JumpReLUConfig
from sae_lens_audio.architectures.matryoshka import Matryoshka, MatryoshkaConfig
from sae_lens_audio.architectures.normalized import NormalizedSAE
from sae_lens_audio.architectures.standard import Standard, StandardConfig
from sae_lens_audio.architectures.tied import Tied, TiedConfig
from sae_lens_audio.architectures.topk import AbsTopK, TopK, TopKConfig
from sae_lens_audio.architectures.transcoder import (
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)

ARCHITECTURES: MappingProxyType[str, type[SAE]] = MappingProxyType(
    {
        cls.architecture: cls
        for cls in (
            Standard,
            Tied,
            TopK,
            AbsTopK,
            BatchTopK,
            Matryoshka,
            JumpReLU,
            Gated,
            Transcoder,
            TopKTranscoder,
            JumpReLUTranscoder,
            Crosscoder,
        )
    }
)
"""Every architecture by its name in files."""

__all__ = [
    "ARCHITECTURES",
    "SAE",
    "AbsTopK",
    "BatchTopK",
    "BatchTopKConfig",
    "Crosscoder",
    "CrosscoderConfig",
    "Gated",
    "GatedConfig",
    "JumpReLU",
    "JumpReLUConfig",
    "JumpReLUTranscoder",
    "JumpReLUTranscoderConfig",
    "Matryoshka",
    "MatryoshkaConfig",
    "NormalizedSAE",
    "SAEConfig",
    "Standard",
    "StandardConfig",
    "Tied",
    "TiedConfig",
    "TopK",
    "TopKConfig",
    "TopKTranscoder",
    "TopKTranscoderConfig",
    "TrainStepOutput",
    "Transcoder",
    "TranscoderConfig",
    "decoder_norms",
    "normalise_rows_",
    "remove_parallel_gradient_",
]
