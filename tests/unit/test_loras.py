"""Which adapter files a request may name."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from jobs.contract.loras import LoraFolder


def test_only_plainly_named_safetensors_of_the_folder_itself_are_listed(tmp_path: Path):
    folder = tmp_path / "loras"
    (folder / "deeper").mkdir(parents=True)
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    for name in ("ink.safetensors", "gold.bin", ".hidden.safetensors", "a b.safetensors", "x.pt"):
        (folder / name).write_bytes(b"1")
    (folder / "deeper" / "low.safetensors").write_bytes(b"1")
    (folder / "out.safetensors").symlink_to(tmp_path / "secret.safetensors")

    shelf = LoraFolder(folder)

    assert shelf.names() == ("ink",)
    for name in ("../secret", "out", "deeper/low", "gold", "", "."):
        assert shelf.find(name) is None


def test_a_file_is_known_by_its_digest_and_a_changed_one_by_another(tmp_path: Path):
    file = tmp_path / "ink.safetensors"
    file.write_bytes(b"one")
    shelf = LoraFolder(tmp_path)
    (first,) = shelf.files()

    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))  # another time of change, whatever the clock's resolution is
    (second,) = shelf.files()

    assert first.digest == hashlib.sha256(b"one").hexdigest()
    assert second.digest == hashlib.sha256(b"two").hexdigest()
    assert (first.size_bytes, first.name) == (3, "ink")


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path):
    assert LoraFolder(tmp_path / "none").names() == ()
