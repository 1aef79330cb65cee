#!/usr/bin/env python3
"""Make the wheels of a release, for all systems, and check what can be checked here.

    python .ci/wheels.py dist           for all systems
    python .ci/wheels.py dist here      for this one

One pinned compiler, zig, compiles for Linux (glibc 2.17, and musl), macOS 11 and
Windows, on x86-64 and arm64, from the sdist, which is written too.  Linux's wheels are
looked at by auditwheel, if this Python has it.  Of wheels for other machines, it is
checked what they are for and what is inside: they are built, not run.
"""

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINNED = ["hatchling==1.33.0", "ziglang==0.17.1"]
MOST_BYTES = 2_000_000
NATIVE = "skvq/nearest/native/"
# Of the headers of ELF, Mach-O and PE: the processor that a library is for.
MACHINES = {62: "x86_64", 183: "aarch64"}
MACHINES |= {0x01000007: "x86_64", 0x0100000C: "aarch64"}
MACHINES |= {0x8664: "x86_64", 0xAA64: "aarch64"}
# Asked of Pythons of their own.
TAGS = "import hatch_build, json; print(json.dumps(hatch_build.TAGS))"
HERE = "from packaging.tags import sys_tags; print(*sys_tags(), sep='\\n')"
BUILD = "import hatchling.build as backend; print(backend.build_{}({!r}))"
AUDIT = "import runpy, sys; sys.argv[1:] = ['show', {!r}]; "
AUDIT += "runpy.run_module('auditwheel', run_name='__main__')"
STATUS = "import json, runpy; print(json.dumps(runpy.run_path({!r})['status']()))"


def main():
    """Build, check, and print a line for each wheel."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("targets", nargs="*", help="zig's, or here; default: all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        work = Path(scratch)
        python = environment(work / "builder")
        sdist = build(python, ROOT, "sdist", arguments.folder)
        print(f"{sdist.name}: {sdist.stat().st_size / 1000:.0f} kB", flush=True)
        with tarfile.open(sdist) as archive:
            archive.extractall(work, filter="data")
        source = work / sdist.name.removesuffix(".tar.gz")
        tags = json.loads(ask(python, TAGS, source))
        runs_here = set(ask(python, HERE, source).splitlines())
        # zig keeps what it compiles of its own run-time.
        caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), "zig")
        caches = {name: str(work / cache) for name, cache in caches.items()}
        here = [one for one in tags if runs_on(runs_here, tags[one])]
        targets = here if arguments.targets == ["here"] else arguments.targets
        for target in targets or tags:
            wheel = build(
                python, source, "wheel", arguments.folder, SKVQ_TARGET=target, **caches
            )
            tag = f"py3-none-{tags[target]}"
            if not wheel.stem.endswith(tag):
                raise SystemExit(f"{wheel.name} is not for {tag}.")
            checked = [contents(wheel, target, work / target)]
            if "-linux" in target:
                checked.append(audited(wheel, tag))
            if target in here:
                checked.append(loaded(work / target))
            else:
                checked.append("built, not run")
            print(f"{wheel.name}: {'; '.join(checked)}", flush=True)


def runs_on(supported, tag):
    """Whether wheels of a tag can be installed where these tags are supported."""
    return f"py3-none-{tag.partition('.')[0]}" in supported


def environment(folder):
    """Make an environment with the pinned tools, and return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PINNED], check=True)
    return python


def ask(python, script, folder, **variables):
    """Run a Python in a folder, and return what it prints."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SKVQ_") and name != "PYTHONPATH"
    }
    done = subprocess.run(
        [python, "-c", script],
        cwd=folder,
        env=clean | variables,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def build(python, source, kind, folder, **variables):
    """Make an sdist or a wheel, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    said = ask(python, BUILD.format(kind, str(folder.resolve())), source, **variables)
    return folder / said.splitlines()[-1]


def contents(wheel, target, folder):
    """Unpack a wheel, and say which libraries are in it, for which processor."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    size = wheel.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{wheel.name} has {size} bytes, more than {MOST_BYTES}.")
    names = {path.name for path in (folder / NATIVE).iterdir()}
    suffix = ".dll" if "-windows" in target else ".so"
    levels = ["cpu", "v3", "v4"] if target.startswith("x86_64") else ["neon"]
    if target == "x86_64-macos.11.0":
        levels.remove("v4")
    libraries = {f"_{level}{suffix}" for level in levels}
    if names != libraries | {"__init__.py", "_build.json"}:
        raise SystemExit(f"{wheel.name} has {', '.join(sorted(names))}.")
    for name in libraries:
        machine = machine_of((folder / NATIVE / name).read_bytes())
        if not target.startswith(f"{machine}-"):
            raise SystemExit(f"{name} of {wheel.name} is for {machine}.")
    return f"{size / 1000:.0f} kB, {' '.join(levels)}"


def machine_of(content):
    """Return the processor that a library is for."""
    if content[:4] == b"\x7fELF":
        (number,) = struct.unpack_from("<H", content, 18)
    elif content[:4] == b"\xcf\xfa\xed\xfe":
        (number,) = struct.unpack_from("<I", content, 4)
    elif content[:2] == b"MZ":
        (start,) = struct.unpack_from("<I", content, 0x3C)
        (number,) = struct.unpack_from("<H", content, start + 4)
    else:
        number = None
    return MACHINES.get(number)


def audited(wheel, tag):
    """Say what auditwheel finds: the oldest system that the libraries run on."""
    if find_spec("auditwheel") is None:
        return "auditwheel is not installed"
    said = ask(sys.executable, AUDIT.format(str(wheel.resolve())), ROOT)
    found = re.search(r'platform\s+tag:\s+"(\w+linux)_(\d+)_(\d+)_(\w+)"', said)
    needed = re.search(r"-(\w+?linux)_(\d+)_(\d+)_(x86_64|aarch64)", tag)
    if found is None or not is_covered(found.groups(), needed.groups()):
        raise SystemExit(f"auditwheel on {wheel.name}: {said}")
    return f"auditwheel: {found[1]}_{found[2]}_{found[3]}"


def is_covered(found, needed):
    """Whether what is found is no newer than what is needed."""
    numbers = [tuple(map(int, one[1:3])) for one in (found, needed)]
    return found[0] == needed[0] and found[3] == needed[3] and numbers[0] <= numbers[1]


def loaded(folder):
    """Say which library of an unpacked wheel is loaded here."""
    level, _, compiler, reason = json.loads(
        ask(sys.executable, STATUS.format(str(folder / NATIVE / "__init__.py")), folder)
    )
    if level is None:
        raise SystemExit(f"Nothing is loaded: {reason}")
    return f"{level} loaded ({compiler}); the rest built, not run"


if __name__ == "__main__":
    main()
