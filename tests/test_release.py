"""What .ci/release refuses, writes and compares; sdist, and README on an index."""

import datetime
import email
import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from skvq import _compat

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "release"
REPOSITORY = "https://code.example.org/skvq"
URLS = {
    "Repository": REPOSITORY,
    "Documentation": "https://docs.example.org/skvq",
    "Changelog": "https://docs.example.org/skvq/changes.html",
    "Issues": "https://code.example.org/skvq/issues",
}
# What a repository has that can be released as 0.2.0.
FILES = {
    "pyproject.toml": '[project]\nname = "skvq"\n',
    "CHANGELOG.md": "# Changes\n\n## Unreleased\n\n### Fixed\n\n- A fault.\n\n"
    "## 0.1.0 (2030-01-31)\n\n### Added\n\n- A thing.\n",
    "CITATION.cff": "cff-version: 1.2.0\nversion: 0.2.0.dev0\ntitle: skvq\n",
    "skvq/_version.py": '"""The version."""\n\n__version__ = "0.2.0.dev0"\n',
    "tests/interface/current.txt": "a\nb\n",
    "tests/interface/released.txt": "a\n",
    ".gitignore": "/dist/\n",
    "README.md": "# skvq\n\nA release, from 0.1.0 on:\n\n```console\n"
    "$ pip install skvq\n```\n",
    "docs/getting_started.md": "```sh\npip install skvq\n```\n",
    "docs/index.md": "```sh\npip install 'skvq[demo]'  # a release\n```\n",
}


def loaded(path):
    """Import a script."""
    loader = importlib.machinery.SourceFileLoader("release", str(path))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader("release", loader)
    )
    loader.exec_module(module)
    return module


release = loaded(SCRIPT)


def lines_of(urls):
    return "".join(f'{name} = "{address}"\n' for name, address in urls.items())


def git(root, *arguments):
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout


def put(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def commit(root, **changed):
    put(root, changed)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Change")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A repository with two releases, the later of them on another branch."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    root = tmp_path_factory.mktemp("template")
    put(root, FILES)
    put(root, {"pyproject.toml": f"{FILES['pyproject.toml']}[project.urls]\n"})
    with (root / "pyproject.toml").open("a") as file:
        file.write(lines_of(URLS))
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "config", "user.name", "Somebody")
    git(root, "config", "user.email", "somebody@example.org")
    git(root, "config", "commit.gpgsign", "false")
    git(root, "config", "tag.gpgsign", "false")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Begin")
    git(root, "tag", "v0.1.0")
    git(root, "checkout", "--quiet", "-b", "other")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "Other")
    git(root, "tag", "v0.3.0")
    git(root, "checkout", "--quiet", "main")
    return root


@pytest.fixture
def root(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "repository"))


def all_but(name):
    return {key: address for key, address in URLS.items() if key != name}


def without(name):
    """The settings, without one of the addresses."""
    return f"{FILES['pyproject.toml']}[project.urls]\n{lines_of(all_but(name))}"


# -- what is refused -------------------------------------------------------------------


def refusal(root, version="0.2.0", urls=None):
    with pytest.raises(release.RefusedError) as caught:
        release.check(root, version, urls)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_a_repository_that_can_be_released_is_not_refused(root):
    release.check(root, "0.2.0")
    # A mended release is later than the last one of its own branch only.
    release.check(root, "0.2.1")
    assert git(root, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    "version", ["0.2", "v0.2.0", "0.2.0rc1", "0.2.0.dev0", "0.02.0", "0.2.0+a", "", "x"]
)
def test_a_version_that_is_none(root, version):
    assert "three numbers, as in 0.1.0" in refusal(root, version)


def test_a_version_before_that_of_the_sources(root):
    assert "earlier than 0.2.0.dev0" in refusal(root, "0.1.5")


def test_a_version_that_is_not_later_than_the_last_release(root):
    commit(root, **{"skvq/_version.py": '__version__ = "0.0.1.dev0"\n'})
    assert "not later than the last release, 0.1.0" in refusal(root, "0.0.9")


