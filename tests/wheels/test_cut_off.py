"""An import that computes holds the whole worker: the watchdog of the loop names it and ends it, as it does with hooks."""

from __future__ import annotations

import re

from tests.dataplane.test_blocked import said

LOAD = """
from gwproxy.errors import WheelRefused
from gwproxy.wheels.loading import load
from gwproxy.wheels.wheel import read
from tests.wheels.made import SOURCE, make_wheel

def loaded(first_line):
    files = {"gwproxy_tenant.py": "import inner\\n" + SOURCE.format(version=1), "inner.py": first_line}
    try:
        return load(read(make_wheel(files)), limit=0.5).plugins["tenant"].version
    except WheelRefused as refused:
        return refused.reason

start()
print(loaded("while True: pass"))
gevent.sleep(0.3)
print([name for name in sys.modules if name.startswith("_wheel_")])
print(loaded("import time; time.sleep(60)"))
print(loaded(""))
"""


def test_an_import_that_spins_is_named_and_cut_off_and_the_next_one_is_as_ever() -> None:
    out = said(LOAD)
    where = r"gwproxy-tenant-1\.0-[0-9a-f]{12}_1\.whl/inner\.py:1"
    assert re.search(rf"^worker_blocked plugin=tenant phase=import route=None seconds=[\d.]+ where={where}$", out, re.M)
    rest = [line for line in out.splitlines() if not line.startswith("worker_")]
    assert rest == [
        "gwproxy-tenant 1.0 was not imported after 0.5 s (inner.py:1)",
        "[]",
        "gwproxy-tenant 1.0 was not imported after 0.5 s (inner.py:1)",
        "1",
    ]
