# SPDX-License-Identifier: AGPL-3.0-or-later
"""Full disks, folders that cannot be written, and two at once: no file of ours is half-written, none left beside it."""

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch
import ultralytics
from conftest import ROOT, built, clean_environment, copy_mini_dataset, layers_of, yolov8_dict
from ultralytics import YOLO

from ultralytics_akconv import write_checkpoint
from ultralytics_akconv.benchmark import Report
from ultralytics_akconv.cli import main
from ultralytics_akconv.files import write_whole
from ultralytics_akconv.grafting import names
from ultralytics_akconv.grafting.names import cached
from ultralytics_akconv.sweep import Plan
from ultralytics_akconv.sweep.plan import LOCK

YOLO_COMMAND = Path(sys.executable).parent / "yolo"
FULL = OSError(errno.ENOSPC, "No space left on device")


def disk_full(*arguments, **options):
    """What a write into a full disk does, at whatever step it is put."""
    raise FULL


# The file is renamed at the very end, so a failure there is the latest that leaves the old file.
STEPS = pytest.mark.parametrize("step", ["os.replace", "pathlib.Path.chmod"])


def entries(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@STEPS
@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, step, existing):
    file = tmp_path / "model.yaml"
    if existing:
        file.write_text("old\n", "utf-8")
    before = entries(tmp_path)
    with mock.patch(step, disk_full), pytest.raises(OSError, match="No space left"):
        write_whole(file, "new\n")
    assert entries(tmp_path) == before


@pytest.mark.parametrize("step", ["os.replace", "pathlib.Path.touch"])
def test_a_failed_write_names_the_file_that_was_asked_for(tmp_path, step):
    def refused(written, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(written), None, *map(str, args[:1]))

    with mock.patch(step, refused), pytest.raises(PermissionError) as error:
        write_whole(tmp_path / "model.yaml", "new\n")
    assert str(error.value) == f"[Errno {errno.EACCES}] Permission denied: {str(tmp_path / 'model.yaml')!r}"
    assert entries(tmp_path) == {}


@pytest.mark.skipif(os.name != "posix", reason="Windows has no limit on the size of files")
def test_a_checkpoint_that_finds_no_more_room_is_one_line_that_names_it(tmp_path, fresh):
    code = """
import resource, signal, sys
from ultralytics import YOLO
from ultralytics_akconv import write_checkpoint
from ultralytics_akconv.cli.arguments import exit_status
model = YOLO('yolov8n-akconv.yaml')
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
sys.exit(exit_status('akconv', lambda: write_checkpoint(model, 'out.pt')))
"""
    process = fresh(code)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == f"akconv: [Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: 'out.pt'"
    assert not list(tmp_path.glob("*out.pt*"))


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text("old\n", "utf-8")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "new \ud800\n")
    assert entries(tmp_path) == {"model.yaml": b"old\n"}


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such rights")
def test_a_written_file_has_the_rights_of_the_old_one_or_those_of_a_new_file(tmp_path):
    new, plain = tmp_path / "new.yaml", tmp_path / "plain.yaml"
    plain.write_text("", "utf-8")
    write_whole(new, "text\n")
    assert new.stat().st_mode == plain.stat().st_mode
    new.chmod(0o640)
    write_whole(new, "other\n")
    assert new.stat().st_mode & 0o777 == 0o640 and new.read_text("utf-8") == "other\n"


def test_graft_into_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path, capsys):
    file = tmp_path / "out.yaml"
    file.write_text("old\n", "utf-8")
    with mock.patch("os.replace", disk_full):
        assert main(["graft", "yolov8n.yaml", "-o", str(file)]) != 0
    assert "No space left" in capsys.readouterr().err
    assert entries(tmp_path) == {"out.yaml": b"old\n"}


@pytest.mark.parametrize("step", ["pathlib.Path.write_bytes", "os.replace"])
def test_a_checkpoint_into_a_full_disk_keeps_the_old_file(tmp_path, step):
    file = tmp_path / "converted.pt"
    file.write_bytes(b"old")

    def half_written(temporary, content):
        with temporary.open("wb") as stream:
            stream.write(content[:4])
        raise FULL

    failing = disk_full if step == "os.replace" else half_written
    with mock.patch(step, failing), pytest.raises(OSError, match="No space left"):
        write_checkpoint(built(yolov8_dict()), file)
    assert entries(tmp_path) == {"converted.pt": b"old"}


def test_threads_that_write_one_checkpoint_at_once_leave_it_whole(tmp_path):
    file, models = tmp_path / "converted.pt", [built(yolov8_dict(n, 2)) for n in (3, 5)]
    written, save = threading.Barrier(2, timeout=60), torch.save

    def save_and_wait(content, temporary):
        save(content, temporary)
        written.wait()  # both have a temporary file now

    with mock.patch("torch.save", save_and_wait), ThreadPoolExecutor(2) as pool:
        assert [*pool.map(lambda model: write_checkpoint(model, file), models)] == [file, file]
    assert [*entries(tmp_path)] == ["converted.pt"]
    assert {m.num_param for m in layers_of(YOLO(file).model)} in ({3}, {5})