@pytest.mark.parametrize("text", ["", "version = '0.2.0.dev0'\n"])
def test_sources_without_a_version(root, text):
    commit(root, **{"skvq/_version.py": text})
    assert 'skvq/_version.py has no line __version__ = "..."' in refusal(root)


def test_a_tag_that_exists(root):
    assert "there is a tag v0.3.0 already" in refusal(root, "0.3.0")


def test_a_change_that_is_not_committed(root):
    put(root, {"CITATION.cff": "changed\n"})
    assert "not as it was committed: CITATION.cff." in refusal(root)


def test_files_that_git_does_not_know(root):
    put(root, {"dist/0.1.0/ignored": "", "one": "", "two": ""})
    assert "not as it was committed: one and 1 more" in refusal(root)


def test_a_folder_that_is_no_clone(root):
    shutil.rmtree(root / ".git")
    assert "git refuses" in refusal(root)


def test_nobody_who_commits(root, monkeypatch):
    """Nor does git make a name of the account and the machine."""
    for name in ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    git(root, "config", "--unset", "user.email")
    git(root, "config", "user.useConfigOnly", "true")
    assert "git refuses: " in refusal(root) and "user.email" in refusal(root)


@pytest.mark.parametrize("kept", ["", "### Fixed\n\n"])
def test_nothing_unreleased(root, kept):
    text = FILES["CHANGELOG.md"].replace("### Fixed\n\n- A fault.\n\n", kept)
    assert "- A fault" not in text and "- A thing" in text
    commit(root, **{"CHANGELOG.md": text})
    assert 'nothing below "## Unreleased"' in refusal(root)


def test_no_part_for_what_is_unreleased(root):
    text = FILES["CHANGELOG.md"].replace("## Unreleased", "## Soon")
    commit(root, **{"CHANGELOG.md": text})
    assert 'nothing below "## Unreleased"' in refusal(root)


@pytest.mark.parametrize("kind", ["Added", "Changed", "Results change"])
def test_a_version_of_fixes_with_other_changes(root, kind):
    head = f"## Unreleased\n\n### {kind}\n\n- Other codebooks.\n"
    text = FILES["CHANGELOG.md"].replace("## Unreleased\n", head)
    commit(root, **{"CHANGELOG.md": text})
    said = refusal(root, "0.2.1")
    assert said.startswith("0.2.1 is a version of fixes") and f"also {kind}:" in said
    # What an earlier release has added does not count; a minor version may have all.
    release.check(root, "0.2.0")


@pytest.mark.parametrize("name", release.INSTALLING)
@pytest.mark.parametrize(
    "text",
    ["", "pip install -e .\n", "Once it is there, `pip install 'skvq[demo]'`.\n"],
)
def test_a_page_that_does_not_show_how_a_release_is_installed(root, name, text):
    commit(root, **{name: text})
    assert f"{name} has no line with pip install skvq" in refusal(root)


@pytest.mark.parametrize("name", ["docs/promises.md", "docs/a/b.rst", "examples/a.py"])
def test_a_page_that_speaks_as_if_there_were_no_release(root, name):
    commit(root, **{name: "# A page\n\nThe first\nrelease will be 0.1.0.\n"})
    said = (
        f"{name} speaks as if there were no release: The first release will be 0.1.0."
    )
    assert refusal(root) == said


@pytest.mark.parametrize(
    "text",
    [
        "What stays. Nothing was released so far: all may change.",
        "skvq has not been released.",
        "It is not yet\nreleased.",
        "No version was ever released.",
        "There is no release.",
        "skvq needs Python. It is installed from a clone of\nits repository:",
        "- The version is 0.2.0.dev0: a pickle of another one is refused.",
    ],
)
def test_what_holds_only_before_a_release(text):
    assert release.untrue(f"# A page\n\n{text}\n")


@pytest.mark.parametrize(
    "text",
    [
        "From 0.1.0 on, the first release, all of this holds.",
        "Every version reads what any released version has written.",
        "A floor moves in a minor version, never in a patch release.",
        "## Before the first release\n\nNothing else can know it.",
        "What is not released by its thread keeps the lock.",
    ],
)
def test_what_holds_before_and_after_a_release(text):
    assert release.untrue(text) == []


def test_the_pages_of_this_tree_hold_after_a_release():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a clone: nothing tells which pages there are")
    release.check_pages(ROOT)


