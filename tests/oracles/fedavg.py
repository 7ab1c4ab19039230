"""FedAvg as McMahan et al. (2017) print it, in plain PyTorch: own loop, own averaging.

What the paper leaves to chance, the sampled clients and the order of each client's examples, is handed in.
"""

import copy

import torch
import torch.nn.functional as F


def client_update(model, x, y, orders, batch_size, **sgd):
    """ClientUpdate(k, w): one pass over `x`, `y` for each order, by torch's own SGD. A batch size of 0: all at once."""
    optimizer = torch.optim.SGD(model.parameters(), **sgd)
    model.train()
    for order in orders:
        for start in range(0, len(order), batch_size or len(order)):
            rows = order[start : start + (batch_size or len(order))]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
    return model.state_dict()


def fedavg(model, rounds, clients_of_round, data_of_client, orders_of_client, batch_size, **sgd):
    """Server executes: w <- sum_k n_k / n w_k, over the clients of each round."""
    model = copy.deepcopy(model)
    for round in range(rounds):
        states, sizes = [], []
        for client in clients_of_round(round):
            x, y = data_of_client(client)
            local = copy.deepcopy(model)
            states.append(client_update(local, x, y, orders_of_client(round, client), batch_size, **sgd))
            sizes.append(len(x))
        total = sum(sizes)
        average = {name: sum(n / total * state[name] for n, state in zip(sizes, states, strict=True)) for name in states[0]}
        model.load_state_dict(average)
    return model.state_dict()
