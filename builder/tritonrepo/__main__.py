"""``python -m tritonrepo``, and the console script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command; those that other programs run all the time do not wait for the others' start."""
    from tritonrepo.check import command

    name, *arguments = sys.argv[1:] or [""]
    if name in command.COMMANDS:
        sys.exit(command.run(name, arguments))
    from tritonrepo import cli

    cli.main()


if __name__ == "__main__":
    main()
