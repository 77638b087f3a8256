"""Packages that import their names on first use."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mixstream
from mixstream.lazy import Later, later


@pytest.mark.parametrize("package", ["mixstream", "mixstream.feedback", "mixstream.plan", "mixstream.selection"])
def test_every_name_is_there_and_no_other(package):
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize(
    ("names", "unneeded"),
    [
        ("mixstream.feedback import FILE, LoggedRun, from_json, read_log", "torch"),
        ("mixstream.feedback import FILE, LoggedRun, from_json, read_log", "numba"),
        ("mixstream.plan import WEIGHT_UNIT, RunState, apportion, parse_state", "torch"),
        ("mixstream.plan import WEIGHT_UNIT, RunState, apportion, parse_state", "numba"),
    ],
)
def test_reading_logs_and_states_imports_nothing_heavy(names, unneeded):
    code = f"import sys; from {names}; sys.exit({unneeded!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- what a plain run loads -----------------------------------------------------------------------------------------

PLAIN_RUN = """
import sys
import torch.utils.data
before = set(sys.modules)
import mixstream as ms
if {reads}:
    dataset = ms.StreamingDataset(streams=[ms.Stream(local={place!r}, name="web")], batch_size=4, shuffle=True)
    with ms.Loader(dataset) as loader:
        next(iter(loader))
else:
    ms.StreamingDataset, ms.Stream, ms.Loader
print(*sorted(set(sys.modules) - before))
"""
UNNEEDED = [
    "boto3",
    "cyclopts",
    "fractions",
    "mixstream.distributed.notes",
    "mixstream.documents",
    "mixstream.feedback.collector",
    "mixstream.feedback.loop",
    "mixstream.feedback.replay",
    "mixstream.formats.columns.container",
    "mixstream.formats.compression",
    "mixstream.formats.mixed",
    "mixstream.formats.tokens.container",
    "mixstream.formats.tokens.megatron",
    "mixstream.data.document_masks",
    "mixstream.data.downloader",
    "mixstream.data.packed",
    "mixstream.data.packed_rows",
    "mixstream.loader.describe",
    "mixstream.loader.document_setup",
    "mixstream.loader.megatron_order.mixing",
    "mixstream.loader.mosaic_order.order",
    "mixstream.loader.validation",
    "mixstream.mixers.ado",
    "mixstream.packing",
    "mixstream.plan.megatron.run_plan",
    "mixstream.plan.mosaic",
    "mixstream.plan.passing",
    "mixstream.selection.selection",
    "mixstream.storage.cache.contents",
    "mixstream.storage.destination",
    "mixstream.storage.made_index",
    "mixstream.storage.open",
    "mixstream.storage.stores.obstore",
    "mixstream.writer",
    "numba",
    "numpy.ma",
    "numpy.random",
    "obstore",
    "pyarrow",
    "rich",
    "zstandard",
]
MOST = 185
"""Modules beside torch's; there are 177. Of each, Python reads a file, which takes a tenth of a millisecond or more."""


@pytest.mark.parametrize("reads", [False, True], ids=["import", "first batch"])
def test_a_plain_run_loads_what_it_needs(library, reads):
    code = PLAIN_RUN.format(reads=reads, place=str(library / "web"))
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    loaded = done.stdout.split()
    assert "mixstream.loader.loader" in loaded
    assert not set(loaded) & set(UNNEEDED)
    assert len(loaded) <= MOST


# --- what is imported later -----------------------------------------------------------------------------------------


def all_later() -> list[tuple[str, str, Later]]:
    """Return (module, name there, what it stands for) of all that modules of mixstream import later."""
    root = Path(mixstream.__file__).parent
    files = [path for path in root.rglob("*.py") if "= later(" in path.read_text() and path.name != "lazy.py"]
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in files]
    modules = [importlib.import_module(name) for name in names]
    return [
        (module.__name__, name, value)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Later)
    ]


def test_what_is_imported_later_is_there_and_defined_there():
    found = all_later()
    assert len(found) > 50
    for module, name, each in found:
        real = getattr(importlib.import_module(each.module), each.name)
        assert real.__module__ == each.module, (module, name)  # else an object of it may be there, and `isinstance` not


def test_type_checkers_see_what_is_imported_later():
    homes = {(module, name): (each.module, each.name) for module, name, each in all_later()}
    for module in {module for module, _ in homes}:
        path = sys.modules[module].__file__
        assert path is not None
        [block] = [
            node
            for node in ast.parse(Path(path).read_text()).body
            if isinstance(node, ast.If) and node.orelse and "later" in ast.unparse(node.orelse[0])
        ]
        assert ast.unparse(block.test) == "TYPE_CHECKING"
        seen = {
            (module, alias.asname or alias.name): (statement.module, alias.name)
            for statement in block.body
            if isinstance(statement, ast.ImportFrom)
            for alias in statement.names
        }
        for key, home in homes.items():
            if key[0] == module:
                assert seen[key] == home


def test_nothing_is_an_instance_before_the_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / "late_module.py").write_text("class Late:\n    size = 3\n    def __init__(self, x): self.x = x\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "late_module", raising=False)
    (late,) = later("late_module", "Late")
    assert not isinstance(1, late)
    assert not isinstance(1, late | str)
    assert isinstance("a", str | late | int)
    assert "late_module" not in sys.modules
    assert (late.size, late(5).x) == (3, 5)
    assert isinstance(late(5), late)
    assert isinstance(late(5), bytes | (late | str))
    with pytest.raises(AttributeError, match="nothing"):
        _ = late.nothing
    sys.modules.pop("late_module", None)


MID_IMPORT = """
import os, sys, threading, time
import mixstream.storage
from mixstream.lazy import later
(late,) = later("slow_module", "Late")
thread = threading.Thread(target=lambda: late.size)
thread.start()
while "slow_module" not in sys.modules:
    time.sleep(0.001)
pid = os.fork()
if pid == 0:
    os._exit(late.size)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_function_is_called_when_all_of_its_module_is_there(tmp_path, monkeypatch):
    """It may name what stands further down, and another thread may still be importing the module."""
    (tmp_path / "half_there.py").write_text(
        "import threading\n\ndef first():\n    return second()\n\n"
        "threading.half_there.set()\nthreading.goes_on.wait(20)\n\ndef second():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    half_there, goes_on, found = threading.Event(), threading.Event(), []
    monkeypatch.setattr(threading, "half_there", half_there, raising=False)
    monkeypatch.setattr(threading, "goes_on", goes_on, raising=False)
    first = Later("half_there", "first")
    threads = [threading.Thread(target=lambda: found.append(first())) for _ in range(2)]
    threads[0].start()
    assert half_there.wait(20)
    threads[1].start()
    threads[1].join(0.2)
    assert not found
    goes_on.set()
    for thread in threads:
        thread.join(20)
    assert found == [1, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_in_mid_import_can_import_it(tmp_path):
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.3)\nclass Late:\n    size = 3\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MID_IMPORT],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        env=env,
    )
    assert done.stdout == "3\n", done.stderr
