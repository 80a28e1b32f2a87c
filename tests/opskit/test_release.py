"""Releases: what is in one, when two are the same, and what starts from one."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.failure import Failure
from opskit.layer import build_layer, layer_key, this_platform
from opskit.release import Release, Schema, build, verify
from opskit.render import render
from tests.service_process import ServiceProcess

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TAG = f"cpython-{PYTHON.replace('.', '')}"
# The interpreter below the virtual environment, as a deployment on this machine uses it.
INTERPRETER = str(getattr(sys, "_base_executable", sys.executable))
# As `sha256sum /dev/null` has it.
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

# Says what it was started with, and what it could import.
PROGRAM = """\
import importlib.util
import json
import os
import sys

import chatservice


def main():
    import layered
    if sys.argv[1:2] == ["fail"]:
        raise RuntimeError("failed on purpose")
    print(json.dumps({
        "argv": sys.argv[1:],
        "path": sys.path,
        "file": chatservice.__file__,
        "release": os.environ["CHATSERVICE_RELEASE"],
        "commit": os.environ["CHATSERVICE_COMMIT"],
        "found": [
            name for name in ("layered", "pip", "pytest", "opskit", "planted", "yaml")
            if importlib.util.find_spec(name)
        ],
    }))
    return 7
"""


def git(directory: Path, *words: str) -> str:
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.net")
    done = subprocess.run(
        ["git", "-C", str(directory), *identity, *words],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a committed source tree of a small program in the place of the chat service."""
    source = tmp_path / "source"
    files = {
        "chatservice/__init__.py": "VALUE = 1\n",
        "chatservice/__main__.py": PROGRAM,
        "chatservice/requirements.txt": "",
        "chatservice/store/migrations/sqlite/001_first.sql": "-- readable-from: 1\n",
        "chatservice/store/migrations/sqlite/002_second.sql": "-- readable-from: 2\n",
        "chatservice/store/migrations/sqlite/003_third.sql": "-- readable-from: 1\n",
        "environments.yaml": (
            "environments:\n  dev:\n    target: local\n    root: ../root\n"
            "    secrets:\n      jwt_secret: generate\n"
        ),
        ".gitignore": "__pycache__/\n*.log\n",
    }
    for path, text in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    git(tmp_path, "init", "-q", str(source))
    git(source, "add", ".")
    git(source, "commit", "-qm", "first")
    return source


@pytest.fixture
def make(source: Path, tmp_path: Path) -> Callable[..., Release]:
    """Build releases of that tree, as `make(version)`."""

    def make(version: int = 1, *, into: Path | None = None) -> Release:
        into = into or tmp_path / "root/releases"
        return build(environment(source), version, into=into, source=source)

    return make


def environment(source: Path) -> Environment:
    return load_environments(source / "environments.yaml").get("dev")


def tree(directory: Path) -> list[str]:
    return sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )


# --- what is in it ------------------------------------------------------------------------


def test_a_release_holds_code_configuration_launcher_link_and_manifest(
    make: Callable[..., Release], source: Path
) -> None:
    release = make(12)
    assert release.path.name == "v12"
    assert tree(release.path) == [
        "code/chatservice/__init__.py",
        "code/chatservice/__main__.py",
        f"code/chatservice/__pycache__/__init__.{TAG}.pyc",
        f"code/chatservice/__pycache__/__main__.{TAG}.pyc",
        "code/chatservice/requirements.txt",
        "code/chatservice/store/migrations/sqlite/001_first.sql",
        "code/chatservice/store/migrations/sqlite/002_second.sql",
        "code/chatservice/store/migrations/sqlite/003_third.sql",
        "config/settings.toml",
        "manifest.json",
        "run.py",
    ]
    key = layer_key(b"", PYTHON, this_platform())
    assert os.readlink(release.path / "layer") == f"../../layers/{key}"
    wanted = render(environment(source))["config/settings.toml"]
    assert (release.path / "config/settings.toml").read_text() == wanted


