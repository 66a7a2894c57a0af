"""The command `bench`, which is also `python -m bench`, from its first moment on."""

import os
import signal


def main() -> None:
    """Run the command. Until it is imported nothing is begun, and Ctrl-C just ends it."""
    usual = signal.getsignal(signal.SIGINT)
    ours = usual is signal.default_int_handler  # else somebody ignores it
    if ours:
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    from bench.cli.main import main as command

    if ours:
        signal.signal(signal.SIGINT, usual)
    command()


if __name__ == "__main__":
    main()
