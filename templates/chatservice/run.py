"""Starts the release that this file lies in: `python3 -I run.py serve`.

Nothing but the release, its layer and the standard library can be imported, whatever is
installed on the host. Without `--settings`, the release's own are used.
"""

import json
import os
import sys


def main() -> int:
    """Run one command of the chat service; see `run.py --help`."""
    # Resolved, so that a process keeps to its own release when `current` is switched; and started
    # anew under that name, so that whoever looks at the process sees which release it is.
    program = os.path.realpath(__file__)
    if program != os.path.abspath(__file__):
        os.execv(sys.executable, [sys.executable, "-I", program, *sys.argv[1:]])  # noqa: S606
    release = os.path.dirname(program)
    with open(os.path.join(release, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != manifest["python"]:
        print(
            f"run.py: release {manifest['release']} is built for Python {manifest['python']}, "
            f"this is {running}; start it with python{manifest['python']}",
            file=sys.stderr,
        )
        return 2
    layer = os.path.realpath(os.path.join(release, "layer"))
    if not os.path.isdir(layer):
        print(f"run.py: the layer {layer} is missing; deploy the release again", file=sys.stderr)
        return 2
    library = os.path.dirname(os.__file__)
    sys.path[:] = [
        os.path.join(release, "code"),
        layer,
        library,
        os.path.join(library, "lib-dynload"),
    ]
    sys.dont_write_bytecode = True
    os.environ["CHATSERVICE_RELEASE"] = manifest["release"]
    os.environ["CHATSERVICE_COMMIT"] = manifest["commit"]
    if len(sys.argv) > 1 and not any(word.startswith("--settings") for word in sys.argv):
        sys.argv[2:2] = ["--settings", os.path.join(release, "config", "settings.toml")]
    from chatservice.__main__ import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
