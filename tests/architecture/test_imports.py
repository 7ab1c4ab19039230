"""Who may import whom. Imports point down: core <- api <- iot, mobile, experiments."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["fedml_core", "fedml_api", "fedml_iot", "fedml_mobile"]
# The only importers of these packages; they import them when a backend is started.
BACKENDS = {
    "mpi.py": {"mpi4py"},
    "mqtt.py": {"paho"},
    "broker.py": {"amqtt"},
    "hdf5.py": {"h5py"},
    "hugging_face.py": {"datasets"},
    "blinding.py": {"cryptography"},
    "masking.py": {"cryptography"},
    "paillier.py": {"cryptography"},
}
MATHEMATICS = ("trainer", "partition", "security", "topology")
STANDARD = set(sys.stdlib_module_names)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names of all modules a file imports, wherever in the file."""
    found = set()
    for item in ast.walk(parsed(path)):
        if isinstance(item, ast.Import):
            found |= {alias.name for alias in item.names}
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"{path}: relative import"
            found |= {str(item.module)} | {f"{item.module}.{alias.name}" for alias in item.names}
    return frozenset(found)


def own_imports(path: Path) -> set[str]:
    """Those of them that are this project's."""
    return {name for name in imports(path) if name.startswith("fedml_")} - {"fedml_core"}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", files("fedml_core"), ids=str)
def test_core_needs_torch_numpy_and_msgspec_only(path):
    allowed = STANDARD | {"torch", "numpy", "msgspec", "fedml_core"} | BACKENDS.get(path.name, set())
    assert {name.partition(".")[0] for name in imports(path)} <= allowed


@pytest.mark.parametrize("path", files("fedml_api"), ids=str)
def test_api_does_not_import_upwards(path):
    assert not {
        name
        for name in imports(path)
        if name.partition(".")[0] in {"fedml_iot", "fedml_mobile", "experiments", "benchmarks", "tests"}
    }


@pytest.mark.parametrize(
    "path",
    [
        *(path for part in ("trainer", "partition", "security", "topology") for path in files(f"fedml_core/{part}")),
        ROOT / "fedml_core/tree.py",
    ],
    ids=str,
)
def test_mathematics_knows_no_conversation(path):
    below = (
        "fedml_core.tree",
        "fedml_core.trainer",
        "fedml_core.partition",
        "fedml_core.security",
        "fedml_core.topology",
        "fedml_core.settings",
        "fedml_core.exports",
        "fedml_core.errors",
        "fedml_core.rng",
    )
    assert all(name.startswith(below) for name in own_imports(path))


@pytest.mark.parametrize(
    "path", [p for e in ("algorithms", "standalone", "distributed", "data", "model") for p in files(f"fedml_api/{e}")], ids=str
)
def test_nothing_below_knows_the_run(path):
    assert not {name for name in imports(path) if name.startswith(("fedml_api.run", "fedml_api.cli"))}


@pytest.mark.parametrize("path", files("fedml_api/algorithms"), ids=str)
def test_algorithms_know_mathematics_and_cohorts_and_no_engine(path):
    allowed = (
        "fedml_core.tree",
        "fedml_core.trainer",
        "fedml_core.federation",
        "fedml_core.topology",
        "fedml_core.compression",
        "fedml_core.security",
        "fedml_core.settings",
        "fedml_core.exports",
        "fedml_core.rng",
        "fedml_core.errors",
        "fedml_api.algorithms",
    )
    assert all(name.startswith(allowed) for name in own_imports(path))


@pytest.mark.parametrize("path", [p for e in ("standalone", "distributed") for p in files(f"fedml_api/{e}")], ids=str)
def test_engines_know_no_algorithm(path):
    assert not {name for name in imports(path) if name.startswith("fedml_api.algorithms")}


