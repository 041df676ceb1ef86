"""``python -m tritonrepo``."""

from tritonrepo.cli import main

if __name__ == "__main__":
    main()