def test_the_manifest_says_all_that_there_is_to_know(
    make: Callable[..., Release], source: Path
) -> None:
    release = make(12)
    text = (release.path / "manifest.json").read_text()
    manifest = json.loads(text)
    assert text == json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    assert sorted(manifest) == [
        "built_at", "commit", "content", "dirty", "files", "layer", "platform", "python",
        "release", "schema",
    ]  # fmt: skip
    assert manifest["release"] == "v12"
    assert manifest["commit"] == git(source, "rev-parse", "HEAD")
    assert manifest["dirty"] is False
    assert (manifest["python"], manifest["platform"]) == (PYTHON, this_platform())
    assert manifest["layer"] == layer_key(b"", PYTHON, this_platform())
    assert manifest["schema"] == {"version": 3, "readable_from": 2}
    assert sorted(manifest["files"]) == [p for p in tree(release.path) if p != "manifest.json"]
    assert Release.read(release.path) == release
    assert (release.version, release.schema) == (12, Schema(3, 2))


def test_the_schema_is_that_of_the_store_in_use(make: Callable[..., Release], source: Path) -> None:
    (source / "chatservice/store/migrations/postgres").mkdir()
    edit("chatservice/store/migrations/postgres/001_x.sql", "-- readable-from: 1\n")(source)
    text = (source / "environments.yaml").read_text()
    more = "      database_url: env:A\n    chat: {store: {kind: postgres}}\n"
    edit("environments.yaml", text + more)(source)
    assert make().schema == Schema(1, 1)


def test_the_same_input_makes_the_same_content_under_any_number(
    make: Callable[..., Release], tmp_path: Path
) -> None:
    first, second = make(1), make(2, into=tmp_path / "a directory with another name")
    assert first.content == second.content
    assert first.files == second.files


def test_a_commit_alone_changes_nothing_in_the_content(
    make: Callable[..., Release], source: Path
) -> None:
    first = make(1)
    git(source, "commit", "--allow-empty", "-qm", "second")
    second = make(2)
    assert first.commit != second.commit
    assert first.content == second.content


def edit(path: str, text: str) -> Callable[[Path], object]:
    return lambda source: (source / path).write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        edit("chatservice/__init__.py", "VALUE = 2\n"),
        edit("chatservice/new.py", ""),
        edit("chatservice/requirements.txt", "one==1.0 --hash=sha256:0\n"),
        edit("chatservice/store/migrations/sqlite/004_fourth.sql", "-- readable-from: 2\n"),
        lambda source: (source / "chatservice/__init__.py").rename(source / "chatservice/x.py"),
        lambda source: edit(
            "environments.yaml",
            (source / "environments.yaml").read_text() + "    chat: {limits: {text: 17}}\n",
        )(source),
    ],
)
def test_any_change_of_what_it_is_made_of_changes_the_content_and_is_dirty(
    make: Callable[..., Release], source: Path, change: Callable[[Path], object]
) -> None:
    first = make(1)
    change(source)
    second = make(2)
    assert first.content != second.content
    assert (first.dirty, second.dirty) == (False, True)


def test_a_change_elsewhere_in_the_tree_makes_no_difference(
    make: Callable[..., Release], source: Path
) -> None:
    first = make(1)
    (source / "README.md").write_text("x")
    (source / "chatservice/a.log").write_text("ignored")
    second = make(2)
    assert (first.content, first.dirty) == (second.content, second.dirty)
    assert second.dirty is False


def test_outside_a_checkout_there_is_no_commit(make: Callable[..., Release], source: Path) -> None:
    first = make(1)
    (source / ".git").rename(source.parent / "git")
    release = make(2)
    assert (release.commit, release.dirty) == ("none", True)
    assert release.content == first.content


@pytest.mark.parametrize("other", [{"python": "3.99"}, {"platform": "aarch64-manylinux_2_28"}])
def test_the_same_code_for_another_python_or_platform_is_another_release(
    make: Callable[..., Release], source: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    elsewhere = replace(environment(source), **other)
    release = build(elsewhere, 1, into=tmp_path / "other", source=source)
    assert release.content != make(1).content
    assert (release.python, release.platform) == (
        other.get("python", PYTHON), other.get("platform", this_platform()),
    )  # fmt: skip


def test_bytecode_is_checked_but_is_no_part_of_the_content(make: Callable[..., Release]) -> None:
    """Python does not promise to write the same bytes each time."""
    path = make().path
    compiled = f"code/chatservice/__pycache__/__init__.{TAG}.pyc"
    (path / compiled).write_bytes(b"")
    assert verify(path) == [f"{compiled}: was changed"]
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][compiled] = EMPTY
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert verify(path) == []


