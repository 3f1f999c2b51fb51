"""The command line `printworks`: generate images and manage jobs from a shell or a script.

stdout is for results (file names, or JSON), stderr for progress and errors. Exit codes:

    0 done    1 the job failed, expired or was canceled    2 the request or the usage is wrong
    3 no answer from the service    4 not done within --timeout    5 the API key is not allowed to
    6 there is no such job    7 the service accepts no jobs now    8 a fault of the service
    130 interrupted (the job is canceled)
"""

from printworks.cli.main import main

__all__ = ["main"]
