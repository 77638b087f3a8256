"""Make `tests/data/mosaic/`: what MDSWriter of mosaicml-streaming 0.13 writes for `cases.py`. Run once, by hand.

    PYTHONPATH=tests/mosaic/stubs .venv-mosaic/bin/python tests/mosaic/make_fixtures.py

`versions.json` beside the datasets says which libraries compressed them: where a test's library is of another version,
its compressed bytes may rightly differ, and only what comes out is compared.
"""

import json
import shutil
from pathlib import Path

from cases import CASES, codec_versions

OUT = Path(__file__).parents[1] / "data" / "mosaic"


def main() -> None:
    """Replace the whole folder."""
    import streaming
    import zstd

    shutil.rmtree(OUT, ignore_errors=True)
    for name, case in CASES.items():
        with streaming.MDSWriter(columns=case.columns, out=str(OUT / name), **case.options) as writer:
            for sample in case.samples():
                writer.write(sample)
    versions = {"mosaicml-streaming": streaming.__version__, **codec_versions(zstd.ZSTD_version())}
    (OUT / "versions.json").write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