def test_it_can_be_built_for_another_root(
    make: Callable[..., Release], source: Path, tmp_path: Path
) -> None:
    there = Path("/srv/chat")
    release = build(environment(source), 1, into=tmp_path / "r", source=source, root=there)
    settings = (release.path / "config/settings.toml").read_text()
    assert 'state_dir = "/srv/chat/state"' in settings
    assert str(tmp_path) not in settings


def test_everybody_on_the_host_may_read_it(make: Callable[..., Release]) -> None:
    old = os.umask(0o077)
    try:
        release = make()
    finally:
        os.umask(old)
    modes = {oct(path.stat().st_mode & 0o777) for path in release.path.rglob("*.*")}
    assert modes == {"0o644"}
    assert (release.path / "code").stat().st_mode & 0o777 == 0o755


# --- what cannot be built -----------------------------------------------------------------


def test_a_release_never_changes(make: Callable[..., Release]) -> None:
    before = make(1)
    with pytest.raises(Failure, match="v1 is there already"):
        make(1)
    assert verify(before.path) == []


def test_a_source_without_a_lock_file_is_refused(
    make: Callable[..., Release], source: Path
) -> None:
    (source / "chatservice/requirements.txt").unlink()
    with pytest.raises(Failure, match=r"requirements\.txt is missing: .* is not the source"):
        make()


def test_a_migration_without_its_header_is_refused_by_name(
    make: Callable[..., Release], source: Path, tmp_path: Path
) -> None:
    (source / "chatservice/store/migrations/sqlite/003_third.sql").write_text("SELECT 1;\n")
    with pytest.raises(Failure, match=r"003_third\.sql: needs a line `-- readable-from: N`"):
        make()
    assert not (tmp_path / "root/releases").exists()


# --- verify -------------------------------------------------------------------------------


def test_verify_lists_every_file_that_is_missing_changed_or_extra(
    make: Callable[..., Release],
) -> None:
    path = make().path
    assert verify(path) == []
    (path / "code/chatservice/__init__.py").write_text("VALUE = 3\n")
    (path / "code/chatservice/__main__.py").unlink()
    (path / "code/planted.py").write_text("")
    (path / "config/settings.toml").unlink()
    (path / "config/settings.toml").symlink_to("/dev/null")
    (path / "layer").unlink()
    assert verify(path) == [
        "code/chatservice/__init__.py: was changed",
        "code/chatservice/__main__.py: is missing",
        "code/planted.py: should not be there",
        "config/settings.toml: is not a file",
        "layer: is missing",
    ]


def test_verify_sees_a_link_that_leads_elsewhere(make: Callable[..., Release]) -> None:
    release = make()
    (release.path / "layer").unlink()
    (release.path / "layer").symlink_to("/tmp")
    wanted = f"../../layers/{release.layer}"
    assert verify(release.path) == [f"layer: leads to /tmp and not to {wanted}"]


def test_verify_sees_a_manifest_that_was_changed_to_match(make: Callable[..., Release]) -> None:
    release = make()
    (release.path / "code/planted.py").write_text("")
    manifest = release.path / "manifest.json"
    known = json.loads(manifest.read_text())
    known["files"]["code/planted.py"] = EMPTY
    manifest.write_text(json.dumps(known))
    assert verify(release.path) == ["manifest.json: was changed"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"release": "v1"}', '{"schema": 7}'])
def test_a_damaged_manifest_is_named(make: Callable[..., Release], text: str) -> None:
    path = make().path
    (path / "manifest.json").write_text(text)
    faults = verify(path)
    assert len(faults) == 1
    assert faults[0].startswith(f"{path}/manifest.json is damaged: ")


def test_a_directory_without_a_manifest_is_no_release(tmp_path: Path) -> None:
    assert verify(tmp_path) == [f"{tmp_path}/manifest.json is missing: this is no release"]


# --- run.py -------------------------------------------------------------------------------


@pytest.fixture
def installed(make: Callable[..., Release], tmp_path: Path) -> Release:
    """Give a release with a layer that holds one module."""
    release = make(3)
    layer = tmp_path / "root/layers" / release.layer
    layer.mkdir(parents=True)
    (layer / "layered.py").write_text("")
    (tmp_path / "root/current").symlink_to("releases/v3")
    return release


def start(
    entry: Path, *words: str, interpreter: str = sys.executable, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [interpreter, "-I", str(entry), *words],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"], **environ},
        cwd=entry.parent,
    )  # fmt: skip


