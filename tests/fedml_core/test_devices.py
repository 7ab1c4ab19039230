"""Which process computes where."""

import pytest
import torch

from fedml_core.devices import device_problems, local_rank, spread

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def three_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_processes_go_round_the_devices(three_gpus):
    chosen = [spread(place, ["cuda:2", "cpu"], CPU) for place in range(3)]
    assert chosen == [torch.device("cuda:2"), CPU, torch.device("cuda:2")]
    assert [spread(place, [], CUDA).index for place in range(5)] == [0, 1, 2, 0, 1]
    assert spread(1, [], torch.device("cuda:2")) == torch.device("cuda:2")
    assert spread(1, [], CPU) == CPU


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID", None])
def test_the_launcher_says_which_process_of_the_machine_this_is(monkeypatch, name):
    for known in ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"):
        monkeypatch.delenv(known, raising=False)
    if name:
        monkeypatch.setenv(name, "3")
    assert local_rank() == (3 if name else 0)


def test_a_name_that_is_no_device_here_is_told_with_those_that_are(three_gpus):
    assert [device_problems(name) for name in ("cpu", "cuda", "cuda:2")] == [[], [], []]
    assert device_problems("cuda:3", "engine.devices[1]") == [
        "engine.devices[1] = 'cuda:3': there are only 3 CUDA devices; use cpu, or cuda:0 to cuda:2"
    ]
    for name in ("gpu", "meta"):
        assert device_problems(name) == [f"device = '{name}': must be cpu, cuda or cuda:N"]


def test_without_cuda_there_is_only_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "sees no CUDA device here; use device=cpu" in device_problems("cuda:0")[0]
    assert spread(1, [], CUDA) == CUDA
