"""A run as a job: what is submitted, where it is followed, and that a requeued one goes on."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest

from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.error_file import RENDEZVOUS
from ssl_zoo.runtime.jobs import Command
from ssl_zoo.runtime.launch import Rendezvous
from tests.conftest import KNN, Call, flags, small_config, ssl_zoo, train

pytest.importorskip("submitit", reason="needs the extra slurm")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="submitit needs signals of POSIX")


@pytest.fixture(name="slurm")
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide the commands of a cluster that takes every job."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "sbatch", "scontrol", "sacct"):
        program = programs / name
        program.write_text("#!/bin/sh\necho Submitted batch job 12\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("slurm")
def test_one_job_of_slurm_is_the_whole_run(call: Call) -> None:
    wanted = {"nodes": 2, "gpus_per_node": 4, "slurm_partition": "gpu", "timeout_min": 60}
    sets = [a for name, value in wanted.items() for a in ("--launcher-set", f"{name}={value}")]
    train = ["train", *flags("rotation"), "--devices", "4", "--out", "r", "--launcher", "slurm", *sets]
    code, out, err = call("--quiet", *train)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "job: 12",
        "run: r",
        f"log: {Path('r.job/12_0_log.err').resolve()}",
        f"  tail -F {Path('r.job/12_0_log.err').resolve()}",
    ]
    script = Path("r.job/12_submission.sh").read_text()
    for parameter in (
        "nodes=2", "ntasks-per-node=1", "gpus-per-node=4", "partition=gpu", "time=60",
        "signal=USR2@90", "open-mode=append", "job-name=ssl-zoo",
    ):  # fmt: skip
        assert f"#SBATCH --{parameter}\n" in script
    with Path("r.job/12_submitted.pkl").open("rb") as file:
        submitted = pickle.load(file)
    assert isinstance(submitted.function, Command)
    assert submitted.function.arguments == ["--quiet", *train]
    assert submitted.function.variables == {"SSL_ZOO_RUN": "r"}


def test_the_nodes_of_a_job_meet_at_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"JOB_ID": "123456", "JOB_NUM_NODES": "2", "JOB_NODELIST": "gpu[07-08]", "NODEID": "1"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    variables = Command([])._rendezvous()
    monkeypatch.setenv(RENDEZVOUS, variables[RENDEZVOUS])
    assert Rendezvous.of_environment() == Rendezvous(2, "gpu07:23456", "123456", "gpu08")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert Command([])._rendezvous() == {}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the process of a job in /proc")
def test_a_job_that_is_preempted_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings = {"train__epochs": None, "train__samples": 40 * 128}
    run = Run(tmp_path / "run")
    given = flags("rotation", **{**settings, "train__epochs": "null"})
    how = ["--out", run.path, "--launcher", "local"]
    submitted = ssl_zoo("train", *KNN, *given, *how, OMP_NUM_THREADS="1")
    assert submitted.returncode == 0, submitted.stderr
    job, folder, log_file = (line.split(": ")[1] for line in submitted.stdout.splitlines()[:3])
    assert folder == str(run.path)
    log, deadline = Path(log_file), time.monotonic() + 300

    def wait(reached: bool) -> bool:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
        return not reached

    while wait(len(run.metrics()) >= 2):
        pass
    (process,) = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    os.kill(int(process), signal.SIGUSR2)
    while wait(not Path(f"/proc/{job}").exists()):
        pass
    assert "stopped and saved" in log.read_text()
    assert "resuming from step" in log.read_text()
    assert "knn" in run.results()["scores"]["rotation"]
    alone = train(small_config("rotation", **settings), out=tmp_path / "alone")
    losses = [line.get("loss") for line in run.metrics()]
    assert losses == pytest.approx([line.get("loss") for line in alone.metrics()], rel=1e-4)
