"""The examples in the docstrings of `mixstream` run as tests, and every central type has one."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "mixstream").rglob("*.py")
    if ">>> " in path.read_text()
)
CENTRAL = [
    "data.batch:Batch.split",
    "feedback.log:MixingLog",
    "formats.container:OffsetTable",
    "formats.mds.container:MDS",
    "plan.addressing:Addressing",
    "plan.forecast:Forecast",
    "plan.dealing:deal_rows",
    "plan.kernels:deal_rows_reference",
    "plan.plan:Plan",
    "plan.run_plan:RunPlan",
    "plan.shuffle:Order",
    "plan.state:save_state",
    "plan.walk:Walk",
    "plan.weights:quantise",
    "selection.merge:merge_scores",
    "selection.scores_writer:ScoresWriter",
    "selection.selection_writer:write_selection",
    "selection.shard_table:ShardTable",
    "storage.store:Store.read",
    "types:Feedback.loss_K",
    "world:World.replicated",
    "writer:MDSWriter",
]
PENDING: set[str] = set()
"""Central types without an example so far; one that gets its example is taken off this list."""


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples may write files
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, attempted = doctest.testmod(import_module(module), optionflags=flags)
    assert attempted
    assert not failed


@pytest.mark.parametrize("name", CENTRAL)
def test_central_types_have_an_example(name: str, request: pytest.FixtureRequest) -> None:
    if name in PENDING:
        request.applymarker(pytest.mark.xfail(strict=True, raises=(AssertionError, AttributeError)))
    module, _, path = name.partition(":")
    found = import_module(f"mixstream.{module}")
    for part in path.split("."):
        found = getattr(found, part)
    assert ">>> " in (found.__doc__ or "")
