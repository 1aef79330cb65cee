"""Compile ``skvq/nearest/native`` for wheels and editable installs; address the README.

By the system's compiler, or by that of the package ziglang, which is asked for where
the system has none and pip can find it.  Without either, or if compiling fails, the
install is pure Python and NumPy computes; ``_build.json`` keeps the reason, because pip
does not show what a build says that succeeds.

Environment: ``SKVQ_NO_NATIVE=1`` compiles nothing; ``CXX`` is the only compiler of the
system that is tried; ``SKVQ_TARGET``, one of `TAGS`, is what a wheel is compiled for.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface
from packaging.tags import platform_tags

FOLDER = Path(__file__).parent / "skvq" / "nearest" / "native"
# What the loader looks for is what has to be built.
LOADER = runpy.run_path(str(FOLDER / "__init__.py"))
ZIG = "ziglang>=0.13,<0.18"

# Products and sums are not contracted: where they are to be, the sources say so.
FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-g0", "-ffp-contract=off", "-fvisibility=hidden"),
    *("-fno-exceptions", "-fno-rtti", "-fno-math-errno"),
]
# Optimized, too: zig would link what looks for undefined behaviour.
LINK_FLAGS = ["-shared", "-O3", "-g0"]
# A name that nobody defines is an error here, not when the library is loaded; and the
# run-time of C++, which drivers link but nothing here uses, is left out.
LINUX_FLAGS = ["-Wl,--no-undefined", "-Wl,--as-needed"]
# musl's libc has the name of a machine where it is installed, and another one in zig,
# which auditwheel refuses.  What is needed of it, such as memset, Python has loaded.
ZIG_MUSL_FLAGS = ["-nostdlib"]
# Of each library, for gcc and clang, and as zig spells them.
LIBRARY_FLAGS = {
    "v3": (["-march=x86-64-v3"], ["-march=x86_64_v3"]),
    "v4": (
        ["-march=x86-64-v4", "-mavx512vbmi", "-mavx512vnni"],
        ["-march=x86_64_v4+avx512vbmi+avx512vnni"],
    ),
    "neon": ([], []),
    "cpu": ([], []),
}
# Targets of zig, and the tags of their wheels.
TAGS = {
    "x86_64-linux-gnu.2.17": "manylinux_2_17_x86_64.manylinux2014_x86_64",
    "aarch64-linux-gnu.2.17": "manylinux_2_17_aarch64.manylinux2014_aarch64",
    "x86_64-linux-musl": "musllinux_1_2_x86_64",
    "aarch64-linux-musl": "musllinux_1_2_aarch64",
    "x86_64-macos.11.0": "macosx_11_0_x86_64",
    "aarch64-macos.11.0": "macosx_11_0_arm64",
    "x86_64-windows-gnu": "win_amd64",
    "aarch64-windows-gnu": "win_arm64",
}

# Code of Markdown, in which nothing is a link; and where links and pictures begin.
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.M | re.S)
TARGET = re.compile(
    r'(\]\(|^\[[^\]^\n][^\]\n]*\]: +|\b(?:href|src)=")(?![a-z][a-z+.-]*:|#)([^)\s"]+)',
    re.M,
)
PICTURES = (".gif", ".jpg", ".png", ".svg", ".webp")

# What stands before the last name of each path within a flag.
FOLDERS = re.compile(r"[.~]*/(?:[^/=,:]+/)*")


class Readme(MetadataHookInterface):
    """Hook of the metadata: the README, for an index that has no other file."""

    def update(self, metadata):
        """Set the description."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        if repository is not None:
            text = with_addresses(text, repository, metadata["version"], self.config)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def with_addresses(text, repository, version, patterns):
    """Let relative links of a text lead to the files of a version in the repository.

    Those of a version that is worked on lead to the newest files.
    """
    ref = "HEAD" if ".dev" in version else f"v{version}"

    def addressed(match):
        name = match[2].partition("#")[0]
        pattern = patterns["picture" if name.endswith(PICTURES) else "file"]
        place = {"repository": repository.rstrip("/"), "ref": ref, "path": match[2]}
        return match[1] + pattern.format(**place)

    # Every other part is code.
    parts = CODE.split(text)
    parts[::2] = [TARGET.sub(addressed, part) for part in parts[::2]]
    return "".join(parts)


