"""Set-up: what it refuses or leaves alone, and headless OpenCV; a recorder stands in for pip."""
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tools import set_up

NO_LIBGL = ("Traceback (most recent call last):\n  File \"<string>\", line 1, in <module>\n"
            "ImportError: libGL.so.1: cannot open shared object file: No such file or directory\n")


class Machine:
    """Answers commands from a list of (part of it, exit code, stdout, stderr); records all."""

    def __init__(self, *answers):
        self.answers, self.commands = list(answers), []

    def __call__(self, *command, quiet=False):
        line = " ".join(str(part) for part in command)
        self.commands.append(line)
        for i, (part, code, out, error) in enumerate(self.answers):
            if part in line:
                self.answers.pop(i)
                return subprocess.CompletedProcess(command, code, out, error)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def machine(monkeypatch):
    def use(*answers):
        found = Machine(*answers)
        monkeypatch.setattr(set_up, "run", found)
        return found
    return use


@pytest.mark.parametrize("version", [(3, 10), (3, 14), (2, 7)])
def test_wrong_python_is_refused_in_one_sentence(version):
    with pytest.raises(set_up.SetUpError,
                       match=r"^python is Python .*, but the notebooks need .*: .+\.$"):
        set_up.check_python(version, "python")


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_right_python_is_taken(version):
    set_up.check_python(version, "python")


