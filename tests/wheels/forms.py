"""The ways in which a module can ask for something of its own package, or of another."""

from __future__ import annotations

from importlib.metadata import version as installed_version

AS_FILE = """
from importlib import resources as r
def get():
    with r.as_file(r.files('tenant') / 'data/a.txt') as path:
        return path.read_text()
"""
TOO_FAR_UP = """
try:
    from .. import helpers
except ImportError as error:
    told = str(error)
"""
MISSING = """
try:
    import tenant.gone
except ModuleNotFoundError as error:
    told = str(error), error.name
"""

#: What the module says, what it shall see then: all of it as if it were installed.
FORMS = {
    "import": ("import tenant.rules", "tenant.rules.LIMIT", 7),
    "import-as": ("import tenant.rules as r", "r.LIMIT", 7),
    "import-deep": ("import tenant.deep.er", "tenant.deep.er.DEPTH", 2),
    "from": ("from tenant.rules import LIMIT", "LIMIT", 7),
    "from-package": ("from tenant import rules", "rules.LIMIT", 7),
    "star": ("from tenant.rules import *", "LIMIT", 7),
    "relative": ("from .rules import LIMIT", "LIMIT", 7),
    "relative-package": ("from . import rules", "rules.LIMIT", 7),
    "relative-up": ("from .deep.er import UP", "UP", 7),
    "in-a-function": ("", "(lambda: __import__('tenant.rules').rules.LIMIT)()", 7),
    "other-top": ("import helpers", "helpers.ANSWER", 42),
    "folder": ("from tenant.data import more", "more.MORE", 1),
    "import-module": ("import importlib", "importlib.import_module(__name__ + '.rules').LIMIT", 7),
    "import-module-own-name": ("import importlib", "importlib.import_module('tenant.rules').LIMIT", 7),
    "import-module-from": ("from importlib import import_module", "import_module('.rules', 'tenant').LIMIT", 7),
    "resources": ("from importlib.resources import files", "files('tenant').joinpath('data/a.txt').read_text()", "text\n"),
    "resources-package": (
        "import importlib.resources",
        "(importlib.resources.files(__package__) / 'data' / 'a.txt').read_bytes()",
        b"text\n",
    ),
    "resources-folder": (
        "from importlib import resources",
        "sorted(p.name for p in resources.files('tenant.data').iterdir())",
        ["a.txt", "more.py"],
    ),
    "resources-module": ("import tenant\nfrom importlib import resources as r", "r.files(tenant).joinpath('data').is_dir()", True),
    "resources-file": (AS_FILE, "get()", "text\n"),
    "resources-old": ("from importlib import resources as r", "r.read_text('tenant.data', 'a.txt')", "text\n"),
    "pkgutil": ("import pkgutil", "pkgutil.get_data('tenant', 'data/a.txt')", b"text\n"),
    "pkgutil-walk": ("import pkgutil", "sorted(m.name for m in pkgutil.iter_modules(__path__))", ["deep", "rules"]),
    "find-spec": ("import importlib.util", "importlib.util.find_spec('tenant.nothing')", None),
    "version": (
        "from importlib.metadata import version",
        "version('GWProxy.Tenant'), version('pluggy')",
        ("1.0", installed_version("pluggy")),
    ),
    "distribution": ("from importlib import metadata", "metadata.distribution('gwproxy-tenant').metadata['Name']", "gwproxy-tenant"),
    "installed": ("import yaml, json, os.path", "json.dumps(yaml.safe_load('[1]')), os.path.basename('a/b')", ("[1]", "b")),
    "same-module-object": ("import yaml, sys", "yaml is sys.modules['yaml']", True),
    "missing": (MISSING, "told", ("No module named 'tenant.gone'", "tenant.gone")),
    "missing-elsewhere": ("try:\n    import no_such\nexcept ImportError as e:\n    told = e.name", "told", "no_such"),
    "too-far-up": (TOO_FAR_UP, "told", "attempted relative import beyond top-level package"),
    "exec": ("space = {}\nexec('import tenant.rules as r', space)", "space['r'].LIMIT", 7),
    "file": ("", "__file__.endswith('.whl/tenant/__init__.py') and __package__ == __name__", True),
}
