"""Ctrl-C while the command `jaxsched` is still importing ends in one line, as it does later.

The first module that `jaxsched` imports; nothing in it is slow. Programs of others that import
jaxsched keep their own way with Ctrl-C.
"""

import os
import signal
import sys


def is_the_command() -> bool:
    """Whether this process was started as `jaxsched` or as `python -m jaxsched`."""
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    # While the module of -m is looked for, its place in the arguments has "-m".
    module = name == "-m" and sys.orig_argv[1:3] == ["-m", "jaxsched"]
    return module or name.removesuffix(".exe") == "jaxsched"


def _leave(*_: object) -> None:
    sys.stderr.write("jaxsched: stopped; run the same command again to go on\n")
    sys.stderr.flush()
    os._exit(130)  # whatever was half imported is not waited for


def watch() -> None:
    """Leaves on Ctrl-C, until `hand_over`."""
    if is_the_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def hand_over() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, which `main` explains."""
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _not_lost
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _not_lost(lost: "sys.UnraisableHookArgs") -> None:
    """Ctrl-C that falls where Python has to ignore it, such as among garbage, comes again.

    What a thread of a checkpoint says after a disk has refused it is left out.
    """
    import threading  # noqa: PLC0415 - not before Ctrl-C is watched

    if issubclass(lost.exc_type, KeyboardInterrupt):
        again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
    elif str(lost.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(lost)


watch()