class NativeEngine(BuildHookInterface):
    """Hook of the wheel target, by which editable installs are built as well."""

    def dependencies(self):
        """Ask for ziglang where nothing else can compile."""
        try:
            target = wanted_target()
            libraries_of(target)
        except FailedError:
            return []
        if any(accepts(compiler, target) for compiler in compilers_for(target)):
            return []
        return [ZIG] if zig_can_be_had() else []

    def initialize(self, version, build_data):
        """Compile: beside the sources, if it is they that are installed."""
        editable = version == "editable"
        self.scratch = tempfile.TemporaryDirectory(prefix="skvq-")
        folder = FOLDER if editable else Path(self.scratch.name)
        error = build(folder)
        if error is not None:
            if "SKVQ_TARGET" in os.environ:
                self.scratch.cleanup()
                raise RuntimeError(error)
            self.app.display_warning(f"skvq: NumPy computes. {error}")
        if editable:
            return
        if error is None:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag()}"
        for path in folder.iterdir():
            build_data["force_include"][str(path)] = f"skvq/nearest/native/{path.name}"

    def finalize(self, version, build_data, artifact_path):
        """Delete what is in the wheel now."""
        self.scratch.cleanup()


class FailedError(Exception):
    """Why nothing was compiled."""


def build(folder):
    """Put the libraries into a folder, with a note; return what failed, or None.

    What lies beside the sources, and is what would be compiled of them, is taken.
    """
    path = folder / LOADER["NOTE"]
    try:
        before = json.loads((FOLDER / path.name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    try:
        note = compile_into(folder, before)
    except FailedError as error:
        note = {"error": str(error)}
        for name in LIBRARY_FLAGS:
            for suffix in (".so", ".dll"):
                # Windows keeps what is in use; the loader sees what it was made from.
                with contextlib.suppress(OSError):
                    (folder / f"_{name}{suffix}").unlink()
    # In a folder that cannot be written to, the loader finds what is there.
    with contextlib.suppress(OSError):
        replace(path, json.dumps(note, indent=1).encode())
    return note["error"]


def compile_into(folder, before):
    """Compile with the first compiler that can; return what to note."""
    target = wanted_target()
    libraries = libraries_of(target)
    failed = []
    for compiler in compilers_for(target):
        try:
            return compile_with(compiler, target, libraries, folder, before)
        except FailedError as error:
            failed.append(str(error))
    failed.append(
        f"No {'other ' if failed else ''}C++ compiler was found: c++, g++ or clang++ "
        "on the PATH, or ziglang by pip."
    )
    raise FailedError(" ".join(failed))


def compile_with(compiler, target, libraries, folder, before):
    """Compile all libraries, or take those that are there if they are the same."""
    note = {
        "sources": LOADER["digest"](FOLDER),
        "compiler": name_of(compiler),
        "commands": {
            name: " ".join(compiling(without_paths(compiler), name))
            for name in libraries
        }
        | {"link": " ".join(linking(without_paths(compiler), target))},
        "error": None,
    }
    paths = {name: folder / f"_{name}{suffix_of(target)}" for name in libraries}
    there = {name: FOLDER / path.name for name, path in paths.items()}
    found = {name: checksum(path) for name, path in there.items()}
    if before == {**note, "libraries": found}:
        for name, path in there.items():
            if path != paths[name]:
                replace(paths[name], path.read_bytes())
        return before
    defined = [
        f'-DSKVQ_SOURCES="{note["sources"]}"',
        f"-DSKVQ_COMPILER={json.dumps(note['compiler'])}",
    ]
    with tempfile.TemporaryDirectory(prefix="skvq-") as scratch:

        def compile_one(job):
            name, source = job
            made = Path(scratch, f"{name}-{source.stem}.o")
            start = [*compiling(compiler, name), *defined]
            run([*start, "-c", source, "-o", made], scratch)
            return made

        jobs = [(name, source) for name in libraries for source in libraries[name]]
        # What takes long first, so that no core waits for the last one.
        jobs.sort(key=lambda job: -job[1].stat().st_size)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = dict(zip(jobs, pool.map(compile_one, jobs), strict=True))
        made = {}
        # One after the other, and for no special processor, so that zig compiles its
        # run-time once.
        for name in libraries:
            parts = [objects[job] for job in jobs if job[0] == name]
            output = Path(scratch, name)
            run([*linking(compiler, target), *parts, "-o", output], scratch)
            made[name] = output.read_bytes()
    try:
        for name, content in made.items():
            replace(paths[name], content)
    except OSError as error:
        raise FailedError(f"The libraries cannot be put in place: {error}.") from error
    note["libraries"] = {name: checksum(path) for name, path in paths.items()}
    return note


def wanted_target():
    """Return zig's name of what is compiled for."""
    if os.environ.get("SKVQ_NO_NATIVE", "0") not in ("", "0"):
        raise FailedError("SKVQ_NO_NATIVE was set when skvq was installed.")
    named = os.environ.get("SKVQ_TARGET")
    if named is not None:
        if named not in TAGS:
            raise FailedError(f"SKVQ_TARGET={named!r} is none of {', '.join(TAGS)}.")
        return named
    libc = "musl" if "musl" in (sysconfig.get_config_var("SOABI") or "") else "gnu.2.17"
    systems = {"linux": f"linux-{libc}", "darwin": "macos.11.0", "win32": "windows-gnu"}
    return f"{LOADER['machine']()}-{systems.get(sys.platform, sys.platform)}"


def libraries_of(target):
    """Return the libraries of a target, each with its sources."""
    machine, system = target.split("-", 1)
    kernels = sorted(set(FOLDER.glob("*.cc")) - {FOLDER / "cpu.cc"})
    libraries = {name: kernels for name in LOADER["LEVELS"].get(machine, ())}
    if not libraries:
        raise FailedError(f"There is no compiled engine for {machine}.")
    if machine == "x86_64":
        libraries["cpu"] = [FOLDER / "abi.cc", FOLDER / "cpu.cc"]
        if system.startswith("macos"):
            # The system saves AVX-512's registers only of who has used them.
            del libraries["v4"]
    return libraries


def compilers_for(target):
    """Return the compilers that there are, as commands, in the order of preference."""
    if "SKVQ_TARGET" in os.environ or sys.platform == "win32":
        found = []
    elif os.environ.get("CXX"):
        found = [shlex.split(os.environ["CXX"])]
    else:
        found = [[name] for name in ("c++", "g++", "clang++") if shutil.which(name)]
    if sys.platform == "darwin":
        machine = target.partition("-")[0].replace("aarch64", "arm64")
        found = [[*compiler, "-arch", machine] for compiler in found]
    if importlib.util.find_spec("ziglang"):
        # Without a target, zig tunes the code for the very machine that it runs on; and
        # its c++ would compile a library of C++ first.
        found.append([sys.executable, "-m", "ziglang", "cc", "-target", target])
    return found


def name_of(compiler):
    """Return the name and version of a compiler."""
    if "ziglang" in compiler:
        version = run([*compiler[: compiler.index("ziglang") + 1], "version"])
        return f"ziglang {version.strip()}"
    return run([*compiler, "--version"]).partition("\n")[0]


def without_paths(compiler):
    """Return the command as wheels note it: names, and no folders of this machine."""
    if "ziglang" in compiler:
        # Without the Python that runs it.
        compiler = compiler[compiler.index("ziglang") :]
    # Of a flag such as --sysroot=/some/folder, the folder's name.
    return [
        FOLDERS.sub("", word) if word.startswith("-") else Path(word).name
        for word in compiler
    ]


def compiling(compiler, name):
    """Return the start of the command that compiles a source for a library."""
    return [*compiler, "-x", "c++", *FLAGS, *LIBRARY_FLAGS[name]["ziglang" in compiler]]


def linking(compiler, target):
    """Return the start of the command that makes a library."""
    if target.endswith("-musl") and "ziglang" in compiler:
        return [*compiler, *LINK_FLAGS, *ZIG_MUSL_FLAGS]
    return [*compiler, *LINK_FLAGS, *(LINUX_FLAGS if "-linux" in target else ())]


def accepts(compiler, target):
    """Whether a compiler is new enough (api.h), takes all flags, and links."""
    source = FOLDER / "abi.cc"
    with tempfile.TemporaryDirectory(prefix="skvq-") as scratch:
        made = Path(scratch, "abi.o")
        try:
            for name in libraries_of(target):
                run([*compiling(compiler, name), "-c", source, "-o", made], scratch)
            output = Path(scratch, "abi")
            run([*linking(compiler, target), made, "-o", output], scratch)
        except FailedError:
            return False
    return True


def zig_can_be_had():
    """Ask the installer that runs this build: asking for what it lacks would end it."""
    # Its own packages, and not those of the environment that builds.
    clean = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    options = ["install", "--dry-run", "--no-deps", "--only-binary=:all:", "--quiet"]
    uv = os.environ.get("UV")
    if uv:
        asked = [uv, "pip", *options, "--python", sys.executable, ZIG]
    else:
        asked = [sys.executable, "-m", "pip", *options, "--ignore-installed", ZIG]
    try:
        run(asked, environment=clean)
    except FailedError as error:
        # Who has neither is no user, but a tool that makes wheels.
        return "No module named pip" in str(error)
    return True


def run(command, cache=None, environment=os.environ):
    """Run a command, and return what it prints; zig keeps files in the cache."""
    if cache is not None:
        places = "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"
        environment = {**dict.fromkeys(places, str(cache)), **environment}
    text = shlex.join(map(str, command))
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise FailedError(f"{text} failed: {error}.") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise FailedError(f"{text} ended with status {done.returncode}: {said[:1000]}")
    return done.stdout


def replace(path, content):
    """Write a file that a process may have mapped: never into it, which is a crash."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def checksum(path):
    """Return the digest of a file; None if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def suffix_of(target):
    """Return how the names of libraries end."""
    return ".dll" if "-windows" in target else ".so"


def platform_tag():
    """Return the last part of the name of a wheel."""
    if "SKVQ_TARGET" in os.environ:
        return TAGS[os.environ["SKVQ_TARGET"]]
    if sys.platform == "darwin":  # get_platform() may say universal2
        return next(iter(platform_tags()))
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
