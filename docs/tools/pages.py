"""Generated pages of the documentation: one per finding (from the registry and saved runs), error class and module."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path

from benchmarks.bench.markdown import table
from docs.tools.hook_map import hook_map
from docs.tools.replication_tables import numbers_table, sentence_on
from hooked_whisper import HookedWhisper, errors
from hooked_whisper.findings import Table
from hooked_whisper.findings.core.finding import Criterion, Finding, format_estimate, format_number
from hooked_whisper.findings.core.serialization import load_findings
from hooked_whisper.findings.registry import REGISTRY
from hooked_whisper.report.figures import picture
from hooked_whisper.report.page import SYMBOLS
from sae_lens_audio import errors as sae_errors

MODULES = (
    "hooked_whisper",
    "hooked_whisper.utils",
    "hooked_whisper.hooks",
    "hooked_whisper.patching",
    "hooked_whisper.patching.corruptions",
    "hooked_whisper.interventions",
    "hooked_whisper.analysis",
    "hooked_whisper.activations",
    "hooked_whisper.features",
    "hooked_whisper.features.phones",
    "hooked_whisper.features.scan",
    "hooked_whisper.audio",
    "hooked_whisper.text",
    "hooked_whisper.corpora",
    "hooked_whisper.loading",
    "hooked_whisper.findings",
    "hooked_whisper.viewer",
    "hooked_whisper.report",
    "hooked_whisper.report.units",
    "hooked_whisper.explorer",
    "hooked_whisper.synthetic",
    "hooked_whisper.errors",
    "sae_lens_audio",
    "sae_lens_audio.activations",
    "sae_lens_audio.architectures",
    "sae_lens_audio.evals",
    "sae_lens_audio.formats",
    "sae_lens_audio.training",
)


# Runs whose results the pages show in full, in this order: file in docs, and heading.
RUNS = {
    "findings/tiny.en.packaged.0.json": "On tiny.en, packaged speech",
    "data/findings.demo.json": "On the demo model, the ground-truth organism",
}
Results = dict[str, dict[str, Finding]]  # heading -> id -> finding


def read_results(folder: Path) -> Results:
    """Return the findings of the saved runs in ``folder``, by heading and id."""
    return {heading: {f.id: f for f in load_findings(folder / name)} for name, heading in RUNS.items()}


def write_pages(source: Path, example_folder: Path, results: Path) -> None:
    """Write all generated pages into ``source``.

    Args:
        example_folder: examples of errors, one file per class.
        results: the folder that contains the saved runs.
    """
    write(source / "concepts" / "map.md", _html(hook_map(HookedWhisper.from_pretrained("demo")), "hook-map"))
    findings = read_results(results)
    for id in REGISTRY:
        of_runs = {heading: run.get(id) for heading, run in findings.items()}
        write(source / "findings" / f"{id}.md", finding_page(id, of_runs, results / "findings"))
    write(source / "findings" / "index.md", findings_index(findings))
    names = [cls.__name__ for cls in error_classes()]
    for cls in error_classes():
        write(source / "errors" / f"{cls.__name__}.md", error_page(cls, example_folder / f"{cls.__name__}.md"))
    write(source / "errors" / "index.md", errors_index(names))
    for module in MODULES:
        write(source / "api" / f"{module}.md", api_page(module))
    write(source / "api" / "index.md", _toc("API", "Everything public, module by module.", MODULES))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# --- findings --------------------------------------------------------------------------------------------------------


def finding_page(id: str, results: Mapping[str, Finding | None], replication: Path) -> str:
    """Return the page of a finding: claim, protocol, commands, what is true of Whisper by all runs in ``replication``,
    and the full results of some runs."""
    entry = REGISTRY[id]
    parts = [
        f"# {id} {entry.title}",
        f"*{_plain(entry.claim)}*",
        f"## Protocol\n\n{_plain(entry.protocol)}",
        "## Run it\n\n```bash\n"
        f"hooked-whisper reproduce --model tiny.en --only {id} --out out/{id}\n"
        f"hooked-whisper reproduce --model tiny.en --corpus recordings/ --only {id} --out out/{id}-own\n```\n\n"
        "The first command uses the packaged speech, the second your recordings. "
        f"In Python the experiment is the module {{py:mod}}`{entry.module_name}`.",
    ]
    sentence = sentence_on(id, replication)
    parts += [f"## What is true of Whisper\n\n{_plain(sentence)}"] if sentence else []
    parts += ["## Every model and kind of speech", numbers_table(replication, [id])]
    for heading, finding in results.items():
        if finding is not None:
            parts += [*_result(finding, heading)]
    published = next((finding for finding in results.values() if finding is not None and finding.published), None)
    if published is not None:
        parts += ["## Published results", _plain(published.published_summary)]
        parts += [_own_table(rows) for rows in published.published]
    return "\n\n".join(parts) + "\n"


def _result(f: Finding, heading: str) -> Iterator[str]:
    status = f.status.replace(" ", "-")
    yield f'## {heading}\n\n<span class="status {status}">{SYMBOLS[f.status]} {f.status}</span>'
    yield f"{_plain(_sentence(f.status_reason))}"
    if f.criteria:
        rows = [
            (c.name, _with_unit(c), f"{c.direction} {format_number(c.threshold)}", _controls(f, c)) for c in f.criteria
        ]
        yield _table(("criterion", "estimate, 95 % interval", "needs", "controls"), rows)
        yield "Controls: " + "; ".join(f"*{_plain(c.name)}*: {_plain(c.description)}" for c in f.controls) + "."
    if f.notes:
        yield "\n".join(f"- {_plain(note)}" for note in f.notes)
    figures = [picture(figure, f"{f.id}-{f.model}-{i}".replace(".", "-")).markup for i, figure in enumerate(f.draw())]
    if figures:
        yield _html("".join(f"<figure>{figure}</figure>" for figure in figures), "figure-row")
    for rows in f.tables:
        yield _own_table(rows)


def _controls(f: Finding, c: Criterion) -> str:
    return "; ".join(f"{k.name} {format_estimate(k.values[c.name])}" for k in f.controls if c.name in k.values)


def _with_unit(c: Criterion) -> str:
    return f"{format_estimate(c.estimate)} {c.unit}".strip()


def _own_table(rows: Table) -> str:
    return f"**{_plain(rows.title)}** {_plain(rows.source)}\n\n" + _table(rows.columns, rows.rows)


def findings_index(results: Results) -> str:
    rows = []
    for id, entry in REGISTRY.items():
        cells = [_verdict(run.get(id)) for run in results.values()]
        rows.append((f"[{id} {entry.title}]({id}.md)", *cells))
    text = (
        "Every experiment with its controls, the published numbers and our results: on tiny.en with the packaged "
        "speech, and on the demo model, which checks methods and says nothing about Whisper. "
        "[All models and kinds of speech](../replication.md). Each verdict follows from criteria that were fixed "
        "in advance."
    )
    listed = table(("finding", *results), rows)
    return _toc("Findings", f"{text}\n\n{listed}", list(REGISTRY))


def _verdict(finding: Finding | None) -> str:
    if finding is None:
        return "not run"
    if finding.deciding is None:
        return finding.status
    return f"{finding.status}; {finding.deciding.name}: {format_estimate(finding.deciding.estimate)}"


# --- errors ----------------------------------------------------------------------------------------------------------


def error_classes() -> list[type[Exception]]:
    """Return the errors of both packages, the base class first."""
    members = [*vars(errors).values(), *vars(sae_errors).values()]
    classes = [c for c in members if inspect.isclass(c) and issubclass(c, errors.HookedWhisperError)]
    return list(dict.fromkeys(classes))


def error_page(cls: type[Exception], example: Path) -> str:
    """Return the page of an error class: its docstring (description, cause, fix) and an example that the tests run."""
    text = inspect.getdoc(cls) or ""
    what, cause, fix = _what_cause_fix(text)
    bases = ", ".join(f"`{b.__name__}`" for b in cls.__mro__[1:] if b.__module__ == "builtins" and b is not object)
    lines = [f"# {cls.__name__}", what, f"`{cls.__module__}.{cls.__name__}` is also a {bases}."]
    lines += [f"**Cause.** {cause}"] if cause else []
    lines += [f"**Fix.** {fix}"] if fix else []
    lines += [example.read_text(encoding="utf-8").strip()] if example.exists() else []
    return "\n\n".join(lines) + "\n"


def _what_cause_fix(text: str) -> tuple[str, str, str]:
    joined = " ".join(text.replace("``", "`").split())
    what, _, remainder = joined.partition("Cause:")
    cause, _, fix = remainder.partition("Fix:")
    return what.strip(), _sentence(cause.strip()), _sentence(fix.strip())


def errors_index(names: list[str]) -> str:
    text = (
        "Every exception says what went wrong and what to do. It also inherits the matching builtin, so that "
        "`except ValueError` works. Each has a page with its cause, its fix and an example."
    )
    return _toc("Errors", text, names)


# --- API -------------------------------------------------------------------------------------------------------------


def api_page(module: str) -> str:
    """Return the API page of a module, which autodoc fills. Each name is documented on one page only."""
    owners = {name: _owner(module, name) for name in _public(module)}
    members = ", ".join(name for name, owner in owners.items() if owner == module)
    parts = [
        f"# {module}",
        f"```{{eval-rst}}\n.. automodule:: {module}\n   :members: {members}\n```",
    ]
    elsewhere = [f"{{py:obj}}`{n} <{o}.{n}>`" for n, o in owners.items() if o != module]
    if elsewhere:
        parts.append("Also importable from here: " + ", ".join(elsewhere) + ".")
    return "\n\n".join(parts) + "\n"


def _public(module: str) -> list[str]:
    imported = importlib.import_module(module)
    public = [n for n, x in vars(imported).items() if getattr(x, "__module__", "") == module and not n.startswith("_")]
    return list(getattr(imported, "__all__", public))


@cache
def _owner(module: str, name: str) -> str:
    """Return the most specific module that exports the same object under the same name."""
    thing = getattr(importlib.import_module(module), name)
    having = [m for m in MODULES if name in _public(m) and getattr(importlib.import_module(m), name) is thing]
    return max(having, key=lambda m: (m.count("."), -MODULES.index(m)))  # one page for each object


# --- markdown --------------------------------------------------------------------------------------------------------


def _toc(title: str, text: str, pages: list[str] | tuple[str, ...]) -> str:
    listed, hidden = "\n".join(pages), "\n:hidden:" if "|" in text else ""  # a table has the links already
    return f"# {title}\n\n{text}\n\n```{{toctree}}\n:maxdepth: 1{hidden}\n\n{listed}\n```\n"


def _html(markup: str, css: str) -> str:
    return f'```{{raw}} html\n<div class="{css}">{markup}</div>\n```\n'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of plain text, with all markup escaped."""
    return table([_plain(cell) for cell in header], [[_plain(str(cell)) for cell in row] for row in rows])


def _plain(text: str) -> str:
    """Escape all markup except code between backticks."""
    parts = re.split(r"(`[^`]+`)", text.replace("``", "`").replace("\n", " "))
    return "".join(
        part.replace("|", "\\|") if i % 2 else re.sub(r"([*_\[\]|$#])", r"\\\1", escape(part, quote=False))
        for i, part in enumerate(parts)
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")
