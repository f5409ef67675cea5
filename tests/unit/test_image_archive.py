import hashlib
import io
import json
import os
import tarfile

from sandgate.sandbox.image.archive import configuration, image_archive, pack, pack_exported


def tree(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "tmp").mkdir()
    (root / "link").symlink_to("b/file")
    return root


def members(path):
    with tarfile.open(path) as tar:
        return {entry.name: entry for entry in tar}


def test_the_same_files_give_the_same_bytes_whatever_their_times_modes_and_order(tmp_path):
    names = ["b/file", "a", "c/d/e"]
    one, two = tree(tmp_path / "one", names), tree(tmp_path / "two", reversed(names))
    os.utime(two / "a", (1, 1))
    (two / "a").chmod(0o600)
    (two / "b").chmod(0o700)
    first, second = pack(one, tmp_path / "one.tar"), pack(two, tmp_path / "two.tar")
    assert first.diff_id == second.diff_id
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.diff_id == f"sha256:{hashlib.sha256(first.path.read_bytes()).hexdigest()}"


def test_owners_modes_and_times_are_settled(tmp_path):
    root = tree(tmp_path / "root", ["program", "text"])
    (root / "program").chmod(0o4711)
    (root / "text").chmod(0o666)
    os.chown(root / "text", 1234, 1234)
    entries = members(pack(root, tmp_path / "layer.tar").path)
    assert {name: entry.mode for name, entry in entries.items()} == {
        "link": 0o755, "program": 0o755, "text": 0o644, "tmp": 0o1777,
    }  # fmt: skip
    assert {(entry.uid, entry.gid, entry.uname, entry.gname, entry.mtime) for entry in entries.values()} == {
        (0, 0, "", "", 0)
    }


def test_a_link_stays_a_link(tmp_path):
    entry = members(pack(tree(tmp_path / "root", ["b/file"]), tmp_path / "layer.tar").path)["link"]
    assert entry.issym()
    assert entry.linkname == "b/file"


def test_the_archive_names_the_configuration_by_its_digest_and_holds_the_layers_in_order(tmp_path):
    layers = [pack(tree(tmp_path / name, [name]), tmp_path / f"{name}.tar") for name in ("base", "code")]
    config = configuration(layers, {"sandgate.profile": "core"}, "amd64")
    archive = b"".join(image_archive(layers, config, "sandgate/core:1"))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        held = {entry.name: tar.extractfile(entry).read() for entry in tar}
    (manifest,) = json.loads(held["manifest.json"])
    assert manifest["RepoTags"] == ["sandgate/core:1"]
    assert manifest["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"
    assert held[manifest["Config"]] == config
    assert [held[name] for name in manifest["Layers"]] == [layer.path.read_bytes() for layer in layers]
    assert json.loads(config)["rootfs"]["diff_ids"] == [layer.diff_id for layer in layers]


def test_the_configuration_is_the_sealed_user_and_nothing_of_this_machine(tmp_path):
    config = json.loads(configuration([pack(tree(tmp_path / "a", ["a"]), tmp_path / "a.tar")], {"k": "v"}, "amd64"))[
        "config"
    ]
    assert config == {
        "User": "10001:10001", "Env": ["PATH=/usr/bin"], "Entrypoint": None, "Cmd": None, "WorkingDir": "/",
        "Labels": {"k": "v"},
    }  # fmt: skip


def exported(path, time):
    """A tar such as an engine exports: what it adds, a device, and files that carry rights."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, mode in [
            (".dockerenv", tarfile.REGTYPE, 0o755), ("dev", tarfile.DIRTYPE, 0o755), ("bin", tarfile.DIRTYPE, 0o2777),
            ("bin/su", tarfile.REGTYPE, 0o6755), ("bin/pipe", tarfile.FIFOTYPE, 0o644), ("bin/sh", tarfile.SYMTYPE, 0),
            ("bin/same", tarfile.LNKTYPE, 0o6755),
        ]:  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime, entry.uid, entry.uname = kind, mode, time, 5, "games"
            entry.linkname = "su" if kind == tarfile.SYMTYPE else "bin/su" if kind == tarfile.LNKTYPE else ""
            entry.size = 2 if name == "bin/su" else 0
            entry.pax_headers = {"SCHILY.xattr.security.capability": "all"}
            tar.addfile(entry, io.BytesIO(b"su"))
    return path


def test_an_exported_image_loses_its_rights_and_its_times(tmp_path):
    layer = pack_exported(exported(tmp_path / "one", 1), tmp_path / "layer")
    assert layer.diff_id == pack_exported(exported(tmp_path / "two", 2), tmp_path / "again").diff_id
    found = members(layer.path)
    assert {name: entry.mode for name, entry in found.items() if not entry.issym()} == dict.fromkeys(
        ["bin", "bin/su", "bin/same"], 0o755
    )
    assert (found["bin/sh"].linkname, found["bin/same"].linkname) == ("su", "bin/su")
    assert {(entry.uid, entry.uname, entry.mtime, *entry.pax_headers) for entry in found.values()} == {(0, "", 0)}
    with tarfile.open(layer.path) as tar:
        assert tar.extractfile("bin/su").read() == b"su"
