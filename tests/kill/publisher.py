"""Publish one generation after the other until killed: ``python -m kill.publisher REPOSITORY SIZE KEEP NAME ...``.

Flags: ``--two-renames`` behaves as on a file system that cannot exchange two names; ``--pause SECONDS`` waits between
generations. Prints ``ready`` once it is about to begin, and each generation that is published.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import time
from pathlib import Path

from kill.generations import generation_of, staged
from tritonrepo import _exchange
from tritonrepo.lock import repository_lock
from tritonrepo.publish import publish, recover


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("repository", type=Path)
    parser.add_argument("size", type=int)
    parser.add_argument("keep", type=int)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--two-renames", action="store_true")
    parser.add_argument("--pause", type=float, default=0)
    arguments = parser.parse_args()
    if arguments.two_renames:
        _exchange.exchange = cannot
    print("ready", flush=True)  # noqa: T201 - what the parent waits for
    for name in itertools.cycle(arguments.names):
        with repository_lock(arguments.repository, wait=False) as lock:
            recover(arguments.repository, lock)  # a model that was between two renames is there again
            last = generation_of(arguments.repository / name)
            generation = 0 if last is None else last + 1
            model = staged(name, generation, arguments.size)
            publish(model, arguments.repository, keep_versions=arguments.keep, lock=lock)
        print(generation, flush=True)  # noqa: T201
        time.sleep(arguments.pause)


def cannot(first: Path, second: Path) -> None:
    raise OSError(errno.EINVAL, "this file system cannot exchange two names")


if __name__ == "__main__":
    main()
