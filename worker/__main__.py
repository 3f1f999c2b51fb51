"""`python -m worker [gpu|courier|janitor]`: one role, until SIGTERM."""

from worker.main import main

if __name__ == "__main__":
    raise SystemExit(main())
