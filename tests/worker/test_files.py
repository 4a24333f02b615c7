"""File descriptors: as many as connections need, or a word about it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("limits", "connections", "after", "warned"),
    [
        ((100, 5000), 1000, 2256, False),
        ((100, 1000), 1000, 1000, True),
        ((3000, 5000), 1000, 3000, False),
    ],
    ids=["raised", "hard_limit", "enough"],
)
def test_the_soft_limit_is_raised_as_far_as_it_may(limits, connections, after, warned):
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, {limits})
from gwproxy.worker.files import raise_file_limit
raise_file_limit({connections})
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert int(done.stdout) == after
    assert ("files_limited limit=1000 needed=2256 connections=1000" in done.stderr) == warned
