"""Settings from the environment, and what is wrong with one in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

_S = TypeVar("_S", bound=BaseModel)


class SettingsError(ValueError):
    """A setting that its owner can mend; the message names the variable, its value and what is allowed."""


def variable_names(schema: type[BaseModel], prefix: str, plain: Mapping[str, str]) -> dict[str, str]:
    """Field name -> environment variable: that of `plain`, else the prefix with the field's name."""
    return {name: plain.get(name, f"{prefix}{name.upper()}") for name in schema.model_fields}


def from_environment(schema: type[_S], names: Mapping[str, str], environ: Mapping[str, str], **flags: Any) -> _S:
    """Settings from flags that are not None, then the environment, then the defaults.

    Raises SettingsError for a value that is not allowed.
    """
    values = {field: environ[variable] for field, variable in names.items() if environ.get(variable)}
    values |= {field: value for field, value in flags.items() if value is not None}
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise SettingsError(f"{names.get(field, field)} = {first['input']!r}: {first['msg']}") from error
