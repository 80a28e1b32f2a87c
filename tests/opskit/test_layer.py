"""Layers: built once for what determines them, whole, from hashed wheels alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opskit.failure import Failure
from opskit.layer import MARKER, build_layer, layer_key, this_platform, verify, without_credentials

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LOCKS = [ROOT / name / "requirements.txt" for name in ("chatservice", "opskit", "tests")]


class Registry:
    """A directory of wheels, which uv is told to take packages from, and nowhere else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lock = directory / "requirements.txt"
        self.wheels: dict[str, list[str]] = {}
        directory.mkdir()

    def add(
        self, name: str, *, tag: str = "py3-none-any", code: str = "", requires: str = ""
    ) -> Path:
        """Make a wheel (PEP 427) with one module and one console script, and lock it."""
        info = f"{name}-1.0.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        metadata += f"Requires-Dist: {requires}\n" if requires else ""
        pure = str(tag.endswith("any")).lower()
        files = {
            f"{name}/__init__.py": code or f"tag = {tag!r}\n",
            f"{info}/METADATA": metadata,
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n",
            f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
        }
        rows = [
            f"{path},sha256={_unpadded(hashlib.sha256(text.encode()).digest())},{len(text)}"
            for path, text in files.items()
        ]
        files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
        wheel = self.directory / f"{name}-1.0-{tag}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
        hashes = self.wheels.setdefault(name, [])
        hashes.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
        self.write_lock()
        return wheel

    def write_lock(self) -> None:
        self.lock.write_text(
            "".join(
                " \\\n    ".join([f"{name}==1.0", *(f"--hash=sha256:{each}" for each in hashes)])
                + "\n"
                for name, hashes in self.wheels.items()
            )
        )

    def close(self) -> None:
        """Take every wheel away: whoever asks for a package now gets none."""
        for wheel in self.directory.glob("*.whl"):
            wheel.unlink()


