"""Every option that is a word: a near miss is refused with the right word, found by looking at all signatures."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import pytest

import hooked_whisper
import sae_lens_audio
from hooked_whisper.errors import HookedWhisperError

# made by this package, not by users: what they say is true by construction
RESULTS = {
    "WordAlignment", "HeadScores", "PatchResult", "WordChange", "DiffOp", "AutoLabel", "Articulation", "AttentionPass",
    "HubUpload", "Passage", "RecordedPassage", "Recipe", "SeedTest", "TruthTest", "TrendTest",
}  # fmt: skip
# findings and reports are commands; their words come from argparse
LEFT_OUT = ("hooked_whisper.findings", "hooked_whisper.report", "sae_lens_audio.findings", "hooked_whisper.neural")


def _words(annotation: Any) -> tuple[str, ...]:
    """Strings that an annotation allows, if it lists any."""
    if get_origin(annotation) is Literal:
        return tuple(word for word in get_args(annotation) if isinstance(word, str))
    return tuple(word for part in get_args(annotation) for word in _words(part))


def _evaluated(annotation: Any, module: str) -> Any:
    """An annotation as an object; of a union with a name known to type checkers only, the parts that are known."""
    if not isinstance(annotation, str):
        return annotation
    names = vars(sys.modules[module])
    try:
        return eval(annotation, dict(names))
    except Exception:
        parts = re.split(r"\s*\|\s*", annotation)
        known = [part for part in parts if len(parts) > 1 and re.fullmatch(r"[\w.]+(\[[\w\", ]+\])?", part)]
        values = [_evaluated(part, module) for part in known]
        return tuple[tuple(values)] if values else object  # type: ignore[misc]


def _functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions, methods and constructors of option classes."""
    for package in (hooked_whisper, sae_lens_audio):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__") or info.name.startswith(LEFT_OUT) or ".cli" in info.name:
                continue
            module = importlib.import_module(info.name)
            for name, thing in vars(module).items():
                if name.startswith("_") or getattr(thing, "__module__", "") != info.name:
                    continue
                if inspect.isfunction(thing):
                    yield f"{info.name}.{name}", thing
                elif inspect.isclass(thing) and thing.__name__ not in RESULTS:
                    if dataclasses.is_dataclass(thing):
                        yield f"{info.name}.{name}", thing
                    for method, function in vars(thing).items():
                        # plot(backend=) hands it to heat_map, bar_chart or line_chart, which are walked themselves
                        if not method.startswith("_") and method != "plot" and inspect.isfunction(function):
                            yield f"{info.name}.{name}.{method}", function


def _options() -> list[Any]:
    options = []
    for name, function in _functions():
        code = function.__init__ if inspect.isclass(function) else inspect.unwrap(function)
        for parameter, annotation in getattr(code, "__annotations__", {}).items():
            module = function.__module__
            words = () if parameter == "return" else _words(_evaluated(annotation, module))
            if words:
                options.append(pytest.param(function, parameter, words, id=f"{name}:{parameter}"))
    return options


OPTIONS = _options()


def test_the_options_are_found() -> None:
    ids = " ".join(str(option.id) for option in OPTIONS)
    for name in ("patch:direction", "path_patch_pairs:direction", "align:method", "decompose_resid:mode"):
        assert name in ids
    assert len(OPTIONS) > 60


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("function", "option", "words"), OPTIONS)
def test_a_near_miss_is_refused_and_names_the_right_word(
    function: Callable[..., Any], option: str, words: tuple[str, ...]
) -> None:
    """All other arguments are dummies: what is no option is refused before anything else is looked at."""
    valid = {other.values[1]: other.values[2][0] for other in OPTIONS if other.values[0] is function}
    required = {
        name: valid.get(name, _Anything())
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    for word in words:
        for wrong in (f"{word}s", f"{word}ing" if len(word) > 3 else "", word.upper(), ""):
            if wrong in words:
                continue
            with pytest.raises(HookedWhisperError) as raised:
                function(**{**required, option: wrong})
            message = str(raised.value)
            assert repr(wrong) in message or option == "task"
            assert all(repr(other) in message for other in words)
            if wrong:
                assert re.search(rf"did you mean '{re.escape(word)}'\?$", message), message


class _Anything:
    """Stands for an argument that must not be looked at."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0
