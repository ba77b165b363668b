"""A benchmark for SAEs of speech models: ``sae-lens-audio bench``.

- ``BenchmarkData`` (``benchmark_data``): activations of labeled speech by speakers that nothing was trained on
- ``Subject``: an SAE or a control (axes, neurons, principal and random directions, an untrained SAE)
- ``Metric``, ``Score``, ``MetricFamily``: what is measured
"""

from sae_lens_audio.benchmark.data import BenchmarkData, benchmark_data
from sae_lens_audio.benchmark.metric import Metric, MetricFamily, Score, estimate_by_speaker
from sae_lens_audio.benchmark.subjects import Subject, control_subjects

__all__ = [
    "BenchmarkData",
    "Metric",
    "MetricFamily",
    "Score",
    "Subject",
    "benchmark_data",
    "control_subjects",
    "estimate_by_speaker",
]