@pytest.mark.parametrize("name", URLS)
def test_a_missing_address(root, name):
    commit(root, **{"pyproject.toml": without(name)})
    assert f"project.urls of pyproject.toml lacks {name}:" in refusal(root)


@pytest.mark.parametrize("address", ["", "http://x.org", "https://...", "TODO"])
def test_an_address_that_is_none(root, address):
    settings = without("Issues") + f'Issues = "{address}"\n'
    commit(root, **{"pyproject.toml": settings})
    assert f"Issues of project.urls is no address: {address!r}" in refusal(root)


def test_addresses_of_a_trial_are_for_settings_without(root):
    assert "leave --urls out" in refusal(root, urls=URLS)
    commit(root, **{"pyproject.toml": FILES["pyproject.toml"]})
    assert "lacks Repository, Documentation, Changelog, Issues" in refusal(root)
    assert "lacks Issues" in refusal(root, urls={"Issuez": "", **all_but("Issues")})
    release.check(root, "0.2.0", URLS)


@pytest.mark.parametrize("text", ["title: skvq\n", "version: 1\nversion: 2\n"])
def test_a_citation_whose_version_cannot_be_written(root, text):
    commit(root, **{"CITATION.cff": text})
    assert "CITATION.cff has" in refusal(root)


@pytest.mark.parametrize(
    "name",
    [
        "CITATION.cff",
        "CHANGELOG.md",
        "README.md",
        "skvq/_version.py",
        "tests/interface/current.txt",
        "tests/interface/released.txt",
    ],
)
def test_a_missing_file(root, name):
    (root / name).unlink()
    commit(root)
    assert f"{Path(name).name} cannot be read" in refusal(root)


