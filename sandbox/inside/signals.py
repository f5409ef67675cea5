"""Runs a strategy of our contract: `generate_signals(df, **params)` returns one target position per bar.

A file's strategies are its function `generate_signals` and its classes with a method of that name, except those
whose name begins with an underscore. Where there is more than one, `--strategy NAME` picks. The parameters of a
function are its keyword arguments; those of a class are these and its public class attributes.

`df` has a DatetimeIndex and the lower-case columns open, high, low, close and volume.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from bars import frame

METHOD = "generate_signals"
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_ANY = object()
"""Stands for the default of a parameter that has none."""


class ContractError(Exception):
    """The file does not keep its contract. One line: what is wrong and what would be right."""


def run(namespace: dict[str, Any], bars: bytes, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the positions of the strategy that `options` name, with what JSON can hold and nothing else.

    `namespace` is what executing the file left. What the candidate raises passes through; ContractError is ours.
    """
    data = frame(bars)
    return positions_of(namespace, data.rename(columns=str.lower), options)


def positions_of(namespace: dict[str, Any], data: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Do what `run` does, with a frame that was read already."""
    name, strategy = pick(strategies(namespace), options["strategy"])
    generate, params = _prepared(strategy, options["params"])
    try:
        answer = generate(data, **params)
    except (KeyError, AttributeError) as error:
        if column := _capital_column(error):
            raise ContractError(f"the frame has no column {column!r}: write df['{column.lower()}']") from error
        raise
    return {"contract": "signals", "strategy": name, "positions": plain_positions(answer), "params": params}


def strategies(namespace: dict[str, Any]) -> dict[str, Any]:
    """Return what the file itself defines that keeps the contract, by name."""
    found = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, type)
        and not name.startswith("_")
        and value.__module__ == namespace.get("__name__", "builtins")
        and callable(getattr(value, METHOD, None))
    }
    if callable(namespace.get(METHOD)):
        found[METHOD] = namespace[METHOD]
    return found


def pick(found: dict[str, Any], name: str | None) -> tuple[str, Any]:
    """Return the strategy called `name`, or the only one. Raises ContractError that lists what there is."""
    if not found:
        raise ContractError("no strategy in this file: define generate_signals(df) or a backtesting.Strategy")
    if name is None and len(found) > 1:
        raise ContractError(f"several strategies in this file: pick one of {', '.join(found)} with --strategy")
    if name is not None and name not in found:
        raise ContractError(f"no strategy {name!r} in this file; it has {', '.join(found)}")
    name = name or next(iter(found))
    return name, found[name]


def _prepared(strategy: Any, given: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return what to call and the arguments to call it with; attributes of a class are set on its instance."""
    if not isinstance(strategy, type):
        parameters, takes_any = arguments(strategy)
        return strategy, _checked(convert(given, parameters, takes_any), parameters)
    instance = strategy()
    generate = getattr(instance, METHOD)
    parameters, takes_any = arguments(generate)
    settings = attributes(strategy)
    values = convert(given, settings | parameters, takes_any)
    for name in values.keys() & (settings.keys() - parameters.keys()):
        setattr(instance, name, values.pop(name))
    return generate, _checked(values, parameters)


def _checked(values: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    if missing := [name for name, default in parameters.items() if default is _ANY and name not in values]:
        raise ContractError(f"parameter {missing[0]!r} has no default: pass --param {missing[0]}=VALUE")
    return values


def arguments(function: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Return the parameters of a strategy after the frame, with their defaults, and whether it takes any other."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    named = {
        parameter.name: _ANY if parameter.default is parameter.empty else parameter.default
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return named, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def attributes(strategy: type) -> dict[str, Any]:
    """Return the public class attributes of a strategy that hold a plain value."""
    return {
        name: getattr(strategy, name)
        for name in dir(strategy)
        if not name.startswith("_") and isinstance(inspect.getattr_static(strategy, name), int | float | str)
    }


def convert(given: Mapping[str, Any], known: Mapping[str, Any], takes_any: bool = False) -> dict[str, Any]:
    """Return `given` in the types of the defaults in `known`. Raises ContractError for an unknown name or value."""
    for name in given:
        if name not in known and not takes_any:
            raise ContractError(f"no parameter {name!r}; this strategy has {', '.join(known) or 'none'}")
    return {name: _converted(name, value, known.get(name, _ANY)) for name, value in given.items()}


def _converted(name: str, value: Any, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return _TRUTH[str(value).lower()]
        if isinstance(default, int):
            return _whole(value)
        if isinstance(default, float):
            return float(value)
    except (ValueError, KeyError, OverflowError) as error:
        wanted = {"bool": "true or false", "int": "a whole number"}.get(type(default).__name__, "a number")
        raise ContractError(f"parameter {name!r} takes {wanted}, not {value!r}") from error
    return str(value) if isinstance(default, str) else _guessed(value)


def _whole(value: Any) -> int:
    number = float(value)
    if number != int(number):
        raise ValueError("not a whole number")
    return int(number)


def _guessed(value: Any) -> Any:
    """Read text as a number where it is one: there is no default to tell the type by."""
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return value


def _capital_column(error: Exception) -> str | None:
    """Return the column that the candidate looked for under its capitalised name, if that is what went wrong."""
    asked = error.name if isinstance(error, AttributeError) else error.args[0] if error.args else None
    return asked if asked in ("Open", "High", "Low", "Close", "Volume") else None


def plain_positions(answer: Any) -> list[float | str | None]:
    """Return an answer as floats, with None for a missing one and text for what is no finite number.

    Whether the numbers are usable is decided outside. Raises ContractError for what is not one value per bar.
    """
    if answer is None:
        raise ContractError("generate_signals returned nothing: return one position per bar")
    if hasattr(answer, "columns"):
        raise ContractError("generate_signals returned a frame: return one column of it, such as df['position']")
    if isinstance(answer, str | bytes | dict | set | frozenset) or not hasattr(answer, "__iter__"):
        raise ContractError(f"generate_signals returned a {type(answer).__name__}: return one position per bar")
    return [_plain(value) for value in (answer.tolist() if hasattr(answer, "tolist") else answer)]


def _plain(value: Any) -> float | str | None:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if not isinstance(value, Real):
        return type(value).__name__
    try:
        number = float(value)
    except OverflowError:
        return "inf"
    if math.isnan(number):
        return None
    return number if math.isfinite(number) else str(number)
