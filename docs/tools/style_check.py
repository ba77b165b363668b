"""Check words and names against the house style: ``python -m docs.tools.style_check [PATH ...]``.

Reports banned phrases in docstrings, comments, error messages and documentation, names of locals, parameters and
functions that carry no meaning, and public classes that share a name. Exits with 1 if there is any. Part of
``make lint``.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hooked_whisper", "sae_lens_audio")
CODE = (*PACKAGES, "benchmarks", "docs", "tests", "tutorials")
DOCUMENTS = ("README.md", "docs", "tutorials", "benchmarks")

LOCALS = frozenset(["found", "one", "at", "some", "own", "given", "kept", "chosen", "rest", "made", "these"])
"""Names that say nothing about what they hold."""

PHRASES = (
    r"goes? on with",
    r"stands? behind",
    r"passed over",
    r"of its own\b",
    r"of their own\b",
    r"what is \w+ alone",
    r"tells? of (it|them)sel(f|ves)",
    r"nobody knows",
    r"asks? for (it|them)\b",
    r"as many as are wanted",
    r"who calls this",
    r"who(ever)? asks",
    r"somebody",
    r"anybody",
    r"at work\b",
    r"from which on",
    r"as they stand",
    r"that are none",
    r"the surer",
    r"brought to one",
    r"put together",
    r"and what else",
    r"what else there is",
    r"all that there is",
    r"all there is",
    r"in one with",
    r"taken up again",
    r"by hand or",
    r"spoken world",
)
BRITISH = (
    r"\w*colour\w*",
    r"\w*neighbour\w*",
    r"\w*(?<!ana)(?<!para)labell(ed|ing|er)\w*",
    r"\w*centre[ds]?\b",
    r"\w*behaviour\w*",
    r"\w+(?<!prom)(?<!adv)(?<!comp)(?<!prec)(?<!conc)(?<!rev)(?<!surpr)(?<!superv)(?<!exerc)(?<!no)(?<!ra)(?<!w)(?<!pra)(?<!cr)(?<!expert)isation\w*",
    r"\w*(normal|optim|initial|visual|serial|summar|organ|recogn|local|general|quant|token|minim|maxim|standard|random|synth|vector|util|parametr)is(e|ed|es|ing|er)\b",
    r"\w*analys(ed|es|ing)\b",
    r"licence",
    r"grey(ed)?\b",
    r"metre\b",
    r"travell\w+",
    r"modell(ed|ing)\w*",
    r"favour\w*",
    r"honour\w*",
)
SPELLED_SO = {
    "hooked_whisper/findings/neighbors.py": "names in saved findings",
    "hooked_whisper/findings/english/published_neighbors.py": "names in saved findings",
    "hooked_whisper/findings/speech_similarity.py": "names in saved findings",
    "tests/corpora/test_manifests.py": "the spelling of Common Voice",
    "tests/explorer/test_browser.py": "an attribute of HTML",
    "tests/text/test_wer.py": "the speech that is normalized",
}
"""Files that may hold British spellings, and why."""
_PROSE = re.compile("|".join(f"({phrase})" for phrase in PHRASES), re.IGNORECASE)
_BRITISH = re.compile("|".join(rf"\b({word})" for word in BRITISH), re.IGNORECASE)


@dataclass(frozen=True)
class Complaint:
    """One violation. ``kind`` is such as "phrase", "British spelling", "local name" or "class name"."""

    path: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}: {self.text}"


def check_code(path: Path, source: str) -> Iterator[Complaint]:
    """Check the docstrings, comments, strings and local names of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string):
            yield from check_prose(path, token.string, token.start[0])
    for node in ast.walk(ast.parse(source)):
        for kind, name in _names_bound_by(node):
            if name in LOCALS:
                yield Complaint(path, node.lineno, kind, name)


def _names_bound_by(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The kind and the name of each name that a node binds."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield "local name", node.id
    elif isinstance(node, ast.arg):
        yield "parameter", node.arg
    elif isinstance(node, ast.FunctionDef) and node.name != "at":  # ``curve.at(k)`` says what it returns
        yield "function name", node.name


def check_prose(path: Path, text: str, first_line: int = 1) -> Iterator[Complaint]:
    """Check a text for banned phrases and British spellings."""
    for number, line in enumerate(text.splitlines(), start=first_line):
        for kind, pattern in (("phrase", _PROSE), ("British spelling", _BRITISH)):
            if kind == "British spelling" and path.as_posix() in SPELLED_SO:
                continue
            for match in pattern.finditer(line):
                yield Complaint(path, number, kind, match.group())


def check_class_names(paths: Sequence[Path]) -> Iterator[Complaint]:
    """Check that no two public classes of the packages share a name."""
    places: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    for path in paths:
        for node in ast.parse((ROOT / path).read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append((path, node.lineno))
    for name, defined in sorted(places.items()):
        for path, line in defined[1:]:
            yield Complaint(path, line, "class name", f"{name} is also in {defined[0][0]}")


def complaints(places: Sequence[str] = ()) -> list[Complaint]:
    """All violations under some paths, relative to the repository (default: the whole project)."""
    code = files_under(places or CODE, ".py")
    documents = files_under(places or DOCUMENTS, ".md")
    violations: list[Complaint] = []
    for path in code:
        if path != Path("docs/tools/style_check.py"):
            violations += check_code(path, (ROOT / path).read_text())
    for path in documents:
        violations += check_prose(path, (ROOT / path).read_text())
    violations += check_class_names([path for path in code if path.parts[0] in PACKAGES])
    return violations


def files_under(places: Sequence[str], suffix: str) -> list[Path]:
    paths: list[Path] = []
    for place in places:
        path = ROOT / place
        paths += sorted(path.rglob(f"*{suffix}")) if path.is_dir() else [path] if path.suffix == suffix else []
    return [path.relative_to(ROOT) for path in paths if "_build" not in path.parts]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="files or folders (default: the whole project)")
    parser.add_argument("--count", action="store_true", help="print the number of violations per folder only")
    parsed = parser.parse_args(arguments)
    violations = complaints(parsed.paths)
    if parsed.count:
        by_folder: dict[tuple[Path, str], int] = defaultdict(int)
        for complaint in violations:
            by_folder[complaint.path.parent, complaint.kind] += 1
        for (folder, kind), number in sorted(by_folder.items()):
            print(f"{folder}: {number} {kind}")
    else:
        print(*violations, sep="\n")
    print(f"{len(violations)} violations of the house style")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
