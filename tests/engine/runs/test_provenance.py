"""The state of the code that a run records, in a checkout of its own."""

import subprocess

import pytest

from athanor.base.errors import UserError
from athanor.engine.config import trust
from athanor.engine.runs import provenance
from athanor.engine.runs.run import Run


def git(folder, *words):
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a committed file, in place of ours."""
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q")
    (root / "old.py").write_text("a = 1\n")
    (root / ".gitignore").write_text("ignored.py\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "checkout", lambda: root)
    monkeypatch.setattr(provenance.options, "CONFIGS", root / "configs")
    return root


@pytest.fixture
def state(tmp_path):
    """The recorded state, and the patch that is kept with the run."""
    run = tmp_path / "run"
    run.mkdir()

    def state():
        recorded = provenance.git_state(run)
        patch = run / "changes.diff"
        return recorded, patch.read_text() if patch.exists() else ""

    return state


def test_a_checkout_without_changes_has_no_patch(checkout, state):
    recorded, patch = state()
    assert (recorded["commit"], recorded["changed"], patch) == (git(checkout, "rev-parse", "HEAD").strip(), [], "")


def test_new_source_files_belong_to_the_state_of_the_code(checkout, state):
    before, _ = state()
    (checkout / "old.py").write_text("a = 2\n")
    (checkout / "src").mkdir()
    (checkout / "src" / "mine b.py").write_text("width = 3\n")
    (checkout / "mine.yaml").write_text("width: 3\n")
    for name in "ignored.py", "notes.txt":
        (checkout / name).write_text("secret")
    (checkout / "large.py").write_text("#" * (provenance.SOURCE_BYTES + 1))
    recorded, patch = state()
    assert recorded["changed"] == [" M old.py", "?? mine.yaml", "?? src/mine b.py"]
    assert "+a = 2" in patch and "+width = 3" in patch and "+width: 3" in patch and "secret" not in patch
    (checkout / "src" / "mine b.py").write_text("width = 4\n")
    again, _ = state()
    hashes = [each["diff_hash"] for each in (before, recorded, again)]
    assert len(set(hashes)) == 3
    assert list(provenance.differences({"git": recorded}, {"git": again})) == [
        f"git.diff_hash {hashes[1]} then, {hashes[2]} now"
    ]
    assert "?? mine.yaml" in git(checkout, "status", "--porcelain")  # git's own index is as it was


def test_the_patch_restores_the_files(checkout, state, tmp_path):
    (checkout / "mine.py").write_bytes(b"name = '\xe9'\n")  # not UTF-8
    (checkout / "old.py").unlink()
    recorded = provenance.git_state(tmp_path / "run")
    assert recorded["changed"] == [" D old.py", "?? mine.py"]
    (checkout / "mine.py").unlink()
    git(checkout, "checkout", "-q", ".")
    git(checkout, "apply", str(tmp_path / "run" / "changes.diff"))
    assert (checkout / "mine.py").read_bytes() == b"name = '\xe9'\n" and not (checkout / "old.py").exists()


def test_a_new_source_file_that_is_gone_is_named(checkout, tmp_path, monkeypatch):
    results = {"git": {"changed": [" M old.py", "?? there.py", "?? src/mine.py"]}}
    (checkout / "there.py").touch()
    said = provenance.gone_sources(results, tmp_path)
    assert said == f"src/mine.py of that run is gone; it is in {tmp_path / 'changes.diff'}"
    assert provenance.gone_sources({"git": None}, tmp_path) == ""

    def refuse(config):
        raise UserError("model._target_=mine.Mine cannot be imported: No module named 'mine'")

    run = Run(tmp_path)
    run.write_results(results)
    monkeypatch.setattr(trust, "check_targets", refuse)
    monkeypatch.setattr(Run, "config", {})
    monkeypatch.setattr("athanor.engine.config.records.check_config", lambda *_: None)
    with pytest.raises(UserError, match=r"No module named 'mine'\n  src/mine\.py of that run is gone"):
        _ = run.trusted_config
