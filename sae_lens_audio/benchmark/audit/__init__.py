"""Which metrics of the benchmark to believe.

- ``packaged_audit()``, ``load_audit``: an ``Audit`` with a verdict about each metric
- :mod:`~sae_lens_audio.benchmark.audit.criteria`: the three tests and their thresholds
- ``python -m sae_lens_audio.benchmark.audit`` (:mod:`~sae_lens_audio.benchmark.audit.scoring`): audit again
"""

from sae_lens_audio.benchmark.audit.criteria import SeedTest, TrendTest, TruthTest, Verdict
from sae_lens_audio.benchmark.audit.results import Audit, MetricAudit, load_audit, packaged_audit

__all__ = ["Audit", "MetricAudit", "SeedTest", "TrendTest", "TruthTest", "Verdict", "load_audit", "packaged_audit"]
