"""The command line `printworks`: make pictures and look after jobs from a shell or a script.

stdout is for results (file names, or JSON), stderr for progress and errors. Exit codes:

    0 done    1 the job failed, expired or was canceled    2 the request or the usage is wrong
    3 no answer from the service    4 not done within --timeout    5 the key may not do that
    6 there is no such job    7 the service takes no jobs now    8 the service's own fault
    130 interrupted (the job is canceled)
"""

from printworks.cli.main import main

__all__ = ["main"]
