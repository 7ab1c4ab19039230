"""Turbo-Aggregate."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from fedml_api.algorithms.fedavg import ServerState
from fedml_core import tree
from fedml_core.errors import CommunicationError, ConfigError, RoundFailed
from fedml_core.federation import (
    SGD,
    Algorithm,
    Client,
    Cohort,
    Conversation,
    Dialogue,
    Evaluate,
    LocalSGD,
    LocalUpdate,
    Mean,
    Post,
    Reply,
    Saying,
    ServerOptimizer,
    Task,
    algorithms,
    ask,
    tasks,
)
from fedml_core.security import FixedPoint, PrimeField, additive_shares, coefficients, interpolate
from fedml_core.settings import settings
from fedml_core.trainer import ModelState
from fedml_core.tree import Tree

FIELD = PrimeField()
# Bytes of what a client and the server draw the client's own mask from.
SEED = 32
# In a sum of two, each of the two knows the other's part.
FEWEST = 3


@tree.node
class Hello:
    """What a client that has trained tells the server.

    Attributes:
        examples: how many it trained on; `metrics`: the names of what it measured.
        seed: uint8 `[32]`, from which the mask is drawn that the server will take off again.
    """

    examples: float
    metrics: list[str]
    seed: Tensor


@tree.node
class Seat:
    """A client's place on the ring.

    Attributes:
        before, after: the clients of the groups before and after its own, in the order of their points; nobody is before the first.
        last: those of the last group, at the clients of the first, who see to the final stage.
        parties: clients on the ring; `most`: the most examples that one of them has.
        leaves: whether the client is to drop out, after hearing from the group before.
    """

    before: list[str]
    after: list[str]
    last: list[str]
    parties: int
    most: float
    leaves: bool


@tree.node
class Parcel:
    """What a client sends to one of the next group.

    Attributes:
        entered: the clients whose updates are in the sum so far, those of its own group not yet.
        sums: int32 `[2, d]`, its own value of the polynomial of sums and the redundant one; None in the first group.
        shares: int32 `[2, d]`, the receiver's share of its own update and the redundant one.
    """

    entered: list[str]
    sums: Tensor | None
    shares: Tensor | None


def points(parties: int) -> tuple[range, range]:
    """The points of a group's clients, and those of the redundant values.

    Fewer than half of the clients must not have the mean at all first points among the combinations of what they see. Modulo
    2^31 - 1 that holds for every group of up to 12; of larger ones for all sets of clients but, as for points drawn at random, a
    share of about 2^-31.
    """
    return range(1, parties + 1), range(parties + 1, 2 * parties + 1)


def shares_of(field: PrimeField, masked: Tensor, parties: int, zero: Tensor | None = None) -> Tensor:
    """`[parties, 2, d]`: shares with `masked` `[d]` as their mean, and values of the polynomial through them at further points.

    Args:
        zero: `[parties, d]`, additive shares of zero, drawn anew if not given.
    """
    zero = additive_shares(field, torch.zeros_like(masked), parties) if zero is None else zero
    own, redundant = points(parties)
    shares = field.add(zero.to(masked.device), masked)
    return torch.stack([shares, interpolate(field, own, shares, redundant)], 1)


def recovered(field: PrimeField, group: Sequence[str], parcels: Mapping[str, Parcel]) -> tuple[list[str], Tensor]:
    """Who entered the sum that a group stands for, and that sum with its masks: the mean of a polynomial at the group's points.

    A group of n sends up to 2n values of a polynomial of degree n - 1: those of half of it will do. A client that was lost while
    it wrote may have reached only a part of the group, who then have different sums: those that most of them have count, and the
    others are as good as lost.

    Raises:
        CommunicationError: fewer than half of the group sent values that belong together.
    """
    versions = [tuple(parcel.entered) for parcel in parcels.values()]
    entered = max(versions, key=versions.count, default=())
    agreeing = [i for i, client in enumerate(group) if client in parcels and tuple(parcels[client].entered) == entered]
    if not agreeing or 2 * len(agreeing) < len(group):
        raise CommunicationError(
            f"the sum is lost: of the {len(group)} clients {', '.join(group)} only {len(agreeing)} got theirs through, "
            "at least half must. With larger groups (group_size) it is less likely that half of one is lost"
        )
    if not entered:
        return [], torch.zeros((), dtype=torch.int64)
    places, rows = points(len(group)), [parcels[group[i]].sums for i in agreeing]
    known = [(own[i], row[k]) for k, own in enumerate(places) for i, row in zip(agreeing, rows, strict=True)][: len(group)]
    values = torch.stack([value for _, value in known])
    weights = field.sum(coefficients(field, [point for point, _ in known], places[0]))
    weights = field.mul(weights, torch.tensor(pow(len(group), -1, field.modulus))).to(values.device)
    return list(entered), field.matmul(weights[None], values)[0]


def passed_on(field: PrimeField, group: Sequence[str], parcels: Mapping[str, Parcel]) -> tuple[list[str], Tensor | None]:
    """What a client makes of the parcels of the group before: who entered, and its two values `[2, d]` of the next polynomial."""
    if not group:
        return [], None
    entered, total = recovered(field, group, parcels)
    here = [client for client in group if client in parcels]
    shares = field.sum(torch.stack([parcels[client].shares for client in here]))
    return entered + here, field.add(shares, total).int()


def parcels_of(letters: Mapping[str, Tree], length: int, known: Collection[str] = ()) -> dict[str, Parcel]:
    """The letters that came, without those of clients that are gone.

    Args:
        length: of what is summed.
        known: at the server, who may have entered the sum; there parcels hold no shares.

    Raises:
        CommunicationError: a letter is not a parcel.
    """
    found: dict[str, Parcel] = {}
    for client, letter in letters.items():
        if letter is None:
            continue
        if not is_parcel(letter, length, final=bool(known)) or (known and not set(letter.entered) <= set(known)):
            raise CommunicationError(
                f"what client {client} sent is not a parcel of {length} elements modulo {FIELD.modulus}: "
                "let all parties run the same version, with the same network"
            )
        found[client] = letter
    return found


def are_names(names: object) -> bool:
    """Whether this, which somebody sent, is a list of different names."""
    return isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def is_seat(letter: Tree) -> bool:
    """Whether this, which the server sent, is a place on a ring where a client's update is hidden."""
    return (
        isinstance(letter, Seat)
        and all(are_names(names) for names in (letter.before, letter.after, letter.last))
        and isinstance(letter.parties, int)
        and isinstance(letter.most, float)
        and letter.parties >= len(letter.after) >= FEWEST
        and 0 <= letter.most < math.inf
    )


