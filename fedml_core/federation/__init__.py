"""How clients and a server work together, without saying where either of them runs."""

from fedml_core.federation.aggregator import Aggregator, Folded, WeightedMean, aggregators, merge_metrics
from fedml_core.federation.algorithm import Algorithm, Composed, algorithms
from fedml_core.federation.client import Client, Mean, Replies, Reply, Task, Workspace, Wrapping, shapes, tasks
from fedml_core.federation.cohort import ClientValues, Cohort, Gathered, Spoken
from fedml_core.federation.dialogue import SERVER, Conversation, Dialogue, Letters, Post, Saying, ask
from fedml_core.federation.engine import ClientData, Engine, Session, Setup, engines
from fedml_core.federation.evaluate import CountExamples, Evaluate, verdict
from fedml_core.federation.full_gradient import FullGradient
from fedml_core.federation.gossip import FromOwn, Gossip, GossipLinks, GossipNode, gossip_links
from fedml_core.federation.local_update import Around, LocalSGD, LocalUpdate, Visits, local_updates, model_of
from fedml_core.federation.private_part import Private, PrivatePart, names_like, private_names
from fedml_core.federation.runner import ClientRunner
from fedml_core.federation.sampling import sample_clients
from fedml_core.federation.server_optimizer import SGD, Adagrad, Adam, ServerOptimizer, Yogi, server_optimizers
from fedml_core.federation.talks import Talks
from fedml_core.federation.wire import describe, restore

__all__ = [
    "SERVER",
    "SGD",
    "Adagrad",
    "Adam",
    "Aggregator",
    "Algorithm",
    "Around",
    "Client",
    "ClientData",
    "ClientRunner",
    "ClientValues",
    "Cohort",
    "Composed",
    "Conversation",
    "CountExamples",
    "Dialogue",
    "Engine",
    "Evaluate",
    "Folded",
    "FromOwn",
    "FullGradient",
    "Gathered",
    "Gossip",
    "GossipLinks",
    "GossipNode",
    "Letters",
    "LocalSGD",
    "LocalUpdate",
    "Mean",
    "Post",
    "Private",
    "PrivatePart",
    "Replies",
    "Reply",
    "Saying",
    "ServerOptimizer",
    "Session",
    "Setup",
    "Spoken",
    "Talks",
    "Task",
    "Visits",
    "WeightedMean",
    "Workspace",
    "Wrapping",
    "Yogi",
    "aggregators",
    "algorithms",
    "ask",
    "describe",
    "engines",
    "gossip_links",
    "local_updates",
    "merge_metrics",
    "model_of",
    "names_like",
    "private_names",
    "restore",
    "sample_clients",
    "server_optimizers",
    "shapes",
    "tasks",
    "verdict",
]
