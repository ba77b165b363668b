"""The families of metrics that are computed from activations."""

from __future__ import annotations

from sae_lens_audio.benchmark.fidelity import Fidelity
from sae_lens_audio.benchmark.metric import MetricFamily
from sae_lens_audio.benchmark.probing import SparseProbing
from sae_lens_audio.benchmark.recovery import PhoneRecovery
from sae_lens_audio.benchmark.splitting import Splitting


def families() -> tuple[MetricFamily, ...]:
    """Return all families, in the order of the table. To add a metric, add its family here."""
    return (Fidelity(), PhoneRecovery(), SparseProbing(), Splitting())
