"""Run-time checks of types and shapes, as jaxtyping's import hook makes them, at a fraction of the time.

jaxtyping generates two checks for every function when it is defined, and binds the arguments of every call twice. Here
a check is generated at the first call, and a function without array annotations is checked by beartype alone.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_jaxtyped = jaxtyping.jaxtyped
_beartype = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def install(packages: list[str]) -> None:
    """Check the annotations of ``packages``. Nothing may have imported them."""
    jaxtyping.jaxtyped = checked  # the name that the hook puts before every definition
    jaxtyping.install_import_hook(packages, "beartype.beartype")


def checked(definition: Any = None, *, typechecker: Any = None) -> Any:
    """Decorate a function, a descriptor of one, or a dataclass, as ``jaxtyping.jaxtyped`` does."""
    if definition is None:
        return checked
    if inspect.isclass(definition):
        initializer = vars(definition).get("__init__")
        if "__dataclass_fields__" in vars(definition) and not hasattr(initializer, "__wrapped__"):
            definition.__init__ = _checked_function(initializer)
        return definition
    if isinstance(definition, classmethod | staticmethod):
        return type(definition)(_checked_function(definition.__func__))
    if isinstance(definition, property):
        accessors = (definition.fget, definition.fset, definition.fdel)
        return property(*(accessor and _checked_function(accessor) for accessor in accessors))
    return _checked_function(definition)


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    annotations = _resolved(function)
    if all(annotation is Any for annotation in annotations.values()):
        return function
    check: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal check
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if check is None:
            check = _with_check(function, annotations)
        return check(*args, **kwargs)

    return call


def _resolved(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations as objects; those that cannot be evaluated yet, at the definition, are not checked."""
    annotations = {}
    for name, annotation in function.__annotations__.items():
        try:
            holder = types.SimpleNamespace(__annotations__={"value": annotation})
            annotations[name] = get_type_hints(holder, function.__globals__, include_extras=True)["value"]
        except Exception:
            annotations[name] = Any
    return annotations


def _with_check(function: Callable[..., Any], annotations: dict[str, Any]) -> Callable[..., Any]:
    code, closure = function.__code__, function.__closure__
    copy = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    copy.__kwdefaults__, copy.__module__, copy.__qualname__ = (
        function.__kwdefaults__,
        function.__module__,
        function.__qualname__,
    )
    copy.__annotations__ = dict(annotations)
    if any(map(_has_shape, annotations.values())):
        return _jaxtyped(copy, typechecker=_beartype)
    if inspect.isgeneratorfunction(function):
        copy.__annotations__.pop("return", None)  # beartype would check every item
    return _beartype(copy)


def _has_shape(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, get_args(annotation)))