def test_a_picture_or_a_table_into_a_full_disk_keeps_the_old_file(tmp_path, capsys):
    report = Report("title", {}, {}, [{"a": 1}])
    for name in ("shapes.png", "report.json", "report.csv"):
        (tmp_path / name).write_bytes(b"old")
    before = entries(tmp_path)
    with mock.patch("os.replace", disk_full):
        assert main(["plot", "shapes", "cross", "-o", str(tmp_path / "shapes.png")]) == 1
        for write, name in ((report.to_json, "report.json"), (report.to_csv, "report.csv")):
            with pytest.raises(OSError, match="No space left"):
                write(tmp_path / name)
    assert "No space left" in capsys.readouterr().err
    assert entries(tmp_path) == before


def test_settings_on_a_full_disk_say_so_and_the_next_start_works(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "USER_CONFIG_DIR", tmp_path)
    with mock.patch("os.replace", disk_full), pytest.raises(OSError, match="No space left"):
        YOLO("yolo11n-akconv3.yaml")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert YOLO("yolo11n-akconv3.yaml").model.yaml["backbone"]


def test_a_cached_file_that_was_cut_off_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "USER_CONFIG_DIR", tmp_path)
    file = cached("a.yaml", "a: 1\nb: 2\n")
    file.write_text("a: 1", "utf-8")
    assert cached("a.yaml", "a: 1\nb: 2\n") == file and file.read_text("utf-8") == "a: 1\nb: 2\n"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_working_directory_that_cannot_be_written_is_no_hindrance_to_a_model(tmp_path, monkeypatch):
    folder = tmp_path / "locked"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.chmod(0o555)
    try:
        assert YOLO("yolov8n-akconv.yaml").model(torch.zeros(1, 3, 32, 32)) is not None
        with pytest.raises(PermissionError):
            write_whole(folder / "out.yaml", "text\n")
    finally:
        folder.chmod(0o755)


def test_a_second_sweep_in_a_folder_is_refused_while_the_first_runs(tmp_path, capsys):
    data = copy_mini_dataset(tmp_path)
    folder = tmp_path / "sweep"
    plan = Plan(str(data), num_param=(3,), seeds=(0,))
    with plan.claim(folder):
        before = entries(folder)
        command = ["benchmark", "train", "--data", str(data), "--num-param", "3", "--seeds", "0", "-o", str(folder)]
        assert main(command) == 1
        assert entries(folder) == before
    assert f"akconv: another command runs a sweep in {folder.resolve()}: wait" in capsys.readouterr().err
    with plan.claim(folder):  # the lock's file stays, the lock does not
        assert LOCK in entries(folder)


@pytest.mark.slow
def test_the_lock_of_a_sweep_ends_with_its_process_however_that_ends(fresh, tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from ultralytics_akconv.sweep import Plan
with Plan("a.yaml", num_param=(3,)).claim(Path({str(tmp_path / "sweep")!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert fresh(code).returncode == -signal.SIGKILL
    with Plan("a.yaml", num_param=(3,)).claim(tmp_path / "sweep"):
        assert LOCK in entries(tmp_path / "sweep")


def train_command(folder, *arguments):
    return [YOLO_COMMAND, "train", "model=yolov8n-akconv3.yaml", f"data={folder / 'mini.yaml'}", "epochs=1", "imgsz=64",
            "batch=8", "device=cpu", "workers=0", "verbose=False", f"project={folder / 'runs'}", "name=run",
            *arguments]  # fmt: skip


@pytest.mark.slow
def test_two_trainings_at_once_have_a_folder_each(tmp_path):
    copy_mini_dataset(tmp_path)
    environment = clean_environment(tmp_path)

    def begin():
        return subprocess.Popen(
            [str(part) for part in train_command(tmp_path, "plots=False")], cwd=tmp_path, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    first = begin()
    # Begun at the very same moment they may take one folder: the host looks for a free name, then makes it.
    while first.poll() is None and not (tmp_path / "runs/run").exists():
        time.sleep(0.05)
    for process in (first, begin()):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert "AKConv: " not in output  # no warning of ours
    checkpoints = list((tmp_path / "runs").glob("*/weights/best.pt"))
    assert len(checkpoints) == 2 and all(len(layers_of(YOLO(file).model)) == 6 for file in checkpoints)


def read_only(command, *folders):
    """Return a command that runs another with folders mounted read-only, which binds root, too."""
    mounts = [f"mount --bind {f} {f} && mount -o remount,bind,ro {f}" for f in map(shlex.quote, map(str, folders))]
    return ["unshare", "-m", "sh", "-c", " && ".join([*mounts, shlex.join(map(str, command))])]


@pytest.mark.slow
def test_a_training_needs_neither_a_writable_install_nor_a_writable_working_directory(fresh, tmp_path):
    installs = {ROOT, Path(sys.prefix), Path(ultralytics.__file__).parent}
    locked = tmp_path / "locked"
    locked.mkdir()
    if shutil.which("unshare") is None or fresh(read_only(["true"], locked)).returncode:
        pytest.skip("no right to mount a folder read-only here")
    copy_mini_dataset(tmp_path)
    probe = f"for f in {shlex.join(map(str, [*installs, locked]))}; do ! touch $f/probe 2>/dev/null || exit 9; done"
    command = ["sh", "-c", f"{probe}; cd {shlex.quote(str(locked))} && {shlex.join(map(str, train_command(tmp_path)))}"]
    process = fresh(read_only(command, *installs, locked), cwd=tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "AKConv: " not in process.stdout + process.stderr
    run = tmp_path / "runs/run"
    assert (run / "akconv_offsets.png").is_file() and len(layers_of(YOLO(run / "weights/best.pt").model)) == 6
