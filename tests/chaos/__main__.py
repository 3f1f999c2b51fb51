"""`python -m tests.chaos --minutes 2 --seed 1`. Exit code 1: a promise was broken."""

from tests.chaos.monkey import main

if __name__ == "__main__":
    raise SystemExit(main())
