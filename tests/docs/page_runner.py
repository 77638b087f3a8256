"""Run the code blocks of one page from top to bottom, as a reader would: `python page_runner.py blocks.json`.

Rules: this is a program, started by `test_snippets.py` in an empty directory. Python blocks share one namespace; shell
blocks run in bash, which stops at the first command that fails. A traceback names the page and the line in it. A
warning is an error, unless Lightning or torch warn of themselves. The status is that of the first block that fails.
"""

import json
import linecache
import subprocess
import sys
import traceback
import warnings
from pathlib import Path


def run_python(page: str, line: int, code: str, names: dict[str, object]) -> bool:
    """Run a block whose first line is line `line` of `page`; returns whether it raised nothing."""
    code = "\n" * (line - 1) + code
    linecache.cache[page] = (len(code), None, code.splitlines(keepends=True), page)  # tracebacks show the line
    try:
        exec(compile(code, page, "exec"), names)
    except Exception:
        traceback.print_exc()
        return False
    return True


def run_shell(page: str, line: int, code: str) -> bool:
    """Run a block in bash; returns whether every command in it succeeded."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.stderr.write(f"{page}, line {line}: exit status {done.returncode} of the shell block\n{code}\n")
    return not done.returncode


def main() -> int:
    """Run the blocks of the file that the command line names."""
    warnings.filterwarnings("ignore", module=r"(lightning|torch)\.")
    names: dict[str, object] = {"__name__": "__main__"}
    for page, line, language, code in json.loads(Path(sys.argv[1]).read_text()):
        good = run_python(page, line, code, names) if language == "python" else run_shell(page, line, code)
        if not good:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
