"""The families of metrics that are computed from activations."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from sae_lens_audio.benchmark.erasure import TargetedErasure
from sae_lens_audio.benchmark.fidelity import Fidelity
from sae_lens_audio.benchmark.metric import MetricFamily
from sae_lens_audio.benchmark.probing import SparseProbing
from sae_lens_audio.benchmark.probing_speakers import SpeakerProbing
from sae_lens_audio.benchmark.recovery import PhoneRecovery
from sae_lens_audio.benchmark.splitting import Splitting
from sae_lens_audio.benchmark.unlearning import Unlearning


def families(noisy: Mapping[str, Tensor] = MappingProxyType({})) -> tuple[MetricFamily, ...]:
    """Return all families, in the order of the table. To add a metric, add its family here.

    noisy: activations of the same clips with noise, by hook point; without them, unlearning of noise is not scored.
    """
    return (
        Fidelity(),
        PhoneRecovery(),
        SparseProbing(),
        SpeakerProbing(),
        Splitting(),
        TargetedErasure(),
        Unlearning(noisy=noisy),
    )
