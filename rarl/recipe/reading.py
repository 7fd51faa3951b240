"""How arguments are read: YAML as strictly as flags, and errors of one line."""

import math
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser


class PlainParser(TrlParser):
    """TRL's parser, whose errors are one line: the usage of four hundred flags would hide it."""

    def error(self, message: str) -> Any:
        raise ValueError(message)


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: {key} stands there twice; wanted once")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_config(path: str | Path, types: Collection[Any]) -> dict[str, Any]:
    """Arguments of a YAML file, each of the type that its flag has; one value where a list is wanted is a list of it.

    Args:
        path: The file.
        types: Dataclasses that the arguments belong to.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML mapping, or a key is unknown, there twice, or of another type.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: wanted a YAML file of arguments, but there is no such file.")
    try:
        config = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    except ValueError as error:  # a key twice, or text that is not UTF-8
        raise ValueError(f"{path}: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: wanted a YAML mapping of arguments, got {config!r:.60}.")
    hints: dict[str, Any] = {}
    choices: dict[str, Any] = {}
    for each in types:
        hints |= {name: hint for name, hint in get_type_hints(each).items() if name in init_names(each)}
        choices |= {field.name: field.metadata.get("choices") for field in fields(each)}
    unknown = [str(key) for key in config if key not in hints]
    if unknown:
        raise ValueError(f"{path}: unknown arguments {', '.join(unknown)}.")
    typed = {name: typed_value(f"{path}: {name}", value, hints[name]) for name, value in config.items()}
    for name, value in typed.items():
        if choices[name] is not None and value is not None and value not in choices[name]:
            raise ValueError(f"{path}: {name}: wanted one of {', '.join(choices[name])}, got {value!r}.")
    return typed


def init_names(each: Any) -> set[str]:
    """Names of the arguments of a dataclass."""
    return {field.name for field in fields(each) if field.init}


def typed_value(name: str, value: Any, hint: Any) -> Any:
    """A value from YAML as its flag would give it.

    Raises:
        ValueError: If it is of another type.
    """
    options = [hint]
    if get_origin(hint) in (Union, UnionType):
        options = [each for each in get_args(hint) if each is not NoneType]
        if value is None and len(options) < len(get_args(hint)):
            return None
    if len(options) > 1:  # such as `dict | str`: transformers reads it
        return value
    [wanted] = options
    if get_origin(wanted) is list:
        [element] = get_args(wanted)
        items = value if isinstance(value, list) else [value]
        return [typed_value(name, item, element) for item in items]
    if wanted is bool:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise ValueError(f"{name}: wanted true or false, got {value!r}.")
    elif wanted in (int, float):
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number) or (wanted is int and not number.is_integer()):
            raise ValueError(f"{name}: wanted {'a whole number' if wanted is int else 'a number'}, got {value!r}.")
        return int(number) if wanted is int else number
    elif wanted is str:
        if isinstance(value, bool) and name.endswith(("resume_from_checkpoint", "scale_rewards")):
            return value
        if value is None or isinstance(value, bool | list | dict):
            raise ValueError(f"{name}: wanted text, got {value!r}; words such as no and on want quotes in YAML.")
        return str(value)
    return value
