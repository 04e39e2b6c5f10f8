"""The commands of `python -m torch_conv_ext`, one module each with `add_arguments(parser)` and `run(args)`.

`run` returns the exit status: 0, or 1 where the command found something wrong. An error in the command line
is a `UsageError`, status 2. `console` alone knows how output looks, `layer` how a layer is written.
"""

from __future__ import annotations


class UsageError(Exception):
    """What was asked for cannot be done; the message says what was expected and what was given."""
