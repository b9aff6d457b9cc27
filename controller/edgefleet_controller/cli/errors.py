"""Errors to words and exit codes, in one place."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperGroup

from edgefleet_contract.errors import EdgefleetError, InternalError, ManifestError, UserInputError
from edgefleet_controller.cli import output

if TYPE_CHECKING:
    from edgefleet_contract.base import Record
    from edgefleet_controller.load import LoadedManifest

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
"""As shells count it: 128 and the number of SIGINT."""

R = TypeVar("R", bound="Record")

_Context = Any
"""Typer keeps the class of the context it hands to groups private."""


class FleetGroup(TyperGroup):
    """The root command: every error raised on purpose ends here, as words on stderr and an exit code."""

    def parse_args(self, ctx: _Context, args: list[str]) -> list[str]:
        """Let the options that belong to `fleet` itself stand anywhere before `--`."""
        return super().parse_args(ctx, hoist(args, ("--server",)))

    def invoke(self, ctx: _Context) -> object:
        """Run the command. Raises typer.Exit with the code of the error's family."""
        try:
            return super().invoke(ctx)
        except EdgefleetError as error:
            report(error)
            raise typer.Exit(exit_code_of(error)) from error
        except KeyboardInterrupt as error:
            output.words("stopped")
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output has seen enough; typer ends quietly
            output.words(f"error: {error}", style="red")
            raise typer.Exit(EXIT_ERROR) from error


def hoist(args: list[str], options: tuple[str, ...]) -> list[str]:
    """Return `args` with these options, each with its value, moved to the front; what follows `--` stays."""
    end = args.index("--") if "--" in args else len(args)
    moved: list[str] = []
    kept: list[str] = []
    rest = iter(args[:end])
    for arg in rest:
        if arg in options:
            moved += [arg, *([value] if (value := next(rest, None)) is not None else [])]
        elif arg.startswith(tuple(f"{option}=" for option in options)):
            moved.append(arg)
        else:
            kept.append(arg)
    return moved + kept + args[end:]


def exit_code_of(error: EdgefleetError) -> int:
    """Return 2 when the user's input is wrong, else 1."""
    return EXIT_USAGE if isinstance(error, UserInputError) else EXIT_ERROR


def report(error: EdgefleetError) -> None:
    """Print an error, each of a group on its own line, and the next step, to stderr."""
    for one in flatten(error):
        text = str(one).removesuffix(f" (next: {one.next_step})")
        output.words(f"error: {text}", style="red")
        if one.next_step:
            output.words(f"next: {one.next_step}")
        if isinstance(one, InternalError):
            output.words("this is a bug in edgefleet; please report it with the text above")


def flatten(error: EdgefleetError) -> list[EdgefleetError]:
    """Return the problems an error stands for (a manifest can have several), or the error itself."""
    problems = getattr(error, "problems", None)
    if not problems:
        return [error]
    left_out_n = getattr(error, "left_out_n", 0)
    return [*problems, *([UserInputError(f"and {left_out_n} more problems")] if left_out_n else [])]


@contextmanager
def located(loaded: LoadedManifest) -> Iterator[None]:
    """Give errors that name a `path` into the manifest the place where it stands in the file.

    Raises:
        ManifestError: in place of a UserInputError with a `path`, with `file:line:column`.
    """
    try:
        yield
    except UserInputError as error:
        path = getattr(error, "path", None)
        if path is None or getattr(error, "location", None) is not None:
            raise
        location = loaded.locate(tuple(path))
        raise ManifestError(error.message, location=location, next_step=error.next_step) from error


def build(kind: type[R], **fields: object) -> R:
    """Return a record made of what the user typed.

    Raises:
        UserInputError: a value the record does not take, named as the option it came from.
    """
    from pydantic import ValidationError

    try:
        return kind(**fields)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        msg = f"{place}: {problem['msg']}, got {str(problem['input'])[:200]!r}"
        raise UserInputError(msg) from error
