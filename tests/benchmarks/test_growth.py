"""Growth: the README has the numbers of growth.json, a partial run replaces only its own, and sizes are measured."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import pytest

from benchmarks import growth, model_sizes


def test_readme_has_the_measured_numbers() -> None:
    results = json.loads(growth.RESULTS.read_text())
    assert growth.rendered(results).strip() in (growth.HERE / "README.md").read_text()


def test_a_partial_run_replaces_only_what_it_measured() -> None:
    before = [growth.grown("forward", "layers", [2, 4], [1, 2]), growth.grown("scan", "clips", [2, 4], [1, 1])]
    new = growth.grown("forward", "layers", [2, 4], [1, 4])
    stored = {"slopes": [asdict(entry) for entry in before], "sizes": [{"size": "tiny"}]}
    results = growth.merged(stored, [new], [])
    assert [(entry["what"], entry["slope"]) for entry in results["slopes"]] == [("forward", 2.0), ("scan", 0.0)]
    assert results["sizes"] == [{"size": "tiny"}]
    assert growth.merged(stored, [], [{"size": "base"}])["sizes"] == [{"size": "base"}]


def test_a_config_is_a_size_or_layers_by_width() -> None:
    config = model_sizes.read_config("8x256")
    assert (config.encoder.n_layers, config.decoder.n_layers, config.encoder.n_heads) == (8, 8, 4)
    assert model_sizes.read_config("small").encoder.d_model == 768


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_work_is_measured_beyond_the_model() -> None:
    costs = model_sizes.measure_here(model_sizes.shape(2, 64), repeats=1)
    assert set(costs) == set(model_sizes.WORK)
    for cost in costs.values():
        row = {"size": "2x64", "work": "any", **cost}
        assert cost["seconds"] > 0 and cost["kept_mib"] > 0 and len(model_sizes.size_cells(row)) == 6
