"""The command line's help in the reader's language."""

from __future__ import annotations

from copy import copy
from inspect import cleandoc
from typing import TypeVar

import click

from worker.language import ENGLISH, current, said

_AnyCommand = TypeVar("_AnyCommand", bound=click.Command)


def say(text: str, *, err: bool = False) -> None:
    """Print a text in the reader's language."""
    click.echo(said(text), err=err)


def spoken(command: _AnyCommand) -> _AnyCommand:
    """Give a command whose help is in the language in use; the command itself stays as it is."""
    if current() == ENGLISH:
        return command
    made = copy(command)
    made.help = said(cleandoc(command.help)) if command.help else None
    made.params = [_spoken_option(param) for param in command.params]
    if isinstance(made, click.Group):
        made.commands = {name: spoken(inner) for name, inner in made.commands.items()}
    return made


def _spoken_option(param: click.Parameter) -> click.Parameter:
    if not isinstance(param, click.Option) or not param.help:
        return param
    made = copy(param)
    made.help = said(param.help)
    return made
