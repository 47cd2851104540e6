"""The parser of every command: it shows the usage of the command that was meant, and the nearest right option."""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn

from posecore.nearest import did_you_mean

_CHOICE = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<known>.*)\)", re.DOTALL)
_NAME = re.compile(r"[^\s,']+")


class CommandParser(argparse.ArgumentParser):
    """As :class:`argparse.ArgumentParser`, whose messages leave the nearest name to be looked for."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and what was probably meant, and ends with status 2."""
        found = _CHOICE.search(message)
        if found is not None:
            message = f"{message}.{did_you_mean(found['given'], _NAME.findall(found['known']))}"
        super().error(message)

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As there; whatever nobody knows is refused by :meth:`refuse`."""
        parsed, further = self.parse_known_args(args, namespace)
        if further:
            self.refuse(further, sys.argv[1:] if args is None else args)
        return parsed

    def refuse(self, further: Iterable[str], command: Iterable[str]) -> NoReturn:
        """Ends with status 2 because of arguments that nobody knows.

        Args:
            further: the arguments.
            command: all that were given, by which the command is found whose options they would have been.
        """
        parser: argparse.ArgumentParser = self
        for name in command:
            choices = {key: each for action in _choosing(parser) for key, each in (action.choices or {}).items()}
            if name in choices:
                parser = choices[name]
        unknown = list(further)
        named = next((argument.partition("=")[0] for argument in unknown if argument.startswith("-")), "")
        hint = did_you_mean(named, _options(parser)) if named else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _choosing(parser: argparse.ArgumentParser) -> Iterator["argparse._SubParsersAction[argparse.ArgumentParser]"]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield action