def is_hello(letter: Tree) -> bool:
    """Whether this, which a client sent, is a greeting."""
    return (
        isinstance(letter, Hello)
        and isinstance(letter.examples, float)
        and 0 <= letter.examples < math.inf
        and are_names(letter.metrics)
        and isinstance(letter.seed, Tensor)
        and letter.seed.dtype == torch.uint8
        and letter.seed.shape == (SEED,)
    )


def is_parcel(letter: Tree, length: int, final: bool) -> bool:
    """Whether this, which a client sent, is a parcel with vectors of this length; a `final` one is for the server."""
    return (
        isinstance(letter, Parcel)
        and are_names(letter.entered)
        and (FIELD.holds(letter.sums, (2, length)) if letter.entered else letter.sums is None and not final)
        and (letter.shares is None if final else FIELD.holds(letter.shares, (2, length)))
    )


@tasks.register("pass_on")
@settings
class PassOn(Dialogue):
    """Train, share the change among the next group, and pass on the sum that arrives from the group before.

    `shared` is the model. The client says `Hello` to the server and gets its `Seat`; a `Parcel` goes to every client of the group
    after. The reply of the first group's clients is a Parcel of the final sums, that of all others is empty.
    """

    local: LocalUpdate = LocalSGD()
    code: FixedPoint = FixedPoint()

    def talk(self, client: Client, shared: Tree, own: Tree = None) -> Saying:
        reply, seed = self.local(client, shared), os.urandom(SEED)
        if not isinstance(reply.value, ModelState):
            raise ConfigError(f"local = {type(self.local).__name__} replies with something else than a change of the model")
        seat: Seat = yield from ask(Hello(reply.weight, sorted(reply.metrics), torch.tensor(list(seed), dtype=torch.uint8)))
        if not is_seat(seat):
            raise CommunicationError(
                "what the server sent is no place on a ring, or one where the update would be shared among fewer than "
                f"{FEWEST} clients: let all parties run the same version"
            )
        nothing = Reply({}, reply.weight, {}, reply.state)

        letters = yield Post(wait=seat.before, lenient=True)
        if seat.leaves:
            return nothing
        update = self.code.encode(FIELD, numbers(reply, seat.most), seat.parties, client.rng("rounding"))
        masked = FIELD.add(update, FIELD.expand(seed, len(update)).to(update.device))
        entered, sums = passed_on(FIELD, seat.before, parcels_of(letters, len(update)))
        shares = shares_of(FIELD, masked, len(seat.after)).int()
        parcels = {other: Parcel(entered, sums, share) for other, share in zip(seat.after, shares, strict=True)}
        letters = yield Post(parcels, wait=seat.last, lenient=True)
        if not seat.last:
            return nothing
        entered, sums = passed_on(FIELD, seat.last, parcels_of(letters, len(update)))
        return Reply(Parcel(entered, sums, None), reply.weight, {}, reply.state)

    def objection_to_letter(self, letter: Tree, shared: Tree) -> str | None:
        return None if is_hello(letter) else "is no greeting"

    def objection(self, value: Tree, shared: Tree) -> str | None:
        if isinstance(value, Parcel):  # there are as many numbers as in the model, and some metrics
            length = value.sums.shape[-1] if isinstance(value.sums, Tensor) and value.sums.dim() else 0
            sound = length >= tree.count(shared) and is_parcel(value, length, final=True)
        else:
            sound = isinstance(value, dict) and not value
        return None if sound else "is neither empty nor a sum"


