"""Whether what one agent gives is what another takes, as far as their types tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeGuard

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

SCALARS: Final = (str, int, float, bool, bytes)


def misfit(giver: str, given: object, taker: str, taken: object) -> str:
    """
    Return why one agent cannot take what another gives; empty where nothing speaks against it.

    JSON is what passes between agents, so what counts is the fields, not the class.
    """
    if (given in SCALARS and _says_its_fields(taken)) or (taken in SCALARS and _says_its_fields(given)):
        return f"{taker!r} cannot take what {giver!r} gives ({_name(given)} → {_name(taken)})"
    if not (_says_its_fields(given) and _says_its_fields(taken)):
        return ""
    written = {name: field for name, field in given.model_fields.items() if not field.exclude}
    offered = {field.serialization_alias or name for name, field in written.items()} | set(given.model_computed_fields)
    wanted = {name: _names(name, field) for name, field in taken.model_fields.items() if field.is_required()}
    missing = [name for name, names in wanted.items() if not names & offered]
    if not missing:
        return ""
    return f"{taker!r} needs {', '.join(missing)}, which {giver!r} does not give ({given.__name__} → {taken.__name__})"


def _name(kind: object) -> str:
    return getattr(kind, "__name__", repr(kind))


def _says_its_fields(kind: object) -> TypeGuard[type[BaseModel]]:
    """Tell whether a type's fields are all it reads and writes: no code of its own, nothing beyond them."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or issubclass(kind, RootModel):
        return False
    own = kind.__pydantic_decorators__
    turned = any(validator.info.mode != "after" for validator in own.model_validators.values())
    return not (turned or own.model_serializers or kind.model_config.get("extra") == "allow")


def _names(name: str, field: FieldInfo) -> set[str]:
    """Return the names under which a field is read."""
    aliases = [field.alias, field.validation_alias]
    flat = [each for alias in aliases for each in (alias.choices if isinstance(alias, AliasChoices) else [alias])]
    first = [each.path[0] if isinstance(each, AliasPath) else each for each in flat]
    return {name, *(each for each in first if isinstance(each, str))}
