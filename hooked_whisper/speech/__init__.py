"""The spoken world: a known grammar, two synthesisers with exact timings, and the demo model trained on them."""