def started(entry: Path, *words: str, **options: Any) -> Mapping[str, Any]:
    done = start(entry, *words, **options)
    assert (done.returncode, done.stderr) == (7, "")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_run_py_starts_its_own_release_through_current(
    installed: Release, tmp_path: Path, source: Path
) -> None:
    said = started(tmp_path / "root/current/run.py", "serve", "--take-over")
    assert said["file"] == f"{installed.path}/code/chatservice/__init__.py"
    assert said["release"] == "v3"
    assert said["commit"] == git(source, "rev-parse", "HEAD")
    settings = f"{installed.path}/config/settings.toml"
    assert said["argv"] == ["serve", "--settings", settings, "--take-over"]


def test_run_py_takes_the_settings_that_it_is_given(installed: Release) -> None:
    said = started(installed.path / "run.py", "check", "--settings", "/a/b.toml")
    assert said["argv"] == ["check", "--settings", "/a/b.toml"]
    assert started(installed.path / "run.py")["argv"] == []


@pytest.mark.parametrize("interpreter", [sys.executable, INTERPRETER])
def test_run_py_imports_from_release_layer_and_standard_library_alone(
    installed: Release, tmp_path: Path, interpreter: str
) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "planted.py").write_text("")
    (installed.path / "json.py").write_text("raise SystemExit('imported from beside run.py')")
    said = started(
        installed.path / "run.py", "serve", interpreter=interpreter, PYTHONPATH=str(planted)
    )
    assert said["found"] == ["layered"]
    layer = str(tmp_path / "root/layers" / installed.layer)
    assert said["path"][:2] == [f"{installed.path}/code", layer]


def test_run_py_writes_nothing_into_the_release_nor_into_its_layer(installed: Release) -> None:
    started(installed.path / "run.py", "serve")
    assert verify(installed.path) == []
    assert tree(installed.path / "layer") == ["layered.py"]


def test_run_py_uses_the_bytecode_that_came_with_the_release(installed: Release) -> None:
    """It is as good as the source says: to see that it is used, the source is made to differ."""
    program = installed.path / "code/chatservice/__main__.py"
    program.write_text("raise SystemExit('compiled from the source')")
    started(installed.path / "run.py", "serve")


def test_a_traceback_names_the_file_in_the_release(installed: Release) -> None:
    done = start(installed.path / "run.py", "fail")
    assert f'File "{installed.path}/code/chatservice/__main__.py", line 12, in main' in done.stderr
    assert 'raise RuntimeError("failed on purpose")' in done.stderr


def test_run_py_refuses_another_python_than_it_was_built_for(installed: Release) -> None:
    manifest = installed.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"python": "{PYTHON}"', '"python": "3.99"'))
    done = start(installed.path / "run.py", "serve")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"run.py: release v3 is built for Python 3.99, this is {PYTHON}; start it with python3.99\n"
    )


def test_run_py_without_its_layer_says_what_to_do(installed: Release, tmp_path: Path) -> None:
    layer = tmp_path / "root/layers" / installed.layer
    (layer / "layered.py").unlink()
    layer.rmdir()
    done = start(installed.path / "run.py", "serve")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"run.py: the layer {layer} is missing; deploy the release again\n"


# --- the real thing -----------------------------------------------------------------------


def test_the_chat_service_runs_from_a_release_of_this_repository(
    tmp_path: Path, service_factory: Callable[..., ServiceProcess]
) -> None:
    """It answers under the release's name and commit, with nothing but its layer to import."""
    environments = tmp_path / "environments.yaml"
    environments.write_text((ROOT / "environments.yaml").read_text())
    dev = load_environments(environments).get("dev")
    release = build(dev, 4, into=tmp_path / "r/releases", source=ROOT, root=tmp_path / "r")
    build_layer(
        ROOT / "chatservice/requirements.txt", release.layer, tmp_path / "r/layers", python=PYTHON
    )
    service = service_factory(program=("-I", str(release.path / "run.py")))
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("GET", "/version")
    said = json.loads(connection.getresponse().read())
    connection.close()
    assert said["release"] == "v4"
    assert said["commit"] == release.commit
    assert said["schema"] == release.schema.version
    loaded = Path(f"/proc/{service.pid}/maps").read_text()
    assert f"{tmp_path}/r/layers/{release.layer}/uvloop/" in loaded
    assert ".venv" not in loaded
    assert service.stop() == 0
    assert verify(release.path) == []
