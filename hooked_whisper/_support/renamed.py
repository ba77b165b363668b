"""Names of version 0.1 that still work and warn (module attributes, methods, keyword arguments), and answers to the
keywords and attributes of other libraries."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any, TypeVar

from hooked_whisper.errors import ArgumentError, closest

Function = TypeVar("Function", bound=Callable[..., Any])


class RenamedWarning(FutureWarning):
    """A name of version 0.1 was used. It is removed in the next version; the message gives the new name."""


def renamed_names(
    package: str, names: Mapping[str, str], fallback: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that maps old names to new ones and warns.

    names: old name -> new name in the same package, or ``"other.module:name"``.
    fallback: asked for every other name, such as the one of :func:`~hooked_whisper._support.lazy.lazily`.

        __getattr__ = renamed_names(__name__, {"Pair": "CleanCorruptPair"})
    """

    def find(name: str) -> Any:
        if name not in names:
            if fallback is not None:
                return fallback(name)
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, new = names[name].rpartition(":")
        where = f" of {module}" if module else ""
        warnings.warn(f"{package}.{name} is now called {new}{where}", RenamedWarning, stacklevel=2)
        return attrgetter(new)(import_module(module) if module else sys.modules[package])

    return find


def renamed_arguments(**names: str | tuple[str, Callable[[Any], Any]]) -> Callable[[Function], Function]:
    """Accept old keyword arguments of a function under their new names, and warn:
    ``@renamed_arguments(positions="pos_slice")``.

    names: old name -> new name, or (new name, function that converts the value).

    Raises:
        ArgumentError: if the old and the new name are both given.
    """

    return _accept({old: _new_name(entry) for old, entry in names.items()}, warn=True)


def argument_synonyms(**names: str) -> Callable[[Function], Function]:
    """Accept keyword arguments under a second name, without a warning: ``@argument_synonyms(names="names_filter")``.

    Raises:
        ArgumentError: if both names are given.
    """
    return _accept({synonym: _new_name(new) for synonym, new in names.items()}, warn=False)


def _accept(names: Mapping[str, tuple[str, Callable[[Any], Any]]], warn: bool) -> Callable[[Function], Function]:
    """Decorate a function so that it also takes these keywords. names: keyword -> its name here, conversion."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                new, convert = names[old]
                if new in kwargs:
                    raise ArgumentError(f"{function.__name__} got both {new}= and {old}=, two names of one argument")
                if warn:
                    warnings.warn(f"{function.__name__}: {old}= is now called {new}=", RenamedWarning, stacklevel=2)
                kwargs[new] = convert(kwargs.pop(old))
            return function(*args, **kwargs)

        vars(wrapper)["_accepted_keywords"] = {*names, *vars(function).get("_accepted_keywords", ())}
        return wrapper  # type: ignore[return-value]

    return decorate


def _new_name(entry: str | tuple[str, Callable[[Any], Any]]) -> tuple[str, Callable[[Any], Any]]:
    return (entry, lambda value: value) if isinstance(entry, str) else entry


def keywords_elsewhere(**answers: str) -> Callable[[Function], Function]:
    """Answer keywords of TransformerLens or SAELens that a function does not take with what to use here, and every
    other unknown keyword with the nearest name.

    answers: keyword -> what to use: ``@keywords_elsewhere(prepend_bos="model.to_tokens(text) writes the prompt")``.

    Raises:
        ArgumentError: one of these keywords, or an unknown one, is given.
    """

    def decorate(function: Function) -> Function:
        accepted = _keywords_of(function)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for keyword in kwargs:
                if keyword in answers:
                    raise ArgumentError(f"{function.__name__} does not take {keyword}=: {answers[keyword]}")
                if accepted is not None and keyword not in accepted:
                    raise ArgumentError(_unknown_keyword(function, keyword, {*accepted, *answers}))
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate


def _keywords_of(function: Callable[..., Any]) -> frozenset[str] | None:
    """Return the keywords that a function takes, including renamed ones and synonyms; ``None`` if it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset({*(parameter.name for parameter in parameters), *vars(function).get("_accepted_keywords", ())})


def _unknown_keyword(function: Callable[..., Any], keyword: str, known: set[str]) -> str:
    near = closest(keyword, known, 1)
    return f"{function.__name__} has no argument {keyword}={f'; did you mean {near[0]}=?' if near else ''}"


def attribute_elsewhere(owner: object, name: str, answers: Mapping[str, str]) -> AttributeError | None:
    """Return the error for an attribute of TransformerLens that ``owner`` does not have, or ``None`` if it has no
    answer.

    answers: attribute -> what to use.
    """
    if name not in answers:
        return None
    return AttributeError(f"{type(owner).__name__} has no {name}: {answers[name]}", name=name, obj=owner)


def changing_default(**defaults: tuple[Any, str]) -> Callable[[Function], Function]:
    """Warn if a keyword argument whose default changes in the next version is left out.

    defaults: argument -> (its default in version 0.1, what to write).
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            omitted = defaults.keys() - kwargs.keys()
            result = function(*args, **kwargs, **{argument: defaults[argument][0] for argument in omitted})
            for argument in omitted:
                advice = defaults[argument][1]
                message = f"{function.__name__}: the default of {argument}= changes in the next version; {advice}"
                warnings.warn(message, RenamedWarning, stacklevel=2)
            return result

        return wrapper  # type: ignore[return-value]

    return decorate


def renamed_method(old: str, new: str) -> Callable[..., Any]:
    """Return a method under its name of version 0.1 that warns and calls the new one:
    ``splice = renamed_method("splice", "attach_sae")``."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        warnings.warn(f"{type(self).__name__}.{old} is now called {new}", RenamedWarning, stacklevel=2)
        return getattr(self, new)(*args, **kwargs)

    method.__name__ = old
    method.__doc__ = f"The name of :meth:`{new}` in version 0.1."
    return method


def renamed_property(old: str, new: str) -> property:
    """Return a property under its name of version 0.1 that warns and reads the new one."""

    def read(self: Any) -> Any:
        warnings.warn(f"{type(self).__name__}.{old} is now called {new}", RenamedWarning, stacklevel=2)
        return getattr(self, new)

    return property(read, doc=f"The name of ``{new}`` in version 0.1.")