def numbers(reply: Reply, most: float) -> Tensor:
    """What is summed of a client, float64 `[d]`: its change and the means of its metrics, times its examples / `most`."""
    weight = reply.weight / most if most else 0.0
    change = [part.flatten().double() for part in tree.tensors(reply.value)]
    means = [reply.metrics[name].value if reply.metrics[name].count else 0.0 for name in sorted(reply.metrics)]
    return weight * torch.cat([*change, torch.tensor(means, dtype=torch.float64, device=change[0].device)])


@algorithms.register("turboaggregate")
@settings
class TurboAggregate(Algorithm):
    """FedAvg of which the server sees only the sum. So, Guler and Avestimehr, 2020 (arXiv 2002.04156), Algorithm 1.

    N clients are dealt into groups around a ring. Client i rounds what it adds to the sum to x_i in a prime field, masks it with
    u_i, which the server can take off again, and shares it among the n clients j of the next group, with redundancy:

        x~_ij = x_i + u_i + r_ij,  sum_j r_ij = 0          s~_j = S + sum_i x~_ij          at the points a_j
        x-_ij = f_i(b_j),  f_i(a_j) = x~_ij                s-_j = S + sum_i x-_ij          at further points b_j

    f_i is the polynomial of degree n - 1 through client i's shares, the sums go over those of the group before who are there, and
    S = mean_i s~_i is what that group passes on. All s~_j and s-_j are 2n values of one such polynomial: what half of a group
    sends gives its S. The first group takes the sums of the last one as well, and replies with its own to the server, which
    recovers S = sum_i (x_i + u_i), takes the masks of those who entered off it, and makes a step of

        D = sum_k n_k (w_k - w) / sum_k n_k          over those who entered: FedAvg, but for rounding

    Who entered: everyone who has written to the next group. Who is lost before that does not count; who is lost later does, and
    what it had to pass on is recovered. Who is lost while it writes may have reached a part of that group only, and has entered if
    that is most of it. (If it is exactly half, the group has two sums, which give this one update away to the server: groups of odd
    size are safe from that.)
    Who is lost while it trains has no place on the ring. If more than half of a group is lost, so is the sum: an error, after which
    an engine with devices tries the round again.

    Who sees what. A client: uniform numbers, independent of all updates, even together with all other clients (the next model
    aside); and the most examples that one client has. The server: the sum, who entered it, and how many examples each client
    has. The server together with clients, fewer than half of each group: the sums of groups, but no single update. All of
    them are taken to follow the protocol, and letters between clients to be private, which is up to the engine's connections:
    nothing is encrypted here. With the paper's groups of ln N / D(1/2, p) clients both bounds hold with high probability if a
    fraction p of all clients is lost, or colludes.

    Masks come from the operating system's generator. The sum does not depend on them: the bits of a run can be repeated.

    Args:
        group_size: of the smallest group; if not given 2 ln N, the paper's size for p = 0.1.
        bits, rounding: of the numbers that are summed, see `FixedPoint`.
        dropout: for experiments, the share of each group (rounded down) that leaves at the worst moment: after hearing from the
            group before, without a word to the next.
    """

    group_size: Annotated[int, Meta(ge=3)] | None = None
    bits: Annotated[int, Meta(ge=0, le=29)] = 16
    rounding: Literal["nearest", "stochastic"] = "stochastic"
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    local: LocalUpdate = LocalSGD()
    server: ServerOptimizer = SGD()

    def init(self, model: ModelState) -> ServerState:
        return ServerState(model, self.server.init(model))

    def round(self, state: ServerState, cohort: Cohort) -> tuple[ServerState, dict[str, Mean]]:
        code = FixedPoint(self.bits, self.rounding)
        with cohort.converse(PassOn(self.local, code), shared=state.model) as conversation:
            said = greetings(conversation)
            if len(said) < FEWEST:
                problem = f"a sum over {len(said)} clients hides nobody: let clients_per_round be at least {FEWEST}"
                raise RoundFailed(problem) if conversation.lost else ConfigError(problem)
            groups = self.deal(list(said), cohort.server)
            conversation.say(self.seats(groups, said, cohort.server))
            replies = conversation.replies().gather()
        final = {client: replies[client].value or None for client in groups[0] if client in replies}
        try:
            entered, total = recovered(FIELD, groups[0], parcels_of(final, length_of(state.model, said), known=said))
        except CommunicationError as error:
            if conversation.lost:  # others may be there when it is tried again
                raise RoundFailed(f"round {cohort.round + 1}: {error}") from error
            raise
        change, metrics = unmasked(code, state.model, {client: said[client] for client in entered}, most(said), total)
        model, optimizer = self.server.step(state.model, change, state.optimizer, cohort.round)
        return ServerState(model, optimizer), metrics | {"entered": Mean(len(entered), len(said))}

    def deal(self, clients: Sequence[str], server: Client) -> list[list[str]]:
        """The groups, in the order of the ring, with a draw of this round."""
        size = self.group_size or max(FEWEST, math.ceil(2 * math.log(len(clients))))
        order = [clients[i] for i in server.rng("groups").permutation(len(clients))]
        count = max(1, len(order) // size)
        return [order[i::count] for i in range(count)]

    def seats(self, groups: Sequence[list[str]], said: Mapping[str, Hello], server: Client) -> dict[str, Seat]:
        """Everyone's place on the ring."""
        found, draw = {}, server.rng("dropout")
        for i, group in enumerate(groups):
            leaving = draw.permutation(len(group))[: int(self.dropout * len(group))]
            before, after, last = groups[i - 1] if i else [], groups[(i + 1) % len(groups)], [] if i else groups[-1]
            for k, client in enumerate(group):
                found[client] = Seat(before, after, last, len(said), most(said), k in leaving)
        return found

    def judge(self) -> Task:
        return Evaluate(of=self.local)


def greetings(conversation: Conversation) -> dict[str, Hello]:
    """What clients say at first, without those that say something else, or have not measured what most have: they are dismissed.

    Raises:
        CommunicationError: there is one, and none may be lost.
    """
    letters = conversation.hear()
    measured = [tuple(letter.metrics) for letter in letters.values() if is_hello(letter)]
    usual = max(measured, key=measured.count, default=())
    found: dict[str, Hello] = {}
    for client, letter in letters.items():
        if is_hello(letter) and tuple(letter.metrics) == usual:
            found[client] = letter
        else:
            conversation.dismiss(
                client,
                "it does not say how many examples it has, the metrics that the others have, and a seed: "
                "let all parties run the same version, with the same trainer",
            )
    return found


def most(said: Mapping[str, Hello]) -> float:
    """The examples of the client that has the most."""
    return max(hello.examples for hello in said.values())


def length_of(model: ModelState, said: Mapping[str, Hello]) -> int:
    """How many numbers a client adds to the sum, see `numbers`."""
    return tree.count(model) + len(next(iter(said.values())).metrics)


def unmasked(
    code: FixedPoint, model: ModelState, entered: Mapping[str, Hello], most: float, total: Tensor
) -> tuple[ModelState, dict[str, Mean]]:
    """The mean change, of the shape of `model`, and the mean metrics of the clients that entered."""
    for hello in entered.values():
        total = FIELD.sub(total, FIELD.expand(bytes(hello.seed.tolist()), len(total)).to(total.device))
    examples = sum(hello.examples for hello in entered.values())
    mean = code.decode(FIELD, total) * (most / examples if examples else 0.0)
    sizes = [part.numel() for part in tree.tensors(model)]
    parts = iter(mean.split([*sizes, len(mean) - sum(sizes)]))
    change = tree.map_tensors(lambda old: next(parts).view_as(old).to(old.dtype), model)
    names = next(iter(entered.values())).metrics
    return change, {name: Mean(value * examples, examples) for name, value in zip(names, next(parts).tolist(), strict=True)}
