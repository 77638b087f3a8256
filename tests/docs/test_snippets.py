"""README.md and docs/: every code block runs, every link leads somewhere, every name that is mentioned exists.

A page's `python` and `sh` blocks run from top to bottom in a directory of their own, which holds a small corpus of real
text (`write_sources`). The pages in docs/ also find there what the README's own `mixstream convert` line wrote. s3://
URLs mean the S3 server of these tests. Blocks of other languages are not code. A block that cannot run here has the
line `<!-- not run: reason -->` above it, and stands in NOT_RUN.
"""

import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from mixstream_tools.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
RUN, NOT_CODE = ("python", "sh"), ("text", "json", "toml")
NOT_RUN = {
    "README.md": ["pip install -c constraints.txt '.[tokenizers,report]'"],
    "docs/shards.md": [
        "array=$(sbatch --parsable --array=0-63 --cpus-per-task=8 --wrap \\",
        "import subprocess",
        "import numpy as np",
    ],
    "docs/develop.md": ["make test"],
    "docs/prune.md": ["mixstream demo selection"],
    "docs/trainers.md": [
        "from trl import SFTConfig, SFTTrainer",
        "import mixstream as ms",
        "import mixstream as ms",
        "import mixstream.compat",
        "from torch.distributed.device_mesh import init_device_mesh",
    ],
}
"""Page → the first line of each block that is not run, in order."""
README_LINES = 120

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXEMPT = re.compile(r"<!-- not run: \S.* -->\n\Z")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
NAME = re.compile(r"\b(?:ms|mixstream)((?:\.[A-Za-z_]+)+)")
COMMAND = re.compile(r"`mixstream ([a-z]+)")


class Block(NamedTuple):
    page: str
    line: int
    language: str
    code: str
    runs: bool


def blocks(page: str, text: str) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        runs = found[1] in RUN and not EXEMPT.search(text[: found.start()])
        yield Block(page, text.count("\n", 0, found.start()) + 2, found[1], found[2], runs)


def read(page: str) -> str:
    return (ROOT / page).read_text()


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- the corpus of the snippets -----------------------------------------------------------------------------------


def write_sources(here: Path) -> None:
    """Write what a reader would bring: text, JSONL, Parquet, lines that say their domain, chats, a tokenizer.json."""
    web, code, mail = (list(documents(package))[:160] for package in ("asyncio", "json", "email"))
    for directory in ("crawl", "src", "pile"):
        (here / directory).mkdir()
    (here / "crawl/pages.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in web))
    (here / "crawl/licence.txt").write_text((ROOT / "LICENSE").read_text())
    for at, text in enumerate(code + mail[:60]):
        (here / f"src/{at}.py").write_text(text)
    with (here / "pile/part-0.jsonl").open("w") as lines:
        for at, text in enumerate(mail):
            lines.write(json.dumps({"text": text, "meta": {"pile_set_name": ("Wiki", "GitHub")[at % 2]}}) + "\n")
    write_tables(here / "data", {"web": web, "code": code})
    write_chats(here / "chats.jsonl", web[:24])
    write_tokenizer(here / "tokenizer.json")
    shutil.copytree(ROOT / "tests/data/megatron", here / "megatron")
    (here / "examples").symlink_to(ROOT / "examples")


def write_tables(here: Path, domains: Mapping[str, list[str]]) -> None:
    """Write two Parquet files for each domain, with columns as a crawl has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for domain, texts in domains.items():
        (here / domain).mkdir(parents=True)
        for file in range(2):
            rows = [
                {
                    "id": f"{domain}-{at:04}",
                    "url": f"https://example.org/{domain}/{at}",
                    "title": text.splitlines()[0][:40] if at % 3 else None,
                    "text": text,
                    "language": ("en", "de")[at % 4 == 3],
                    "score": at % 7 / 7,
                }
                for at, text in enumerate(texts)
                if at % 2 == file
            ]
            pq.write_table(pa.Table.from_pylist(rows), here / domain / f"part-{file}.parquet")


def write_chats(path: Path, texts: list[str]) -> None:
    """Write chats of two turns."""
    with path.open("w") as lines:
        for text in texts:
            turns = [("user", "What does this do?\n" + text[:200]), ("assistant", text[200:600])]
            lines.write(json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]}) + "\n")


def documents(package: str) -> Iterator[str]:
    """Python's own sources of `package`, in documents of about 2,000 characters."""
    for path in sorted((Path(sysconfig.get_path("stdlib")) / package).glob("*.py")):
        text = path.read_text()
        yield from (text[at : at + 2000] for at in range(0, len(text), 2000))


def write_tokenizer(path: Path) -> None:
    """Write a byte-level tokenizer.json without merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer.save(str(path))


def readme_convert() -> Block:
    """The README's block that converts a corpus: the pages in docs/ begin where it ends."""
    (found,) = [block for block in blocks("README.md", read("README.md")) if "mixstream convert" in block.code]
    return found


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, warm_programs: Path) -> Path:
    """Return a directory in which the README's block has converted the corpus; pages work on copies of it."""
    here = tmp_path_factory.mktemp("converted")
    write_sources(here)
    run_blocks([readme_convert()], here, warm_programs)
    return here


