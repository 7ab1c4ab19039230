"""Algorithm 1 of FedGKT (He, Annavaram and Avestimehr, NeurIPS 2020) in plain PyTorch: own loops, torch's optimizers and its KL.

What the paper leaves to chance, the sampled clients and the orders of examples, is handed in.
"""

import torch
import torch.nn.functional as F


def knowledge_distillation(student, teacher, temperature):
    wanted = F.softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(F.log_softmax(student / temperature, dim=1), wanted, reduction="batchmean")


def train(model, optimizer, x, y, teacher, orders, batch_size, alpha, temperature):
    """Passes over `x`, `y` and the teacher's logits (None: cross entropy only), one for each order."""
    model.train()
    for order in orders:
        for rows in order.split(batch_size):
            optimizer.zero_grad()
            logits = model(x[rows])
            loss = F.cross_entropy(logits, y[rows])
            if teacher is not None:
                loss = loss + alpha * knowledge_distillation(logits, teacher[rows], temperature)
            loss.backward()
            optimizer.step()
    model.eval()


def fedgkt(edges, server, rounds, clients_of_round, data, orders_of, batch_size, alpha, server_alpha, temperature, **sgd):
    """Trains `edges` (by client, each an extractor and a classifier in sequence) and `server` in place; its logits by client."""
    optimizers = {client: torch.optim.SGD(edge.parameters(), **sgd) for client, edge in edges.items()}
    at_server = torch.optim.SGD(server.parameters(), **sgd)
    said = dict.fromkeys(edges)
    for round in range(rounds):
        features, logits, labels = [], [], []
        for client in clients_of_round(round):
            (x, y), edge = data(client), edges[client]
            orders = orders_of(round, client, len(x))
            train(edge, optimizers[client], x, y, said[client], orders, batch_size, alpha, temperature)
            with torch.no_grad():
                features.append(edge[0](x))
                logits.append(edge[1](features[-1]))
                labels.append(y)
        h, z, y = torch.cat(features), torch.cat(logits), torch.cat(labels)
        train(server, at_server, h, y, z, orders_of(round, "server", len(h)), batch_size, server_alpha, temperature)
        with torch.no_grad():
            for client, answer in zip(clients_of_round(round), server(h).split([len(part) for part in features]), strict=True):
                said[client] = answer
    return said