@pytest.mark.parametrize("path", [p for package in PACKAGES for p in files(package)], ids=str)
def test_nothing_unpickles_or_evaluates(path):
    assert not imports(path) & {"pickle", "marshal", "dill", "cloudpickle", "shelve", "joblib"}
    calls = [item for item in ast.walk(parsed(path)) if isinstance(item, ast.Call)]
    assert not {ast.unparse(call.func) for call in calls} & {"eval", "exec", "torch.load", "compile"}
    for call in calls:
        if ast.unparse(call.func) in ("np.load", "numpy.load"):
            assert "allow_pickle=False" in map(ast.unparse, call.keywords)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def test_core_loads_with_everything_else_out_of_reach():
    """A finder that knows only the standard library, torch, numpy, msgspec (and what torch itself needs)."""
    code = """
import sys, torch, numpy, msgspec
have = set(sys.modules)
class Wall:
    def find_spec(self, name, path=None, target=None):
        top = name.partition('.')[0]
        if top not in sys.stdlib_module_names and top != 'fedml_core' and top not in {m.partition('.')[0] for m in have}:
            raise ImportError(f'{name} is behind the wall')
sys.meta_path.insert(0, Wall())
import pkgutil, importlib, fedml_core
for module in pkgutil.walk_packages(fedml_core.__path__, 'fedml_core.'):
    importlib.import_module(module.name)
print(*sorted({m.partition('.')[0] for m in sys.modules} & {'torchvision', 'mpi4py', 'paho', 'rich', 'matplotlib', 'yaml'}))
"""
    assert python(code) == ""


def test_the_command_line_loads_no_torch_before_it_is_needed():
    assert (
        python("import sys, fedml_api.cli; fedml_api.cli.parser(); print('torch' in sys.modules or 'numpy' in sys.modules)")
        == "False"
    )


PUBLIC = [
    "fedml_api",
    "fedml_core.federation",
    "fedml_core.trainer",
    "fedml_core.partition",
    "fedml_core.security",
    "fedml_core.topology",
    "fedml_core.worker",
    "fedml_api.data",
    "fedml_api.model",
]


def test_all_names_what_is_there():
    """Each package is imported by a process that has nothing but torch."""
    code = f"""
import importlib, os, torch
for package in {PUBLIC}:
    if os.fork() == 0:
        there = importlib.import_module(package)
        names = there.__all__
        for name in names:
            getattr(there, name)
        os._exit(not 0 < len(names) == len(set(names)))
    print(package, os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
    assert python(code).splitlines() == [f"{package} 0" for package in PUBLIC]


LAZY = ["fedml_api", "fedml_api.algorithms", "fedml_api.data", "fedml_api.distributed", "fedml_api.model", "fedml_core.partition"]


@pytest.mark.parametrize("package", LAZY)
def test_names_that_are_imported_late_are_those_that_type_checkers_see(package):
    """The block for type checkers, `__all__`, and what is found when a name is used, of a package that imports late."""
    found = importlib.import_module(package)
    (block,) = [item for item in ast.parse(Path(found.__file__).read_text()).body if isinstance(item, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    homes = {alias.name: item.module for item in block.body for alias in item.names}
    assert set(homes) <= set(found.__all__) == set(dir(found))
    assert all(getattr(found, name) is getattr(importlib.import_module(home), name) for name, home in homes.items())
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        found.Nonsense  # noqa: B018


def test_a_program_imports_the_data_set_the_algorithm_and_the_model_that_it_names():
    code = """
import sys
from pathlib import Path
from fedml_api import Experiment, FedAvg, simulate
from fedml_api.data import Mnist5k, data_sources
from fedml_api.model import LogisticRegression, models
from fedml_core.federation import algorithms, engines
data = Mnist5k(clients=10).load(0, Path("data"))
network = LogisticRegression().build((1, 28, 28), 10)
simulate(Experiment(network, data, algorithm=FedAvg(), rounds=1, clients_per_round=2, threads=1))
homes = {home for registry in (data_sources, models, algorithms, engines) for home in registry.homes.values()}
print(*sorted(homes & set(sys.modules)))
"""
    assert python(code).split() == [
        "fedml_api.algorithms.fedavg",
        "fedml_api.data.mnist5k",
        "fedml_api.model.linear",
        "fedml_api.standalone.engine",
    ]
