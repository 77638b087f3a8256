"""`install()`: the names, the refusals, and every process that a program starts."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from alias_state import installed

import mixstream as ms
import mixstream.compat
from mixstream.compat.names import ABSENT, MODULES
from mixstream.errors import ConfigError

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def alias():
    with installed():
        yield


def run(*arguments: str, cwd: Path, paths: tuple[Path, ...] = ()) -> str:
    """Run Python on some arguments, with `paths` before the packages that are installed; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "MIXSTREAM_COMPAT_ORDER"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (*paths, REPOSITORY)))
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Return a directory with a package `streaming` that is not ours, as one that is installed."""
    package = tmp_path / "site" / "streaming"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = 'real'\n")
    return package.parent


@pytest.mark.parametrize("module", MODULES)
def test_every_name_of_the_table_is_there(alias, module):
    found = importlib.import_module(module)
    assert {name: hasattr(found, name) for name in MODULES[module]} == dict.fromkeys(MODULES[module], True)
    assert set(MODULES[module]) <= {*dir(found)} & {*found.__all__}


def test_what_llm_foundry_and_ordinary_programs_import(alias):
    from streaming import MDSWriter, Stream, StreamingDataset
    from streaming.base import StreamingDataset as Deep
    from streaming.base.dataset import StreamingDataset as Deepest
    from streaming.base.format.mds.encodings import Encoding, mds_encode
    from streaming.base.stream import Stream as DeepStream
    from streaming.base.stream import streams_registry
    from streaming.base.util import clean_stale_shared_memory, merge_index

    assert StreamingDataset is Deep is Deepest
    assert (MDSWriter, Stream, DeepStream) == (ms.MDSWriter, ms.Stream, ms.Stream)
    assert merge_index is ms.merge_index
    assert streams_registry is ms.streams_registry
    assert streams_registry.namespace == ("streaming", "streams_registry")
    assert streams_registry.get("stream") is Stream
    assert mds_encode("str", "red") == b"red"
    assert Encoding.__module__ == "mixstream.compat.encodings"  # so that a pickle names a module that is always there
    assert clean_stale_shared_memory() is None


def test_modules_are_attributes_of_their_parents(alias):
    import streaming

    assert streaming.base.util.get_list_arg("a,b") == ["a", "b"]
    assert streaming.__version__ == "0.13.0"


@pytest.mark.parametrize(
    ("module", "name", "reason"),
    [
        ("streaming.base.shared", "SharedArray", "no shared memory"),
        ("streaming.base.converters", "dataframe_to_mds", "mixstream convert"),
        ("streaming.simulation", "x", r"docs/mosaic\.md"),
    ],
)
def test_what_is_absent_says_why(alias, module, name, reason):
    with pytest.raises(ImportError, match=reason):
        getattr(importlib.import_module(module), name)


def test_no_absent_name_is_in_the_table():
    names = {f"{module}.{name}" for module, found in MODULES.items() for name in found}
    assert not ABSENT.keys() & (names | MODULES.keys())


def test_an_unknown_name_is_an_attribute_error(alias):
    import streaming

    with pytest.raises(AttributeError, match=r"'shuffler'.*docs/mosaic\.md"):
        _ = streaming.shuffler


def test_install_may_be_called_again(alias):
    before = [*sys.meta_path], [*sys.path]
    mixstream.compat.install()
    assert ([*sys.meta_path], [*sys.path]) == before


def test_an_unknown_order_is_refused():
    with pytest.raises(ConfigError, match="order='random' is not known; choose one of mosaic, mixstream"):
        mixstream.compat.install(order="random")


def test_the_real_package_is_refused_once_it_was_imported(tmp_path, real):
    program = tmp_path / "program.py"
    program.write_text(
        "import streaming, mixstream.compat\n"
        "try:\n    mixstream.compat.install()\n"
        "except ValueError as error:\n    print(error)\n"
    )
    printed = run(str(program), cwd=tmp_path, paths=(real,))
    assert "was imported before" in printed
    assert "before the first `import streaming`" in printed


def test_the_real_package_is_not_imported_where_it_is_installed(tmp_path, real):
    program = tmp_path / "program.py"
    program.write_text(
        "import mixstream.compat\nmixstream.compat.install()\nimport streaming\nprint(streaming.__version__)"
    )
    assert run(str(program), cwd=tmp_path, paths=(real,)) == "0.13.0\n"


PROGRAM = """
import os, subprocess, sys
import streaming
from mixstream.compat.alias import default_order
print(streaming.__version__, default_order(), __name__, *sys.argv[1:], flush=True)
if sys.argv[1:]:
    subprocess.run([sys.executable, __file__], check=True)
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_a_program_that_cannot_be_edited(tmp_path, real, as_module):
    (tmp_path / "program.py").write_text(PROGRAM)
    program = ["-m", "program"] if as_module else ["program.py"]
    options = ["-m", "mixstream.compat", "--order", "mixstream", *program, "--lr", "-1"]
    printed = run(*options, cwd=tmp_path, paths=(real,)).splitlines()
    assert printed == ["0.13.0 mixstream __main__ --lr -1", "0.13.0 mixstream __main__"]  # the second is its child's


def test_the_directory_for_launchers(tmp_path, real):
    (tmp_path / "program.py").write_text(PROGRAM)
    directory = Path(run("-m", "mixstream.compat", "--path", cwd=tmp_path).strip())
    assert run("program.py", cwd=tmp_path, paths=(directory, real)) == "0.13.0 mosaic __main__\n"


SPAWNING = """
import multiprocessing
import mixstream.compat

def default_order(_):
    import streaming.base.util
    from mixstream.compat.alias import default_order
    return f"{streaming.base.util.__name__} {default_order()}"

if __name__ == "__main__":
    mixstream.compat.install(order="mixstream")
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(*pool.map(default_order, [0]))
"""


def test_processes_of_multiprocessing_have_the_alias(tmp_path, real):
    (tmp_path / "program.py").write_text(SPAWNING)
    printed = run("-W", "ignore", "program.py", cwd=tmp_path, paths=(real,)).splitlines()
    assert printed == ["streaming.base.util mixstream"] * 2
