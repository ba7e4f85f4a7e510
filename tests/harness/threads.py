"""Run a function in several threads at once, with many switches between them."""

import sys
import threading


def run_in_threads(function, arguments):
    """Call `function(argument)` in a thread for each argument; raise the first of their errors.

    All threads start together, and Python switches between them every 10 microseconds.
    """
    arguments, errors = list(arguments), []
    start = threading.Barrier(len(arguments))

    def run(argument):
        try:
            start.wait(10)
            function(argument)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(argument,)) for argument in arguments]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    if errors:
        raise errors[0]
