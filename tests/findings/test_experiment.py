"""Experiments: measuring and judging, what cannot be tested, the registry, and how findings find their figures."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import hooked_whisper.findings
from hooked_whisper.errors import ArgumentError, HookedWhisperError
from hooked_whisper.findings import (
    REGISTRY,
    Context,
    Criterion,
    Estimate,
    Experiment,
    Finding,
    Setting,
    Untestable,
    registry,
    select_experiments,
)
from hooked_whisper.findings.registry import ModuleExperiment, experiment_of
from tests.findings.worlds import small_context

FOLDER = Path(hooked_whisper.findings.__file__).parent
ABOVE_CORE = {p.stem for p in FOLDER.iterdir() if p.stem not in ("core", "__init__", "__pycache__")}


class Clips(Experiment[int]):
    """X1: are there three clips?"""

    id, title, claim, protocol = "X1", "Three clips", "There are three clips.", "Count the clips."
    after = "F1"

    def parameters(self, context: Context) -> dict[str, int]:
        return {"needs": 3}

    def measure(self, context: Context) -> int:
        if not context.utterances:
            raise Untestable("no clips: pass --audio", {"counted": 0})
        return len(context.utterances)

    def judge(self, measured: int, setting: Setting) -> Finding:
        return self.finding(setting, criteria=(Criterion("clips", Estimate(measured), 3, "at least"),))

    def draw(self, finding: Finding) -> list:
        return []


def test_a_run_measures_and_judges() -> None:
    finding = Clips().run(small_context(count=3, seed=2))
    assert (finding.id, finding.title, finding.model) == ("X1", "Three clips", "small")
    assert finding.status == "reproduced" and finding.parameters == {"needs": 3}
    assert finding.inputs["utterances"] == 3 and finding.inputs["seed"] == 2


def test_a_context_that_cannot_be_tested_gives_the_reason() -> None:
    finding = Clips().run(small_context())
    assert finding.status == "not testable" and "--audio" in finding.status_reason
    assert finding.parameters == {"needs": 3} and finding.inputs["counted"] == 0


def test_setting_and_context_share_random_generators() -> None:
    context = small_context(count=1, seed=5)
    setting = Clips().setting(context)
    assert setting.rng("x").random() == context.rng("x").random() != context.rng("y").random()
    assert setting.is_organism and not Clips().setting(small_context(truth=False)).is_organism


def test_every_experiment_has_its_attributes() -> None:
    for id, experiment in REGISTRY.items():
        assert experiment.id == id and experiment.title and experiment.claim and experiment.protocol
        assert experiment.module_name.split(".")[1] == "findings"


def test_an_entry_point_is_an_experiment_a_class_or_a_module() -> None:
    module = ModuleType(Clips.__module__)
    module.Clips, module.Other = Clips, Experiment  # type: ignore[attr-defined]
    assert all(experiment_of(entry).id == "X1" for entry in (Clips(), Clips, module))
    with pytest.raises(ArgumentError, match="defines 0 experiments"):
        experiment_of(ModuleType("empty"))


def test_a_module_of_the_first_version_still_works() -> None:
    names = {"ID": "X2", "TITLE": "t", "CLAIM": "c", "PROTOCOL": "p", "NEEDS_SPEECH": False, "AFTER": "F9"}
    finding = Finding("X2", "t", "c", "p", "m", {}, {})
    module = ModuleType("old")
    vars(module).update(names, run=lambda context: finding, draw=lambda _: ["figure"])
    experiment = experiment_of(module)
    assert isinstance(experiment, ModuleExperiment) and experiment.module_name == "old"
    assert (experiment.id, experiment.after, experiment.needs_speech) == ("X2", "F9", False)
    assert experiment.run(small_context()) is finding and experiment.draw(finding) == ["figure"]


def test_other_packages_are_inserted_after_the_named_experiment(monkeypatch, caplog) -> None:
    def broken() -> None:
        raise ImportError("no such module")

    points = [
        SimpleNamespace(name="X1", value="x:Clips", load=lambda: Clips),
        SimpleNamespace(name="X0", value="broken", load=broken),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    experiments = registry._Registry((REGISTRY["F1"], REGISTRY["F2"]))
    assert list(experiments) == ["F1", "X1", "F2"]
    assert "broken" in caplog.text and "no such module" in caplog.text


def test_experiments_are_selected_in_any_case_and_in_order() -> None:
    assert [e.id for e in select_experiments("f2, f9")] == ["F9", "F2"]
    assert [e.id for e in select_experiments(None)] == list(REGISTRY)
    for ids, offending in (("F2,F99", "'F99' .did you mean F9"), (" , ", "' , '")):
        with pytest.raises(HookedWhisperError, match=offending):
            select_experiments(ids)


def test_an_unknown_id_is_a_key_error_that_names_similar_ids() -> None:
    assert "F99" not in REGISTRY and REGISTRY.get("F99") is None
    with pytest.raises(KeyError, match=r"'w1'.*W1") as error:
        REGISTRY["w1"]
    assert isinstance(error.value, HookedWhisperError)


@pytest.mark.parametrize("path", sorted((FOLDER / "core").glob("*.py")), ids=lambda p: p.stem)
def test_core_imports_no_experiment_and_not_the_registry(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        for name in (module, *(f"{module}.{name}".lstrip(".") for name in names)):
            if name.startswith("hooked_whisper.findings."):
                assert name.split(".")[2] not in ABOVE_CORE, f"{path.name} imports {name}"
