"""The command line: `python -m torch_conv_ext COMMAND`.

Exit status: 0; 1 where a command found something wrong; 2 for an error in the command line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from torch_conv_ext import __version__
from torch_conv_ext._cli import UsageError
from torch_conv_ext._cli.console import print_error

# Modules of torch_conv_ext._cli; the first line of their docstring is the help.
COMMANDS = ("info", "plan", "check", "bench")

PROGRAM = "python -m torch_conv_ext"


class _Parser(argparse.ArgumentParser):
    """argparse with the errors of all other places."""

    def error(self, message: str) -> NoReturn:
        print_error(message.removeprefix("argument "), f"See `{self.prog} --help`.")
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog=PROGRAM, description="2-D convolution for PyTorch on the CPU.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"torch_conv_ext {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"torch_conv_ext._cli.{name}")
        description = (module.__doc__ or "").strip()
        summary = description.splitlines()[0].rstrip(".")
        command = commands.add_parser(
            name,
            help=summary[:1].lower() + summary[1:],
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    args = parser().parse_args(arguments)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except UsageError as error:
        print_error(str(error), f"See `{PROGRAM} {args.command} --help`.")
        return 2
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever reads, `head` for one, has seen enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
