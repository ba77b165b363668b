"""Names of version 0.1 that still work and warn (module attributes, methods, keyword arguments), and an answer to the
keywords of other libraries."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any, TypeVar

from hooked_whisper.errors import ArgumentError

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


def renamed_arguments(**names: str) -> Callable[[Function], Function]:
    """Accept old keyword arguments of a function under their new names, and warn:
    ``@renamed_arguments(names="names_filter")``.

    Raises:
        ArgumentError: if the old and the new name are both given.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                if new in kwargs:
                    raise ArgumentError(f"{function.__name__} got both {new}= and {old}=, its name in version 0.1")
                warnings.warn(f"{function.__name__}: {old}= is now called {new}=", RenamedWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

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
