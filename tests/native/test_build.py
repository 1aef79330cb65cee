"""The build and the choice of the compiled engine, on copies of its folder.

.ci/native installs it for real: with a compiler, with ziglang alone, with neither.
"""

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

import skvq
from skvq.nearest import native

ROOT = Path(skvq.__file__).parents[1]
FOLDER = Path(native.__file__).parent
HERE = native.LEVELS.get(native.machine(), {})
X86 = native.machine() == "x86_64"
LOADED = "v4", "v3", "neon"


def load(path):
    """Import a file anew, so that it has chosen nothing yet."""
    spec = importlib.util.spec_from_file_location(path.stem.strip("_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hook():
    """hatch_build.py, for a folder that has the loader and two small sources."""
    if not (ROOT / "hatch_build.py").exists():
        pytest.skip("needs the source tree")
    pytest.importorskip("hatchling")
    return load(ROOT / "hatch_build.py")


@pytest.fixture(scope="module")
def compiled(hook, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled") / "skvq" / "nearest" / "native"
    folder.mkdir(parents=True)
    for name in ("__init__.py", "abi.cc", "api.h", "cpu.cc"):
        shutil.copy(FOLDER / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hook, "FOLDER", folder)
        patch.delenv("SKVQ_NO_NATIVE", raising=False)
        if not HERE or not hook.compilers_for(hook.wanted_target()):
            pytest.skip("needs a compiler")
        assert hook.build(folder) is None
    return folder


@pytest.fixture
def folder(compiled, hook, tmp_path, monkeypatch):
    """A copy with libraries that may be changed; nothing is forced."""
    copy = tmp_path / "skvq" / "nearest" / "native"
    shutil.copytree(compiled, copy)
    monkeypatch.setattr(hook, "FOLDER", copy)
    for name in (native.VARIABLE, "SKVQ_NO_NATIVE", "SKVQ_TARGET"):
        monkeypatch.delenv(name, raising=False)
    return copy


def loader(folder):
    return load(folder / "__init__.py")


def libraries(folder):
    paths = [*folder.glob("_*.so"), *folder.glob("_*.dll")]
    return sorted(path.name for path in paths)


class TestChoice:
    def test_loads_the_best_that_the_processor_runs(self, folder):
        module = loader(folder)
        status = module.status()
        found = module.library()
        if X86 and Path("/proc/cpuinfo").exists():
            flags = set(Path("/proc/cpuinfo").read_text().split())
            three = {"avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe"} <= flags
            more = ("f", "bw", "cd", "dq", "vl", "vbmi", "_vnni")
            more = {f"avx512{x}" for x in more}
            expected = None if not three else "v4" if more <= flags else "v3"
            assert status.level == expected
        if status.level is None:
            assert found is None and status.reason
            return
        assert status.path == str(folder / f"_{status.level}{Path(status.path).suffix}")
        assert Path(found._name) == Path(status.path)
        note = json.loads((folder / native.NOTE).read_text())
        assert status.compiler == note["compiler"] and status.reason is None

    @pytest.mark.parametrize(
        "runs, expected", [(4, "v4"), (3, "v3"), (0, None)], ids=str
    )
    def test_goes_by_what_cpuid_says(self, folder, monkeypatch, runs, expected):
        if not X86:
            pytest.skip("arm64 has one library")
        module = loader(folder)
        monkeypatch.setattr(module, "_cpu_level", lambda: runs)
        # Nothing in these libraries needs the instructions.
        assert module.status().level == expected
        if expected is None:
            assert module.library() is None
            assert "AVX2" in module.status().reason

    def test_one_library_is_loaded_once_by_any_number_of_threads(
        self, folder, monkeypatch
    ):
        module, opened, found = loader(folder), [], []
        real = ctypes.CDLL

        def counted(path):
            opened.append(Path(path).stem)
            return real(path)

        monkeypatch.setattr(module.ctypes, "CDLL", counted)
        together = threading.Barrier(8)

        def ask():
            together.wait()
            found.append(module.library())

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8 and len(set(map(id, found))) == 1
        assert len(opened) == len(set(opened)) == 1 + X86

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_child_does_not_wait_for_a_thread_of_its_parent(self, folder):
        script = (
            "import os, sys, threading\n"
            "module._lock.acquire()\n"  # as a thread would that is loading
            "child = os.fork()\n"
            "if child == 0:\n"
            "    os._exit(0 if module.status().level else 9)\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        )
        level = loader(folder).status().level
        assert said(folder, script).split() == ["0" if level else "9"]


def said(folder, script, **environment):
    """What a new process prints that has loaded the loader alone."""
    start = (
        "import importlib.util, json\n"
        f"spec = importlib.util.spec_from_file_location('n', {str(folder)!r} + "
        "'/__init__.py')\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "import sys; sys.modules['n'] = module\n"
        "spec.loader.exec_module(module)\n"
    )
    clean = {k: v for k, v in os.environ.items() if k != native.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", start + script],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ASK = """
try:
    found = module.library()
except Exception as error:
    print(json.dumps([type(error).__name__, str(error), module.status().reason]))
else:
    print(json.dumps([found and found._name, *module.status()]))
"""


class TestForced:
    def ask(self, folder, value):
        return json.loads(said(folder, ASK, SKVQ_NATIVE=value))

    def test_numpy(self, folder):
        found, level, *_, reason = self.ask(folder, "numpy")
        assert found is level is None
        assert reason == "SKVQ_NATIVE=numpy."

    @pytest.mark.parametrize("value", ["v2", "V3", "avx2", "1", " v3"])
    def test_another_name_is_an_error_that_names_all(self, folder, value):
        kind, message, reason = self.ask(folder, value)
        assert kind == "ValueError" and message == reason
        assert repr(value) in message
        assert all(name in message for name in ("v3", "v4", "neon", "numpy"))

    @pytest.mark.parametrize("level", LOADED)
    def test_each_name_is_loaded_or_an_error_that_says_why(self, folder, level):
        best = loader(folder).status().level
        answer = self.ask(folder, level)
        if level not in HERE:
            assert answer[0] == "ImportError"
            assert f"SKVQ_NATIVE={level}: " in answer[1]
            assert all(name in answer[1] for name in HERE)
        elif best is None or (level == "v4" and best == "v3"):
            # Said before it is loaded, and long before an instruction is met.
            assert answer[0] == "ImportError" and "lacks" in answer[1]
            assert HERE[level] in answer[1]
        else:
            assert answer[1] == level and f"_{level}." in answer[0]

    def test_what_was_not_built_is_an_error(self, folder):
        level = next(iter(HERE))
        for path in folder.glob(f"_{level}.*"):
            path.unlink()
        kind, message, _ = self.ask(folder, level)
        assert kind == "ImportError" and "not built" in message

    def test_the_empty_value_forces_nothing(self, folder):
        assert self.ask(folder, "")[1] == loader(folder).status().level


@pytest.fixture
def level(compiled, monkeypatch):
    """What runs here; a library that is loaded from `folder` could not be changed."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    found = loader(compiled).status().level
    return found or pytest.skip("this processor runs no library")


@pytest.mark.usefixtures("level")
class TestStale:
    @pytest.mark.parametrize("change", ["text", "new", "gone"])
    def test_warns_once_and_leaves_it_to_numpy(self, folder, change):
        if change == "text":
            source = folder / "abi.cc"
            source.write_text(source.read_text() + "// another line\n")
        elif change == "new":
            (folder / "more.h").write_text("")
        else:
            (folder / "cpu.cc").unlink()
        module = loader(folder)
        with pytest.warns(RuntimeWarning, match=r"NumPy computes.*`pip install -e \.`"):
            assert module.library() is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert module.library() is None
        status = module.status()
        assert status.level is status.path is None
        # The folder in which to say it.
        assert str(folder.parents[2]) in status.reason

    def test_one_call_raises_where_warnings_are_errors(self, folder):
        (folder / "more.h").write_text("")
        module = loader(folder)
        with pytest.raises(RuntimeWarning, match="pip install"):
            module.library()
        assert module.library() is None

    def test_is_an_error_if_it_was_asked_for(self, folder, monkeypatch, level):
        (folder / "more.h").write_text("")
        module = loader(folder)
        monkeypatch.setenv(native.VARIABLE, level)
        for _ in range(2):
            with pytest.raises(ImportError, match="other sources"):
                module.library()

    def test_ends_of_lines_do_not_count(self, folder):
        for path in folder.glob("*.cc"):
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert loader(folder).library() is not None

    def test_is_not_asked_where_there_are_no_sources(self, folder):
        for path in [*folder.glob("*.cc"), *folder.glob("*.h")]:
            path.unlink()
        assert loader(folder).library() is not None


class TestMissing:
    def test_says_that_it_was_not_built(self, folder):
        for name in libraries(folder):
            (folder / name).unlink()
        module = loader(folder)
        assert module.library() is None
        assert "not built" in module.status().reason

    @pytest.mark.usefixtures("level")
    def test_says_what_the_system_says_of_a_broken_file(self, folder):
        for name in libraries(folder):
            if "cpu" not in name:
                (folder / name).write_bytes(b"no library")
        module = loader(folder)
        assert module.library() is None
        assert "cannot be loaded" in module.status().reason

    @pytest.mark.parametrize("note", ["", "{}", '{"error": null}'])
    def test_a_note_that_says_nothing_is_no_error(self, folder, note):
        for name in libraries(folder):
            (folder / name).unlink()
        (folder / native.NOTE).write_text(note)
        assert "not built" in loader(folder).status().reason


class TestBuild:
    def test_has_a_library_for_each_level(self, folder):
        names = {Path(name).stem for name in libraries(folder)}
        assert names == {f"_{level}" for level in HERE} | ({"_cpu"} if X86 else set())

    def test_takes_what_is_there_and_mends_what_is_broken(self, folder, hook):
        names = libraries(folder)
        before = {name: (folder / name).stat().st_ino for name in names}
        assert hook.build(folder) is None
        assert before == {name: (folder / name).stat().st_ino for name in names}
        content = (folder / names[0]).read_bytes()
        (folder / names[0]).write_bytes(content[:-1])
        assert hook.build(folder) is None
        # The same sources make the same bytes.
        assert (folder / names[0]).read_bytes() == content

    @pytest.mark.usefixtures("level")
    def test_never_writes_into_a_library_that_is_loaded(self, folder, hook):
        module = loader(folder)
        library = module.library()
        path = Path(module.status().path)
        old = module._said(library, "skvq_sources").encode()
        assert old in path.read_bytes()
        inode = path.stat().st_ino
        (folder / "more.h").write_text("")
        assert hook.build(folder) is None
        assert path.stat().st_ino != inode and old not in path.read_bytes()
        assert module._said(library, "skvq_sources").encode() == old

    def test_not_wanted(self, folder, hook, monkeypatch):
        monkeypatch.setenv("SKVQ_NO_NATIVE", "1")
        self.is_pure(folder, hook, "SKVQ_NO_NATIVE")

    def test_no_compiler(self, folder, hook, monkeypatch):
        monkeypatch.setenv("PATH", os.devnull)
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setattr(hook.importlib.util, "find_spec", lambda name: None)
        self.is_pure(folder, hook, "No C++ compiler was found")

    def test_a_compiler_that_fails(self, folder, hook, monkeypatch):
        (folder / "broken.cc").write_text("#error this is the reason\n")
        self.is_pure(folder, hook, "this is the reason")

    def test_a_compiler_that_is_not_there(self, folder, hook, monkeypatch):
        monkeypatch.setenv("CXX", "no-such-compiler --quick")
        (folder / "abi.cc").write_text("")
        monkeypatch.setattr(hook.importlib.util, "find_spec", lambda name: None)
        self.is_pure(folder, hook, "no-such-compiler --quick --version failed")

    def test_another_machine(self, folder, hook, monkeypatch):
        monkeypatch.setitem(hook.LOADER, "machine", lambda: "s390x")
        self.is_pure(folder, hook, "no compiled engine for s390x")

    def is_pure(self, folder, hook, reason):
        error = hook.build(folder)
        assert reason in error
        # Old ones are gone: they would have been used.
        assert libraries(folder) == []
        module = loader(folder)
        assert module.library() is None
        assert module.status().reason == error

    def test_the_note_has_no_path_of_this_machine(self, folder, hook, monkeypatch):
        found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if found is None:
            pytest.skip("needs a compiler of the system")
        monkeypatch.setenv("CXX", f"{found} -I{folder} -iquote {folder}/")
        assert hook.build(folder) is None
        text = (folder / native.NOTE).read_text()
        note = json.loads(text)
        name = Path(found).name
        assert {command.split()[0] for command in note["commands"].values()} == {name}
        assert f"{name} -Inative -iquote native " in note["commands"]["cpu"]
        assert str(Path(found).parent) not in text and str(folder.parent) not in text

    @pytest.mark.parametrize(
        "command, noted",
        [
            ("c++ -arch arm64", "c++ -arch arm64"),
            ("/opt/conda/bin/x86_64-conda-linux-gnu-c++", "x86_64-conda-linux-gnu-c++"),
            ("ccache ../bin/g++ -O1", "ccache g++ -O1"),
            ("g++ --sysroot=/opt/tree -L../lib", "g++ --sysroot=tree -Llib"),
            ("g++ -Wl,-rpath,/opt/b,-z,now", "g++ -Wl,-rpath,b,-z,now"),
            ("/usr/bin/python -m ziglang cc -O1", "ziglang cc -O1"),
        ],
    )
    def test_commands_are_noted_by_name(self, hook, command, noted):
        assert " ".join(hook.without_paths(command.split())) == noted

    def test_a_folder_that_cannot_be_written_to_ends_no_install(
        self, folder, hook, monkeypatch
    ):
        def refuse(path, content):
            raise PermissionError("read-only")

        monkeypatch.setattr(hook, "replace", refuse)
        (folder / "more.h").write_text("")
        assert "read-only" in hook.build(folder)


class TestHook:
    def make(self, hook):
        made = hook.NativeEngine.__new__(hook.NativeEngine)
        made.said = []
        made._BuildHookInterface__app = type(
            "App", (), {"display_warning": lambda self, text: made.said.append(text)}
        )()
        return made

    def test_asks_for_ziglang_only_where_it_is_needed_and_had(
        self, folder, hook, monkeypatch
    ):
        monkeypatch.setattr(hook, "zig_can_be_had", lambda: True)
        assert self.make(hook).dependencies() == []
        # There is a compiler, and it is too old.
        api = folder / "api.h"
        api.write_text("#error too old\n" + api.read_text())
        assert self.make(hook).dependencies() == [hook.ZIG]
        monkeypatch.setattr(hook, "compilers_for", lambda target: [])
        assert self.make(hook).dependencies() == [hook.ZIG]
        monkeypatch.setattr(hook, "zig_can_be_had", lambda: False)
        assert self.make(hook).dependencies() == []
        monkeypatch.setattr(hook, "zig_can_be_had", lambda: True)
        monkeypatch.setenv("SKVQ_NO_NATIVE", "1")
        assert self.make(hook).dependencies() == []

    def test_a_wheel_has_its_tag_and_its_libraries(self, folder, hook):
        data = {"force_include": {}}
        made = self.make(hook)
        made.initialize("standard", data)
        assert data["pure_python"] is False
        assert data["tag"].startswith("py3-none-") and "any" not in data["tag"]
        inside = {Path(path).name for path in data["force_include"].values()}
        assert inside == {*libraries(folder), native.NOTE}
        assert all(Path(path).exists() for path in data["force_include"])
        made.finalize("standard", data, "")
        assert not any(Path(path).exists() for path in data["force_include"])

    def test_a_pure_wheel_has_the_reason(self, folder, hook, monkeypatch):
        monkeypatch.setenv("SKVQ_NO_NATIVE", "1")
        data = {"force_include": {}}
        made = self.make(hook)
        made.initialize("standard", data)
        assert list(data) == ["force_include"]
        assert list(data["force_include"].values()) == [
            f"skvq/nearest/native/{native.NOTE}"
        ]
        assert "SKVQ_NO_NATIVE" in made.said[0]
        made.finalize("standard", data, "")

    def test_a_wheel_for_another_machine_is_never_a_pure_one(
        self, folder, hook, monkeypatch
    ):
        for target in ("x86_64-linux-gnu.2.99", "aarch64-linux-musl"):
            monkeypatch.setenv("SKVQ_TARGET", target)
            monkeypatch.setattr(hook, "compilers_for", lambda target: [])
            with pytest.raises(RuntimeError, match=r"SKVQ_TARGET|compiler"):
                self.make(hook).initialize("standard", {"force_include": {}})

    def test_each_target_has_its_libraries(self, hook, folder):
        names = {target: set(hook.libraries_of(target)) for target in hook.TAGS}
        for target, found in names.items():
            if target.startswith("aarch64"):
                assert found == {"neon"}
            else:
                macos = "macos" in target
                assert found == {"cpu", "v3"} | (set() if macos else {"v4"})
        sources = hook.libraries_of("aarch64-linux-musl")["neon"]
        assert [path.name for path in sources] == ["abi.cc"]


class TestShowVersions:
    def show(self, capsys):
        skvq.show_versions()
        lines = capsys.readouterr().out.splitlines()
        return dict(line.split(": ", 1) for line in lines)

    def test_what_a_report_needs(self, capsys):
        said = self.show(capsys)
        assert said["skvq"] == skvq.__version__
        for name in ("numpy", "scipy", "scikit-learn", "python", "platform"):
            assert said[name]
        assert "threads" in said["blas"]
        status = native.status()
        if status.level is None:
            assert said["compiled engine"] == f"none. {status.reason}"
        else:
            file = Path(status.path).name
            expected = f"{status.level} ({file}, {status.compiler})"
            assert said["compiled engine"] == expected

    @pytest.mark.parametrize(
        "status, expected",
        [
            (native.Status("v4", "/a/_v4.so", "gcc 9", None), "v4 (_v4.so, gcc 9)"),
            (native.Status(None, None, None, "No luck."), "none. No luck."),
        ],
    )
    def test_the_compiled_engine(self, capsys, monkeypatch, status, expected):
        monkeypatch.setattr(native, "status", lambda: status)
        assert self.show(capsys)["compiled engine"] == expected

    def test_optional_libraries_are_told_and_not_imported(self, capsys, monkeypatch):
        real = importlib.metadata.version

        def version(name):
            return "13.9" if name == "cupy-cuda12x" else real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        before = {"cupy", "torch"} & set(sys.modules)
        assert self.show(capsys)["cupy-cuda12x"] == "13.9"
        assert {"cupy", "torch"} & set(sys.modules) == before

    def test_a_wrong_name_is_told_and_no_error(self, capsys, monkeypatch):
        monkeypatch.setenv(native.VARIABLE, "v5")
        monkeypatch.setattr(native, "_chosen", None)
        assert "'v5'" in self.show(capsys)["compiled engine"]
