"""Event-driven parties: handlers for messages, and a mailbox for the answers to what was asked."""

from fedml_core.worker.mailbox import Mailbox, Replies
from fedml_core.worker.worker import Worker

__all__ = ["Mailbox", "Replies", "Worker"]
