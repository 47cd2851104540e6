"""Doors: how a file of settings names a class that others have written, and gets it with its options checked.

A door is a union of built-in configurations that is open at its end; all of them come in the same way::

    BackboneConfig = Annotated[VitConfig | CspnextConfig | Backbone, Door("backbone", "posecore.backbones")]

``kind`` says which: the word of a built-in one, the name that an installed package gives it among its entry points, or
where its class lies, ``package.module:Class`` or ``package.module.Class``. The other keys are that class's own fields.

Naming a module runs it. A run file or a ``dataset.yaml`` is its user's own, so what it names is imported, here and in
the processes that are started from here. A model's card comes from anywhere: code that it names is used only where it
is an installed entry point, has been imported already, or is listed in ``POSECORE_EXTENSIONS``.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from posecore.errors import failing_line, said
from posecore.nearest import nearest

EXTENSIONS = "POSECORE_EXTENSIONS"
"""Environment variable: modules and packages, with commas between, that any file may name classes of."""

_MAY_IMPORT: ContextVar[bool] = ContextVar("_MAY_IMPORT", default=False)


@contextmanager
def trusted_file() -> Iterator[None]:
    """Within it, what is read is its user's own: code that it names is imported, and may be named from then on."""
    before = _MAY_IMPORT.set(True)
    try:
        yield
    finally:
        _MAY_IMPORT.reset(before)


@dataclass(frozen=True)
class Door:
    """What makes a union of configurations open; to be put beside it in ``Annotated``.

    The last member of the union is the protocol that everything which comes in derives from; the others are built in.

    Attributes:
        what: comes in, in one word, for messages.
        group: of entry points by which installed packages name theirs.
        default: the kind of a mapping that says none; "" where it has to.
    """

    what: str
    group: str
    default: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Reads a mapping with ``kind``, or the kind alone, as the class that it names; writes all its fields."""
        protocol = _members(source)[-1]

        def read(value: Any, _: Callable[[Any], Any]) -> Any:
            if isinstance(value, protocol):
                return value
            values = {"kind": value} if isinstance(value, str) else value
            kind = values.get("kind", self.default) if isinstance(values, Mapping) else None
            if not isinstance(kind, str) or not kind:
                raise ValueError(
                    f"which {self.what} it is has to be said by `kind`: {self._choices(built_in(source))}."
                )
            try:
                found = self.find(kind, source)
            except ValueError as error:
                raise _at_kind(self.what, kind, str(error)) from None
            return found.model_validate(dict(values))

        anything = core_schema.wrap_serializer_function_ser_schema(_as_it_is, schema=core_schema.any_schema())
        return core_schema.no_info_wrap_validator_function(read, handler(source), serialization=anything)

    def find(self, kind: str, union: Any) -> Any:
        """The class behind a name.

        Args:
            kind: see the module's description.
            union: that this is the door of.

        Raises:
            ValueError: there is none, it is none of these, or nobody has vouched for its module; one sentence, which
                names the nearest right name.
        """
        known, protocol = built_in(union), _members(union)[-1]
        if kind in known:
            return known[kind]
        place = self.place(kind)
        if place is None:
            raise ValueError(self.unknown(kind, known))
        module_name, _, name = place.partition(":")
        module = self._module(kind, module_name)
        found = getattr(module, name, None)
        if found is None:
            offered = [key for key, value in vars(module).items() if _is_a(value, protocol)]
            close = nearest(name, offered) or offered[:1]
            hint = f"; did you mean {close[0]}?" if close else f", nor any other {protocol.__name__}."
            raise ValueError(f"{self.what} {kind!r}: module {module_name} has no {name}{hint}")
        if not _is_a(found, protocol):
            raise ValueError(
                f"{self.what} {kind!r}: {name} is no {protocol.__name__}; derive it from "
                f"{protocol.__module__}.{protocol.__name__}."
            )
        if not _is_listed(module_name):  # for processes that will be started from here
            os.environ[EXTENSIONS] = ",".join([*_listed(), module_name])
        return found

    def place(self, kind: str) -> str | None:
        """``package.module:Class``, where the class of a name lies that is not built in; None if that is no place."""
        named = _installed(self.group).get(kind, kind)
        module, _, name = named.partition(":") if ":" in named else named.rpartition(".")
        return f"{module}:{name}" if module and name else None

    def unknown(self, kind: str, known: Iterable[str]) -> str:
        """A sentence that says of a name that it is none, and which is nearest."""
        close = nearest(kind, [*known, *_installed(self.group)])
        hint = f"; did you mean {close[0]}? There are" if close else "; there are"
        return f"no {self.what} is called {kind!r}{hint} {self._choices(known)}."

    def _module(self, kind: str, name: str) -> Any:
        if name in sys.modules:
            return sys.modules[name]
        if not (kind in _installed(self.group) or _MAY_IMPORT.get() or _is_listed(name)):
            raise ValueError(
                f"{self.what} {kind!r} is code of its own, which is run only if you say so: import {name} before, or "
                f"set {EXTENSIONS}={name}."
            )
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise ValueError(
                    f"{self.what} {kind!r}: its module wants {error.name}, which is not installed."
                ) from None
            raise ValueError(
                f"{self.what} {kind!r}: no module is called {error.name}; correct the name, or add its folder to "
                "PYTHONPATH."
            ) from None
        except Exception as error:
            raise ValueError(f"{self.what} {kind!r}: its module fails{failing_line(error)}: {said(error)}.") from error
        return module

    def _choices(self, known: Iterable[str]) -> str:
        names = ", ".join([*known, *_installed(self.group)])
        return f"{names}, or one of your own by where it lies, package.module:Class"


def built_in(union: Any) -> dict[str, Any]:
    """The classes of a union that are not the protocol at its end, by kind."""
    return {_own_kind(member): member for member in _members(union)[:-1]}


def _members(union: Any) -> tuple[Any, ...]:
    bare = get_args(union)[0] if get_origin(union) is Annotated else union
    return get_args(bare) or (bare,)


def _as_it_is(value: Any, write: Callable[[Any], Any]) -> Any:
    return write(value)


def _own_kind(member: type[BaseModel]) -> str:
    (kind,) = get_args(member.model_fields["kind"].annotation)
    assert get_origin(member.model_fields["kind"].annotation) is Literal, member
    return str(kind)


def _is_a(value: object, protocol: type[BaseModel]) -> bool:
    return isinstance(value, type) and issubclass(value, protocol) and value is not protocol


def _listed() -> list[str]:
    return [name.strip() for name in os.environ.get(EXTENSIONS, "").split(",") if name.strip()]


def _is_listed(module: str) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in _listed())


def _at_kind(what: str, kind: str, message: str) -> ValidationError:
    problem = PydanticCustomError("door", "{message}", {"message": message})
    return ValidationError.from_exception_data(what, [InitErrorDetails(type=problem, loc=("kind",), input=kind)])


@lru_cache(maxsize=64)
def _installed(group: str) -> Mapping[str, str]:
    return {point.name: point.value for point in entry_points(group=group)}
