"""The command ``busframe``. Each command is one file and imports what it needs when it runs, so that help is fast."""

__all__ = ["main"]


def main() -> None:
    """Run the command line; ends the process with an exit code.

    0 done, 1 failed or forced, 2 usage or configuration, 3 differences found, 4 broker not reached.
    """
    from busframe.cli.commands import busframe

    busframe(prog_name="busframe")
