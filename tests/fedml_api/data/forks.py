"""Doing something in forks of this process."""

import json
import os
import traceback

import pytest

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="worker processes are forked")


def in_forks(count, function):
    """What `function` returns (plain data) in each of `count` forks, which are all at work at once."""
    lines = []
    for _ in range(count):
        mine, theirs = os.pipe()
        if (pid := os.fork()) == 0:
            try:
                os.write(theirs, json.dumps(function()).encode())
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(theirs)
        lines.append((pid, mine))
    found = []
    for pid, line in lines:
        with os.fdopen(line, "rb") as file:
            found.append(file.read())
        os.waitpid(pid, 0)
    return [json.loads(text) for text in found]
