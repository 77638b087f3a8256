"""LLM Foundry's own data modules over mixstream: import this before `llmfoundry`.

`mixstream.compat.install()` makes its `import streaming` resolve to mixstream. Nothing of its data is changed. Its
models, which want another version of transformers, are stand-ins, and packages that import everything are left empty.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from stand_in import stand_in

import mixstream.compat

mixstream.compat.install()

_spec = importlib.util.find_spec("llmfoundry")
assert _spec is not None
assert _spec.origin is not None
_root = Path(_spec.origin).parent
for _name in ("llmfoundry", "llmfoundry.callbacks", "llmfoundry.utils"):
    _module = ModuleType(_name)
    _module.__path__ = [str(_root.joinpath(*_name.split(".")[1:]))]
    sys.modules[_name] = _module
stand_in("llmfoundry", "models", "models.utils", "models.hf")
