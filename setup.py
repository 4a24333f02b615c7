"""All that is fixed stands in setup.cfg. Here is what is not: ``GWPROXY_COMPILE=1`` compiles what every request passes.

The modules are the same, in Python and as they stand: mypyc makes C of them, from the types that are in them. Without the
variable nothing is compiled, and no compiler is needed.
"""

import os
from configparser import ConfigParser
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError, PlatformError

#: What a request passes, but for classes that are made from those of libraries (requests, pydantic, pluggy's hooks), for those that
#: are referred to weakly, which mypyc's classes cannot be, and for gwproxy.dataplane.frames.
COMPILED = """
    app context messages stream
    http/bodies http/forwarding http/headers http/hosts http/paths
    dataplane/answered dataplane/chain dataplane/compiled_route dataplane/concurrency dataplane/exchange dataplane/forward
    dataplane/gateway dataplane/histogram dataplane/ingress dataplane/measures dataplane/pool dataplane/precedence dataplane/retry
    dataplane/router dataplane/sender dataplane/step dataplane/target dataplane/upstream_request dataplane/upstream_response
    dataplane/upstreams dataplane/wire
    plugins/cors_grants plugins/jwt_bearer plugins/log_entry plugins/rate_limit_rule plugins/redaction plugins/request_changes
    store/commands store/counters store/log_buffer store/pipeline store/roundtrips store/shared
    worker/connection worker/environ worker/quick worker/reader worker/response worker/standing
"""
MISSING = "GWPROXY_COMPILE=1 needs a C compiler and Python's headers (Debian: gcc python3-dev), or unset it"


def wanted() -> bool:
    """Whether the environment asks for it; anything but 1 and nothing is refused."""
    value = os.environ.get("GWPROXY_COMPILE", "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"GWPROXY_COMPILE is 1 or 0, not {value!r}")
    return value == "1"


class Build(build_ext):
    """Compiles, and says what is missing if that cannot be done."""

    def build_extensions(self) -> None:
        """Build all, or fail: whoever asks for the fast form is not to get the other one unnoticed."""
        try:
            super().build_extensions()
        except (CompileError, LinkError, PlatformError) as error:
            raise SystemExit(f"{MISSING}: {error}") from None


def compiled() -> dict[str, Any]:
    """Return what ``setup`` needs to compile."""
    declared = ConfigParser()
    declared.read(Path(__file__).with_name("setup.cfg"))
    # mypy reads what the modules import: everything, and the stubs. An isolated build gets it from here.
    needed = declared["options"]["install_requires"].split() + declared["options.extras_require"]["compile"].split()
    try:
        from mypyc.build import mypycify
    except ImportError:  # the first of two runs of an isolated build, which asks for what is needed
        return {"setup_requires": needed}
    modules = [f"gwproxy/{name}.py" for name in COMPILED.split()]
    extensions = mypycify(modules, group_name="gwproxy", opt_level=os.environ.get("MYPYC_OPT_LEVEL", "3"), debug_level="0")
    for extension in extensions:
        # Python's own flags ask for warnings: gcc takes longer for this one than for all else, and nobody indents the C code.
        extension.extra_compile_args.append("-Wno-misleading-indentation")
    return {"ext_modules": extensions, "cmdclass": {"build_ext": Build}}


if __name__ == "__main__":
    setup(**(compiled() if wanted() else {}))
