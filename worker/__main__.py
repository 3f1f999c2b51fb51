"""Entry point of `python -m worker [gpu|courier|janitor]`: run one role until SIGTERM."""

from worker.main import main

if __name__ == "__main__":
    raise SystemExit(main())
