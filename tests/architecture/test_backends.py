"""Backends stay behind their doors, and MPI moves buffers: mpi4py's lower-case calls pickle."""

import ast

import pytest

from tests.architecture.test_imports import BACKENDS, PACKAGES, files, imports

PICKLING = {
    *("send", "recv", "isend", "irecv", "bsend", "ssend", "issend", "ibsend", "sendrecv", "mprobe", "improbe", "mrecv"),
    *("bcast", "gather", "scatter", "allgather", "alltoall", "reduce", "allreduce", "scan", "exscan"),
}
ALL = [path for package in PACKAGES for path in files(package)]


@pytest.mark.parametrize("path", ALL, ids=str)
def test_a_backend_is_imported_by_its_module_alone(path):
    foreign = {name.partition(".")[0] for name in imports(path)} & set().union(*BACKENDS.values())
    assert foreign <= BACKENDS.get(path.name, set())


def pickling_calls(source: str) -> set[str]:
    """Calls of mpi4py methods that pickle, on anything whose name says that it is a communicator."""
    return {
        ast.unparse(item.func)
        for item in ast.walk(ast.parse(source))
        if isinstance(item, ast.Call)
        and isinstance(item.func, ast.Attribute)
        and item.func.attr in PICKLING
        and ast.unparse(item.func.value).rpartition(".")[2].lower().lstrip("_").startswith(("comm", "mpi", "world", "message"))
    }


def test_no_lower_case_call_of_mpi4py():
    (path,) = [path for path in ALL if path.name == "mpi.py"]
    assert pickling_calls(path.read_text()) == set()


@pytest.mark.parametrize(
    "call", ["comm.send(x, dest=1)", "MPI.COMM_WORLD.bcast(x)", "self._comm.recv()", "self._comm.allreduce(1)"]
)
def test_the_search_for_them_finds_them(call):
    assert pickling_calls(call)
    assert not pickling_calls(
        call.replace("send", "Send").replace("bcast", "Bcast").replace("recv", "Recv").replace("allr", "Allr")
    )