def test_files_of_the_version(root):
    put(root, {"dist/0.2.0/skvq-0.2.0.tar.gz": ""})
    assert "dist/0.2.0 is there" in refusal(root)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "required: version"),
        (["0.2.0", "--urls", "x"], "--urls is for a --dry-run"),
        (["0.2.0", "--local-only"], "--local-only is for a --dry-run"),
        (["0.2.0", "--dry"], "unrecognized arguments: --dry"),
    ],
)
def test_wrong_arguments(capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        release.main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("text", [None, "Issues: x\n"])
def test_a_file_of_addresses_that_has_none(tmp_path, capsys, text):
    path = tmp_path / "urls.toml"
    if text is not None:
        path.write_text(text)
    assert release.main(["0.2.0", "--dry-run", "--urls", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("release: ") and "urls.toml" in line


def test_a_refusal_is_one_line_and_status_2(root):
    """Of the script itself, which goes by the repository that it lies in."""
    put(root, {".ci/release": SCRIPT.read_text()})
    done = subprocess.run(
        [sys.executable, root / ".ci" / "release", "0.2.0"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "release: the tree is not as it was committed: .ci/.\n"


# -- what is written -------------------------------------------------------------------

DATE = datetime.date(2031, 2, 28)


def test_a_release_is_two_commits_and_a_tag(root, tmp_path):
    clone = release.cloned(root, tmp_path / "clone")
    release.commit_release(clone, "0.2.0", None, DATE)
    release.commit_next(clone, "0.2.0")
    put(tmp_path, {"dist/SHA256SUMS": "x"})
    release.keep(root, clone, tmp_path / "dist", "0.2.0")

    def at(name, revision="v0.2.0"):
        return git(root, "show", f"{revision}:{name}")

    assert git(root, "status", "--porcelain") == ""
    assert (root / "dist" / "0.2.0" / "SHA256SUMS").read_text() == "x"
    assert git(root, "rev-parse", "v0.2.0^{}") == git(root, "rev-parse", "HEAD~1")
    assert git(root, "cat-file", "-t", "v0.2.0") == "tag\n"
    assert git(root, "log", "-2", "--format=%an %s").splitlines() == [
        "Somebody Begin 0.3.0.dev0",
        "Somebody Release 0.2.0",
    ]
    assert at("CHANGELOG.md") == FILES["CHANGELOG.md"].replace(
        "## Unreleased\n", "## Unreleased\n\n## 0.2.0 (2031-02-28)\n"
    )
    for revision, version in (("v0.2.0", "0.2.0"), ("HEAD", "0.3.0.dev0")):
        text = f'"""The version."""\n\n__version__ = "{version}"\n'
        assert at("skvq/_version.py", revision) == text
        assert f"\nversion: {version}\n" in at("CITATION.cff", revision)
    assert "date-released: 2031-02-28\n" in at("CITATION.cff")
    assert at("CITATION.cff", "HEAD") == FILES["CITATION.cff"].replace("0.2.0", "0.3.0")
    assert at("tests/interface/released.txt") == FILES["tests/interface/current.txt"]
    # Nothing is left to release.
    assert 'nothing below "## Unreleased"' in refusal(root, "0.4.0")


def test_a_branch_that_has_moved_keeps_nothing(root, tmp_path):
    clone = release.cloned(root, tmp_path / "clone")
    release.commit_release(clone, "0.2.0", None, DATE)
    commit(root, other="")
    put(tmp_path, {"dist/SHA256SUMS": "x"})
    with pytest.raises(release.FailedError, match="ff-only"):
        release.keep(root, clone, tmp_path / "dist", "0.2.0")
    assert git(root, "tag", "--list", "v0.2.0") == ""
    assert not (root / "dist").exists()


def test_addresses_of_a_trial_are_in_what_is_built(root, tmp_path):
    commit(root, **{"pyproject.toml": FILES["pyproject.toml"]})
    clone = release.cloned(root, tmp_path / "clone")
    release.commit_release(clone, "0.2.0", URLS, DATE)
    settings = tomllib.loads(git(clone, "show", "v0.2.0:pyproject.toml"))
    assert settings["project"] == {"name": "skvq", "urls": URLS}


@pytest.mark.parametrize(
    "version, following",
    [("0.1.0", "0.2.0.dev0"), ("0.1.9", "0.1.10.dev0"), ("1.0.0", "1.1.0.dev0")],
)
def test_the_version_after_a_release(version, following):
    assert release.next_version(version) == following


# -- what is compared ------------------------------------------------------------------


def archives(folder, content, name="skvq/a.py"):
    """Write an sdist and a wheel."""
    folder.mkdir()
    put(folder, {"source": content})
    with tarfile.open(folder / "skvq-0.2.0.tar.gz", "w:gz") as archive:
        archive.add(folder / "source", f"skvq-0.2.0/{name}", filter=at_the_epoch)
    (folder / "source").unlink()
    with zipfile.ZipFile(folder / "skvq-0.2.0-py3-none-any.whl", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)
    return folder


def at_the_epoch(member):
    member.mtime = 0
    return member


def test_files_that_were_built_twice(tmp_path):
    one = archives(tmp_path / "one", "a")
    assert release.differences(one, one) == []
    other = archives(tmp_path / "other", "b")
    assert [line.partition(": ")[2] for line in release.differences(one, other)] == [
        "skvq/a.py",
        "skvq-0.2.0/skvq/a.py",
    ]
    (other / "skvq-0.2.0.tar.gz").unlink()
    (other / "skvq-0.2.0-py3-none-any.whl").write_bytes(
        (one / "skvq-0.2.0-py3-none-any.whl").read_bytes()
    )
    assert len(release.differences(one, other)) == 1


def test_checksums(tmp_path):
    put(tmp_path, {"b": "abc", "a": ""})
    assert release.write_checksums(tmp_path) == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n"
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b\n"
    )
    assert (tmp_path / "SHA256SUMS").read_text().count("\n") == 2


METADATA = "Metadata-Version: 2.4\nName: skvq\nVersion: 0.2.0\n" + "".join(
    f"Project-URL: {name}, {address}\n" for name, address in URLS.items()
)


def test_metadata():
    release.check_metadata("x.whl", METADATA, "0.2.0", METADATA)
    for text, said in (
        (METADATA.replace("0.2.0", "0.2.0.dev0"), "version 0.2.0.dev0"),
        (METADATA.replace("Issues", "Tracker"), "addresses of Repository"),
        (METADATA + "Summary: other\n", "other metadata"),
    ):
        with pytest.raises(release.FailedError, match=said):
            release.check_metadata("x.whl", text, "0.2.0", METADATA)


# -- the sdist and the README of this tree ---------------------------------------------


@pytest.fixture(scope="module")
def hook():
    """hatch_build.py."""
    pytest.importorskip("hatchling")
    return loaded(ROOT / "hatch_build.py")


def sdist(root, folder, monkeypatch):
    """Build the sdist of a folder, and return its path."""
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(root)
    return folder / build.build_sdist(str(folder))


def test_the_sdist_has_all_that_git_tracks(tmp_path, monkeypatch):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a clone: nothing tells what the sdist should have")
    # With what is about to be added; but what .gitignore does not name, no build knows.
    options = "--cached", "--others", "--exclude-per-directory=.gitignore"
    known = git(ROOT, "ls-files", "-z", *options)
    tracked = [name for name in known.split("\0")[:-1] if (ROOT / name).exists()]
    made = release.members(sdist(ROOT, tmp_path, monkeypatch))
    assert release.incomplete(made, tracked) == []


@pytest.mark.parametrize("place", ["work", "build"])
@pytest.mark.parametrize("planted", ["", '"/docs/*.md", '])
def test_what_is_left_out_of_an_sdist_is_found(tmp_path, monkeypatch, place, planted):
    """With this tree's settings, also below a folder that git ignores elsewhere."""
    settings = (ROOT / "pyproject.toml").read_text()
    assert 'exclude = ["/skvq/nearest/native/_[a-z]*"]' in settings
    root = tmp_path / place / "skvq"
    put(root, {name: "x\n" for name in ("docs/a.md", ".ci/run", "tests/test_a.py")})
    put(root, {"skvq/nearest/native/_v3.so": "compiled"})
    shutil.copy(ROOT / ".gitignore", root)
    if place == "work":
        put(root, {"docs/_build/html/a.html": "made"})
    table = settings.partition("\n[tool.hatch.build.targets.sdist]\n")[2]
    table = table.partition("\n[")[0].replace("exclude = [", f"exclude = [{planted}")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\n[project]\nname = "skvq"\nversion = "0.2.0"\n'
        f"[tool.hatch.build.targets.sdist]\n{table}\n"
    )
    tracked = "pyproject.toml", ".gitignore", "docs/a.md", ".ci/run", "tests/test_a.py"
    made = release.members(sdist(root, tmp_path, monkeypatch))
    found = release.incomplete(made, tracked)
    assert found == (["left out: docs/a.md"] if planted else [])
    assert release.incomplete(made, tracked[1:])[-1] == "not in git: pyproject.toml"


def test_metadata_tell_where_the_documentation_is(tmp_path, monkeypatch):
    root = tmp_path / "skvq"
    settings = FILES["pyproject.toml"] + 'version = "0.2.0"\n[project.urls]\n'
    put(root, {"pyproject.toml": settings + lines_of(URLS), "a.py": ""})
    text = release.content_of(sdist(root, tmp_path, monkeypatch))
    release.check_metadata("skvq-0.2.0.tar.gz", text, "0.2.0", text)
    monkeypatch.setattr(_compat, "metadata", lambda _: email.message_from_string(text))
    assert _compat.documentation_address() == URLS["Documentation"]


PATTERNS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"][
    "metadata"
]["hooks"]["custom"]


def described(hook, urls, version="0.2.0"):
    """The README of this tree, as the metadata have it."""
    metadata = {"version": version, **({"urls": urls} if urls else {})}
    hook.Readme(str(ROOT), PATTERNS).update(metadata)
    assert metadata["readme"]["content-type"] == "text/markdown"
    return metadata["readme"]["text"]


def test_links_of_the_readme_lead_to_the_files_of_the_tag(hook):
    text = described(hook, URLS)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert all(target.startswith("https://") for target in targets)
    own = [one for one in targets if one.startswith(REPOSITORY)]
    assert len(own) > 10
    for target in own:
        kind, ref, name = target.removeprefix(f"{REPOSITORY}/").split("/", 2)
        assert ref == "v0.2.0" and (ROOT / name.partition("#")[0]).exists()
        assert kind == ("raw" if name.endswith(".png") else "blob")
    assert f"]({REPOSITORY}/raw/v0.2.0/docs/images/demo.png)" in text
    # All else is as it was.
    prefix = re.compile(rf"{REPOSITORY}/(blob|raw)/v0\.2\.0/")
    assert prefix.sub("", text) == (ROOT / "README.md").read_text()


def test_without_addresses_the_readme_is_as_it_is(hook):
    text = (ROOT / "README.md").read_text()
    assert described(hook, None) == text
    assert described(hook, {"Issues": URLS["Issues"]}) == text


def test_a_version_that_is_worked_on_has_no_tag(hook):
    assert f"{REPOSITORY}/blob/HEAD/CONTRIBUTING.md" in described(
        hook, URLS, "0.2.0.dev0"
    )


@pytest.mark.parametrize(
    "text, found",
    [
        ("[a](docs/a.md#b)", "[a](R/blob/v1.0.0/docs/a.md#b)"),
        ("[![a](a.png)](b.md)", "[![a](R/raw/v1.0.0/a.png)](R/blob/v1.0.0/b.md)"),
        ('[a](b.md "c")', '[a](R/blob/v1.0.0/b.md "c")'),
        ("[`a`](b.md)", "[`a`](R/blob/v1.0.0/b.md)"),
        ("[a]: b.md", "[a]: R/blob/v1.0.0/b.md"),
        ('<img src="a.svg">', '<img src="R/raw/v1.0.0/a.svg">'),
        ('<a href="a.md">', '<a href="R/blob/v1.0.0/a.md">'),
        ("[a](https://x.org/a.md)", None),
        ("[a](#b)", None),
        ("[a](mailto:x@example.org)", None),
        ("`a[0](b)`", None),
        ("```python\na[0](b)\n```\n", None),
        ("[^1]: A note.", None),
    ],
)
def test_what_is_a_link(hook, text, found):
    text, found = (
        f"\n{text}\n",
        f"\n{found or text}\n".replace("(R/", "(https://r.org/"),
    )
    found = re.sub(r"(\"| )R/", r"\1https://r.org/", found)
    assert hook.with_addresses(text, "https://r.org/", "1.0.0", PATTERNS) == found


def test_links_that_an_index_page_cannot_follow_are_found():
    page = (
        '<a href="https://x.org">x</a><a href="#b">b</a><img src="https://x.org/a.png">'
    )
    assert release.lost_links(page) == []
    page += '<img src="docs/a.png"><a href="b.md">b</a><a href="/c">c</a><a href>d</a>'
    assert release.lost_links(page) == ["docs/a.png", "b.md", "/c", ""]


# -- extras ----------------------------------------------------------------------------

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


def unknown_extras(text):
    """Return the extras that a text says to install, and that there are not."""
    lists = re.findall(r"skvq\[([\w, -]+)\]", text)
    lists += re.findall(r"pip install (?:-q )?(?:-e )?\"?\.\[([\w, -]+)\]", text)
    return {name.strip() for one in lists for name in one.split(",")} - set(EXTRAS)


def test_extras_that_texts_say_to_install_are_there():
    patterns = "*.md", "*.toml", ".ci/*", "docs/**/*.md", "examples/*.py"
    patterns += "benchmarks/*.*", "skvq/**/*.py"
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    texts = [path.read_text(encoding="utf-8") for path in paths if path.is_file()]
    assert unknown_extras("\n".join(texts)) == set()
    planted = "pip install 'skvq[cupy]' or pip install -e \".[test,lintt]\""
    assert unknown_extras(planted) == {"cupy", "lintt"}


@pytest.mark.parametrize("version", ["12", "13"])
@pytest.mark.parametrize(
    "system, machine, there",
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", True),
        ("win32", "AMD64", True),
        ("linux", "ppc64le", False),
        ("win32", "x86", False),
        ("darwin", "arm64", False),
    ],
)
def test_cupy_is_asked_for_where_it_has_wheels(version, system, machine, there):
    (text,) = EXTRAS[f"cuda{version}"]
    requirement = Requirement(text)
    assert requirement.name == f"cupy-cuda{version}x"
    place = {"sys_platform": system, "platform_machine": machine}
    assert requirement.marker.evaluate(place) == there
