"""Options that commands share."""

import mixstream as ms
from mixstream_tools.shared.options import Reading


def test_each_domain_has_its_own_cache_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("web", "code"):
        with ms.MDSWriter(out=str(tmp_path / name), columns={"text": "str"}) as writer:
            writer.write({"text": name})
    for name in ("web", "code"):
        rows = Reading(local="cache").open(f"file://{tmp_path}/{name}", name=name)
        assert rows.domain.files.home == tmp_path / "cache" / name
        assert [block.values for block in rows.blocks(column="text")] == [[name]]
