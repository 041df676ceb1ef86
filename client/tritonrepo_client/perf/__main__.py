"""``python -m tritonrepo_client.perf``."""

from __future__ import annotations

import sys

from tritonrepo_client.perf.command import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], "python -m tritonrepo_client.perf"))