def run_blocks(todo: list[Block], here: Path, programs: Path) -> None:
    """Run blocks in `here`, by the `warm_programs`; fails with what they printed if one of them does."""
    (here / "blocks.json").write_text(json.dumps([block[:4] for block in todo]))
    done = subprocess.run(
        [programs / "python", "-W", "error", str(Path(__file__).with_name("page_runner.py")), "blocks.json"],
        cwd=here,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "TMPDIR": str(here),  # where caches lie by default
            "HOME": str(here),
            "XDG_CACHE_HOME": str(here / ".cache"),
            "OMP_NUM_THREADS": "1",
            "PYTHON_SPAWN": str(programs / "python"),  # a dozen commands have worker processes
            "COLUMNS": "120",
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}", pytrace=False)


# --- tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page, read(page)))])
def test_the_blocks_of_a_page_run(
    page: str, tmp_path: Path, warm_programs: Path, request: pytest.FixtureRequest
) -> None:
    todo = [block for block in blocks(page, read(page)) if block.runs]
    if any("s3://" in block.code for block in todo):
        make_bucket(request.getfixturevalue("s3"), "corpora")
    if page == "README.md":
        write_sources(tmp_path)
    else:
        converted = request.getfixturevalue("converted")
        shutil.copytree(converted, tmp_path, symlinks=True, dirs_exist_ok=True)
    run_blocks(todo, tmp_path, warm_programs)


def make_bucket(s3, name: str) -> None:
    """Make the bucket that the pages write to, if it is not there; `s3` also set the environment."""
    from servers import sign  # pyright: ignore[reportMissingImports] - tests/conftest.py sets the path

    url = f"{s3.endpoint}/{name}"
    request = urllib.request.Request(url, method="PUT", headers=sign("PUT", url, {}))
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there
            raise


@pytest.mark.parametrize(
    ("language", "code", "says"),
    [
        ("python", "x = 1\nraise KeyError('gone')", 'page.md", line 8'),
        ("python", "import warnings; warnings.warn('old')", "UserWarning: old"),
        ("sh", "false\necho after", "page.md, line 7"),
        ("sh", "mixstream convert nowhere/ --out x/", "nowhere"),
    ],
)
def test_a_block_that_fails_is_noticed(
    language: str, code: str, says: str, tmp_path: Path, warm_programs: Path
) -> None:
    good = Block("page.md", 1, "python", "y = 2\n", True)
    with pytest.raises(pytest.fail.Exception, match=re.escape(says)):
        run_blocks([good, Block("page.md", 7, language, code, True)], tmp_path, warm_programs)


def test_blocks_that_are_not_run_are_few_and_known() -> None:
    found = {
        page: first
        for page in PAGES
        if (
            first := [
                block.code.splitlines()[0].split("  #")[0].strip()
                for block in blocks(page, read(page))
                if block.language in RUN and not block.runs
            ]
        )
    }
    assert found == NOT_RUN


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_known_language(page: str) -> None:
    text = read(page)
    assert not [block for block in blocks(page, text) if block.language not in (*RUN, *NOT_CODE)]
    assert len(re.findall(r"^\s*(```|~~~)", text, re.MULTILINE)) == 2 * len(FENCE.findall(text)), "an odd fence"
    assert len(re.findall("^<!-- not run", text, re.MULTILINE)) == len(NOT_RUN.get(page, []))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = FENCE.sub("", read(page))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), f"{page}: {target} is not there"
        if anchor:
            assert anchor in anchors(path.read_text()), f"{page}: {target} is no heading there"


@pytest.mark.parametrize("page", PAGES)
def test_names_and_commands_exist(page: str) -> None:
    text = read(page)
    for dotted in set(NAME.findall(text)):
        names = [name for name in dotted.split(".") if name]
        if names[-1] in {"md", "pt", "pth"} or is_adapter(names):
            continue
        try:
            pkgutil.resolve_name(".".join(["mixstream", *names]))  # imports packages that nothing has imported yet
        except (AttributeError, ImportError):
            pytest.fail(f"{page}: there is no mixstream{dotted}")
    assert set(COMMAND.findall(text)) <= {name.partition(" ")[0] for name in COMMANDS}


def is_adapter(names: list[str]) -> bool:
    """Whether they name an adapter, or a name that it defines; its trainer may not be installed here."""
    file = ROOT.joinpath("mixstream", *names[:2]).with_suffix(".py")
    if names[0] != "integrations" or not file.is_file():
        return names == ["integrations"]
    return all(re.search(rf"^(class|def) {name}\b", file.read_text(), re.MULTILINE) for name in names[2:])


def test_the_page_on_sources_lists_the_options_of_convert(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["convert", "--help"]) == 0
    shown = capsys.readouterr().out.partition("Parameters")[2]
    listed = "".join(line for line in read("docs/sources.md").splitlines(keepends=True) if line.startswith("| `--"))
    assert set(re.findall(r"`(--[a-z-]+)", listed)) == set(re.findall(r"(?<![\w-])--[a-z-]+(?= )", shown)) - {"--json"}


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(LINK.findall(read("README.md")))
    assert {page for page in PAGES if page != "README.md"} <= linked


def test_the_readme_is_short() -> None:
    lines = read("README.md").count("\n")
    assert lines <= README_LINES, f"{lines} lines: move what a newcomer does not need to docs/"


def test_the_picture_is_small() -> None:
    pictures = list((ROOT / "docs").glob("*.png"))
    assert pictures
    assert all(path.stat().st_size < 200_000 for path in pictures)
