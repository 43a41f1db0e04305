"""The command `jaxsched`: `program` reads the arguments, and a file a command does the rest."""

from jaxsched.cli.program import main

__all__ = ["main"]
