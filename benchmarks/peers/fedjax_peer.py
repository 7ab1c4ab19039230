"""FedAvg with FedJAX: its own algorithm, on data in memory, with its default backend (`jax.jit`, one client after the other)."""

from __future__ import annotations

from typing import Any

import fedjax
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from fedjax.algorithms import fed_avg
from serve import clients, initial, serve, settings

Arrays = dict[str, np.ndarray]
HIDDEN = 670


def forward(name: str, classes: int, dropout: bool, x: jnp.ndarray) -> jnp.ndarray:
    """The logits. Layers are named by `_of_haiku` after those of torch."""
    match name:
        case "LogisticRegression":
            return hk.Linear(classes, name="_1")(hk.Flatten()(x))
        case "TwoNN":
            x = jax.nn.relu(hk.Linear(200, name="_1")(hk.Flatten()(x)))
            return hk.Linear(classes, name="_5")(jax.nn.relu(hk.Linear(200, name="_3")(x)))
        case "ReddiCNN":
            x = jax.nn.relu(hk.Conv2D(32, 3, padding="VALID", name="_0")(x))
            x = jax.nn.relu(hk.Conv2D(64, 3, padding="VALID", name="_2")(x))
            x = hk.MaxPool((1, 2, 2, 1), (1, 2, 2, 1), padding="VALID")(x)
            x = hk.Flatten()(hk.dropout(hk.next_rng_key(), 0.25 * dropout, x))
            x = jax.nn.relu(hk.Linear(128, name="_7")(x))
            return hk.Linear(classes, name="_10")(hk.dropout(hk.next_rng_key(), 0.5 * dropout, x))
        case "WordLSTM":
            x, cell = hk.Embed(classes, 96, name="embed")(x), hk.LSTM(HIDDEN, name="lstm")
            x, _ = hk.dynamic_unroll(cell, x, cell.initial_state(len(x)), time_major=False)
            return hk.Linear(classes, name="head_1")(hk.Linear(96, name="head_0")(x))
    raise ValueError(f"no network {name} here")


def _of_haiku(layer: str) -> str:
    """What a layer of torch is called here: with an underscore for every dot, and in front of a number."""
    return "_" + layer if layer.isdigit() else layer.replace(".", "_")


def to_haiku(torch: Arrays, inner: tuple[int, ...]) -> dict[str, Arrays]:
    """Parameters of PyTorch for Haiku; `inner` is the shape, channels first, of what a CNN flattens."""
    found: dict[str, Arrays] = {}
    for name, array in torch.items():
        layer, _, kind = name.rpartition(".")
        if layer == "lstm":
            continue
        target = found.setdefault(_of_haiku(layer), {})
        if kind == "bias":
            target["b"] = array
        elif layer == "embed":
            target["embeddings"] = array
        elif array.ndim == 4:
            target["w"] = array.transpose(2, 3, 1, 0)
        elif layer == "7":
            target["w"] = array.reshape(-1, *inner).transpose(2, 3, 1, 0).reshape(-1, len(array))
        else:
            target["w"] = array.T
    if "lstm.weight_ih_l0" in torch:
        weights = np.concatenate([torch["lstm.weight_ih_l0"], torch["lstm.weight_hh_l0"]], axis=1)
        bias = _gates(torch["lstm.bias_ih_l0"]).copy()
        bias[2 * HIDDEN : 3 * HIDDEN] -= 1  # Haiku adds one to the forget gate.
        found["lstm/linear"] = {"w": _gates(weights).T, "b": bias}
    return found


def to_torch(haiku: dict[str, Arrays], like: Arrays, inner: tuple[int, ...]) -> Arrays:
    """The inverse of `to_haiku`; the names are those of `like`."""
    found: Arrays = {}
    for name in like:
        layer, _, kind = name.rpartition(".")
        if layer == "lstm":
            continue
        source = haiku[_of_haiku(layer)]
        if kind == "bias":
            found[name] = np.asarray(source["b"])
        elif layer == "embed":
            found[name] = np.asarray(source["embeddings"])
        elif like[name].ndim == 4:
            found[name] = np.asarray(source["w"]).transpose(3, 2, 0, 1)
        elif layer == "7":
            channels, *pixels = inner
            found[name] = np.asarray(source["w"]).reshape(*pixels, channels, -1).transpose(3, 2, 0, 1).reshape(like[name].shape)
        else:
            found[name] = np.asarray(source["w"]).T
    if "lstm.weight_ih_l0" in like:
        weights, bias = _gates(np.asarray(haiku["lstm/linear"]["w"]).T), np.array(haiku["lstm/linear"]["b"])
        bias[2 * HIDDEN : 3 * HIDDEN] += 1
        inputs = like["lstm.weight_ih_l0"].shape[1]
        found |= {
            "lstm.weight_ih_l0": weights[:, :inputs],
            "lstm.weight_hh_l0": weights[:, inputs:],
            "lstm.bias_ih_l0": _gates(bias),
        }
    return found


def _gates(array: np.ndarray) -> np.ndarray:
    """Change places of the second and the third gate: torch has input, forget, cell, output; Haiku input, cell, forget, output."""
    first, second, third, fourth = np.split(array, 4)
    return np.concatenate([first, third, second, fourth])


def main() -> None:
    chosen: dict[str, Any] = settings()
    name, dropout = chosen["model"], chosen["dropout"]
    images = name == "ReddiCNN"
    inner = (64, (chosen["shape"][1] - 4) // 2, (chosen["shape"][2] - 4) // 2) if images else ()
    data = {
        str(k).encode(): {"x": np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if images else x, "y": y.astype(np.int32)}
        for k, (x, y) in enumerate(clients())
    }

    def loss(batch: Arrays, logits: jnp.ndarray) -> jnp.ndarray:
        losses = fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], logits)
        return losses.reshape(len(losses), -1).mean(axis=1)

    transformed = hk.transform(lambda batch: forward(name, chosen["classes"], dropout, batch["x"]))
    sample = {key: array[:1] for key, array in data[b"0"].items()}
    model = fedjax.create_model_from_haiku(transformed, sample, loss)
    algorithm = fed_avg.federated_averaging(
        fedjax.model_grad(model),
        client_optimizer=fedjax.optimizers.sgd(chosen["lr"]),
        server_optimizer=fedjax.optimizers.sgd(1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(batch_size=chosen["batch"]),
    )
    sampler = fedjax.client_samplers.UniformGetClientSampler(fedjax.InMemoryFederatedData(data), len(data), seed=0)
    start = initial()
    state = algorithm.init(jax.tree_util.tree_map(jnp.asarray, to_haiku(start, inner)))

    def one_round() -> None:
        nonlocal state
        state, _ = algorithm.apply(state, sampler.sample())
        jax.block_until_ready(state.params)

    serve("fedjax", one_round, lambda: to_torch(state.params, start, inner))


if __name__ == "__main__":
    main()
