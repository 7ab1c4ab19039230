"""The command line: runs, resumes, listings, and what it says to a bad configuration."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from fedml_api.cli import main
from fedml_api.model.model_spec import models
from fedml_core.errors import RunError

SMALL = {
    "name": "small",
    "data": {"name": "digits", "clients": 10},
    "model": "lr",
    "rounds": 4,
    "clients_per_round": 3,
    "evaluate_every": 2,
    "threads": 1,
    "checkpoint_every": 2,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def run_json(capsys, *arguments):
    assert main([*arguments, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_leaves_a_complete_folder(here, capsys):
    found = run_json(capsys, "run", "small.yaml", "tensorboard=true")
    folder = Path(found["run"])
    assert folder.parent == Path("runs")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2, 3, 4]
    with (folder / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["round"] for row in table] == ["0", "1", "2", "3", "4"]
    assert table[4]["test_accuracy"] == str(rows[4]["test_accuracy"])
    assert found["last"]["test_accuracy"] == rows[4]["test_accuracy"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["algorithm"]["local"]["lr"] == 0.1  # defaults are written out
    assert config["threads"] == 1
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    for name in ("curve.png", "clients.png", "model.safetensors", "checkpoints/000004.json", "checkpoints/000004.safetensors"):
        assert (folder / name).stat().st_size > 0
    assert list(folder.glob("events.out.tfevents.*"))
    assert not list(Path("runs").glob(".draft*"))
    assert len(found["sha256"]) == 64


def test_the_same_configuration_gives_the_same_sha(here, capsys):
    first = run_json(capsys, "run", "small.yaml")
    second = run_json(capsys, "run", "small.yaml")
    assert first["sha256"] == second["sha256"]
    assert first["run"] != second["run"]
    again = run_json(capsys, "run", f"{first['run']}/config.yaml")
    assert again["sha256"] == first["sha256"]
    assert run_json(capsys, "run", "small.yaml", "seed=1")["sha256"] != first["sha256"]


def test_text_output_names_what_people_look_for(here, capsys):
    assert main(["run", "small.yaml"]) == 0
    out, err = capsys.readouterr()
    for word in ("test accuracy: 0.", "training time:", "s per round", "curve.png", "SHA-256 of the final parameters: "):
        assert word in out
    assert "round 4/4" in err


def test_resuming_a_finished_run_reports_it(here, capsys):
    first = run_json(capsys, "run", "small.yaml")
    assert run_json(capsys, "resume", first["run"]) == first


def test_lists(here, capsys):
    assert {"name": "fedavg", "about": "Federated averaging. McMahan et al., AISTATS 2017, Algorithm 1."} in run_json(
        capsys, "list", "algorithms"
    )
    assert {row["name"] for row in run_json(capsys, "list", "data")} >= {"mnist5k", "digits", "synthetic", "fashion_mnist"}
    assert {row["name"] for row in run_json(capsys, "list", "models")} >= {"lr", "2nn", "cnn", "cnn_mcmahan"}
    assert [row["name"] for row in run_json(capsys, "list", "engines")] == ["edge", "loopback", "mpi", "standalone"]
    assert run_json(capsys, "list", "runs") == []
    made = run_json(capsys, "run", "small.yaml")
    (row,) = run_json(capsys, "list", "runs")
    assert (row["run"], row["state"], row["round"], row["sha256"]) == (made["run"], "finished", 4, made["sha256"])
    for kind in ("algorithms", "data", "models", "engines", "runs"):
        assert main(["list", kind]) == 0
    assert "fedavg" in capsys.readouterr().out


def test_plot_draws_several_runs(here, capsys):
    runs = [run_json(capsys, "run", "small.yaml", f"seed={seed}")["run"] for seed in (0, 1)]
    assert run_json(capsys, "plot", *runs, "--output", "both.png") == {"picture": "both.png"}
    assert Path("both.png").read_bytes().startswith(b"\x89PNG")


def test_doctor_reports(here, capsys):
    found = run_json(capsys, "doctor", "--broker", "127.0.0.1:9")
    assert found["torch"] == torch.__version__
    assert "does not answer" in found["broker"]
    assert main(["doctor", "--broker", "nowhere"]) == 2


def test_a_run_in_use_is_left_alone(here, capsys):
    from fedml_api.run.folder import RunFolder

    folder = RunFolder(Path(run_json(capsys, "run", "small.yaml")["run"]))
    (folder.path / "result.json").unlink()
    with folder.locked():
        assert main(["resume", str(folder.path)]) == 2
    assert "in use by another process" in capsys.readouterr().err


def test_a_worker_does_not_keep_the_run_of_a_process_that_is_gone(tmp_path):
    from fedml_api.run.folder import RunFolder

    (tmp_path / "environment.json").write_text("{}")
    folder, (reading, writing), (hearing, saying) = RunFolder(tmp_path), os.pipe(), os.pipe()
    with folder.locked():
        worker = os.fork()
        if not worker:
            os.close(writing)
            os.write(saying, b"!")
            os.read(reading, 1)  # until the other end is closed
            os._exit(0)
        os.close(reading)
        assert os.read(hearing, 1) == b"!"
        with pytest.raises(RunError, match="in use"), folder.locked():
            pass
    try:
        with folder.locked():
            assert os.waitpid(worker, os.WNOHANG) == (0, 0)
    finally:
        os.close(writing)
        os.waitpid(worker, 0)


def test_going_on_with_other_data_is_refused(here, capsys):
    folder = Path(run_json(capsys, "run", "small.yaml")["run"])
    (folder / "result.json").unlink()
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("seed: 0", "seed: 3"))
    assert main(["resume", str(folder)]) == 2
    assert "the data have changed" in capsys.readouterr().err


BAD = {
    "misspelt key": ({"ruonds": 3}, [], ["ruonds: unknown key", "did you mean 'rounds'?"]),
    "misspelt nested key": ({}, ["algorithm.local.epoch=3"], ["algorithm.local.epoch: unknown key", "did you mean 'epochs'?"]),
    "negative rate": ({}, ["algorithm.local.lr=-0.1"], ["algorithm.local.lr = -0.1", "> 0"]),
    "no rounds": ({"rounds": 0}, [], ["rounds = 0", ">= 1"]),
    "too many clients": ({"clients_per_round": 11}, [], ["clients_per_round = 11", "only 10 clients", "lower"]),
    "unknown model": ({"model": "cnnn"}, [], ["unknown model 'cnnn'", "did you mean 'cnn'?"]),
    "unknown algorithm": ({"algorithm": "fedavgg"}, [], ["unknown algorithm 'fedavgg'", "did you mean 'fedavg'?"]),
    "unknown data set": ({"data": "mnist5"}, [], ["unknown data set 'mnist5'", "did you mean 'mnist5k'?"]),
    "unknown engine": ({"engine": "standalon"}, [], ["unknown engine 'standalon'", "did you mean 'standalone'?"]),
    "unknown optimizer": (
        {},
        ["algorithm.server=adm"],
        ["algorithm.server: unknown server optimizer 'adm'", "did you mean 'adam'?"],
    ),
    "unknown transform": (
        {},
        ["algorithm.local.transforms=[proximl]"],
        ["algorithm.local.transforms[0]", "did you mean 'proximal'?"],
    ),
    "unknown partitioner": ({}, ["data.partition=dirichelt"], ["data.partition: unknown partitioner", "did you mean 'dirichlet'?"]),
    "data not on disk": ({"data": "fashion_mnist"}, [], ["dataset-fashion-mnist", "train-images-idx3-ubyte"]),
    "a word for a number": ({"rounds": "many"}, [], ["rounds = 'many'", "int"]),
    "a mapping for a number": ({"rounds": {"a": 1}}, [], ["rounds = {'a': 1}", "int"]),
    "epochs and steps": (
        {},
        ["algorithm.local.epochs=1", "algorithm.local.steps=2"],
        ["algorithm.local: epochs = 1 and steps = 2"],
    ),
    "negative alpha": ({}, ["data.partition.name=dirichlet", "data.partition.alpha=-1"], ["data.partition.alpha = -1"]),
    "more clients than examples": ({}, ["data.clients=100000"], ["100000"]),
    "validation of everything": ({}, ["data.validation=1.5"], ["data.validation = 1.5", "< 1"]),
    "model does not fit": ({"model": "cnn", "data": "synthetic"}, [], ["cnn", "60"]),
    "no CUDA": ({"device": "cuda"}, [], ["device = 'cuda'", "device=cpu"]),
    "no such device": ({"device": "gpu"}, [], ["device = 'gpu'", "cpu, cuda"]),
    "no threads": ({"threads": 0}, [], ["threads = 0", ">= 1"]),
    "name with a slash": ({"name": "a/b"}, [], ["name = 'a/b'"]),
    "override without a value": ({}, ["rounds"], ["override 'rounds': must be key=value"]),
    "three at once": (
        {"ruonds": 3, "clients_per_round": 11},
        ["algorithm.local.lr=-1"],
        ["3 errors", "ruonds", "clients_per_round = 11", "algorithm.local.lr = -1"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_configurations_get_one_clear_message(here, capsys, monkeypatch, case):
    monkeypatch.setattr("fedml_api.data.fashion_mnist.SYSTEM_FOLDER", here / "absent")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    changes, overrides, expected = BAD[case]
    Path("bad.yaml").write_text(yaml.safe_dump(SMALL | changes))
    assert main(["run", "bad.yaml", *overrides]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for words in expected:
        assert words in err
    assert "Traceback" not in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1", "is not YAML"),
        (b"- 1", "must hold a mapping"),
        (b"\xff\xfe\x00x", "is not YAML"),
        (b"data: {name: mnist5k}\nalgorithm:\n  local: {lr: 1,\n    lr: 2}\n", "'lr' is there twice; remove one"),
        (b"[1]: 2", "found unhashable key"),
        (None, "cannot read"),
    ],
)
def test_unreadable_files(here, capsys, content, expected):
    path = Path("bad.yaml")
    if content is not None:
        path.write_bytes(content)
    assert main(["run", "bad.yaml"]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_folder_that_is_no_run(here, capsys):
    for command in ("resume", "plot"):
        assert main([command, "nowhere"]) == 2
        assert "nowhere is not a run folder" in capsys.readouterr().err


def test_a_run_without_metrics_cannot_be_drawn(here, capsys):
    folder = Path(run_json(capsys, "run", "small.yaml")["run"])
    (folder / "metrics.jsonl").unlink()
    assert main(["plot", str(folder)]) == 2
    assert "no metrics" in capsys.readouterr().err


def test_bad_configuration_as_a_process(here):
    done = subprocess.run(
        [sys.executable, "-m", "fedml_api.cli", "run", "small.yaml", "model=cnnn"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    allowed = ", ".join(models)
    assert done.stderr == f"error: model: unknown model 'cnnn': did you mean 'cnn'? Allowed: {allowed}\n"


def test_help_answers_within_a_second():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "fedml_api.cli", "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert "resume" in done.stdout
    assert min(seconds) < 1.0


def test_yaml_anchors_are_not_changed_behind_ones_back(here, capsys):
    Path("anchors.yaml").write_text(
        yaml.safe_dump(SMALL)
        + "algorithm: {local: {lr: &rate {name: exponential, initial: 0.5, factor: 0.9}}, server: {lr: *rate}}\n"
    )
    made = run_json(capsys, "run", "anchors.yaml", "algorithm.local.lr.initial=0.25")
    config = yaml.safe_load((Path(made["run"]) / "config.yaml").read_text())["algorithm"]
    assert config["local"]["lr"]["initial"] == 0.25
    assert config["server"]["lr"]["initial"] == 0.5


def test_threads_are_written_down_so_that_resuming_uses_the_same(here, capsys):
    made = run_json(capsys, "run", "small.yaml", "threads=null")
    assert yaml.safe_load((Path(made["run"]) / "config.yaml").read_text())["threads"] == 1


def test_errors_as_json(here, capsys):
    assert main(["run", "small.yaml", "model=cnnn", "rounds=0", "--format", "json"]) == 2
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert len(errors) == 2


def test_plot_tells_runs_of_one_name_apart_and_wants_a_png(here, capsys):
    one = Path(run_json(capsys, "run", "small.yaml", "runs_folder=a")["run"])
    two = here / "b" / one.name
    two.parent.mkdir()
    one.rename(here / "moved")
    (here / "moved").rename(two)
    one.symlink_to(two)
    assert main(["plot", str(two), "--output", "x.svg"]) == 2
    assert main(["plot", str(two), "--output", "nowhere/x.png"]) == 2
    assert "must be a .png file in a folder that exists" in capsys.readouterr().err


def test_a_folder_with_only_a_config_is_no_run(here, capsys):
    Path("runs/draft").mkdir(parents=True)
    Path("runs/draft/config.yaml").write_text("{}")
    assert main(["resume", "runs/draft"]) == 2
    assert run_json(capsys, "list", "runs") == []


def test_a_network_with_weights_channels_last_is_saved_and_travels(here, capsys):
    import safetensors.torch

    made = [
        run_json(capsys, "run", "small.yaml", "model=cnn", "rounds=2", f"engine={engine}") for engine in ("standalone", "loopback")
    ]
    assert made[0]["sha256"] == made[1]["sha256"]
    saved = safetensors.torch.load_file(Path(made[0]["run"]) / "model.safetensors")
    assert saved["2.weight"].is_contiguous()
    (Path(made[0]["run"]) / "result.json").unlink()
    for path in Path(made[0]["run"]).glob("checkpoints/*"):
        path.unlink()
    assert run_json(capsys, "resume", made[0]["run"])["sha256"] == made[0]["sha256"]