def test_missing_venv_module_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(set_up.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(set_up.SetUpError, match=r"sudo apt install python3\.\d+-venv"):
        set_up.make_venv(tmp_path / "venv")


def test_environment_of_another_python_is_refused(tmp_path, machine):
    python = set_up.venv_python(tmp_path)
    python.parent.mkdir()
    python.touch()
    machine(("version_info", 0, "3 10\n", ""))
    with pytest.raises(set_up.SetUpError, match="Python 3.10.*remove that folder"):
        set_up.make_venv(tmp_path)


@pytest.mark.parametrize("pip, made", [(0, False), (1, True)])
def test_an_environment_is_made_again_only_if_it_lacks_pip(tmp_path, machine, pip, made):
    python = set_up.venv_python(tmp_path)
    python.parent.mkdir()
    python.touch()
    commands = machine(("version_info", 0, "3 11\n", ""), ("import pip", pip, "", "")).commands
    assert set_up.make_venv(tmp_path) == python
    assert any(f"-m venv {tmp_path}" in line for line in commands) == made


def test_uv_is_installed_by_its_hash(monkeypatch):
    written = []

    def run(*command, quiet):
        if "pip" not in command:
            return subprocess.CompletedProcess(command, 1)
        assert command[-3:-1] == ("--require-hashes", "-r")
        written.append(command[-1].read_text("utf-8"))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(set_up, "run", run)
    assert set_up.get_uv("python")
    first, *rest = written[0].splitlines()
    assert first.startswith("uv==") and all(line.startswith(" ") for line in rest)
    assert "--hash=sha256:" in rest[0]


def test_opencv_that_works_is_left_alone(machine):
    commands = machine().commands
    set_up.fix_opencv("python", uv=True)
    assert commands == ["python -c import cv2"]


def test_opencv_without_libgl_is_replaced_by_the_same_version_headless(machine, capsys):
    commands = machine(("import cv2", 1, "", NO_LIBGL),
                       ("version('opencv-python')", 0, "5.0.0.93\n", "")).commands
    set_up.fix_opencv("python", uv=True)
    removed = next(i for i, line in enumerate(commands) if "pip uninstall" in line)
    assert "opencv-python opencv-python-headless" in commands[removed]
    assert commands[removed + 1].endswith("--no-deps opencv-python-headless==5.0.0.93")
    assert ("libGL.so.1" in (said := capsys.readouterr().out)
            and "opencv-python-headless 5.0.0.93" in said)


def test_opencv_broken_for_another_reason_is_reported(machine):
    machine(("import cv2", 1, "",
             "Traceback\nImportError: numpy.core.multiarray failed to import\n"))
    with pytest.raises(set_up.SetUpError, match="numpy.core.multiarray failed"):
        set_up.fix_opencv("python", uv=True)


def test_what_uv_installs_is_compiled_once(machine):
    commands = machine().commands
    set_up.install("python", True, "some-package")
    assert "--compile-bytecode" in commands[0] and len(commands) == 1


def test_pip_takes_over_where_uv_fails(machine, capsys):
    commands = machine(("-m uv pip install", 1, "", "")).commands
    set_up.install("python", True, "some-package")
    assert "-m pip install" in commands[-1] and "trying again with pip" in capsys.readouterr().out


def test_failed_download_says_what_to_do(machine):
    machine(("-m uv pip install", 1, "", ""), ("-m pip install", 1, "", ""))
    with pytest.raises(set_up.SetUpError, match="check the network"):
        set_up.install("python", True, "some-package")


def test_second_call_installs_nothing_and_a_changed_lock_does(tmp_path, monkeypatch, machine):
    monkeypatch.setattr(set_up, "make_venv", lambda venv: venv / "python")
    where = f"{set_up.ROOT / 'utils' / '__init__.py'}\n"
    first = machine(("utils.__file__", 0, where, "")).commands
    set_up.set_up(tmp_path, extra=True)
    assert sum("pip install" in line for line in first) == 3
    assert set(json.loads((tmp_path / set_up.RECORD).read_text())) == {"core", "extra"}

    second = machine().commands
    set_up.set_up(tmp_path, extra=True)
    set_up.set_up(tmp_path)
    assert second == []

    monkeypatch.setattr(set_up, "fingerprint", lambda name, versions: f"another {name}")
    third = machine(("utils.__file__", 0, where, "")).commands
    set_up.set_up(tmp_path)
    assert any("core.lock" in line for line in third)
    assert not any("extra.lock" in line for line in third)


@pytest.mark.parametrize("versions, given, not_given", [
    ("locked", ["--require-hashes", "core.lock"], ["core.txt", "--upgrade", "colab.txt"]),
    ("newest", ["core.txt", "--upgrade"], ["core.lock", "--require-hashes", "colab.txt"]),
    ("lowest", ["core.txt", "--resolution", "lowest-direct"], ["core.lock", "--upgrade"]),
    ("colab", ["core.txt", "-c", "colab.txt"], ["core.lock", "--upgrade"]),
])
def test_the_installer_is_given_the_versions_that_were_asked_for(versions, given, not_given):
    words = [Path(word).name for word in set_up.requirements("core", versions)]
    assert not set(given) - set(words) and not set(not_given) & set(words)


def test_a_change_in_any_file_of_versions_is_seen(tmp_path, monkeypatch):
    shutil.copytree(set_up.REQUIREMENTS, tmp_path / "requirements")
    shutil.copy(set_up.ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(set_up, "REQUIREMENTS", tmp_path / "requirements")
    seen = [set_up.fingerprint("core", "newest"), set_up.fingerprint("core", "locked")]
    for file in ("core.txt", "core.lock", "colab.txt", "../pyproject.toml"):
        with open(tmp_path / "requirements" / file, "a", encoding="utf-8") as changed:
            changed.write("# one more line\n")
        seen.append(set_up.fingerprint("core", "locked"))
    monkeypatch.setattr(set_up, "ROOT", tmp_path)  # moved: the installed link leads nowhere
    seen.append(set_up.fingerprint("core", "locked"))
    assert len(set(seen)) == len(seen)


def test_broken_install_leaves_no_record(tmp_path, monkeypatch, machine):
    monkeypatch.setattr(set_up, "make_venv", lambda venv: venv / "python")
    machine(("-m uv pip install", 1, "", ""), ("-m pip install", 1, "", ""))
    (tmp_path / set_up.RECORD).write_text('{"core": "of last month"}')
    with pytest.raises(set_up.SetUpError):
        set_up.set_up(tmp_path)
    assert not (tmp_path / set_up.RECORD).exists()


def test_another_package_called_utils_is_told(machine):
    machine(("utils.__file__", 0, "/elsewhere/utils/__init__.py\n", ""))
    with pytest.raises(set_up.SetUpError, match="elsewhere.*uninstall"):
        set_up.check_utils("python")
