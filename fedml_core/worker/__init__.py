"""Event-driven parties: handlers for messages, and a mailbox for the answers to what was asked."""

from fedml_core.worker.mailbox import Inquiry, Mailbox, Outcome, Question, Replies
from fedml_core.worker.worker import Worker

__all__ = ["Inquiry", "Mailbox", "Outcome", "Question", "Replies", "Worker"]