def _unpadded(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry(tmp_path / "registry")
    config = tmp_path / "uv.toml"
    config.write_text(f"no-index = true\nfind-links = [{json.dumps(str(registry.directory))}]\n")
    monkeypatch.setenv("UV_CONFIG_FILE", str(config))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    return registry


@pytest.fixture
def build(registry: Registry, tmp_path: Path) -> Callable[..., Path]:
    def build(
        key: str = "key", *, into: Path | None = None, python: str = PYTHON,
        platform: str | None = None,
    ) -> Path:  # fmt: skip
        layers = into or tmp_path / "layers"
        return build_layer(registry.lock, key, layers, python=python, platform=platform)

    return build


def tree(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


# --- names --------------------------------------------------------------------------------


def test_a_layers_name_follows_from_lock_file_python_and_platform() -> None:
    key = layer_key(b"lock", "3.11", "linux-x86_64")
    assert re.fullmatch("[0-9a-f]{20}", key)
    assert layer_key(b"lock", "3.11", "linux-x86_64") == key
    others = {
        layer_key(b"lock2", "3.11", "linux-x86_64"),
        layer_key(b"lock", "3.12", "linux-x86_64"),
        layer_key(b"lock", "3.11", "linux-aarch64"),
        layer_key(b"lock3.11", "", "linux-x86_64"),
        layer_key(b"", "lock3.11", "linux-x86_64"),
    }
    assert len(others | {key}) == 6


# --- building -----------------------------------------------------------------------------


def test_a_layer_holds_importable_packages_and_nothing_of_this_machine(
    registry: Registry, build: Callable[..., Path], tmp_path: Path
) -> None:
    registry.add("one", requires="two")
    registry.add("two")
    layer = build()
    assert layer == tmp_path / "layers/key"
    assert sorted(path.name for path in layer.iterdir()) == [
        "layer.json", "one", "one-1.0.dist-info", "two", "two-1.0.dist-info",
    ]  # fmt: skip
    assert [
        path for path, content in tree(layer).items() if str(tmp_path).encode() in content
    ] == []
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c",
         "import sys; sys.path.append(sys.argv[1]); import one, two; print(one.__file__, two.tag)",
         str(layer)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{layer}/one/__init__.py py3-none-any\n"
    marker = json.loads((layer / MARKER).read_text())
    assert (marker["key"], marker["python"], marker["platform"]) == (
        "key", PYTHON, this_platform(),
    )  # fmt: skip
    assert verify(layer) == []


def test_the_same_lock_file_makes_the_same_bytes_anywhere(
    registry: Registry, build: Callable[..., Path], tmp_path: Path
) -> None:
    registry.add(
        "one", code="import json\nX = frozenset({'a', 'b', 'c'})\ndef f(x): return x in X\n"
    )
    first, second = tree(build()), tree(build(into=tmp_path / "a directory with a longer name"))
    assert first == second
    assert f"one/__pycache__/__init__.cpython-{PYTHON.replace('.', '')}.pyc" in first


def test_bytecode_is_taken_without_a_look_at_the_source(
    registry: Registry, build: Callable[..., Path]
) -> None:
    """The flags of PEP 552: by hash, and unchecked."""
    registry.add("one")
    compiled = [path for path in tree(build()).items() if path[0].endswith(".pyc")]
    assert len(compiled) == 1
    assert compiled[0][1][4:8] == b"\x01\x00\x00\x00"


def test_a_layer_for_another_python_and_platform_gets_its_wheels(
    registry: Registry, build: Callable[..., Path]
) -> None:
    for tag in ("cp311-cp311-manylinux_2_28_x86_64", "cp313-cp313-manylinux_2_28_x86_64",
                "cp313-cp313-manylinux_2_28_aarch64"):  # fmt: skip
        registry.add("native", tag=tag)
    for key, machine in (("a", "aarch64"), ("x", "x86_64")):
        layer = build(key, python="3.13", platform=f"{machine}-manylinux_2_28")
        expected = f"tag = 'cp313-cp313-manylinux_2_28_{machine}'\n"
        assert (layer / "native/__init__.py").read_text() == expected
        assert json.loads((layer / MARKER).read_text())["platform"] == f"{machine}-manylinux_2_28"
        # This Python cannot write bytecode for that one.
        if PYTHON != "3.13":
            assert not list(layer.rglob("*.pyc"))


def test_a_layer_that_is_there_and_whole_is_taken_as_it_is(
    registry: Registry, build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("one")
    inode = build().stat().st_ino
    registry.close()
    monkeypatch.setenv("PATH", "")
    assert build().stat().st_ino == inode


def damage_none(layer: Path) -> None:
    (layer / MARKER).unlink()


def damage_changed(layer: Path) -> None:
    (layer / "one/__init__.py").write_text("import os\n")


def damage_extra(layer: Path) -> None:
    (layer / "one/more.py").write_text("import os\n")


def damage_missing(layer: Path) -> None:
    (layer / "one/__init__.py").unlink()


def damage_marker(layer: Path) -> None:
    (layer / MARKER).write_text("{")


def damage_all(layer: Path) -> None:
    for path in sorted(layer.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_none, "layer.json: is missing or damaged"),
        (damage_marker, "layer.json: is missing or damaged"),
        (damage_all, "layer.json: is missing or damaged"),
        (damage_changed, "one/__init__.py: was changed"),
        (damage_extra, "one/more.py: should not be there"),
        (damage_missing, "one/__init__.py: is missing"),
    ],
)
def test_a_layer_that_was_tampered_with_or_is_half_written_is_built_again(
    registry: Registry, build: Callable[..., Path], damage: Callable[[Path], None], said: str
) -> None:
    registry.add("one")
    layer = build()
    before = tree(layer)
    damage(layer)
    assert verify(layer) == [said]
    assert build() == layer
    assert tree(layer) == before
    assert sorted(path.name for path in layer.parent.iterdir()) == ["key"]


def test_builders_at_once_both_get_the_whole_layer(
    registry: Registry, build: Callable[..., Path]
) -> None:
    registry.add("one")
    with ThreadPoolExecutor(4) as pool:
        layers = [future.result() for future in [pool.submit(build) for _ in range(4)]]
    assert set(layers) == {layers[0]}
    assert verify(layers[0]) == []
    assert sorted(path.name for path in layers[0].parent.iterdir()) == ["key"]


# --- refusing -----------------------------------------------------------------------------


def refused(build: Callable[..., Path], tmp_path: Path) -> Failure:
    with pytest.raises(Failure) as caught:
        build()
    assert list((tmp_path / "layers").iterdir()) == []
    assert str(caught.value) == (
        f"{tmp_path}/registry/requirements.txt: the packages for Python {PYTHON} on "
        f"{this_platform()} could not be installed; nothing was changed"
    )
    assert "UV_DEFAULT_INDEX" in caught.value.hint
    return caught.value


def test_a_wheel_that_is_not_the_locked_one_is_refused(
    registry: Registry, build: Callable[..., Path], tmp_path: Path
) -> None:
    registry.add("one")
    locked = registry.lock.read_text()
    registry.add("one", code="import os\n")
    registry.lock.write_text(locked)
    assert any("hash" in line.lower() for line in refused(build, tmp_path).lines)


def test_a_package_without_a_hash_is_refused(
    registry: Registry, build: Callable[..., Path], tmp_path: Path
) -> None:
    registry.add("one")
    registry.lock.write_text("one==1.0\n")
    assert any("hash" in line.lower() for line in refused(build, tmp_path).lines)


def test_a_lock_file_that_leaves_a_dependency_out_is_refused(
    registry: Registry, build: Callable[..., Path], tmp_path: Path
) -> None:
    registry.add("one", requires="two")
    registry.add("two")
    del registry.wheels["two"]
    registry.write_lock()
    assert any("two" in line for line in refused(build, tmp_path).lines)


def test_a_registry_that_cannot_be_reached_is_told_with_what_to_do(
    registry: Registry, build: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    registry.add("one")
    registry.close()
    # Nothing listens on port 9 of this machine, and whoever asks there shows no password.
    (tmp_path / "uv.toml").write_text('index-url = "http://me:hunter2@127.0.0.1:9/simple"\n')
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    failure = refused(build, tmp_path)
    assert any("127.0.0.1:9" in line for line in failure.lines)
    assert not any("hunter2" in line for line in failure.lines)


def test_credentials_are_taken_out_of_addresses() -> None:
    text = "at https://me:p%40ss@a.example/x and http://b.example:80/@scope"
    assert without_credentials(text) == "at https://a.example/x and http://b.example:80/@scope"


# --- the lock files of this repository ----------------------------------------------------


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name)
def test_a_lock_file_pins_with_hashes_and_names_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    requirements = re.split(r"\n(?=\S)", text.strip())
    assert len(requirements) > 5
    for requirement in requirements:
        assert re.match(r"[a-z0-9-]+==[^\s;]+( ;[^\\]+)? \\\n    --hash=sha256:", requirement)


def test_the_lock_files_agree_with_each_other() -> None:
    chatservice, opskit, tests = (
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE)) for lock in LOCKS
    )
    assert chatservice.items() <= opskit.items() <= tests.items()


def test_the_services_own_layer_holds_all_that_it_imports(tmp_path: Path) -> None:
    """Needs a package registry, or uv's cache, as a deployment does."""
    layer = build_layer(LOCKS[0], "key", tmp_path, python=PYTHON)
    modules = "uvloop, websockets, msgspec, jwt, cryptography, prometheus_client, asyncpg"
    code = f"import sys; sys.path.append(sys.argv[1]); import {modules}; print('all')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(layer)],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("all\n", "")
